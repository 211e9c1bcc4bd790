r"""All splits of one shower, step by step, and their derivative.

Energies are kept by rows: row 0 holds the energy of the first layer, and split s of layer l makes its children in row
l + level(s) + 1, out of what lies in the rows in front (`splits`).

In reverse mode every split would be worked out again, one row after the other. But when all energies are known, so is
what every split saw, and the slopes of the shares follow at once for all splits that divide something, which are few
where most cells are empty.
What is left to do row by row is linear: a cotangent of a child's energy goes to its parent, and through the share to
all energies that the split saw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from diffhep.surrogates.chain import SMALL, product, shown
from diffhep.surrogates.splits import FADING, PARTS, Tree, contexts, memories
from diffhep.surrogates.splitter import Splitter, divided

LINE = PARTS - 2  # numbers that a split sees in single rows; the last two are its memory
FEW = (0, 4, 16, 48)  # splits that are worked out where there are no more to make: most cells of a layer are empty
CHUNK = 256  # splits of a shower whose slopes are worked out together


@dataclass(frozen=True)
class Division:
    """Which splits a shower has, and where they find what they see.

    Attributes:
        tree: of the cells of a layer.
        layers: how many.
        threshold: energy up to which nothing is divided [GeV]; without a read-out, zero.
    """

    tree: Tree
    layers: int
    threshold: float

    @property
    def splits(self) -> int:
        """Of a layer."""
        return len(self.tree.splits)

    @property
    def top(self) -> int:
        """Greatest level."""
        return int(self.tree.levels.max())

    @property
    def rows(self) -> int:
        """Of energies."""
        return self.layers + self.top + 1

    @property
    def width(self) -> int:
        """Of a row: all slots of a tree, and a last column that is zero for what sees nothing."""
        return self.tree.slots + 1

    @property
    def depth(self) -> int:
        """How many rows in front of its own a split sees."""
        return int(self.tree.delays.max())

    @cached_property
    def seen(self) -> NDArray[np.int64]:
        """Places of what splits see in those rows, end to end, (split, part); the first one is the parent."""
        slot = self.tree.sources[..., 0]
        return np.where(slot >= 0, (self.depth - self.tree.delays) * self.width + slot, self.tree.slots)

    @cached_property
    def layer(self) -> NDArray[np.int64]:
        """Layer of the splits of every row, (row, split): some are in front of the first or behind the last."""
        return np.arange(self.rows)[:, None] - 1 - self.tree.levels

    def by_row(self, x: Float[Array, "layer split"]) -> Float[Array, "row split"]:
        """Numbers of all splits, as rows need them, zero outside."""
        padded = jnp.pad(x, ((self.top + 1, self.top), (0, 0)))
        return at(padded, (self.layer + self.top + 1, np.arange(self.splits)))

    def by_layer(self, x: Float[Array, "row split *rest"]) -> Float[Array, "layer split *rest"]:
        """Numbers of all splits, layer by layer."""
        return at(x, (np.arange(self.layers)[:, None] + self.tree.levels + 1, np.arange(self.splits)))

    def slots(self, energies: Float[Array, "row column"]) -> Float[Array, "layer slot"]:
        """Energies of all slots, layer by layer."""
        level = np.array([self.tree.level_of(slot) for slot in range(self.tree.slots)])
        return at(energies, (np.arange(self.layers)[:, None] + level + 1, np.arange(self.tree.slots)))

    def cells(self, energies: Float[Array, "row column"]) -> Float[Array, "layer alpha r"]:
        """Energies of the cells [GeV]."""
        level = self.tree.levels[self.tree.cells // 2]
        return at(energies, (np.arange(self.layers)[:, None, None] + level + 1, self.tree.cells))

    def of_few(self, needed: Array, work: Callable[..., Any], *operands: Any) -> Any:
        """What `work` gives for the splits of a row; its first argument is for how many, the least that suffices."""
        sizes = [n for n in FEW if n < self.splits]
        which = jnp.sum(needed > np.array(sizes, int))
        return jax.lax.switch(which, [partial(work, n) for n in (*sizes, self.splits)], *operands)


def at(x: Array, index: Any) -> Array:
    """Elements that are known to be inside."""
    return x.at[index].get(mode="promise_in_bounds")


class Chosen:
    """Some of the splits of a row, those with the greatest parents."""

    def __init__(self, count: int, parent: Float[Array, " split"]):
        self.every, self.some = parent.size, count < parent.size
        self.splits: ArrayLike = jax.lax.top_k(parent, count)[1] if self.some else np.arange(count)

    def of(self, x: ArrayLike) -> Array:
        """Theirs of what all have."""
        return at(jnp.asarray(x), self.splits) if self.some else jnp.asarray(x)

    def back(self, x: Float[Array, "chosen ..."]) -> Float[Array, "split ..."]:
        """What all have, zero for the others."""
        if not self.some:
            return x
        where = jnp.zeros((self.every, *x.shape[1:]), x.dtype).at[self.splits]
        return where.set(x, mode="promise_in_bounds", unique_indices=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def divide(
    division: Division,
    net: Splitter,
    about: Float[Array, "layer about"],
    layers: Float[Array, " layer"],
    noise: Float[Array, " noise"],
) -> Float[Array, "row column"]:
    """Energies of all children of all splits, and of the layers in front of the last column, row by row [GeV].

    Differentiable in reverse mode. What is not divided, an empty layer too, has no slope: it stays so.

    Args:
        division: the splits.
        net: gives their distributions.
        about: what they know of their layers.
        layers: energies of the layers [GeV].
        noise: one standard normal number for every split of every layer.
    """
    tree, splits, dtype = division.tree, division.splits, net.seen.dtype
    pad = [(division.top, division.top + 1), (0, 0)]  # so that a split of any level finds a layer in every row
    known = jnp.pad(product(about.astype(dtype), net.about), pad)
    numbers = division.by_row(noise.reshape(division.layers, splits).astype(dtype))
    tails = jnp.stack([ndtr(numbers), ndtr(-numbers)], axis=1)
    roots = jnp.pad(layers.astype(dtype), (0, division.rows - division.layers))

    def work(count: int, known: Array, line: Array, memory: Array, tails: Array, parent: Array) -> Array:
        if not count:
            return jnp.zeros((splits, 2), dtype)
        chosen = Chosen(count, parent)
        kind = chosen.of(tree.kind)
        here = at(known, chosen.of(division.top - tree.levels)) + at(net.kinds, kind)
        seen = jnp.concatenate([at(line, chosen.of(division.seen)), chosen.of(memory)], axis=-1)
        shares = divided(net(here, seen, kind), *(chosen.of(tail) for tail in tails))
        return chosen.back(jnp.stack(shares, axis=-1))

    def step(row: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        energies, values, memory = state
        before = lambda x: jax.lax.dynamic_slice_in_dim(x, row, division.depth).reshape(-1)
        parent = at(before(energies), division.seen[:, 0])
        # dust that no cell would show is not divided further
        parent = jnp.where(parent <= division.threshold, 0.0, parent)
        here = jax.lax.dynamic_slice_in_dim(known, row - 1, division.top + 1)
        operands = (here, before(values), memory, tails[row], parent)
        shares = division.of_few(jnp.sum(parent != 0), work, *operands)
        ends = jnp.stack([roots[row], jnp.zeros((), dtype)])
        made = jnp.concatenate([(parent[:, None] * shares).reshape(-1), ends])
        new = shown(made)
        memory = FADING * memory + new[:-2].reshape(splits, 2)
        put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y[None], row + division.depth, axis=0)
        return put(energies, made), put(values, new), memory

    # rows of nothing in front, so that all splits see as many
    empty = jnp.zeros((division.depth + division.rows, division.width), dtype)
    begin = empty.at[division.depth :, tree.slots - 1].set(roots)
    # behind the last layer that is hit nothing is left to do
    hit = ~(layers <= division.threshold)
    end = jnp.max(jnp.where(hit, np.arange(division.layers), -1)) + division.top + 2
    state = (begin, empty.at[division.depth :, tree.slots - 1].set(shown(roots)), jnp.zeros((splits, 2), dtype))
    return jax.lax.fori_loop(1, end, step, state)[0][division.depth :]


def _divide_forward(division: Division, *inputs: Any) -> tuple[Array, tuple]:
    primal = lambda x: isinstance(x, CustomVJPPrimal)
    asked = [any(leaf.perturbed for leaf in jax.tree.leaves(x, is_leaf=primal)) for x in inputs]
    inputs = jax.tree.map(lambda x: jnp.asarray(x.value), inputs, is_leaf=primal)
    energies = divide(division, *inputs)
    # slopes to the network and to the noise, of both if either is asked for, take as long again; None otherwise
    net, _, _, noise = inputs
    return energies, (energies, *inputs, (net, noise) if asked[0] or asked[3] else None)


def _divide_backward(division: Division, residuals: tuple, cotangent: Any) -> tuple:
    energies, net, about, layers, noise, asked = residuals
    if isinstance(cotangent, SymbolicZero):
        cotangent = jnp.zeros(cotangent.shape, energies.dtype)
    splits = Observed(division, net, about, energies, noise)
    slopes = splits.slopes()
    of_shares, of_roots = carried_back(division, energies, slopes, splits.place, cotangent)
    of_about = splits.of_layers(slopes, of_shares)
    of_net, of_noise = (None, None) if asked is None else splits.of_the_rest(of_shares)
    return of_net, of_about.astype(about.dtype), of_roots.astype(layers.dtype), of_noise


divide.defvjp(_divide_forward, _divide_backward, symbolic_zeros=True)


class Observed:
    """Splits of a shower whose energies are known: those that divide something, in chunks.

    Attributes:
        chunks: their numbers, layer by layer, (chunk, which); behind the last one the number of all splits.
        place: of every split among them, end to end; of one that divides nothing, any.
    """

    def __init__(self, division: Division, net: Splitter, about: Array, energies: Array, noise: Array):
        self.division, self.net = division, net
        self.about, self.noise = about.astype(energies.dtype), noise
        slots = division.slots(energies)
        self.values = shown(slots)[None]
        self.past = memories(self.values)
        active = ~(at(slots, (slice(None), division.tree.parents)) <= division.threshold).reshape(-1)
        count = -(-active.size // CHUNK)
        self.place = (jnp.cumsum(active) - 1).clip(0)
        numbers = jnp.full(count * CHUNK, active.size).at[jnp.where(active, self.place, count * CHUNK)]
        self.chunks = numbers.set(np.arange(active.size), mode="drop").reshape(count, CHUNK)

    def slopes(self) -> Float[Array, "place column"]:
        """Derivatives of the first children's shares to what splits see, and to what they know of their layers.

        Those to what they see in single rows are to energies [1/GeV], those to their memory to what it shows of them.
        """

        def work(which: Array) -> Array:
            known, seen, share = self.shares(which, self.net, self.noise)
            first, pull = jax.vjp(share, known, seen)
            of_known, of_seen = pull(jnp.ones_like(first))
            # slope of `shown`, out of its value
            line = of_seen[:, :LINE] * (0.5 / SMALL) * jnp.exp(-2 * seen[:, :LINE])
            return jnp.concatenate([line, of_seen[:, LINE:], product(of_known, self.net.about.T)], axis=-1)

        nothing = jnp.zeros((CHUNK, PARTS + self.about.shape[-1]), self.about.dtype)
        found = jax.lax.map(
            lambda which: jax.lax.cond(self.some(which), work, lambda which: nothing, which), self.chunks
        )
        return found.reshape(-1, nothing.shape[-1])

    def of_layers(
        self, slopes: Float[Array, "place column"], cotangent: Float[Array, "layer split"]
    ) -> Float[Array, "layer about"]:
        """What cotangents of the shares give to what is known of the layers."""
        columns = slopes.reshape(*self.chunks.shape, -1)[..., PARTS:]

        def work(which: Array, columns: Array) -> Array:
            passed = self.weights(which, cotangent)[:, None] * columns
            return jnp.zeros_like(self.about).at[self.numbers(which)[0]].add(passed, mode="promise_in_bounds")

        return self.summed(work, jnp.zeros_like(self.about), columns)

    def of_the_rest(self, cotangent: Float[Array, "layer split"]) -> tuple[Splitter, Float[Array, " noise"]]:
        """What cotangents of the shares give to the network and to the noise."""

        def work(which: Array) -> tuple[Splitter, Array]:
            def first(net: Splitter, noise: Array) -> Array:
                known, seen, share = self.shares(which, net, noise)
                return share(known, seen)

            return jax.vjp(first, self.net, self.noise)[1](self.weights(which, cotangent))

        return self.summed(work, jax.tree.map(jnp.zeros_like, (self.net, self.noise)))

    def shares(
        self, which: Array, net: Splitter, noise: Array
    ) -> tuple[Float[Array, "which hidden"], Float[Array, "which part"], Callable[[Array, Array], Array]]:
        """What splits know of their layers, what they see, and the first child's share as a function of both."""
        tree, (layer, split) = self.division.tree, self.numbers(which)
        seen = contexts(tree, self.values, self.past, jnp.stack([jnp.zeros_like(layer), layer, split], axis=-1))
        kind = at(jnp.asarray(tree.kind), split)
        number = at(noise.reshape(self.division.layers, -1), (layer, split)).astype(self.values.dtype)
        tails = ndtr(number), ndtr(-number)
        known = at(product(self.about, net.about), layer) + at(net.kinds, kind)
        return known, seen, lambda known, seen: divided(net(known, seen, kind), *tails)[0]

    def some(self, which: Array) -> Array:
        """Whether there is anything in a chunk."""
        return which[0] < self.place.size

    def numbers(self, which: Array) -> tuple[Array, Array]:
        """Of layers and of splits."""
        return jnp.divmod(jnp.minimum(which, self.place.size - 1), self.division.splits)

    def weights(self, which: Array, cotangent: Float[Array, "layer split"]) -> Array:
        """Cotangents of the splits of a chunk."""
        return jnp.where(which < self.place.size, at(cotangent, self.numbers(which)), 0.0)

    def summed(self, work: Callable[..., Any], start: Any, *inputs: Array) -> Any:
        """The sum of what `work` makes of all chunks."""

        def step(total: Any, inputs: tuple[Array, ...]) -> tuple[Any, None]:
            more = lambda total: jax.tree.map(jnp.add, total, work(*inputs))
            return jax.lax.cond(self.some(inputs[0]), more, lambda total: total, total), None

        return jax.lax.scan(step, start, (self.chunks, *inputs))[0]


