"""Proof that an exported project computes what the classifier computes, bit for bit.

`verify` reads `classifier.json` of a project, generates the project again and compares every file with the one found: a
project that was altered, or that belongs to other weights, is refused before any of its code runs. Then it compiles the
C simulation with g++, in a folder of its own, and compares its outputs with integer arithmetic in JAX.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffhep.io import read_json
from diffhep.trigger.checks import check_inputs
from diffhep.trigger.export import CARD_SCHEMA, CARD_VERSION, check_settings, weights_hash, write_project
from diffhep.trigger.fixed_point import FixedPoint, decode, require_x64
from diffhep.trigger.quantised import QuantisedClassifier

BATCH = 100_000  # events simulated at once: bounds the memory

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
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the C simulation of an exported project with integer arithmetic.

    The random inputs cover the whole input range: all codes with equal probability, corners where every input is at an
    end of its range, words off the grid (ties among them) and words outside the range.

    Args:
        folder: an exported project.
        n: number of random inputs.
        seed: of the random inputs.
        inputs: events to be compared in addition, features in their units.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words that differ), `max_difference`
        (largest difference, in units of the logit), `files` (generated files found unaltered), `seconds` (of each step)
        and `tools` (versions).

    Raises:
        ValueError: the folder is no exported project or was altered, g++ is missing or fails, `inputs` do not fit, or
            JAX is not in 64-bit mode.

    >>> verify("firmware")["mismatches"]  # doctest: +SKIP
    0
    """
    require_x64("verify")
    folder, say = Path(folder), progress or (lambda line: None)
    model, card = read_project(folder)
    if not isinstance(n, int) or n < 0 or (n == 0 and inputs is None):
        msg = f"verify: the number of random inputs must be a positive integer, got {n!r}"
        raise ValueError(msg)
    extra = None if inputs is None else check_inputs(inputs, model.inputs, "verify: inputs")
    compiler = find_compiler()

    seconds: dict[str, float] = {}
    outputs = mismatches = 0
    largest = 0.0
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        build = Path(name) / "project"
        say(f"generating {folder.name} again from classifier.json")
        with timed(seconds, "generate"):
            write_project(model, build, name=card["name"], clock_period_ns=card["clock_period_ns"], part=card["part"])
            files = compare_files(folder, build, card)
        say("compiling the C simulation (g++)")
        with timed(seconds, "compile"):
            program = compile_simulation(build, compiler, card["name"], model)
        total = n + (0 if extra is None else len(extra))
        done = 0
        for scaled in batches(model, n, seed, extra):
            say(f"comparing inputs {done + 1} to {done + len(scaled)} of {total}")
            with timed(seconds, "simulate"):
                simulated = simulate(program, scaled, model.outputs)
            with timed(seconds, "integers"):
                expected = expected_outputs(model, scaled)
            different = simulated != expected
            outputs += different.size
            mismatches += int(np.count_nonzero(different))
            # NaN, which no fixed-point word is, counts as different everywhere
            largest = max(largest, float(np.max(np.abs(simulated - expected), initial=0.0)))
            done += len(scaled)
    return {
        "inputs": done,
        "outputs": outputs,
        "mismatches": mismatches,
        "max_difference": largest,
        "files": files,
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "tools": {package: version(package) for package in ("hls4ml", "jax", "numpy")} | {"g++": gxx_version(compiler)},
    }


def read_project(folder: Path) -> tuple[QuantisedClassifier, dict[str, Any]]:
    """The classifier and the model card of an exported project; a ValueError if it is none."""
    classifier, card = (read_part(folder, file) for file in ("classifier.json", "model_card.json"))
    if not isinstance(card, dict) or (card.get("schema"), card.get("version")) != (CARD_SCHEMA, CARD_VERSION):
        msg = f"{folder / 'model_card.json'}: not a model card of version {CARD_VERSION}"
        raise ValueError(msg)
    try:
        model = QuantisedClassifier.from_dict(classifier)
        check_settings(card.get("name"), card.get("clock_period_ns"), card.get("part"))  # type: ignore[arg-type]
    except ValueError as error:
        msg = f"{folder}: {error}"
        raise ValueError(msg) from error
    if card.get("sha256") != weights_hash(model):
        msg = f"{folder}: classifier.json does not have the SHA-256 that model_card.json gives; export it again"
        raise ValueError(msg)
    return model, card


