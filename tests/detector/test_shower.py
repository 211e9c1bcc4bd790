"""Shower profiles against scipy's incomplete gamma function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.special import gammainc, gammaincc
from scipy.stats import gamma

from diffhep.detector import gamma_fractions, leakage_curve, leakage_moments
from diffhep.detector.shower import LAGUERRE_NODES, PHOTON_START, gamma_density, gamma_survival, shape_parameter

CRITICAL = 7.43e-3


def grid(start, step, bins=8):
    """Edges of readout groups seen from a shower that starts at some depth: some of them still before it."""
    return np.maximum(np.arange(bins + 1) * step - start, 0.0)


@given(st.floats(3.5, 10.0), st.floats(0.0, 5.0), st.floats(0.2, 2.0))
@settings(max_examples=30)
def test_fractions_are_differences_of_incomplete_gamma_functions(shape, start, step):
    edges = grid(start, step)
    fractions = np.asarray(gamma_fractions(jnp.asarray(shape), jnp.asarray(edges)))
    assert_allclose(fractions, np.diff(gammainc(shape, edges)), rtol=0, atol=2e-6)
    assert np.all(fractions >= 0)


@given(st.floats(2.0, 3.5), st.floats(0.0, 5.0), st.floats(0.2, 2.0))
@settings(max_examples=30)
def test_soft_showers_are_good_to_what_the_docstring_says(shape, start, step):
    edges = grid(start, step)
    fractions = np.asarray(gamma_fractions(jnp.asarray(shape), jnp.asarray(edges)))
    assert_allclose(fractions, np.diff(gammainc(shape, edges)), rtol=0, atol=6e-5)


@given(st.floats(2.5, 10.0), st.floats(0.0, 5.0), st.floats(0.2, 2.0))
@settings(max_examples=20)
def test_the_derivative_with_respect_to_an_edge_is_the_density(shape, start, step):
    edges = grid(start, step)
    jacobian = np.asarray(jax.jacrev(lambda x: gamma_fractions(jnp.asarray(shape), x))(jnp.asarray(edges)))
    expected = np.zeros((8, 9))
    density = gamma.pdf(edges, shape)
    for i in range(8):
        expected[i, i], expected[i, i + 1] = -density[i], density[i + 1]
    assert_allclose(jacobian, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("shape", [3.7, 5.75, 8.0])
def test_the_derivative_with_respect_to_the_shape(shape):
    edges = grid(0.7, 1.7)
    derivative = jax.jacrev(lambda a: gamma_fractions(a, jnp.asarray(edges)))(jnp.asarray(shape))
    h = 1e-3
    at = lambda t: np.diff(gammainc(shape + t, edges))
    quotient = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    # the error of the quadrature of density times ln x, as of the density itself
    assert_allclose(derivative, quotient, rtol=0, atol=5e-6)


def test_fractions_broadcast_over_showers():
    shapes, edges = jnp.array([[4.0, 5.0], [6.0, 7.0]]), jnp.asarray(grid(0.5, 1.5))
    together = gamma_fractions(shapes, jnp.broadcast_to(edges, (2, 2, 9)))
    assert together.shape == (2, 2, 8)
    assert_allclose(together[1, 0], gamma_fractions(shapes[1, 0], edges), rtol=1e-13)


@given(st.floats(2.0, 12.0), st.floats(0.0, 60.0))
@settings(max_examples=30)
def test_survival_is_the_upper_incomplete_gamma_function(shape, x):
    assert float(gamma_survival(jnp.asarray(shape), jnp.asarray(x))) == pytest.approx(gammaincc(shape, x), abs=1e-9)


@given(st.floats(2.0, 10.0), st.floats(-3.0, 60.0, allow_subnormal=False))
def test_density_is_that_of_the_gamma_distribution(shape, x):
    assert float(gamma_density(jnp.asarray(shape), jnp.asarray(x))) == pytest.approx(gamma.pdf(x, shape), rel=1e-10)


@pytest.mark.parametrize(
    ("offset", "maximum"), [(0.5, np.log(60 / CRITICAL) + 0.5), (-0.5, np.log(60 / CRITICAL) - 0.5)]
)
def test_the_shower_peaks_where_the_formula_says(offset, maximum):
    shape = float(shape_parameter(jnp.asarray(60.0), CRITICAL, offset))
    t = np.linspace(1.0, 20.0, 1901)
    profile = np.asarray(gamma_density(jnp.asarray(shape), jnp.asarray(t / 2)))
    assert t[np.argmax(profile)] == pytest.approx(maximum, abs=0.01)


# leakage --------------------------------------------------------------------------------------------------------------


def exact_moments(shape, depth):
    """Mean and spread of the leaking fraction by adaptive integration over the conversion depth."""
    leak = lambda t: gammaincc(shape, 0.5 * (depth - t))
    tail = np.exp(-depth / PHOTON_START)
    moment = lambda k: (
        quad(lambda t: leak(t) ** k * np.exp(-t / PHOTON_START) / PHOTON_START, 0, depth, epsabs=1e-13)[0] + tail
    )
    return moment(1), np.sqrt(moment(2) - moment(1) ** 2)


@pytest.mark.parametrize("energy", [5.0, 60.0, 1000.0])
@pytest.mark.parametrize("depth", [15.0, 20.0, 28.295, 35.0])
def test_leakage_moments_are_integrals_over_the_conversion_depth(energy, depth):
    shape = float(shape_parameter(jnp.asarray(energy), CRITICAL, 0.5))
    assert depth < PHOTON_START * LAGUERRE_NODES[-1]
    # 60 nodes across the kink where a photon that does not convert begins: a share exp(-X/(9/7)) of all
    atol = 0.1 * np.exp(-depth / PHOTON_START) + 1e-9
    assert_allclose(
        leakage_moments(jnp.asarray(shape), jnp.asarray(depth)), exact_moments(shape, depth), rtol=1e-4, atol=atol
    )


def test_leakage_falls_with_depth_and_rises_with_energy():
    shapes = shape_parameter(jnp.array([1.0, 10.0, 100.0, 1000.0]), CRITICAL, 0.5)
    means = np.array([leakage_moments(shapes, jnp.asarray(depth))[0] for depth in (10.0, 20.0, 30.0, 40.0)])
    assert np.all(np.diff(means, axis=0) < 0)
    assert np.all(np.diff(means, axis=1) > 0)
    assert np.all((means > 0) & (means < 1))


@pytest.mark.parametrize("depth", [15.0, 20.0, 28.3, 35.0])
def test_the_curve_interpolates_the_moments(depth):
    energies = jnp.exp(jnp.linspace(0.0, np.log(3000.0), 101))
    mean, _ = leakage_moments(shape_parameter(energies, CRITICAL, 0.5), jnp.asarray(depth))
    assert_allclose(leakage_curve(jnp.asarray(depth), CRITICAL, 0.5)(energies), mean, rtol=1e-4)


def test_energies_outside_the_curve_count_as_the_nearest_end():
    curve = leakage_curve(jnp.asarray(25.0), CRITICAL, 0.5)
    values = np.asarray(curve(jnp.array([1e-9, 1.0, 3000.0, 1e6])))
    # the ends are cut off by 1e-6 of the range
    assert_allclose(values[[0, 3]], values[[1, 2]], rtol=1e-4)
    assert jax.grad(curve)(1e6) == 0.0
