"""The proof of an hls4ml project: the C simulation is the oracle, and whatever was altered is noticed."""

import contextlib
import ctypes
import io
import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.trigger.export import export, write_project
from diffhep.trigger.fixed_point import FixedPoint, decode
from diffhep.trigger.project import compare_files
from diffhep.trigger.proof import random_inputs
from diffhep.trigger.quantised import LayerFormat, QuantisedClassifier
from diffhep.trigger.verify import verify
from tests.trigger.firmware import card, generated, needs_compiler


@needs_compiler
def test_simulation_of_a_moved_project_equals_the_integers(copy, model):
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    events = np.random.default_rng(1).normal(size=(100, 12)) * np.ldexp(1.0, model.exponents)
    lines = []
    report = verify(copy, n=30_000, seed=3, inputs=events, progress=lines.append)
    assert (report["inputs"], report["outputs"]) == (30_100, 30_100)
    assert (report["mismatches"], report["max_difference"]) == (0, 0.0)
    assert set(report["seconds"]) == {"generate", "compile C++", "run hls", "function"}
    assert report["tools"]["hls4ml"].startswith("1.3")
    assert report["files"] == len(generated(copy))
    assert any("comparing inputs 1 to 30100 of 30100" in line for line in lines)
    # nothing was compiled, or left, in the project itself
    assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before
    json.dumps(report)


@needs_compiler
def test_every_mode_and_a_zero_layer_survive_the_export(tmp_path):
    rng = np.random.default_rng(2)
    shapes = ((5, 3), (4, 5), (2, 4))
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    weights[1] = weights[1].at[2].set(0.0)
    biases = tuple(jnp.asarray(rng.normal(size=shape[0])) for shape in shapes)
    wrap, trn = FixedPoint(1, 1, 3, "TRN", "WRAP"), FixedPoint(0, 1, 4, "TRN", "SAT")
    out = FixedPoint(1, 1, 4, "RND", "SAT_SYM")
    formats = tuple(LayerFormat(FixedPoint(1, 2, 5), FixedPoint(1, 2, 7), f) for f in (wrap, trn, out))
    model = QuantisedClassifier(tuple(weights), biases, (3, -2, 0), FixedPoint(1, 2, 6, "TRN", "WRAP"), formats)
    export(model, tmp_path / "modes", name="odd_modes", clock_period_ns=2.5)
    report = verify(tmp_path / "modes", n=5_000)
    assert report["mismatches"] == 0
    assert report["outputs"] == 10_000
    # the comparison was not one of constants: most of the 64 words of the output occur
    x = rng.normal(size=(5000, 3)) * np.array([8.0, 0.25, 1.0])
    assert len(np.unique(np.asarray(model.integers(x)))) > 32


@needs_compiler
@pytest.mark.slow
def test_the_projects_own_script_builds_a_library_that_predicts_the_same(copy, model, tmp_path):
    subprocess.run(["./build_lib.sh"], cwd=copy, check=True, capture_output=True)
    (library,) = (copy / "firmware").glob("*.so")
    array = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    predict = ctypes.CDLL(str(library)).trigger_double
    predict.restype, predict.argtypes = None, [array, array]
    scaled = random_inputs(np.random.default_rng(0), 500, [model.input_format] * model.inputs)
    logits = np.zeros((500, 1))
    for event, logit in zip(scaled, logits, strict=True):
        predict(event, logit)
    codes = model.integers(np.ldexp(scaled, model.exponents))
    np.testing.assert_array_equal(logits, decode(codes, model.output_format))
    # the library left behind does not make the project another one
    settings = {key: card(copy)[key] for key in ("name", "clock_period_ns", "part")}
    write_project(model, tmp_path / "again", **settings)
    assert compare_files(copy, tmp_path / "again", code="firmware", source="it", written_with={}) > 90


def test_words_that_differ_are_counted(project, model, monkeypatch):
    # the comparison itself must be able to fail: one simulated word is one step too high
    def simulate(program, scaled, outputs):
        logits = np.array(decode(model.integers(np.ldexp(scaled, model.exponents)), model.output_format))
        logits[7] += model.output_format.lsb
        return logits

    module = sys.modules["diffhep.trigger.verify"]
    monkeypatch.setattr(module, "compile_simulation", lambda *arguments: None)
    monkeypatch.setattr(module, "simulate", simulate)
    report = verify(project, n=50)
    assert report["mismatches"] == 1
    assert report["max_difference"] == model.output_format.lsb


def test_random_inputs_cover_the_range_its_corners_ties_and_what_lies_beyond():
    format = FixedPoint(1, 3, 5)
    x = random_inputs(np.random.default_rng(0), 20_000, [format] * 4)
    codes = x * 32
    assert set(np.arange(-256, 256)) <= set(codes[codes == np.round(codes)].astype(int).tolist())
    assert (np.mod(codes, 1) == 0.5).mean() > 0.05
    assert (codes > 255.5).any()
    assert (codes < -257).any()
    corners = np.isin(codes, (-256.0, 255.0)).all(axis=1)
    assert len(np.unique(codes[corners], axis=0)) == 16
    assert x[:3].tolist() == [[0.0] * 4, [-8.0] * 4, [format.maximum] * 4]


