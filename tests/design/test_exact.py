"""The last, exact step: optima and multipliers in closed form, budgets kept, certificates."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.exact import Sensitivities, certify, polish, with_values
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.parameters import Param, named_params, resolve

NAMES = ("stack.x", "stack.y")
BOUNDS = (0.01, 200.0)
EXACT = 1e-11  # change of ln Z at which the solver stops, the least that rounding lets it see


def power_law(design, context):
    """Z = x^a y^b w, cost p x + q y, width x; w is a network's weight that nothing moves."""
    d = resolve(design)
    x, y = d["stack"]["x"], d["stack"]["y"]
    (a, b), (p, q) = d["powers"], d["prices"]
    return Outcome(context * x**a * y**b * d["network"][0], jnp.stack([p * x + q * y, x]))


CALLS = []


def counting(design, context):
    CALLS.append(1)
    return power_law(design, context)


ONE = jnp.asarray(1.0)
PROBLEM = Problem(counting, ONE, (Constraint("cost", 30.0, "cost unit"), Constraint("width", 20.0, "mm")))
SENSITIVITIES = Sensitivities(PROBLEM, NAMES)


def design(x=1.0, y=1.0, *, powers=(1.0, 2.0), prices=(2.0, 1.0), frozen=False):
    stack = {
        "x": Param(x, unit="mm", role="geometry", bounds=BOUNDS, frozen=frozen),
        "y": Param(y, unit="mm", role="geometry", bounds=BOUNDS),
    }
    rest = {"network": jnp.array([1.0, -0.7]), "other": Param(0.3, unit="GeV", role="threshold")}
    return {"stack": stack, "powers": jnp.array(powers), "prices": jnp.array(prices), **rest}


def closed_form(powers, prices, cost):
    """max x^a y^b with p x + q y = C: each parameter gets its power's share of the money."""
    return np.array(powers) / np.sum(powers) * cost / np.array(prices)


def values(found):
    params = named_params(found)
    return np.array([float(params[name].unwrap()) for name in NAMES])


# the optimum ----------------------------------------------------------------------------------------------------------


def test_the_optimum_and_its_multiplier_in_closed_form():
    """x = C a/((a + b) p); dZ/dC = (a + b) Z/C."""
    found = polish(SENSITIVITIES, design())
    assert found.converged
    # the limits are tightened by 1e-7, and the optimum moves with them
    assert_allclose(values(found.design), [5.0, 20.0], rtol=3e-7)
    assert_allclose(found.objective, 2000.0, rtol=3.1e-7)
    assert_allclose(found.objective, power_law(found.design, ONE).objective, rtol=1e-12)
    certificate = certify(SENSITIVITIES, found.design)
    assert_allclose(certificate.multipliers, [200.0, 0.0], rtol=1e-6)
    assert_array_equal(certificate.active, [True, False])
    assert certificate.residual < 1e-6
    assert -2e-7 < certificate.excess <= 0


def test_two_constraints_that_bind():
    """x = 3 by its width, y = C - 2 x: dZ/dC = b Z/y, dZ/d(width) = Z (a/x - p b/(q y))."""
    limits = np.array([30.0, 3.0])
    found = polish(SENSITIVITIES, design(), limits=limits)
    assert_allclose(values(found.design), [3.0, 24.0], rtol=3e-7)
    certificate = certify(SENSITIVITIES, found.design, limits=limits)
    z = 3.0 * 24.0**2
    assert_allclose(certificate.multipliers, [2 * z / 24, z * (1 / 3 - 4 / 24)], rtol=1e-6)
    assert_array_equal(certificate.active, [True, True])
    assert certificate.residual < 1e-6


