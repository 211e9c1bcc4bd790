"""Both routes from one traced function, beside each other: an hls4ml project and Verilog, proved on the same inputs.

A folder holds `hls/` (`diffhep.trigger.hls`) and `rtl/` (`diffhep.trigger.rtl`). Both come from the same logic, so
that three computations of every word, by JAX, by the C simulation and by the simulated Verilog, have to agree.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.trigger import hls, rtl
from diffhep.trigger.comparison import Comparison, Run, decode_words, with_constants
from diffhep.trigger.hls import HLS_SCHEMA, HLS_VERSION, check_hls_settings
from diffhep.trigger.lowering import Traced, Words, formats_of, trace
from diffhep.trigger.project import DEFAULT_PART, HLS, RTL, check_card, check_free, new_folder, read_words
from diffhep.trigger.proof import gxx_version
from diffhep.trigger.rtl import RTL_SCHEMA, RTL_VERSION, check_rtl_settings
from diffhep.trigger.verify_hls import CSimulation
from diffhep.trigger.verify_rtl import INSTALL, Logic

CARDS = {HLS: (HLS_SCHEMA, HLS_VERSION), RTL: (RTL_SCHEMA, RTL_VERSION)}


def export_function(
    function: Callable[..., Any],
    folder: str | Path,
    *,
    inputs: Words | Sequence[Words],
    name: str = "trigger",
    clock_period_ns: float = 5.0,
    levels_per_stage: int | None = 5,
    input_register: bool = True,
    part: str = DEFAULT_PART,
    metadata: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the hls4ml project and the Verilog of a function of one event; returns both model cards.

    Args:
        function: takes one array for each input (float64, on the grid of its format) and returns arrays.
        folder: where `hls` and `rtl` go; must not exist, or be empty.
        inputs: shapes and formats of the arguments.
        name: of the top C++ function and the top module, a lower-case identifier.
        clock_period_ns: target clock period [ns].
        levels_per_stage: of the Verilog, adders between two registers of the pipeline; None for logic without a clock.
        input_register: whether that pipeline begins with a register; without it, words should come from one.
        part: FPGA part number, as Vitis and Vivado spell it.
        metadata: what else belongs on the model cards (seed, data, training), as JSON allows.

    Raises:
        ValueError: as `export_hls` and `export_rtl`; nothing is left behind then.

    >>> card = export_function(jax.nn.relu, "firmware", inputs=Words((4,), FixedPoint(1, 3, 4)))  # doctest: +SKIP
    """
    words = (inputs,) if isinstance(inputs, Words) else tuple(inputs)
    settings: dict[str, Any] = {"name": name, "clock_period_ns": clock_period_ns, "part": part}
    check_hls_settings(**settings)
    pipeline = {"levels_per_stage": levels_per_stage, "input_register": input_register}
    check_rtl_settings(**pipeline, **settings)
    check_card({"metadata": metadata})
    check_free(Path(folder))
    traced = trace(function, *words)
    hls.array_types(traced)  # an output that has no type is refused before there is a folder
    with new_folder(Path(folder)) as unfinished:
        unfinished.mkdir()
        return write_routes(unfinished, traced, pipeline, metadata=metadata, **settings)


def write_routes(
    folder: Path, traced: Traced, pipeline: dict[str, Any], *, metadata: dict[str, Any] | None, **settings: Any
) -> dict[str, dict[str, Any]]:
    """Write `hls` and `rtl` of a function into a folder that has neither; returns both cards.

    Args:
        folder: of both.
        traced: the logic.
        pipeline: what only the Verilog is asked for: `levels_per_stage` and `input_register`.
        metadata: for both cards.
        settings: what both routes take.
    """
    with new_folder(folder / HLS) as unfinished:
        first = hls.write_project(unfinished, traced, metadata=metadata, **settings)
    with new_folder(folder / RTL) as unfinished:
        second = rtl.write_project(unfinished, traced, metadata=metadata, **pipeline, **settings)
    return {HLS: first, RTL: second}


def verify_function(
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
    """Compare the C simulation and the Verilog of a folder with the function they were exported from.

    Where neither can run, for want of g++ or of Verilator, the logic that both were written from is interpreted in
    their place.

    Args:
        folder: of `export_function`; only one of `hls` and `rtl` may be there.
        function: what was exported; of one event.
        n: number of random inputs, as for `verify`.
        seed: of the random inputs.
        inputs: events to be compared in addition: one array (event, *shape) for each argument, in its unit.
        synthesis: also count the lookup tables and flip-flops of the Verilog with yosys, where it is installed.
        timing: also place and route the Verilog with nextpnr, where it is installed; a minute or two.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words on which not all ways agree),
        `max_difference` (largest difference of two ways), `comparisons` (words that differ, for each two of jax, hls
        and rtl), `files` (generated files found unaltered), `synthesis` and `timing` (of the Verilog, or None),
        `missing` (programs that are not there, and how to get them: what needs them was left out), `seconds` (of each
        step) and `tools` (versions).

    Raises:
        ValueError: there is nothing to verify or it was altered, it belongs to another function, a program fails,
            da4ml is missing, `inputs` do not fit, or JAX is not in 64-bit mode.

    >>> verify_function("firmware", jax.nn.relu)["mismatches"]  # doctest: +SKIP
    0
    """
    folder, compiler = Path(folder), shutil.which("g++")
    there = [route for route in CARDS if (folder / route).is_dir()]
    if not there:
        msg = f"{folder}: holds neither {HLS} nor {RTL}; export the function again"
        raise ValueError(msg)
    words = read_words(folder / there[0], *CARDS[there[0]])
    proof = Comparison(function, words, n=n, seed=seed, inputs=inputs, progress=progress)
    traced = trace(function, *words)
    missing, ways, files, logic = {}, {}, 0, None
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        if HLS in there:
            simulation = CSimulation(folder / HLS, traced, Path(name) / HLS, proof.seconds, proof.say)
            files += simulation.files
        if RTL in there:
            logic = Logic(folder / RTL, traced, Path(name) / RTL, proof.seconds, proof.say)
            files += logic.files
        if compiler is None:
            missing["g++"] = INSTALL["g++"]
        elif HLS in there:
            simulation.build(compiler)
            ways["hls"] = simulation.run
        if logic is not None:
            missing |= logic.build(compiler, synthesis=synthesis, timing=timing)
            if logic.program is not None:
                ways["rtl"] = logic.run
        if not ways:
            ways["netlist"] = interpreter(traced)
        report = proof.run(**ways)
    tools = {package: version(package) for package in hls.TOOLS}
    return report | {
        "files": files,
        "synthesis": None if logic is None else logic.synthesis,
        "timing": None if logic is None else logic.timing,
        "missing": missing,
        "tools": tools if compiler is None else tools | {"g++": gxx_version(compiler)},
    }


def interpreter(traced: Traced) -> Run:
    """The logic of a function, run by da4ml."""
    formats = formats_of(traced.inputs)
    used = traced.circuit.inputs.sum(axis=1) > 0

    def run(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return with_constants(traced, traced.circuit.evaluate(decode_words(codes, formats)[:, used]))

    return run
