"""From a front of networks to a folder of firmware: the choice, both routes, their proof, and a card that says it all.

A folder holds `front.json` (accuracy and cost of all networks of the front, with their codes), `classifier.json` (the
chosen one), `hls/` and `rtl/` (its hls4ml project and its Verilog, `diffhep.trigger.export_function`),
`certificate.json` (the proof, and what yosys counts) and `model_card.json` (data, seeds, settings, metrics, hashes,
versions).
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffhep.io import RunFolder, read_json
from diffhep.trigger.checks import check_inputs
from diffhep.trigger.classifier import feature_formats
from diffhep.trigger.config import FirmwareSettings, TriggerTraining
from diffhep.trigger.exported import Exported, Network, logits_of, read_exported, read_network
from diffhep.trigger.labelled import Labelled
from diffhep.trigger.learned_tables import TableClassifier
from diffhep.trigger.learning import FrontMember, Split, measured
from diffhep.trigger.lowering import trace
from diffhep.trigger.project import CARD, DEFAULT_PART, HLS, RTL, check_free, new_folder, tool_versions, write_json
from diffhep.trigger.resources import ebops, lut_model
from diffhep.trigger.routes import verify_function, write_routes
from diffhep.trigger.rtl import check_rtl_settings
from diffhep.trigger.synthesis import synthesised

SCHEMA, VERSION = "diffhep trigger training card", 1
CERTIFICATE, FRONT = "certificate.json", "front.json"
ANOMALY_CARD = "diffhep anomaly trigger card"  # in place of `SCHEMA`
NAME = "trigger"  # of the top C++ function and the top module
TOOLS = ("diffhep", "hls4ml", "da4ml", "jax", "equinox", "optax", "numpy")


def chosen(
    front: Sequence[FrontMember],
    firmware: FirmwareSettings,
    *,
    made: Callable[[Any], Exported] = logits_of,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[FrontMember, dict[str, Any] | None]:
    """The network to export, and what yosys counts for it (None where yosys is missing).

    Without a budget it is the smallest network that gives up no more than `firmware.tolerance` of the best accuracy.
    With one it is the most accurate network that takes no more than the budget after synthesis; without yosys, by the
    model of lookup tables.

    Raises:
        ValueError: no network of the front fits the budget.
    """
    there = shutil.which("yosys") is not None

    def count(member: FrontMember) -> dict[str, Any]:
        exported = made(member.network)
        return synthesised(exported.function, exported.words, **firmware.pipeline)

    if firmware.budget is None:
        best = max(member.accuracy for member in front)
        member = min((m for m in front if m.accuracy >= best - firmware.tolerance), key=lambda m: m.cost)
        say("synthesising")
        return member, count(member) if there else None
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
        counted = count(member)
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
                "ebops": None if isinstance(member.network, TableClassifier) else float(ebops(member.network)),
                "levels_model": float(model.depth(member.network)),
                "weights": member.network.weights,
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
        ValueError: no network fits the budget, it cannot be exported, or da4ml is missing. Without g++ or Verilator
            the proof leaves out what they would run, and the card says so.
    """
    firmware = settings.firmware
    run.write_json(FRONT, {"front": (rows := front_record(front, data)), "cost": settings.schedule.cost})
    member, counted = chosen(front, firmware, say=say)
    # what is read back is what is exported: both have passed through the file
    exported = logits_of(read_network(member.network.to_dict()))
    events = np.ldexp(np.asarray(data.judge[0], np.float64), np.asarray(exported.network.exponents))
    rtl, certificate = write_logic(run, exported, firmware, events, counted, say=say)
    row = rows[[m is member for m in front].index(True)]
    card = {
        "schema": SCHEMA,
        "version": VERSION,
        "data": {
            "source": sample.source,
            "sha256": sample.sha256,
            "events": len(sample.labels),
            "classes": sample.classes,
            "features": features_record(exported, sample.names),
            "split": {name: len(rows) for name, rows in data.rows.items()},
        },
        "seed": settings.schedule.seed,
        "settings": settings.model_dump(mode="json"),
        "metrics": {"accuracy": row["accuracy"], "accuracy_chosen_by": row["accuracy_chosen_by"]},
        "resources": resources_record(rtl, counted, firmware)
        | {name: row[name] for name in ("luts_model", "ebops", "weights")},
        **proof_record(exported, rtl, certificate),
    }
    run.write_json(CARD, card)
    return card


