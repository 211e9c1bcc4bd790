"""What every differentiable stage promises, checked for each entry of tests/stages.py."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.parameters import is_param, resolve
from tests.stages import STAGES, STEPPED, Case, lead_stack, menu, on_stage
from tests.strategies import measured, photons

EVERY = STAGES | STEPPED
STEP = 1e-3


def outputs(call, tree, x):
    """All inexact outputs as one vector."""
    return ravel_pytree(eqx.filter(call(resolve(tree), x), eqx.is_inexact_array))[0]


def flat(case: Case):
    """The case as a function of one vector: every Param, weight and input."""
    variables, rest = eqx.partition((case.tree, case.x), eqx.is_inexact_array)
    v, unravel = ravel_pytree(variables)
    return (lambda v: outputs(case.call, *eqx.combine(unravel(v), rest))), v


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_jit_equals_eager(make):
    f, v = flat(make())
    eager = f(v)
    assert bool(jnp.all(jnp.isfinite(eager)))
    # a fused loop sums in another order and contracts a*b + c: a few dozen roundings of 1e-16
    scale = float(jnp.max(jnp.abs(eager)))
    assert_allclose(jax.jit(f)(v), eager, rtol=1e-12, atol=1e-14 * scale)


@pytest.mark.parametrize("make", STAGES.values(), ids=STAGES)
def test_gradient_equals_finite_differences(make):
    f, v = flat(make())
    n = f(v).size
    mix = jr.normal(jr.key(99), (n,))
    value = lambda v: jnp.vdot(mix, f(v))
    automatic = np.asarray(jax.jit(jax.grad(value))(v))
    steps = STEP * np.maximum(np.abs(np.asarray(v)), 0.1)
    at = jax.jit(lambda v, i, t: value(v.at[i].add(t)))
    magnitude = float(jnp.vdot(jnp.abs(mix), jnp.abs(f(v))))
    for i, h in enumerate(steps):
        quotient = (8 * (at(v, i, h) - at(v, i, -h)) - (at(v, i, 2 * h) - at(v, i, -2 * h))) / (12 * h)
        # rounding of the sum over the step; the truncation error of order step^4 is far below rtol
        rounding = 4 * np.finfo(float).eps * magnitude / h
        assert_allclose(automatic[i], quotient, rtol=1e-6, atol=rounding, err_msg=f"element {i}")
