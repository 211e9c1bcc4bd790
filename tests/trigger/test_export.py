"""Export to hls4ml: what is written, and what is refused."""

import json
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.trigger.export import export, layer_list, write_project
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.quantised import LayerFormat, QuantisedClassifier
from tests.trigger.firmware import card, generated

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
