"""The calorimeter designed with a surrogate in the loop: gradients, judging by Geant4, rounds of training, refusals."""

from typing import Any

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffhep.design.config import STUDIES
from diffhep.design.studies import ecal_layers, ecal_rounds, open_study
from diffhep.io import RunFolder, read_showers, shipped_showers
from diffhep.surrogates import incidence_of, load_surrogate, shipped_surrogate

SMALL = {"groups": 2, "showers": 60, "energies": (1.0, 2.0)}


def study_of(*, refinement: dict[str, Any] | None = None, starts: int = 4, **calorimeter) -> Any:
    values = STUDIES["ecal-layers"]().model_dump()
    values["calorimeter"] |= SMALL | calorimeter
    values["refinement"] |= refinement or {}
    values["search"]["starts"] = starts
    return open_study("ecal-layers", STUDIES["ecal-layers"].model_validate(values))


@pytest.fixture(scope="module")
def study():
    return study_of()


def test_every_gradient_equals_finite_differences(study):
    rows = study.audit(study.layout())
    assert len(rows) == 4
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_relaxed_and_hard_are_the_same_showers_without_geant4(study):
    design = study.layout()
    soft, hard = study.judge(design, relaxed=True), study.judge(design, relaxed=False)
    assert soft["objective"].value == hard["objective"].value
    assert 0 < soft["objective"].stderr < 0.2 * soft["objective"].value
    # 30 layers of 4 and 4 mm: their depth is exact
    assert hard["depth"].value == pytest.approx(240.0)
    assert hard["depth"].stderr == 0.0


@pytest.mark.needs("geant4_pybind")
def test_geant4_judges_the_design_as_the_surrogate_does():
    full = study_of(geant4=150, showers=600)
    design = full.layout()
    soft, hard = full.judge(design, relaxed=True)["objective"], full.judge(design, relaxed=False)["objective"]
    # each has its statistical error; the surrogate's resolution is good to 5 %
    error = np.hypot(np.hypot(soft.stderr, hard.stderr), 0.05 * hard.value)
    assert abs(soft.value - hard.value) < 4 * error


class Killed(Exception):
    pass


def refined(folder, *, until: str = "", **refinement) -> Any:
    """The study after its rounds; killed when a phase of that name begins."""
    quick = {"rounds": 2, "showers": 200, "steps": 20, "tolerance": 1e-6, "replay": (shipped_showers(),)}
    study = study_of(geant4=50, starts=1, refinement=quick | refinement)

    def progress(phase: str, done: float) -> None:
        if until and until in phase:
            raise Killed

    study.get_ready(RunFolder(folder), progress)
    return study


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    return folder, refined(folder)


@pytest.mark.needs("geant4_pybind")
@pytest.mark.slow
def test_rounds_train_the_surrogate_where_its_optimum_is(rounds):
    folder, study = rounds
    first, second = study.rounds["round 1"], study.rounds["round 2"]
    # 2 energies x 50 showers a judgement, 200 around each optimum; the replay is there already
    assert (first["showers_so_far"], second["showers_so_far"]) == (100, 400)
    assert first["deviation"] == pytest.approx(first["surrogate"] / first["geant4"] - 1)
    optimum = folder / "rounds" / "1" / "optimum.eqx"
    design = RunFolder(optimum.parent).load_tree(optimum.name, study.layout())
    absorber = np.asarray(study.thicknesses(design)[0])
    around = read_showers(folder / "geant4" / "around-1.npz")
    assert np.median(around.absorber_thickness / absorber) == pytest.approx(1, abs=0.05)
    judged = next((folder / "geant4").glob("judged-1-*.npz"))
    assert np.allclose(read_showers(judged).absorber_thickness, absorber)
    # what is used now is what was trained last, and what others can name
    kept = load_surrogate(folder / "surrogate")
    found: list[Any] = [kept, load_surrogate(folder / "rounds" / "2"), shipped_surrogate()]
    for mine, trained, shipped in zip(*(jax.tree.leaves(s.network) for s in found), strict=True):
        assert_array_equal(mine, trained)
        assert not np.array_equal(mine, shipped)
    assert_array_equal(jax.tree.leaves(study.weights)[0], jax.tree.leaves(kept.in_double())[0])
    assert study.problem.context[0] is study.weights
    assert "round 2" in study.provenance()


@pytest.mark.needs("geant4_pybind")
@pytest.mark.slow
def test_killed_rounds_go_on_without_simulating_again(rounds, tmp_path, monkeypatch):
    whole = rounds[1]
    for phase in ("round 1: showers", "round 1: training", "round 2: optimum"):
        with pytest.raises(Killed):
            refined(tmp_path, until=phase)
    asked = []
    for module in (ecal_layers, ecal_rounds):
        simulate = module.generate_each
        monkeypatch.setattr(
            module, "generate_each", lambda *a, s=simulate, **k: asked.append(k["path"].name) or s(*a, **k)
        )
    resumed = refined(tmp_path)
    assert resumed.rounds == whole.rounds
    for one, two in zip(*(jax.tree.leaves(study.weights) for study in (whole, resumed)), strict=True):
        assert_array_equal(one, two)
    assert not [name for name in asked if "-1" in name.removesuffix(".npz")[:9]]
    # a third time everything is there
    asked.clear()
    assert refined(tmp_path).rounds == whole.rounds
    assert asked == []


@pytest.mark.needs("geant4_pybind")
@pytest.mark.slow
def test_without_a_replay_general_showers_are_simulated(tmp_path):
    study = study_of(geant4=50, refinement={"rounds": 1, "showers": 200})
    told: list[str] = []
    rounds = ecal_rounds.Rounds(study, RunFolder(tmp_path), lambda phase, done: told.append(phase))
    parts = [read_showers(path) for path in rounds.general(1)]
    assert set(told) == {"round 1: mixed stacks", "round 1: trend stacks"}
    assert [part.size for part in parts] == [100, 100]
    assert [part.config["calorimeter"]["variation"] for part in parts] == ["mixed", "trend"]
    domain = study.surrogate.domain
    for part in parts:
        assert bool(np.all(domain.contains(incidence_of(part))))
    # they count, once
    assert rounds.trained_on(0) == 0
    assert rounds.trained_on(3) == 3 * 200 + 200


@pytest.mark.needs("geant4_pybind")
@pytest.mark.slow
def test_rounds_end_when_geant4_agrees(tmp_path):
    study = refined(tmp_path, tolerance=10.0)
    assert list(study.rounds) == ["round 1"]
    assert not (tmp_path / "surrogate").exists()
    for mine, shipped in zip(*(jax.tree.leaves(s) for s in (study.surrogate, shipped_surrogate())), strict=True):
        assert_array_equal(mine, shipped)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refinement": {"rounds": 2}}, "say with how many showers"),
        ({"groups": 7}, "does not divide the 30 layers"),
        ({"energies": (1.0, 50.0)}, "the surrogate knows 0.5"),
        ({"surrogate": "nowhere"}, "holds no surrogate"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        study_of(**changes)
