"""Menus of seeds: rates and their identities, the flux through the edge of a union, and the search for thresholds."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from diffhep.design.config import STUDIES
from diffhep.design.menu import MenuOptimiser, MenuSample
from diffhep.design.menu_run import Significance
from diffhep.gates import Boundary, Hard
from diffhep.inference.asymptotics import asimov_significance
from diffhep.trigger.menu_config import ObjectSettings
from diffhep.trigger.menu_events import measured
from diffhep.trigger.rate import efficiency, menu_rates
from diffhep.trigger.seeds import Cut, Menu, SeedValues, accepted, margins, snapped


def single_cuts(bounds, widths, starts, *, step=0.5, prescales=None, below=()) -> Menu:
    """One seed a cut."""
    rows = enumerate(zip(bounds, widths, starts, strict=True))
    cuts = tuple(
        Cut(f"s{i}.pt", "GeV", float(t), (float(b[0]), float(b[1])), step, float(w), i in below)
        for i, (b, w, t) in rows
    )
    names = tuple(f"s{i}" for i in range(len(cuts)))
    return Menu(names, prescales or (1,) * len(cuts), cuts, tuple((i,) for i in range(len(cuts))))


def columns(x, allowed=None) -> Any:
    """Events (event, seed) as the seeds of `single_cuts` see them."""
    ok = np.ones_like(x, bool) if allowed is None else allowed
    return tuple(SeedValues(jnp.asarray(v)[None, None], jnp.asarray(a)[None]) for v, a in zip(x.T, ok.T, strict=True))


# --- rates ---

tables = st.integers(1, 4).flatmap(
    lambda seeds: st.tuples(
        arrays(bool, (7, seeds)),
        arrays(float, 7, elements=st.floats(0.1, 10.0)),
        st.tuples(*[st.integers(1, 5)] * seeds),
    )
)


@given(tables)
def test_pure_is_at_most_seed_at_most_or_at_most_sum(table):
    passes, weight, prescales = table
    found = menu_rates(passes, weight, prescales)
    room = 1e-9
    assert np.all(found.pure <= found.seed + room)
    assert np.all(found.seed <= found.total + room)
    assert found.pure.sum() <= found.total + room
    assert found.total <= found.seed.sum() + room
    assert_allclose(np.diag(found.overlap), found.seed)
    assert_allclose(found.overlap, found.overlap.T)
    # Cauchy-Schwarz: the error of a sum of weights is at most the sum
    assert np.all(found.seed_error <= found.seed + room)


@given(tables)
def test_the_or_is_inclusion_and_exclusion(table):
    passes, weight, prescales = table
    share = passes / np.array(prescales, float)
    expected, seeds = 0.0, range(passes.shape[1])
    for size in range(1, passes.shape[1] + 1):
        for some in itertools.combinations(seeds, size):
            expected -= (-1) ** size * np.sum(weight * share[:, some].prod(axis=1))
    found = menu_rates(passes, weight, prescales)
    assert found.total == pytest.approx(expected, abs=1e-9)
    for j in seeds:
        others = [i for i in seeds if i != j]
        without = menu_rates(passes[:, others], weight, tuple(prescales[i] for i in others)).total if others else 0.0
        assert found.pure[j] == pytest.approx(found.total - without, abs=1e-9)
    # the differentiable OR behind hard cuts counts the same
    kept = accepted(jnp.where(passes.T, 1.0, -1.0), prescales, Hard())
    assert float(kept @ weight) == pytest.approx(found.total, abs=1e-9)


def test_prescales_divide_rates():
    passes, weight = np.array([[True, True], [True, False], [False, True]]), np.array([2.0, 3.0, 5.0])
    found = menu_rates(passes, weight, (1, 10))
    assert found.seed == pytest.approx([5.0, 0.7])
    assert found.seed_error == pytest.approx([np.sqrt(13), np.sqrt(0.29)])
    assert found.overlap[0, 1] == pytest.approx(0.2)
    assert found.pure == pytest.approx([3 + 2 * 0.9, 0.5])
    assert found.total == pytest.approx(5.5)
    assert efficiency(np.array([1.0, 0.1]), np.array([1.0, 3.0]))[0] == pytest.approx(1.3 / 4)


# --- edges ---


@pytest.mark.parametrize("prescales", [(1, 1, 1), (1, 7, 1), (2, 3, 2)])
def test_the_kernel_averages_the_hard_rate_over_a_common_shift(prescales):
    rng = np.random.default_rng(0)
    x = rng.exponential(10.0, (50, 3))
    x[:25, 1] = x[:25, 0]  # seeds that turn off together
    menu = single_cuts([(0.0, 100.0)] * 3, [2.0, 2.0, 4.0], [9.0, 9.0, 20.0], prescales=prescales, below=(2,))
    seeds, weight = columns(x), rng.uniform(0.5, 2.0, 50)
    rate = lambda t, gate: float(weight @ accepted(margins(menu, jnp.asarray(t), seeds), prescales, gate))
    shift, step = np.linspace(-9, 9, 60_001, retstep=True)
    kernel = 0.5 * (3 - shift**2) * np.exp(-0.5 * shift**2) / np.sqrt(2 * np.pi)
    margin = np.asarray(margins(menu, jnp.asarray(menu.start), seeds))
    share = (margin[..., None] > shift) / np.array(prescales)[:, None, None]
    hard = np.einsum("e,es->s", weight, 1 - np.prod(1 - share, axis=0))
    # an end of the grid's cells beside each of 150 jumps: half a cell of at most 2 x 0.6 each, of random sign
    assert rate(menu.start, Boundary(1.0).smooth) == pytest.approx(np.sum(kernel * hard) * step, abs=150 * 0.6 * step)
    # the margins of a menu shifted by its direction are lower by 1, and the hard rate is that of the shifted menu
    lower = np.asarray(margins(menu, jnp.asarray(menu.start + menu.direction), seeds))
    assert_allclose(lower, margin - 1, rtol=1e-12, atol=1e-12)
    assert rate(menu.start + menu.direction, Hard()) == pytest.approx(np.interp(1.0 + step / 2, shift, hard), abs=1e-9)


def test_the_gradient_is_the_flux_that_no_other_seed_takes():
    # quantiles of two independent exponentials: rate e^-a + e^-b - e^-(a+b)
    u = (np.arange(500) + 0.5) / 500
    x, y = (v.ravel() for v in np.meshgrid(-np.log(u), -np.log(u)))
    menu = single_cuts([(0.0, 9.0)] * 2, [0.2, 0.2], [1.0, 1.5])
    seeds, weight = columns(np.stack([x, y], 1)), np.full(x.size, 1 / x.size)

    def rate(t):
        return weight @ accepted(margins(menu, t, seeds), menu.prescales, Boundary(1.0).smooth)

    a, b = 1.0, 1.5
    slope = jax.grad(rate)(jnp.array([a, b]))
    # h^4/8 of a common shift, whose fourth derivative is at most 16: 3e-3
    assert_allclose(slope, [-np.exp(-a) * (1 - np.exp(-b)), -np.exp(-b) * (1 - np.exp(-a))], rtol=4e-3)
    hard = lambda t: float(weight @ accepted(margins(menu, jnp.array(t), seeds), menu.prescales, Hard()))
    at = np.array([a, b])
    assert hard(at) == pytest.approx(np.exp(-a) + np.exp(-b) - np.exp(-a - b), abs=0.004)
    # difference quotients of the hard rate, over 0.4: the curvature is worth 0.4^2/24 of it, a row of quantiles 1/74
    for i, step in enumerate(np.eye(2) * 0.2):
        quotient = (hard(at + step) - hard(at - step)) / 0.4
        assert float(slope[i]) == pytest.approx(quotient, rel=0.025)


def test_fixed_cuts_and_absent_objects_have_no_slope():
    values = jnp.array([[[5.0, 50.0, 50.0], [50.0, 1.0, 50.0]]])
    allowed = jnp.array([[True, False, False], [False, True, False]])
    menu = Menu(("a", "fixed"), (1, 1), (Cut("a.pt", "GeV", 10.0, (0.0, 99.0), 1.0, 5.0),), ((0,), ()))
    seeds = (SeedValues(values, allowed), SeedValues(jnp.zeros((0, 1, 3)), jnp.array([[False, False, True]])))
    kept = lambda t, gate: accepted(margins(menu, t, seeds), menu.prescales, gate)
    assert kept(jnp.array([10.0]), Hard()).tolist() == [0.0, 0.0, 1.0]
    slope = jax.jacfwd(lambda t: kept(t, Boundary(1.0).smooth))(jnp.array([10.0]))[:, 0]
    assert slope[0] < 0
    assert abs(slope[1]) < 0.2
    assert slope[2] == 0


@given(st.lists(st.floats(1.0, 99.0), min_size=3, max_size=3), st.floats(0.01, 3.0))
def test_snapping_never_accepts_more(thresholds, step):
    menu = single_cuts([(0.0, 100.0)] * 3, [1.0] * 3, [50.0] * 3, step=step, below=(1,))
    grid = snapped(menu, np.array(thresholds))
    sign = np.array([1.0, -1.0, 1.0])
    assert np.all(sign * (grid - thresholds) >= -1e-7)
    assert np.all(sign * (grid - thresholds) < step * (1 + 1e-7))
    assert_allclose(grid / step, np.round(grid / step), atol=1e-7)
    assert_allclose(snapped(menu, grid), grid, atol=1e-9)
    x = np.random.default_rng(0).uniform(0, 100, (200, 3))
    rate = lambda t: float(jnp.sum(accepted(margins(menu, jnp.asarray(t), columns(x)), menu.prescales, Hard())))
    assert rate(grid) <= rate(thresholds) + 1e-9


# --- search ---


def disjoint(menu, count) -> tuple[Menu, MenuSample]:
    """Problem R4 as one menu: every trigger has events of its own, at the quantiles of their spectra."""
    signal, lam, rate, weight = (np.array(v) for v in (menu.signal_mean, menu.background_mean, menu.background_rate,
                                                       menu.weight))  # fmt: skip
    stretch, unit = 6.0, -np.log((np.arange(count) + 0.5) / count)
    background = stretch * lam[:, None] * unit
    per_event = rate[:, None] / count * stretch * np.exp(-background / lam[:, None] * (1 - 1 / stretch))
    x = np.concatenate([background, signal[:, None] * unit], axis=1)
    hertz = np.concatenate([per_event, np.zeros_like(x[:, count:])], axis=1)
    worth = np.concatenate([np.zeros_like(background), np.repeat(weight[:, None] / count, count, 1)], axis=1)
    own = np.kron(np.eye(len(lam), dtype=bool), np.ones((2 * count, 1), bool))
    cuts = single_cuts([(0.0, menu.highest)] * len(lam), 0.4 * lam, np.full(len(lam), 50.0), step=0.25)
    seeds = columns(np.repeat(x.ravel()[:, None], len(lam), 1), own)
    return cuts, MenuSample(seeds, jnp.asarray(hertz.ravel()), jnp.asarray(worth.ravel()))


def test_triggers_of_disjoint_events_end_at_the_closed_form():
    settings: Any = STUDIES["trigger-thresholds"]()
    cuts, sample = disjoint(settings.menu, 3000)
    optimiser = MenuOptimiser(cuts, sample, settings.menu.rate)
    found = optimiser.best(1)
    # R4 in closed form: thresholds, utility and multiplier
    assert found.optimum.thresholds == pytest.approx([37.831841, 78.806449, 85.282477, 93.131834], rel=0.005)
    assert found.optimum.objective == pytest.approx(0.41396724, rel=2e-3)
    assert found.multiplier == pytest.approx(8.69923e-4, rel=0.01)
    assert found.optimum.rate == pytest.approx(100.0, rel=5e-3)
    assert max(found.optimum.rate, found.final.rate) <= 100.0
    assert_allclose(found.final.thresholds / 0.25, np.round(found.final.thresholds / 0.25))
    # a step of 0.25 GeV on a slope of 12 GeV
    assert found.final.objective == pytest.approx(found.optimum.objective, rel=0.01)


def test_a_significance_as_the_objective_ends_where_its_closed_form_is_largest():
    # two triggers, each with signal, events of rate and a bin of its own; what looks like signal always passes
    mean, scale, hertz = np.array([40.0, 50.0]), np.array([8.0, 10.0]), np.array([3e4, 8e3])
    expected, background, count, budget = np.array([30.0, 60.0]), np.array([60.0, 150.0]), 3000, 100.0
    sample, groups = two_histograms(mean, scale, hertz, expected, background, count)
    cuts = single_cuts([(0.0, 200.0)] * 2, 0.4 * scale, [60.0, 60.0], step=0.25)
    goal = Significance(2, 0.0, np.ones(2))
    found = MenuOptimiser(cuts, sample, budget, goal=goal, groups=groups).best(1)

    def minus_z(t):
        s = expected * np.exp(-t / mean)
        return -np.sqrt(np.sum(2 * ((s + background) * np.log1p(s / background) - s)))

    left = lambda t: budget - hertz @ np.exp(-t / scale)
    best = scipy.optimize.minimize(
        minus_z, [60.0, 60.0], constraints={"type": "ineq", "fun": left}, method="SLSQP", options={"ftol": 1e-12}
    )
    assert best.success
    assert found.optimum.thresholds == pytest.approx(best.x, rel=0.005)
    assert found.optimum.objective == pytest.approx(-best.fun, rel=2e-3)
    assert found.optimum.rate <= budget


def test_a_bin_that_is_left_without_background_has_a_significance():
    goal = Significance(2, 0.1, np.array([0.5, 0.25]))
    # with less than one event of the sample, or less than nothing beside an edge, one event is what is known
    for sums in ([0.0, 1.0, 0.0, 0.0], [2.0, 1.0, -0.5, -3.0], [-0.1, 1.0, 0.1, 0.25]):
        value, slope = jax.value_and_grad(goal)(jnp.array(sums))
        signal, background = np.maximum(sums[:2], 0), np.maximum(sums[2:], goal.least)
        want = asimov_significance(signal, background, (0.1 * background) ** 2)
        assert float(value) == pytest.approx(float(want))
        assert np.isfinite(slope).all()
    assert float(goal(jnp.array([3.0, 0.0, 9.0, 5.0]))) == pytest.approx(float(asimov_significance(3.0, 9.0, 0.81)))


def test_background_at_the_edge_of_a_cut_does_not_make_a_significance_of_its_own():
    # the kernel overshoots beside an edge, where it leaves less than nothing of the background
    x = np.concatenate([np.full(50, 80.0), np.full(30, 44.0)])
    group = np.repeat([0, 1], [50, 30])
    sample = MenuSample(columns(x[:, None]), jnp.zeros(80), jnp.ones(80), jnp.asarray(group))
    menu = single_cuts([(0.0, 100.0)], [5.0], [40.0])
    goal = Significance(1, 0.0, np.ones(1))
    optimiser = MenuOptimiser(menu, sample, 1.0, goal=goal, groups=2)
    most = float(asimov_significance(50.0, 1.0))
    for threshold in (30.0, 44.0, 48.0, 52.0, 60.0):
        assert float(optimiser.evaluate(optimiser.design(np.array([threshold])), sample).objective) < 1.05 * most
        assert optimiser.at(np.array([threshold])).objective <= most * (1 + 1e-9)


def two_histograms(mean, scale, hertz, expected, background, count) -> tuple[MenuSample, int]:
    """Signal at the quantiles of its spectra, events of rate stretched by six, and background far above all cuts."""
    stretch, unit = 6.0, -np.log((np.arange(count) + 0.5) / count)
    rate = stretch * scale[:, None] * unit
    per_event = hertz[:, None] / count * stretch * np.exp(-rate / scale[:, None] * (1 - 1 / stretch))
    x = np.concatenate([rate, mean[:, None] * unit, np.full((2, 1), 1e4)], axis=1)
    seconds = np.concatenate([per_event, np.zeros((2, count + 1))], axis=1)
    worth = np.concatenate(
        [np.zeros((2, count)), np.repeat(expected[:, None] / count, count, 1), background[:, None]], axis=1
    )
    group = np.repeat([[0, 2], [1, 3]], [2 * count, 1], axis=1)
    own = np.kron(np.eye(2, dtype=bool), np.ones((2 * count + 1, 1), bool))
    seeds = columns(np.repeat(x.ravel()[:, None], 2, 1), own)
    return MenuSample(seeds, jnp.asarray(seconds.ravel()), jnp.asarray(worth.ravel()), jnp.asarray(group.ravel())), 4


def eight(count, seed) -> tuple[np.ndarray, np.ndarray]:
    """Eight correlated quantities of background and of two signals, (event, seed)."""
    rng = np.random.default_rng(seed)
    common = rng.exponential(1.0, (count, 1))
    background = 10 * (0.5 * common + rng.exponential(0.7, (count, 8)))
    hard = (
        rng.uniform(0.5, 1.0, (2, count, 8)) * np.array([[6, 6, 2, 2, 3, 1, 1, 1], [1, 1, 1, 3, 2, 5, 5, 2]])[:, None]
    )
    signals = 10 * (0.5 * rng.exponential(1.0, (2, count, 1)) + hard * rng.exponential(0.6, (2, count, 8)))
    return background, signals


def sample_of(background, signals, worth=(1.0, 0.6)) -> MenuSample:
    nb, ns = len(background), signals.shape[1]
    rate = np.concatenate([np.full(nb, 1e4 / nb), np.zeros(2 * ns)])
    gain = np.concatenate([np.zeros(nb), *(np.full(ns, w / ns) for w in worth)])
    return MenuSample(columns(np.concatenate([background, *signals])), jnp.asarray(rate), jnp.asarray(gain))


def scan(background, signals, budget, low, high, rounds=4, points=6) -> tuple[float, int]:
    """The best of all combinations of `points` thresholds a seed, four times, each on a finer grid."""
    best, evaluations, spacing = (-1.0, (low + high) / 2), 0, (high - low) / (points - 1)
    for _ in range(rounds):
        grid = np.clip(best[1][:, None] + spacing[:, None] * (np.arange(points) - (points - 1) / 2), low[0], high[0])
        tables = []
        for x in (background, *signals):
            failed = x[:, :, None] <= grid  # event, seed, point
            part = []
            for half in (range(4), range(4, 8)):
                table = np.ones((len(x), 1), bool)
                for seed in half:
                    table = (table[:, :, None] & failed[:, seed, None, :]).reshape(len(x), -1)
                part.append(table.astype(np.float32))
            tables.append(1 - part[0].T @ part[1] / len(x))
        rate, objective = 1e4 * tables[0], tables[1] + 0.6 * tables[2]
        evaluations += rate.size
        inside = np.where(rate <= budget, objective, -1.0)
        where = np.unravel_index(int(np.argmax(inside)), inside.shape)
        if inside[where] > best[0]:
            places = np.array([np.unravel_index(k, (points,) * 4) for k in where]).ravel()
            best = float(inside[where]), grid[np.arange(8), places]
        spacing = spacing / 2.5
    return best[0], evaluations


def test_eight_seeds_against_a_scan():
    background, signals = eight(16_000, 11)
    budget, low, high = 600.0, np.full(8, 10.0), np.full(8, 80.0)
    menu = single_cuts(list(zip(low, high, strict=True)), [5.0] * 8, [40.0] * 8)
    optimiser = MenuOptimiser(menu, sample_of(background, signals[:, :4000]), budget)
    found = optimiser.best(1)
    scanned, evaluations = scan(background, signals[:, :4000], budget, low, high)
    assert found.optimum.objective > 0.995 * scanned
    assert scanned > 0.97 * found.optimum.objective
    # a value, two gradients of at most three values each
    assert 7 * found.gradients + found.evaluations < evaluations / 50
    for stage in (found.optimum, found.final):
        assert 0.99 * budget < stage.rate <= budget
    assert found.final.objective > 0.995 * scanned
    fresh = MenuOptimiser(menu, sample_of(*eight(60_000, 12)), 1e4).at(found.final.thresholds)
    # 960 of 16000 events pass, and 3600 of the 60000 others
    assert abs(fresh.rate / budget - 1) < 3 * np.sqrt(1 / 960 + 1 / 3600)
    assert fresh.objective == pytest.approx(found.final.objective, rel=0.05)


def test_a_front_rises_with_the_rate():
    background, signals = eight(6000, 3)
    menu = single_cuts([(10.0, 80.0)] * 8, [3.0] * 8, [40.0] * 8)
    points = MenuOptimiser(menu, sample_of(background, signals[:, :3000]), 600.0).front(menu.start, (0.5, 2.0))
    assert [p["budget"] for p in points] == [300.0, 1200.0]
    assert np.all(np.diff([p["objective"] for p in points]) > 0)
    assert all(0.98 * p["budget"] < p["rate"] <= p["budget"] for p in points)


def test_a_budget_below_what_is_possible_is_refused():
    background, signals = eight(1000, 4)
    menu = single_cuts([(10.0, 20.0)] * 8, [1.0] * 8, [15.0] * 8)
    with pytest.raises(ValueError, match=r"rate: at least \d+ Hz is needed, \d+ Hz more than 5 Hz"):
        MenuOptimiser(menu, sample_of(background, signals), 5.0)


# --- objects ---


def test_resolution_moves_and_reorders_objects():
    rng = np.random.default_rng(0)
    pt = -np.sort(-rng.uniform(20, 60, (4000, 3)), axis=1)
    objects = {"pt": pt, "eta": pt / 100, "mask": np.tile([True, True, False], (4000, 1))}
    same = measured(objects, stochastic=0.0, constant=0.0, seed=[1])
    assert_allclose(same["pt"][:, :2], pt[:, :2])
    assert_allclose(same["offline"], pt[:, 0])
    given = ObjectSettings.model_validate({"stochastic": "0.6 GeV^(1/2)", "constant": 0.02})
    seen = measured(objects, stochastic=given.stochastic, constant=given.constant, seed=[1])
    assert np.all(seen["pt"][:, 0] >= seen["pt"][:, 1])
    assert not seen["mask"][:, 2].any()
    assert_allclose(seen["offline"], pt[:, 0])
    # every object is found again by its eta
    relative = np.sort((seen["pt"] / (100 * seen["eta"]) - 1)[:, :2].ravel())
    expected = np.sqrt(np.mean(0.36 / pt[:, :2] + 0.02**2))
    # 1/sqrt(2 n) of 8000 objects is 0.8 %
    assert relative.std() == pytest.approx(expected, rel=0.03)