def test_no_constraint_that_binds():
    """An interior maximum has no multipliers."""

    def hill(d, context):
        x, y = (p.unwrap() for p in d["stack"].values())
        return Outcome(jnp.exp(-((x - 6) ** 2 + (y - 10) ** 2) / 400), jnp.stack([x + y]))

    problem = Problem(hill, None, (Constraint("cost", 30.0, ""),))
    sensitivities = Sensitivities(problem, NAMES)
    found = polish(sensitivities, design(5.0, 9.0), tolerance=EXACT)
    assert_allclose(values(found.design), [6.0, 10.0], atol=np.sqrt(400 * EXACT))
    certificate = certify(sensitivities, found.design)
    assert_array_equal(certificate.multipliers, [0.0])
    assert_array_equal(certificate.active, [False])
    # a change of ln Z of EXACT leaves sqrt(2 H EXACT), H = 2/400 (dy/draw)^2
    assert certificate.residual < np.sqrt(2 * 2 / 400 * 9.5**2 * EXACT)
    assert_allclose(certificate.excess, 16 / 30 - 1, rtol=1e-5)


# where rounding left the solver no way down although it had arrived, on one machine of two
@example(powers=(1.5, 2.78125), prices=(1.875, 1.0625), cost=48.0, factors=(1.390625, 1.90625))
@settings(max_examples=20)
@given(
    powers=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
    prices=st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
    cost=st.floats(2.0, 60.0),
    factors=st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)),
)
def test_any_power_law_from_any_start_within_a_factor_of_two(powers, prices, cost, factors):
    """The budget is never exceeded, not by one rounding; optimum, multiplier and residual are those of the text.

    Stopping at a change t = 1e-9 of ln Z leaves sqrt(2 t/H) in a raw leaf and sqrt(2 t H) in the gradient. Without the
    limits' slope, H is ab/(a + b) to a + b, from 0.15 to 6.
    """
    limits, wanted = np.array([cost, 190.0]), closed_form(powers, prices, cost)
    x, y = np.clip(wanted * factors, 0.02, 190.0)
    found = polish(SENSITIVITIES, design(x, y, powers=powers, prices=prices), limits=limits)
    assert found.converged, found.message
    assert np.all(found.used <= limits)
    assert np.all(np.asarray(power_law(found.design, ONE).used) <= limits)
    assert_allclose(values(found.design), wanted, rtol=np.sqrt(2e-9 / 0.15))
    certificate = certify(SENSITIVITIES, found.design, limits=limits)
    assert certificate.residual < np.sqrt(2e-9 * 6)
    # the multiplier is off by as much as the gradient of ln Z that it balances, of a size a or b and more
    assert_allclose(certificate.multipliers, [sum(powers) * found.objective / cost, 0.0], rtol=np.sqrt(2e-9 * 6) / 0.3)


@pytest.mark.parametrize(
    ("powers", "prices", "cost", "start"),
    [((1.75, 1.0), (0.5, 1.0), 45.0, (1.5, 0.5)), ((1.0, 1.75), (0.5, 1.0), 44.0, (1.5, 0.5))],
    ids=["stops in the worst corner, and says converged", "is refused for a value at its bound"],
)
def test_a_start_far_from_the_optimum(powers, prices, cost, start):
    first = design(*start, powers=powers, prices=prices)
    found = polish(SENSITIVITIES, first, limits=np.array([cost, 150.0]))
    assert_allclose(values(found.design), closed_form(powers, prices, cost), rtol=np.sqrt(2e-9 / 0.15))


@pytest.mark.parametrize("index", [0, 1])
def test_a_multiplier_is_the_slope_of_the_optimum_in_its_limit(index):
    """Central difference over 0.2 % of the limit: its own error is of the order of 1e-6."""
    limits = np.array([30.0, 3.0])
    h = np.zeros(2)
    h[index] = 1e-3 * limits[index]
    up, down = (polish(SENSITIVITIES, design(), limits=limits + s * h, tolerance=EXACT).objective for s in (1.0, -1.0))
    best = polish(SENSITIVITIES, design(), limits=limits, tolerance=EXACT)
    certificate = certify(SENSITIVITIES, best.design, limits=limits)
    assert_allclose(certificate.multipliers[index], (up - down) / (2 * h[index]), rtol=5e-6)


