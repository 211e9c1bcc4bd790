"""Proof that an exported project computes what the classifier computes, bit for bit.

`verify` reads `classifier.json` of a project, generates the project again and compares every file with the one found: a
project that was altered, or that belongs to other weights, is refused before any of its code runs. Then it compiles the
C simulation with g++, in a folder of its own, and compares its outputs with integer arithmetic in JAX. Where there is
Verilog in the project, that runs too (`diffhep.trigger.verify_rtl`), on the same inputs: three ways to the same words.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffhep.trigger.checks import check_inputs
from diffhep.trigger.export import (
    CARD_SCHEMA,
    CARD_VERSION,
    CLASSIFIER,
    RTL,
    classifier_logic,
    weights_hash,
    write_project,
)
from diffhep.trigger.fixed_point import decode, require_x64
from diffhep.trigger.project import CARD, compare_files, read_card, read_part
from diffhep.trigger.proof import BATCH, Tally, check_number, find_compiler, gxx_version, random_inputs, timed
from diffhep.trigger.quantised import QuantisedClassifier
from diffhep.trigger.rtl import RTL_SCHEMA
from diffhep.trigger.verify_rtl import INSTALL, Logic

# One translation unit, whose headers are parsed once, and a program of its own: hls4ml's library would be called event
# by event from Python, would write to our standard output and could not be unloaded.
DRIVER = """\
#include "firmware/{name}.cpp"
#include "{name}_bridge.cpp"
#include <cstdio>
#include <vector>

int main(int, char **argv) {{
    std::vector<double> x({inputs}), y({outputs});
    FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (!in || !out) return 2;
    while (std::fread(x.data(), sizeof(double), x.size(), in) == x.size()) {{
        {name}_double(x.data(), y.data());
        if (std::fwrite(y.data(), sizeof(double), y.size(), out) != y.size()) return 3;
    }}
    return std::fclose(in) || std::fclose(out) ? 4 : 0;
}}
"""


def verify(
    folder: str | Path,
    *,
    n: int = 100_000,
    seed: int = 0,
    inputs: Float[np.ndarray, "event in"] | None = None,
    synthesis: bool = True,
    timing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the C simulation of an exported project, and its Verilog if it has any, with integer arithmetic.

    The random inputs cover the whole input range: all codes with equal probability, corners where every input is at an
    end of its range, words off the grid (ties among them) and words outside the range.

    Args:
        folder: an exported project.
        n: number of random inputs.
        seed: of the random inputs.
        inputs: events to be compared in addition, features in their units.
        synthesis: also count the lookup tables and flip-flops of the Verilog with yosys, where it is installed.
        timing: also place and route the Verilog with nextpnr, where it is installed; a minute or two.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words on which not all ways agree),
        `max_difference` (largest difference of two ways, in units of the logit), `comparisons` (words that differ, for
        each two of jax, hls and rtl), `files` (generated files found unaltered), `synthesis` and `timing` (of the
        Verilog, or None), `missing` (programs that are not there, and how to get them: what needs them was left out),
        `seconds` (of each step) and `tools` (versions).

    Raises:
        ValueError: the folder is no exported project or was altered, g++ is missing or fails, `inputs` do not fit, or
            JAX is not in 64-bit mode.

    >>> verify("firmware")["mismatches"]  # doctest: +SKIP
    0
    """
    require_x64("verify")
    folder, say = Path(folder), progress or (lambda line: None)
    model, card = read_project(folder)
    check_number(n, inputs is not None)
    extra = None if inputs is None else check_inputs(inputs, model.inputs, "verify: inputs")
    compiler = find_compiler()

    seconds: dict[str, float] = {}
    tally, logic, missing, done = Tally(), None, {}, 0
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        build = Path(name) / "project"
        say(f"generating {folder.name} again from classifier.json")
        with timed(seconds, "generate"):
            write_project(model, build, name=card["name"], clock_period_ns=card["clock_period_ns"], part=card["part"])
            written_with = {"hls4ml": card.get("versions", {}).get("hls4ml", "unknown")}
            files = compare_files(folder, build, code="firmware", source="classifier.json", written_with=written_with)
        if RTL in card and find_spec("da4ml") is None:
            missing["da4ml"] = INSTALL["da4ml"]
        elif RTL in card:
            logic = Logic(folder / RTL, classifier_logic(model), Path(name) / RTL, seconds, say)
            files += logic.files
        say("compiling the C simulation (g++)")
        with timed(seconds, "compile"):
            program = compile_simulation(build, compiler, card["name"], model)
        if logic is not None:
            missing |= logic.build(compiler, synthesis=synthesis, timing=timing)
        total = n + (0 if extra is None else len(extra))
        for scaled in batches(model, n, seed, extra):
            say(f"comparing inputs {done + 1} to {done + len(scaled)} of {total}")
            with timed(seconds, "integers"):
                codes = model.encode_inputs(np.ldexp(scaled, np.asarray(model.exponents)))
                ways = {"jax": np.asarray(decode(model.propagate(codes), model.output_format))}
            with timed(seconds, "simulate"):
                ways["hls"] = simulate(program, scaled, model.outputs)
            if logic is not None and logic.program is not None:
                ways["rtl"] = logic.run(np.asarray(codes))
            tally.add(**ways)
            done += len(scaled)
    tools = ("hls4ml", "jax", "numpy") if logic is None else ("hls4ml", "da4ml", "jax", "numpy")
    return {
        "inputs": done,
        "outputs": tally.outputs,
        "mismatches": tally.mismatches,
        "max_difference": tally.largest,
        "comparisons": tally.comparisons,
        "files": files,
        "synthesis": None if logic is None else logic.synthesis,
        "timing": None if logic is None else logic.timing,
        "missing": missing,
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "tools": {package: version(package) for package in tools} | {"g++": gxx_version(compiler)},
    }


