"""`diffhep infer` at its doors: what is wrong with a workspace or an option is said in one line."""

import copy
import json

import pytest

from diffhep import cli
from tests.infer_command import call, make_spec


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("infer") / "workspace.json"
    path.write_text(json.dumps(make_spec()))
    return path


def edit(*path, value):
    def change(spec):
        here = spec
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value

    return change


FIRST = ("channels", 0, "samples", 0)
BAD = {
    "schema": (edit("measurements", value=3), "workspace.json: workspace: 'measurements' has the wrong type, int"),
    "unknown modifier": (edit(*FIRST, "modifiers", 0, "type", value="magic"), "modifier 'mu': unknown type 'magic'"),
    "length": (edit(*FIRST, "data", value=[1.0]), "channel 'signal_region', sample"),
    "observation": (
        edit("observations", 0, "data", value=[1.0]),
        "channel 'signal_region': 1 bins, wanted 3",
    ),
    "negative yield": (edit(*FIRST, "data", 1, value=-2.0), "sample 'signal': bin 1 is -2.0, wanted a number"),
    "nan": (edit(*FIRST, "data", 1, value=float("nan")), "sample 'signal': bin 1 is nan"),
    "negative count": (edit("observations", 1, "data", 0, value=-1.0), "channel 'control': bin 0 is -1.0"),
    "poi": (edit("measurements", 0, "config", "poi", value="kappa"), "no parameter 'kappa'"),
    "no poi": (edit("measurements", 0, "config", "poi", value=""), "choose one with --poi"),
    "fixed poi": (
        edit(
            "measurements",
            0,
            "config",
            "parameters",
            value=[*make_spec()["measurements"][0]["config"]["parameters"], {"name": "mu", "fixed": True}],
        ),
        "'mu': the measurement holds it fixed",
    ),
    "bounds": (
        edit("measurements", 0, "config", "parameters", 0, "bounds", value=[[1.5, 0.5]]),
        "parameter 'lumi', bounds",
    ),
    "no bounds": (edit("measurements", 0, "config", "parameters", 0, "bounds", value=5), "'lumi', bounds"),
    "width": (edit("measurements", 0, "config", "parameters", 0, "sigmas", value=[-0.1]), "'lumi', sigmas: positive"),
    "no sigma": (edit("measurements", 0, "config", "parameters", value=[]), "must give 'auxdata' of 'lumi'"),
}


def refused(words, *args):
    """One line on standard error that holds the words, nothing on standard output, status 2."""
    status, out, err = call(*args)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("diffhep: error: ")
    assert words in err


@pytest.mark.parametrize("name", BAD)
def test_bad_workspaces_get_one_line_with_file_and_place(name, tmp_path):
    change, words = BAD[name]
    spec = copy.deepcopy(make_spec())
    change(spec)
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(spec))
    refused(words, path, "-o", tmp_path / "run", "--json")
    refused(str(path), path)
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_read_are_named(tmp_path, workspace):
    refused("none.json: cannot be read (No such file", tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"channels": [1,}')
    refused("broken.json: not valid JSON (", broken)
    refused("none.json: cannot be read (No such file", workspace, "--patch", tmp_path / "none.json")
    refused("broken.json: not valid JSON", workspace, "--patch", broken)
    broken.write_text('[{"op": "remove", "path": "/channels/7"}]')
    refused("broken.json: patch operation 0: cannot remove at '/channels/7'", workspace, "--patch", broken)
    refused("broken.json: is a patch, not a patch set", workspace, "--patch", f"{broken}:name")
    assert list(tmp_path.iterdir()) == [broken]


def test_options_that_make_no_sense_are_refused(tmp_path, workspace):
    refused("no parameter 'kappa'", workspace, "--poi", "kappa")
    refused("no measurement 'other'", workspace, "--measurement", "other")
    refused("--mu: a positive number is wanted, got -1", workspace, "--mu", "-1")
    refused("--mu: a positive number is wanted, got nan", workspace, "--mu", "nan")
    refused("--toys: a number from 0", workspace, "--toys", "-5")
    refused("did you mean 'jes'", workspace, "--scan", "jess")
    refused("'mc[1]' is profiled analytically", workspace, "--scan", "mc[1]")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    refused(f"{taken}: is a file", workspace, "-o", taken)
    refused("cannot be made", workspace, "-o", taken / "inside")
    assert taken.read_text() == "a file"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["infer", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    wanted = ("--patch", "--measurement", "--poi", "--mu", "--toys", "--impacts", "--scan", "-o", "--seed", "--json")
    assert all(word in text for word in wanted)
