"""A classifier between two samples: the area under its curve says how well it tells them apart; 0.5 is not at all.

The network and training of the CaloChallenge (arXiv:2410.21611): three hidden layers with leaky ReLU, binary
cross-entropy, Adam with step size 2e-4; the epoch with the best accuracy on one part of the data is judged on
another. Its width, 2048, is that of `PUBLISHED`; `OURS` is smaller because a processor core, and not a GPU, trains
it.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array
from numpy.typing import NDArray

from diffhep.surrogates.metrics import auc


class ClassifierSettings(NamedTuple):
    """Of the network and its training.

    Attributes:
        width: of the three hidden layers.
        epochs: over the training part.
        batch: showers a step, both kinds together.
        rate: step size of Adam.
        seed: of weights, parts and batches.
    """

    width: int = 256
    epochs: int = 50
    batch: int = 1000
    rate: float = 1e-3
    seed: int = 0


OURS = ClassifierSettings()
PUBLISHED = ClassifierSettings(width=2048, rate=2e-4)


def classifier_auc(reference: NDArray, other: NDArray, settings: ClassifierSettings = OURS) -> float:
    """Area under the curve of a classifier of two samples of features (row, feature).

    60 % of the rows train it, 20 % choose the epoch, 20 % judge it.

    Raises:
        ValueError: different numbers of features, fewer than 50 rows, a feature that is not finite.
    """
    if reference.ndim != 2 or reference.shape[1:] != other.shape[1:]:
        msg = f"features: shapes {reference.shape} and {other.shape} do not fit together"
        raise ValueError(msg)
    rows = min(len(reference), len(other))
    if rows < 50:
        msg = f"features: at least 50 rows of each kind are wanted, got {rows}"
        raise ValueError(msg)
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        msg = "features: nan or inf among them"
        raise ValueError(msg)
    rng = np.random.default_rng(settings.seed)
    x = np.concatenate([reference[rng.permutation(len(reference))[:rows]], other[rng.permutation(len(other))[:rows]]])
    y = np.repeat([1.0, 0.0], rows)
    part = np.tile((np.arange(rows) * 5 // rows).clip(0, 4), 2)
    train, choose, judge = part < 3, part == 3, part == 4
    center, spread = x[train].mean(axis=0), x[train].std(axis=0)
    x = jnp.asarray((x - center) / np.where(spread > 1e-9, spread, 1.0), jnp.float32)
    best = _train(x[train], jnp.asarray(y[train], jnp.float32), x[choose], jnp.asarray(y[choose]), settings)
    scores = np.asarray(_scores(best, x[judge]))
    return auc(scores[y[judge] == 1], scores[y[judge] == 0])


@eqx.filter_jit
def _scores(net: eqx.nn.MLP, x: Array) -> Array:
    return jax.vmap(net)(x)


@eqx.filter_jit  # arrays are arguments, so that samples of one size share a program
def _train(x: Array, y: Array, other_x: Array, other_y: Array, settings: ClassifierSettings) -> eqx.nn.MLP:
    """The network after the epoch with the best accuracy on the other rows."""
    key = jr.key(settings.seed)
    net = eqx.nn.MLP(x.shape[1], "scalar", settings.width, 3, jax.nn.leaky_relu, dtype=jnp.float32, key=key)
    weights, rest = eqx.partition(net, eqx.is_inexact_array)
    adam = optax.adam(settings.rate)
    batch = min(settings.batch, len(x))
    steps = max(1, len(x) // batch)

    def loss(weights: eqx.nn.MLP, x: Array, y: Array) -> Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(jax.vmap(eqx.combine(weights, rest))(x), y))

    def step(state: tuple, rows: Array) -> tuple[tuple, None]:
        weights, optimiser = state
        change, optimiser = adam.update(jax.grad(loss)(weights, x[rows], y[rows]), optimiser, weights)
        return (optax.apply_updates(weights, change), optimiser), None

    def epoch(state: tuple, key: Array) -> tuple[tuple, None]:
        weights, optimiser, best, accuracy = state
        order = jr.permutation(key, len(x))[: steps * batch].reshape(steps, batch)
        (weights, optimiser), _ = jax.lax.scan(step, (weights, optimiser), order)
        right = (jax.vmap(eqx.combine(weights, rest))(other_x) > 0) == (other_y > 0.5)
        now = jnp.mean(right.astype(jnp.float32))
        best = jax.tree.map(lambda old, new: jnp.where(now > accuracy, new, old), best, weights)
        return (weights, optimiser, best, jnp.maximum(now, accuracy)), None

    start = (weights, adam.init(weights), weights, jnp.zeros((), jnp.float32))
    (_, _, best, _), _ = jax.lax.scan(epoch, start, jr.split(jr.fold_in(key, 1), settings.epochs))
    return eqx.combine(best, rest)
