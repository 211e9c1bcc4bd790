r"""Mean and width of every coordinate as a function of the stack: regression before generation.

A generative network is asked only for what is left, $(z - \mu)/\sigma$, which hardly depends on the stack. So the
mean and the resolution, and their derivatives with respect to a thickness, are those of a regression by Gaussian
likelihood.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.coordinates import to_coordinates
from diffhep.surrogates.stack import FEATURES, Guess, Incidence

NARROWEST = -5.0  # of ln sigma


class Moments(eqx.Module):
    """Networks for mean and ln sigma of the coordinates: one shared by all layers, one for the visible share.

    Args:
        width: of the hidden layers.
        key: of the weights.
    """

    layer: eqx.nn.MLP
    total: eqx.nn.MLP

    def __init__(self, width: int = 64, *, key: PRNGKeyArray):
        one, two = jr.split(key)
        net = lambda key: eqx.nn.MLP(2 * FEATURES, 2, width, 2, jax.nn.silu, dtype=jnp.float32, key=key)
        self.layer, self.total = net(one), net(two)

    def __call__(self, x: Incidence, seen: Guess) -> tuple[Float[Array, "*shape layer"], Float[Array, "*shape layer"]]:
        """Mean and sigma of the coordinates of showers, one for each leading axis of the guess."""
        visible = jnp.minimum(jnp.sum(seen.energy, axis=-1), 0.99 * x.energy)
        expected = to_coordinates(seen.energy, jnp.maximum(x.energy, visible / 0.99))
        dtype = self.total.layers[0].weight.dtype
        pooled = seen.pooled.astype(dtype)
        each = seen.features[..., :-1, :].astype(dtype)
        # variances: the root of one has no derivative where all layers are alike
        spread = jnp.var(each[..., :4], axis=-2)
        total = rows(self.total, jnp.concatenate([pooled, spread, pooled[..., 4:]], axis=-1))
        beside = jnp.broadcast_to(pooled[..., None, :], each.shape)
        layers = rows(self.layer, jnp.concatenate([each, beside], axis=-1))
        # a guess of the width of the visible share; that of the layers is of order one
        width = jnp.log(seen.resolution * x.energy / (x.energy - visible))
        total = total.at[..., 1].add(width.astype(dtype))
        out = jnp.concatenate([total[..., None, :], layers], axis=-2)
        sigma = jnp.exp(jnp.maximum(out[..., 1], NARROWEST))
        return expected + out[..., 0].astype(expected.dtype), sigma.astype(expected.dtype)


def rows(net: eqx.nn.MLP, inputs: Float[Array, "*shape feature"]) -> Float[Array, "*shape output"]:
    """A network applied along the last axis. All other axes as one: XLA has fast products for matrices only."""
    out = jax.vmap(net)(inputs.reshape(-1, inputs.shape[-1]))
    return out.reshape(*inputs.shape[:-1], -1)


def surprise(
    moments: Moments, x: Incidence, seen: Guess, z: Float[Array, "*shape layer"]
) -> Float[Array, "*shape layer"]:
    """Negative log-likelihood of the coordinates of showers as independent normal numbers."""
    mean, sigma = moments(x, seen)
    return 0.5 * ((z - mean) / sigma) ** 2 + jnp.log(sigma)
