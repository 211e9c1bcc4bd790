"""Fisher information: closed forms, the mean over toys, and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.inference import BinnedModel
from diffhep.inference.densities import exponential, gaussian
from diffhep.inference.fitting import information
from diffhep.inference.information import cramer_rao, fisher_information
from diffhep.inference.model import histfactory
from diffhep.inference.unbinned import Component, UnbinnedModel

S, B = np.array([4.0, 9.0, 1.0]), np.array([30.0, 20.0, 8.0])


def binned(templates=None):
    expected = lambda theta, t: theta[0] * t["s"] + t["b"] * jnp.exp(t["tilt"] * theta[1])
    given = {"s": jnp.asarray(S), "b": jnp.asarray(B), "tilt": jnp.array([0.1, -0.05, 0.2])}
    return BinnedModel(
        expected, templates or given, names=("mu", "tilt"), init=(1.0, 0.0), constrained=("tilt",), poi="mu"
    )


THETA = np.array([1.4, 0.6])


def test_information_of_bins_is_the_closed_form():
    tilt = np.array([0.1, -0.05, 0.2])
    b = B * np.exp(tilt * THETA[1])
    jacobian = np.stack([S, tilt * b])
    wanted = jacobian / (THETA[0] * S + b) @ jacobian.T + np.diag([0.0, 1.0])
    assert_allclose(fisher_information(binned(), THETA), wanted, rtol=1e-12)
    assert_allclose(cramer_rao(binned(), THETA), np.sqrt(np.diag(np.linalg.inv(wanted))), rtol=1e-12)


def test_information_is_the_mean_curvature_of_toys():
    model, toys = binned(), 4000

    @jax.jit
    def curvature(keys):
        theta = jnp.asarray(THETA)
        one = lambda key: information(model, theta, model.sample(theta, key=key))
        rows = jax.vmap(one)(keys)
        return jnp.mean(rows, axis=0), jnp.std(rows, axis=0) / np.sqrt(toys)

    mean, error = curvature(jr.split(jr.key(5), toys))
    # four standard errors for each of three different numbers
    assert np.all(np.abs(mean - fisher_information(model, THETA)) < 4 * error + 1e-12)
    assert np.all(error > 0)


def test_information_of_events_is_the_closed_form():
    # a Gaussian far from the ends of the range and a full exponential: n/sigma^2, 2 n/sigma^2, n/slope^2, 1/n
    peak = UnbinnedModel(
        {"peak": Component(gaussian("m", "s"), "n")}, low=-20.0, high=20.0, init={"n": 50.0, "m": 0.3, "s": 1.5}
    )
    # truncated 13 standard deviations away; quadrature of parts a fifth of a sigma wide
    assert_allclose(fisher_information(peak), np.diag([1 / 50, 50 / 2.25, 100 / 2.25]), atol=1e-10)
    fall = UnbinnedModel({"fall": Component(exponential("k"), "n")}, low=0.0, high=40.0, init={"n": 30.0, "k": -1.0})
    # what lies beyond the range is exp(-40)
    assert_allclose(fisher_information(fall), np.diag([1 / 30, 30.0]), atol=1e-9)
    assert_allclose(cramer_rao(fall), [np.sqrt(30), 1 / np.sqrt(30)], rtol=1e-9)


def test_bound_of_a_histfactory_includes_its_analytic_factors(specs):
    s, b, db, _ = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    # n = mu s + b gamma, auxiliary tau gamma: the factor's information is eliminated bin by bin
    tau = (b / db) ** 2
    total = s + b
    wanted = np.sum(s**2 / total - (s * b / total) ** 2 / (b**2 / total + tau)) ** -0.5
    assert_allclose(cramer_rao(model)[model.poi], wanted, rtol=1e-9)


def test_bound_is_differentiable_in_parameters_and_templates(check_derivatives):
    x = (jnp.asarray(THETA), {"s": jnp.asarray(S), "b": jnp.asarray(B), "tilt": jnp.array([0.1, -0.05, 0.2])})
    check_derivatives(lambda x: cramer_rao(binned(x[1]), x[0]) @ jnp.array([1.0, 0.4]), x, order=1)
    model = UnbinnedModel(
        {"peak": Component(gaussian(0.2, 1.5), "mu", 20.0), "flat": Component(exponential("k"), "n")},
        low=-6.0,
        high=6.0,
        init={"mu": 1.0, "n": 100.0, "k": 0.05},
    )

    def f(x):
        moved = eqx.tree_at(lambda m: m.components["peak"].density.constants, model, x[0])
        return fisher_information(moved, x[1])[0] @ jnp.array([1.0, 10.0, 0.1])

    check_derivatives(f, (jnp.array([0.2, 1.5]), jnp.array([1.1, 90.0, 0.03])), order=1)


def test_what_the_data_do_not_determine_has_no_bound():
    nothing = eqx.tree_at(lambda m: m.templates["s"], binned(), jnp.zeros(3))
    bound = jax.jit(cramer_rao)(nothing)
    assert float(bound[0]) == np.inf
    assert 0 < float(bound[1]) < 1
    gradient = jax.jit(jax.grad(lambda m: jnp.sum(jnp.where(jnp.isfinite(cramer_rao(m)), cramer_rao(m), 0.0))))
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient(nothing)))


def test_a_wrong_number_of_parameters_is_refused():
    with pytest.raises(ValueError, match=r"theta: 2 parameters are wanted \(mu, tilt\), got shape \(3,\)"):
        fisher_information(binned(), np.ones(3))
