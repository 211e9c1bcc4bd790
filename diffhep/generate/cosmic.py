r"""Cosmic-ray muons at the surface: directions, momenta and where they start.

The flux through a horizontal plane falls with the zenith angle as $I(\theta) = I_0\cos^2\theta$ per area perpendicular
to the muon and solid angle, so that a muon found on the plane has the density
$f(\theta)\propto\cos^3\theta\sin\theta$ (PDG Review, Cosmic rays). Momenta are either fixed or follow
$(E_0 + p)^{-n}$ (Shukla and Sankrith, arXiv:1606.06907: $n = 3.01$, $E_0 = 4.29$ GeV at sea level).

Muons are drawn with NumPy and once: what a design is compared on has to stay the same, and the rejection of muons that
miss the volume has no fixed shape.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from diffhep.events import Events

STEEPEST = float(np.deg2rad(70.0))  # the cos^2 law holds up to about here
PATIENCE = 1000  # rounds of rejection before a box is said to be out of reach


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Muon momenta that fall as (offset + p)^-index between two limits.

    Attributes:
        index: n, above 1.
        offset: E_0 [GeV].
        low, high: limits of the momentum [GeV].
    """

    index: float = 3.01
    offset: float = 4.29
    low: float = 0.5
    high: float = 500.0

    def __post_init__(self):
        if not (0 < self.low < self.high and self.index > 1 and self.offset >= 0):
            msg = f"spectrum: wanted 0 < low < high, index > 1 and offset >= 0, got {self}"
            raise ValueError(msg)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Momentum below which a fraction u of the muons lies [GeV].

        >>> Spectrum().quantile(np.array([0.0, 1.0])).round(9).tolist()
        [0.5, 500.0]
        """
        power = 1 - self.index
        ends = np.array([self.low + self.offset, self.high + self.offset]) ** power
        return (ends[0] + u * (ends[1] - ends[0])) ** (1 / power) - self.offset


def cosmic_muons(
    count: int,
    *,
    seed: int,
    height: float,
    area: tuple[tuple[float, float], tuple[float, float]],
    momentum: float | Spectrum = 5.0,
    box: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] | None = None,
    steepest: float = STEEPEST,
) -> Events:
    """Muons on a horizontal plane.

    Args:
        count: number of muons.
        seed: of the random numbers.
        height: z of the plane [mm].
        area: limits in x and in y within which they start, uniformly [mm].
        momentum: one for all [GeV], or a spectrum.
        box: limits in x, y and z [mm]; muons whose straight path misses it are drawn again.
        steepest: largest zenith angle [rad].

    Returns:
        Events with `x`, `y` [mm] on the plane, `slope_x`, `slope_y` (dx/dz and dy/dz) and `momentum` [GeV], all
        (event,); every weight is 1.

    Raises:
        ValueError: a count or limits that make no sense, or a box that muons from the area do not reach.

    >>> muons = cosmic_muons(1000, seed=1, height=0.0, area=((0.0, 1.0), (0.0, 1.0)))
    >>> cosine = 1 / jnp.sqrt(1 + muons["slope_x"] ** 2 + muons["slope_y"] ** 2)
    >>> abs(float(jnp.mean(cosine)) - 0.8) < 0.02
    True
    """
    if count < 1:
        msg = f"count: at least one muon is wanted, got {count}"
        raise ValueError(msg)
    if not 0 < steepest < np.pi / 2:
        msg = f"steepest: an angle between 0 and pi/2 is wanted, got {steepest} rad"
        raise ValueError(msg)
    for name, limits in zip("xyxyz", [*area, *(box or ())], strict=False):
        if not limits[0] < limits[1]:
            msg = f"{name}: limits must increase, got {limits} mm"
            raise ValueError(msg)
    if isinstance(momentum, int | float) and not momentum > 0:
        msg = f"momentum must be positive, got {momentum} GeV"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    found = 0
    for _ in range(PATIENCE):
        drawn = draw(max(count - found, 100) * 2, rng, area, momentum, steepest)
        drawn = drawn if box is None else drawn[:, reaches(drawn, height, box)]
        kept.append(drawn)
        found += drawn.shape[1]
        if found >= count:
            break
    else:
        msg = f"box: of {PATIENCE * 2 * count} muons from the area {area} mm only {found} reach {box} mm"
        raise ValueError(msg)
    x, y, slope_x, slope_y, p = jnp.asarray(np.concatenate(kept, axis=1)[:, :count])
    fields = {"x": x, "y": y, "slope_x": slope_x, "slope_y": slope_y, "momentum": p}
    return Events(fields, jnp.ones((count, 1), bool), jnp.ones(count))


def draw(count: int, rng: np.random.Generator, area: tuple, momentum: float | Spectrum, steepest: float) -> np.ndarray:
    """Rows x, y, slope_x, slope_y and momentum of some muons."""
    x, y = (rng.uniform(low, high, count) for low, high in area)
    # cos^3 sin integrates to a quarter of cos^4
    cosine = (1 - rng.uniform(size=count) * (1 - np.cos(steepest) ** 4)) ** 0.25
    slope = np.sqrt(1 / cosine**2 - 1)
    phi = rng.uniform(-np.pi, np.pi, count)
    u = rng.uniform(size=count)
    p = momentum.quantile(u) if isinstance(momentum, Spectrum) else np.full(count, float(momentum))
    return np.stack([x, y, slope * np.cos(phi), slope * np.sin(phi), p])


def reaches(drawn: np.ndarray, height: float, box: tuple) -> np.ndarray:
    """Whether straight paths meet a box."""
    x, y, slope_x, slope_y, _ = drawn
    enter, leave = np.full(x.size, box[2][0]), np.full(x.size, box[2][1])
    for start, slope, (low, high) in ((x, slope_x, box[0]), (y, slope_y, box[1])):
        safe = np.where(np.abs(slope) < 1e-300, 1e-300, slope)
        ends = np.sort([height + (low - start) / safe, height + (high - start) / safe], axis=0)
        enter, leave = np.maximum(enter, ends[0]), np.minimum(leave, ends[1])
    return enter < leave
