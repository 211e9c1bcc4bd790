"""pyhf JSON in and out, patches, and one line for everything that is wrong."""

import copy
import json

import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose

from diffhep.inference import PatchSet, Workspace, fit, histfactory, read_patchset, read_workspace, specification
from diffhep.inference.workspace import apply_patch


@pytest.fixture
def spec(specs):
    channels, settings, observed = specs.random(5)
    observations, start = [], 0
    for channel in channels:
        bins = len(channel["samples"][0]["data"])
        observations.append({"name": channel["name"], "data": observed[start : start + bins].tolist()})
        start += bins
    measurement = {"name": "m", "config": {"poi": "mu", "parameters": settings}}
    return {"channels": channels, "observations": observations, "measurements": [measurement], "version": "1.0.0"}


def test_what_is_written_is_what_was_read(spec, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(spec))
    workspace = read_workspace(first)
    model, data = workspace.build()
    assert bool(fit(model, data).converged)
    workspace.write(second)
    assert json.loads(second.read_text()) == spec
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.json", "b.json"]


def test_a_model_gives_its_specification_back(spec):
    model, _ = Workspace(spec).build()
    assert specification(model) == spec["channels"]
    again = histfactory(specification(model), parameters=spec["measurements"][0]["config"]["parameters"])
    assert again.structure == model.structure


def test_observed_counts_follow_the_channels_not_the_file_order(spec):
    turned = {**spec, "observations": spec["observations"][::-1]}
    assert_allclose(Workspace(turned).build()[1].counts, Workspace(spec).build()[1].counts)


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")
def test_pyhf_reads_what_we_write(spec, tmp_path):
    path = tmp_path / "w.json"
    Workspace(spec).write(path)
    theirs = pyhf.Workspace(json.loads(path.read_text()))
    model = theirs.model()
    ours, data = Workspace(spec).build()
    assert_allclose(theirs.data(model, include_auxdata=False), data.counts)
    assert set(model.config.par_order) == {n for n, *_ in ours.structure.sets} | {g.name for g in ours.structure.gammas}


def test_patches_make_signal_hypotheses(spec):
    patch = [{"op": "replace", "path": "/channels/0/samples/0/data/0", "value": 7.5}]
    patches = [{"metadata": {"name": "mass_300", "values": [300]}, "patch": patch}]
    patchset = PatchSet({"metadata": {}, "patches": patches, "version": "1.0.0"})
    assert patchset.names == ("mass_300",)
    workspace = Workspace(spec)
    patched = patchset.apply(workspace, "mass_300")
    assert patched.build()[0].nominal[0, 0, 0] == 7.5
    assert workspace.build()[0].nominal[0, 0, 0] != 7.5
    with pytest.raises(ValueError, match="no patch 'mass_400'"):
        patchset["mass_400"]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ([{"op": "add", "path": "/b", "value": 1}], {"a": [1, 2], "b": 1}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2]}),
        ([{"op": "remove", "path": "/a/1"}], {"a": [1]}),
        ([{"op": "replace", "path": "/a", "value": "x"}], {"a": "x"}),
        ([{"op": "replace", "path": "", "value": 5}], 5),
        ([{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1, 2], "b": [1, 2]}),
        ([{"op": "move", "from": "/a/0", "path": "/a/1"}], {"a": [2, 1]}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2]}),
        ([{"op": "add", "path": "/c~1d~0e", "value": 1}], {"a": [1, 2], "c/d~e": 1}),
    ],
)
def test_json_patch_operations_follow_rfc_6902(patch, expected):
    document = {"a": [1, 2]}
    assert apply_patch(document, patch) == expected
    assert document == {"a": [1, 2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/a/2", "value": 0},
        {"op": "add", "path": "/a/4", "value": 0},
        {"op": "add", "path": "/a/01", "value": 0},
        {"op": "test", "path": "/a/0", "value": 9},
        {"op": "turn", "path": "/a"},
        {"op": "add", "path": "a", "value": 0},
        {"op": "add", "path": "/b"},
    ],
)
def test_impossible_patches_are_refused_with_their_number(operation):
    with pytest.raises(ValueError, match="patch operation 0: cannot"):
        apply_patch({"a": [1, 2]}, [operation])


def edit(*path, value):
    """A change of the specification: the path with a new value, or without its last key."""

    def change(spec):
        here = spec
        for key in path[:-1]:
            here = here[key]
        if value is KeyError:
            del here[path[-1]]
        else:
            here[path[-1]] = value

    return change