def carried_back(
    division: Division,
    energies: Float[Array, "row column"],
    slopes: Float[Array, "place column"],
    place: Int[Array, " layer*split"],
    cotangent: Float[Array, "row column"],
) -> tuple[Float[Array, "layer split"], Float[Array, " layer"]]:
    """Cotangents of the first children's shares, and of the energies of the layers, from those of all energies.

    Args:
        division: the splits.
        energies: of all children [GeV].
        slopes: of the shares; first to energies that a split sees in single rows and to its memory.
        place: of all splits' slopes.
        cotangent: of the energies.
    """
    splits, dtype = division.splits, energies.dtype
    before = np.arange(division.rows)[:, None] - division.tree.delays[:, 0]
    parents = jnp.where(before >= 0, at(energies, (before.clip(0), division.tree.parents)), 0.0)
    parents = jnp.where(parents <= division.threshold, 0.0, parents)

    def work(count: int, window: Array, memory: Array, parent: Array, made: Array, children: Array, row: Array) -> Any:
        if not count:
            return window, FADING * memory, jnp.zeros(splits, dtype)
        chosen = Chosen(count, parent)
        here, energy = chosen.of(parent), chosen.of(made)
        there = here != 0
        shares = jnp.where(there, 1 / jnp.where(there, here, 1.0), 0.0)[:, None] * energy
        # the memory is of energies as they are shown
        of_children = chosen.of(children) + 0.5 / (SMALL + energy) * chosen.of(memory)
        of_share = here * (of_children[:, 0] - of_children[:, 1])
        layer = (row - 1 - chosen.of(division.tree.levels)).clip(0, division.layers - 1)
        passed = of_share[:, None] * at(slopes, at(place, layer * splits + chosen.splits))[:, :PARTS]
        line = passed[:, :LINE].at[:, 0].add(jnp.sum(shares * of_children, axis=1))
        window = window.at[chosen.of(division.seen)].add(line, mode="promise_in_bounds")
        return window, FADING * memory + chosen.back(passed[:, LINE:]), chosen.back(of_share)

    def step(state: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Array]:
        every, memory = state
        row, needed, parent, made = inputs
        pairs = lambda x: x[:-2].reshape(splits, 2)
        children = jax.lax.dynamic_slice_in_dim(every, (row + division.depth) * division.width, division.width)
        window = jax.lax.dynamic_slice_in_dim(every, row * division.width, division.depth * division.width)
        operands = (window, memory, parent, pairs(made), pairs(children), row)
        window, memory, of_share = division.of_few(needed, work, *operands)
        every = jax.lax.dynamic_update_slice_in_dim(every, window, row * division.width, axis=0)
        return (every, memory), of_share

    start = (jnp.pad(cotangent, ((division.depth, 0), (0, 0))).reshape(-1), jnp.zeros((splits, 2), dtype))
    inputs = (np.arange(division.rows), jnp.sum(parents != 0, axis=1), parents, energies)
    (every, _), of_shares = jax.lax.scan(step, start, inputs, reverse=True)
    roots = every.reshape(-1, division.width)[division.depth :, division.tree.slots - 1]
    return division.by_layer(of_shares), roots[: division.layers]
