"""Rates are sums of weights, turn-on curves are ratios of counts; both know their errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.events import Events
from diffhep.trigger.rate import rate, turn_on


def weighted(weights):
    w = jnp.asarray(weights, dtype=float)
    return Events({"pt": jnp.ones((w.size, 2))}, jnp.ones((w.size, 2), bool), w)


@given(st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=12))
def test_a_rate_is_a_sum_of_weights(weights):
    value, error = rate(weighted(weights))
    w = np.array(weights)
    assert_allclose(value, w.sum(), rtol=1e-12, atol=1e-12 * np.abs(w).sum())
    assert_allclose(error, np.linalg.norm(w), rtol=1e-12, atol=1e-150)


def test_the_error_is_the_spread_over_samples():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, 1000)
    samples = [weights[rng.uniform(size=1000) < 0.02] for _ in range(2000)]
    rates = [w.sum() for w in samples]
    claimed = np.mean([float(rate(weighted(w))[1]) ** 2 for w in samples[:400]])
    # a rare selection is Poisson; its variance is known to sqrt(2/2000), and 2 % of it is missing because p = 0.02
    assert claimed == pytest.approx(np.var(rates), rel=3 * np.sqrt(2 / 2000) + 0.02)


def test_rates_are_differentiable_in_the_weights():
    gradient = jax.grad(lambda w: rate(weighted([1.0, 2.0, 3.0]).reweight(w))[0])(jnp.ones(3))
    assert gradient.tolist() == [1.0, 2.0, 3.0]


def test_turn_on_is_the_ratio_of_two_histograms():
    rng = np.random.default_rng(1)
    values, edges = rng.uniform(20, 60, 500), np.linspace(20, 60, 9)
    accepted = (rng.uniform(size=500) < 0.5 * (1 + np.tanh((values - 40) / 4))).astype(float)
    efficiency, error = turn_on(values, accepted, edges)
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (values >= low) & (values < high)
        p = accepted[inside].mean()
        assert efficiency[i] == pytest.approx(p, rel=1e-14)
        assert error[i] == pytest.approx(np.sqrt(p * (1 - p) / inside.sum()), rel=1e-12, abs=1e-15)


def test_empty_bins_have_no_efficiency():
    efficiency, error = turn_on(np.array([0.5]), np.array([1.0]), np.array([0.0, 1.0, 2.0]))
    assert efficiency[0] == 1.0
    assert error[0] == 0.0
    assert np.isnan(efficiency[1])
    assert np.isnan(error[1])
