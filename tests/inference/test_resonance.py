"""The resonance search: the closed form of a peak on a flat background, template points, derivatives, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

from diffhep.inference import Data, expected_discovery, fit, resonance_search

EDGES = np.linspace(105.0, 160.0, 61)
X = 0.5 * (EDGES[1:] + EDGES[:-1])


def bump(events, mean, sigma):
    cdf = jax.scipy.stats.norm.cdf((EDGES - mean) / sigma)
    return events * jnp.diff(cdf)


def search(events=50.0, sigma=1.7, *, scale=0.3, background=500.0):
    falling = background * jnp.exp(-(X - 105.0) / 25.0)
    up, down = bump(events, 125.2 + scale, sigma), bump(events, 125.2 - scale, sigma)
    return resonance_search(bump(events, 125.2, sigma), falling, X, signal_up=up, signal_down=down)


@pytest.mark.parametrize("sigma", [0.8, 1.7, 3.0])
def test_small_signals_on_a_flat_background_follow_the_closed_form(sigma):
    # R1: Z = S/sqrt(2 sqrt(pi) sigma b), b events per GeV, peak s/b below 0.07, in a wide window with fine bins
    edges = np.linspace(-80.0, 80.0, 801)
    density, peak = 2000.0, 0.01
    events = peak * density * sigma * np.sqrt(2 * np.pi)
    signal = events * np.diff(norm.cdf(edges / sigma))
    model = resonance_search(signal, np.full(800, density * 0.2), 0.5 * (edges[1:] + edges[:-1]))
    found = expected_discovery(model)
    exact = events / np.sqrt(2 * np.sqrt(np.pi) * sigma * density)
    assert bool(found.converged)
    # what the formula leaves out: 0.136 s/b of the Asimov value, the free normalisation, which costs
    # 2 sqrt(pi) sigma/window of the information, and bins of h, which widen the peak by h^2/12
    lost = (1 - 2 * np.sqrt(np.pi) * sigma / 160.0) ** 0.5 * (1 - 0.136 * peak) * (1 + 0.2**2 / 12 / sigma**2) ** -0.25
    assert_allclose(found.significance, exact * lost, rtol=3e-4)
    assert_allclose(1 / found.sigma_mu, found.significance, rtol=0.01)


def test_closed_form_holds_within_one_percent_in_a_wide_window():
    edges = np.linspace(-150.0, 150.0, 1501)
    density, sigma = 2000.0, 1.0
    events = 0.02 * density * sigma * np.sqrt(2 * np.pi)
    signal = events * np.diff(norm.cdf(edges / sigma))
    found = expected_discovery(resonance_search(signal, np.full(1500, density * 0.2), 0.5 * (edges[1:] + edges[:-1])))
    assert_allclose(found.significance, events / np.sqrt(2 * np.sqrt(np.pi) * sigma * density), rtol=0.01)


def test_expected_counts_at_the_template_points():
    model = search()
    s, b = np.asarray(model.signal), np.asarray(model.background)
    for alpha, template in [(-1.0, model.signal_down), (0.0, s), (1.0, model.signal_up)]:
        assert_allclose(model.expected(jnp.array([2.0, alpha, 1.0, 0.0])), 2 * np.asarray(template) + b, rtol=1e-12)
    tilted = model.expected(jnp.array([0.0, 0.0, 1.1, 0.4]))
    x0, length = 0.5 * (X[0] + X[-1]), X[-1] - X[0]
    assert_allclose(tilted, 1.1 * b * np.exp(0.4 * (X - x0) / length), rtol=1e-12)


def test_a_fit_to_its_own_asimov_data_returns_the_truth():
    model = search()
    truth = jnp.array([0.7, -0.4, 1.05, 0.1])
    found = fit(model, model.asimov(truth))
    assert bool(found.converged)
    assert_allclose(found.theta, truth, atol=1e-8)
    assert float(found.nll) < 1e-15


def test_model_derivatives_are_those_of_its_nll():
    model, theta = search(), jnp.array([0.7, -0.4, 1.05, 0.1])
    data = Data(model.expected(jnp.array([1.0, 0.2, 1.0, 0.0])), jnp.zeros(4))
    value, gradient, hessian = model.derivatives(theta, data)
    assert_allclose(value, model.nll(theta, data), rtol=1e-13)
    assert_allclose(gradient, jax.grad(model.nll)(theta, data), rtol=1e-11)
    assert_allclose(hessian, jax.hessian(model.nll)(theta, data), rtol=1e-11, atol=1e-10)


def test_expected_significance_is_differentiable_in_every_template(check_derivatives):
    model = search()
    leaves = (model.signal, model.background, model.signal_up, model.signal_down)
    build = lambda t: resonance_search(t[0], t[1], X, signal_up=t[2], signal_down=t[3])
    check_derivatives(lambda t: expected_discovery(build(t)).significance, leaves)
    both = lambda d: d.significance + d.sigma_mu
    check_derivatives(lambda t: both(expected_discovery(build(t))), leaves, order=1)


def test_postfit_significance_is_differentiable(check_derivatives):
    data = Data(search(60.0).expected(jnp.array([1.0, 0.3, 1.02, 0.05])), jnp.zeros(4))
    check_derivatives(
        lambda p: expected_discovery(search(p[0], p[1]), data).significance, jnp.array([50.0, 1.7]), order=1
    )


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_uncertainty_of_mu_is_that_of_the_fisher_matrix(scale):
    model = search(500.0, scale=scale)
    s, b, up, down = (np.asarray(t) for t in (model.signal, model.background, model.signal_up, model.signal_down))
    columns = np.stack([s, 0.5 * (up - down), b, b * (X - 0.5 * (X[0] + X[-1])) / (X[-1] - X[0])])
    fisher = columns / (s + b) @ columns.T + np.diag([0.0, 1.0, 0.0, 0.0])
    assert_allclose(expected_discovery(model).sigma_mu, np.linalg.inv(fisher)[0, 0] ** 0.5, rtol=1e-9)


def test_vmap_over_signals_agrees_with_one_at_a_time():
    f = jax.jit(lambda p: expected_discovery(search(p[0], p[1])))
    points = jnp.array([[0.0, 1.7], [1e-6, 1.7], [20.0, 0.6], [300.0, 4.0]])
    together = jax.vmap(f)(points)
    assert np.all(together.converged)
    one = [f(p) for p in points]
    assert_allclose(together.significance, [z.significance for z in one], rtol=1e-9)
    assert_allclose(together.sigma_mu, [z.sigma_mu for z in one], rtol=1e-9)


def test_bins_without_background_leave_everything_finite():
    model = search()
    empty = model.background.at[25:].set(0.0)
    z = lambda b: expected_discovery(resonance_search(model.signal, b, X)).significance
    value, gradient = jax.value_and_grad(z)(empty)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signal": np.ones(5)}, r"background: one list of 5 bins .2 or more. is wanted, got shape \(60,\)"),
        ({"background": np.where(np.arange(60) == 7, -1.0, 1.0)}, "background: bin 7 has yield -1.0"),
        ({"signal_up": np.where(np.arange(60) == 3, np.nan, 1.0)}, "signal_up: bin 3 has yield nan"),
        ({"centers": X[::-1]}, "centers: increasing positions are wanted"),
    ],
)
def test_bad_templates_are_refused_in_one_line(change, words):
    given = {"signal": np.ones(60), "background": np.ones(60), "centers": X} | change
    with pytest.raises(ValueError, match=words) as error:
        resonance_search(**given)
    assert "\n" not in str(error.value)


def test_single_precision_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="fits need float64"):
        resonance_search(np.ones(4), np.ones(4), np.arange(4.0))
