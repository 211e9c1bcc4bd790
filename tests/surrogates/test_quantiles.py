"""The distribution behind an autoregressive surrogate: quantiles and density belong together."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.surrogates.quantiles import PARAMETERS, log_density, quantile, standard_parameters

seeds = st.integers(0, 1000)


def parameters_of(seed: int) -> jax.Array:
    """Parameters as far from the untrained ones as training takes them."""
    return jnp.asarray(standard_parameters()) + jr.normal(jr.key(seed), (PARAMETERS,), jnp.float64)


@given(seeds, st.floats(-12, 12))
def test_the_density_is_that_of_the_quantiles(seed, w):
    parameters, w = parameters_of(seed), jnp.array(w)
    slope = jax.grad(quantile, argnums=1)(parameters, w)
    # the cumulative probability is a logistic function of w
    wanted = jax.nn.log_sigmoid(w) + jax.nn.log_sigmoid(-w) - jnp.log(slope)
    assert_allclose(log_density(parameters, quantile(parameters, w)), wanted, rtol=1e-6, atol=1e-6)


@given(seeds, st.floats(-6, 6))
def test_derivatives_of_the_density_see_that_the_inverse_moves(seed, w):
    """Against the theorem of implicit functions, at a place whose inverse is known."""
    parameters, w = parameters_of(seed), jnp.array(w)
    direction = jr.normal(jr.key(seed + 1), parameters.shape, jnp.float64)
    y = quantile(parameters, w)
    _, found = jax.jvp(lambda p: log_density(p, y), (parameters,), (direction,))
    slope = jax.grad(quantile, argnums=1)
    _, moved = jax.jvp(lambda p: quantile(p, w), (parameters,), (direction,))
    density = lambda p, w: jax.nn.log_sigmoid(w) + jax.nn.log_sigmoid(-w) - jnp.log(slope(p, w))
    _, wanted = jax.jvp(density, (parameters, w), (direction, -moved / slope(parameters, w)))
    assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_untrained_distribution_is_about_a_standard_one():
    y = jnp.linspace(-15, 15, 4001)
    density = np.exp(
        np.asarray(log_density(jnp.broadcast_to(jnp.asarray(standard_parameters()), (4001, PARAMETERS)), y))
    )
    assert_allclose(np.trapezoid(density, y), 1.0, atol=1e-3)
    assert_allclose(np.trapezoid(density * y, y), 0.0, atol=1e-6)
    assert 0.5 < np.trapezoid(density * y**2, y) < 2
