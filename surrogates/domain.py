"""Where a surrogate may be believed: the showers it was trained on, and how far a request is from them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffhep.io.showers import Showers
from diffhep.surrogates.stack import Incidence

MARGIN = 1e-3  # of the trained range: ranges are drawn, so their ends are never quite reached


class Domain(eqx.Module):
    """Ranges of the training showers.

    Attributes:
        low: least energy [GeV], angle [rad], thickness of an absorber and of an active slab [mm], and, of stacks that
            are read out in groups of layers, layers in a group.
        high: greatest of them.
    """

    low: Float[Array, " quantity"]
    high: Float[Array, " quantity"]

    def excess(self, x: Incidence) -> Float[Array, "*shape"]:
        """How far outside, in widths of the trained range; 0 inside, the worst quantity and layer counts.

        Energies and thicknesses are compared by their logarithm.
        """
        worst = [
            _outside(x.energy, 0, self, log=True),
            _outside(x.angle, 1, self, log=False),
            jnp.max(_outside(x.absorber / x.count, 2, self, log=True), axis=-1),
            jnp.max(_outside(x.active / x.count, 3, self, log=True), axis=-1),
        ]
        if x.merged is not None:
            worst.append(_outside(x.merged, 4, self, log=True))
        return jnp.max(jnp.stack(jnp.broadcast_arrays(*worst)), axis=0)

    def including(self, other: "Domain") -> "Domain":
        """Ranges that hold those of both."""
        return Domain(jnp.minimum(self.low, other.low), jnp.maximum(self.high, other.high))

    def contains(self, x: Incidence) -> Bool[Array, "*shape"]:
        """Whether a request is one of interpolation."""
        return self.excess(x) <= MARGIN


def _outside(value: Array, index: int, domain: Domain, *, log: bool) -> Array:
    low, high = domain.low[index], domain.high[index]
    if log:
        value, low, high = jnp.log(value), jnp.log(low), jnp.log(high)
    width = jnp.maximum(high - low, 1e-6)
    return jnp.maximum(jnp.maximum(low - value, value - high), 0.0) / width


def domain_of(showers: Showers) -> Domain:
    """The ranges that showers fill."""
    columns = [showers.energy, showers.angle, showers.absorber_thickness, showers.active_thickness]
    if (merged := showers.merged) is not None:
        columns = [*columns[:2], *(thickness / merged[:, None] for thickness in columns[2:]), merged]
    low, high = (np.array([f(column) for column in columns]) for f in (np.min, np.max))
    return Domain(jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32))
