r"""Energies in the cells of every layer: a surrogate of layer energies, and below it splits of each energy in two.

A split sends everything to one child with learned probabilities, and otherwise
$f = \sigma(y)$ of it to the first one, $y$ from a learned quantile function; see `diffhep.surrogates.splits`. A
standard normal number becomes a split through $u = \Phi(z)$: below the first probability everything goes to the
second child, above one minus the second to the first child, and in between $f$ runs from 0 to 1. So energies are
continuous in the random numbers and in the stack, their sum, with what misses all cells, is that of the layer, and the
density is known.
"""

from functools import partial
from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from diffhep.surrogates import quantiles
from diffhep.surrogates.autoregressive import LEAST, AutoregressiveSurrogate
from diffhep.surrogates.chain import product, shown
from diffhep.surrogates.coordinates import cut
from diffhep.surrogates.splits import FADING, PARTS, Tree, all_splits, contexts
from diffhep.surrogates.stack import FEATURES, Guess, Incidence, guess, running_sum

ABOUT = FEATURES + 4  # numbers that a split knows of its layer
OUTPUTS = quantiles.PARAMETERS + 2
FEW = (4, 16, 48)  # splits that are worked out where there are no more to make: most cells of a layer are empty
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


def about_layers(seen: Guess, layers: Float[Array, "*shape layer"]) -> Float[Array, "*shape layer about"]:
    """What splits know of their layer: its guess, its energy and its neighbours', and how much lies in front."""
    dtype = seen.features.dtype
    energy, guessed = shown(layers).astype(dtype), shown(seen.energy).astype(dtype)
    pad = jnp.zeros_like(energy[..., :1])
    before, behind = (jnp.concatenate(x, axis=-1) for x in ((pad, energy[..., :-1]), (energy[..., 1:], pad)))
    sums = running_sum(layers.astype(dtype))
    share = (sums / jnp.maximum(sums[..., -1:], LEAST)) * 2 - 1
    columns = jnp.stack([energy - guessed, before - energy, behind - energy, share], axis=-1)
    features = jnp.broadcast_to(seen.features, (*energy.shape, seen.features.shape[-1]))
    return jnp.concatenate([features, columns], axis=-1)


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


