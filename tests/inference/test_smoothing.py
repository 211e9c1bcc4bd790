"""Smooth templates: the maximum-likelihood exponential of a polynomial, with its error and its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from diffhep.inference import smooth_counts
from diffhep.inference.smoothing import legendre

X = np.linspace(105.5, 159.5, 55)
TRUTH = 40 * np.exp(-(X - 105) / 20 + 1e-4 * (X - 130) ** 2)


def test_basis_is_numpys_legendre():
    x = np.linspace(-1, 1, 11)
    assert_allclose(legendre(jnp.array(x), 5), np.polynomial.legendre.legvander(x, 5), atol=1e-15)


@pytest.mark.parametrize("degree", [0, 1, 2, 4])
def test_template_maximises_the_poisson_likelihood(degree):
    n = np.random.default_rng(2).poisson(TRUTH / 8).astype(float)
    assert np.any(n == 0)
    got = smooth_counts(n, n, X, degree)
    basis = np.polynomial.legendre.legvander((X - X[0]) / (X[-1] - X[0]) * 2 - 1, degree)
    f = lambda c: np.sum(np.exp(basis @ c)) - n @ basis @ c
    slope = lambda c: basis.T @ (np.exp(basis @ c) - n)
    best = minimize(f, np.zeros(degree + 1), jac=slope, method="BFGS", options={"gtol": 1e-10})
    assert bool(got.converged)
    # BFGS stops at a gradient of 1e-10, or at rounding of f, which is 1e-8 in the parameters
    assert_allclose(got.counts, np.exp(basis @ best.x), rtol=1e-6)
    assert_allclose(got.coefficients, best.x, atol=1e-6)


def test_an_exact_shape_is_returned_and_the_total_always_conserved():
    assert_allclose(smooth_counts(TRUTH, TRUTH, X, 2).counts, TRUTH, rtol=1e-9)
    n = np.random.default_rng(1).poisson(TRUTH).astype(float)
    assert_allclose(jnp.sum(smooth_counts(n, n, X, 1).counts), np.sum(n), rtol=1e-13)


def test_weights_change_the_errors_and_not_the_template():
    n = np.random.default_rng(1).poisson(TRUTH).astype(float)
    one, tenth = smooth_counts(n, n, X, 2), smooth_counts(0.1 * n, 0.01 * n, X, 2)
    assert_allclose(tenth.counts, 0.1 * one.counts, rtol=1e-10)
    assert_allclose(tenth.error, 0.1 * one.error, rtol=1e-9)
    assert_allclose(tenth.chi2, one.chi2, rtol=1e-9)


def test_error_is_the_spread_of_pseudo_experiments():
    rng = np.random.default_rng(3)
    toys = jnp.array(rng.poisson(TRUTH, size=(1500, X.size)), dtype=float)
    f = jax.jit(jax.vmap(lambda n: smooth_counts(n, n, X, 2)))
    got = f(toys)
    assert np.all(got.converged)
    predicted = smooth_counts(TRUTH, TRUTH, X, 2).error
    # standard error of a spread: 1/sqrt(2 n) = 1.8 %; 55 correlated bins, so 4 of them
    assert_allclose(np.std(np.asarray(got.counts), axis=0), predicted, rtol=4 / np.sqrt(3000))
    # mean of chi2 is ndf; its standard error sqrt(2 ndf/n)
    assert abs(float(jnp.mean(got.chi2)) - got.ndf) < 4 * np.sqrt(2 * got.ndf / 1500)


def test_derivatives_pass_through_the_fit(check_derivatives):
    n = np.random.default_rng(4).poisson(TRUTH).astype(float)
    v = np.sin(np.arange(X.size))
    check_derivatives(lambda n: smooth_counts(n, n, X, 2).counts @ v, jnp.array(n))
    check_derivatives(lambda n: jnp.sum(smooth_counts(n, n + 1.0, X, 2).error), jnp.array(n), order=1)


def test_negative_bins_of_weighted_samples_are_accepted():
    n = TRUTH.copy()
    n[::7] = -0.5
    got = smooth_counts(n, np.abs(n), X, 2)
    assert bool(got.converged)
    assert np.all(got.counts > 0)
    assert_allclose(jnp.sum(got.counts), n.sum(), rtol=1e-12)


def test_one_filled_bin_is_a_failure_or_positive_never_nan():
    n = np.zeros(X.size)
    n[20] = 3.0
    got = smooth_counts(n, n, X, 1)
    assert np.all(np.isfinite(got.counts))
    assert_allclose(jnp.sum(got.counts), 3.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.ones(3), np.ones(2), np.arange(3.0)), r"shapes \(3,\), \(2,\), \(3,\)"),
        (
            (np.ones(3), np.ones(3), np.arange(3.0), 3),
            "degree must be from 0 to the number of bins minus one, 2, got 3",
        ),
        ((np.zeros(3), np.ones(3), np.arange(3.0)), "counts must add up to more than zero, got 0.0"),
    ],
)
def test_bad_input_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        smooth_counts(*arguments)
