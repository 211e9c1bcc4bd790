"""Export of any JAX function to an hls4ml project: C++ for high-level synthesis, ready for Vitis HLS.

The function becomes the logic that `diffhep.trigger.rtl` writes as Verilog, with the exact format of every single word,
and that logic one layer of hls4ml, whose C++ da4ml generates: the top function takes one array for each argument of
the function and fills one for each of its results. `diffhep.trigger.verify_hls` proves that it computes what the
compiled function computes, bit for bit.

The words of an array share one C++ type. Where their formats differ it is the narrowest type that holds them all, and
every word is cast to its own format inside, which takes its wires and no logic.

A project holds what hls4ml writes (`firmware/`, `build_prj.tcl`, `build_lib.sh`, test bench and bridge),
`model_card.json` (types of all arrays, formats of all words, hash of the sources) and `README.md`. The same function
gives the same bytes, whenever and wherever it is exported.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from diffhep.trigger.cpp import cpp
from diffhep.trigger.hls4ml_graph import write_graph
from diffhep.trigger.lowering import Traced, Words, trace
from diffhep.trigger.netlist import span
from diffhep.trigger.project import (
    CARD,
    DEFAULT_PART,
    README,
    check_card,
    check_free,
    check_settings,
    files_hash,
    new_folder,
    split,
    tool_versions,
    word_records,
    write_json,
)

HLS_SCHEMA, HLS_VERSION = "diffhep trigger hls card", 1
TOOLS = ("diffhep", "hls4ml", "da4ml", "jax", "numpy")
LAYER, LOGIC = "traced_function", "traced_logic"  # the layer, and the C++ function that da4ml generates
TYPES = ("ap_fixed", "ap_ufixed", "ap_int", "ap_uint", "result_t")  # names that the C++ has for other things
MAX_POINT = 64  # bits before and behind the binary point of a constant result


def export_hls(
    function: Callable[..., Any],
    folder: str | Path,
    *,
    inputs: Words | Sequence[Words],
    name: str = "trigger",
    clock_period_ns: float = 5.0,
    part: str = DEFAULT_PART,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the hls4ml project of a function of one event; returns its model card.

    Args:
        function: takes one array for each input (float64, on the grid of its format) and returns arrays.
        folder: where the project goes; must not exist, or be empty.
        inputs: shapes and formats of the arguments.
        name: name of the project and of its top C++ function, a lower-case identifier.
        clock_period_ns: target clock period [ns].
        part: FPGA part number, as Vitis spells it.
        metadata: what else belongs on the model card (seed, data, training), as JSON allows.

    Raises:
        ValueError: something in the function cannot be exported (the message names the primitive and the line), the
            folder holds something, a setting is not usable, da4ml is missing or JAX not in 64-bit mode. Nothing is left
            behind then.

    >>> card = export_hls(jax.nn.relu, "hls", inputs=Words((4,), FixedPoint(1, 3, 4)))  # doctest: +SKIP
    """
    words = (inputs,) if isinstance(inputs, Words) else tuple(inputs)
    settings: dict[str, Any] = {"name": name, "clock_period_ns": clock_period_ns, "part": part}
    check_hls_settings(**settings)
    check_card({"metadata": metadata})
    check_free(Path(folder))
    traced = trace(function, *words)
    array_types(traced)  # an output that has no type is refused before there is a folder
    with new_folder(Path(folder)) as unfinished:
        return write_project(unfinished, traced, metadata=metadata, **settings)


def check_hls_settings(name: str, clock_period_ns: float, part: str) -> None:
    """A ValueError that names a setting the project could not take."""
    check_settings(name, clock_period_ns, part)
    if re.fullmatch(r"[xy]\d+(_t)?", name) or name in (LAYER, LOGIC, *TYPES):
        msg = f"export: the name {name!r} is that of an array or function in the C++; choose another"
        raise ValueError(msg)


def write_project(folder: Path, traced: Traced, *, metadata: dict[str, Any] | None, **settings: Any) -> dict[str, Any]:
    """Write the hls4ml project of a function, with its card and README, into a new folder; returns the card."""
    card = write_hls(folder, traced, **settings)
    card["metadata"] = {} if metadata is None else metadata
    write_json(folder / CARD, card)
    (folder / README).write_text(readme(card), encoding="utf-8")
    return card


