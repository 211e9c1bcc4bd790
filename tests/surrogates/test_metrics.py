"""Metrics against closed forms and their published definitions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm
from scipy.stats import norm

from diffhep.surrogates import (
    ClassifierSettings,
    auc,
    classifier_auc,
    frechet_distance,
    frechet_physics_distance,
    kernel_physics_distance,
    separation_power,
    wasserstein,
)
from diffhep.surrogates.metrics import resolution
from diffhep.surrogates.validation import physics_distances

QUICK = ClassifierSettings(width=32, epochs=30, batch=200, rate=3e-3)


def gauss(n: int, seed: int, *, shift: float = 0.0, scale: float = 1.0, size: int = 3) -> np.ndarray:
    return shift + scale * np.random.default_rng(seed).normal(size=(n, size))


def test_auc_of_two_normal_distributions():
    a, b = gauss(200_000, 1, shift=1.0, size=1)[:, 0], gauss(200_000, 2, size=1)[:, 0]
    # closed form Phi(shift/sqrt 2); the standard error of the estimate is 0.0008
    assert_allclose(auc(a, b), norm.cdf(1 / np.sqrt(2)), atol=0.004)


def test_auc_counts_pairs():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
    assert_allclose(auc(a, b), pairs, rtol=1e-12)


def test_frechet_distance_is_the_definition():
    one, two = gauss(500, 1), gauss(500, 2, shift=0.3, scale=1.5) @ np.array([[1, 0.3, 0], [0, 1, 0.2], [0, 0, 1.0]])
    s1, s2 = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    shift = one.mean(axis=0) - two.mean(axis=0)
    wanted = shift @ shift + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert_allclose(frechet_distance(one, two), wanted, rtol=1e-8)


def test_fpd_of_shifted_samples_is_the_squared_shift():
    n = 20_000
    reference, other = gauss(n, 1), gauss(n, 2, shift=0.5)
    largest = np.abs(reference).max(axis=0)
    found = frechet_physics_distance(reference, other, least=2000, most=20_000, draws=5)
    # the means of 20 000 fluctuate by 0.01 each: 3 % of the squared shift
    assert_allclose(found.value, np.sum((0.5 / largest) ** 2), rtol=0.1)
    floor = frechet_physics_distance(reference, gauss(n, 3), least=2000, most=20_000, draws=5)
    assert floor.value < 0.02 * found.value


def test_the_order_of_the_showers_does_not_matter_to_the_distances():
    """A file may hold one stack after the other: halves of it are then of different stacks."""
    stacks = np.concatenate([gauss(1000, 1), gauss(1000, 2, shift=5.0)])
    again = np.concatenate([gauss(1000, 3), gauss(1000, 4, shift=5.0)])
    found = physics_distances(stacks, again)
    assert abs(found["fpd"]["value"]) < 4 * found["fpd"]["stderr"] + 0.002
    assert abs(found["fpd_floor"]["value"]) < 4 * found["fpd_floor"]["stderr"] + 0.002
    other = physics_distances(stacks, again + 2.0)
    assert other["fpd"]["value"] > 0.1
    assert other["fpd_floor"]["value"] == found["fpd_floor"]["value"]


def test_kpd_is_the_unbiased_discrepancy_of_a_kernel_of_degree_four():
    reference, other = gauss(60, 1), gauss(60, 2, shift=0.4)
    found = kernel_physics_distance(reference, other, size=40, batches=3)
    largest = np.abs(reference).max(axis=0)
    values = []
    for i in range(3):
        rng = np.random.default_rng(42 + 1000 * i)
        x = (reference / largest)[rng.choice(60, 40)]
        y = (other / largest)[rng.choice(60, 40)]
        k = lambda a, b: (a @ b / 3 + 1) ** 4
        same = sum(k(x[a], x[b]) + k(y[a], y[b]) for a in range(40) for b in range(40) if a != b) / (40 * 39)
        values.append(same - 2 * np.mean([[k(a, b) for b in y] for a in x]))
    assert_allclose(found.value, np.median(values), rtol=1e-10)


def test_separation_power_is_zero_for_equal_and_one_for_disjoint_histograms():
    edges = np.linspace(0, 1, 11)
    x = np.random.default_rng(0).uniform(0, 0.5, 1000)
    assert separation_power(x, x, edges) == 0.0
    assert_allclose(separation_power(x, x + 0.5, edges), 1.0)


def test_wasserstein_of_a_shift_is_the_shift_in_standard_deviations():
    x = gauss(1000, 1, size=1)[:, 0]
    assert_allclose(wasserstein(x, x + 0.7), 0.7 / x.std(), rtol=1e-12)


def test_the_error_of_a_resolution_is_that_of_many_samples():
    rng = np.random.default_rng(5)
    found = [resolution(rng.normal(1.0, 0.1, 400)) for _ in range(400)]
    values, errors = np.array(found).T
    # the scatter of 400 estimates is known to 3.5 %
    assert_allclose(errors.mean(), values.std(), rtol=0.15)


def test_a_classifier_cannot_tell_equal_samples_apart_but_finds_a_shift():
    same = classifier_auc(gauss(2000, 1), gauss(2000, 2), QUICK)
    # 400 + 400 rows judge it: standard error 0.02
    assert abs(same - 0.5) < 0.08
    told = classifier_auc(gauss(2000, 1, shift=1.0), gauss(2000, 2), QUICK)
    # closed form for three shifts of one: Phi(sqrt(3/2)) = 0.890
    assert_allclose(told, norm.cdf(np.sqrt(1.5)), atol=0.05)


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (gauss(100, 1), gauss(100, 1, size=2), "do not fit"),
        (gauss(10, 1), gauss(100, 1), "at least 50"),
        (np.full((100, 3), np.nan), gauss(100, 1), "nan"),
    ],
)
def test_features_that_make_no_sense_are_refused(one, two, words):
    with pytest.raises(ValueError, match=words):
        classifier_auc(one, two, QUICK)
