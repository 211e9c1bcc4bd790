"""The command line: what each verb prints, and how it refuses bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot

from diffhep import cli
from tests.killing import kill_at

# as in the quickstart notebook, so that what was compiled for one serves the other
SMALL = (
    "--samples.design-events=1500",
    "--samples.held-out-events=6000",
    "--search.starts=2",
    "--search.steps=40",
    "--search.warmup=200",
    "--search.pareto=2",
    "--search.grid=0",
)


def diffhep(*args: str | Path, timeout: float = 600) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "diffhep.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict]:
    """One small optimisation through the real command, and what it printed with --json."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = diffhep("optimise", "higgs-diphoton", "-o", folder, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_result_says_all_that_was_promised(run):
    folder, result = run
    for name in ("initial", "final"):
        for kind in ("relaxed", "hard"):
            assert result[name][kind]["value"] > 0
            assert result[name][kind]["stderr"] > 0
    geometry = {"calorimeter.absorber", "calorimeter.active", "calorimeter.layers"}
    assert geometry | {"menu.leading", "menu.subleading", "photon_cut"} <= result["parameters"].keys()
    for p in result["parameters"].values():
        assert p.keys() >= {"initial", "final", "unit", "gradient", "worth"}
    assert result["parameters"]["calorimeter.layers"]["final"] % 1 == 0
    assert set(result["constraints"]) == {"cost", "depth", "rate"}
    for name in ("cost", "depth"):
        assert result["constraints"][name]["value"] <= result["constraints"][name]["limit"]
        assert result["constraints"][name]["multiplier"] >= 0
    assert result["starts"]["count"] == 2
    # a ratio of two times, and this sample is too small for them to mean anything: that it is there is all
    assert result["gradient_cost_ratio"] > 0
    assert result["firmware"]["mismatches"] == 0
    assert result["firmware"]["inputs"] >= 100_000
    assert result["versions"].keys() >= {"jax", "diffhep"}
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "report.html").stat().st_size > 100_000


def test_everything_is_compiled_once(run):
    _, result = run
    assert result["compilations"] == {"ascent": 1, "value": 1, "value and gradient": 1}


def test_every_gradient_of_the_run_equals_finite_differences(run):
    _, result = run
    assert len(result["audit"]) >= 8 + 12
    assert all(row["passed"] for row in result["audit"]), [r for r in result["audit"] if not r["passed"]]


