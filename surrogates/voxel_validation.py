"""A voxel surrogate against full simulation it has not seen, with the features and classifiers of the CaloChallenge."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray

from diffhep.io.showers import Showers
from diffhep.surrogates.classifier import OURS, ClassifierSettings, classifier_auc
from diffhep.surrogates.features import voxel_features, voxel_low_level
from diffhep.surrogates.metrics import frechet_physics_distance, kernel_physics_distance, separation_power
from diffhep.surrogates.stack import incidence_of
from diffhep.surrogates.validation import check_stack
from diffhep.surrogates.voxel_fitting import tree_of
from diffhep.surrogates.voxels import VoxelSurrogate

CHUNK = 500


def sample_voxels(
    surrogate: VoxelSurrogate, showers: Showers, key: PRNGKeyArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One surrogate shower for each of the given ones: energies [GeV] of layers, and of cells (shower, layer, ...)."""
    x = incidence_of(showers)
    run = eqx.filter_jit(lambda s, x, key: s.sample(x, key=key))
    layers, cells = [], []
    for i in range(0, showers.size, CHUNK):
        # the last chunk is filled up, so that one program serves all
        rows = np.minimum(np.arange(i, i + CHUNK), showers.size - 1)
        parts = run(surrogate, jax.tree.map(itemgetter(rows), x), jr.fold_in(key, i))
        for found, part in zip((layers, cells), parts, strict=True):
            found.append(np.asarray(part, dtype=float)[: showers.size - i])
    return np.concatenate(layers), np.concatenate(cells)


def validate_voxels(
    surrogate: VoxelSurrogate,
    showers: Showers,
    *,
    key: PRNGKeyArray,
    progress: Callable[[str, float], None] | None = None,
    classifier: ClassifierSettings = OURS,
) -> dict[str, Any]:
    """Everything that is measured of the cells, as JSON can hold it; the layers alone are `validate`'s.

    Args:
        surrogate: what is judged.
        showers: full simulation that it was not trained on, with cells.
        key: of the surrogate's showers.
        progress: called with phase and fraction done.
        classifier: network and training of the classifiers.

    Raises:
        ValueError: showers of another stack or with other cells than the surrogate's.
    """
    progress = progress or (lambda phase, done: None)
    check_stack(surrogate.layers, showers)
    if tree_of(showers) != surrogate.tree:
        wanted, got = ((tree.alphas, tree.rings) for tree in (surrogate.tree, tree_of(showers)))
        msg = f"cells: the surrogate is of {wanted} in alpha and r, the showers have {got}"
        raise ValueError(msg)
    progress("voxels", 0.0)
    made = sample_voxels(surrogate, showers, key)[1]
    assert showers.cells is not None
    real = np.where(showers.cells < surrogate.threshold, 0.0, showers.cells.astype(float))
    progress("voxels", 0.4)
    high = [voxel_features(showers.energy, x) for x in (real, made)]
    low = [voxel_low_level(showers.energy, x) for x in (real, made)]
    out: dict[str, Any] = {"auc": {"high": classifier_auc(high[0], high[1], classifier)}}
    progress("voxels", 0.6)
    out["auc"]["low"] = classifier_auc(low[0], low[1], classifier)
    progress("voxels", 0.9)
    half = len(real) // 2
    sizes = {"least": half // 2, "most": half}
    for name, pair in (("", (high[0][:half], high[1][half:])), ("_floor", (high[0][:half], high[0][half:]))):
        fpd = frechet_physics_distance(pair[0], pair[1], **sizes)
        kpd = kernel_physics_distance(pair[0], pair[1], size=min(2000, half))
        out[f"fpd{name}"] = {"value": fpd.value, "stderr": fpd.stderr}
        out[f"kpd{name}"] = {"value": kpd.value, "stderr": kpd.stderr}
    out |= profiles(real, made)
    progress("voxels", 1.0)
    return out


def profiles(real: NDArray, made: NDArray) -> dict[str, Any]:
    """Mean energies of the rings, cells hit, and how well single cells' spectra agree."""
    hits = [(x > 0).sum(axis=(1, 2, 3)) for x in (real, made)]
    positive = [x[x > 0] for x in (real, made)]
    edges = np.geomspace(min(positive[0].min(), positive[1].min()), 1.001 * max(x.max() for x in positive), 51)
    rings = [x.sum(axis=(0, 1, 2)) / x.sum() for x in (real, made)]
    return {
        "hits": {
            "real": float(hits[0].mean()),
            "made": float(hits[1].mean()),
            "separation": separation_power(hits[0], hits[1], np.linspace(0, max(hits[0].max(), hits[1].max()) + 1, 51)),
        },
        "cell_energy_separation": separation_power(positive[0], positive[1], edges),
        "rings": {"real": rings[0].tolist(), "made": rings[1].tolist()},
        "response_ratio": float(made.sum() / real.sum()),
    }
