"""High-level features of showers, as the CaloChallenge defines them: what classifiers and distances look at."""

import numpy as np
from numpy.typing import NDArray

TINY = 1e-16


def energy_features(energy: NDArray, layers: NDArray, threshold: float) -> NDArray[np.float64]:
    """log10 of the incident, layer and total energies, and which layers are empty: (shower, 2 + 2 layer).

    Args:
        energy: of the particle [GeV], (shower,).
        layers: energy of every layer [GeV], (shower, layer).
        threshold: below it a layer is empty [GeV].
    """
    # in MeV, as everywhere in the CaloChallenge
    logarithm = lambda x: np.log10(1e3 * x + 1e-8)
    kept = np.where(layers < threshold, 0.0, layers)
    total = logarithm(kept.sum(axis=1))[:, None]
    empty = (kept <= 0).astype(float)
    return np.concatenate([np.log10(1e3 * energy)[:, None], logarithm(kept), total, empty], axis=1)


def low_level(energy: NDArray, layers: NDArray, threshold: float) -> NDArray[np.float64]:
    """log10 of the incident energy, and energies of all layers in units of it: (shower, 1 + layer)."""
    kept = np.where(layers < threshold, 0.0, layers)
    return np.concatenate([np.log10(1e3 * energy)[:, None], kept / energy[:, None]], axis=1)
