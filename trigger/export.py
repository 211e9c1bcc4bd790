"""Export of a quantised classifier to an hls4ml project: C++ for high-level synthesis, ready for Vitis HLS.

The layers are written down for hls4ml by hand, with a `FixedPointQuantizer` wherever the classifier quantises; hls4ml's
`BitExact` pass then derives the type of every sum from exact interval arithmetic. So the project computes what
`QuantisedClassifier.integers` computes, bit for bit, and `diffhep.trigger.verify` proves it. Neither Keras nor
TensorFlow takes part.

Beside the firmware a project holds `classifier.json` (the integer codes, from which everything else can be made again),
`model_card.json` (formats, hash of the weights, versions, where the model came from) and `README.md`. The same
classifier gives the same bytes, whenever and wherever it is exported.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.trigger import rtl
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.hls4ml_graph import write_graph
from diffhep.trigger.lowering import Traced, Words, trace
from diffhep.trigger.project import (
    CARD,
    DEFAULT_PART,
    README,
    RTL,
    check_card,
    check_free,
    new_folder,
    tool_versions,
    write_json,
)
from diffhep.trigger.quantised import QuantisedClassifier

CARD_SCHEMA, CARD_VERSION = "diffhep trigger model card", 1
TOOLS = ("diffhep", "hls4ml", "jax", "numpy")
CLASSIFIER = "classifier.json"
HLS_MODES = ("RND", "TRN"), ("SAT", "SAT_SYM", "WRAP")  # what hls4ml's `BitExact` pass follows


def export(
    model: QuantisedClassifier,
    folder: str | Path,
    *,
    name: str = "trigger",
    clock_period_ns: float = 5.0,
    part: str = DEFAULT_PART,
    verilog: bool = False,
    levels_per_stage: int | None = 5,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the hls4ml project of a classifier; returns its model card.

    Args:
        model: the classifier in fixed point.
        folder: where the project goes; must not exist, or be empty.
        name: name of the project and of its top C++ function, a lower-case identifier.
        clock_period_ns: target clock period [ns].
        part: FPGA part number, as Vitis spells it.
        verilog: also write the same logic as Verilog, to the folder `rtl` in the project (`export_rtl`); needs da4ml.
        levels_per_stage: of the Verilog, adders between two registers of the pipeline; None for logic without a clock.
        metadata: what else belongs on the model card (seed, data, training), as JSON allows.

    Raises:
        ValueError: the folder holds something, a name or number is not usable, a format cannot be exported, or da4ml is
            wanted and missing. Nothing is left behind then.

    >>> card = export(model, "firmware")  # doctest: +SKIP
    """
    settings: dict[str, Any] = {"name": name, "clock_period_ns": clock_period_ns, "part": part}
    rtl.check_rtl_settings(levels_per_stage=levels_per_stage, **settings)
    check_free(Path(folder))
    card = model_card(model, metadata=metadata, **settings)
    logic = classifier_logic(model) if verilog else None
    with new_folder(Path(folder)) as unfinished:
        write_project(model, unfinished, **settings)
        write_json(unfinished / CLASSIFIER, model.to_dict())
        if logic is not None:
            origin = {"metadata": {"classifier": card["sha256"]}, "levels_per_stage": levels_per_stage}
            card[RTL] = rtl.write_project(unfinished / RTL, logic, **origin, **settings)["sha256"]
        write_json(unfinished / CARD, card)
        (unfinished / README).write_text(readme(model, card), encoding="utf-8")
    return card


def classifier_logic(model: QuantisedClassifier) -> Traced:
    """The classifier as logic on words in the input format: the powers of two of its features move no bit."""
    frozen, unscaled = model.frozen(), (0,) * model.inputs
    on_words = QuantisedClassifier(frozen.weights, frozen.biases, unscaled, model.input_format, model.formats)
    return trace(on_words, Words((model.inputs,), model.input_format))


def write_project(model: QuantisedClassifier, folder: Path, *, name: str, clock_period_ns: float, part: str) -> None:
    """Write what hls4ml generates for a classifier into a new folder."""
    settings: dict[str, Any] = {"name": name, "clock_period_ns": clock_period_ns, "part": part}
    # the pass `BitExact` replaces every type
    write_graph(folder, layer_list(model), stamp=weights_hash(model)[:8], bit_exact=True, **settings)


def layer_list(model: QuantisedClassifier) -> list[dict[str, Any]]:
    """The classifier as hls4ml's list of layers, without any framework in between."""
    layers: list[dict[str, Any]] = []

    def node(class_name: str, name: str, **keys: Any) -> None:
        source = layers[-1]["name"] if layers else name
        layers.append({"class_name": class_name, "name": name, "inputs": [source], "outputs": [name], **keys})

    def quantiser(name: str, format: FixedPoint) -> None:
        check_modes(format)
        # hls4ml counts the sign bit in both widths
        kbi = tuple(np.array([bits], np.int16) for bits in (format.k, format.width, format.k + format.i))
        modes = {"SAT": format.overflow, "RND": format.rounding}
        node("FixedPointQuantizer", name, mask_kbi=kbi, fusible=None, overrides={}, **modes)

    frozen = model.frozen()
    node("InputLayer", "x", input_shape=[model.inputs])
    quantiser("q_x", model.input_format)
    for number, (weight, bias) in enumerate(zip(frozen.weights, frozen.biases, strict=True)):
        outputs, inputs = weight.shape
        arrays = {"weight_data": np.asarray(weight).T, "bias_data": np.asarray(bias)}
        node("Dense", f"dense{number}", n_in=inputs, n_out=outputs, data_format="channels_last", **arrays)
        if number < len(frozen.weights) - 1:
            node("Activation", f"relu{number}", activation="relu", n_in=outputs)
        check_not_constant(model, number)
        quantiser(f"q{number}", model.formats[number].output)
    return layers