def write_hls(folder: Path, traced: Traced, *, name: str, clock_period_ns: float, part: str) -> dict[str, Any]:
    """Write what is generated into a new folder; returns the card without metadata."""
    sources, results = array_types(traced)
    code = cpp(traced.circuit, LOGIC) + layer_code(traced)
    stamp = hashlib.sha256("\n".join([code, *sources, *results]).encode()).hexdigest()[:8]
    layers = layer_list(traced, results, code)
    types = {f"x{number}": type for number, type in enumerate(sources)}
    settings: dict[str, Any] = {"name": name, "clock_period_ns": clock_period_ns, "part": part}
    write_graph(folder, layers, stamp=stamp, bit_exact=False, types=types, **settings)
    records = word_records(traced)
    for arrays, declared in ((records["inputs"], sources), (records["outputs"], results)):
        for array, type in zip(arrays, declared, strict=True):
            array["type"] = type
    return {
        "schema": HLS_SCHEMA,
        "version": HLS_VERSION,
        **settings,
        "clock_period_ns": float(clock_period_ns),
        "backend": "Vitis",
        "levels": traced.circuit.levels,
        "estimated_luts": traced.circuit.cost,
        **records,
        "sha256": files_hash(folder),
        "versions": tool_versions(TOOLS),
    }


def array_types(traced: Traced) -> tuple[list[str], list[str]]:
    """The C++ types of all arguments and of all results; an argument of one format has its modes too."""
    sources = []
    for words in traced.inputs:
        formats = set(words.formats().ravel())
        sources.append(str(formats.pop()) if len(formats) == 1 else common_type(words.kif().reshape(-1, 3)))
    results = []
    constants = split(traced.constants, traced.shapes)
    for kif, values in zip(split(traced.circuit.outputs, traced.shapes), constants, strict=True):
        words = [k if np.isnan(v) else number_kif(v) for k, v in zip(kif, values, strict=True)]
        results.append(common_type(np.array(words)))
    return sources, results


def common_type(kif: Int[np.ndarray, "word 3"]) -> str:
    """The narrowest C++ type that holds words of all these formats k, i, f; a word of no bits is 0."""
    kif = kif[kif.sum(axis=1) > 0]
    k, i, f = kif.max(axis=0).tolist() if len(kif) else (0, 1, 0)
    return f"ap_{'' if k else 'u'}fixed<{k + i + f},{k + i}>"


def number_kif(number: float) -> tuple[int, int, int]:
    """The narrowest format of a constant result; a ValueError if there is none."""
    if number == 0:
        return 0, 0, 0
    step = span(number)[2] if np.isfinite(number) else 0.0
    if step < 2.0**-MAX_POINT or abs(number) >= 2.0**MAX_POINT:
        msg = f"export: an output is always {number}, which no word of {MAX_POINT} bits before and behind the point is"
        raise ValueError(msg)
    f, codes = round(-np.log2(step)), round(abs(number) / step)
    # what two's complement takes beside the sign: n bits reach down to -2**n
    return int(number < 0), (codes - int(number < 0)).bit_length() - f, f


def layer_list(traced: Traced, results: Sequence[str], code: str) -> list[dict[str, Any]]:
    """An input layer for each argument and the layer of the function, for hls4ml."""
    from hls4ml.model.layers import register_layer
    from hls4ml.model.types import Source

    register_layer(LAYER, layer_class())
    arguments = [f"x{number}" for number in range(len(traced.inputs))]
    names = [f"y{number}" for number in range(len(results))]
    layers: list[dict[str, Any]] = []
    for name, words in zip(arguments, traced.inputs, strict=True):
        keys = {"name": name, "inputs": [name], "outputs": [name], "type_name": f"{name}_t"}
        layers.append({"class_name": "InputLayer", "input_shape": list(words.shape) or [1], **keys})
    layers.append(
        {
            "class_name": LAYER,
            "name": LAYER,
            "inputs": arguments,
            "outputs": names,
            "shapes": [list(shape) or [1] for shape in traced.shapes],
            "types": list(results),
            "function_cpp": f"nnet::{LAYER}({', '.join([*arguments, *names])});",
            "code": Source(code),
        }
    )
    return layers


def layer_class() -> type:
    """The class of hls4ml's layer: one array for each result, in its own type."""
    from hls4ml.model.layers import Layer

    class TracedFunction(Layer):
        def initialize(self) -> None:
            convert = self.model.config.backend.convert_precision_string
            attributes = (self.outputs, self.attributes["shapes"], self.attributes["types"])
            for name, shape, text in zip(*attributes, strict=True):
                place = {"out_name": name, "var_name": name, "type_name": f"{name}_t"}
                self.add_output_variable(shape, **place, precision=convert(text))
                # what is declared are the types among the attributes, and a variable's own type is none
                self.attributes[f"{name}_t"] = self.get_output_variable(name).type

    return TracedFunction


