"""The minimiser: finds minima, respects bounds, reports failures as values, is differentiable twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize as scipy_minimise

from diffhep.inference import minimise


def rosenbrock(x, a):
    return (a - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def curved(x, a):
    """Convex but far from quadratic; the optimum depends on a nonlinearly."""
    return jnp.sum(jnp.cosh(x - jnp.sin(a))) + 0.3 * (x[0] * x[1]) ** 2 + jnp.exp(0.3 * x[0])


def test_the_minimum_of_a_curved_valley_is_found():
    found = minimise(rosenbrock, jnp.array([-1.2, 1.0]), jnp.array(1.0))
    assert bool(found.converged)
    assert found.reason == "converged"
    assert float(found.gradient_norm) <= 1e-9
    assert_allclose(found.theta, [1.0, 1.0], rtol=1e-8)


def test_the_optimum_does_not_depend_on_the_units_of_the_parameters():
    scale = jnp.array([1e6, 1e-6])
    plain = minimise(curved, jnp.array([1.0, -1.0]), jnp.array([0.3, 0.7]))
    scaled = minimise(lambda y, a: curved(y / scale, a), jnp.array([1.0, -1.0]) * scale, jnp.array([0.3, 0.7]))
    assert_allclose(scaled.theta / scale, plain.theta, rtol=1e-9)
    assert int(scaled.steps) == int(plain.steps)


@pytest.mark.parametrize("seed", range(5))
def test_bounded_minima_agree_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, low = rng.normal(size=3), rng.uniform(-0.5, 0.2, 3)
    high = low + rng.uniform(0.1, 1.0, 3)
    root = rng.normal(size=(3, 3))
    matrix = jnp.array(root @ root.T + 0.1 * np.eye(3))
    f = lambda x, a: 0.5 * (x - a) @ matrix @ (x - a) + 0.1 * jnp.sum((x - a) ** 4)
    found = minimise(f, jnp.array(0.5 * (low + high)), jnp.array(a), lower=jnp.array(low), upper=jnp.array(high))
    value = lambda x: float(f(x, a))
    slope = lambda x: np.asarray(jax.grad(f)(x, a))
    options = {"ftol": 1e-15, "gtol": 1e-12}
    bounds = list(zip(low, high, strict=True))
    other = scipy_minimise(value, 0.5 * (low + high), jac=slope, bounds=bounds, method="L-BFGS-B", options=options)
    assert bool(found.converged)
    # scipy stops on the value, so its parameters are good to the root of its tolerance
    assert_allclose(found.theta, other.x, atol=1e-6)
    assert float(found.value) <= other.fun + 1e-12
    held = (np.asarray(found.theta) == low) | (np.asarray(found.theta) == high)
    assert np.array_equal(np.asarray(found.at_bound), held)


def test_first_and_second_derivatives_pass_through_the_optimum(check_derivatives):
    f = lambda a: minimise(curved, jnp.zeros(2), a).theta @ jnp.array([1.0, -0.7])
    check_derivatives(f, jnp.array([0.3, 0.7]))


def test_first_and_second_derivatives_of_the_minimum_value(check_derivatives):
    check_derivatives(lambda a: minimise(curved, jnp.zeros(2), a).value, jnp.array([0.3, 0.7]))


def test_a_parameter_held_by_a_bound_does_not_follow():
    f = lambda a: minimise(lambda x, a: jnp.sum((x - a) ** 2), jnp.array([0.5]), a, lower=jnp.zeros(1)).theta
    assert_allclose(jax.jacobian(f)(jnp.array([-1.0])), [[0.0]])
    assert_allclose(jax.jacobian(f)(jnp.array([1.0])), [[1.0]])


def test_a_parameter_without_effect_stays_where_it_is():
    found = minimise(lambda x, a: (x[0] - a) ** 2, jnp.array([0.0, 3.0]), jnp.array(2.0))
    assert bool(found.converged)
    assert found.theta.tolist() == [2.0, 3.0]


def test_failures_are_values():
    late = minimise(rosenbrock, jnp.array([-1.2, 1.0]), jnp.array(1.0), max_steps=3)
    assert not bool(late.converged)
    assert late.reason == "too many steps"
    bad = minimise(lambda x, a: jnp.sum(jnp.log(x)), jnp.array([-1.0]))
    assert not bool(bad.converged)
    assert bad.reason == "objective not finite"
    unbounded = minimise(lambda x, a: jnp.sum(x), jnp.array([0.0]))
    assert not bool(unbounded.converged)


def test_vmap_finds_what_a_loop_finds():
    a = jnp.linspace(-2.0, 2.0, 9)[:, None] * jnp.array([1.0, 0.5])
    f = jax.jit(lambda a: minimise(curved, jnp.zeros(2), a))
    together = jax.vmap(f)(a)
    assert np.all(together.converged)
    assert_allclose(together.theta, np.stack([f(row).theta for row in a]), atol=1e-9)


def test_no_parameters_is_an_evaluation():
    found = minimise(lambda x, a: a**2 + jnp.sum(x), jnp.zeros(0), jnp.array(3.0))
    assert (float(found.value), bool(found.converged)) == (9.0, True)
