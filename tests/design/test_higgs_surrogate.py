"""H -> gamma gamma with photons that a learned surrogate of Geant4 makes, and designs that Geant4 judges."""

import re
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.audit import audit
from diffhep.design.config import STUDIES
from diffhep.design.honest import Measured
from diffhep.design.studies import open_study
from diffhep.design.studies.higgs_diphoton import full_simulation
from diffhep.design.studies.higgs_diphoton.pictures import resolution_terms
from diffhep.detector import FrozenShowers
from diffhep.generate import Beam, SamplingCalorimeter, simulate
from diffhep.io import RunFolder
from diffhep.parameters import resolve, split
from diffhep.settings import settings_from
from diffhep.surrogates import SurrogateSettings, fit_surrogate, save_surrogate
from diffhep.surrogates.card import SHIPPED

MODEL = STUDIES["higgs-diphoton"]
SMALL = {"response": "surrogate", "samples": {"design_events": 300, "held_out_events": 2000}, "search": {"warmup": 50}}


def study_of(**changes: Any) -> Any:
    return open_study("higgs-diphoton", settings_from(MODEL, SMALL | changes, source="test"))


@pytest.fixture(scope="module")
def study():
    return study_of()


@pytest.fixture(scope="module")
def initial(study):
    return study.initial(progress=lambda phase, done: None)


def test_gradients_through_the_surrogate_equal_finite_differences(study, initial):
    """Of the significance, to thicknesses, number of layers and thresholds, through reconstruction, trigger and fit."""
    problem = study.problem
    rows = audit(problem.value, problem.value_and_grad, initial, problem.context, weights=0, tolerance=1e-6)
    geometry = [row for row in rows if row.role == "geometry"]
    assert len(geometry) == 3
    assert all(abs(row.automatic) > 1e-4 for row in geometry)
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_the_surrogate_is_not_trained_with_the_design(initial):
    trainable, _ = split(initial)
    assert not jax.tree.leaves(trainable.calorimeter.showers)
    assert len(jax.tree.leaves(trainable.calorimeter)) == 3


def test_designs_stay_where_the_surrogate_was_trained(study, initial):
    known = study.showers.bounds
    for number in range(20):
        c = study.start(initial, key=jr.key(number)).calorimeter
        for name in ("absorber", "active", "layers"):
            low, high = getattr(known, name)
            assert low < float(getattr(c, name).unwrap()) < high
    for factor in (0.01, 100.0):
        layers = float(study.rescaled(initial, factor).calorimeter.layers.unwrap())
        assert known.layers[0] < layers < known.layers[1]


def test_thresholds_are_lowered_only_where_the_rate_is_wanted(study, initial):
    both = lambda e: (e.menu.leading, e.menu.subleading)
    thresholds = lambda e: np.array([float(p.unwrap()) for p in both(e)])
    moved = lambda by: eqx.tree_at(both, initial, tuple(p.at(float(p.unwrap()) + by) for p in both(initial)))
    raised, lowered = moved(10.0), moved(-10.0)
    assert_allclose(thresholds(study.settle(raised)), thresholds(raised), atol=1e-6)
    # back to the event that would be one too many
    assert_allclose(thresholds(study.filled(raised)), thresholds(initial), atol=1e-6)
    assert_allclose(thresholds(study.settle(lowered)), thresholds(initial), atol=1e-6)
    # a relaxed design that uses the rate up, and a hard one that does not
    above = moved(0.3)
    used = float(study.problem.outcome(above, study.problem.context).used[2])
    assert used > 0.95 * study.settings.budget.rate
    assert_allclose(thresholds(study.settle(above)), thresholds(initial), atol=1e-6)


def test_the_scan_keeps_to_what_the_surrogate_knows(study, initial, monkeypatch):
    names = ("objective", *(c.name for c in study.problem.constraints))
    monkeypatch.setattr(study, "judge", lambda design, relaxed: {n: Measured(1.0, np.zeros(2)) for n in names})
    at = study.bounds.active[1] - 0.1
    thick = eqx.tree_at(lambda e: e.calorimeter.active, initial, initial.calorimeter.active.at(at))
    axes = study.scan(thick, 2, lambda done: None)["axes"]
    assert study.bounds.active[0] < axes[1][0] < at < axes[1][1] < study.bounds.active[1]


def test_photons_have_the_resolution_of_the_surrogate(study, initial):
    """Measured over true energy of isolated photons, against the quantiles of the surrogate and the other terms."""
    calorimeter = resolve(initial).calorimeter
    picture = resolution_terms(initial)
    at = int(np.argmin(np.abs(picture["absorber"] - float(calorimeter.absorber))))
    showers, layout = calorimeter.showers, calorimeter.layout()
    visible = showers.quantiles(layout, jnp.array(60.0))
    assert picture["terms"]["sampling and leakage"][at] == pytest.approx(float(visible.std() / visible.mean()), rel=0.1)
    noise = jr.normal(jr.key(0), (4000, showers.noise_size))
    made = showers.deposits(layout, jnp.full(4000, 60.0), noise).sum(axis=-1)
    energy = made / (1 - calorimeter.leakage_curve()(made))
    assert float(energy.mean()) == pytest.approx(60.0, rel=0.002)
    assert float(energy.std() / energy.mean()) == pytest.approx(float(visible.std() / visible.mean()), rel=0.06)


