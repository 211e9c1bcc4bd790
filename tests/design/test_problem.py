"""Problems: what a constraint accepts, how a shortfall reads, and that every program is compiled once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.config import SearchSettings
from diffhep.design.problem import Constraint, Outcome, Problem, counted, excess, shortfalls
from diffhep.design.study import AbstractStudy
from diffhep.parameters import Param, named_params, resolve, split

COST = Constraint("cost", 60.0, "cost unit")
RATE = Constraint("rate", 25.0, "Hz")
RATIO = Constraint("ratio", 0.5, "")
positive = st.floats(1e-6, 1e6)


def power_law(design, context):
    """Z = x^a y^b, cost p x + q y."""
    d = resolve(design)
    a, b = context["powers"]
    p, q = context["prices"]
    return Outcome(d["x"] ** a * d["y"] ** b, jnp.stack([p * d["x"] + q * d["y"], d["x"]]))


def problem():
    context = {"powers": jnp.array([1.0, 2.0]), "prices": jnp.array([2.0, 1.0])}
    return Problem(power_law, context, (COST, Constraint("width", 20.0, "mm")))


def design(x=3.0, y=4.0, *, frozen=False):
    return {
        "x": Param(x, unit="mm", role="geometry", bounds=(0.1, 50.0)),
        "y": Param(y, unit="mm", role="geometry", bounds=(0.1, 50.0), frozen=frozen),
    }


# constraints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_limit_is_positive_and_finite(limit):
    with pytest.raises(ValueError, match=r"^rate: the limit must be positive and finite, got \S+ Hz$"):
        Constraint("rate", limit, "Hz")


def test_a_bad_limit_of_a_pure_number_leaves_no_blank_behind():
    with pytest.raises(ValueError, match=r"got -2\.0$"):
        Constraint("ratio", -2.0, "")


@given(positive, positive)
def test_the_relative_excess_is_positive_exactly_where_the_limit_is_exceeded(used, limit):
    """Also one rounding above it: ulp(limit)/limit is more than half of the spacing of numbers above 1."""
    above = np.nextafter(limit, np.inf)
    over = np.asarray(excess(jnp.array([used, limit, above]), jnp.full(3, limit)))
    assert_array_equal(over > 0, [used > limit, False, True])
    assert_allclose(over[0], (used - limit) / limit, rtol=1e-9, atol=1e-15)


# shortfalls -----------------------------------------------------------------------------------------------------------


def test_a_shortfall_names_the_constraint_what_it_takes_and_by_how_much():
    assert shortfalls([COST, RATE], np.array([71.5, 20.0])) == [
        "cost: at least 71.5 cost unit is needed, 11.5 more than 60"
    ]
    assert shortfalls([RATIO], np.array([0.75])) == ["ratio: at least 0.75 is needed, 0.25 more than 0.5"]


def test_a_limit_that_is_just_met_is_no_shortfall():
    assert shortfalls([COST, RATE], np.array([60.0, 25.0])) == []


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5))
def test_one_sentence_for_each_constraint_that_cannot_be_met_in_their_order(pairs):
    constraints = [Constraint(f"c{i}", limit, "mm") for i, (limit, _) in enumerate(pairs)]
    said = shortfalls(constraints, np.array([least for _, least in pairs]))
    assert [s.split(":")[0] for s in said] == [f"c{i}" for i, (limit, least) in enumerate(pairs) if least > limit]


def test_a_shortfall_needs_one_number_for_each_constraint():
    with pytest.raises(ValueError, match="zip"):
        shortfalls([COST, RATE], np.array([1.0]))


def unused(*args, **kwargs):
    raise NotImplementedError


class Study(AbstractStudy):
    """Nothing but what `check_feasible` asks for."""

    name = "toy"
    settings = SearchSettings()
    integers = adjustable = ()
    objective_name = "Z"
    untrained: Any = unused
    initial: Any = unused
    train: Any = unused
    start: Any = unused
    rescaled: Any = unused
    scan: Any = unused
    evaluate: Any = unused
    settle: Any = unused
    judge: Any = unused
    pictures: Any = unused
    hardware: Any = unused
    provenance: Any = unused

    def __init__(self, least):
        self.problem = Problem(power_law, None, (COST, RATE))
        self.least = np.array(least)

    def least_use(self):
        return self.least


def test_a_study_refuses_budgets_that_no_design_meets_in_one_line():
    with pytest.raises(ValueError, match="infeasible") as caught:
        Study([71.5, 26.0]).check_feasible()
    assert str(caught.value) == (
        "toy: infeasible budget: cost: at least 71.5 cost unit is needed, 11.5 more than 60; "
        "rate: at least 26 Hz is needed, 1 more than 25"
    )


def test_a_study_accepts_budgets_that_some_design_meets():
    assert Study([60.0, 25.0]).check_feasible() is None


# compiled programs ----------------------------------------------------------------------------------------------------


def test_counted_counts_traces_not_calls():
    traces = {}
    double = jax.jit(counted(lambda x: 2 * x, traces, "double"))
    assert_array_equal(double(jnp.arange(3.0)), [0, 2, 4])
    double(jnp.ones(3))
    assert traces == {"double": 1}
    double(jnp.ones(4))
    assert traces == {"double": 2}


def test_counted_keeps_names_apart():
    traces = {}
    counted(lambda: None, traces, "one")()
    counted(lambda a, b: a + b, traces, "two")(1, 2)
    assert traces == {"one": 1, "two": 1}


def test_value_and_gradient_of_a_power_law():
    """dZ/dx = a Z/x; the gradient is with respect to the raw leaf, so times dx/draw."""
    toy, start = problem(), design()
    parts = split(start)
    assert_allclose(toy.value(*parts, toy.context), 3.0 * 4.0**2, rtol=1e-14)
    value, gradient = toy.value_and_grad(*parts, toy.context)
    assert_allclose(value, 48.0, rtol=1e-14)
    for name, power in (("x", 1.0), ("y", 2.0)):
        p = start[name]
        assert_allclose(gradient[name].raw, power * 48.0 / p.unwrap() * p.slope(), rtol=1e-13)


def test_a_frozen_parameter_has_a_value_but_no_gradient():
    toy = problem()
    value, gradient = toy.value_and_grad(*split(design(frozen=True)), toy.context)
    assert_allclose(value, 48.0, rtol=1e-14)
    assert gradient["y"].raw is None
    assert gradient["x"].raw is not None


def test_one_program_serves_every_design_and_every_context():
    toy = problem()
    other = {"powers": jnp.array([2.0, 0.0]), "prices": jnp.array([1.0, 1.0])}
    values = [toy.value(*split(design(x)), c) for x in (1.0, 2.0, 3.0) for c in (toy.context, other)]
    assert_allclose(values, [16.0, 1.0, 32.0, 4.0, 48.0, 9.0], rtol=1e-13)
    for x in (1.0, 2.0):
        toy.value_and_grad(*split(design(x)), other)
    assert toy.traces == {"value": 1, "value and gradient": 1}
    assert toy.value is toy.value


def test_two_problems_do_not_share_their_counts():
    one, two = problem(), problem()
    one.value(*split(design()), one.context)
    assert one.traces == {"value": 1}
    assert two.traces == {}


def test_limits_are_in_the_order_of_the_constraints():
    assert_array_equal(problem().limits, [60.0, 20.0])
    used = power_law(design(), problem().context).used
    assert_allclose(used, [2 * 3.0 + 4.0, 3.0], rtol=1e-14)
    assert list(named_params(design())) == ["x", "y"]