class VoxelSurrogate(eqx.Module):
    """Energies in the cells of a sampling calorimeter, for particles along the normal of its layers.

    Attributes:
        layers: the surrogate of the layer energies.
        splitter: the network of all splits.
        tree: of the cells.
        threshold: energy below which a cell counts as empty [GeV].
    """

    layers: AutoregressiveSurrogate
    splitter: Splitter
    tree: Tree = eqx.field(static=True)
    threshold: float = eqx.field(static=True)

    @property
    def noise_size(self) -> int:
        """Those of the layers, and one for each split."""
        return self.layers.noise_size + self.layers.stack.layers * len(self.tree.splits)

    def in_double(self) -> Self:
        """The same surrogate in double precision, for optimisers and difference quotients."""
        return jax.tree.map(lambda v: v.astype(float) if eqx.is_inexact_array(v) else v, self)

    def sample(
        self, x: Incidence, *, key: PRNGKeyArray, hard: bool = True
    ) -> tuple[Float[Array, "*shape layer"], Float[Array, "*shape layer alpha r"]]:
        """One shower for each particle: energies of layers and cells [GeV].

        >>> layers, cells = surrogate.sample(x, key=jr.key(0))  # doctest: +SKIP
        """
        shape = jnp.broadcast_shapes(x.energy.shape, x.angle.shape, x.absorber.shape[:-1], x.active.shape[:-1])
        return self.from_noise(x, jr.normal(key, (*shape, self.noise_size), jnp.float32), hard=hard)

    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> tuple[Float[Array, "*shape layer"], Float[Array, "*shape layer alpha r"]]:
        """Energies of layers and cells [GeV] for given standard normal numbers.

        Args:
            x: particles and stacks; leading axes as those of `noise`.
            noise: `noise_size` numbers a shower.
            hard: set energies below the threshold to zero, as a read-out does, and divide none of them further. Without
                it energies are continuous in random numbers and stack.

        Raises:
            ValueError: another number of layers than the surrogate's.
        """
        first, shape = self.layers.noise_size, noise.shape[:-1]
        layers = self.layers.from_noise(x, noise[..., :first], hard=hard)
        about = jnp.broadcast_to(self.about(x, layers), (*layers.shape, ABOUT))
        flat = tuple(v.reshape(-1, *v.shape[len(shape) :]) for v in (about, layers, noise[..., first:]))
        # one by one: places that are known are read several times faster from one shower than from many
        cells = jax.lax.map(lambda inputs: self.divide(*inputs, hard=hard), flat)
        cells = cells.reshape(*layers.shape, *cells.shape[-2:])
        return layers, cut(cells, self.threshold) if hard else cells

    def about(self, x: Incidence, layers: Float[Array, "*shape layer"]) -> Float[Array, "*shape layer about"]:
        """What splits know of their layers."""
        dtype = self.splitter.seen.dtype
        return about_layers(jax.tree.map(lambda v: v.astype(dtype), guess(self.layers.stack, x)), layers)

    def divide(
        self,
        about: Float[Array, "layer about"],
        layers: Float[Array, " layer"],
        noise: Float[Array, " noise"],
        *,
        hard: bool = False,
    ) -> Float[Array, "layer alpha r"]:
        """Energies of the cells of one shower [GeV], given those of its layers; one standard normal number a split."""
        tree, net = self.tree, self.splitter
        count, splits, top = layers.size, len(tree.splits), int(tree.levels.max())
        steps, dtype = count + top, net.seen.dtype
        # padded, so that a split of any level finds a layer at every step; step t makes splits of layer t - level
        padded = lambda v: jnp.pad(v.astype(dtype), [(top, top + 1)] + [(0, 0)] * (v.ndim - 1))
        known, roots = padded(product(about, net.about)), padded(layers)
        at = np.arange(steps)[:, None] - tree.levels + top
        noise = padded(noise.reshape(count, splits))[at, np.arange(splits)]
        tails = jnp.stack([ndtr(noise), ndtr(-noise)], axis=1)
        # what was made at the last steps lies in a line, and a split finds at fixed places what it sees
        depth, slot = int(tree.delays.max()), tree.sources[..., 0]
        place = np.where(slot >= 0, (tree.delays - 1) * tree.slots + slot, depth * tree.slots)
        parents = (tree.delays[:, 0] - 1) * tree.slots + tree.parents
        ends = jnp.zeros(1, dtype)

        def some(count: int, known: Array, flat: Array, memory: Array, tails: Array, parent: Array) -> Array:
            """Shares of the children of the splits with the greatest parents, zero for the others."""
            chosen = jax.lax.top_k(parent, count)[1] if count < splits else np.arange(splits)
            kind = jnp.asarray(tree.kind)[chosen]
            here = known[jnp.asarray(top - tree.levels)[chosen]] + net.kinds[kind]
            seen = jnp.concatenate([flat[jnp.asarray(place)[chosen]], memory[chosen]], axis=-1)
            both = jnp.stack(divided(net(here, seen, kind), *tails[:, chosen]), axis=-1)
            return both if count == splits else jnp.zeros((splits, 2), dtype).at[chosen].set(both)

        sizes = [n for n in FEW if n < splits] if hard else []
        # reverse mode works a branch out again: keeping what all of them could leave takes twice the time
        branches = [jax.checkpoint(partial(some, n), prevent_cse=False) for n in (*sizes, splits)]

        def step(state: tuple, inputs: tuple) -> tuple[tuple, Array]:
            energies, line, memory = state
            t, tails, root = inputs
            here = jax.lax.dynamic_slice_in_dim(known, t, top + 1)
            parent = energies[parents]
            # dust that no cell would show is not divided further
            parent = jnp.where(parent > self.threshold, parent, 0.0) if hard else parent
            needed = jnp.sum(parent > 0)
            which = jnp.sum(needed > np.array(sizes, int))
            both = jax.lax.switch(which, branches, here, jnp.concatenate([line, ends]), memory, tails, parent)
            row = jnp.concatenate([(parent[:, None] * both).reshape(-1), root[None]])
            new = shown(row)
            memory = FADING * memory + new[:-1].reshape(splits, 2)
            moved = [jnp.concatenate([x, y[: -tree.slots]]) for x, y in ((row, energies), (new, line))]
            return (*moved, memory), row[tree.cells]

        begin = jnp.zeros(depth * tree.slots, dtype).at[tree.slots - 1].set(roots[top])
        start = (begin, shown(begin), jnp.zeros((splits, 2), dtype))
        _, made = jax.lax.scan(step, start, (np.arange(steps), tails, roots[top + 1 :]))
        # cells of a layer are made at several steps
        when = np.arange(count)[:, None, None] + tree.levels[tree.cells // 2]
        return made[when, *np.indices(tree.cells.shape)]

    def log_prob(
        self, layers: Float[Array, "shower layer"], cells: Float[Array, "shower layer alpha r"], x: Incidence
    ) -> Float[Array, " shower"]:
        """Logarithm of the density of layer energies and of the shares of all splits of more than the threshold."""
        tree = self.tree
        rows = all_splits(tree, *layers.shape)
        about, energies = self.about(x, layers), tree.energies(layers, cells)
        y, real = shares(tree, energies, rows, self.threshold)
        kind = jnp.asarray(tree.kind)[rows[:, 2]]
        found = contexts(tree, shown(energies), rows)
        surprise = split_surprise(self.splitter, about[rows[:, 0], rows[:, 1]], found, kind, y)
        total = jnp.sum(jnp.where(real, surprise, 0.0).reshape(len(layers), -1), axis=1)
        return self.layers.log_prob(layers, x) - total


def shares(
    tree: Tree, energies: Float[Array, "shower layer slot"], rows: ArrayLike, threshold: float
) -> tuple[Float[Array, " row"], Bool[Array, " row"]]:
    """Logits of the first child's share, and which splits are of more than the threshold."""
    shower, layer, split = jnp.asarray(rows).T
    first, second = (energies[shower, layer, 2 * split + side] for side in (0, 1))
    real = energies[shower, layer, jnp.asarray(tree.parents)[split]] > threshold
    return jnp.log(jnp.where(real, first, 1.0)) - jnp.log(jnp.where(real, second, 1.0)), real


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
