"""A voxel surrogate against full simulation it has not seen, with the features and classifiers of the CaloChallenge."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray

from diffhep.io.showers import Showers
from diffhep.surrogates.classifier import OURS, ClassifierSettings, classifier_auc
from diffhep.surrogates.features import voxel_features, voxel_low_level
from diffhep.surrogates.metrics import separation_power
from diffhep.surrogates.validation import check_stack, in_chunks, physics_distances
from diffhep.surrogates.voxel_fitting import tree_of
from diffhep.surrogates.voxels import VoxelSurrogate

CHUNK = 500


def sample_voxels(
    surrogate: VoxelSurrogate, showers: Showers, key: PRNGKeyArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One surrogate shower for each of the given ones: energies [GeV] of layers, and of cells (shower, layer, ...)."""
    return in_chunks(surrogate, showers, key, CHUNK)


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
    out |= physics_distances(*high)
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