def test_a_library_of_the_surrogate_s_own_showers_gives_its_significance(study, initial):
    """What Geant4's library goes through changes nothing: the comparison has no bias of its own."""
    hard = resolve(study.hard_version(initial))
    learned, layout = hard.calorimeter.showers, hard.calorimeter.layout()
    random = np.random.default_rng(5)
    low, high = learned.bounds.energy
    energy = np.geomspace(low, high, 6000)
    made = learned.deposits(layout, jnp.asarray(energy), jnp.asarray(random.normal(size=(6000, learned.noise_size))))
    visible = np.asarray(made) * float(layout.fraction) * full_simulation.E_OVER_MIP
    found: dict[str, list[Any]] = {"surrogate": [], "geant4": []}
    for part in range(4):
        library = FrozenShowers.of(energy[part::4], visible[part::4], float(layout.fraction), learned.bounds.energy)
        for name, showers in (("surrogate", learned), ("geant4", library)):
            calorimeter = eqx.tree_at(lambda c: c.showers, hard.calorimeter, showers)
            found[name].append(study.rejudged(hard, calorimeter, part))
    # one program for the surrogate, one for all libraries
    assert study.hard_values._cache_size() == 2
    row = full_simulation.compared(found)
    assert row["deviation"] is not None
    # four standard errors, each known to 30 %, and the calibration of a library: 0.2 % of the energy
    assert abs(row["deviation"]["value"]) < 4 * row["deviation"]["stderr"] + 0.01


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A surrogate of soft photons, trained for seconds: what it says is rough, how it is used is the same."""
    folder = tmp_path_factory.mktemp("soft")
    calorimeter = SamplingCalorimeter(
        64, absorber_thickness=(2.0, 7.0), active_thickness=(2.0, 6.0), variation="same", absorber_energy=False
    )
    showers = simulate(calorimeter, Beam("gamma", energy=(0.5, 2.0)), 300, seed=1, progress=False)
    settings = SurrogateSettings.model_validate(
        {
            "groups": {"count": 8},
            "network": {"width": 8, "memory": 8},
            "schedule": {"generator": 40, "checkpoint": 20, "batch": 64},
        }
    )
    trained = fit_surrogate(settings, showers)
    run = RunFolder.create(folder / "run", {})
    save_surrogate(run, trained, settings, [showers])
    return run.path


@pytest.mark.needs("geant4_pybind")
def test_geant4_judges_both_designs_once(quick, tmp_path):
    study = study_of(simulation={"surrogate": str(quick), "geant4": 1000})
    first = study.initial(progress=lambda phase, done: None)
    thicker = eqx.tree_at(lambda e: e.calorimeter.absorber, first, first.calorimeter.absorber.at(3.0))
    phases: list[str] = []
    folder = RunFolder.create(tmp_path / "run", {})
    confirm = partial(study.confirm, first, thicker, folder, progress=lambda phase, done: phases.append(phase))
    found = confirm()
    assert [row["design"] for row in found["designs"]] == ["initial", "final"]
    for row in found["designs"]:
        assert row["showers"] == 1000
        assert row["geant4"]["value"] > 0
        assert row["surrogate"]["value"] / row["geant4"]["value"] - 1 == pytest.approx(row["deviation"]["value"])
    assert len(found["energies"]) == 4
    assert {"Geant4, initial", "Geant4, final"} <= set(phases)
    files = sorted((folder.path / "geant4").glob("*.npz"))
    assert len(files) == 2
    before = [file.stat().st_mtime_ns for file in files]
    # the showers are kept: the second judgement is the first
    again = confirm()
    assert [file.stat().st_mtime_ns for file in files] == before
    for one, other in zip(found["designs"], again["designs"], strict=True):
        assert_allclose(one["geant4"]["value"], other["geant4"]["value"], rtol=1e-12)


def test_a_design_that_rejects_everything_is_no_number():
    none = {"objective": float("nan"), "rate": 0.0}
    row = full_simulation.compared({"surrogate": [none, none], "geant4": [none, none]})
    assert row["surrogate"] is None
    assert row["deviation"] is None
    assert row["geant4_rate"] == {"value": 0.0, "stderr": 0.0}


def test_a_missing_geant4_is_noticed_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    study = study_of(simulation={"geant4": 1000})
    with pytest.raises(ValueError, match=r"pip install 'diffhep\[geant4\]'"):
        study.get_ready(RunFolder.create(tmp_path / "run", {}), lambda phase, done: None)


def test_without_geant4_nothing_is_confirmed(study, initial, tmp_path):
    folder = RunFolder.create(tmp_path / "run", {})
    assert study.confirm(initial, initial, folder, progress=lambda phase, done: None) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"response": "parametrised", "simulation": {"geant4": 1000}}, "plays no part without response"),
        ({"simulation": {"geant4": 50}}, "at least 1000 showers are wanted for a judgement, got 50"),
        ({"simulation": {"surrogate": "nowhere"}}, "nowhere: holds no surrogate"),
        ({"simulation": {"surrogate": str(SHIPPED)}}, "layers in groups"),
        ({"calorimeter": {"readouts": 12}}, "calorimeter.readouts): the surrogate is of 8, the study of 12"),
        ({"calorimeter": {"active": 0.5}}, "calorimeter.active: wanted between 0.8 and 5.9"),
        ({"calorimeter": {"layers": 100}}, "calorimeter.layers: wanted between 16 and 63.9"),
        ({"response": "geant3"}, "response"),
    ],
)
def test_bad_input(changes, told):
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        study_of(**changes)
    assert "\n" not in str(error.value)
