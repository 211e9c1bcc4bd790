"""Histograms: the hard one is numpy's, the differentiable one tends to it and has the right derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose
from scipy.stats import norm

from diffhep.histogram import annealed_bandwidth, counts, flux_counts, to_hist, variances

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


# events that move --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reflect", [False, True])
def test_flux_has_the_value_and_the_weight_derivative_of_the_hard_histogram(reflect):
    x, w = sample()
    v = np.arange(5.0) ** 2
    f = jax.jit(lambda x, e, w: flux_counts(x, e, w, bandwidth=0.2, reflect=reflect) @ v)
    # sums in another order
    assert_allclose(f(x, EDGES, w), counts(x, EDGES, w) @ v, rtol=1e-13)
    dw = jax.jit(jax.grad(f, argnums=2))(x, EDGES, w)
    assert_allclose(dw, jax.grad(lambda w: counts(x, EDGES, w) @ v)(w), atol=1e-13)


@pytest.mark.parametrize("reflect", [False, True])
def test_flux_is_the_density_at_the_edges_times_the_velocity(reflect):
    x, w = sample(100, 0.05, 2.95)
    velocity, h = np.sin(3 * x), 0.1
    images = [(x, velocity)]
    if reflect:
        images += [(2 * EDGES[0] - x, -velocity), (2 * EDGES[-1] - x, -velocity)]
    kernel = lambda t: 0.5 * (3 - t**2) * norm.pdf(t) / h
    flux = np.array([sum((w * kernel((e - at) / h)) @ v for at, v in images) for e in EDGES])
    if reflect:
        flux[[0, -1]] = 0.0
    got = jax.jvp(lambda x: flux_counts(x, EDGES, w, bandwidth=h, reflect=reflect), (x,), (velocity,))[1]
    # sums of 100 terms of order ten
    assert_allclose(got, flux[:-1] - flux[1:], atol=1e-11)
    if reflect:
        assert abs(float(jnp.sum(got))) < 1e-12 * np.sum(np.abs(w))


def test_flux_of_moving_edges_is_minus_that_of_moving_events():
    x, w = sample()
    f = lambda x, e: flux_counts(x, e, w, bandwidth=0.2)
    events = jax.jvp(f, (x, EDGES), (np.ones_like(x), np.zeros_like(EDGES)))[1]
    edges = jax.jvp(f, (x, EDGES), (np.zeros_like(x), np.ones_like(EDGES)))[1]
    assert_allclose(events, -edges, atol=1e-11)


def test_second_derivatives_of_flux_are_those_of_its_kernels():
    x, w = sample(40, 0.05, 2.95)
    v = np.sin(np.arange(5.0))
    slope = jax.jit(jax.grad(lambda args: flux_counts(*args, bandwidth=0.4) @ v))
    direction = jax.tree.map(np.cos, (x, EDGES, w))
    move = lambda t: jax.tree.map(lambda a, d: a + t * d, (x, EDGES, w), direction)
    along = lambda args: sum(jnp.vdot(a, b) for a, b in zip(slope(args), (*direction[:2], 0 * w), strict=True))
    h = 1e-3
    quotient = (8 * (along(move(h)) - along(move(-h))) - (along(move(2 * h)) - along(move(-2 * h)))) / (12 * h)
    # fourth order in 1e-3/0.4
    assert_allclose(jax.jvp(along, (move(0.0),), (direction,))[1], quotient, rtol=1e-8)


def stratified(rng, n):
    """A random sample with one event in each of n equally probable intervals of a unit normal."""
    return norm.ppf((np.arange(n) + rng.random(n)) / n)


def significance(theta, noise, fill, h):
    """Section 3.7 of the inference reference: 50 signal, 500 background events, 10 % on the background of each bin."""
    edges = np.linspace(0.0, 1.0, 6)
    share = lambda u, at: fill(jax.nn.sigmoid(theta[0] * (u + at) + theta[1]), edges, jnp.full(u.size, 1 / u.size), h)
    s, b = 50 * share(noise[0], 0.8) + 0.001, 500 * share(noise[1], -0.8) + 0.001
    v = (0.1 * b) ** 2
    conditional = b**2 / v * jnp.log1p(v * s / (b * (b + v)))
    return jnp.sqrt(2 * jnp.sum((s + b) * jnp.log((s + b) * (b + v) / (b**2 + (s + b) * v)) - conditional))


FILLS = {
    "hard": lambda x, e, w, h: counts(x, e, w),
    "smeared": lambda x, e, w, h: counts(x, e, w, bandwidth=h, reflect=True),
    "straight": lambda x, e, w, h: counts(x, e, w, bandwidth=h, reflect=True, hard_value=True),
    "flux": lambda x, e, w, h: flux_counts(x, e, w, bandwidth=h, reflect=True),
}


@functools.cache
def compiled_pipeline(name):
    both = lambda u, h: jax.value_and_grad(significance)(jnp.array([1.0, 0.0]), u, FILLS[name], h)
    return jax.jit(lambda noise, h: jax.lax.map(lambda u: both(u, h), noise))


EXACT_Z, EXACT_GRADIENT = 4.531199, np.array([-0.722423, -0.840322])


@functools.cache
def samples(kind):
    """Fifty samples of signal and background, as deviations from their means."""
    rng = np.random.default_rng(12)
    draw = {"stratified": lambda: stratified(rng, 1000), "independent": lambda: rng.normal(size=60_000)}[kind]
    return np.array([[draw(), draw()] for _ in range(50)])


@pytest.mark.parametrize("kind", ["stratified", "independent"])
def test_flux_gives_the_unbiased_gradient_of_the_reference_pipeline(kind):
    """Z is the hard one, and its mean gradient that of the exact distributions to 5 %.

    The samples must be large or stratified: with 1000 + 1000 independent events the count of the last bin, 14
    background events, makes the mean of 50 gradients fluctuate by 20 % even where the density is known exactly.
    """
    soft, gradient = compiled_pipeline("flux")(samples(kind), 0.04)
    hard, nothing = compiled_pipeline("hard")(samples(kind), 0.04)
    # 1e-3 is wanted; straight through they are equal but for the order of sums
    assert_allclose(soft, hard, rtol=1e-12)
    assert not np.any(nothing)
    # the statistical error of the mean leaves room for the test to see a bias of 5 %
    assert np.all(np.std(gradient, axis=0) / np.sqrt(50) < 0.03 * np.abs(EXACT_GRADIENT))
    assert_allclose(np.mean(gradient, axis=0), EXACT_GRADIENT, rtol=0.05)
    assert_allclose(np.mean(soft), EXACT_Z, rtol=5e-3)


def test_gradient_of_the_smeared_histogram_is_biased_where_that_of_flux_is_not():
    off = lambda name: compiled_pipeline(name)(samples("stratified"), 0.06)[1].mean(axis=0) / EXACT_GRADIENT - 1
    assert np.all(np.abs(off("straight")) > 0.2)
    # 5 % of bias at this bandwidth, 2.5 % of statistical error
    assert np.all(np.abs(off("flux")) < 0.1)


def test_annealing_ends_in_the_hard_histogram():
    noise, steps = samples("stratified"), 5
    hard = compiled_pipeline("hard")(noise, 0.04)[0]
    widths = [annealed_bandwidth(k, steps, start=0.1, stop=1e-7) for k in range(steps)]
    away = [np.max(np.abs(compiled_pipeline("smeared")(noise, h)[0] / hard - 1)) for h in widths]
    assert away[0] > 0.05
    assert away[-1] < 1e-3
    assert np.all(np.diff(away) < 0)


def test_annealing_keeps_its_last_bandwidth():
    h = annealed_bandwidth(jnp.arange(8), 6, start=0.5, stop=0.01)
    assert_allclose([h[0], *h[5:]], [0.5, 0.01, 0.01, 0.01], rtol=1e-14)
    assert_allclose(h[1:6] / h[:5], (0.01 / 0.5) ** 0.2, rtol=1e-13)


@pytest.mark.parametrize(
    ("steps", "start", "stop", "words"),
    [
        (1, 0.1, 0.01, "steps: at least 2 are wanted, got 1"),
        (5, -0.1, 0.01, "start: a positive bandwidth is wanted, got -0.1"),
        (5, 0.1, np.nan, "stop: a positive bandwidth is wanted, got nan"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(steps, start, stop, words):
    with pytest.raises(ValueError, match=words):
        annealed_bandwidth(0, steps, start=start, stop=stop)


def test_flux_refuses_what_counts_refuses():
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        flux_counts(np.ones(3), EDGES, np.ones(3), bandwidth=-1.0)
    with pytest.raises(ValueError, match="edges must increase"):
        flux_counts(np.ones(3), EDGES[::-1], np.ones(3), bandwidth=1.0)