def layer_code(traced: Traced) -> str:
    """The C++ of the layer: words out of the arrays, the logic, words into the arrays."""
    circuit = traced.circuit
    used, present = circuit.inputs.sum(axis=1) > 0, np.isnan(traced.constants)
    words, results = common_type(circuit.inputs[used]), common_type(circuit.outputs[present])
    arguments = [(f"x{number}", int(np.prod(words.shape))) for number, words in enumerate(traced.inputs)]
    targets = [(f"y{number}", int(np.prod(shape))) for number, shape in enumerate(traced.shapes)]
    lines = [
        "#pragma HLS INLINE",
        f"{words} words[{used.sum()}];",
        f"{results} results[{present.sum()}];",
        "#pragma HLS ARRAY_PARTITION variable=words complete",
        "#pragma HLS ARRAY_PARTITION variable=results complete",
    ]
    sources = zip(np.array(elements(arguments))[used], circuit.inputs[used], strict=True)
    lines += [f"words[{n}] = {common_type(kif[None])}({source});" for n, (source, kif) in enumerate(sources)]
    lines.append(f"{LOGIC}<{words}, {results}>(words, results);")
    order = iter(range(int(present.sum())))
    for target, number in zip(elements(targets), traced.constants, strict=True):
        lines.append(f"{target} = {f'results[{next(order)}]' if np.isnan(number) else repr(float(number))};")
    arrays = [*arguments, *targets]
    types = ", ".join(f"typename {name}_T" for name, _ in arrays)
    signature = ", ".join(f"{name}_T {name}[{size}]" for name, size in arrays)
    body = "".join(f"    {line}\n" for line in lines)
    return f"\ntemplate <{types}>\nvoid {LAYER}({signature}) {{\n{body}}}\n"


def elements(arrays: Sequence[tuple[str, int]]) -> list[str]:
    """The words of arrays, given by name and size, as C++ names them."""
    return [f"{name}[{place}]" for name, size in arrays for place in range(size)]


def array_rows(arrays: Sequence[dict[str, Any]], letter: str) -> str:
    """Arrays, and below them the words that have a format of their own, as rows of a table."""
    rows = []
    for number, array in enumerate(arrays):
        name, shape = f"{letter}{number}", " x ".join(map(str, array["shape"])) or "one word"
        rows.append(f"| {name} | {shape} | `{array['type']}` |")
        for place, word in enumerate(array["words"]):
            if "constant" in word:
                rows.append(f"| {name}[{place}] | | always {word['constant']:g} |")
            elif word["type"] != array["type"]:
                rows.append(f"| {name}[{place}] | | `{word['type']}` |")
    return "\n".join(rows)


def readme(card: dict[str, Any]) -> str:
    """The README of a project: arrays and their types, how to synthesise and to check it."""
    name = card["name"]
    return f"""# {name}: logic of a trigger

An hls4ml {card["versions"]["hls4ml"]} project for Vitis HLS (parallel inputs), part {card["part"]}, clock period
{card["clock_period_ns"]:g} ns. Estimate before synthesis: {card["estimated_luts"]:g} LUTs, no DSP for products with
constants, {card["levels"]:g} levels of adders. Sources: SHA-256 {card["sha256"]}.

The top function `{name}` takes one array for each argument of the traced function and fills one for each result; arrays
of several axes are in row-major order. Its one layer, `nnet::{LAYER}` in `firmware/nnet_utils/nnet_code_gen.h`,
computes every word in the narrowest format that holds it.

## Inputs

An array whose words have one format has it as its type, which brings other values to its grid. Where the words have
formats of their own, listed below the array, the type holds them all, and a word that is not on its own grid loses the
bits outside of it.

| array | shape | type |
|---|---|---|
{array_rows(card["inputs"], "x")}

## Outputs

| array | shape | type |
|---|---|---|
{array_rows(card["outputs"], "y")}

## Synthesis and check

- `vitis-run --mode hls --tcl build_prj.tcl` synthesises; switch the steps on and off in `build_opt.tcl`.
- `./build_lib.sh` compiles the C simulation with g++.
- `diffhep.trigger.verify_hls` on this folder and the function exports it again, compares every file, and compares the C
  simulation with the function bit for bit.

`firmware/nnet_utils` and `firmware/ap_types` are copies of headers that come with hls4ml, under the Apache License 2.0;
the function was generated by da4ml {card["versions"]["da4ml"]}.
"""