def read_part(folder: Path, file: str) -> Any:
    """The content of a JSON file of a project."""
    if not (folder / file).is_file():
        msg = f"{folder}: not an exported trigger project, it has no {file}"
        raise ValueError(msg)
    return read_json(folder / file)


def compare_files(folder: Path, build: Path, card: dict[str, Any]) -> int:
    """The number of generated files, all found unaltered in the project; else a ValueError that names the first.

    Files that synthesis adds elsewhere do not matter, but nothing may be added to `firmware`, where a header would
    shadow another. The library of hls4ml's own compilation is let pass: it is not used.
    """
    generated = sorted(path.relative_to(build) for path in build.rglob("*") if path.is_file())
    wrong = [
        f"{path} {'differs' if (folder / path).is_file() else 'is missing'}"
        for path in generated
        if not (folder / path).is_file() or (folder / path).read_bytes() != (build / path).read_bytes()
    ]
    present = (path.relative_to(folder) for path in (folder / "firmware").rglob("*") if not path.is_dir())
    known = set(generated)
    wrong += sorted(f"{path} was added" for path in present if path not in known and path.suffix != ".so")
    if wrong:
        written, here = card.get("versions", {}).get("hls4ml"), version("hls4ml")
        reason = "" if written == here else f"; it was written with hls4ml {written}, this is {here}"
        more = "" if len(wrong) == 1 else f" (and {len(wrong) - 1} more)"
        msg = f"{folder}: firmware is not that of classifier.json: {wrong[0]}{more}{reason}; export it again"
        raise ValueError(msg)
    return len(generated)


def find_compiler() -> str:
    """The C++ compiler; a ValueError that names the package to install."""
    compiler = shutil.which("g++")
    if compiler is None:
        msg = (
            "verify: g++ not found, it compiles the C simulation: install the package g++ (Debian) or gcc-c++ (Fedora)"
        )
        raise ValueError(msg)
    return compiler


def gxx_version(compiler: str) -> str:
    """The version number of the compiler."""
    return subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


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


def expected_outputs(
    model: QuantisedClassifier, scaled: Float[np.ndarray, "event in"]
) -> Float[np.ndarray, "event out"]:
    """The logits by integer arithmetic for scaled inputs."""
    features = np.ldexp(scaled, np.asarray(model.exponents))
    return np.asarray(decode(model.integers(features), model.output_format))


def batches(
    model: QuantisedClassifier, n: int, seed: int, extra: np.ndarray | None
) -> Iterator[Float[np.ndarray, "event in"]]:
    """Scaled inputs in batches: random ones first, then those that were given."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, BATCH):
        yield random_inputs(rng, min(BATCH, n - start), model.inputs, model.input_format)
    if extra is not None:
        scaled = np.ldexp(extra, -np.asarray(model.exponents))
        for start in range(0, len(scaled), BATCH):
            yield scaled[start : start + BATCH]


def random_inputs(
    rng: np.random.Generator, events: int, features: int, format: FixedPoint
) -> Float[np.ndarray, "event in"]:
    """Scaled inputs over the whole range of a format and beyond its ends and between its codes."""
    low, high = format.codes
    codes: Int[np.ndarray, "event in"] = rng.integers(low, high, (events, features), endpoint=True)
    words = codes.astype(np.float64)
    kind = rng.random(events)
    corner = kind < 0.1  # every input at one end of its range: the largest sums
    words[corner] = rng.choice([float(low), float(high)], (int(corner.sum()), features))
    sparse = (kind >= 0.1) & (kind < 0.2)  # most inputs zero, as in a quiet detector
    words[sparse] *= rng.random((int(sparse.sum()), features)) < 0.2
    between = (kind >= 0.2) & (kind < 0.4)  # ties and their neighbourhood
    words[between] += rng.choice([-0.5, -0.25, 0.25, 0.5], (int(between.sum()), features))
    outside = (kind >= 0.4) & (kind < 0.45)
    words[outside] *= 4
    for event, value in enumerate((0.0, float(low), float(high))[:events]):
        words[event] = value
    return np.ldexp(words, -format.f)


class timed:
    """Adds the wall-clock seconds of a block to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], step: str):
        self.seconds, self.step = seconds, step

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.step] = self.seconds.get(self.step, 0.0) + time.perf_counter() - self.start