# refusals -------------------------------------------------------------------------------------------------------------


def append(path, text):
    path.write_text(path.read_text() + text)


def swap_weight(folder):
    path = folder / "firmware" / "weights" / "w3.txt"
    first, *rest = path.read_text().split(", ")
    path.write_text(", ".join([str(float(first) + 0.125), *rest]))


def change_code(folder):
    path = folder / "classifier.json"
    data = json.loads(path.read_text())
    data["layers"][0]["bias_codes"][0] += 1
    path.write_text(json.dumps(data))


def change_card(folder, **entries):
    (folder / "model_card.json").write_text(json.dumps(card(folder) | entries))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swap_weight, r"firmware/weights/w3.txt differs; export it again"),
        (lambda f: append(f / "firmware" / "trigger.cpp", "// x\n"), "firmware/trigger.cpp differs"),
        (lambda f: append(f / "build_lib.sh", "echo changed\n"), "build_lib.sh differs"),
        (lambda f: (f / "firmware" / "ap_fixed.h").write_text(""), "firmware/ap_fixed.h was added"),
        (lambda f: (f / "trigger_bridge.cpp").unlink(), "trigger_bridge.cpp is missing"),
        (lambda f: shutil.rmtree(f / "firmware"), r"is missing \(and \d+ more\)"),
        (change_code, "does not have the SHA-256 that model_card.json gives"),
        (lambda f: change_card(f, part="xc7"), "differs"),
        (lambda f: change_card(f, name="evil; x"), "name must be a lower-case"),
        (lambda f: change_card(f, clock_period_ns=None), "clock period must lie above 0"),
        (lambda f: change_card(f, schema="other"), "not a model card of version 1"),
        (lambda f: (f / "model_card.json").write_text("[]"), "not a model card of version 1"),
        (lambda f: (f / "model_card.json").unlink(), "not an exported trigger project, it has no model_card.json"),
        (lambda f: (f / "classifier.json").write_text("{"), "classifier.json: not valid JSON"),
        (lambda f: (f / "classifier.json").write_text("{}"), "missing keys"),
    ],
)
def test_an_altered_project_is_refused_before_it_runs(copy, spoil, message, monkeypatch):
    spoil(copy)
    monkeypatch.setattr(sys.modules["diffhep.trigger.verify"], "compile_simulation", None)
    with pytest.raises(ValueError, match=message) as caught:
        verify(copy, n=10)
    assert "\n" not in str(caught.value)


def test_another_version_of_hls4ml_is_named(copy):
    versions = card(copy)["versions"] | {"hls4ml": "1.2.0"}
    change_card(copy, versions=versions)
    append(copy / "firmware" / "trigger.h", "\n")
    with pytest.raises(ValueError, match=r"it was written with hls4ml 1.2.0, this is 1.3.\d"):
        verify(copy, n=10)


def test_files_that_synthesis_adds_do_not_matter(copy, monkeypatch):
    (copy / "trigger_prj").mkdir()
    (copy / "vitis_hls.log").write_text("INFO")

    class Reached(Exception):
        pass

    def reached(*arguments):
        raise Reached

    monkeypatch.setattr(sys.modules["diffhep.trigger.verify"], "compile_simulation", reached)
    with pytest.raises(Reached):
        verify(copy, n=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "positive integer, got 0"),
        ({"n": -1}, "positive integer, got -1"),
        ({"n": 1.5}, "positive integer, got 1.5"),
        ({"inputs": np.ones((3, 2))}, r"verify: inputs: an array of shape \(events, 12\) wanted, got \(3, 2\)"),
        ({"inputs": np.full((1, 12), np.nan)}, "feature 0 of event 0 is not finite"),
    ],
)
def test_bad_inputs_are_refused(project, options, message):
    with pytest.raises(ValueError, match=message):
        verify(project, **options)


def test_a_folder_that_is_no_project_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"not an exported trigger project, it has no classifier\.json"):
            verify(folder)


def test_a_missing_compiler_is_named_with_its_package(project, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"install the package g\+\+"):
        verify(project, n=10)


def test_a_compiler_that_fails_is_quoted(project, monkeypatch, tmp_path):
    fake = tmp_path / "g++"
    fake.write_text("#!/bin/sh\necho 'driver.cpp:1: error: out of luck' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError, match=r"g\+\+ failed on the C simulation of trigger: .*error: out of luck"):
        verify(project, n=10)


def test_a_simulation_that_crashes_is_reported(project, monkeypatch, tmp_path):
    # a compiler whose programs write one wrong line and no output
    fake = tmp_path / "g++"
    fake.write_text(
        "#!/bin/sh\nprintf '#!/bin/sh\\necho no weights >&2\\nexit 1\\n' > simulation; chmod +x simulation\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ValueError, match="the C simulation failed: no weights"):
        verify(project, n=10)


def test_verification_writes_nothing_to_standard_output(project, monkeypatch):
    monkeypatch.setattr(sys.modules["diffhep.trigger.verify"], "compile_simulation", lambda *a: 1 / 0)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(ZeroDivisionError):
        verify(project, n=10)
    assert out.getvalue() == ""