MODS = ("channels", 0, "samples", 0, "modifiers")
BAD = {
    "no channels": (edit("channels", value=[]), "channels: a list of at least one channel"),
    "missing key": (edit("observations", value=KeyError), "workspace: 'observations' is missing"),
    "version": (edit("version", value="2.0.0"), "version 1.0.0 is wanted, got '2.0.0'"),
    "lengths": (edit("channels", 0, "samples", 1, "data", value=[1.0]), "channel 'c0', sample 's1': 1 bins, wanted"),
    "negative": (edit("channels", 0, "samples", 0, "data", 0, value=-1.0), "channel 'c0', sample 's0': bin 0 is -1.0"),
    "nan": (edit("channels", 0, "samples", 0, "data", 0, value=float("nan")), "bin 0 is nan, wanted a finite number"),
    "text": (edit("channels", 0, "samples", 0, "data", 0, value="x"), "bin 0 is 'x', wanted a finite number"),
    "modifier": (
        edit(*MODS, value=[{"name": "a", "type": "magic", "data": None}]),
        "modifier 'a': unknown type 'magic'; known are normfactor",
    ),
    "normsys": (
        edit(*MODS, value=[{"name": "a", "type": "normsys", "data": {"hi": 1.1, "lo": 0.0}}]),
        r"modifier 'a' \(normsys\): 'lo' is 0.0, wanted a positive factor",
    ),
    "histosys": (
        edit(*MODS, value=[{"name": "a", "type": "histosys", "data": {"hi_data": [1.0], "lo_data": [1.0]}}]),
        r"modifier 'a' \(histosys\) hi_data: 1 bins, wanted",
    ),
    "histosys without data": (
        edit(*MODS, value=[{"name": "a", "type": "histosys"}]),
        r"\(histosys\): 'hi_data' is missing",
    ),
    "lumi": (
        edit("measurements", 0, "config", "parameters", value=[]),
        "the measurement must give 'auxdata' of 'lumi'",
    ),
    "observation": (
        edit("observations", 0, "data", value=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        "observations, channel 'c0'",
    ),
    "no observation": (edit("observations", value=[]), "observations: channel 'c0' is missing"),
    "poi": (
        edit("measurements", 0, "config", "poi", value="kappa"),
        "no parameter 'kappa' to be the parameter of interest",
    ),
    "type of channels": (edit("channels", value=3), "'channels' has the wrong type, int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_workspaces_are_refused_in_one_line_that_names_the_place(spec, name, tmp_path):
    change, words = BAD[name]
    broken = copy.deepcopy(spec)
    change(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=words) as error:
        read_workspace(path).build()
    assert "\n" not in str(error.value)


def test_files_that_are_not_json_are_refused_with_their_name(tmp_path):
    path = tmp_path / "w.json"
    with pytest.raises(ValueError, match=r"w\.json: cannot be read \(No such file"):
        read_workspace(path)
    path.write_text('{"channels": [1,}')
    with pytest.raises(ValueError, match=r"w\.json: not valid JSON \(.* line 1 column"):
        read_workspace(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"w\.json: not"):
        read_workspace(path)
    path.write_text('{"patches": [{"metadata": {}, "patch": []}]}')
    with pytest.raises(ValueError, match=r"w\.json: patches\[0\], metadata: 'name' is missing"):
        read_patchset(path)


def test_measurements_choose_the_parameter_of_interest(spec):
    other = {"name": "n", "config": {"poi": "", "parameters": spec["measurements"][0]["config"]["parameters"]}}
    workspace = Workspace({**spec, "measurements": [*spec["measurements"], other]})
    assert workspace.measurements == ("m", "n")
    assert workspace.build(measurement="n")[0].poi == -1
    assert workspace.build(measurement="n", poi="mu")[0].poi == 0
    with pytest.raises(ValueError, match="no measurement 'o'; the workspace has m, n"):
        workspace.build(measurement="o")


def test_settings_of_a_measurement_are_obeyed(spec):
    settings = [
        *spec["measurements"][0]["config"]["parameters"],
        {"name": "mu", "inits": [2.0], "bounds": [[0.5, 3.0]]},
        {"name": "both0", "fixed": True, "inits": [0.4]},
    ]
    model = histfactory(spec["channels"], parameters=settings)
    k = model.names.index("mu")
    assert (float(model.init[k]), float(model.lower[k]), float(model.upper[k])) == (2.0, 0.5, 3.0)
    assert model.fixed == ("both0",)
    found = fit(model, model.data(np.concatenate([o["data"] for o in spec["observations"]])))
    assert float(found["both0"]) == 0.4
    with pytest.raises(ValueError, match=r"parameter 'mu': start 9.0 outside its bounds \(0.5, 3.0\)"):
        histfactory(
            spec["channels"],
            parameters=[
                spec["measurements"][0]["config"]["parameters"][0],
                {"name": "mu", "inits": [9.0], "bounds": [[0.5, 3.0]]},
            ],
        )


def test_data_of_the_wrong_length_or_sign_is_refused(specs):
    s, b, db, _ = specs.yields(2)
    model = histfactory(specs.counting(s, b, db))
    with pytest.raises(ValueError, match=r"data: 2 counts are wanted, got shape \(3,\)"):
        model.data(np.ones(3))
    with pytest.raises(ValueError, match=r"data: bin 1 has -2\.0 counts"):
        model.data(np.array([1.0, -2.0]))