def check_modes(format: FixedPoint) -> None:
    """A ValueError for modes that hls4ml's types have and its analysis of ranges has not."""
    if format.rounding not in HLS_MODES[0] or format.overflow not in HLS_MODES[1]:
        known = " and ".join(", ".join(modes) for modes in HLS_MODES)
        msg = f"export: hls4ml 1.3 is bit-exact for {known} only, got {format}; `export_rtl` takes every mode"
        raise ValueError(msg)


def check_not_constant(model: QuantisedClassifier, number: int) -> None:
    """A ValueError if a layer rounds all its values to zero: hls4ml 1.3 gives such words one bit instead of none."""
    layer, total = model.formats[number], model.accumulator(number)
    source = model.input_format if number == 0 else model.formats[number - 1].output
    weights, biases = (np.asarray(codes).astype(float) for codes in model.codes()[number])
    low, high = source.minimum, source.maximum
    ends = np.stack([weights * low, weights * high]) * layer.weight.lsb
    bias = biases * layer.bias.lsb
    largest = float((ends.max(axis=0).sum(axis=1) + bias).max())
    smallest = float((ends.min(axis=0).sum(axis=1) + bias).min())
    reach = largest if number < len(model.weights) - 1 else max(largest, -smallest)
    if total.lsb <= reach <= layer.output.lsb / 2:
        msg = (
            f"export: layer {number} never reaches half of {layer.output.lsb:g}, the step of its output {layer.output}"
        )
        raise ValueError(msg)


def weights_hash(model: QuantisedClassifier) -> str:
    """SHA-256 of all codes and formats: equal for classifiers that compute the same in the same formats."""
    text = json.dumps(model.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def model_card(
    model: QuantisedClassifier,
    *,
    name: str,
    clock_period_ns: float,
    part: str,
    metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What has to be known to use, reproduce and check an exported classifier."""
    layers = [
        {
            "inputs": weight.shape[1],
            "outputs": weight.shape[0],
            "weight": str(layer.weight),
            "bias": str(layer.bias),
            "sum": str(model.accumulator(number)),
            "output": str(layer.output),
            "multiplications": int(np.count_nonzero(np.asarray(codes))),
        }
        for number, (weight, layer, (codes, _)) in enumerate(
            zip(model.weights, model.formats, model.codes(), strict=True)
        )
    ]
    card = {
        "schema": CARD_SCHEMA,
        "version": CARD_VERSION,
        "name": name,
        "clock_period_ns": float(clock_period_ns),
        "part": part,
        "backend": "Vitis",
        "input_format": str(model.input_format),
        "feature_formats": [str(format) for format in model.feature_formats()],
        "output_format": str(model.output_format),
        "layers": layers,
        "sha256": weights_hash(model),
        "versions": tool_versions(TOOLS),
        "metadata": {} if metadata is None else metadata,
    }
    check_card(card)
    return card


def readme(model: QuantisedClassifier, card: dict[str, Any]) -> str:
    """The README of a project: what goes in, what comes out, how to synthesise and to check it."""
    name, output = card["name"], model.output_format
    features = "\n".join(f"| x[{j}] | `{format}` |" for j, format in enumerate(card["feature_formats"]))
    layers = "\n".join(
        f"| {number} | {layer['inputs']} x {layer['outputs']} | "
        + " | ".join(f"`{layer[key]}`" for key in ("weight", "bias", "output"))
        + " |"
        for number, layer in enumerate(card["layers"])
    )
    return f"""# {name}: a trigger classifier in fixed point

An hls4ml {card["versions"]["hls4ml"]} project for Vitis HLS (parallel inputs, latency strategy), part {card["part"]},
clock period {card["clock_period_ns"]:g} ns. Weights: SHA-256 {card["sha256"]}.

## Inputs

The top function `{name}` takes {model.inputs} words of {model.input_format.width} bits, all of the C++ type
`{model.input_format}`. The code of a word stands for a feature in the feature's own unit when it is read in the
format of this table; where that differs from the C++ type, only the binary point has moved, which costs nothing.

| input | format of the feature |
|---|---|
{features}

## Outputs

{model.outputs} logit(s) of the type `{output}`: one least significant bit is {output.lsb}, the range
{output.minimum} to {output.maximum}. Put thresholds on multiples of the least significant bit.

## Layers

| layer | inputs x outputs | weights | biases | values handed on |
|---|---|---|---|---|
{layers}

A ReLU follows every layer but the last.

## Synthesis and check

- `vitis-run --mode hls --tcl build_prj.tcl` synthesises; switch the steps on and off in `build_opt.tcl`.
- `./build_lib.sh` compiles the C simulation with g++.
{"- `rtl` holds the same logic as Verilog, with a README of its own." if RTL in card else "- No Verilog was written."}
- `diffhep.trigger.verify` on this folder generates the project again from `classifier.json`, compares every file, and
  compares the C simulation with integer arithmetic bit for bit.

`firmware/nnet_utils` and `firmware/ap_types` are copies of headers that come with hls4ml, under the Apache License 2.0.
"""
