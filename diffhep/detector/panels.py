r"""Tracking panels: flat rectangles that measure where a muon crosses them, and decide with hard edges whether it does.

**Edges.** A muon is either inside a panel or not, and the derivative of that is zero almost everywhere: what changes
the number of accepted muons is the flux through the edges. Muons that arrive uniformly over some area may be shifted as
a whole, so every simulated muon can stand for itself *jittered* by a centimetre sideways, incoming and outgoing
path alike. All panels together leave it a rectangle of shifts, $(a, b)$ in each direction, and the muon counts with the
part of the jitter's distribution that lies inside,

$$A = \prod_{x,y} \max(0, F(b/w) - F(a/w)).$$

F is the cumulative distribution of the jitter, w its width. That is an exact average over muons of hard acceptances,
not a soft panel: its expectation equals the hard one for any w where the density of (weighted) muons is linear across
the jitter, its error is of second order in w otherwise, and its derivative is the flux through the edges, with a
variance that falls with w. Products over panels of soft edges would not do: two edges on top of each other would count
twice. `jitter=None` is the hard decision, for the check at the end; no other code differs.

**Slopes.** A straight line fitted to hits of resolution $\sigma$ at the heights $z_i$ has the slope variance
$\sigma^2/\sum_i (z_i - \bar z)^2$, smallest with half of the panels at each end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import erf
from jaxtyping import Array, Float

from diffhep.events import Events
from diffhep.parameters import Scalar
from diffhep.units import m

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


class Panel(eqx.Module):
    """One panel, horizontal, with its sides along x and y.

    Attributes:
        x, y, z: of its centre [mm].
        span_x, span_y: full widths [mm].
        resolution: of a hit, in x and in y [mm].
        efficiency: probability that a muon inside leaves a hit.
    """

    x: Scalar
    y: Scalar
    z: Scalar
    span_x: Scalar
    span_y: Scalar
    resolution: float = 0.1
    efficiency: float = 0.9

    def __check_init__(self):
        for name in ("span_x", "span_y", "resolution"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                msg = f"panel: {name} must be positive, got {value} mm"
                raise ValueError(msg)
        if isinstance(self.efficiency, int | float) and not 0 < self.efficiency <= 1:
            msg = f"panel: efficiency must be above 0 and at most 1, got {self.efficiency}"
            raise ValueError(msg)


class Shifts(NamedTuple):
    """By how much each muon can be moved in x and in y and still cross every panel, (2, event) [mm]."""

    low: Float[Array, "2 event"]
    high: Float[Array, "2 event"]

    def meet(self, other: "Shifts", *, blend: float = 0.0) -> "Shifts":
        """Shifts that two sets of panels allow; see `Telescope.shifts` for the blend."""
        return Shifts(
            largest(jnp.stack([self.low, other.low], axis=-1), blend),
            -largest(jnp.stack([-self.high, -other.high], axis=-1), blend),
        )

    def acceptance(self, jitter: float | Float[Array, ""] | None) -> Float[Array, " event"]:
        """Share of the jitter inside all panels, a Gaussian of the given width [mm]; None is the hard decision.

        >>> shifts = Shifts(jnp.array([[-1.0], [-9.0]]), jnp.array([[0.0], [9.0]]))
        >>> round(float(shifts.acceptance(1.0)[0]), 6), float(shifts.acceptance(None)[0])
        (0.341345, 0.0)
        """
        if jitter is None:
            # as a rectangle that is closed below and open above
            inside = jnp.all((self.low <= 0) & (self.high > 0), axis=0)
            return jax.lax.stop_gradient(inside.astype(self.low.dtype))
        if isinstance(jitter, int | float) and not jitter > 0:
            msg = f"jitter: a positive width is wanted, or None for hard edges, got {jitter} mm"
            raise ValueError(msg)
        share = 0.5 * (erf(self.high / (jitter * np.sqrt(2.0))) - erf(self.low / (jitter * np.sqrt(2.0))))
        return jnp.prod(jnp.maximum(share, 0.0), axis=0)


class Telescope(eqx.Module):
    """Panels on one side of the volume, at least two.

    Attributes:
        panels: in any order.
    """

    panels: tuple[Panel, ...]

    def __check_init__(self):
        if isinstance(self.panels, tuple) and len(self.panels) < 2:
            msg = f"a telescope wants at least two panels to measure a direction, got {len(self.panels)}"
            raise ValueError(msg)
        heights = [p.z for p in self.panels if isinstance(p.z, int | float)]
        if len(heights) == len(self.panels) and len({*heights}) < 2:
            msg = f"a telescope wants panels at two different heights, got all at {heights[0]} mm"
            raise ValueError(msg)

    def values(self, name: str) -> Float[Array, " panel"]:
        """One number of each panel, for example its `z`."""
        return jnp.stack([jnp.asarray(getattr(p, name), dtype=float) for p in self.panels])

    def crossings(self, muons: Events, height: float) -> Float[Array, "2 event panel"]:
        """Where straight muons cross the planes of the panels, in x and y [mm].

        Args:
            muons: with `x`, `y` [mm] at some height, `slope_x` and `slope_y`.
            height: that height [mm].
        """
        start = jnp.stack([muons["x"], muons["y"]])[..., None]
        slope = jnp.stack([muons["slope_x"], muons["slope_y"]])[..., None]
        return start + slope * (self.values("z") - height)

    def shifts(self, crossings: Float[Array, "2 event panel"], *, blend: float = 0.0) -> Shifts:
        """By how much each muon can be moved and still cross all panels.

        Args:
            crossings: from `crossings`.
            blend: where the edges of two panels limit a muon alike to within this length, the innermost one is taken
                smoothly: at most `blend` times ln(panels) further in [mm]. 0 is exact, and has a kink there.
        """
        centre = jnp.stack([self.values("x"), self.values("y")])[:, None, :]
        half = jnp.stack([self.values("span_x"), self.values("span_y")])[:, None, :] / 2
        return Shifts(
            largest(centre - half - crossings, blend),
            -largest(crossings - centre - half, blend),
        )

    def hits(
        self, crossings: Float[Array, "2 event panel"], noise: Float[Array, "2 event panel"]
    ) -> Float[Array, "2 event panel"]:
        """Measured positions [mm], for given unit normals."""
        return crossings + self.values("resolution") * noise

    def efficiency(self) -> Float[Array, ""]:
        """Probability that at least two panels see a muon that crosses all: two hits make a direction."""
        seen = self.values("efficiency")
        none = jnp.prod(1 - seen)
        others = [jnp.prod(jnp.delete(1 - seen, i)) for i in range(len(self.panels))]
        return 1 - none - jnp.sum(seen * jnp.stack(others))

    def area(self) -> Float[Array, ""]:
        """Sum of the areas of all panels [m^2]."""
        return jnp.sum(self.values("span_x") * self.values("span_y")) / m**2


def largest(x: Float[Array, "*shape panel"], blend: float) -> Float[Array, "*shape"]:
    """Largest number along the last axis, smooth at the scale of the blend."""
    if blend == 0:
        return jnp.max(x, axis=-1)
    return blend * jax.scipy.special.logsumexp(x / blend, axis=-1)


def slope_variance(z: Float[Array, " panel"], resolution: float | Float[Array, " panel"]) -> Float[Array, ""]:
    r"""Variance of the slope of a straight line through hits at some heights.

    $1/\sum_i w_i (z_i - \bar z)^2$ with $w_i = 1/\sigma_i^2$ and the mean taken with these weights.

    Args:
        z: heights [mm].
        resolution: of the hits [mm], one for all or one each.

    Raises:
        ValueError: fewer than two heights, or all equal (concrete ones only).

    >>> round(float(slope_variance(jnp.array([0.0, 0.0, 100.0, 100.0]), 0.1)), 12)
    1e-06
    """
    if jnp.size(z) < 2 or (not isinstance(z, Tracer) and np.ptp(np.asarray(z)) == 0):
        msg = f"a slope wants hits at two different heights, got {np.asarray(z).tolist()} mm"
        raise ValueError(msg)
    weight = jnp.ones_like(z) / resolution**2
    mean = jnp.sum(weight * z) / jnp.sum(weight)
    return 1 / jnp.sum(weight * (z - mean) ** 2)


def pair_acceptance(width: float, depth: float, distance: float) -> float:
    r"""Geometric factor of two equal, aligned, parallel rectangles for a flux that falls with the cosine squared.

    The rate is $I_0 G$ with $G = \int\!\int h^4/d^6\,dA\,dA = 4\int_0^a\!\int_0^b
    (a-u)(b-v)\,h^4/(u^2+v^2+h^2)^3\,du\,dv$. The integral over v is done in closed form, that over the angle
    $\arctan(u/h)$ by 64-point Gauss-Legendre quadrature: right to 1e-12.

    Args:
        width: a, one side of both rectangles [mm].
        depth: b, the other [mm].
        distance: h between their planes [mm].

    Returns:
        [mm^2 sr].

    Raises:
        ValueError: a length that is not positive.

    >>> round(pair_acceptance(1000.0, 1000.0, 1000.0) / 1e6, 6)
    0.520231
    """
    for name, value in (("width", width), ("depth", depth), ("distance", distance)):
        if not value > 0:
            msg = f"{name} must be positive, got {value} mm"
            raise ValueError(msg)
    a, b, h = float(width), float(depth), float(distance)
    steepest = np.arctan(a / h)
    angle = steepest * (NODES + 1) / 2
    u, c = h * np.tan(angle), h / np.cos(angle)
    square = b**2 + c**2
    inner = b * (b / (4 * c**2 * square**2) + 3 * b / (8 * c**4 * square) + 3 * np.arctan(b / c) / (8 * c**5))
    inner -= (1 / c**4 - 1 / square**2) / 4
    jacobian = h / np.cos(angle) ** 2
    return float(4 * np.sum(WEIGHTS * steepest / 2 * (a - u) * inner * h**4 * jacobian))


def panel_stack(heights: Sequence[float], **common: float) -> Telescope:
    """Panels that differ in height only.

    >>> panels = panel_stack([0.0, 50.0], x=500.0, y=500.0, span_x=1000.0, span_y=800.0)
    >>> round(float(panels.area()), 6)
    1.6
    """
    return Telescope(tuple(Panel(z=z, **common) for z in heights))