def test_all_of_it_is_compiled_once():
    polish(SENSITIVITIES, design())
    made = len(CALLS)
    for start, limit in ((design(2.0, 9.0), 30.0), (design(7.0, 2.0), 14.0)):
        for held in ((), ("stack.y",)):
            limits = np.array([limit, 20.0])
            found = polish(SENSITIVITIES, start, held=held, limits=limits)
            certify(SENSITIVITIES, found.design, held=held, limits=limits)
    assert len(CALLS) == made
    assert PROBLEM.traces == {"value and gradient": 1}


# what stays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "index"), [("stack.x", 0), ("stack.y", 1)])
def test_a_held_parameter_stays_bit_for_bit(held, index):
    start = design(2.7, 3.3)
    found = polish(SENSITIVITIES, start, held=(held,))
    before, after = named_params(start), named_params(found.design)
    assert_array_equal(np.asarray(after[held].raw), np.asarray(before[held].raw))
    # what is left of the budget goes to the other
    wanted = [30.0 - 2 * 2.7, (30.0 - 3.3) / 2][index]
    assert_allclose(values(found.design)[1 - index], wanted, rtol=3e-7)
    assert certify(SENSITIVITIES, found.design, held=(held,)).residual < 1e-6
    # as a free parameter it is not where it should be: d(ln Z)/d(raw) of order one is not balanced
    assert certify(SENSITIVITIES, found.design).residual > 0.1


def test_what_is_not_named_stays_bit_for_bit():
    start = design(2.7, 3.3)
    found = polish(SENSITIVITIES, start).design
    assert_array_equal(np.asarray(found["other"].raw), np.asarray(start["other"].raw))
    assert_array_equal(np.asarray(found["network"]), np.asarray(start["network"]))


def test_a_named_parameter_moves_though_it_is_frozen_and_stays_frozen():
    found = polish(SENSITIVITIES, design(frozen=True))
    assert_allclose(values(found.design), [5.0, 20.0], rtol=3e-7)
    assert found.design["stack"]["x"].frozen
    assert not found.design["stack"]["y"].frozen


def test_with_values_goes_by_name_not_by_order():
    start = design(2.0, 3.0)
    moved = with_values(start, ("stack.y", "stack.x"), np.array([0.25, -1.5]))
    assert_array_equal([moved["stack"][n].raw for n in "xy"], [-1.5, 0.25])
    assert moved["other"].raw == start["other"].raw
    assert moved["stack"]["x"].unit == "mm"


# when it cannot be ----------------------------------------------------------------------------------------------------


def test_budgets_that_cannot_be_met_are_not_called_converged():
    found = polish(SENSITIVITIES, design(), limits=np.array([0.02, 20.0]))
    assert not found.converged
    assert found.used[0] > 0.02
    assert certify(SENSITIVITIES, found.design, limits=np.array([0.02, 20.0])).excess > 0


def test_a_solver_that_was_stopped_says_so():
    found = polish(SENSITIVITIES, design(), max_steps=1)
    assert not found.converged
    assert found.message == "Iteration limit reached"


def test_every_iteration_is_reported():
    said = []
    found = polish(SENSITIVITIES, design(), on_step=lambda count, value: said.append((count, value)))
    assert [count for count, _ in said] == list(range(1, len(said) + 1))
    assert_allclose(said[-1][1], found.objective, rtol=1e-9)


# the certificate ------------------------------------------------------------------------------------------------------


def test_sensitivities_are_the_derivatives():
    """d/d(raw) = d/dx dx/d(raw), and dZ/dx = a Z/x."""
    start = design(2.0, 3.0)
    value, used, slope, rows = SENSITIVITIES(SENSITIVITIES.raw(start), start)
    per_raw = np.array([float(p.slope()) for p in start["stack"].values()])
    assert_allclose(value, 18.0, rtol=1e-13)
    assert_allclose(used, [7.0, 2.0], rtol=1e-13)
    assert_allclose(slope, np.array([18.0 / 2, 2 * 18.0 / 3]) * per_raw, rtol=1e-12)
    assert_allclose(rows, np.array([[2.0, 1.0], [1.0, 0.0]]) * per_raw, rtol=1e-13)


