r"""Sixteen high-level features of a jet: groomed mass, energy correlation functions, multiplicity.

With the shares of the transverse momentum $z_i = p_{Ti}/\sum_j p_{Tj}$ and the distances
$R_{ij}^2 = (y_i - y_j)^2 + (\phi_i - \phi_j)^2$, over pairs and triples of the constituents of the groomed jet,

$e_2^{(\beta)} = \sum_{i<j} z_i z_j R_{ij}^\beta$ and
${}_ke_3^{(\beta)} = \sum_{i<j<l} z_i z_j z_l\,(\text{product of the } k \text{ smallest distances})^\beta$,
$e_3 = {}_3e_3$,

- $C_1 = e_2$, $C_2 = e_3/e_2^2$ (Larkoski, Salam, Thaler, arXiv:1305.0007),
- $D_2^{(\alpha,\beta)} = e_3^{(\alpha)}/(e_2^{(\beta)})^{3\alpha/\beta}$, $D_2^{(\beta)} = D_2^{(\beta,\beta)}$
  (Larkoski, Moult, Neill, arXiv:1409.6298),
- $M_2 = {}_1e_3/e_2$, $N_2 = {}_2e_3/e_2^2$ (Moult, Necib, Thaler, arXiv:1609.07483).

$\sum z \log z$ and the multiplicity are those of the jet as it was found, all others of what is left after grooming.
The list is that of arXiv:1709.08705 and of the public data set `hls4ml_lhc_jets_hlf`, whose names these are; `d2_a1_b1`
is `d2_b1` by definition. No constituent is left out: time grows with the cube of their number, memory with its square.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

FEATURES = (
    "zlogz",
    *("c1_b0_mmdt", "c1_b1_mmdt", "c1_b2_mmdt", "c2_b1_mmdt", "c2_b2_mmdt"),
    *("d2_b1_mmdt", "d2_b2_mmdt", "d2_a1_b1_mmdt", "d2_a1_b2_mmdt"),
    *("m2_b1_mmdt", "m2_b2_mmdt", "n2_b1_mmdt", "n2_b2_mmdt"),
    *("mass_mmdt", "multiplicity"),
)
# numbers in one array of the sums over triples: what stays in a cache of 1 MB, and what bounds the memory
CHUNK = 2**15
# below it e2 is a rounding error: two constituents of a jet are resolved down to a distance of 1e-8
LEAST = 1e-30


@dataclasses.dataclass(frozen=True)
class Correlations:
    """Energy correlation functions, normalised, each (jet,).

    Attributes:
        e2: for each exponent 0, 1 and 2, (3, jet).
        e3: of three points with k = 1, 2 and 3 distances, for the exponents 1 and 2, (3, 2, jet).
    """

    e2: np.ndarray
    e3: np.ndarray


def high_level_features(
    momentum: np.ndarray, counts: ArrayLike, groomed: np.ndarray, groomed_counts: ArrayLike
) -> np.ndarray:
    """The features `FEATURES` of jets, (jet, 16) in float64; the mass in GeV.

    What has no value is 0: ratios of a jet with one groomed constituent, or with all of them in one direction.

    Args:
        momentum: px, py, pz, E of the constituents of one jet after the other [GeV], (particle, 4).
        counts: number of constituents of each jet, (jet,).
        groomed: px, py, pz, E of the constituents that are left after grooming [GeV], (particle, 4).
        groomed_counts: their numbers, (jet,).

    Raises:
        ValueError: the numbers do not add up, a jet is empty, or a constituent has no transverse momentum.

    >>> jet = np.array([[300.0, 0, 0, 300], [200.0, 20, 0, 201]])
    >>> dict(zip(FEATURES, high_level_features(jet, [2], jet, [2])[0].round(3).tolist()))["c1_b0_mmdt"]
    0.24
    """
    shares = transverse(momentum, counts)[0]
    pt, rapidity, phi = transverse(groomed, groomed_counts)
    if len(shares) != len(pt):
        msg = f"the numbers of constituents are those of {len(shares)} jets, the groomed ones of {len(pt)}"
        raise ValueError(msg)
    found = correlations(pt, rapidity, phi)
    (_, e2_b1, e2_b2), ((m_b1, m_b2), (n_b1, n_b2), (e3_b1, e3_b2)) = found.e2, found.e3
    z = shares / shares.sum(axis=1, keepdims=True)
    total = jet_sums(np.asarray(groomed, float), groomed_counts)
    mass2 = total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1)
    d2_b1 = ratio(e3_b1, e2_b1, 3)
    columns = (
        (z * np.log(np.where(z > 0, z, 1.0))).sum(axis=1),
        *found.e2,
        ratio(e3_b1, e2_b1, 2),
        ratio(e3_b2, e2_b2, 2),
        d2_b1,
        ratio(e3_b2, e2_b2, 3),
        d2_b1,
        ratio(e3_b1, e2_b2, 1.5),
        ratio(m_b1, e2_b1, 1),
        ratio(m_b2, e2_b2, 1),
        ratio(n_b1, e2_b1, 2),
        ratio(n_b2, e2_b2, 2),
        np.sqrt(np.maximum(mass2, 0.0)),
        np.asarray(counts, float),
    )
    return np.stack(columns, axis=1)


def transverse(momentum: np.ndarray, counts: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transverse momentum [GeV], rapidity and azimuth [rad] of constituents, each (jet, constituent), padded with 0.

    Raises:
        ValueError: the numbers do not add up, a jet is empty, or a constituent has no transverse momentum.
    """
    momentum, counts = np.asarray(momentum, float), np.asarray(counts)
    if momentum.shape != (counts.sum(), 4):
        msg = f"momenta: wanted the shape {(int(counts.sum()), 4)} for these jets, got {momentum.shape}"
        raise ValueError(msg)
    if counts.size and counts.min() < 1:
        msg = f"jet {int(np.argmin(counts))} has no constituent"
        raise ValueError(msg)
    px, py, pz, energy = momentum.T
    pt = np.hypot(px, py)
    if not (pt > 0).all():
        msg = (
            f"constituent {int(np.argmin(pt > 0))} has the transverse momentum {pt[np.argmin(pt > 0)]} GeV, wanted more"
        )
        raise ValueError(msg)
    # E + |pz| never cancels, and a mass below 0 is a rounding error
    mass2 = np.maximum(energy**2 - pt**2 - pz**2, 0.0)
    rapidity = np.copysign(np.log((energy + np.abs(pz)) / np.sqrt(pt**2 + mass2)), pz)
    filled = np.arange(counts.max(initial=0)) < counts[:, None]
    padded = np.zeros((3, *filled.shape))
    padded[:, filled] = pt, rapidity, np.arctan2(py, px)
    return padded[0], padded[1], padded[2]


