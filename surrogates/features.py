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


def voxel_features(energy: NDArray, cells: NDArray) -> NDArray[np.float64]:
    """Incident, total and layer energies; in every layer the share of empty cells, and centre and width in x, y and r.

    As the CaloChallenge has them (arXiv:2410.21611), lengths in units of a cell's width in r.

    Args:
        energy: of the particle [GeV], (shower,).
        cells: energies [GeV], (shower, layer, alpha, r), zero where empty.
    """
    logarithm = lambda x: np.log10(1e3 * x + 1e-8)
    alphas, rings = cells.shape[2:]
    angle = 2 * np.pi * (np.arange(alphas) + 0.5) / alphas
    r = np.arange(rings) + 0.5
    layers = cells.sum(axis=(2, 3))
    columns = [logarithm(energy)[:, None], logarithm(layers.sum(axis=1))[:, None], logarithm(layers)]
    columns.append((cells <= 0).mean(axis=(2, 3)))
    for direction in (np.cos(angle), np.sin(angle), np.ones(alphas)):
        place = direction[:, None] * r
        mean, square = (np.einsum("nlar,ar->nl", cells, p) / (layers + TINY) for p in (place, place**2))
        columns += [mean, np.sqrt(np.maximum(square - mean**2, 0.0))]
    return np.concatenate(columns, axis=1)


def voxel_low_level(energy: NDArray, cells: NDArray) -> NDArray[np.float64]:
    """log10 of the incident energy, and energies of all cells in units of it: (shower, 1 + cell)."""
    return np.concatenate([np.log10(1e3 * energy)[:, None], cells.reshape(len(cells), -1) / energy[:, None]], axis=1)
