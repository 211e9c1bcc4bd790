"""Branching showers: exact distribution, unbiased gradient, bad input."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffhep.branching import branching_shower, tabulated_binomial

SHOWERS, BATCHES = 5000, 40


@pytest.fixture(scope="module")
def batches():
    """Value and gradient of the mean multiplicity behind eight layers, of many batches."""

    def mean(probability, key):
        return jnp.mean(branching_shower(probability, SHOWERS, key=key)[:, -1])

    p = jnp.array([0.5, 0.4, 0.6, 0.5, 0.3, 0.5, 0.7, 0.5])
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(mean), (None, 0)))(p, jr.split(jr.key(1), BATCHES))
    return np.asarray(p), np.asarray(value), np.asarray(gradient)


def test_mean_multiplicity_is_the_product(batches):
    p, value, _ = batches
    assert np.mean(value) == pytest.approx(np.prod(1 + p), abs=4 * np.std(value) / np.sqrt(BATCHES))


def test_gradient_is_unbiased_in_every_layer(batches):
    p, _, gradient = batches
    exact = np.prod(1 + p) / (1 + p)
    error = np.std(gradient, axis=0, ddof=1) / np.sqrt(BATCHES)
    assert np.all(np.abs(np.mean(gradient, axis=0) - exact) < 4 * error)
    # half a per cent, where the statistics tell: the claim is about bias, not about chance
    assert np.all(error / exact < 0.005)


def test_gradient_of_a_common_thickness_scatters_by_a_third(batches):
    p, _, gradient = batches
    slope = 1 - p  # dp/dt for t in mean free paths
    exact = np.sum(np.prod(1 + p) / (1 + p) * slope)
    per_shower = np.std(gradient @ slope, ddof=1) * np.sqrt(SHOWERS) / exact
    # 0.27; a standard deviation of 40 numbers is good to 11 %
    assert per_shower < 0.35


def test_gradient_of_a_deposit_in_every_layer():
    weights = jnp.array([0.0, 1.0, 2.0, 0.5])
    total = lambda p, key: jnp.mean(branching_shower(p, SHOWERS, key=key) @ weights)
    p = jnp.array([0.5, 0.2, 0.4])
    found = np.asarray(jax.jit(jax.vmap(jax.grad(total), (None, 0)))(p, jr.split(jr.key(2), BATCHES)))
    mean = lambda p: weights @ jnp.concatenate([jnp.ones(1), jnp.cumprod(1 + p)])
    error = np.std(found, axis=0, ddof=1) / np.sqrt(BATCHES)
    assert np.all(np.abs(np.mean(found, axis=0) - jax.grad(mean)(p)) < 4 * error)


def test_jit_equals_eager():
    p, key = jnp.array([0.3, 0.8]), jr.key(3)
    np.testing.assert_array_equal(
        branching_shower(p, 100, key=key), jax.jit(lambda p, key: branching_shower(p, 100, key=key))(p, key)
    )


def test_nothing_and_nearly_everything_splits():
    p = jnp.array([0.0, 1 - 1e-9, 0.0])
    shower = lambda p: branching_shower(p, 50, key=jr.key(0))
    counts, gradient = shower(p), jax.grad(lambda p: jnp.mean(shower(p)[:, -1]))(p)
    np.testing.assert_array_equal(counts, np.tile([1.0, 1.0, 2.0, 2.0], (50, 1)))
    assert np.all(np.isfinite(gradient))
    assert float(gradient[2]) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(("number", "p"), [(1, 0.3), (7, 0.5), (128, 0.02), (128, 0.9), (256, 0.5)])
def test_tabulated_draws_are_binomial(number, p):
    draws = np.asarray(tabulated_binomial(jr.key(number), jnp.full(20000, float(number)), jnp.array(p), number))
    expected = scipy.stats.binom.pmf(np.arange(number + 1), number, p) * draws.size
    filled = expected > 10
    observed = np.bincount(draws.astype(int), minlength=number + 1)
    rest = [observed[~filled].sum()], [max(expected[~filled].sum(), 1e-9)]
    chi2 = np.sum((observed[filled] - expected[filled]) ** 2 / expected[filled])
    chi2 += 0 if rest[1][0] < 5 else (rest[0][0] - rest[1][0]) ** 2 / rest[1][0]
    # the seed is fixed: one in ten thousand for a wrong alarm, once
    assert scipy.stats.chi2.sf(chi2, filled.sum()) > 1e-4


@given(st.integers(0, 40), st.floats(0, 1, allow_subnormal=False))
def test_draws_lie_between_none_and_all(number, p):
    draws = np.asarray(tabulated_binomial(jr.key(0), jnp.full(20, float(number)), jnp.array(p), 40))
    assert np.all((draws >= 0) & (draws <= number))
    if p in (0.0, 1.0):
        assert np.all(draws == p * number)


@pytest.mark.parametrize("showers", [0, 1])
def test_one_shower_is_too_few(showers):
    with pytest.raises(ValueError, match=f"at least two showers are needed, got {showers}"):
        branching_shower(jnp.array([0.5]), showers, key=jr.key(0))
