"""The ascent of many designs at once: known optima, frozen lanes, one compilation, and resuming bit by bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.ascent import Ascent, everything_mobile, lane, stack, step_sizes
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.io import RunFolder
from diffhep.parameters import Param, resolve, split

STEPS, CHUNK, RATE = 300, 50, 0.1
PEAK = np.array([6.0, 10.0])
BOUNDS = (0.1, 30.0)
# the schedule ends at 2 % of the step size: raw leaves are known to a few last steps
SETTLED = 5 * 0.02 * RATE


def hill(design, context):
    """Z = exp(-((x - a)^2 + (y - b)^2)/10), cost x + y, width x."""
    d = resolve(design)
    x, y = d["x"], d["y"]
    value = jnp.exp(-((x - context[0]) ** 2 + (y - context[1]) ** 2) / 10)
    return Outcome(value, jnp.stack([x + y, x]))


PROBLEM = Problem(hill, jnp.asarray(PEAK), (Constraint("cost", 20.0, "cost unit"), Constraint("width", 20.0, "mm")))


def design(x=3.0, y=3.0):
    return {name: Param(v, unit="mm", role="geometry", bounds=BOUNDS) for name, v in (("x", x), ("y", y))}


def lanes_of(*designs):
    return stack([split(d)[0] for d in designs])


@pytest.fixture(scope="module")
def climb():
    return Ascent(PROBLEM, split(design())[1], steps=STEPS, chunk=CHUNK, physical_rate=RATE)


# slack; cost; width; both
LIMITS = jnp.array([[20.0, 20.0], [12.0, 20.0], [20.0, 4.0], [11.0, 2.5]])
STARTS = (design(3, 3), design(3, 20), design(1, 1), design(2, 2))
# by Lagrange: along (1, 1) from the peak to the budget, along x to the width, and into the corner
OPTIMA = np.array([[6.0, 10.0], [4.0, 8.0], [4.0, 10.0], [2.5, 8.5]])
SLOPES = (OPTIMA - BOUNDS[0]) * (BOUNDS[1] - OPTIMA) / (BOUNDS[1] - BOUNDS[0])  # dx/draw there


def run(climb, state, limits, mobile=None, chunks=STEPS // CHUNK):
    mobile = everything_mobile(state.trainable) if mobile is None else mobile
    outcomes = []
    for _ in range(chunks):
        state, outcome = climb.advance(state, limits, mobile)
        outcomes.append(outcome)
    return state, jax.tree.map(lambda *x: jnp.concatenate(x), *outcomes)


@pytest.fixture(scope="module")
def ascended(climb):
    return run(climb, climb.start(lanes_of(*STARTS), constraints=2), LIMITS)


def bits(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(bits(one), bits(other), strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)


# optima ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4), ids=["slack", "cost", "width", "both"])
def test_every_lane_reaches_its_own_constrained_optimum(climb, ascended, index):
    state, _ = ascended
    found = eqx.combine(lane(state.trainable, index), climb.rest)
    for name, wanted in zip("xy", OPTIMA[index], strict=True):
        assert_allclose(found[name].raw, found[name].at(wanted).raw, atol=SETTLED)


def test_the_multipliers_are_those_of_the_constraints_that_bind(ascended):
    """lambda = limit x d(ln Z)/d(limit) (g is relative): 2/10 x gap x limit, which halves where two share the cost.

    A multiplier moves by rho g an update, and g is known as well as x and y: SETTLED x (dx + dy)/draw / limit.
    """
    state, _ = ascended
    gaps = np.array([[0, 0], [2.0, 0], [0, 2.0], [1.5, 3.5 - 1.5]])
    wanted = 0.2 * gaps * np.asarray(LIMITS)
    allowed = 10 * SETTLED * SLOPES.sum(axis=1, keepdims=True) / np.asarray(LIMITS)
    assert np.all(np.abs(state.multipliers - wanted) <= allowed)
    assert_array_equal(np.asarray(state.multipliers)[wanted == 0], 0)


def test_outcomes_are_those_before_every_step(ascended):
    _, outcome = ascended
    assert outcome.objective.shape == (STEPS, 4)
    assert outcome.used.shape == (STEPS, 4, 2)
    for index, start in enumerate(STARTS):
        first = hill(start, PROBLEM.context)
        assert_allclose(outcome.objective[0, index], first.objective, rtol=1e-12)
        assert_allclose(outcome.used[0, index], first.used, rtol=1e-12)


def test_the_objective_gained(ascended):
    _, outcome = ascended
    gaps, known = PEAK - OPTIMA, SETTLED * SLOPES
    # ln Z is a parabola: known to first and second order in x and y
    allowed = np.sum(0.2 * gaps * known + 0.1 * known**2, axis=1)
    assert np.all(np.abs(np.log(outcome.objective[-1]) + np.sum(gaps**2, axis=1) / 10) <= allowed)


def test_lanes_do_not_see_each_other(climb, ascended):
    """Neither another limit nor a lane of nan changes the others by one bit."""
    broken = lanes_of(*STARTS[:3], design())
    broken = jax.tree.map(lambda x: x.at[3].set(jnp.nan), broken)
    limits = LIMITS.at[1].set(jnp.array([15.0, 5.0]))
    state, outcome = run(climb, climb.start(broken, constraints=2), limits)
    reference, before = ascended
    for index in (0, 2):
        assert_same_bits(lane(state, index), lane(reference, index))
        assert_array_equal(outcome.objective[:, index], before.objective[:, index])
    assert np.isnan(np.asarray(outcome.objective)[:, 3]).all()


def test_lbfgs_reaches_the_same_optima_in_a_fifth_of_the_steps():
    """Ten updates leave (1 + rho H')^-10 of a multiplier, 7e-10: rho is 100, H' at least 2/12^2/0.2 = 0.07."""
    climb = Ascent(PROBLEM, split(design())[1], steps=60, chunk=10, method="lbfgs", update_every=6)
    start = climb.start(lanes_of(*STARTS), constraints=2)
    mobile = eqx.tree_at(lambda m: m["x"].raw, everything_mobile(start.trainable), jnp.array([1.0, 1.0, 0.0, 1.0]))
    state, _ = run(climb, start, LIMITS, mobile, chunks=6)
    wanted = OPTIMA.copy()
    wanted[2, 0] = 1.0  # held where it started, within its limit
    for index, (x, y) in enumerate(wanted):
        found = eqx.combine(lane(state.trainable, index), climb.rest)
        assert_allclose([float(found["x"].unwrap()), float(found["y"].unwrap())], [x, y], rtol=1e-5)
    assert climb.traces == 1


# what may move --------------------------------------------------------------------------------------------------------


def test_a_masked_parameter_of_a_lane_stays_put_exactly(climb):
    start = climb.start(lanes_of(*STARTS), constraints=2)
    mobile = everything_mobile(start.trainable)
    mobile = eqx.tree_at(lambda m: m["x"].raw, mobile, jnp.array([1.0, 0.0, 1.0, 0.0]))
    state, _ = run(climb, start, LIMITS, mobile)
    moved = np.asarray(state.trainable["x"].raw != start.trainable["x"].raw)
    assert_array_equal(moved, [True, False, True, False])
    assert np.all(np.asarray(state.trainable["y"].raw != start.trainable["y"].raw))
    # what is left is a problem of one parameter: x = 3, x + y <= 12, so y = 9
    y = STARTS[1]["y"]
    assert_allclose(state.trainable["y"].raw[1], y.at(9.0).raw, atol=SETTLED)
    assert climb.traces == 1


def test_the_mask_has_one_number_for_each_lane_and_leaf():
    tree = {"p": Param(np.full(5, 2.0), unit="", role="weight"), "w": jnp.zeros((5, 3, 2))}
    mask = everything_mobile(tree)
    assert [x.shape for x in jax.tree.leaves(mask)] == [(5,), (5, 1, 1)]
    assert all(np.all(x == 1) for x in bits(mask))


# step sizes -----------------------------------------------------------------------------------------------------------

MIXED = {
    "calorimeter": Param(4.0, unit="mm", role="geometry", bounds=BOUNDS),
    "threshold": Param(5.0, unit="GeV", role="threshold", bounds=BOUNDS),
    "nuisance": Param(0.5, unit="", role="nuisance"),
    "scale": Param(0.5, unit="", role="weight"),
    "network": jnp.array([[0.3, -0.2]]),
}
RATES = {"calorimeter": 0.2, "threshold": 0.2, "nuisance": 0.2, "scale": 0.01, "network": 0.01}


def test_a_step_size_for_every_leaf():
    sizes = step_sizes(split(MIXED)[0], 0.2, 0.01)
    assert jax.tree.leaves(sizes) == [RATES[name] for name in sorted(MIXED)]


def test_the_first_step_of_adam_is_the_step_size_itself():
    """Bias-corrected moments of one gradient are g and g^2: the step is the rate times its sign, eps aside."""

    def evaluate(tree, context):
        d = resolve(tree)
        total = d["calorimeter"] - d["threshold"] + d["nuisance"] + d["scale"] + jnp.sum(d["network"])
        return Outcome(jnp.exp(total), jnp.ones(1))

    problem = Problem(evaluate, None, (Constraint("none", 2.0, ""),))
    trainable, rest = split(MIXED)
    climb = Ascent(problem, rest, steps=1, chunk=1, physical_rate=0.2, weight_rate=0.01)
    start = climb.start(stack([trainable] * 2), constraints=1)
    state, _ = climb.advance(start, jnp.full((2, 1), 2.0), everything_mobile(start.trainable))
    for name, rate in RATES.items():
        before, after = (jax.tree.leaves(s.trainable[name])[0] for s in (start, state))
        sign = -1 if name == "threshold" else 1
        # eps = 1e-8 against gradients of more than 0.5
        assert_allclose(after - before, np.full(before.shape, sign * rate), rtol=1e-7)
    assert_array_equal(state.step, [1, 1])


@pytest.mark.parametrize("limit", [12.0, 18.0])
def test_the_penalty_and_the_interval_of_the_multipliers(limit):
    """With penalty rho and an update every n steps, lambda grows by rho g, g within 0.1, after n steps; 0 before."""
    climb = Ascent(PROBLEM, split(design())[1], steps=4, chunk=1, penalty=3.0, update_every=2)
    state = climb.start(lanes_of(design(10, 10)), constraints=2)
    limits = jnp.array([[limit, 25.0]])
    found, used = [], []
    for _ in range(4):
        state, outcome = climb.advance(state, limits, everything_mobile(state.trainable))
        found.append(float(state.multipliers[0, 0]))
        used.append(float(outcome.used[0, 0, 0]))
    first, second = (3.0 * np.clip(used[i] / limit - 1, -0.1, 0.1) for i in (1, 3))
    first = max(0.0, first)
    assert_allclose(found, [0.0, first, first, max(0.0, first + second)], rtol=1e-12)
    assert climb.traces == 1


# going on -------------------------------------------------------------------------------------------------------------


def test_a_state_goes_through_a_run_folder_and_on_bit_by_bit(tmp_path, climb, ascended):
    """Stopped after 2 of 6 chunks, read back into a blank state by another process's object, and continued."""
    half, _ = run(climb, climb.start(lanes_of(*STARTS), constraints=2), LIMITS, chunks=2)
    folder = RunFolder.create(tmp_path / "run", {})
    folder.save_tree("checkpoints/ascent.eqx", half)

    again = Ascent(PROBLEM, split(design())[1], steps=STEPS, chunk=CHUNK, physical_rate=RATE)
    blank = again.start(lanes_of(*[design()] * 4), constraints=2)
    restored = folder.load_tree("checkpoints/ascent.eqx", blank)
    assert_same_bits(restored, half)
    assert_array_equal(restored.step, 2 * CHUNK)

    state, outcome = run(again, restored, LIMITS, chunks=4)
    reference, all_outcomes = ascended
    assert_same_bits(state, reference)
    assert_same_bits(outcome, jax.tree.map(lambda x: x[2 * CHUNK :], all_outcomes))
    assert again.traces == 1


def test_one_compilation_serves_other_limits_masks_starts_and_continuations(climb, ascended):
    state, _ = ascended
    climb.advance(climb.start(lanes_of(*STARTS), constraints=2), 2 * LIMITS, everything_mobile(state.trainable))
    after, _ = climb.continue_from(state.trainable, np.asarray(LIMITS) * 1.1, 60)
    climb.continue_from(after.trainable, LIMITS, CHUNK)
    climb.advance(after, LIMITS, everything_mobile(state.trainable))
    assert climb.traces == 1


def test_continuing_reaches_the_optimum_under_other_limits(climb, ascended):
    """A Pareto front: from each optimum to that under a slightly different budget."""
    state, _ = ascended
    budgets = np.array([11.0, 12.5, 13.0, 14.0])
    limits = np.stack([budgets, np.full(4, 25.0)], axis=1)
    moved, outcome = climb.continue_from(state.trainable, limits, 200)
    assert_array_equal(moved.step, STEPS)
    assert outcome.objective.shape == (CHUNK, 4)
    for index, budget in enumerate(budgets):
        found = eqx.combine(lane(moved.trainable, index), climb.rest)
        wanted = PEAK - (PEAK.sum() - budget) / 2
        for name, value in zip("xy", wanted, strict=True):
            assert_allclose(found[name].raw, found[name].at(value).raw, atol=SETTLED)


@pytest.mark.parametrize(("asked", "done"), [(1, CHUNK), (CHUNK, CHUNK), (CHUNK + 1, 2 * CHUNK), (10 * STEPS, STEPS)])
def test_continuing_takes_the_last_steps_of_the_schedule(climb, asked, done):
    """The steps asked for are rounded up to chunks; Adam moves at most (1 - b1)/sqrt(1 - b2) times a step's size."""
    start = lanes_of(*STARTS)
    moved, _ = climb.continue_from(start, LIMITS, asked)
    decay = np.asarray(optax.cosine_decay_schedule(1.0, STEPS, alpha=0.02)(jnp.arange(STEPS - done, STEPS)))
    reach = RATE * (0.2 / np.sqrt(0.02)) * decay.sum()
    assert_array_equal(moved.step, STEPS)
    for name in "xy":
        travelled = np.abs(np.asarray(moved.trainable[name].raw - start[name].raw))
        assert np.all(travelled <= reach)
        assert np.all(travelled > 0)


def test_the_steps_are_a_multiple_of_the_chunk():
    with pytest.raises(ValueError, match=r"^the number of steps must be a multiple of 10, got 25$"):
        Ascent(PROBLEM, split(design())[1], steps=25, chunk=10)


def test_a_lane_is_what_was_stacked():
    tree = {"a": jnp.arange(3.0), "b": Param(2.0, unit="mm", role="geometry", bounds=(1.0, 5.0))}
    other = jax.tree.map(lambda x: x + 0.5, tree)
    assert_same_bits(lane(stack([tree, other, tree]), 1), other)
