r"""Timing layer: particles told apart by their time of flight to a cylinder.

Two particles of one momentum p and masses m, m' arrive at a radius R with the difference
$\Delta t = \frac{R}{c}(\sqrt{1 + (m/p)^2} - \sqrt{1 + (m'/p)^2})$ (straight flight at $\eta = 0$). A larger radius
gives more time, but costs area, and with it resolution at a fixed budget: $\sigma_t^2 = s_0^2 + s_1^2 R$. An unstable
particle survives with the probability $e^{-R/l}$, $l = p\,c\tau/m$. In a field the flight is longer, and a track of
transverse momentum below $0.15\,B R$ curls up before it arrives.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffhep.detector.helix import BENDING
from diffhep.kinematics import safe_sqrt
from diffhep.parameters import Param, Scalar
from diffhep.units import SPEED_OF_LIGHT, m, ps

FULL_ARC = 0.5 * np.pi


class Hadron(NamedTuple):
    """A charged particle.

    Attributes:
        mass: [GeV].
        decay_length: c tau [mm].
    """

    mass: float
    decay_length: float


# PDG Review 2024
PION = Hadron(0.139570, 7.8045 * m)
KAON = Hadron(0.493677, 3.711 * m)
PROTON = Hadron(0.938272, np.inf)


class TimingLayer(eqx.Module):
    r"""A cylinder that measures times of arrival.

    Attributes:
        radius: [mm].
        constant: $s_0$, resolution without the share of the area [ns].
        area_term: $s_1$ [ns/mm^(1/2)]; 30 ps per root of a metre are `30 * ps / m**0.5`.
        field: along the beam [T]; 0 is straight flight.
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).

    >>> layer = TimingLayer(4124.168, 20 * ps, 30 * ps / m**0.5)
    >>> round(float(layer.separation(jnp.array(1.0), KAON, PION)), 4)
    22.6396
    """

    radius: Scalar
    constant: Scalar = 20 * ps
    area_term: Scalar = 30 * ps / m**0.5
    field: Scalar = 0.0
    bending: float = eqx.field(static=True, default=BENDING)

    def __check_init__(self):
        for name, wanted, good in (
            ("radius", "above 0 mm", lambda x: x > 0),
            ("constant", "above 0 ns", lambda x: x > 0),
            ("area_term", "0 or more ns/mm^(1/2)", lambda x: x >= 0),
            ("field", "a finite number of T", np.isfinite),
        ):
            value = getattr(self, name)
            if not isinstance(value, Param | Tracer) and not np.all(good(np.asarray(value))):
                msg = f"timing layer: {name} must be {wanted}, got {value}"
                raise ValueError(msg)

    def flight_path(self, pt: Float[Array, "*track"]) -> Float[Array, "*track"]:
        r"""Transverse length of the arc from the beam line [mm]: $R\,\arcsin(u)/u$, $u = 0.15\,B R/p_T$.

        Half a circle for tracks that curl up; `margin` tells them.
        """
        u = self.bending * jnp.abs(jnp.asarray(self.field)) * self.radius / (2 * pt)
        return self.radius * arc_over_chord(u)

    def margin(self, pt: Float[Array, "*track"]) -> Float[Array, "*track"]:
        """By how much a track's transverse momentum is above the one that just arrives [GeV]: the score of a gate."""
        return pt - 0.5 * self.bending * jnp.abs(jnp.asarray(self.field)) * self.radius

    def delay(
        self, momentum: Float[Array, "*track"], heavy: Hadron, light: Hadron, *, eta: ArrayLike = 0.0
    ) -> Float[Array, "*track"]:
        """How much later the heavier of two particles of one momentum arrives [ns].

        Args:
            momentum: [GeV].
            heavy: the later one.
            light: the other.
            eta: pseudorapidity.
        """
        stretch = jnp.cosh(jnp.asarray(eta))
        slow, fast = (jnp.sqrt(1 + (hadron.mass / momentum) ** 2) for hadron in (heavy, light))
        # difference of squares over the sum: the two roots agree to all digits at high momentum
        difference = (heavy.mass**2 - light.mass**2) / momentum**2 / (slow + fast)
        return self.flight_path(momentum / stretch) * stretch / SPEED_OF_LIGHT * difference

    def resolution(self) -> Float[Array, ""]:
        """Time resolution at this radius for a fixed budget [ns]."""
        return safe_sqrt(jnp.asarray(self.constant) ** 2 + jnp.asarray(self.area_term) ** 2 * self.radius)

    def separation(
        self, momentum: Float[Array, "*track"], heavy: Hadron, light: Hadron, *, eta: ArrayLike = 0.0
    ) -> Float[Array, "*track"]:
        """Difference in units of the resolution."""
        return self.delay(momentum, heavy, light, eta=eta) / self.resolution()

    def survival(self, momentum: Float[Array, "*track"], hadron: Hadron, *, eta: ArrayLike = 0.0) -> Array:
        """Probability to arrive undecayed."""
        stretch = jnp.cosh(jnp.asarray(eta))
        path = self.flight_path(momentum / stretch) * stretch
        return jnp.exp(-path * hadron.mass / (momentum * hadron.decay_length))


def arc_over_chord(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\arcsin(u)/u$ for u >= 0, with its derivative at 0; $\pi/(2u)$ and the derivative of that from 1 on.

    The derivative diverges at 1, where a track just turns back; within 1e-12 of it the limit stands in.
    """
    small, full = u < 1e-2, u > 1 - 1e-12
    square = jnp.where(small, u, 0.0) ** 2
    series = 1 + square * (
        1 / 6 + square * (3 / 40 + square * (15 / 336 + square * (105 / 3456 + square * 945 / 42240)))
    )
    middle = jnp.where(small | full, 0.5, u)
    return jnp.where(small, series, jnp.where(full, FULL_ARC / jnp.where(full, u, 1.0), jnp.arcsin(middle) / middle))
