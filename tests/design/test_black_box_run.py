"""A search over a user's file: killed and resumed it ends the same, and asks the simulator nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffhep.cli.command import main
from diffhep.design.black_box_run import read_black_box
from diffhep.design.studies import ecal_black_box

# counts its calls in a file beside it, and kills the process where it is told to
SIMULATOR = """
import os
import numpy as np
import jax.random as jr
from pathlib import Path
from diffhep.design import BlackBox, Constraint
from diffhep.parameters import Param

HERE = Path(__file__).parent

def simulate(design, key):
    calls = HERE / "calls"
    count = len(calls.read_text()) if calls.exists() else 0
    if (HERE / "kill").exists() and count == int((HERE / "kill").read_text()):
        os._exit(9)
    calls.write_text("x" * (count + 1))
    return 3 - (design["gap"] - 2.0) ** 2 + 0.2 * np.asarray(jr.normal(key, (200, 1)))

box = BlackBox(
    {"gap": Param(1.0, unit="mm", role="geometry", bounds=(0.5, 5.0))},
    simulate,
    lambda events: float(events.mean()),
    (Constraint("room", 1.8, "mm"),),
    lambda design: design["gap"].reshape(1) if hasattr(design["gap"], "reshape") else np.array([design["gap"]]),
)
def made():
    return box
number = 3
"""
SEARCH = ["--events", "12000", "--seed", "2"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SIMULATOR)
    return path


def run(file, folder, *more):
    command = [sys.executable, "-m", "diffhep.cli", "black-box", str(file), "-o", str(folder), *SEARCH, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_killed_search_goes_on_where_it_stopped(file, tmp_path):
    whole = run(file, tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    result = json.loads(whole.stdout)
    calls = (tmp_path / "calls").read_text()
    assert result["events"] == 200 * len(calls) <= 12000
    # the optimum within the budget, which ends before the peak
    assert result["parameters"]["gap"] == pytest.approx(1.8, abs=1e-3)
    assert result["objective"] == pytest.approx(3 - 0.2**2, abs=5 * result["stderr"])
    (tmp_path / "calls").unlink()
    (tmp_path / "kill").write_text(str(len(calls) // 2))
    assert run(file, tmp_path / "killed").returncode == 9
    (tmp_path / "kill").unlink()
    again = run(file, tmp_path / "killed", "--resume", "--json")
    assert json.loads(again.stdout) == result
    # every call was made once
    assert (tmp_path / "calls").read_text() == calls
    for name in ("result.json", "figures/search.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert len(lines[0]) == len(result["updates"])
    assert [{**a, "time": 0} for a in lines[0]] == [{**b, "time": 0} for b in lines[1]]


def said(capsys, *args):
    assert main(["black-box", *map(str, args)]) == 2
    # the progress bar ends its own line first
    message = capsys.readouterr().err.lstrip()
    assert message.count("\n") == 1
    return message


def test_what_cannot_be_searched_is_said_in_one_line(file, tmp_path, capsys):
    folder = tmp_path / "run"
    to = ("-o", folder, *SEARCH)
    assert "no.py: cannot be read" in said(capsys, tmp_path / "no.py", *to)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert "broken.py: cannot be run (ZeroDivisionError" in said(capsys, tmp_path / "broken.py", *to)
    assert "defines no 'other'; there is box" in said(capsys, f"{file}:other", *to)
    assert "number is a int, wanted a BlackBox" in said(capsys, f"{file}:number", *to)
    assert "holds no run" in said(capsys, file, *to, "--resume")
    assert "wanted at least" in said(capsys, file, "-o", tmp_path / "few", "--events", "300")
    assert not folder.exists()


def test_a_run_is_resumed_with_what_it_was_started_with(file, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["black-box", f"{file}:made", "-o", str(folder), *SEARCH]) == 0
    capsys.readouterr()
    assert "already holds a run" in said(capsys, f"{file}:made", "-o", folder, *SEARCH)
    other = ("--events", "12000", "--seed", "3", "--resume")
    assert "started with --seed 2, got 3" in said(capsys, f"{file}:made", "-o", folder, *other)
    kept = folder / "calls/00003.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    assert "00003.npz: cannot be read back" in said(capsys, f"{file}:made", "-o", folder, *SEARCH, "--resume")
    np.savez(kept, design=np.array([1.0]), events=np.ones((200, 1)))
    assert "was made at another design" in said(capsys, f"{file}:made", "-o", folder, *SEARCH, "--resume")
    file.write_text(SIMULATOR.replace("0.2 *", "0.3 *"))
    assert "started with another mine.py" in said(capsys, f"{file}:made", "-o", folder, *SEARCH, "--resume")


def test_the_shipped_file_to_copy_is_a_box():
    box = read_black_box(Path(ecal_black_box.__file__))
    assert box.names == ("absorber", "active")
    assert [c.limit for c in box.constraints] == [60, 250]
