"""From a front of networks to a folder of firmware: the choice, Verilog, its proof, and a card that says it all.

A folder holds `front.json` (accuracy and cost of all networks of the front, with their codes), `classifier.json` (the
chosen one), `rtl/` (its Verilog, `diffhep.trigger.export_rtl`), `certificate.json` (the proof, and what yosys counts)
and `model_card.json` (data, seeds, settings, metrics, hashes, versions).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.io import RunFolder, read_json
from diffhep.trigger.checks import check_inputs
from diffhep.trigger.classifier import feature_formats
from diffhep.trigger.config import FirmwareSettings, TriggerTraining
from diffhep.trigger.labelled import Labelled
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learning import FrontMember, Split, measured
from diffhep.trigger.lowering import Words
from diffhep.trigger.project import CARD, tool_versions
from diffhep.trigger.resources import ebops, lut_model
from diffhep.trigger.rtl import export_rtl
from diffhep.trigger.synthesis import synthesised
from diffhep.trigger.verify_rtl import verify_rtl

SCHEMA, VERSION = "diffhep trigger training card", 1
CLASSIFIER, CERTIFICATE, FRONT, RTL = "classifier.json", "certificate.json", "front.json", "rtl"
TOOLS = ("diffhep", "da4ml", "jax", "equinox", "optax", "numpy")


def network_hash(network: LearnedClassifier) -> str:
    """SHA-256 of all weights and formats: equal for networks that compute the same in the same formats."""
    return hashlib.sha256(json.dumps(network.to_dict(), sort_keys=True).encode()).hexdigest()


def chosen(
    front: Sequence[FrontMember], firmware: FirmwareSettings, *, say: Callable[[str], None] = lambda line: None
) -> tuple[FrontMember, dict[str, Any] | None]:
    """The network to export, and what yosys counts for it (None where yosys is missing).

    Without a budget it is the smallest network that gives up no more than `firmware.tolerance` of the best accuracy.
    With one it is the most accurate network that takes no more than the budget after synthesis; without yosys, by the
    model of lookup tables.

    Raises:
        ValueError: no network of the front fits the budget.
    """
    there, levels = shutil.which("yosys") is not None, firmware.levels or None
    if firmware.budget is None:
        best = max(member.accuracy for member in front)
        member = min((m for m in front if m.accuracy >= best - firmware.tolerance), key=lambda m: m.cost)
        say("synthesising")
        return member, synthesised(member.network, levels_per_stage=levels) if there else None
    # what was counted for one network corrects the model for its neighbours
    ratio, refused = 1.0, []
    while True:
        left = [m for m in front if m.cost * ratio <= firmware.budget and not any(m is other for other in refused)]
        if not left:
            smallest = min(member.cost for member in front)
            msg = f"firmware: no network of the front fits the budget of {firmware.budget:g} LUTs, the smallest takes "
            msg += f"about {smallest:.0f}; raise last_price or the budget"
            raise ValueError(msg)
        member = max(left, key=lambda m: (m.accuracy, -m.cost))
        if not there:
            return member, None
        say(f"synthesising a network of about {member.cost:.0f} LUTs")
        counted = synthesised(member.network, levels_per_stage=levels)
        if counted["luts"] <= firmware.budget:
            return member, counted
        refused.append(member)
        ratio = max(ratio, counted["luts"] / member.cost)


def front_record(front: Sequence[FrontMember], data: Split) -> list[dict[str, Any]]:
    """Every network of a front as JSON: its codes, and what it reaches on events it has never met."""
    model, rows = lut_model(), []
    for member in front:
        rows.append(
            {
                "accuracy": measured(member.network, *data.judge)["accuracy"],
                "accuracy_chosen_by": member.accuracy,
                "cost": member.cost,
                "luts_model": float(model.luts(member.network)),
                "ebops": float(ebops(member.network)),
                "levels_model": float(model.depth(member.network)),
                "weights": int(sum(np.count_nonzero(np.asarray(layer.weight)) for layer in member.network.layers)),
                "network": member.network.to_dict(),
            }
        )
    return rows


def write_firmware(
    run: RunFolder,
    settings: TriggerTraining,
    sample: Labelled,
    front: Sequence[FrontMember],
    data: Split,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Choose a network of a front, export it, prove it, and write everything beside each other; returns the card.

    Raises:
        ValueError: no network fits the budget, it cannot be exported, or g++, Verilator or da4ml is missing.
    """
    firmware = settings.firmware
    run.write_json(FRONT, {"front": (rows := front_record(front, data)), "cost": settings.schedule.cost})
    member, counted = chosen(front, firmware, say=say)
    # what is read back is what is exported: both have passed through the file
    network = LearnedClassifier.from_dict(member.network.to_dict())
    run.write_json(CLASSIFIER, network.to_dict())
    say("writing Verilog")
    # of a run that was killed after this step
    shutil.rmtree(run.path / RTL, ignore_errors=True)
    rtl = export_rtl(
        network.logits,
        run.path / RTL,
        inputs=Words((network.inputs,), network.input_format),
        clock_period_ns=firmware.clock_period,
        levels_per_stage=firmware.levels or None,
        part=firmware.part,
        metadata={"classifier": network_hash(network)},
    )
    events = np.ldexp(np.asarray(data.judge[0], np.float64), np.asarray(network.exponents))
    certificate = verify_training(run.path, n=firmware.inputs, features=events, say=say)
    certificate["synthesis"] = counted
    run.write_json(CERTIFICATE, certificate)
    row = rows[[m is member for m in front].index(True)]
    words = feature_formats(network.input_format, network.exponents)
    card = {
        "schema": SCHEMA,
        "version": VERSION,
        "data": {
            "source": sample.source,
            "sha256": sample.sha256,
            "events": len(sample.labels),
            "classes": sample.classes,
            "features": [{"name": n, "word": str(f)} for n, f in zip(sample.names, words, strict=True)],
            "split": {name: len(getattr(data, name)[1]) for name in ("train", "choose", "judge")},
        },
        "seed": settings.schedule.seed,
        "settings": settings.model_dump(mode="json"),
        "metrics": {"accuracy": row["accuracy"], "accuracy_chosen_by": row["accuracy_chosen_by"]},
        "resources": {
            "luts": None if counted is None else counted["luts"],
            "flip_flops": None if counted is None else counted["flip_flops"],
            "tool": None if counted is None else counted["tool"],
            "budget": firmware.budget,
            **{name: row[name] for name in ("luts_model", "ebops", "weights")},
            "levels": rtl["levels"],
            "latency_cycles": rtl["latency_cycles"],
            "latency_ns": rtl["latency_ns"],
        },
        "proof": {name: certificate[name] for name in ("inputs", "outputs", "mismatches")},
        "sha256": {"classifier": network_hash(network), "rtl": rtl["sha256"]},
        "versions": tool_versions(TOOLS),
    }
    run.write_json(CARD, card)
    return card


