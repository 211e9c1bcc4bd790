"""The Poisson deviance: equal to scipy's, exact where the usual form cancels, defined everywhere."""

from decimal import Decimal, localcontext

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import poisson

from diffhep.inference import BinnedModel, Data, fit, poisson_deviance


@pytest.mark.parametrize("n", [0, 1, 7, 100])
@pytest.mark.parametrize("lam", [0.3, 1.0, 6.9, 250.0])
def test_deviance_is_the_scipy_likelihood_ratio(n, lam):
    expected = 2 * (poisson.logpmf(n, n) if n else 0.0) - 2 * poisson.logpmf(n, lam)
    assert_allclose(poisson_deviance(float(n), lam), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1e-3, 1.0, 1e7, 1.9e11])
@pytest.mark.parametrize("x", [-0.6, -0.0999, 0.0999, 0.1001, 1e-3, -1e-6, 1e-9, 3.0])
def test_deviance_keeps_relative_precision_near_its_minimum(n, x):
    lam = n * (1 + x)
    with localcontext() as context:
        context.prec = 60
        a, b = Decimal(n), Decimal(lam)
        exact = 2 * (b - a - a * (b / a).ln())
    # the difference lam - n is exact in float64; a few roundings in the series
    assert_allclose(float(poisson_deviance(n, lam)), float(exact), rtol=2e-15 * 8)


@pytest.mark.parametrize(("n", "lam"), [(0.0, 2.0), (3.0, 2.0), (3.0, 3.0), (250.0, 251.0), (5.0, 40.0)])
def test_derivatives_of_the_deviance_are_exact(n, lam):
    d = lambda y: poisson_deviance(n, y)
    assert_allclose(jax.grad(d)(lam), 2 * (1 - n / lam), rtol=1e-14, atol=1e-15)
    assert_allclose(jax.grad(jax.grad(d))(lam), 2 * n / lam**2, rtol=1e-14)
    assert_allclose(jax.grad(jax.grad(jax.grad(d)))(lam), -4 * n / lam**3, rtol=1e-14)
    if n:
        assert_allclose(jax.grad(poisson_deviance)(n, lam), 2 * np.log(n / lam), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("n", [0.0, 1e-300, 1e-8, 1.0, 1e8])
def test_negative_expectations_are_pushed_back(n):
    lam = jnp.array([-1e3, -1.0, -1e-12, 0.0])
    value, slope = jax.vmap(jax.value_and_grad(lambda y: poisson_deviance(n, y)))(lam)
    assert np.all(np.isfinite(value))
    assert np.all(np.diff(value) < 0)
    assert np.all(slope[:3] < 0)


@pytest.mark.parametrize("n", [0.0, 3.0])
def test_the_continuation_below_the_floor_joins_smoothly(n):
    floor = 1e-10 * (n or 1.0)
    pair = jnp.array([floor * (1 - 1e-9), floor * (1 + 1e-9)])
    value, slope = jax.vmap(jax.value_and_grad(lambda y: poisson_deviance(n, y)))(pair)
    assert_allclose(value[0], value[1], rtol=1e-8, atol=1e-15)
    assert_allclose(slope[0], slope[1], rtol=1e-8)


def test_gradient_at_nothing_observed_and_nothing_expected_is_finite():
    dn, dlam = jax.grad(lambda n, y: poisson_deviance(n, y), (0, 1))(0.0, 0.0)
    assert np.isfinite(dn)
    assert np.isfinite(dlam)


def counting(theta, t):
    return theta[0] * t["s"] + t["b"] * (1 + t["delta"] * theta[1])


TEMPLATES = {"s": jnp.array([5.0, 3.0]), "b": jnp.array([50.0, 20.0]), "delta": jnp.array(0.1)}


def make(**options):
    given = {"names": ("mu", "norm"), "init": (1.0, 0.0), "constrained": ("norm",), "poi": "mu"} | options
    return BinnedModel(counting, TEMPLATES, **given)


def test_derivatives_of_a_binned_model_are_those_of_its_nll(check_derivatives):
    model = make()
    theta, data = jnp.array([0.7, 0.4]), Data(jnp.array([53.0, 0.0]), jnp.array([0.0, 0.2]))
    value, gradient, hessian = model.derivatives(theta, data)
    assert_allclose(value, model.nll(theta, data), rtol=1e-14)
    assert_allclose(gradient, jax.grad(model.nll)(theta, data), rtol=1e-13)
    assert_allclose(hessian, jax.hessian(model.nll)(theta, data), rtol=1e-13)
    check_derivatives(lambda x: eqx.tree_at(lambda m: m.templates, model, x[0]).nll(x[1], data), (TEMPLATES, theta))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"poi": "kappa"}, "no parameter 'kappa'; the model has mu, norm"),
        ({"constrained": ("lumi",)}, "no parameter 'lumi'"),
        ({"init": (1.0,)}, "2 parameters want 2 start values, got 1"),
        ({"bounds": {"mu": (2.0, 3.0)}}, r"start value 1.0 of 'mu' outside its bounds \(2.0, 3.0\)"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_single_precision_is_refused_with_the_cure():
    with jax.enable_x64(False):
        model = make()
        with pytest.raises(ValueError, match="fits need float64, got float32: set JAX_ENABLE_X64=1"):
            fit(model, Data(jnp.array([55.0, 23.0]), jnp.zeros(2)))


def test_a_fixed_parameter_that_does_not_exist_is_named():
    model = make()
    with pytest.raises(ValueError, match="no parameter 'nu'"):
        fit(model, model.asimov(model.init), fixed={"nu": 0.0})
