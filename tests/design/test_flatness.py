"""How far parameters may be off: a quadratic bowl with and without a budget, against algebra."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.design.exact import Sensitivities, certify, polish
from diffhep.design.flatness import null_space, tolerances
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.parameters import Param, resolve


class Plane(eqx.Module):
    x: Param | float
    y: Param | float
    z: Param | float


def bowl(limit):
    """exp(-(x^2 + 4 (y - 1)^2)/2), flat along z, with x + y limited."""

    def evaluate(design, context):
        d = resolve(design)
        return Outcome(jnp.exp(-0.5 * (d.x**2 + 4 * (d.y - 1) ** 2)), jnp.stack([d.x + d.y]))

    return Problem(evaluate, None, (Constraint("sum", limit, "mm"),))


def widths(limit):
    design = Plane(*(Param(v, unit="mm", role="geometry") for v in (0.1, 0.2, 0.3)))
    problem, names = bowl(limit), ("x", "y", "z")
    sensitivities = Sensitivities(problem, names)
    best = polish(sensitivities, design, tolerance=1e-14).design
    return tolerances(problem, best, names, certify(sensitivities, best), fall=0.01)


def test_a_free_optimum_is_the_inverse_curvature():
    found = widths(5.0)
    # exp(-c x^2/2) has fallen by 1 % where c x^2/2 = 0.01
    assert found["x"] == pytest.approx(np.sqrt(0.02), rel=1e-4)
    assert found["y"] == pytest.approx(np.sqrt(0.02 / 4), rel=1e-4)


def test_a_flat_direction_has_no_width():
    assert widths(5.0)["z"] is None


def test_a_binding_budget_leaves_one_direction():
    found = widths(0.5)
    # they can only move against each other
    assert found["x"] == pytest.approx(found["y"], rel=1e-6)
    # along (1, -1)/sqrt(2) ln Z has the curvature (1 + 4)/2, and x is 1/sqrt(2) of the way
    assert found["x"] == pytest.approx(np.sqrt(0.02 / 5), rel=1e-4)


def test_null_space_is_orthonormal_and_changes_no_row():
    rows = np.random.default_rng(0).normal(size=(2, 5))
    basis = null_space(rows)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rows @ basis, 0, atol=1e-12)
    assert null_space(np.zeros((0, 3))).shape == (3, 3)
