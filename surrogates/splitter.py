"""The network of all splits of a shower's energy in two, and what its parameters mean: a share of the first child."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffhep.surrogates import quantiles
from diffhep.surrogates.autoregressive import LEAST
from diffhep.surrogates.chain import product
from diffhep.surrogates.splits import PARTS, Tree
from diffhep.surrogates.stack import FEATURES

ABOUT = FEATURES + 4  # numbers that a split knows of its layer
OUTPUTS = quantiles.PARAMETERS + 2
ALONE = -1.0  # logit of the probability that one child takes everything, before training


class Splitter(NamedTuple):
    """The network of all splits: two hidden layers, the first of which also sees the layer and the kind of split.

    Attributes:
        seen: from what a split sees of others to the hidden layer.
        about: from what it knows of its layer.
        kinds: added to the first hidden layer for each kind of split.
        middle: from the first to the second hidden layer, weights and biases.
        last: from there to the parameters, weights and one row of biases for each kind.
    """

    seen: Float[Array, "part hidden"]
    about: Float[Array, "about hidden"]
    kinds: Float[Array, "kind hidden"]
    middle: tuple[Float[Array, "hidden hidden"], Float[Array, " hidden"]]
    last: tuple[Float[Array, "hidden output"], Float[Array, "kind output"]]

    def __call__(
        self, known: Float[Array, "*shape hidden"], seen: Array, kind: ArrayLike
    ) -> Float[Array, "*shape output"]:
        """Parameters of splits.

        Args:
            known: what their layers and kinds give to the first hidden layer.
            seen: of other splits.
            kind: of the splits.
        """
        hidden = jax.nn.silu(known + product(seen, self.seen))
        hidden = jax.nn.silu(product(hidden, self.middle[0]) + self.middle[1])
        return product(hidden, self.last[0]) + self.last[1][jnp.asarray(kind)]


def untrained_splitter(tree: Tree, width: int, *, key: PRNGKeyArray) -> Splitter:
    """A network that divides evenly."""
    one, two, three, four = jr.split(key, 4)
    weights = lambda key, *shape: jr.normal(key, shape, jnp.float32) * shape[0] ** -0.5
    start = jnp.asarray(np.append(quantiles.standard_parameters(), [ALONE, ALONE]), jnp.float32)
    return Splitter(
        weights(one, PARTS, width),
        weights(two, ABOUT, width),
        jnp.zeros((tree.kinds, width), jnp.float32),
        (weights(three, width, width), jnp.zeros(width, jnp.float32)),
        (0.3 * weights(four, width, OUTPUTS), jnp.tile(start, (tree.kinds, 1))),
    )


def divided(parameters: Float[Array, "*shape output"], below: Array, above: Array) -> tuple[Array, Array]:
    """Shares of the two children for a number that is normal with these tails."""
    ends = jax.nn.softmax(jnp.concatenate([parameters[..., -2:], jnp.zeros_like(parameters[..., :1])], axis=-1))
    low, high = below - ends[..., 0], above - ends[..., 1]
    inside = (low > LEAST) & (high > LEAST)
    safe = lambda x: jnp.log(jnp.where(inside, x, 1.0))
    y = quantiles.quantile(parameters[..., :-2], safe(low) - safe(high))
    first = jnp.where(inside, jax.nn.sigmoid(y), (low > LEAST).astype(y.dtype))
    second = jnp.where(inside, jax.nn.sigmoid(-y), (low <= LEAST).astype(y.dtype))
    return first, second


def split_surprise(
    net: Splitter,
    about: Float[Array, "row about"],
    seen: Float[Array, "row part"],
    kind: Int[Array, " row"],
    y: Float[Array, " row"],
) -> Float[Array, " row"]:
    """Negative log-likelihood of splits, as densities of the logit of the first child's share.

    Args:
        net: the network.
        about: what is known of their layers.
        seen: of other splits.
        kind: of the splits.
        y: logit of the first child's share; inf where it takes everything, -inf where it takes nothing.
    """
    out = net(product(about, net.about) + net.kinds[kind], seen, kind)
    ends = jax.nn.log_softmax(jnp.concatenate([out[:, -2:], jnp.zeros_like(out[:, :1])], axis=1))
    inside = jnp.isfinite(y)
    density = quantiles.log_density(out[:, :-2], jnp.where(inside, y, jax.lax.stop_gradient(out[:, 0])))
    return -jnp.where(inside, ends[:, 2] + density, jnp.where(y > 0, ends[:, 1], ends[:, 0]))
