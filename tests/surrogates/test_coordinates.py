"""Coordinates of layer energies: one to one, never more energy than came in, and their Jacobian."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.surrogates.coordinates import cut, fill_empty, log_jacobian, to_coordinates, to_energies

layers = st.lists(st.floats(1e-7, 0.1), min_size=2, max_size=9).map(np.array)


@given(layers, st.floats(1.1, 100.0))
def test_the_map_is_one_to_one(energies, energy):
    z = to_coordinates(jnp.asarray(energies), jnp.asarray(energy))
    # a ratio of 1e6 between layers costs six of the sixteen digits
    assert_allclose(to_energies(z, jnp.asarray(energy)), energies, rtol=1e-8)


@given(st.lists(st.floats(-300, 300), min_size=2, max_size=9).map(np.array), st.floats(0.1, 100.0))
def test_energy_is_conserved_whatever_the_coordinates(z, energy):
    found = np.asarray(to_energies(jnp.asarray(z), jnp.asarray(energy)))
    assert np.all(found >= 0)
    assert found.sum() <= energy * (1 + 1e-12)


@given(layers, st.floats(1.1, 100.0))
def test_the_jacobian_is_that_of_automatic_differentiation(energies, energy):
    e = jnp.asarray(energies)
    matrix = jax.jacfwd(lambda e: to_coordinates(e, jnp.asarray(energy)))(e)
    _, wanted = np.linalg.slogdet(np.asarray(matrix) * np.asarray(e))
    assert_allclose(log_jacobian(e, jnp.asarray(energy)), wanted - np.log(energies).sum(), rtol=1e-6, atol=1e-6)


def test_derivatives_are_finite_at_both_ends():
    z = jnp.array([-800.0, 800.0, -800.0, 0.0])
    slope = jax.jacrev(lambda z: to_energies(z, jnp.array(5.0)))(z)
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_empty_layers_are_filled_below_the_threshold_and_emptied_again():
    energies = jnp.array([0.0, 5e-6, 1e-3, 2e-5])
    filled = fill_empty(energies, 1e-5, jr.key(0))
    assert_allclose(filled[2:], energies[2:])
    assert bool(jnp.all((filled[:2] >= 1e-7) & (filled[:2] < 1e-5)))
    assert cut(filled, 1e-5).tolist() == [0.0, 0.0, 1e-3, 2e-5]