def correlations(pt: np.ndarray, rapidity: np.ndarray, phi: np.ndarray) -> Correlations:
    """Energy correlation functions of jets whose constituents are padded with a pt of 0.

    Args:
        pt: [GeV], (jet, constituent).
        rapidity: (jet, constituent).
        phi: [rad], (jet, constituent).
    """
    e2, e3 = np.zeros((3, len(pt))), np.zeros((3, 2, len(pt)))
    counts = (pt > 0).sum(axis=1)
    # hardest first, so that what is left out is padding only
    order = np.argsort(-pt, axis=1, kind="stable")
    pt, rapidity, phi = (np.take_along_axis(x, order, axis=1) for x in (pt, rapidity, phi))
    for rows, width in chunks(counts):
        z = pt[rows, :width] / pt[rows].sum(axis=1, keepdims=True)
        y, azimuth = rapidity[rows, :width], phi[rows, :width]
        dphi = np.abs(azimuth[:, :, None] - azimuth[:, None, :])
        distance = np.hypot(y[:, :, None] - y[:, None, :], np.minimum(dphi, 2 * np.pi - dphi))
        pairs = z[:, :, None] * z[:, None, :]
        e2[0, rows] = (1 - (z**2).sum(axis=1)) / 2
        root = np.sqrt(pairs)
        for beta, edge in ((1, root * distance), (2, root * distance**2)):
            e2[beta, rows] = np.einsum("jab,jab->j", edge, root) / 2
            # every triangle is walked along in six ways
            e3[2, beta - 1, rows] = np.einsum("jab,jab->j", edge @ edge, edge) / 6
        e3[:2, :, rows] = smallest_distances(z, pairs, distance)
    return Correlations(np.maximum(e2, 0.0), e3)


def smallest_distances(z: np.ndarray, pairs: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Three-point functions with the smallest distance and with the two smallest, (2, exponent 1 and 2, jet).

    Args:
        z: shares, (jet, constituent).
        pairs: their products, (jet, constituent, constituent).
        distance: (jet, constituent, constituent).
    """
    sums = np.zeros((2, 2, len(z)))
    for k in range(2, z.shape[1]):
        near, first, second = distance[:, :k, :k], distance[:, :k, k, None], distance[:, k, None, :k]
        low = np.minimum(first, second)
        # one of the two smallest is the smaller of these two
        two = low * np.minimum(np.maximum(first, second), near)
        one = np.minimum(low, near)
        for row, product in enumerate((one, two)):
            weighted = pairs[:, :k, :k] * product
            # of the pairs below k, each comes twice
            sums[row, 0] += weighted.sum(axis=(1, 2)) * z[:, k] / 2
            sums[row, 1] += np.einsum("jab,jab->j", weighted, product) * z[:, k] / 2
    return sums


def chunks(counts: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of jets with about as many constituents, and the most that one of them has."""
    order = np.argsort(counts, kind="stable")[::-1]
    start = 0
    while start < len(order):
        width = int(counts[order[start]])
        rows = order[start : start + max(1, CHUNK // width**2)]
        yield rows, width
        start += len(rows)


def ratio(above: np.ndarray, below: np.ndarray, power: float) -> np.ndarray:
    """A quotient, above / below^power, and 0 where below is nothing but a rounding error."""
    return np.where(below > LEAST, above / np.where(below > LEAST, below, 1.0) ** power, 0.0)


def jet_sums(values: np.ndarray, counts: ArrayLike) -> np.ndarray:
    """Sums over the constituents of each jet, none of which is empty, (jet, ...)."""
    return np.add.reduceat(values, np.cumsum(counts) - np.asarray(counts), axis=0)
