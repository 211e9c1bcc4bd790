"""Export to hls4ml and its proof: the C simulation is the oracle, and whatever was altered is noticed."""

import contextlib
import ctypes
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.export import export, layer_list, write_project
from diffhep.trigger.fixed_point import FixedPoint, decode
from diffhep.trigger.project import compare_files
from diffhep.trigger.proof import random_inputs
from diffhep.trigger.quantised import LayerFormat, QuantisedClassifier, quantised
from diffhep.trigger.verify import verify

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing: firmware NOT simulated")


def make(sizes, *, bits, seed=0):
    """A network with the ranges of a trained one: standardised features, activations of order 1."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(500, sizes[0])) + rng.normal(size=sizes[0])) * np.ldexp(1.0, rng.integers(-3, 6, sizes[0]))
    classifier = DenseClassifier.init(sizes, key=jax.random.key(seed)).standardised_to(x)
    formats = {"input_format": FixedPoint(1, 3, bits - 4), "weight_bits": bits, "activation_bits": bits}
    return quantised(classifier, calibration_inputs=x, **formats), x


@pytest.fixture(scope="module")
def model():
    return make((12, 16, 8, 1), bits=12)[0]


@pytest.fixture(scope="module")
def project(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "firmware"
    export(model, folder, metadata={"seed": 0, "data": "normal"})
    return folder


@pytest.fixture
def copy(project, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(project, tmp_path / "moved" / "elsewhere"))


# the proof ------------------------------------------------------------------------------------------------------------


@needs_compiler
def test_simulation_of_a_moved_project_equals_the_integers(copy, model):
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    events = np.random.default_rng(1).normal(size=(100, 12)) * np.ldexp(1.0, model.exponents)
    lines = []
    report = verify(copy, n=30_000, seed=3, inputs=events, progress=lines.append)
    assert (report["inputs"], report["outputs"]) == (30_100, 30_100)
    assert (report["mismatches"], report["max_difference"]) == (0, 0.0)
    assert set(report["seconds"]) == {"generate", "compile", "simulate", "integers"}
    assert report["tools"]["hls4ml"].startswith("1.3")
    assert report["files"] == len(generated(copy))
    assert any("comparing inputs 1 to 30000 of 30100" in line for line in lines)
    # nothing was compiled, or left, in the project itself
    assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before
    json.dumps(report)


def generated(folder):
    ours = {"classifier.json", "model_card.json", "README.md"}
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ours]


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


def card(folder):
    return json.loads((folder / "model_card.json").read_text())


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


# what is written ------------------------------------------------------------------------------------------------------


def test_the_same_classifier_gives_the_same_bytes_elsewhere(project, model, tmp_path):
    export(model, tmp_path / "b", metadata={"seed": 0, "data": "normal"})
    ours = {path.relative_to(project): path.read_bytes() for path in project.rglob("*") if path.is_file()}
    again = {
        path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()
    }
    assert again == ours
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_project_names_no_folder_of_this_machine(project):
    for path in generated(project):
        if "ap_types" not in path.parts and "nnet_utils" not in path.parts:
            assert str(project.parent) not in path.read_text(encoding="utf-8")


def test_card_and_readme_say_what_a_user_needs(project, model):
    text = (project / "README.md").read_text()
    for word in (
        str(model.output_format),
        f"bit is {model.output_format.lsb}, the range",
        str(model.input_format),
        "5 ns",
        "vitis-run",
        "12 words of 12 bits",
    ):
        assert word in text
    for format in model.feature_formats():
        assert f"`{format}`" in text
    content = card(project)
    assert content["metadata"] == {"seed": 0, "data": "normal"}
    assert content["sha256"] in text
    assert [layer["output"] for layer in content["layers"]] == [str(layer.output) for layer in model.formats]
    assert set(content["versions"]) == {"diffhep", "hls4ml", "jax", "numpy", "python"}
    restored = QuantisedClassifier.from_dict(json.loads((project / "classifier.json").read_text()))
    x = np.random.default_rng(0).normal(size=(50, 12))
    np.testing.assert_array_equal(restored.integers(x), model.integers(x))


def test_types_in_the_firmware_are_those_of_the_classifier(project, model):
    text = (project / "firmware" / "defines.h").read_text()
    types = {name: type for type, name in re.findall(r"typedef (\S+) (\w+);", text)}
    assert FixedPoint.parse(types["x_t"]) == model.input_format
    assert FixedPoint.parse(types["relu0_t"]) == model.formats[0].output
    assert FixedPoint.parse(types["result_t"]) == model.output_format
    for number in range(3):
        assert FixedPoint.parse(types[f"dense{number}_accum_t"]).width <= model.accumulator(number).width


def test_export_imports_no_keras_and_prints_nothing(tmp_path):
    # in a fresh interpreter, at the level of file descriptors
    code = (
        "import sys, jax, jax.numpy as jnp; jax.config.update('jax_enable_x64', True)\n"
        "from diffhep.trigger import DenseClassifier, quantised\n"
        "from diffhep.trigger.fixed_point import FixedPoint\n"
        "from diffhep.trigger.export import export\n"
        "assert 'hls4ml' not in sys.modules\n"
        "net = DenseClassifier.init((2, 1), key=jax.random.key(0))\n"
        "options = dict(input_format=FixedPoint(1, 3, 4), weight_bits=6, activation_bits=6)\n"
        "export(quantised(net, calibration_inputs=jnp.eye(2), **options), sys.argv[1])\n"
        "assert 'hls4ml' in sys.modules\n"
        "found = {'keras', 'tensorflow', 'torch', 'onnx', 'qonnx'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out" / "firmware" / "trigger.cpp").is_file()


def test_layers_are_plain_dictionaries_with_transposed_weights(model):
    layers = layer_list(model)
    assert [layer["class_name"] for layer in layers] == ["InputLayer", "FixedPointQuantizer"] + 2 * [
        "Dense",
        "Activation",
        "FixedPointQuantizer",
    ] + ["Dense", "FixedPointQuantizer"]
    assert layers[2]["weight_data"].shape == (12, 16)
    np.testing.assert_array_equal(layers[2]["weight_data"], np.asarray(model.frozen().weights[0]).T)
    k, width, integer = layers[1]["mask_kbi"]
    assert (k.tolist(), width.tolist(), integer.tolist()) == ([1], [12], [4])


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "int"}, "C\\+\\+ identifier that is no keyword, got 'int'"),
        ({"name": "a; rm"}, "C\\+\\+ identifier"),
        ({"name": "../x"}, "C\\+\\+ identifier"),
        ({"clock_period_ns": 0.0}, "clock period must lie above 0 .* got 0.0 ns"),
        ({"clock_period_ns": float("nan")}, "got nan ns"),
        ({"part": "xc[exec ls]"}, "part must be a part number"),
        ({"metadata": {"loss": float("nan")}}, "metadata cannot be written as JSON"),
        ({"metadata": {"net": object()}}, "metadata cannot be written as JSON"),
    ],
)
def test_bad_settings_leave_nothing_behind(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        export(model, tmp_path / "deep" / "out", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_refused_and_kept(model, tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(model, tmp_path)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(model, tmp_path / "precious.txt")
    assert (tmp_path / "precious.txt").read_text() == "data"
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "classifier.json").is_file()


def test_an_interrupted_export_leaves_nothing_behind(model, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        write_project(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["diffhep.trigger.export"], "write_project", fails)
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_always_rounded_to_zero_is_refused(tmp_path):
    # hls4ml 1.3 would give its output one bit, and the C simulation would differ
    tiny, out = FixedPoint(1, -6, 13), FixedPoint(1, 5, -3)
    formats = (LayerFormat(tiny, tiny, out),)
    model = QuantisedClassifier((jnp.full((1, 2), 1e-3),), (jnp.zeros(1),), (0, 0), FixedPoint(1, 3, 4), formats)
    with pytest.raises(ValueError, match="layer 0 never reaches half of 8, the step of its output"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("modes", [("RND_CONV", "SAT"), ("TRN", "SAT_ZERO")])
def test_modes_that_hls4ml_does_not_follow_are_refused(tmp_path, modes):
    format = FixedPoint(1, 2, 3)
    formats = (LayerFormat(format, format, FixedPoint(1, 4, 2, *modes)),)
    model = QuantisedClassifier((jnp.ones((1, 2)),), (jnp.zeros(1),), (0, 0), format, formats)
    with pytest.raises(ValueError, match=r"hls4ml 1.3 is bit-exact for .* only, got ap_fixed<7,5,AP_.*; `export_rtl`"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


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
        (lambda f: append(f / "build_lib.sh", "rm -rf /tmp/nothing\n"), "build_lib.sh differs"),
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
