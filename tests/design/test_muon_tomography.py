"""The muon-tomography study: gradients of both scenes, the furnace's error against whole volumes, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.audit import audit
from diffhep.design.studies.muon_tomography import furnace, scan
from diffhep.design.studies.muon_tomography.layout import layout_of, numbers_of, observe
from diffhep.design.studies.muon_tomography.study import MuonTomography
from diffhep.design.tomography_config import MuonTomographySettings
from diffhep.detector.voxels import VoxelVolume
from diffhep.parameters import named_params, resolve, split

UPPER = ((510.0, 495.0, 1540.0, 850.0, 870.0), (490.0, 500.0, 1430.0, 820.0, 840.0))
LOWER = ((505.0, 510.0, 370.0, 900.0, 880.0), (495.0, 505.0, 240.0, 960.0, 930.0))


def settings(**changes):
    made = {
        "panels": {"upper": UPPER, "lower": LOWER, "held": ()},
        "muons": {"design": 400, "held_out": 8000, "per_volume": 1000},
        "budget": {"cost": 3.3},
    }
    for name, change in changes.items():
        made[name] = {**made[name], **change} if name in made else change
    return MuonTomographySettings(**made)


@pytest.fixture(scope="module")
def study():
    return MuonTomography(settings())


def check_gradient(both, design, *context):
    value_at = lambda *args: both(*args)[0]
    rows = audit(value_at, both, design, *context, tolerance=1e-4)
    assert len(rows) == 20
    failed = [row for row in rows if not row.passed]
    assert not failed, failed


def test_gradient_of_every_panel_parameter(study):
    check_gradient(study.problem.value_and_grad, study.layout(), study.problem.context)


@pytest.mark.parametrize("random", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_finite_in_the_whole_box(study, random):
    moving, rest = split(study.layout())
    leaves, structure = jax.tree.flatten(moving)
    rng = np.random.default_rng(5)
    worst = 1 / (np.var(np.array(furnace.HEIGHTS)) / 1e6)
    shifts = [np.full(len(leaves), 12.0), np.full(len(leaves), -12.0), *rng.normal(0, 4, (random, len(leaves)))]
    for shift in shifts:
        moved = jax.tree.unflatten(structure, [jnp.asarray(s) for s in shift])
        value, gradient = study.problem.value_and_grad(moved, rest, study.problem.context)
        assert np.isfinite(float(value))
        # no layout is worse than none
        assert float(value) > worst * (1 - 1e-6)
        assert all(bool(jnp.isfinite(g)) for g in jax.tree.leaves(gradient))


def test_expected_error_is_that_of_drawn_volumes(study):
    """The closed expression with jittered edges against straight lines fitted to whole volumes behind hard panels."""
    relaxed, hard = (study.judge(study.layout(), relaxed=r)["objective"] for r in (True, False))
    assert hard.value == pytest.approx(relaxed.value, abs=4 * hard.stderr + 0.05 * relaxed.value)
    assert 0.02 < hard.stderr / hard.value < 0.5


def test_narrow_jitter_is_the_hard_detector(study):
    """The same muons with edges of no, of 1 mm and of 10 mm width."""
    sample, layout = study.held_out, resolve(study.layout())
    behind = jax.tree.map(lambda x: x[0], sample.outgoing)
    see = lambda j: observe(layout, sample.incoming, behind, (furnace.TOP, furnace.BOTTOM), sample.noise[0], jitter=j)[
        1
    ]
    hard, *jittered = (float(jnp.sum(see(j))) for j in (None, 1.0, 10.0))
    # muons within the jitter of an edge come and go at random
    assert_allclose(jittered, hard, rtol=0.03)
    for compiled, eager in zip(
        jax.tree.leaves(jax.jit(see, static_argnums=0)(10.0)), jax.tree.leaves(see(10.0)), strict=True
    ):
        assert_allclose(compiled, eager, rtol=1e-7, atol=1e-12)


@pytest.mark.long
def test_gradient_of_the_scan():
    volume = VoxelVolume(
        jnp.where(jnp.arange(4)[:, None, None] < 2, 353.0, 5.6) * jnp.ones((4, 5, 5)), size=150.0, bottom=200.0
    )
    sample = scan.scan_sample(400, seed=3, volume=volume, chunk=200)
    bounds = {"x": (0.0, 1000.0), "y": (0.0, 1000.0), "span_x": (50.0, 3000.0), "span_y": (50.0, 3000.0)}
    down = lambda panels, by: [(x, y, z - by, a, b) for x, y, z, a, b in panels]
    design = layout_of(
        down(UPPER, 560.0), down(LOWER, 200.0), bounds=bounds | {"upper": (800.0, 1000.0), "lower": (0.0, 200.0)}
    )
    loss = lambda moving, rest, sample: scan.scan_error(resolve(eqx.combine(moving, rest)), sample)
    check_gradient(jax.jit(jax.value_and_grad(loss)), design, sample)


def test_furnace_is_filled():
    length = np.asarray(furnace.furnace_volume(800.0).radiation_length)[:, 5, 5]
    assert_allclose(length[:6], [furnace.STEEL, *[furnace.LIQUID_STEEL] * 3, furnace.SLAG, furnace.AIR])
    assert np.all(np.asarray(furnace.furnace_volume(800.0).radiation_length)[:, 0] == furnace.STEEL)


def test_layout_goes_out_and_comes_back(study):
    out = numbers_of(study.layout())
    # in metres
    assert_allclose(1000 * np.array(out["upper"]), UPPER, rtol=1e-12)
    assert_allclose(1000 * np.array(out["lower"]), LOWER, rtol=1e-12)
    assert len(named_params(study.layout())) == 20


def test_settled_design_spends_the_budget(study):
    settled = study.settle(study.layout())
    assert float(resolve(settled).cost()) == pytest.approx(3.3, rel=1e-12)
    assert float(resolve(study.layout()).cost()) != pytest.approx(3.3, rel=1e-3)


def test_infeasible_budget_names_the_shortfall():
    study = MuonTomography(settings(budget={"cost": 0.005}))
    with pytest.raises(ValueError, match=r"cost: at least 0.01 cost unit is needed, 0.005 more than 0.005"):
        study.check_feasible()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"panels": {"upper": UPPER[:1]}}, "as many above as below are wanted, got 1 and 2"),
        ({"panels": {"upper": ((500.0, 500.0, 1300.0, 800.0, 800.0),) * 2}}, "value 1300.0 mm outside its bounds"),
        ({"muons": {"held_out": 2000, "per_volume": 1500}}, "held_out must be at least twice per_volume, got 2000"),
    ],
)
def test_bad_settings_are_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        MuonTomography(settings(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: furnace.furnace_volume(300.0), "fill: a height between 500.0 and 1400.0 mm is wanted, got 300.0"),
        (lambda: scan.scan_sample(1500, seed=1), "muons: a multiple of 1000 is wanted, got 1500"),
        (lambda: layout_of([(1.0, 2.0)], LOWER, bounds={}), r"upper\[0\]: a panel is x, y, z, span_x, span_y \[mm\]"),
        (lambda: layout_of(UPPER, LOWER, bounds={}, held=("w",)), "no coordinate of a panel is called 'w'"),
    ],
)
def test_bad_calls_are_one_line(call, words):
    with pytest.raises(ValueError, match=words):
        call()
