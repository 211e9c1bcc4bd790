"""From events to a front of networks: the phases of `diffhep.trigger.format_training`, with checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from diffhep.io import RunFolder
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.config import FormatSchedule, NetworkSettings, TriggerTraining
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.format_training import (
    CLASSIFICATION,
    Cost,
    FormatState,
    Formatted,
    FormatTraining,
    Pressure,
    Task,
    classify,
)
from diffhep.trigger.labelled import Labelled
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learned_tables import TableClassifier
from diffhep.trigger.resources import ebops, lut_model

SLOTS = 96  # sizes between the smallest and the largest, for each of which the best network is kept
SPAN = 200.0  # ratio of the largest to the smallest
CALIBRATION = 20_000  # events on which ranges are found during training; all of them at the end
LEAST_SHARE = 0.8  # of a budget that training aims at: a network that has collapsed must not move it away
CHECKPOINT = "checkpoints/formats.eqx"


@dataclass(frozen=True)
class Split:
    """Events to train on, to choose by and to judge by, as words that have arrived.

    Attributes:
        train, choose, judge: (words, labels), float32 and int32; or (words, weights), all of them float32.
        rows: numbers of the events of each part.
    """

    train: tuple[Array, Array]
    choose: tuple[Array, Array]
    judge: tuple[Array, Array]
    rows: Mapping[str, Int[np.ndarray, " event"]]


@dataclass(frozen=True)
class FrontMember:
    """One network of a front: as hardware has it, in double precision, with what it reaches and takes."""

    network: Any
    accuracy: float
    loss: float
    cost: float


class Kept(eqx.Module):
    """The best network of every size, and in the last slot the best within the budget; accuracy -1: none yet."""

    weights: PyTree
    accuracy: Float[np.ndarray, " slot"]
    cost: Float[np.ndarray, " slot"]
    multiplier: Float[np.ndarray, " slot"]

    @staticmethod
    def empty(network: Formatted) -> "Kept":
        """Nothing kept, for networks like this one."""
        slots = SLOTS + 1
        weights = jax.tree.map(lambda x: np.zeros((slots, *x.shape), x.dtype), eqx.filter(network, eqx.is_array))
        return Kept(weights, np.full(slots, -1.0), np.zeros(slots), np.zeros(slots))

    def offer(
        self,
        network: Formatted,
        accuracy: float,
        cost: float,
        *,
        largest: float,
        limit: float,
        multiplier: float,
    ) -> None:
        """Keep a network where it is better than what is there."""
        share = np.log(max(largest / max(cost, 1e-9), 1.0)) / np.log(SPAN)
        slots = [min(int(SLOTS * share), SLOTS - 1)] + ([SLOTS] if 0 < cost <= limit else [])
        for slot in slots:
            if (accuracy, -cost) > (self.accuracy[slot], -self.cost[slot]):
                self.accuracy[slot], self.cost[slot], self.multiplier[slot] = accuracy, cost, multiplier
                pairs = zip(
                    jax.tree.leaves(self.weights), jax.tree.leaves(eqx.filter(network, eqx.is_array)), strict=True
                )
                for all_slots, array in pairs:
                    all_slots[slot] = np.asarray(array)

    def network(self, slot: int, like: Formatted) -> Any:
        """The network of a slot, of the structure of another one."""
        arrays = jax.tree.map(lambda x: jnp.asarray(x[slot]), self.weights)
        return eqx.combine(arrays, eqx.filter(like, eqx.is_array, inverse=True))

    def front(self) -> list[int]:
        """The slots that no other one beats, by falling cost."""
        filled = [slot for slot in range(SLOTS + 1) if self.accuracy[slot] >= 0]
        filled.sort(key=lambda slot: (self.cost[slot], -self.accuracy[slot]))
        best, out = -1.0, []
        for slot in filled:
            if self.accuracy[slot] > best:
                best = self.accuracy[slot]
                out.append(slot)
        return out[::-1]


def split_events(words: Array, targets: Array, *, held_out: float, seed: int) -> Split:
    """A random split; half of what is held out is for choosing, half for judging.

    Args:
        words: of the events, as they arrive.
        targets: what belongs to each event, as the training wants it.
        held_out: share of the events.
        seed: of the split.
    """
    order = np.random.default_rng([seed, 7]).permutation(len(targets))
    away = max(2, round(held_out * len(order)))
    choose, judge, train = np.split(order, [away // 2, away])
    pair = lambda rows: (jnp.asarray(words[rows], jnp.float32), targets[rows])
    return Split(pair(train), pair(choose), pair(judge), {"train": train, "choose": choose, "judge": judge})


def first_network(settings: TriggerTraining, sample: Labelled) -> LearnedClassifier | TableClassifier:
    """A network with random weights or tables for the features of a sample, in the formats to begin with.

    Raises:
        ValueError: the input format is not understood, or most values of a feature lie outside of it.
    """
    given, key = settings.network, jr.key(settings.schedule.seed)
    outputs = 1 if sample.classes == 2 else sample.classes
    floating = DenseClassifier.init((sample.features.shape[1], *given.widths, outputs), key=key)
    floating = floating.standardised_to(sample.features)
    network = LearnedClassifier.of(
        floating,
        input_format=FixedPoint.parse(given.input_format),
        granularity=given.granularity,
        weight_f=given.weight_bits,
        activation_f=given.activation_bits,
    )
    scaled = np.ldexp(sample.features, -np.asarray(network.exponents))
    outside = np.mean(np.abs(scaled - np.asarray(network.words(sample.features))) > network.input_format.lsb, axis=0)
    if outside.max() > 0.5:
        j = int(outside.argmax())
        msg = f"{sample.source}: {outside[j]:.0%} of {sample.names[j]} lie outside {network.input_format} times "
        msg += f"2^{network.exponents[j]}; give input_format more integer bits"
        raise ValueError(msg)
    if given.kind == "dense":
        return network
    return TableClassifier.init(
        network.words(sample.features),
        (*given.widths, outputs),
        exponents=network.exponents,
        input_format=network.input_format,
        result_f=given.weight_bits,
        word_f=given.activation_bits,
        key=key,
    )


def single(network: Formatted) -> Formatted:
    """The network in single precision, in which it is trained."""
    narrow = lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x
    return jax.tree.map(narrow, network)


def fit_formats(
    settings: TriggerTraining,
    sample: Labelled,
    *,
    run: RunFolder | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[FrontMember], Split]:
    """Train a network and its formats: the front of accuracy against cost, by falling cost, and the split of events.

    What a member reaches is counted on the events for choosing, by the network as hardware has it.

    Args:
        settings: of the training.
        sample: the events.
        run: where checkpoints and metrics go, and where a killed training is found again.
        progress: called with the phase and the share done.

    Raises:
        ValueError: events that do not fit the input format.
    """
    network, labels = first_network(settings, sample), jnp.asarray(sample.labels, jnp.int32)
    words, seed = network.words(sample.features), settings.schedule.seed
    data = split_events(words, labels, held_out=settings.data.held_out, seed=seed)
    cost: Cost = lut_model().luts if settings.schedule.cost == "luts" else ebops
    limit = settings.firmware.budget or 0.0
    given = settings.network, settings.schedule
    return visit_front(network, data, *given, cost=cost, limit=limit, run=run, progress=progress), data


def visit_front(
    network: Formatted,
    data: Split,
    given: NetworkSettings,
    schedule: FormatSchedule,
    *,
    cost: Cost,
    limit: float,
    task: Task = CLASSIFICATION,
    run: RunFolder | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[FrontMember]:
    """All phases of a training: the front of the figure of merit against cost, by falling cost.

    Args:
        network: to begin with, without ranges.
        data: the events.
        given: how words are treated.
        schedule: how long is trained, and at which price.
        cost: of a network.
        limit: of the cost; 0 for none.
        task: what it is trained for.
        run: as for `fit_formats`.
        progress: likewise.
    """
    say = progress or (lambda phase, share: None)
    calibration = data.train[0][:CALIBRATION]
    network = single(network.calibrated(calibration.astype(jnp.float64)))
    polish = schedule.polish if limit else 0
    steps, chunk = schedule.warm_up + schedule.ramp + polish, schedule.checkpoint
    training = FormatTraining(
        network,
        cost,
        task,
        chunk=chunk,
        batch=schedule.batch,
        rate=schedule.rate,
        phases=(schedule.warm_up, ramp_end := schedule.warm_up + schedule.ramp, steps),
        overflow=given.ranges,
        margin=given.margin,
        key=jr.key(schedule.seed + 1),
    )
    phases: Mapping[str, Pressure] = {
        "warm-up": Pressure(0, schedule.warm_up),
        "ramp": Pressure(schedule.warm_up, ramp_end, 1.0, schedule.first_price, schedule.last_price),
        "budget": Pressure(ramp_end, steps, limit=limit),
    }
    state, ranges = training.first, training.ranges
    hard, _, found = training.judge(state, ranges, calibration, data.choose)
    largest, kept = np.array(float(found[2])), Kept.empty(hard)
    if run is not None and run.has(CHECKPOINT):
        state, ranges, kept = run.load_tree(CHECKPOINT, (state, ranges, kept))
        hard, _, found = training.judge(state, ranges, calibration, data.choose)
    done = int(state.step)
    for name, pressure in phases.items():
        while pressure.begin <= done < pressure.end:
            # the running mean is what is kept, and as a rule it takes some per cent more than what moves
            share = float(found[3] / max(found[2], 1e-9))
            if name == "budget" and done == pressure.begin:
                state, ranges = nearest(training, kept, hard, state, limit)
                share = 1.0  # both are the same here
            within = pressure._replace(limit=pressure.limit * min(1.0, max(share, LEAST_SHARE)))
            state, means = training.advance(state, ranges, data.train, within)
            hard, ranges, found = training.judge(state, ranges, calibration, data.choose)
            done, taken = int(state.step), float(found[2])
            kept.offer(
                hard,
                float(found[0]),
                taken,
                largest=float(largest),
                limit=limit,
                multiplier=float(state.multiplier),
            )
            if run is not None:
                run.save_tree(CHECKPOINT, (state, ranges, kept))
                record = {"loss": means[0], "accuracy": found[0], "held_out": found[1], "cost": taken}
                run.log({"phase": name, "step": done, **record, "multiplier": state.multiplier})
            say(name, (done - pressure.begin) / (pressure.end - pressure.begin))
    return [member(training, kept.network(slot, hard), task, data) for slot in kept.front()]


def nearest(
    training: FormatTraining, kept: Kept, like: Formatted, state: FormatState, limit: float
) -> tuple[FormatState, PyTree]:
    """The kept network from which a budget is met: the smallest above it, or the largest of all."""
    front = kept.front()
    above = [slot for slot in front if kept.cost[slot] >= limit]
    slot = above[-1] if above else front[0]
    weights, ranges = training.parts(kept.network(slot, like))
    multiplier = jnp.asarray(kept.multiplier[slot], state.multiplier.dtype)
    return FormatState(weights, weights, state.optimiser, multiplier, state.step), ranges


def member(training: FormatTraining, network: Formatted, task: Task, data: Split) -> FrontMember:
    """A kept network with the ranges of all training events, in double precision."""
    widened = eqx.filter_jit(training.final)(network.frozen(), data.train[0].astype(jnp.float64))
    exact = widened.frozen()
    merit, loss = judged(task.judge, exact, *data.choose)
    return FrontMember(exact, float(merit), float(loss), float(eqx.filter_jit(training.cost)(exact)))


@eqx.filter_jit
def judged(judge: Callable, network: Any, words: Array, targets: Array) -> tuple[Array, Array]:
    """Figure of merit and loss [nat] of a network, in double precision."""
    return judge(network, words.astype(jnp.float64), targets)


def measured(network: LearnedClassifier | TableClassifier, words: Array, labels: Array) -> dict[str, float]:
    """Accuracy and loss [nat] of a classifier on events."""
    right, loss = judged(classify, network, words, labels)
    return {"accuracy": float(right), "loss": float(loss)}
