"""CMA-ES as the baseline: finds the optimum of an easy problem within its budget, keeps to its evaluations."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.design.baseline import cma_es
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.parameters import Param, resolve


class Point(eqx.Module):
    x: Param | float
    y: Param | float


def hill(limit):
    def evaluate(design, context):
        d = resolve(design)
        return Outcome(jnp.exp(-((d.x - 2) ** 2) - (d.y - 1) ** 2), jnp.stack([d.x + d.y]))

    return Problem(evaluate, None, (Constraint("sum", limit, "mm"),))


DESIGN = Point(*(Param(0.5, unit="mm", role="geometry") for _ in range(2)))


@pytest.mark.parametrize(("limit", "x", "y"), [(9.0, 2.0, 1.0), (2.0, 1.5, 0.5)])
def test_finds_the_constrained_optimum(limit, x, y):
    found = cma_es(hill(limit), DESIGN, ("x", "y"), evaluations=1500, seed=0)
    assert found["parameters"] == pytest.approx({"x": x, "y": y}, abs=0.01)
    assert sum(found["parameters"].values()) <= limit
    assert found["objective"] == pytest.approx(np.exp(-((x - 2) ** 2) - (y - 1) ** 2), rel=0.02)


def test_keeps_to_its_evaluations_and_to_its_seed():
    first, second = (cma_es(hill(2.0), DESIGN, ("x", "y"), evaluations=100, seed=4) for _ in range(2))
    assert first == second
    assert 0 < first["evaluations"] <= 100


def test_says_so_when_nothing_meets_the_budget():
    far = Point(*(Param(50.0, unit="mm", role="geometry") for _ in range(2)))
    found = cma_es(hill(0.1), far, ("x", "y"), evaluations=20, seed=0)
    assert found["objective"] is None
    assert found["parameters"] is None
