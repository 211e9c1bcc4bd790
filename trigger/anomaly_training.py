"""From minimum bias to an anomaly trigger: training, threshold, efficiencies beside cut-based seeds, Verilog, card.

The folder is that of `diffhep.trigger.trained`, with `anomaly.json` (encoder and threshold) in place of the classifier
and `result.json` (thresholds, rates, efficiencies, curves). Thresholds of the trigger and of every seed are set on the
same events, those of training and of choosing; rates are judged on events that were kept back.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Bool, Float

from diffhep.io import RunFolder
from diffhep.trigger.anomaly import AnomalyTrigger, check_score
from diffhep.trigger.anomaly_config import AnomalyTraining
from diffhep.trigger.autoencoder import Autoencoder, encoder_luts, reconstruction
from diffhep.trigger.depth import WIRE
from diffhep.trigger.exported import Exported, decision_of
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learning import FrontMember, Split, split_events, visit_front
from diffhep.trigger.level1 import NAMES, Level1Events, read_level1, seed_quantities, there, threshold_for
from diffhep.trigger.project import CARD
from diffhep.trigger.rate import efficiency
from diffhep.trigger.resources import lut_model
from diffhep.trigger.trained import (
    ANOMALY_CARD,
    FRONT,
    chosen,
    features_record,
    proof_record,
    resources_record,
    write_logic,
)

VERSION = 1
RESULT = "result.json"
EXPONENT = 5  # of every feature: whole numbers become words around 1
LEAST_SPREAD = 0.25  # of a word by which it is standardised: 4 GeV
LEAST_EVENTS = 100
CURVE_POINTS = 25
CURVE_SPAN = 30.0  # rates of the curves, below and above the budget
# the bunch crossings of the level-1 trigger of CMS that an anomaly trigger may take
DEADLINE = 50.0  # ns


def read_events(settings: AnomalyTraining) -> tuple[Level1Events, dict[str, Level1Events]]:
    """Minimum bias, and the signals by the names of their files.

    Raises:
        ValueError: no file is named, one cannot be read, or there are too few events, or weights below 0.
    """
    if settings.data.file is None:
        msg = "data.file: a ROOT file of minimum bias is wanted, as of diffhep generate pythia minimum-bias"
        raise ValueError(msg)
    read = lambda path: read_level1(path, settings.objects, seed=settings.schedule.seed)
    background = read(settings.data.file)
    if len(background.share) < LEAST_EVENTS:
        msg = f"{settings.data.file}: at least {LEAST_EVENTS} events are wanted, got {len(background.share)}"
        raise ValueError(msg)
    if (background.share < 0).any():
        msg = f"{settings.data.file}: event {int(np.argmax(background.share < 0))} has a negative weight"
        raise ValueError(msg)
    kept = settings.rate.total * float(background.share.sum())
    if settings.rate.budget >= kept:
        msg = f"rate.budget: {settings.rate.budget:g} Hz is not below the rate of all events, {kept:.4g} Hz"
        raise ValueError(msg)
    return background, {path.stem: read(path) for path in settings.data.signals}


def first_autoencoder(settings: AnomalyTraining, background: Level1Events) -> Autoencoder:
    """An autoencoder with random weights for the spectra of minimum bias.

    Raises:
        ValueError: the input format is not understood, or does not hold the hardware's numbers.
    """
    given, format = settings.network, FixedPoint.parse(settings.network.input_format)
    words = np.ldexp(background.features, -EXPONENT)
    weight = background.share / background.share.sum()
    mean = weight @ words
    spread = np.sqrt(weight @ (words - mean) ** 2)
    model = Autoencoder.init(
        mean,
        # rare objects would get weights, and words, of twenty bits
        np.maximum(spread, LEAST_SPREAD),
        hidden=given.widths,
        latent=settings.autoencoder.latent,
        decoder=settings.autoencoder.decoder,
        beta=settings.autoencoder.beta,
        exponent=EXPONENT,
        input_format=format,
        granularity=given.granularity,
        weight_f=given.weight_bits,
        activation_f=given.activation_bits,
        key=jr.key(settings.schedule.seed),
    )
    lost = np.abs(words - np.asarray(model.encoder.words(background.features))).max(axis=0)
    if lost.max() > 0:
        msg = f"{background.source}: {NAMES[int(lost.argmax())]} does not fit {format} times 2^{EXPONENT}; "
        msg += "hardware units are whole numbers of up to 11 bits and a sign"
        raise ValueError(msg)
    return model


def fit_anomaly(
    settings: AnomalyTraining,
    background: Level1Events,
    *,
    run: RunFolder | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[FrontMember], Split]:
    """Train an autoencoder and the formats of its encoder: the front of loss against lookup tables, and the split.

    The accuracy of a member is exp(-loss). Nothing but minimum bias takes part.

    Args:
        settings: of the training.
        background: minimum bias.
        run: where checkpoints and metrics go, and where a killed training is found again.
        progress: called with the phase and the share done.

    Raises:
        ValueError: the features do not fit the input format.
    """
    model, luts = first_autoencoder(settings, background), lut_model()
    weight = jnp.asarray(background.share / background.share.mean(), jnp.float32)
    words = model.encoder.words(background.features)
    data = split_events(words, weight, held_out=settings.data.held_out, seed=settings.schedule.seed)
    front = visit_front(
        model,
        data,
        settings.network,
        settings.schedule,
        cost=lambda made: encoder_luts(made, luts),
        limit=settings.firmware.budget or 0.0,
        task=reconstruction(there),
        run=run,
        progress=progress,
    )
    return front, data


@eqx.filter_jit
def scores(trigger: AnomalyTrigger, features: Float[np.ndarray, "event 57"]) -> Float[np.ndarray, " event"]:
    """The scores of events."""
    return trigger(features)


def with_threshold(
    encoder: LearnedClassifier, events: Level1Events, rows: np.ndarray, settings: AnomalyTraining
) -> AnomalyTrigger:
    """The trigger that keeps no more than the budget of some events, whose shares are scaled to the total rate."""
    exact = LearnedClassifier.from_dict(encoder.to_dict())
    check_score(exact)
    values = np.asarray(scores(AnomalyTrigger(exact, 0.0), events.features[rows]))
    return AnomalyTrigger(exact, threshold_for(values, rates_of(events, rows, settings), settings.rate.budget))


def rates_of(events: Level1Events, rows: np.ndarray, settings: AnomalyTraining) -> Float[np.ndarray, " event"]:
    """The rate that each event of a part stands for [Hz]; the part stands for all events."""
    part = events.share[rows]
    return settings.rate.total * part * (events.share.sum() / part.sum())


def compared(
    trigger: AnomalyTrigger,
    background: Level1Events,
    signals: Mapping[str, Level1Events],
    rows: Mapping[str, np.ndarray],
    settings: AnomalyTraining,
) -> dict[str, Any]:
    """Threshold, rate and efficiencies of the trigger and of every cut-based seed at the same rate.

    Args:
        trigger: with its threshold.
        background: minimum bias.
        signals: by their names.
        rows: of the background, to set thresholds on (`design`) and to judge rates by (`held_out`).
        settings: of the training.

    Returns:
        `seeds`: by name, the trigger first: `threshold`, `unit`, `rate` on both parts, and `efficiency` by signal;
        `alone`: the share of a signal that the trigger keeps and no other seed; `curves`: efficiencies against rates;
        `heaviest`: the rate that one event stands for [Hz], at most: below some ten of these, thresholds mean little.
    """
    score = lambda events: np.asarray(scores(trigger, events.features))
    looked = lambda events: {"anomaly": score(events), **seed_quantities(events.features)}
    ours, theirs = looked(background), {name: looked(events) for name, events in signals.items()}
    rate = {part: rates_of(background, of_part, settings) for part, of_part in rows.items()}
    budget, design = settings.rate.budget, rows["design"]
    cuts = {name: threshold_for(values[design], rate["design"], budget) for name, values in ours.items()}
    # 0.5 GeV is one
    unit = lambda name: 1.0 if name == "anomaly" else 0.5
    found: dict[str, Any] = {}
    for name, values in ours.items():
        found[name] = {
            "threshold": cuts[name] * unit(name),
            "unit": "" if name == "anomaly" else "GeV",
            "rate": {part: summed(values[of_part] > cuts[name], rate[part]) for part, of_part in rows.items()},
            "efficiency": {
                signal: share_of(theirs[signal][name] > cuts[name], events.share) for signal, events in signals.items()
            },
        }
    others = [name for name in ours if name != "anomaly"]
    alone = {}
    for signal, events in signals.items():
        taken = np.any([theirs[signal][name] > cuts[name] for name in others], axis=0)
        alone[signal] = share_of((theirs[signal]["anomaly"] > cuts["anomaly"]) & ~taken, events.share)
    top = min(budget * CURVE_SPAN, 0.5 * settings.rate.total)
    budgets = np.geomspace(budget / CURVE_SPAN, top, CURVE_POINTS)
    steps = {name: [threshold_for(v[design], rate["design"], b) for b in budgets] for name, v in ours.items()}
    curves = {
        signal: {
            name: [share_of(theirs[signal][name] > cut, events.share)["value"] for cut in steps[name]] for name in ours
        }
        for signal, events in signals.items()
    }
    return {
        "budget": budget,
        "heaviest": float(rate["design"].max()),
        "seeds": found,
        "alone": alone,
        "curves": {"rate": budgets.tolist(), "signals": curves},
    }


def summed(kept: Bool[np.ndarray, " event"], rate: Float[np.ndarray, " event"]) -> dict[str, float]:
    """The rate of what is kept, and its standard error [Hz]."""
    return {"value": float(rate[kept].sum()), "stderr": float(np.sqrt(np.sum(rate[kept] ** 2)))}


def share_of(kept: Bool[np.ndarray, " event"], weight: Float[np.ndarray, " event"]) -> dict[str, float]:
    """The efficiency, and its binomial error."""
    value, error = efficiency(kept.astype(float), weight)
    return {"value": value, "stderr": error}


def write_anomaly(
    run: RunFolder,
    settings: AnomalyTraining,
    background: Level1Events,
    signals: Mapping[str, Level1Events],
    front: list[FrontMember],
    data: Split,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Choose an encoder of a front, set its threshold, export it, prove it, and write all of it; returns the card.

    Raises:
        ValueError: no encoder fits the budget, it cannot be exported, or da4ml is missing. Without g++ or Verilator
            the proof leaves out what they would run, and the card says so.
    """
    rows = {"design": np.concatenate([data.rows["train"], data.rows["choose"]]), "held_out": data.rows["judge"]}
    design, headroom = rows["design"], settings.rate.headroom
    threshold = lambda model: with_threshold(model.encoder, background, design, settings)
    decide = lambda model: decision_of(threshold(model).limited(headroom))
    record = [
        {"merit": m.accuracy, "loss": m.loss, "luts_model": m.cost, "encoder": m.network.encoder.to_dict()}
        for m in front
    ]
    run.write_json(FRONT, {"front": record})
    member, counted = chosen(front, settings.firmware, made=decide, say=say)
    exported: Exported = decide(member.network)
    trigger = AnomalyTrigger.from_dict(exported.content)
    say("efficiencies")
    # rates far below the budget want thresholds at which the exported words have saturated
    result = compared(threshold(member.network), background, signals, rows, settings)
    run.write_json(RESULT, result)
    rtl, certificate = write_logic(
        run, exported, settings.firmware, background.features[rows["held_out"]], counted, say=say
    )
    took = resources_record(rtl, counted, settings.firmware)
    took |= {"luts_model": member.cost, "dsps": (counted or {}).get("dsps"), "timing": timing_record(rtl, counted)}
    card = {
        "schema": ANOMALY_CARD,
        "version": VERSION,
        "data": {
            "background": source_record(background),
            "signals": {name: source_record(events) for name, events in signals.items()},
            "features": features_record(exported, NAMES),
            "split": {name: len(part) for name, part in data.rows.items()},
        },
        "seed": settings.schedule.seed,
        "settings": settings.model_dump(mode="json"),
        "metrics": {"loss": member.loss, **{k: result[k] for k in ("budget", "seeds", "alone")}},
        "score": {"lsb": trigger.lsb, "threshold": trigger.threshold, "latent": len(trigger.encoder.layers[-1].weight)},
        "resources": took,
        **proof_record(exported, rtl, certificate),
    }
    run.write_json(CARD, card)
    return card


def timing_record(rtl: Mapping[str, Any], counted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The shortest clock period that the deepest stage lets through, by `diffhep.trigger.depth`, and the latency.

    None where yosys is missing, or has used cells whose delays are not known.
    """
    if counted is None or counted["longest_ns"] is None:
        return None
    # without a clock all of the logic is one path
    latency = max(rtl["latency_cycles"], 1) * counted["longest_ns"]
    asked = rtl["latency_ns"] if rtl["latency_cycles"] else latency
    return {
        "tool": f"{counted['tool']}: cells of an Artix-7 and {WIRE:g} ns a wire, before placement",
        "longest_ns": counted["longest_ns"],
        "longest_cells": counted["longest_cells"],
        "clock_MHz": 1e3 / counted["longest_ns"],
        "latency_ns": latency,
        "deadline_ns": DEADLINE,
        # at the clock that was asked for, if the logic is fast enough for it, or at the fastest one
        "within": bool(latency <= DEADLINE),
        "clock_met": bool(not rtl["latency_cycles"] or latency <= asked),
    }


def source_record(events: Level1Events) -> dict[str, Any]:
    """Where events came from, for the card."""
    return {"source": events.source, "sha256": events.sha256, "events": len(events.share)}
