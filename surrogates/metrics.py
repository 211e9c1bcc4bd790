r"""How alike two samples of showers are, in numbers; NumPy and SciPy only.

Definitions of the CaloChallenge (arXiv:2410.21611) and of the JetNet library (arXiv:2211.10295), so that numbers
compare. The classifier, which is trained, is in `diffhep.surrogates.classifier`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.stats import rankdata, wasserstein_distance

Sample = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float


def separation_power(one: Sample, two: Sample, edges: Sample) -> float:
    r"""$\frac12\sum_i (h_i - g_i)^2/(h_i + g_i)$ of two histograms normalised in their range (arXiv:2009.03796 eq. 15).

    Args:
        one: values, any shape.
        two: values, any shape.
        edges: of the bins.

    >>> separation_power(np.array([0.5]), np.array([1.5]), np.array([0.0, 1.0, 2.0]))
    1.0
    """
    h, g = (np.histogram(x, edges)[0].astype(float) for x in (one, two))
    h, g = h / max(h.sum(), 1.0), g / max(g.sum(), 1.0)
    return float(0.5 * np.sum((h - g) ** 2 / (h + g + 1e-16)))


def wasserstein(reference: Sample, other: Sample) -> float:
    """Wasserstein distance of two one-dimensional samples, in standard deviations of the reference.

    >>> wasserstein(np.array([0.0, 2.0]), np.array([1.0, 3.0]))
    1.0
    """
    spread = float(np.std(reference))
    return float(wasserstein_distance(reference, other)) / (spread if spread > 0 else 1.0)


def auc(positive: Sample, negative: Sample) -> float:
    """Area under the receiver operating characteristic of scores, ties counted half.

    >>> auc(np.array([0.9, 0.8]), np.array([0.1, 0.8]))
    0.875
    """
    ranks = rankdata(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def frechet_distance(one: Sample, two: Sample) -> float:
    r"""$|\mu_1 - \mu_2|^2 + \mathrm{Tr}[S_1 + S_2 - 2(S_1 S_2)^{1/2}]$ of two samples (row, feature)."""
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    # the trace of the root of a product of two covariances, by a symmetric eigenproblem
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0.0)).sum()
    shift = one.mean(axis=0) - two.mean(axis=0)
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * cross)


def _scaled(reference: Sample, other: Sample) -> tuple[Sample, Sample]:
    largest = np.abs(reference).max(axis=0)
    largest = np.where(largest > 0, largest, 1.0)
    return reference / largest, other / largest


def frechet_physics_distance(
    reference: Sample, other: Sample, *, least: int = 10_000, most: int = 50_000, sizes: int = 10, draws: int = 20
) -> Estimate:
    """FPD of high-level features (row, feature): the Frechet distance extrapolated to infinite samples.

    Sizes are equally spaced in 1/N; at each, the mean over draws with replacement (`default_rng(42)`, reference
    first); a line in 1/N with neither slope nor intercept negative is fitted, and its intercept is the distance.
    """
    reference, other = _scaled(reference, other)
    rng = np.random.default_rng(42)
    counts = (1 / np.linspace(1 / least, 1 / most, sizes)).astype(int)
    values = []
    for n in counts:
        distances = []
        for _ in range(draws):
            one = reference[rng.choice(len(reference), n)]
            distances.append(frechet_distance(one, other[rng.choice(len(other), n)]))
        values.append(np.mean(distances))
    fitted, errors = curve_fit(
        lambda x, a, b: a + b * x, 1 / counts, values, p0=(0.0, 1.0), bounds=([0, 0], [10, np.inf])
    )
    return Estimate(float(fitted[0]), float(np.sqrt(np.diag(errors))[0]))


def kernel_physics_distance(reference: Sample, other: Sample, *, size: int = 10_000, batches: int = 10) -> Estimate:
    """KPD of high-level features (row, feature): the unbiased squared MMD with a kernel of fourth degree.

    Median over batches, batch i drawn with replacement by `default_rng(42 + 1000 i)`; may be negative.
    """
    reference, other = _scaled(reference, other)
    features = reference.shape[1]
    kernel = lambda x, y: (x @ y.T / features + 1) ** 4
    found = []
    for i in range(batches):
        rng = np.random.default_rng(42 + 1000 * i)
        x = reference[rng.choice(len(reference), size)]
        y = other[rng.choice(len(other), size)]
        xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
        inside = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        found.append(inside - 2 * xy.mean())
    low, high = np.percentile(found, [16.275, 83.725])
    return Estimate(float(np.median(found)), float(high - low) / 2)


def resolution(total: Sample) -> Estimate:
    """Relative standard deviation of measured energies; its error with the fourth moment, so for any shape.

    >>> resolution(np.array([0.9, 1.1])).value.round(4)
    0.1414
    """
    mean, spread = total.mean(), total.std(ddof=1)
    excess = np.mean((total - mean) ** 4) / total.var() ** 2 - 1 if spread > 0 else 0.0
    return Estimate(float(spread / mean), float(spread / mean * np.sqrt(max(excess, 0.0) / len(total)) / 2))