def write_logic(
    run: RunFolder,
    exported: Exported,
    firmware: FirmwareSettings,
    events: Float[np.ndarray, "event n"],
    counted: dict[str, Any] | None,
    *,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a network by both routes, and prove it on random and on given events; the Verilog's card and the proof."""
    run.write_json(exported.file, exported.content)
    say("writing C++ and Verilog")
    # of a run that was killed after this step
    for route in (HLS, RTL):
        shutil.rmtree(run.path / route, ignore_errors=True)
    cards = write_routes(
        run.path,
        trace(exported.function, exported.words),
        firmware.pipeline,
        name=NAME,
        clock_period_ns=firmware.clock_period,
        part=firmware.part,
        metadata={"classifier": exported.sha256},
    )
    certificate = verify_training(run.path, n=firmware.inputs, features=events, say=say)
    certificate |= {"synthesis": counted, "hls_sha256": cards[HLS]["sha256"]}
    run.write_json(CERTIFICATE, certificate)
    return cards[RTL], certificate


def features_record(exported: Exported, names: Sequence[str]) -> list[dict[str, str]]:
    """Names of the features, and the words in which they arrive, for the card."""
    words = feature_formats(exported.network.input_format, exported.network.exponents)
    return [{"name": n, "word": str(f)} for n, f in zip(names, words, strict=True)]


def resources_record(rtl: dict[str, Any], counted: dict[str, Any] | None, firmware: FirmwareSettings) -> dict[str, Any]:
    """What the logic takes, for the card."""
    given = counted or {}
    return {
        **{name: given.get(name) for name in ("luts", "flip_flops", "tool")},
        "budget": firmware.budget,
        **{name: rtl[name] for name in ("levels", "latency_cycles", "latency_ns")},
    }


def proof_record(exported: Exported, rtl: dict[str, Any], certificate: dict[str, Any]) -> dict[str, Any]:
    """Proof, hashes and versions, for the card."""
    return {
        "proof": {name: certificate[name] for name in ("inputs", "outputs", "mismatches", "comparisons", "missing")},
        "sha256": {"classifier": exported.sha256, "hls": certificate["hls_sha256"], "rtl": rtl["sha256"]},
        "versions": tool_versions(TOOLS),
    }


def is_training(folder: str | Path) -> bool:
    """Whether a folder holds a trained network and its firmware, so that `verify_training` can prove it."""
    card, rtl = Path(folder) / CARD, Path(folder) / RTL
    found = read_json(card) if card.is_file() and rtl.is_dir() else None
    return isinstance(found, dict) and found.get("schema") in (SCHEMA, ANOMALY_CARD)


def export_training(
    folder: str | Path,
    output: str | Path,
    *,
    clock_period: float | None = None,
    levels: int | None = None,
    input_register: bool | None = None,
) -> dict[str, Any]:
    """Write the network of a trained folder by both routes for another clock to a new folder; returns its card.

    Args:
        folder: of `diffhep trigger train` or `diffhep trigger anomaly`.
        output: the new folder, which `verify_training` can prove.
        clock_period: target clock period [ns].
        levels: adders between two registers; 0 for logic without a clock.
        input_register: whether a pipeline begins with a register; without it, words should come from one. Each is that
            of the folder where it is None.

    Raises:
        ValueError: the folder holds no trained network, the new one something, or a setting is not usable.
    """
    card = read_json(Path(folder) / CARD)
    given = {"clock_period": clock_period, "levels": levels, "input_register": input_register}
    known = {name: value for name, value in card["settings"]["firmware"].items() if name in given}
    changed = {name: value for name, value in given.items() if value is not None}
    firmware = FirmwareSettings.model_validate(known | changed)
    exported = read_exported(folder)
    return _write_project(exported, card, output, firmware.pipeline, clock_period_ns=firmware.clock_period)


def export_network(
    network: Network,
    output: str | Path,
    origin: dict[str, Any],
    *,
    clock_period_ns: float = 5.0,
    levels_per_stage: int | None = 5,
) -> dict[str, Any]:
    """Write a classifier of learned formats by both routes to a new folder; returns its card.

    Args:
        network: frozen.
        output: the new folder, which `verify_training` can prove.
        origin: for the card: where the network comes from.
        clock_period_ns: target clock period [ns].
        levels_per_stage: adders between two registers; None for logic without a clock.

    Raises:
        ValueError: the folder holds something, a setting is not usable, or da4ml is missing.
    """
    exported = logits_of(network)
    card = {
        "schema": SCHEMA,
        "version": VERSION,
        **origin,
        "settings": {"firmware": {"part": DEFAULT_PART}},
        "luts_model": float(lut_model().luts(network)),
        "versions": tool_versions(TOOLS),
    }
    pipeline = {"levels_per_stage": levels_per_stage, "input_register": True}
    return _write_project(exported, card, output, pipeline, clock_period_ns=clock_period_ns)


def _write_project(
    exported: Exported,
    card: dict[str, Any],
    output: str | Path,
    pipeline: dict[str, Any],
    *,
    clock_period_ns: float,
) -> dict[str, Any]:
    """A new folder with a network, its firmware and its card, which says nothing of another clock's logic."""
    part = card["settings"]["firmware"]["part"]
    check_rtl_settings(NAME, clock_period_ns=clock_period_ns, part=part, **pipeline)
    check_free(Path(output))
    with new_folder(Path(output)) as unfinished:
        unfinished.mkdir()
        cards = write_routes(
            unfinished,
            trace(exported.function, exported.words),
            pipeline,
            name=NAME,
            clock_period_ns=clock_period_ns,
            part=part,
            metadata={"classifier": exported.sha256},
        )
        rtl = cards[RTL]
        card = card | {
            "resources": {name: rtl[name] for name in ("levels", "latency_cycles", "latency_ns")},
            "proof": None,
            "sha256": {"classifier": exported.sha256} | {route: made["sha256"] for route, made in cards.items()},
        }
        write_json(unfinished / exported.file, exported.content)
        write_json(unfinished / CARD, card)
    return card


def verify_training(
    folder: str | Path,
    *,
    n: int = 100_000,
    seed: int = 0,
    features: np.ndarray | None = None,
    synthesis: bool = False,
    timing: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the network of a folder, computed by JAX, with its C simulation and its Verilog, bit for bit.

    Args:
        folder: a folder of `diffhep trigger train` or `diffhep trigger anomaly`.
        n: number of random inputs, as for `diffhep.trigger.verify`.
        seed: of the random inputs.
        features: events to be compared in addition (event, feature), in the units of the features.
        synthesis: also count with yosys.
        timing: also place and route with nextpnr.
        say: called with one line of text before each step.

    Returns:
        What `diffhep.trigger.verify_function` returns.

    Raises:
        ValueError: as `diffhep.trigger.verify_function`.
    """
    function, network, *_ = read_exported(folder)
    scaled = None if features is None else check_inputs(features, network.inputs, "verify: events")
    inputs = None if scaled is None else [np.ldexp(scaled, -np.asarray(network.exponents))]
    also = {"synthesis": synthesis, "timing": timing}
    return verify_function(folder, function, n=n, seed=seed, inputs=inputs, **also, progress=say)
