"""Significances: closed forms, pyhf, the reference pipeline, and what must be finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import norm, poisson

from diffhep.histogram import counts
from diffhep.inference import (
    BinnedModel,
    Data,
    asimov_significance,
    discovery_significance,
    expected_discovery,
    fit,
    poi_uncertainty,
)


def cowan(s, b):
    return np.sqrt(np.sum(2 * ((s + b) * np.log1p(s / b) - s)))


def cowan_with_variance(s, b, v):
    n = s + b
    inner = n * np.log(n * (b + v) / (b**2 + n * v)) - b**2 / v * np.log(1 + v * s / (b * (b + v)))
    return np.sqrt(2 * np.sum(inner))


def known_background(s, b):
    expected = lambda theta, t: theta[0] * t["s"] + t["b"]
    return BinnedModel(
        expected, {"s": jnp.asarray(s), "b": jnp.asarray(b)}, names=("mu",), init=(1.0,), constrained=(), poi="mu"
    )


S, B = np.array([3.0, 10.0, 0.5]), np.array([100.0, 80.0, 5.0])


def test_counting_significance_is_the_closed_form():
    assert_allclose(asimov_significance(S, B), cowan(S, B), rtol=1e-12)
    assert_allclose(asimov_significance(S, B, 0.1 * B), cowan_with_variance(S, B, 0.1 * B), rtol=1e-10)
    assert_allclose(discovery_significance(known_background(S, B)), cowan(S, B), rtol=1e-12)


def test_closed_form_has_both_limits():
    # s -> 0: s/sqrt(b + v); the next order is smaller by s/b
    assert_allclose(asimov_significance(1e-6, 100.0, 44.0), 1e-6 / 12, rtol=1e-7)
    assert_allclose(asimov_significance(S, B, 1e-9), cowan(S, B), rtol=1e-9)


def test_uncertainty_of_mu_with_a_known_background_is_that_of_poisson():
    sigma = expected_discovery(known_background(S, B)).sigma_mu
    assert_allclose(sigma, np.sum(S**2 / (S + B)) ** -0.5, rtol=1e-12)


def pipeline(theta, what):
    """Section 3.7 of the inference reference: quantile events, a sigmoid observable, a kernel histogram, 10 %."""
    a, c = theta
    u = (np.arange(1000) + 0.5) / 1000
    edges = np.linspace(0.0, 1.0, 6)
    unit = jnp.ones(1000)
    h = lambda centre: counts(jax.nn.sigmoid(a * (norm.ppf(u) + centre) + c), edges, unit, bandwidth=0.1) / 1000
    return what(50 * h(0.8) + 0.001, 500 * h(-0.8) + 0.001)


def test_the_reference_pipeline_to_ten_digits():
    z = lambda theta: pipeline(theta, lambda s, b: asimov_significance(s, b, (0.1 * b) ** 2))
    value, gradient = jax.jit(jax.value_and_grad(z))(jnp.array([1.0, 0.0]))
    assert_allclose(value, 3.5404077087, rtol=0, atol=6e-11)
    assert_allclose(gradient, [-0.29325216, -1.05901917], rtol=0, atol=1e-8)


def test_the_reference_pipeline_through_a_fit():
    # the same with the Poisson auxiliary counts as bins of their own and free background factors
    def model(s, b):
        expected = lambda g, t: jnp.concatenate([g[0] * t["s"] + t["b"] * g[1:], 100.0 * g[1:]])
        names = ("mu", *(f"gamma{i}" for i in range(5)))
        return BinnedModel(expected, {"s": s, "b": b}, names=names, init=(1.0,) * 6, constrained=(), poi="mu")

    z = lambda theta: pipeline(theta, lambda s, b: discovery_significance(model(s, b)))
    value, gradient = jax.jit(jax.value_and_grad(z))(jnp.array([1.0, 0.0]))
    assert_allclose(value, 3.5404077087, rtol=0, atol=6e-11)
    assert_allclose(gradient, [-0.29325216, -1.05901917], rtol=0, atol=1e-8)
    sigma = lambda theta: pipeline(theta, lambda s, b: expected_discovery(model(s, b)).sigma_mu)
    value, gradient = jax.jit(jax.value_and_grad(sigma))(jnp.array([1.0, 0.0]))
    assert_allclose(value, 0.32069150, rtol=0, atol=6e-9)
    assert_allclose(gradient, [0.00381488, 0.05893491], rtol=0, atol=1e-8)


def correlated(theta, t):
    """HistFactory's histosys on both samples with one nuisance, code 4p written by hand, |alpha| < 1."""
    mu, alpha = theta
    change = lambda lo, no, hi: (
        alpha * (0.5 * (hi - lo) + 0.0625 * alpha * (hi + lo - 2 * no) * (15 + alpha**2 * (3 * alpha**2 - 10)))
    )
    s, b = t["s"], t["b"]
    return mu * (s[1] + change(*s)) + b[1] + change(*b)


VARIED = {
    "s": jnp.array([[4.0, 9.0], [5.0, 10.0], [6.5, 10.4]]),
    "b": jnp.array([[95.0, 50.0], [100.0, 60.0], [104.0, 66.0]]),
}


def varied_model(t=VARIED):
    return BinnedModel(correlated, t, names=("mu", "jes"), init=(1.0, 0.0), constrained=("jes",), poi="mu")


