"""Derivatives against finite differences, compiled once each (jax.test_util.check_grads recompiles for every mode)."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from tests.specifications import Specs


@pytest.fixture
def check_derivatives():
    """check(f, x, order=2, rtol=1e-6, step=3e-4): gradient, and Hessian along a direction, of a scalar function."""

    def check(f, x, *, order=2, rtol=1e-6, step=3e-4):
        flat, unravel = ravel_pytree(x)
        direction = np.random.default_rng(5).normal(size=flat.size)
        # relative steps, because templates and strengths differ by orders of magnitude
        direction *= np.maximum(np.abs(np.asarray(flat)), 1e-2) / np.sqrt(flat.size)
        g = lambda t: f(unravel(flat + t * direction))
        value, slope = jax.jit(g), jax.jit(jax.grad(g))
        # fourth order: truncation of step^4 = 1e-14 times the fifth derivative, and rounding of 1e-16/step = 3e-13
        central = lambda h: (8 * (h(step) - h(-step)) - (h(2 * step) - h(-2 * step))) / (12 * step)
        assert_allclose(slope(0.0), central(value), rtol=rtol, atol=rtol * 1e-2)
        if order > 1:
            bend = jax.jit(lambda t: jax.jvp(jax.grad(g), (t,), (1.0,))[1])
            assert_allclose(bend(0.0), central(slope), rtol=rtol, atol=rtol * 1e-2)

    return check


@pytest.fixture(scope="session")
def specs():
    return Specs()
