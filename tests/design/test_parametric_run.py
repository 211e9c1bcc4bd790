"""A study without networks through the whole engine: run folder, report, front, baseline, resume."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffhep import cli
from diffhep.design.config import STUDIES
from diffhep.design.design_file import read_design
from diffhep.design.exact import with_values
from diffhep.design.front import hypervolume
from diffhep.design.optimise import optimise_study
from diffhep.design.problem import Outcome
from diffhep.design.reference_config import EcalResolutionSettings
from diffhep.design.studies import open_study
from diffhep.design.studies.ecal_resolution import EcalResolution
from diffhep.io import RunFolder
from diffhep.parameters import named_params, resolve
from diffhep.report import write_report
from tests.killing import kill_at

SMALL = ("--search.starts=10", "--search.pareto=30", "--search.grid=3", "--search.steps=40")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of one run of the calorimeter study, and its result."""
    folder = tmp_path_factory.mktemp("parametric") / "run"
    assert cli.main(["optimise", "ecal-resolution", "-o", str(folder), *SMALL]) == 0
    return folder, json.loads((folder / "result.json").read_text())


def test_the_optimum_is_the_known_one_and_certified(run):
    _, result = run
    found = {name: p["final"] for name, p in result["parameters"].items()}
    assert found == pytest.approx({"absorber": 3.0789, "active": 1.4100, "layers": 53}, abs=1e-4)
    assert 1 / result["final"]["hard"]["value"] == pytest.approx(1.8022, abs=5e-5)
    assert result["kkt"]["residual"] < 1e-6
    assert result["kkt"]["excess"] <= 0
    assert result["starts"]["agree"] == result["starts"]["count"] == 10
    assert all(row["passed"] for row in result["audit"])


def test_a_closed_form_has_no_statistical_error(run):
    _, result = run
    assert result["improvement"]["significance"] is None
    assert result["improvement"]["stderr"] == 0
    assert result["final"]["relaxed"] == result["final"]["hard"]


def test_without_gradients_nothing_better_is_found_within_the_budget(run):
    _, result = run
    # CMA-ES does not round the layers: what it can reach is the relaxed optimum
    relaxed = max(result["starts"]["objectives"])
    assert 0.9 * relaxed < result["baseline"]["objective"] <= relaxed * (1 + 1e-6)
    assert result["baseline"]["evaluations"] <= 10 * 40


def test_the_front_covers_what_a_dense_grid_covers(run):
    _, result = run
    study = open_study("ecal-resolution", STUDIES["ecal-resolution"]())
    design, names = study.untrained(), ("absorber", "active", "layers")
    axes = np.geomspace(1.0, 8.0, 36), np.geomspace(0.4, 6.0, 36), np.geomspace(15, 120, 36)
    points = np.stack([x.ravel() for x in np.meshgrid(*axes)], axis=1)
    raw = np.stack(
        [np.asarray(named_params(design)[n].at(p).raw) for n, p in zip(names, points.T, strict=True)], axis=1
    )
    value = lambda r: study.problem.outcome(with_values(design, names, r), study.problem.context)
    grid = jax.jit(lambda r: jax.lax.map(value, r, batch_size=4096))(jnp.asarray(raw))
    cheapest = min(p["limit"] for p in result["front"]["points"])  # the front begins there
    allowed = (np.asarray(grid.used[:, 1]) <= study.problem.limits[1]) & (np.asarray(grid.used[:, 0]) >= cheapest)
    reference = (result["front"]["reference"], 0.0)
    dense = hypervolume(np.asarray(grid.used[allowed, 0]), np.asarray(grid.objective[allowed]), reference)
    assert result["front"]["hypervolume"] >= 0.995 * dense
    assert len(result["front"]["points"]) == 30
    assert all(p["used"][0] <= p["limit"] for p in result["front"]["points"])


