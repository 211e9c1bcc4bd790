r"""Energies in the cells of every layer: a surrogate of layer energies, and below it splits of each energy in two.

A split sends everything to one child with learned probabilities, and otherwise
$f = \sigma(y)$ of it to the first one, $y$ from a learned quantile function; see `diffhep.surrogates.splits`. A
standard normal number becomes a split through $u = \Phi(z)$: below the first probability everything goes to the
second child, above one minus the second to the first child, and in between $f$ runs from 0 to 1. So energies are
continuous in the random numbers and in the stack, their sum, with what misses all cells, is that of the layer, and the
density is known.
"""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffhep.surrogates.autoregressive import LEAST, AutoregressiveSurrogate
from diffhep.surrogates.chain import shown
from diffhep.surrogates.coordinates import cut
from diffhep.surrogates.division import Division, divide
from diffhep.surrogates.splits import Tree, all_splits, contexts, memories
from diffhep.surrogates.splitter import ABOUT, Splitter, split_surprise
from diffhep.surrogates.stack import Guess, Incidence, guess, running_sum


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
                it energies are continuous in random numbers and stack. Derivatives are those of reverse mode
                (`jax.grad`, `jax.jacrev`, and of these again), the only one.

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
        """Energies of the cells of one shower [GeV], given those of its layers; one standard normal number a split.

        Derivatives in reverse mode only; an empty layer stays empty.
        """
        division = Division(self.tree, layers.size, self.threshold if hard else 0.0)
        return division.cells(divide(division, self.splitter, about, layers, noise.astype(self.splitter.seen.dtype)))

    def log_prob(
        self, layers: Float[Array, "shower layer"], cells: Float[Array, "shower layer alpha r"], x: Incidence
    ) -> Float[Array, " shower"]:
        """Logarithm of the density of layer energies and of the shares of all splits of more than the threshold."""
        tree = self.tree
        rows = all_splits(tree, *layers.shape)
        about, energies = self.about(x, layers), tree.energies(layers, cells)
        y, real = shares(tree, energies, rows, self.threshold)
        kind = jnp.asarray(tree.kind)[rows[:, 2]]
        values = shown(energies)
        found = contexts(tree, values, memories(values), rows)
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
