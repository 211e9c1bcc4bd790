"""Cheetah, in a process and an environment of its own (`cheetah.txt`): the beam-line peer.

Started with the Python of that environment as `python -m tests.benchmark.cheetah_peer`; answers, on one thread, as
`tests.benchmark.answers` says. Strengths, lengths and the beam are those of `CELLS`, which our side of the comparison
imports too. Lengths here are in mm and 1/mm^2, Cheetah's in m.

- `quadrupoles gradient`: variance of x behind 16 quadrupoles and drifts, from the covariance of the beam, then its
  derivative with respect to every k [mm^2, mm^4];
- `quadrupoles forward`: the variance alone;
- `quadrupoles particles`: the same gradient from 100,000 particles that are drawn once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.benchmark.answers import serve


class Cells(NamedTuple):
    """A line of alternating quadrupoles, each followed by a drift.

    Attributes:
        quadrupoles: how many.
        strength: of the first [1/mm^2]; the others alternate in sign and grow by `growth` each.
        growth: of the strength, relative.
        length: of a quadrupole [mm].
        drift: [mm].
        width: rms of x and of y at the begin [mm].
        angle: rms of x' and of y' there.
    """

    quadrupoles: int = 16
    strength: float = 1.2e-6
    growth: float = 0.01
    length: float = 200.0
    drift: float = 500.0
    width: float = 0.2
    angle: float = 1e-4

    def strengths(self) -> list[float]:
        """k of each quadrupole [1/mm^2]."""
        return [(-1) ** i * self.strength * (1 + self.growth * i) for i in range(self.quadrupoles)]


CELLS = Cells()
METRE = 1000.0
ENERGY = 5e9  # eV: so large that the six-dimensional maps are those of the two planes


class Line:
    """The line and the beam in Cheetah's terms."""

    def __init__(self, cells: Cells):
        import cheetah  # not there in our own environment
        import torch

        self.torch, number = torch, lambda x: torch.tensor(x, dtype=torch.float64)
        self.k = torch.tensor([k * METRE**2 for k in cells.strengths()], dtype=torch.float64, requires_grad=True)
        self.magnets = [
            cheetah.Quadrupole(length=number(cells.length / METRE), dtype=torch.float64)
            for _ in range(cells.quadrupoles)
        ]
        drifts = [
            cheetah.Drift(length=number(cells.drift / METRE), dtype=torch.float64) for _ in range(cells.quadrupoles)
        ]
        self.segment = cheetah.Segment([element for pair in zip(self.magnets, drifts, strict=True) for element in pair])
        size, angle = number(cells.width / METRE), number(cells.angle)
        moments = {"sigma_x": size, "sigma_y": size, "sigma_px": angle, "sigma_py": angle, "energy": number(ENERGY)}
        self.beam = cheetah.ParameterBeam.from_parameters(**moments, dtype=torch.float64)
        self.particles = cheetah.ParticleBeam.from_parameters(num_particles=100_000, **moments, dtype=torch.float64)

    def variance(self, beam: Any) -> Any:
        """Variance of x at the end [m^2]."""
        for magnet, k in zip(self.magnets, self.k, strict=True):
            magnet.k1 = k
        return self.segment.track(beam).sigma_x ** 2

    def forward(self) -> list[float]:
        """The variance [mm^2]."""
        with self.torch.no_grad():
            return [float(self.variance(self.beam)) * METRE**2]

    def gradient(self, beam: Any) -> list[float]:
        """The variance [mm^2] and its derivatives with respect to k [mm^4]."""
        self.k.grad = None
        variance = self.variance(beam)
        variance.backward()
        return [float(variance.detach()) * METRE**2, *(self.k.grad * METRE**4).tolist()]


def tasks() -> dict[str, Callable[[], list[float]]]:
    """Every task by name."""
    line = Line(CELLS)
    return {
        "quadrupoles gradient": lambda: line.gradient(line.beam),
        "quadrupoles forward": line.forward,
        "quadrupoles particles": lambda: line.gradient(line.particles),
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    serve(tasks(), list)


if __name__ == "__main__":
    main()
