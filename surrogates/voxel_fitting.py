"""Training of a voxel surrogate: first the layers, as any other surrogate, then the splits below them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from diffhep.io.run import RunFolder
from diffhep.io.showers import Showers
from diffhep.surrogates.autoregressive import AutoregressiveSurrogate
from diffhep.surrogates.chain import shown
from diffhep.surrogates.config import SurrogateSettings
from diffhep.surrogates.coordinates import cut
from diffhep.surrogates.fitting import Phases, Progress, fit_surrogate
from diffhep.surrogates.kinds import empty_voxels
from diffhep.surrogates.splits import Tree, all_splits, contexts, memories
from diffhep.surrogates.splitter import Splitter, split_surprise
from diffhep.surrogates.stack import guess, incidence_of
from diffhep.surrogates.voxels import VoxelSurrogate, about_layers, shares

CHUNK = 250  # showers whose splits are found together
UPRIGHT = 1e-3  # rad: showers at a greater angle have no symmetry in alpha


class Lessons(NamedTuple):
    """Splits to learn from; `layer` says in which row of `about` theirs is."""

    seen: Float[Array, "row part"]
    layer: Int[Array, " row"]
    kind: Int[Array, " row"]
    y: Float[Array, " row"]


def fit_voxels(
    settings: SurrogateSettings,
    showers: Showers,
    *,
    run: RunFolder | None = None,
    progress: Progress | None = None,
) -> VoxelSurrogate:
    """Train a voxel surrogate.

    Args:
        settings: the training; `network.kind` is "voxels".
        showers: what it is trained on, with cells in alpha and r, along the normal of the layers.
        run: where checkpoints and the curve go; a run that was killed goes on. None keeps everything in memory.
        progress: called with phase and fraction done.

    Raises:
        ValueError: showers without such cells, or at an angle; otherwise as `fit_surrogate`.
    """
    tree = tree_of(showers)
    layers = fit_surrogate(settings, showers, run=run, progress=progress)
    assert isinstance(layers, AutoregressiveSurrogate)
    schedule, key = settings.schedule, jr.fold_in(jr.key(settings.schedule.seed), 11)
    about, lessons = lessons_of(layers, tree, showers, settings.threshold, seed=schedule.seed)
    order = np.random.default_rng(schedule.seed).permutation(lessons.y.size)
    kept = lessons.y.size - max(1, round(schedule.held_out * lessons.y.size))
    parts = [jax.tree.map(lambda v, rows=rows: v[rows], lessons) for rows in (order[:kept], order[kept:])]

    def loss(net: Splitter, batch: Lessons, key: PRNGKeyArray) -> Array:
        del key
        return jnp.mean(split_surprise(net, about[batch.layer], batch.seen, batch.kind, batch.y))

    phases = Phases(settings, run, progress, batch=schedule.rows)
    untrained = empty_voxels(settings, layers.stack, tree)
    net = phases.train("splits", untrained.splitter, loss, parts, schedule.splits, jr.fold_in(key, 2))
    return VoxelSurrogate(layers, net, tree, settings.threshold)


def tree_of(showers: Showers) -> Tree:
    """The splits of the cells that showers have.

    Raises:
        ValueError: no cells in alpha and r, or showers at an angle.
    """
    made = showers.config.get("calorimeter", {}).get("cells") or {}
    if showers.cells is None or made.get("kind") != "polar":
        msg = "cells: a voxel surrogate is trained on cells in alpha and r; make them with --cells polar"
        raise ValueError(msg)
    if showers.angle.max() > UPRIGHT:
        msg = f"angle: a voxel surrogate knows showers along the normal, got {showers.angle.max():g} rad"
        raise ValueError(msg)
    return Tree(*showers.cells.shape[2:])


def lessons_of(
    layers: AutoregressiveSurrogate, tree: Tree, showers: Showers, threshold: float, *, seed: int
) -> tuple[Float[Array, "layer about"], Lessons]:
    """Every split of more than the threshold, with what it sees; each shower turned and mirrored at random."""
    rng = np.random.default_rng([seed, 5])
    cells = turned(np.asarray(showers.cells, np.float32), rng)
    cells = np.where(cells < threshold, 0.0, cells)
    energy = np.asarray(cut(jnp.asarray(showers.active_energy, jnp.float32), threshold))
    x = incidence_of(showers, jnp.float32)
    about = jax.jit(lambda x, e: about_layers(guess(layers.stack, x), e))(x, energy).astype(jnp.float32)
    every = all_splits(tree, CHUNK, energy.shape[1])

    @jax.jit
    def observe(energy: Array, cells: Array) -> tuple[tuple[Array, Array], Array, Array]:
        energies = tree.energies(energy, cells)
        values = shown(energies)
        return ((values, memories(values)), *shares(tree, energies, every, threshold))

    see = jax.jit(lambda values, rows: contexts(tree, *values, rows))
    found: list[list[NDArray[Any]]] = []
    for first in range(0, showers.size, CHUNK):
        here = np.minimum(np.arange(first, first + CHUNK), showers.size - 1)
        values, y, real = observe(energy[here], cells[here])
        rows = np.flatnonzero(np.asarray(real) & (every[:, 0] < showers.size - first))
        # a multiple of a large number of rows, so that few programs are compiled
        padded = np.resize(rows, -(-len(rows) // 50_000) * 50_000)
        seen = np.asarray(see(values, every[padded]))[: len(rows)]
        layer = (first + every[rows, 0]) * energy.shape[1] + every[rows, 1]
        found.append([seen, layer, tree.kind[every[rows, 2]], np.asarray(y)[rows]])
    columns = [jnp.asarray(np.concatenate(column)) for column in zip(*found, strict=True)]
    return about.reshape(-1, about.shape[-1]), Lessons(*columns)


def turned(cells: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """Every shower turned by a multiple of a cell in alpha, and half of them mirrored."""
    n, alphas = cells.shape[0], cells.shape[2]
    at = np.arange(alphas) * rng.choice([-1, 1], (n, 1)) + rng.integers(0, alphas, (n, 1))
    return np.take_along_axis(cells, (at % alphas)[:, None, :, None], axis=2)