def read_network(folder: str | Path) -> LearnedClassifier:
    """The exported network of a folder, frozen.

    Raises:
        ValueError: the folder holds none, or its file is broken.
    """
    file = Path(folder) / CLASSIFIER
    if not file.is_file():
        msg = f"{folder}: holds no trained trigger, it has no {CLASSIFIER}"
        raise ValueError(msg)
    return LearnedClassifier.from_dict(read_json(file))


def is_training(folder: str | Path) -> bool:
    """Whether a folder holds a trained network and its Verilog, so that `verify_training` can prove it."""
    return (Path(folder) / CERTIFICATE).is_file() and (Path(folder) / RTL).is_dir()


def verify_training(
    folder: str | Path,
    *,
    n: int = 100_000,
    seed: int = 0,
    features: np.ndarray | None = None,
    synthesis: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the network of a folder, computed by JAX, with its Verilog, bit for bit.

    Args:
        folder: a folder of `diffhep trigger train`.
        n: number of random inputs, as for `diffhep.trigger.verify_rtl`.
        seed: of the random inputs.
        features: events to be compared in addition (event, feature), in the units of the features.
        synthesis: also count with yosys.
        say: called with one line of text before each step.

    Returns:
        What `diffhep.trigger.verify_rtl` returns.

    Raises:
        ValueError: as `diffhep.trigger.verify_rtl`.
    """
    network = read_network(folder)
    scaled = None if features is None else check_inputs(features, network.inputs, "verify: events")
    inputs = None if scaled is None else [np.ldexp(scaled, -np.asarray(network.exponents))]
    return verify_rtl(
        Path(folder) / RTL, network.logits, n=n, seed=seed, inputs=inputs, synthesis=synthesis, progress=say
    )