def test_the_residual_at_the_optimum_is_rounding_and_large_elsewhere_on_the_budget():
    """Along the budget ln Z falls by a third of a percent for a move of 5 %, and its slope says so."""
    residuals = [
        certify(SENSITIVITIES, design(x, (1 - 1e-12) * (30 - 2 * x))).residual for x in (5.0, 4.75, 5.25, 2.0, 12.0)
    ]
    assert residuals[0] < 1e-10
    assert min(residuals[1:]) > 0.01
    assert min(residuals[3:]) > 0.3


def test_a_design_short_of_the_budget_is_not_optimal():
    certificate = certify(SENSITIVITIES, design(4.0, 16.0))
    assert_array_equal(certificate.multipliers, 0)
    assert not certificate.active.any()
    assert certificate.residual > 0.5
    assert_allclose(certificate.excess, 24 / 30 - 1, rtol=1e-12)


def test_a_constraint_that_would_have_to_push_the_other_way_has_no_multiplier():
    """At x = 12 the gain lies at smaller x: a width of 12 binds, but only a lower limit there could balance.

    d(ln Z)/dx = 1/12, less than the cost's share 2 x (2/6)/1: the width's multiplier would be -7/12 of Z.
    """
    certificate = certify(SENSITIVITIES, design(12.0, 6.0), limits=np.array([30.0, 12.0]))
    assert_array_equal(certificate.active, [True, True])
    assert certificate.multipliers[0] > 0
    assert certificate.multipliers[1] == 0
    assert certificate.residual > 1


@pytest.mark.parametrize(("distance", "binds"), [(0.5e-4, True), (2e-4, False)])
def test_a_constraint_binds_within_the_distance_given(distance, binds):
    certificate = certify(SENSITIVITIES, design(5.0, 30 * (1 - distance) - 10.0))
    assert certificate.active[0] == binds
    assert (certificate.multipliers[0] > 0) == binds
    wider = certify(SENSITIVITIES, design(5.0, 30 * (1 - distance) - 10.0), active=1e-3)
    assert wider.active[0]


# at the edge of a parameter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1.0, 15.0])
def test_an_optimum_at_a_bound_is_approached_not_refused(start):
    """Z = x^-20/(1 + y) falls everywhere: both end at their lower bounds, where the raw leaf runs to minus infinity."""

    def falling(d, context):
        x, y = (p.unwrap() for p in d["stack"].values())
        return Outcome(x**-20 / (1 + y), jnp.stack([x + y]))

    sensitivities = Sensitivities(Problem(falling, None, (Constraint("cost", 500.0, ""),)), NAMES)
    found = polish(sensitivities, design(start, 5.0))
    assert values(found.design)[0] < 0.02
    assert np.isfinite(certify(sensitivities, found.design).residual)


def test_every_pair_of_starts_agrees():
    found = [values(polish(SENSITIVITIES, design(x, y)).design) for x, y in itertools.product((0.5, 9.0), (0.5, 19.0))]
    assert_allclose(found, [found[0]] * 4, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_start_beside_a_place_without_any_objective_turns_back():
    """Z = max(0, 1 - (x - 1)^2) vanishes beyond x = 2, where the first, unit step of the solver leads."""

    def hill(d, context):
        x, y = (p.unwrap() for p in d["stack"].values())
        return Outcome(jnp.maximum(0.0, 1 - (x - 1.0) ** 2) + 0 * y, jnp.stack([x]))

    found = polish(Sensitivities(Problem(hill, None, (Constraint("cost", 500.0, ""),)), NAMES), design(0.05, 5.0))
    assert_allclose(values(found.design)[0], 1.0, atol=1e-4)


def test_within_reach_means_no_raw_leaf_moves_farther():
    start = design(9.0, 9.0)
    near = polish(SENSITIVITIES, start, reach=0.25)
    moved = np.abs(SENSITIVITIES.raw(near.design) - SENSITIVITIES.raw(start))
    assert_allclose(moved.max(), 0.25, rtol=1e-9)
    # within reach of the optimum the limit changes nothing
    best = polish(SENSITIVITIES, start).design
    assert_allclose(values(polish(SENSITIVITIES, best, reach=0.25).design), values(best), rtol=1e-6)
