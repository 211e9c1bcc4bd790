r"""The energy of a layer, divided in halves again and again until it lies in cells.

First among rings, from the inside out, what misses all cells as the last of them; then each ring among halves,
quarters, ... in alpha. Children always add up to their parent, so energy is conserved, and what a shower does as a
whole (its axis, its width) is decided before details are.

Every split waits for what it looks at: its parent, the same split in the layers before, its neighbours, and the ring
inside. Splits of all layers that wait no longer are made together, split s of layer l at the time l + level(s).
"""

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpy.typing import NDArray

PARTS = 17  # numbers that a split sees of other splits
FADING = 0.8  # weight of a layer in the memory of the next one
OWN, BEFORE = 1, 2  # layers in front


@dataclass(frozen=True)
class Split:
    """One division of a node's energy in two.

    Attributes:
        parent: slot whose energy is divided; -1 is the layer itself.
        level: when it is made, relative to the first of its layer.
        kind: splits of one kind share their weights' offsets: rings one by one, and halves of a ring alike.
        ring: in which it is, -1 for a split among rings.
        depth: of a split in alpha, 0 for that of a whole ring.
        place: in alpha.
    """

    parent: int
    level: int
    kind: int
    ring: int = -1
    depth: int = 0
    place: int = 0


@dataclass(frozen=True)
class Tree:
    """All splits of a layer with cells in alpha and r.

    Children of split s have the slots 2 s (inner, or smaller alpha) and 2 s + 1.

    Attributes:
        alphas: cells in alpha, a power of two.
        rings: cells in r.

    Raises:
        ValueError: cells in alpha that cannot be halved down to one.
    """

    alphas: int = 16
    rings: int = 9

    def __post_init__(self):
        if self.alphas < 2 or self.alphas & (self.alphas - 1) or self.rings < 1:
            msg = f"cells: wanted a power of two in alpha and at least one ring, got {self.alphas} x {self.rings}"
            raise ValueError(msg)

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """Rings first, then alpha, ring by ring."""
        found, where = [], {}

        def divide(first: int, last: int, parent: int, level: int) -> None:
            if last - first == 1:
                where[first] = (parent, level)
                return
            middle, slot = (first + last) // 2, 2 * len(found)
            found.append(Split(parent, level, len(found)))
            divide(first, middle, slot, level + 1)
            divide(middle, last, slot + 1, level + 1)

        divide(0, self.rings + 1, -1, 0)
        start = max(level for _, level in where.values())
        for ring in range(self.rings):
            for depth in range(self.depths):
                kind = self.rings + ring * self.depths + depth
                for place in range(2**depth):
                    parent = where[ring][0] if not depth else 2 * self.at(ring, depth - 1, place // 2) + place % 2
                    # a ring waits for the one inside it
                    found.append(Split(parent, start + depth + ring, kind, ring, depth, place))
        return tuple(found)

    @property
    def depths(self) -> int:
        """How often a ring is halved."""
        return self.alphas.bit_length() - 1

    @property
    def kinds(self) -> int:
        """How many kinds of splits there are."""
        return self.rings * (1 + self.depths)

    def at(self, ring: int, depth: int, place: int) -> int:
        """The number of a split in alpha."""
        return self.rings + ring * (self.alphas - 1) + 2**depth - 1 + place % 2**depth

    @cached_property
    def levels(self) -> NDArray[np.int64]:
        """Of all splits."""
        return np.array([s.level for s in self.splits])

    @property
    def slots(self) -> int:
        """Children of all splits, and the layer itself as the last."""
        return 2 * len(self.splits) + 1

    @cached_property
    def parents(self) -> NDArray[np.int64]:
        """Slot that each split divides."""
        return np.array([s.parent % self.slots for s in self.splits])

    @cached_property
    def kind(self) -> NDArray[np.int64]:
        """Kind of each split."""
        return np.array([s.kind for s in self.splits])

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """What each split sees: (split, part, 2), slot and how many layers in front; slot -1 where there is nothing."""
        return np.array([self._seen(number) for number in range(len(self.splits))])

    def _seen(self, number: int) -> list[tuple[int, int]]:
        s = self.splits[number]
        left, right, nothing = 2 * number, 2 * number + 1, (-1, 0)
        seen = [(self.parents[number], 0), (left, OWN), (right, OWN), (left, BEFORE), (right, BEFORE)]
        if s.ring < 0:
            return [*seen, *[nothing] * (PARTS - 2 - len(seen))]
        # neighbours in alpha: as far as they are known already, and in the layer in front
        beside = [self.at(s.ring, s.depth, s.place + d) for d in (-1, 1)]
        known = [(self.parents[k], 0) if s.depth else nothing for k in (self._aside(s, -1), self._aside(s, 1))]
        before = [(2 * beside[0] + 1, OWN), (2 * beside[1], OWN)] if s.depth else [nothing, nothing]
        inside, outside = (
            self.at(r, s.depth, s.place) if 0 <= r < self.rings else -1 for r in (s.ring - 1, s.ring + 1)
        )
        rings = [self._node(number, k) for k in (inside, outside)]
        children = [(2 * inside, 0), (2 * inside + 1, 0)] if inside >= 0 else [nothing] * 2
        # the ring outside is made a step later, so that what it did in the layer in front comes too late
        further = [(2 * outside, BEFORE), (2 * outside + 1, BEFORE)] if outside >= 0 else [nothing] * 2
        return [*seen, *known, *before, *rings, *children, *further]

    def _aside(self, s: Split, by: int) -> int:
        """A split at the same depth whose parent is the neighbour of this one's."""
        return self.at(s.ring, s.depth, 2 * (s.place // 2 + by)) if s.depth else -1

    def _node(self, number: int, other: int) -> tuple[int, int]:
        """What another split divides: of this layer if it is known by then, otherwise of the layer in front."""
        if other < 0:
            return (-1, 0)
        slot = int(self.parents[other])
        return (slot, 0) if self.levels[number] > self.level_of(slot) else (slot, OWN)

    def level_of(self, slot: int) -> int:
        """When the energy of a slot is known; that of the layer itself before everything else."""
        return -1 if slot == self.slots - 1 else int(self.levels[slot // 2])

    @cached_property
    def delays(self) -> NDArray[np.int64]:
        """How many steps before a split the energies that it sees were made, (split, part); 1 is the step before."""
        found = np.ones(self.sources.shape[:2], dtype=int)
        for number, parts in enumerate(self.sources):
            for part, (slot, layers) in enumerate(parts):
                if slot >= 0:
                    found[number, part] = self.levels[number] - self.level_of(slot) + layers
        return found

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """Slot of every cell, (alpha, r)."""
        last = self.depths - 1
        pairs = [[2 * self.at(r, last, a // 2) + a % 2 for r in range(self.rings)] for a in range(self.alphas)]
        return np.array(pairs)

    def energies(
        self, layers: Float[Array, "*shape"], cells: Float[Array, "*shape alpha r"]
    ) -> Float[Array, "*shape slot"]:
        """Energies of all slots, given those of layers and of their cells; what misses the cells is the last ring."""
        rings = jnp.sum(cells, axis=-2)
        missed = jnp.maximum(layers - jnp.sum(rings, axis=-1), 0.0)
        leaves = jnp.concatenate([rings, missed[..., None]], axis=-1)
        found: list[Array] = []

        def divide(first: int, last: int) -> None:
            if last - first > 1:
                middle = (first + last) // 2
                found.extend(jnp.sum(leaves[..., i:j], axis=-1) for i, j in ((first, middle), (middle, last)))
                divide(first, middle)
                divide(middle, last)

        divide(0, self.rings + 1)
        parts = [jnp.stack(found, axis=-1)]
        for ring in range(self.rings):
            for depth in range(self.depths):
                halves = cells[..., ring].reshape(*layers.shape, 2 ** (depth + 1), -1)
                parts.append(jnp.sum(halves, axis=-1))
        return jnp.concatenate([*parts, jnp.sum(leaves, axis=-1)[..., None]], axis=-1)


def all_splits(tree: Tree, showers: int, layers: int) -> NDArray[np.int64]:
    """Shower, layer and split of all splits, (row, 3)."""
    return np.indices((showers, layers, len(tree.splits))).reshape(3, -1).T


def memories(values: Float[Array, "shower layer slot"]) -> Float[Array, "shower layer split 2"]:
    """What splits remember of the layers in front: their own children, fading.

    Args:
        values: of all slots, as the network is to see them.
    """
    distance = np.arange(values.shape[1])[:, None] - np.arange(values.shape[1])
    weights = np.where(distance > 0, FADING ** np.maximum(distance - 1.0, 0.0), 0.0)
    past = jnp.einsum("km,...mc->...kc", weights.astype(values.dtype), values[..., :-1])
    return past.reshape(*past.shape[:-1], -1, 2)


def contexts(
    tree: Tree,
    values: Float[Array, "shower layer slot"],
    past: Float[Array, "shower layer split 2"],
    rows: ArrayLike,
) -> Float[Array, "row part"]:
    """What splits see of others, when all energies are known.

    Args:
        tree: the splits.
        values: of all slots, as the network is to see them.
        past: their `memories`.
        rows: shower, layer and split, (row, 3).
    """
    shower, layer, split = jnp.asarray(rows).T
    sources = jnp.asarray(tree.sources)[split]
    slot, at = sources[..., 0], layer[:, None] - sources[..., 1]
    there = (slot >= 0) & (at >= 0)
    seen = jnp.where(there, values[shower[:, None], jnp.maximum(at, 0), slot], 0.0)
    return jnp.concatenate([seen, past[shower, layer, split]], axis=-1)