def read_project(folder: Path) -> tuple[QuantisedClassifier, dict[str, Any]]:
    """The classifier and the model card of an exported project; a ValueError if it is none."""
    if not (folder / CLASSIFIER).is_file() and (folder / CARD).is_file() and holds_logic(folder):
        msg = f"{folder}: the Verilog of a function; prove it with diffhep.trigger.verify_rtl(folder, function)"
        raise ValueError(msg)
    classifier, card = read_part(folder, CLASSIFIER), read_card(folder, CARD_SCHEMA, CARD_VERSION)
    try:
        model = QuantisedClassifier.from_dict(classifier)
    except ValueError as error:
        msg = f"{folder}: {error}"
        raise ValueError(msg) from error
    if card.get("sha256") != weights_hash(model):
        msg = f"{folder}: classifier.json does not have the SHA-256 that model_card.json gives; export it again"
        raise ValueError(msg)
    return model, card


def holds_logic(folder: Path) -> bool:
    """Whether a folder is a project of `export_rtl`."""
    card = read_part(folder, CARD)
    return isinstance(card, dict) and card.get("schema") == RTL_SCHEMA


def compile_simulation(build: Path, compiler: str, name: str, model: QuantisedClassifier) -> Path:
    """The simulation as a program: reads events of doubles from one file, writes logits to another."""
    driver = DRIVER.format(name=name, inputs=model.inputs, outputs=model.outputs)
    (build / "driver.cpp").write_text(driver, encoding="utf-8")
    # weights are read at run time, relative to the folder the program runs in
    flags = ["-O2", "-w", "-std=c++17", "-Ifirmware/ap_types", '-DWEIGHTS_DIR="firmware/weights"']
    command = [compiler, *flags, "driver.cpp", "-o", "simulation"]
    result = subprocess.run(command, cwd=build, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        first = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
        msg = f"verify: g++ failed on the C simulation of {name}: {first.strip()}"
        raise ValueError(msg)
    return build / "simulation"


def simulate(program: Path, scaled: Float[np.ndarray, "event in"], outputs: int) -> Float[np.ndarray, "event out"]:
    """The logits of the C simulation for scaled inputs."""
    source, target = program.parent / "inputs.bin", program.parent / "outputs.bin"
    np.ascontiguousarray(scaled, np.float64).tofile(source)
    command = [str(program), source.name, target.name]
    result = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    logits = np.fromfile(target, np.float64) if target.exists() else np.zeros(0)
    if result.returncode != 0 or result.stderr or logits.size != len(scaled) * outputs:
        first = (result.stderr.splitlines() or [f"exit status {result.returncode}"])[0]
        msg = f"verify: the C simulation failed: {first}"
        raise ValueError(msg)
    return logits.reshape(-1, outputs)


def batches(
    model: QuantisedClassifier, n: int, seed: int, extra: np.ndarray | None
) -> Iterator[Float[np.ndarray, "event in"]]:
    """Scaled inputs in batches: random ones first, then those that were given."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, BATCH):
        yield random_inputs(rng, min(BATCH, n - start), [model.input_format] * model.inputs)
    if extra is not None:
        scaled = np.ldexp(extra, -np.asarray(model.exponents))
        for start in range(0, len(scaled), BATCH):
            yield scaled[start : start + BATCH]
