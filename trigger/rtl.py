"""Export of any JAX function to Verilog: from its jaxpr to registers and adders, without a vendor's compiler.

`trace` turns the function into logic (`diffhep.trigger.lowering`), da4ml shares its adders, cuts the pipeline and
writes the Verilog. The project computes what the compiled function computes, bit for bit, and
`diffhep.trigger.verify_rtl` proves it. The function may be plain JAX, an Equinox module or a Flax network with its
parameters bound; whatever it computes must be quantised where a float would round.

A project holds `src/` (Verilog), `sim/testbench.cpp` (for Verilator), scripts for Vivado and Quartus,
`model_card.json` (formats and positions of all words, latency, hash of the sources) and `README.md`. The same function
gives the same bytes, whenever and wherever it is exported.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.trigger.lowering import Traced, Words, trace
from diffhep.trigger.project import (
    CARD,
    DEFAULT_PART,
    README,
    check_card,
    check_free,
    check_settings,
    files_hash,
    new_folder,
    tool_versions,
    word_records,
    write_json,
)
from diffhep.trigger.simulation import write_testbench

RTL_SCHEMA, RTL_VERSION = "diffhep trigger rtl card", 1
NO_REGISTER = " It has no register at its inputs: the words should come from one."
TOOLS = ("diffhep", "da4ml", "jax", "numpy")
FOREIGN = (
    "sim",
    "model",
    "metadata.json",
)  # da4ml's own emulator and records: the test bench and the card replace them


def export_rtl(
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
) -> dict[str, Any]:
    """Write the Verilog project of a function of one event; returns its model card.

    Args:
        function: takes one array for each input (float64, on the grid of its format) and returns arrays.
        folder: where the project goes; must not exist, or be empty.
        inputs: shapes and formats of the arguments.
        name: name of the top module, a lower-case identifier.
        clock_period_ns: target clock period [ns].
        levels_per_stage: adders between two registers of the pipeline; None for logic without a clock.
        input_register: whether a pipeline begins with a register; without it, words should come from one.
        part: FPGA part number, as Vivado spells it.
        metadata: what else belongs on the model card (seed, data, training), as JSON allows.

    Raises:
        ValueError: something in the function cannot be exported (the message names the primitive and the line), the
            folder holds something, a setting is not usable, da4ml is missing or JAX not in 64-bit mode. Nothing is left
            behind then.

    >>> card = export_rtl(jax.nn.relu, "rtl", inputs=Words((4,), FixedPoint(1, 3, 4)))  # doctest: +SKIP
    """
    words = (inputs,) if isinstance(inputs, Words) else tuple(inputs)
    settings: dict[str, Any] = {"clock_period_ns": clock_period_ns, "levels_per_stage": levels_per_stage, "part": part}
    settings["input_register"] = input_register
    check_rtl_settings(name, **settings)
    check_card({"metadata": metadata})
    check_free(Path(folder))
    traced = trace(function, *words)
    with new_folder(Path(folder)) as unfinished:
        return write_project(unfinished, traced, name=name, metadata=metadata, **settings)


def write_project(folder: Path, traced: Traced, *, metadata: dict[str, Any] | None, **settings: Any) -> dict[str, Any]:
    """Write the Verilog project of a function, with its card and README, into a new folder; returns the card."""
    card = write_rtl(folder, traced, **settings)
    card["metadata"] = {} if metadata is None else metadata
    write_json(folder / CARD, card)
    (folder / README).write_text(readme(card), encoding="utf-8")
    return card


def check_rtl_settings(
    name: str, *, clock_period_ns: float, levels_per_stage: int | None, part: str, input_register: bool = True
) -> None:
    """A ValueError that names a setting the project could not take."""
    check_settings(name, clock_period_ns, part)
    whole = isinstance(levels_per_stage, int) and not isinstance(levels_per_stage, bool)
    if levels_per_stage is not None and not (whole and 1 <= levels_per_stage <= 1000):
        msg = f"export: levels per stage must be an integer from 1 to 1000 or None, got {levels_per_stage!r}"
        raise ValueError(msg)
    if not isinstance(input_register, bool):
        msg = f"export: input register must be true or false, got {input_register!r}"
        raise ValueError(msg)


def write_rtl(
    folder: Path,
    traced: Traced,
    *,
    name: str,
    clock_period_ns: float,
    levels_per_stage: int | None,
    part: str,
    input_register: bool = True,
) -> dict[str, Any]:
    """Write what is generated into a new folder; returns the card without metadata."""
    circuit = traced.circuit
    # 5 and 5.0 are written alike
    clock_period_ns = float(clock_period_ns)
    folder.mkdir(parents=True)
    written = circuit.write(
        folder, name=name, part=part, clock_period_ns=clock_period_ns, levels_per_stage=levels_per_stage
    )
    for foreign in FOREIGN:
        path = folder / foreign
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "src" / f"{name}_wrapper.v").unlink()
    # one register after each stage of logic, and perhaps one at the input
    latency = 0 if levels_per_stage is None else written["stages"] + input_register
    bits = {"model_inp": int(circuit.inputs.sum()), "model_out": int(circuit.outputs.sum())}
    register_bits = written["register_bits"]
    if levels_per_stage is not None and not input_register:
        without_input_register(folder / "src" / f"{name}.v")
        register_bits -= bits["model_inp"]
    write_testbench(folder, name=name, latency=latency, **bits)
    return {
        "schema": RTL_SCHEMA,
        "version": RTL_VERSION,
        "name": name,
        "clock_period_ns": clock_period_ns,
        "part": part,
        "levels_per_stage": levels_per_stage,
        "input_register": input_register,
        "latency_cycles": latency,
        "latency_ns": latency * clock_period_ns,
        "initiation_interval_cycles": 0 if levels_per_stage is None else 1,
        "levels": written["levels"],
        "estimated_luts": written["cost"],
        "register_bits": register_bits,
        "ports": bits | ({} if levels_per_stage is None else {"clk": 1}),
        **word_records(traced),
        "sha256": files_hash(folder),
        "versions": tool_versions(TOOLS),
    }


def without_input_register(top: Path) -> None:
    """Let the words go into the first stage as they arrive, in the top module that da4ml wrote."""
    text = top.read_text(encoding="utf-8")
    text, registers = re.subn(r"\breg (\[\d+:0\] stage0_inp);", r"wire \1 = model_inp;", text)
    text, clocked = re.subn(r"\n *stage0_inp <= model_inp;", "", text)
    if (registers, clocked) != (1, 1):
        msg = f"export: {top.name} has no input register to be taken out; this da4ml writes another pipeline"
        raise ValueError(msg)
    top.write_text(text, encoding="utf-8")


def port_rows(arrays: Sequence[dict[str, Any]], letter: str) -> str:
    """The words of a port as rows of a table."""
    rows, bit = [], 0
    for number, array in enumerate(arrays):
        for index, word in zip(np.ndindex(*array["shape"]), array["words"], strict=True):
            name = f"{letter}{number}[{', '.join(map(str, index))}]" if index else f"{letter}{number}"
            if "constant" in word:
                rows.append(f"| {name} | - | always {word['constant']:g} |")
                continue
            width = word["k"] + word["i"] + word["f"]
            rows.append(f"| {name} | {bit + width - 1}:{bit} | `{word['type']}` |")
            bit += width
    return "\n".join(rows)


def readme(card: dict[str, Any]) -> str:
    """The README of a project: ports, latency, how to synthesise and to check it."""
    name, clocked = card["name"], card["levels_per_stage"] is not None
    timing = (
        f"""`{name}` takes a new event at every rising edge of `clk`; its result stands at `model_out` after the
{card["latency_cycles"]}th edge, {card["latency_ns"]:g} ns at a clock period of {card["clock_period_ns"]:g} ns
(not checked here: timing is known after place and route).{"" if card["input_register"] else NO_REGISTER}"""
        if clocked
        else f"`{name}` is combinational: no clock, {card['levels']:g} levels of adders."
    )
    return f"""# {name}: logic of a trigger

Verilog for part {card["part"]}. {timing}
Estimate before synthesis: {card["estimated_luts"]:g} LUTs, {card["register_bits"]} register bits, no DSP
for products with constants. Sources: SHA-256 {card["sha256"]}.

## Inputs, `model_inp[{card["ports"]["model_inp"] - 1}:0]`

Two's complement if signed; the value of a word is its integer times 2^-f, with f = W - I of `ap_fixed<W,I>`.

| word | bits | type |
|---|---|---|
{port_rows(card["inputs"], "x")}

## Outputs, `model_out[{card["ports"]["model_out"] - 1}:0]`

| word | bits | type |
|---|---|---|
{port_rows(card["outputs"], "y")}

## Synthesis and check

- `vivado -mode batch -source build_vivado_prj.tcl` or `quartus_sh -t build_quartus_prj.tcl`.
- `sim/testbench.cpp` drives the logic under Verilator: packed words from one file, results to another.
- `diffhep.trigger.verify_rtl` on this folder and the function exports it again, compares every file, and compares the
  simulated logic with the function bit for bit.

`src/static` holds Verilog primitives that come with da4ml {card["versions"]["da4ml"]}, under the GNU Lesser General
Public License, version 3; the rest of `src` was generated by it.
"""
