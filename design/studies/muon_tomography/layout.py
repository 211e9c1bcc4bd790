"""What is optimised: panels above and below a volume, and what they see of a muon."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffhep.detector.panels import Panel, Telescope
from diffhep.events import Events
from diffhep.parameters import Param
from diffhep.reconstruction.scattering_tomography import Line, Scatter, fit_line, scatter
from diffhep.units import m

JITTER = 10.0  # default width of the sideways jitter [mm]: moves the error by about one per cent, 30 mm by eight
BLEND = 0.05  # of the jitter: where edges of two panels limit a muon alike
COORDINATES = ("x", "y", "z", "span_x", "span_y")


class Layout(eqx.Module):
    """Two telescopes.

    Attributes:
        upper, lower: panels above and below the volume.
    """

    upper: Telescope
    lower: Telescope

    def cost(self, price: float = 1.0) -> Float[Array, ""]:
        """Cost of all panels, in units of `price` a square metre."""
        return price * (self.upper.area() + self.lower.area())


def layout_of(
    upper: Sequence[Sequence[float]],
    lower: Sequence[Sequence[float]],
    *,
    bounds: dict[str, tuple[float, float]],
    held: tuple[str, ...] = (),
    resolution: float = 0.1,
    efficiency: float = 0.9,
) -> Layout:
    """A layout of Params.

    Args:
        upper: x, y, z, span_x and span_y of every panel above the volume [mm].
        lower: the same below it.
        bounds: of `x`, `y`, `span_x`, `span_y`, `upper` and `lower` (heights) [mm].
        held: coordinates that stay as they are, for example ("x", "y").
        resolution: of a hit [mm].
        efficiency: of a panel.

    Raises:
        ValueError: a panel without five numbers, an unknown coordinate to hold, or a number outside its bounds.
    """
    if unknown := [name for name in held if name not in COORDINATES]:
        msg = f"held: no coordinate of a panel is called {unknown[0]!r}; there are {', '.join(COORDINATES)}"
        raise ValueError(msg)

    def telescope(side: str, panels: Sequence[Sequence[float]]) -> Telescope:
        made = []
        for number, panel in enumerate(panels):
            if len(panel) != len(COORDINATES):
                msg = f"{side}[{number}]: a panel is {', '.join(COORDINATES)} [mm], got {list(panel)}"
                raise ValueError(msg)
            params = {
                name: Param(
                    value,
                    unit="mm",
                    role="geometry",
                    bounds=bounds[side if name == "z" else name],
                    frozen=name in held,
                )
                for name, value in zip(COORDINATES, panel, strict=True)
            }
            made.append(Panel(**params, resolution=resolution, efficiency=efficiency))
        return Telescope(tuple(made))

    return Layout(telescope("upper", upper), telescope("lower", lower))


def numbers_of(layout: Layout) -> dict[str, list[list[float]]]:
    """x, y, z, span_x and span_y of every panel [m], as another program reads them."""

    def number(value: object) -> float:
        return float(value.unwrap() if isinstance(value, Param) else value) / m  # type: ignore[arg-type]

    return {
        side: [[number(getattr(p, name)) for name in COORDINATES] for p in telescope.panels]
        for side, telescope in (("upper", layout.upper), ("lower", layout.lower))
    }


def observe(
    layout: Layout,
    incoming: Events,
    outgoing: Events,
    heights: tuple[float, float],
    noise: Float[Array, "side 2 event panel"],
    *,
    jitter: float | None,
) -> tuple[Scatter, Float[Array, " event"]]:
    """Scattering as measured, and the weight of every muon: acceptance of all panels times efficiency.

    Args:
        layout: with Params resolved.
        incoming: straight muons above the volume.
        outgoing: the same muons below it.
        heights: where their `x` and `y` are [mm].
        noise: unit normals, one for each coordinate of each hit.
        jitter: see `diffhep.detector.panels`; None for hard edges.
    """
    blend = 0.0 if jitter is None else BLEND * jitter
    lines: list[Line] = []
    shifts = []
    for telescope, muons, height, errors in zip(
        (layout.upper, layout.lower), (incoming, outgoing), heights, noise, strict=True
    ):
        crossings = telescope.crossings(muons, height)
        shifts.append(telescope.shifts(crossings, blend=blend))
        quality = (telescope.values("efficiency") / telescope.values("resolution")) ** 2
        line = fit_line(telescope.values("z"), telescope.hits(crossings, errors), quality)
        lines.append(eqx.tree_at(*measured_variances(telescope, quality, line)))
    accepted = shifts[0].meet(shifts[1], blend=blend).acceptance(jitter)
    return scatter(*lines), accepted * layout.upper.efficiency() * layout.lower.efficiency()


def measured_variances(telescope: Telescope, weight: Array, line: Line) -> tuple:
    """Arguments of `tree_at`: the variances that hits of the true resolution give under other weights."""
    z, spread = telescope.values("z"), telescope.values("resolution") ** 2
    arm = weight * (z - line.height) * line.slope_variance
    found = (jnp.sum((weight * line.position_variance) ** 2 * spread), jnp.sum(arm**2 * spread))
    return (lambda x: (x.position_variance, x.slope_variance)), line, found
