"""Both routes from one traced function: JAX, C simulation and Verilog agree, and whatever is wrong is named."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.trigger import FixedPoint, Words, export_function, export_hls, export_rtl, quantise_kif, verify, verify_hls
from diffhep.trigger.hls import array_types, common_type
from diffhep.trigger.lowering import trace
from diffhep.trigger.routes import verify_function
from tests.trigger.programs import program
from tests.trigger.test_learned import network
from tests.trigger.test_rtl import several

pytestmark = pytest.mark.needs("da4ml")
WORD = FixedPoint(1, 2, 3, "TRN", "WRAP")
MIXED = Words((2, 2), [[FixedPoint(0, 2, 1), FixedPoint(1, 0, 7)], [WORD, FixedPoint(1, -2, 6, "RND", "SAT_SYM")]])
CLASSIFIER, _ = network((5, 6, 3))


def both(x, mixed, random):
    """A network with a format for every weight; words of several formats; a table, a bit, an index, constants."""
    made, _ = program(11, 9)
    logits = CLASSIFIER.logits(x)
    tanh = quantise_kif(jnp.tanh(mixed), 1, 0, 5, "RND_CONV", "SAT")
    return (
        logits,
        {"best": jnp.argmax(logits), "even": mixed[0, 0] == 0.5},
        (tanh.at[1, 1].set(-0.75), 1.5),
        made(random),
    )


INPUTS = Words((5,), CLASSIFIER.input_format), MIXED, program(11, 9)[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routes") / "firmware"
    export_function(
        both, folder, inputs=INPUTS, name="both", clock_period_ns=5, levels_per_stage=4, metadata={"seed": 0}
    )
    return folder


@pytest.fixture
def copy(project, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(project, tmp_path / "moved" / "elsewhere"))


def card(folder):
    return json.loads((folder / "model_card.json").read_text())


# the proof ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.needs("g++", "verilator")
def test_three_computations_of_every_word_agree(copy):
    before = {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))}
    events = [np.random.default_rng(1).normal(size=(77, *words.shape)) * 3 for words in INPUTS]
    lines = []
    report = verify_function(copy, both, n=20_000, inputs=events, synthesis=False, progress=lines.append)
    assert report["comparisons"] == {"jax, hls": 0, "jax, rtl": 0, "hls, rtl": 0}
    assert (report["mismatches"], report["max_difference"], report["missing"]) == (0, 0.0, {})
    assert (report["inputs"], report["outputs"]) == (20_077, 20_077 * (3 + 2 + 4 + 1 + 40))
    assert report["files"] > 90
    assert any("comparing inputs 1 to 20077 of 20077" in line for line in lines)
    # nothing was compiled, or left, in the project itself
    assert {path: path.stat().st_mtime_ns for path in sorted(copy.rglob("*"))} == before
    json.dumps(report)


@pytest.mark.long
@pytest.mark.needs("g++")
@pytest.mark.parametrize("part", range(12))
def test_a_hundred_random_functions_are_exact_as_c_simulation(part, tmp_path):
    function, words = several(*((5000 + 8 * part + n, 10) for n in range(8)))
    export_hls(function, tmp_path / "p", inputs=words)
    report = verify_hls(tmp_path / "p", function, n=20_000)
    assert report["mismatches"] == 0
    assert report["outputs"] == 20_000 * 8 * 11 * 4


def test_words_that_differ_are_counted(project, monkeypatch):
    # the comparison itself must be able to fail: one simulated word of one event is one step too high
    reference = sys.modules["diffhep.trigger.comparison"].compiled(both, INPUTS)

    def simulate(program, values, outputs):
        formats = [format for words in INPUTS for format in words.formats().ravel()]
        found = reference(sys.modules["diffhep.trigger.comparison"].encode_words(values, formats))
        assert found.shape[1] == outputs
        found[7, 3] += 2.0**-5
        return found

    module = sys.modules["diffhep.trigger.verify_hls"]
    monkeypatch.setattr(module, "compile_simulation", lambda *arguments: None)
    monkeypatch.setattr(module, "find_compiler", lambda: "g++")
    monkeypatch.setattr(module, "gxx_version", lambda compiler: "12")
    monkeypatch.setattr(module, "simulate", simulate)
    report = verify_hls(project / "hls", both, n=50)
    assert (report["mismatches"], report["max_difference"]) == (1, 2.0**-5)
    assert report["comparisons"] == {"jax, hls": 1}


def test_without_a_compiler_the_logic_is_interpreted_and_the_compiler_named(project, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    report = verify_function(project, both, n=2000)
    assert report["comparisons"] == {"jax, netlist": 0}
    assert report["outputs"] == 2000 * 50
    assert report["missing"]["g++"] == "install the package g++ (Debian) or gcc-c++ (Fedora)"
    assert report["files"] > 90
    (tmp_path / "alone").mkdir()
    shutil.copytree(project / "rtl", tmp_path / "alone" / "rtl")
    assert verify_function(tmp_path / "alone", both, n=10)["files"] < report["files"]
    with pytest.raises(ValueError, match=r"g\+\+ not found, it compiles the simulations: install the package g\+\+"):
        verify_hls(project / "hls", both, n=10)


# what is written ------------------------------------------------------------------------------------------------------


def test_one_array_for_each_argument_and_result_in_the_narrowest_type(project):
    text = (project / "hls" / "firmware" / "defines.h").read_text()
    types = {name: type for type, name in re.findall(r"typedef (\S+) (\w+);", text)}
    assert types == {
        "x0_t": "ap_fixed<10,4,AP_RND,AP_SAT,0>",
        "x1_t": "ap_fixed<10,3>",
        "x2_t": types["x2_t"],
        **{f"y{number}_t": array["type"] for number, array in enumerate(card(project / "hls")["outputs"])},
    }
    assert types["y1_t"] == "ap_ufixed<2,2>"
    assert types["y2_t"] == "ap_ufixed<1,1>"
    header = (project / "hls" / "firmware" / "both.h").read_text()
    assert "x0_t x0[5], x1_t x1[2*2], x2_t x2[4]" in header
    code = (project / "hls" / "firmware" / "nnet_utils" / "nnet_code_gen.h").read_text()
    assert "y3[3] = -0.75;" in code
    assert "= ap_ufixed<3,2>(x1[0]);" in code


@pytest.mark.parametrize(
    ("kif", "type"),
    [
        ([(1, 2, 3), (0, 4, 1)], "ap_fixed<8,5>"),
        ([(0, -2, 6), (0, 0, 0)], "ap_ufixed<4,-2>"),
        ([(0, 5, -3)], "ap_ufixed<2,5>"),
        ([(0, 0, 0)], "ap_ufixed<1,1>"),
    ],
)
def test_the_common_type_holds_every_format(kif, type):
    assert common_type(np.array(kif)) == type


@pytest.mark.parametrize(
    ("constants", "type"),
    [
        ([0.0, 0.0], "ap_ufixed<1,1>"),
        ([-2.0, 0.75], "ap_fixed<4,2>"),
        ([0.1, 0.0], "ap_ufixed<52,-3>"),
        ([2.0**40, 1.0], "ap_ufixed<41,41>"),
    ],
)
def test_constant_results_have_a_type_that_holds_them(constants, type):
    traced = trace(lambda x: (x, jnp.array(constants)), Words((1,), WORD))
    assert array_types(traced)[1][1] == type


def test_the_same_function_gives_the_same_bytes_elsewhere(project, tmp_path):
    # in a fresh interpreter: nothing may depend on what was exported before, or on random names
    code = (
        "import sys, jax; jax.config.update('jax_enable_x64', True)\n"
        "from tests.trigger.test_routes import INPUTS, both\n"
        "from diffhep.trigger import export_function\n"
        "settings = dict(name='both', clock_period_ns=5, levels_per_stage=4, metadata={'seed': 0})\n"
        "export_function(both, sys.argv[1], inputs=INPUTS, **settings)\n"
        "found = {'keras', 'tensorflow', 'torch', 'onnx', 'qonnx'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    files = lambda folder: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files(tmp_path / "b") == files(project)


def test_card_and_readme_say_what_a_user_needs(project):
    content, text = card(project / "hls"), (project / "hls" / "README.md").read_text()
    assert [array["shape"] for array in content["inputs"]] == [[5], [2, 2], [4]]
    assert [word["type"] for word in content["inputs"][1]["words"]] == [str(f) for f in MIXED.formats().ravel()]
    assert content["outputs"][4]["words"] == [{"constant": 1.5}]
    assert content["metadata"] == {"seed": 0}
    assert set(content["versions"]) == {"diffhep", "hls4ml", "da4ml", "jax", "numpy", "python"}
    mixed = "| x1 | 2 x 2 | `ap_fixed<10,3>` |\n| x1[0] | | `ap_ufixed<3,2,AP_RND,AP_SAT>` |"
    for word in (content["sha256"], mixed, "| y4[0] | | always 1.5 |", "5 ns", "vitis-run", "Apache License"):
        assert word in text
    for path in (project / "hls").rglob("*"):
        if path.is_file() and not {"ap_types", "nnet_utils"} & set(path.parts):
            assert str(project.parent) not in path.read_text(encoding="utf-8")


# refusals -------------------------------------------------------------------------------------------------------------


def append(path, text):
    path.write_text(path.read_text() + text)


def change_card(folder, **entries):
    (folder / "model_card.json").write_text(json.dumps(card(folder) | entries))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: append(f / "hls" / "firmware" / "both.cpp", "// x\n"), "firmware/both.cpp differs; export it again"),
        (lambda f: (f / "hls" / "firmware" / "ap_fixed.h").write_text(""), "firmware/ap_fixed.h was added"),
        (lambda f: append(f / "hls" / "build_lib.sh", "echo\n"), "build_lib.sh differs"),
        (lambda f: append(f / "rtl" / "src" / "both.v", "// x\n"), "src/both.v differs"),
        (lambda f: change_card(f / "hls", levels=1), "levels is not that of the function"),
        (lambda f: change_card(f / "hls", name="x0"), "'x0' is that of an array or function in the C"),
        (lambda f: change_card(f / "hls", schema="other"), "not a hls card of version 1"),
        (
            lambda f: change_card(f / "hls", inputs=[{"shape": [1], "words": [{"type": "int"}]}]),
            "inputs not understood",
        ),
        (lambda f: [shutil.rmtree(f / route) for route in ("hls", "rtl")], "holds neither hls nor rtl"),
    ],
)
def test_altered_projects_are_refused_before_they_run(copy, spoil, message, monkeypatch):
    spoil(copy)
    monkeypatch.setattr(sys.modules["diffhep.trigger.verify_hls"], "compile_simulation", None)
    with pytest.raises(ValueError, match=message) as caught:
        verify_function(copy, both, n=10, synthesis=False)
    assert "\n" not in str(caught.value)


def test_the_project_of_another_function_is_refused_and_its_prover_named(project):
    other = lambda x, mixed, random: both(x + CLASSIFIER.input_format.lsb, mixed, random)
    with pytest.raises(ValueError, match="is not that of the function"):
        verify_function(project, other, n=10)
    with pytest.raises(
        ValueError, match=r"the hls4ml project of a function; prove it with diffhep\.trigger\.verify_hls"
    ):
        verify(project / "hls")


@pytest.mark.parametrize("export", [export_hls, export_rtl, export_function])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.abs(jnp.fft.rfft(x)), r"fft cannot be exported: it has no rule in logic \(test_routes.py:\d+"),
        (lambda x: jnp.zeros(2), "no output depends on an input"),
    ],
)
def test_what_cannot_be_logic_is_refused_by_all_routes_alike(export, function, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        export(lambda x: function(x), tmp_path / "deep" / "out", inputs=Words((2,), WORD))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_hls, export_function])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "y12"}, "'y12' is that of an array"),
        ({"name": "traced_logic"}, "'traced_logic' is that of an array or function"),
        ({"name": "x0_t"}, "'x0_t' is that of an array"),
        ({"name": "ap_fixed"}, "'ap_fixed' is that of an array or function"),
        ({"name": "int"}, "no keyword, got 'int'"),
        ({"clock_period_ns": 0.0}, "clock period must lie above 0"),
        ({"part": "xc[exec ls]"}, "part must be a part number"),
        ({"metadata": {"loss": float("nan")}}, "metadata cannot be written as JSON"),
        ({"inputs": Words((2,), FixedPoint(1, 30, 10))}, "too wide: at most 32 bits"),
    ],
)
def test_bad_settings_leave_nothing_behind(export, options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        export(jnp.abs, tmp_path / "deep" / "out", **({"inputs": Words((2,), WORD)} | options))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_hls, export_function])
@pytest.mark.parametrize(
    ("number", "words"), [(np.inf, "fixed point"), (np.nan, "fixed point"), (2.0**70, "64 bits"), (2.0**-70, "64 bits")]
)
def test_a_constant_that_no_word_holds_is_refused(export, number, words, tmp_path):
    with pytest.raises(ValueError, match=f"an output is always .*, which no word of {words}"):
        export(lambda x: (x, number), tmp_path / "deep" / "out", inputs=Words((2,), WORD))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_hls, export_rtl, export_function])
def test_an_output_without_words_is_refused(export, tmp_path):
    with pytest.raises(ValueError, match=r"an output of shape \(0,\) holds nothing"):
        export(lambda x: (x, x[:0]), tmp_path / "out", inputs=Words((2,), WORD))
    assert list(tmp_path.iterdir()) == []


def test_a_long_path_leaves_no_trace_in_the_project(tmp_path):
    # hls4ml's record of it goes on over several lines
    folder = tmp_path / ("a folder with a long name and spaces " * 3) / "another one" / "p"
    export_hls(jnp.abs, folder, inputs=Words((2,), WORD))
    text = (folder / "hls4ml_config.yml").read_text()
    assert "spaces" not in text
    assert "part" not in "".join(line for line in text.splitlines() if line.startswith("  "))
    assert "OutputDir: ." in text


def test_without_verilator_the_logic_alone_is_interpreted(tmp_path, monkeypatch):
    # only the Verilog is there, and nothing to run it
    export_function(jnp.abs, tmp_path / "both", inputs=Words((2,), WORD))
    shutil.rmtree(tmp_path / "both" / "hls")
    monkeypatch.setattr(sys.modules["diffhep.trigger.verify_rtl"], "find_verilator", lambda: None)
    report = verify_function(tmp_path / "both", jnp.abs, n=100, synthesis=False)
    assert report["comparisons"] == {"jax, netlist": 0}
    assert "verilator" in report["missing"]


@pytest.mark.parametrize("export", [export_hls, export_function])
def test_a_folder_with_content_is_refused_and_kept(export, tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(jnp.abs, tmp_path, inputs=Words((2,), WORD))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_without_da4ml_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "da4ml", None)
    with pytest.raises(ValueError, match=r"needs da4ml: pip install 'diffhep\[fpga\]'"):
        export_hls(jnp.abs, tmp_path / "deep" / "out", inputs=Words((2,), WORD))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["hls", "rtl"])
def test_an_interrupted_export_leaves_nothing_behind(module, tmp_path, monkeypatch):
    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[f"diffhep.trigger.{module}"], "readme", fails)
    with pytest.raises(KeyboardInterrupt):
        export_function(jnp.abs, tmp_path / "out", inputs=Words((2,), WORD))
    assert list(tmp_path.iterdir()) == []
