"""Histograms: the hard one is numpy's, the differentiable one tends to it and has the right derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose
from scipy.stats import norm

from diffhep.histogram import counts, to_hist, variances

EDGES = np.array([0.0, 0.3, 1.0, 1.4, 2.5, 3.0])


def sample(n=400, low=-0.5, high=3.5, seed=3):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, n), rng.normal(1.0, 0.7, n)


# XLA takes subnormal numbers for zero
@given(st.lists(st.tuples(st.floats(-1, 4, allow_subnormal=False), st.floats(-2, 2)), min_size=20, max_size=20))
@settings(max_examples=60, deadline=None)
def test_hard_counts_and_variances_are_numpys(events):
    x, w = np.array(events).T
    # summed in another order than numpy's: rounding only
    assert_allclose(counts(x, EDGES, w), np.histogram(x, EDGES, weights=w)[0], atol=1e-13)
    assert_allclose(variances(x, EDGES, w), np.histogram(x, EDGES, weights=w**2)[0], atol=1e-13)


def test_bins_are_closed_on_the_left_and_the_last_on_both_sides():
    assert counts(jnp.array(EDGES), EDGES, jnp.ones(EDGES.size)).tolist() == [1, 1, 1, 1, 2]


def test_events_outside_are_dropped():
    x = jnp.array([-1e-9, 3.0 + 1e-9, jnp.inf, -jnp.inf, jnp.nan])
    assert counts(x, EDGES, jnp.ones(5)).tolist() == [0.0] * 5


def test_gradient_of_the_hard_histogram_reaches_the_weights_only():
    x, w = map(jnp.asarray, sample())
    v = jnp.arange(1.0, 6.0)
    dx, dw = jax.grad(lambda x, w: counts(x, EDGES, w) @ v, (0, 1))(x, w)
    assert not np.any(dx)
    index = np.digitize(x, EDGES) - 1
    assert_allclose(dw, np.where((index >= 0) & (index < 5), np.asarray(v)[np.clip(index, 0, 4)], 0.0))


def test_differentiable_counts_equal_the_scipy_integral_of_the_kernels():
    x, w = sample()
    cdf = norm.cdf((EDGES[:, None] - x) / 0.2)
    p = np.diff(cdf, axis=0)
    # sums of 400 terms of order one, in float64
    assert_allclose(counts(x, EDGES, w, bandwidth=0.2), p @ w, atol=1e-12)
    assert_allclose(variances(x, EDGES, w, bandwidth=0.2), p**2 @ w**2, atol=1e-12)


@pytest.mark.parametrize("h", [0.02, 0.2, 1.0])
def test_reflected_counts_equal_the_sum_over_image_kernels(h):
    x, w = sample()
    inside = (x >= EDGES[0]) & (x <= EDGES[-1])
    images = [x, 2 * EDGES[0] - x, 2 * EDGES[-1] - x]
    p = sum(np.diff(norm.cdf((EDGES[:, None] - image) / h), axis=0) for image in images)
    got = counts(x, EDGES, w, bandwidth=h, reflect=True)
    # second images, which this sum leaves out, lie 3/h widths away: 2 Phi(-3) at most for h = 1
    assert_allclose(got, p @ (w * inside), atol=1e-12 if h < 0.3 else 2 * norm.cdf(-3.0) * np.sum(np.abs(w)))


@pytest.mark.parametrize("h", [1e-4, 0.05, 0.4, 5.0, 1e3])
@pytest.mark.parametrize("traced", [False, True])
def test_reflection_conserves_the_weight_of_events_inside(h, traced):
    x, w = sample()
    inside = np.sum(w[(x >= EDGES[0]) & (x <= EDGES[-1])])
    f = lambda e, b: counts(x, e, w, bandwidth=b, reflect=True)
    got = jax.jit(f)(EDGES, h) if traced else f(EDGES, h)
    assert abs(float(jnp.sum(got)) - inside) < 1e-12 * np.sum(np.abs(w))


def test_traced_and_concrete_bandwidth_agree():
    x, w = sample()
    f = lambda h: counts(x, EDGES, w, bandwidth=h, reflect=True)
    assert_allclose(jax.jit(f)(0.07), f(0.07), atol=1e-12)


@pytest.mark.parametrize("reflect", [False, True])
def test_vanishing_bandwidth_recovers_the_hard_histogram(reflect):
    x, w = sample()
    h = 1e-3 * np.min(np.abs(x[:, None] - EDGES))  # every event a thousand widths from the nearest edge
    hard = counts(x, EDGES, w)
    assert_allclose(counts(x, EDGES, w, bandwidth=h, reflect=reflect), hard, atol=1e-12)
    assert_allclose(variances(x, EDGES, w, bandwidth=h, reflect=reflect), variances(x, EDGES, w), atol=1e-12)


@pytest.mark.parametrize("reflect", [False, True])
def test_gradients_equal_finite_differences(reflect):
    x, w = sample(40, 0.05, 2.95)
    v = np.sin(np.arange(5.0))
    f = jax.jit(lambda x, e, w, h: counts(x, e, w, bandwidth=h, reflect=reflect) @ v)
    check_grads(f, (x, EDGES, w, 0.3), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-5)


def test_one_bandwidth_per_event():
    x, w = sample(6)
    h = np.linspace(0.1, 0.5, 6)
    each = sum(counts(x[i : i + 1], EDGES, w[i : i + 1], bandwidth=h[i], reflect=True) for i in range(6))
    assert_allclose(counts(x, EDGES, w, bandwidth=h, reflect=True), each, atol=1e-13)


def test_hard_value_has_the_value_of_one_and_the_gradient_of_the_other():
    x, w = map(jnp.asarray, sample())
    v = jnp.arange(5.0) ** 2
    straight = lambda x: counts(x, EDGES, w, bandwidth=0.1, hard_value=True) @ v
    soft = lambda x: counts(x, EDGES, w, bandwidth=0.1) @ v
    assert_allclose(straight(x), counts(x, EDGES, w) @ v, rtol=1e-13)
    assert_allclose(jax.grad(straight)(x), jax.grad(soft)(x), rtol=1e-13)


def test_hist_keeps_values_variances_and_edges():
    x, w = sample()
    h = to_hist(counts(x, EDGES, w), variances(x, EDGES, w), EDGES, name="m", label="m [GeV]")
    assert_allclose(h.values(), counts(x, EDGES, w))
    assert_allclose(np.asarray(h.variances()), variances(x, EDGES, w))
    assert_allclose(h.axes[0].edges, EDGES)
    assert (h.axes[0].name, h.axes[0].label) == ("m", "m [GeV]")


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((np.ones(3), [1.0, 0.0], np.ones(3)), {}, "edges must increase, got 1.0 followed by 0.0"),
        ((np.ones(3), [1.0], np.ones(3)), {}, "at least two"),
        ((np.ones(3), EDGES, np.ones(2)), {}, r"\(3,\) and \(2,\)"),
        ((np.ones(3), EDGES, np.ones(3)), {"bandwidth": 0.0}, "bandwidth must be positive"),
        ((np.ones(3), EDGES, np.ones(3)), {"bandwidth": np.nan}, "bandwidth must be positive"),
        ((np.ones(3), EDGES, np.ones(3)), {"bandwidth": np.ones(2)}, "one per event"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, options, words):
    with pytest.raises(ValueError, match=words) as error:
        counts(*arguments, **options)
    assert "\n" not in str(error.value)


def test_hist_refuses_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="6 edges want 5 values"):
        to_hist(np.ones(4), np.ones(4), EDGES)