# a study without networks is killed and resumed in tests/design/test_parametric_run.py, in a tenth of the time
@pytest.mark.long
def test_killed_and_resumed_run_ends_with_the_same_result(run, tmp_path):
    reference = run[1]
    folder = tmp_path / "killed"
    kill_at(["optimise", "higgs-diphoton", "-o", str(folder), *SMALL], '"ascent"', folder)
    resumed = diffhep("optimise", "higgs-diphoton", "-o", folder, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    # times, and how often a process that did less had to compile
    times = ("timing", "gradient_cost_ratio", "compilations")
    assert {k: v for k, v in result.items() if k not in times} == {k: v for k, v in reference.items() if k not in times}


def test_evaluate_reproduces_the_run(run):
    folder, result = run
    done = diffhep("evaluate", "higgs-diphoton", "--design", folder, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["hard"] == pytest.approx(result["final"]["hard"], rel=1e-9)
    assert out["relaxed"] == pytest.approx(result["final"]["relaxed"], rel=1e-9)


def test_trigger_export_and_verify_from_a_run(run, tmp_path):
    folder, _ = run
    project = tmp_path / "firmware"
    # the Verilog has its tests in tests/trigger
    exported = diffhep("trigger", "export", folder, "-o", project, "--no-verilog", "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["model_card"]
    verified = diffhep("trigger", "verify", project, "--n", "2000", "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["mismatches"] == 0
    again = diffhep("trigger", "export", folder, "-o", project)
    assert again.returncode == 2


def test_report_is_written_again(run):
    folder, _ = run
    (folder / "report.html").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").is_file()


def test_a_run_is_never_overwritten(run, capsys):
    folder, _ = run
    before = (folder / "result.json").read_bytes()
    assert cli.main(["optimise", "higgs-diphoton", "-o", str(folder)]) == 2
    assert "already holds a run" in one_line(capsys)
    assert (folder / "result.json").read_bytes() == before


def one_line(capsys) -> str:
    """What stands on standard error: one line, and nothing on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert captured.err.startswith("diffhep: error: ")
    return captured.err


def test_studies_are_listed(capsys):
    assert cli.main(["studies", "--json"]) == 0
    assert "higgs-diphoton" in json.loads(capsys.readouterr().out)["studies"]


def test_help_names_every_verb_and_every_constant(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in cli.VERBS)
    with pytest.raises(SystemExit) as stop:
        cli.main(["optimise", "higgs-diphoton", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--calorimeter.absorber" in text
    assert "[mm]" in text


BAD_WORDS = [
    (["optimize", "higgs-diphoton"], "did you mean 'optimise'"),
    (["optimise", "higgs-diphotn"], "did you mean 'higgs-diphoton'"),
    (["optimise"], "a study is wanted"),
    (["optimise", "higgs-diphoton", "--budget.cst", "3"], "--budget.cst"),
    (["optimise", "higgs-diphoton", "--budget.cost", "much"], "--budget.cost"),
    (["optimise", "higgs-diphoton", "--budget.cost", "-1"], "cost"),
    (["optimise", "higgs-diphoton", "--calorimeter.absorber", "30"], "absorber"),
    (["optimise", "higgs-diphoton", "--resume", "-o", "no-such-run"], "holds no run"),
    (["optimise", "higgs-diphoton", "--config", "no-such-file.toml"], "no-such-file.toml"),
    (["trigger", "solder"], "unknown trigger action"),
    (["report", "no-such-run"], "holds no run"),
]


@pytest.mark.parametrize(("args", "words"), BAD_WORDS, ids=[" ".join(a)[:60] for a, _ in BAD_WORDS])
def test_bad_words_get_one_line_and_status_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == 2
    assert words in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def write_root(path: Path, **branches: np.ndarray) -> Path:
    with uproot.recreate(path) as file:
        types = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in branches.items()}
        file.mktree("Events", types).extend(branches)
    return path


def bad_files(folder: Path) -> list[tuple[str, Path, str]]:
    values = np.full((300, 2), 50.0)
    good = {"Photon_pt": values, "Photon_eta": 0 * values, "Photon_phi": 0 * values}
    (folder / "text.root").write_text("not a ROOT file")
    broken = {**good, "Photon_pt": np.where(np.arange(300)[:, None] == 7, np.nan, values)}
    negative = {**good, "Photon_pt": np.where(np.arange(300)[:, None] == 7, -1.0, values)}
    empty = {name: array[:0] for name, array in good.items()}
    with uproot.recreate(folder / "tree.root") as file:
        file.mktree("Other", {"x": np.dtype(float)}).extend({"x": np.ones(3)})
    return [
        ("missing", folder / "none.root", "none.root"),
        ("not ROOT", folder / "text.root", "text.root"),
        ("no tree", folder / "tree.root", "Events"),
        ("no branch", write_root(folder / "branch.root", Photon_eta=values), "Photon_pt"),
        ("empty", write_root(folder / "empty.root", **empty), "empty"),
        ("nan", write_root(folder / "nan.root", **broken), "Photon_pt"),
        ("negative", write_root(folder / "negative.root", **negative), "Photon_pt"),
    ]


def test_bad_files_get_one_line_and_status_2(tmp_path, capsys):
    for what, file, words in bad_files(tmp_path):
        out = tmp_path / "run"
        args = ["optimise", "higgs-diphoton", "-o", str(out), "--samples.signal", str(file)]
        assert cli.main([*args, "--samples.signal-cross-section", "1"]) == 2, what
        assert words in one_line(capsys), what
        assert not out.exists(), what


def test_infeasible_budget_says_which_and_by_how_much(tmp_path, capsys):
    out = tmp_path / "run"
    args = ["optimise", "higgs-diphoton", "-o", str(out), "--budget.cost", "3", "--budget.depth", "2"]
    assert cli.main(args) == 2
    message = one_line(capsys)
    # four layers of 0.3 mm each: 4 (1 + 0.02 0.3 + 0.05 0.3) = 4.084 and 2.4 mm
    assert "cost: at least 4.084" in message
    assert "1.084 more" in message
    assert "depth: at least 2.4 mm" in message
    assert not out.exists()