def pyhf_twin():
    sample = lambda name, t, more: {
        "name": name,
        "data": t[1].tolist(),
        "modifiers": [
            {"name": "jes", "type": "histosys", "data": {"lo_data": t[0].tolist(), "hi_data": t[2].tolist()}},
            *more,
        ],
    }
    mu = {"name": "mu", "type": "normfactor", "data": None}
    channel = {"name": "c", "samples": [sample("s", VARIED["s"], [mu]), sample("b", VARIED["b"], [])]}
    return pyhf.Model({"channels": [channel]}, poi_name="mu", validate=False)


OBSERVED = [113.0, 66.0]


def pyhf_conditional(twin, mu, data):
    """Twice the negative log-likelihood of pyhf minimised over its nuisance by scipy, far below pyhf's tolerance."""

    def f(alpha):
        pars = np.zeros(2)
        pars[twin.config.poi_index], pars[twin.config.par_slice("jes")] = mu, alpha[0]
        return -2 * float(np.asarray(twin.logpdf(pars, data))[0])

    best = minimize(f, [0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13})
    return best.fun, best.x[0]


def test_expected_significance_equals_pyhfs_before_and_after_the_fit():
    twin = pyhf_twin()
    index = int(twin.config.poi_index or 0)

    def q0(alpha, aux):
        truth = np.zeros(2)
        truth[index], truth[1 - index] = 1.0, alpha
        asimov = [*twin.expected_data(truth, include_auxdata=False), aux]
        return pyhf_conditional(twin, 0.0, asimov)[0] + 2 * float(np.asarray(twin.logpdf(truth, asimov))[0])

    # pyhf's sum has rounding of 1e-13, its root of q0 about 1 the same; Nelder-Mead stops at fatol
    assert_allclose(discovery_significance(varied_model()), np.sqrt(q0(0.0, 0.0)), rtol=1e-6)
    alpha = pyhf_conditional(twin, 1.0, [*OBSERVED, 0.0])[1]
    assert abs(alpha) > 0.01
    data = Data(jnp.array(OBSERVED), jnp.zeros(2))
    assert_allclose(discovery_significance(varied_model(), data), np.sqrt(q0(alpha, alpha)), rtol=1e-6)


def test_gradients_before_and_after_the_fit(check_derivatives):
    data = Data(jnp.array(OBSERVED), jnp.zeros(2))
    both = lambda t: jnp.stack([discovery_significance(varied_model(t)), discovery_significance(varied_model(t), data)])
    check_derivatives(lambda t: both(t) @ jnp.array([1.0, 0.7]), VARIED)
    check_derivatives(lambda t: expected_discovery(varied_model(t), data).sigma_mu, VARIED, order=1)


def test_fit_is_differentiable_in_templates_and_data(check_derivatives):
    f = lambda x: fit(varied_model(x[0]), Data(x[1], jnp.zeros(2)))["mu"]
    check_derivatives(f, (VARIED, jnp.array(OBSERVED)))


def test_value_and_gradient_are_finite_without_signal():
    zero = {"s": jnp.zeros((3, 2)), "b": VARIED["b"]}
    value, gradient = jax.value_and_grad(lambda t: discovery_significance(varied_model(t)))(zero)
    assert float(value) == 0.0
    assert all(np.all(g == 0) for g in jax.tree.leaves(gradient))
    assert float(expected_discovery(varied_model(zero)).sigma_mu) == np.inf
    value, gradient = jax.value_and_grad(asimov_significance)(jnp.zeros(3), B)
    assert float(value) == 0.0
    assert np.all(gradient == 0)


def test_small_signals_keep_their_gradient():
    f = lambda k: asimov_significance(k * S, B)
    for k in (1e-8, 1e-4):
        # Z = k sqrt(sum s^2/b) (1 - O(k s/b)), so value and gradient agree to k s/b
        assert_allclose(jax.grad(f)(k), np.sqrt(np.sum(S**2 / B)), rtol=2 * k)


def test_a_fit_that_does_not_converge_gives_nan_not_a_number():
    broken = {"s": VARIED["s"].at[1, 0].set(jnp.nan), "b": VARIED["b"]}
    found = expected_discovery(varied_model(broken))
    assert not bool(found.converged)
    assert np.isnan(discovery_significance(varied_model(broken)))


def test_observed_toys_scatter_by_sigma_mu():
    model = known_background(S, B)
    rng = np.random.default_rng(7)
    n = jnp.array(poisson.rvs(S + B, size=(2000, 3), random_state=rng), dtype=float)
    fits = jax.jit(jax.vmap(lambda n: fit(model, Data(n, jnp.zeros(1)))))(n)
    assert np.all(fits.converged)
    sigma = poi_uncertainty(model, jnp.ones(1), model.asimov(jnp.ones(1)))
    spread = float(jnp.std(fits.theta[:, 0]))
    # standard error of a standard deviation: sigma/sqrt(2 n); mu-hat is Gaussian to better than this
    assert abs(spread - sigma) < 3 * sigma / np.sqrt(4000)


def test_fitted_and_fixed_parameters_come_back_in_order():
    data = Data(jnp.array(OBSERVED), jnp.zeros(2))
    found = fit(varied_model(), data, fixed={"jes": 0.3})
    assert float(found["jes"]) == 0.3
    free = minimize(
        lambda mu: float(varied_model().nll(jnp.array([mu[0], 0.3]), data)),
        [1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-14},
    )
    assert_allclose(found["mu"], free.x[0], atol=1e-6)
    with pytest.raises(ValueError, match="no parameter 'jer'"):
        found["jer"]