def test_what_a_parameter_may_be_off_by_costs_one_per_cent(run):
    folder, result = run
    study = open_study("ecal-resolution", STUDIES["ecal-resolution"]())
    design = read_design(folder, study, progress=lambda *_: None)
    width = result["tolerances"]["absorber"]
    assert 0 < width < 1
    best = float(study.problem.outcome(design, study.problem.context).objective)
    # along the budget the objective falls by 1 % over the width: the scintillator pays for the absorber
    b = study.settings.budget
    losses = []
    for sign in (1, -1):
        absorber = float(design.absorber.unwrap()) + sign * width
        active = float(design.active.unwrap()) - sign * width * b.cost_per_absorber / b.cost_per_active
        raw = jnp.stack([design.absorber.at(absorber).raw, design.active.at(active).raw])
        moved = with_values(design, ("absorber", "active"), raw)
        losses.append(1 - float(study.problem.outcome(moved, study.problem.context).objective) / best)
    # the third order is a fifth of the second here, and cancels between the sides; the fourth is of the order of its
    # square
    assert abs(losses[0] - losses[1]) / 2 < 0.3 * np.mean(losses)
    assert np.mean(losses) == pytest.approx(0.01, rel=0.3**2)


def test_the_report_says_what_there_is_and_nothing_about_events(run):
    folder, _ = run
    text = (folder / "report.html").read_text()
    assert "without statistical error" in text
    assert "CMA-ES" in text
    assert "Hypervolume" in text
    assert "Mass spectrum" not in text
    assert "FPGA" not in text


def test_resuming_a_finished_run_gives_the_same_result(run, capsys):
    folder, result = run
    assert cli.main(["optimise", "ecal-resolution", "-o", str(folder), "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    times = ("timing", "gradient_cost_ratio", "compilations")
    assert {k: v for k, v in again.items() if k not in times} == {k: v for k, v in result.items() if k not in times}


def test_a_killed_run_goes_on_and_ends_the_same(run, tmp_path, capsys):
    folder = tmp_path / "killed"
    kill_at(["optimise", "ecal-resolution", "-o", str(folder), *SMALL], '"ascent"', folder)
    assert cli.main(["optimise", "ecal-resolution", "-o", str(folder), "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # times, and how often a process that did less had to compile
    times = ("timing", "gradient_cost_ratio", "compilations")
    assert {k: v for k, v in result.items() if k not in times} == {k: v for k, v in run[1].items() if k not in times}


class Losing(EcalResolution):
    """The study with a region in which there is no detector, and a start in the middle of it."""

    def evaluate(self, design, context):
        out = super().evaluate(design, context)
        lost = resolve(design).absorber > 15.0
        return Outcome(jnp.where(lost, jnp.nan, 1.0) * out.objective, out.used)

    def start(self, initial, *, key):
        return eqx.tree_at(lambda s: s.absorber, initial, initial.absorber.at(18.0))


def test_a_start_that_has_lost_everything_does_not_stop_the_others(tmp_path):
    search = {"starts": 3, "steps": 20, "pareto": 0, "grid": 0}
    settings = EcalResolutionSettings.model_validate({"search": search})
    config = {"study": "ecal-resolution", "settings": settings.model_dump(mode="json")}
    folder = RunFolder.create(tmp_path / "run", config)
    result = optimise_study(Losing(settings), folder, lambda phase, done: None)
    assert list(result["starts"]["within_budget"]) == [True, False, False]
    assert result["starts"]["objectives"][0] > 0
    assert list(result["starts"]["objectives"][1:]) == [0.0, 0.0]
    assert 1 / result["final"]["hard"]["value"] == pytest.approx(1.8022, abs=5e-4)
    assert write_report(folder).is_file()


def test_a_design_of_another_study_is_refused(run, capsys):
    folder, _ = run
    assert cli.main(["evaluate", "tof-pid", "--design", str(folder)]) == 2
    assert "a design of study 'ecal-resolution', wanted 'tof-pid'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget.cost", "2"], "infeasible budget: cost: at least 4.084 cost unit is needed, 2.084 more"),
        (["--calorimeter.absorber", "25"], "less than 20"),
        (["--config", "study.toml"], "budget.price: Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_refused_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text("[budget]\nprice = 3.0\n")
    assert cli.main(["optimise", "ecal-resolution", "-o", "out", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
