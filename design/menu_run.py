"""A trigger menu from its settings to its result: read, optimised on one part of the events, judged on the others."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffhep.design.menu import BestMenu, MenuOptimiser, MenuSample
from diffhep.inference.asymptotics import asimov_significance
from diffhep.trigger.menu_config import AnalysisSettings, MenuSettings
from diffhep.trigger.menu_events import MenuEvents, cuts_of, kinds_of, menu_of, read_menu_events, select
from diffhep.trigger.rate import efficiency, menu_rates, turn_on
from diffhep.trigger.seeds import Menu, margins

Processes = Mapping[str, MenuEvents]
BINS = 25  # of a turn-on curve
SIMILAR = "analysis."  # before the names of an analysis' backgrounds, which may be those of others
LEAST_EVENTS = 20  # of the background in each bin of an analysis
FRONT = (0.25, 4.0)  # range of budgets of the curve of efficiency against rate, relative


def run_menu(settings: MenuSettings, *, progress: Callable[[str, float], None] = lambda phase, share: None) -> dict:
    """Rates, efficiencies and best thresholds of a menu, as `result.json` holds them.

    Args:
        settings: of the menu.
        progress: called with a phase and the share of it that is done.

    Raises:
        ValueError: a file cannot be read or lacks a branch, or the rate budget is below what the fixed seeds use.
    """
    menu = menu_of(settings)
    backgrounds = {
        name: read_menu_events(settings, b.file, {"cross_section": b.cross_section, "rate": b.rate})
        for name, b in settings.background.items()
    }
    signals, similar = read_signals(settings)
    progress("events", 1.0)
    budget = rate_limit(settings)
    check_irreducible(menu, settings, backgrounds)
    halves = [split(part, settings) for part in (backgrounds, signals, similar)]
    design, held_out = ({**b, **s, **a} for b, s, a in zip(*halves, strict=True))
    goal = None
    if settings.analysis is not None:
        least = event_weights(settings.analysis, [design[name] for name in similar])
        goal = Significance(settings.analysis.bins, settings.analysis.uncertainty, least)

    judge, target = Judge(menu, settings, goal), budget
    stages, found, front = {"before": menu.start}, None, []
    if menu.cuts:
        optimiser = MenuOptimiser(
            menu, joined(design, settings), budget, goal=goal, groups=1 if goal is None else 2 * goal.bins
        )
        if settings.search.safety:
            # the relative error hardly depends on which thresholds give the rate
            seen = judge(optimiser.settled(menu.start, budget).thresholds, design)["rate"]
            target = budget / (1 + settings.search.safety * seen["stderr"] / seen["value"])
        found = optimiser.best(
            settings.search.starts,
            seed=settings.search.seed,
            budget=target,
            progress=lambda x: progress("thresholds", x),
        )
        stages |= {"after": found.optimum.thresholds, "snapped": found.final.thresholds}
        count = settings.search.front
        factors = np.geomspace(*FRONT, count).tolist() if count else []
        front = optimiser.front(found.optimum.thresholds, factors)
        progress("front", 1.0)
    final = list(stages.values())[-1]
    judged = {
        name: {"design": judge(thresholds, design), "held_out": judge(thresholds, held_out)}
        for name, thresholds in stages.items()
    }
    last = list(judged.values())[-1]
    error = float(np.hypot(*(last[half]["rate"]["stderr"] for half in ("design", "held_out"))))
    over = last["held_out"]["rate"]["value"] - budget
    return {
        "seeds": list(menu.names),
        "prescales": list(menu.prescales),
        "objective": "weighted efficiency" if goal is None else "significance",
        "events": {name: {"design": design[name].size, "held_out": held_out[name].size} for name in design},
        "budget": {
            "rate": settings.budget.rate,
            "bandwidth": settings.budget.bandwidth,
            "event_size": settings.budget.event_size,
            "limit": budget,
            "target": target,
            "binding": "rate" if budget == settings.budget.rate else "bandwidth",
            # of the held-out rate: the thresholds themselves carry the error of the events they were made with
            "excess": {"value": over, "stderr": error},
            "held": over < 2 * error,
        },
        "thresholds": thresholds_of(settings, menu, stages),
        "stages": judged,
        "search": None if found is None else summary(found),
        "turn_on": {name: judge.turn_on(final, held_out[name]) for name in settings.signals},
        "front": front,
    }


@dataclasses.dataclass(frozen=True)
class Significance:
    """Median expected significance of a histogram: signal in the first half of the groups, background in the other.

    Attributes:
        bins: of the histogram.
        uncertainty: of the background of each bin, relative.
        least: background of each bin, at least: one event of its sample. Where a menu leaves fewer, that is all that is
            known; and next to an edge, where the kernel overshoots, or with negative weights, a sum may be below 0.
    """

    bins: int
    uncertainty: float
    least: Float[np.ndarray, " bin"]

    def __call__(self, sums: Float[Array, " group"]) -> Float[Array, ""]:
        """The significance; 0 and without slope where nothing is left."""
        background = jnp.maximum(sums[self.bins :], self.least)
        signal = jnp.maximum(sums[: self.bins], 0.0)
        return asimov_significance(signal, background, (self.uncertainty * background) ** 2)


def read_signals(settings: MenuSettings) -> tuple[dict[str, MenuEvents], dict[str, MenuEvents]]:
    """The signals, and what the analysis cannot tell from them, with their places in its histogram."""
    signals = {name: read_menu_events(settings, s.file) for name, s in settings.signals.items()}
    given = settings.analysis
    if given is None:
        return signals, {}
    similar = {f"{SIMILAR}{name}": read_menu_events(settings, b.file) for name, b in given.backgrounds.items()}
    files = [*settings.signals.values(), *given.backgrounds.values()]
    for (name, events), process in zip([*signals.items(), *similar.items()], files, strict=True):
        found = select(given, process.file, process.cross_section)
        (signals if name in signals else similar)[name] = dataclasses.replace(events, selected=found)
    return signals, similar


def event_weights(analysis: AnalysisSettings, similar: Sequence[MenuEvents]) -> Float[np.ndarray, " bin"]:
    """What one event of the background stands for in each bin, on average.

    Raises:
        ValueError: a bin has too few events to say what is expected there, or their weights add up to nothing.
    """
    parts = [part.selected for part in similar if part.selected is not None]
    counts = sum(np.bincount(part.bin[part.expected != 0], minlength=analysis.bins) for part in parts)
    least = int(np.argmin(counts))
    if counts[least] < LEAST_EVENTS:
        edges = np.linspace(analysis.low, analysis.high, analysis.bins + 1)
        msg = (
            f"analysis: the bin from {edges[least]:g} to {edges[least + 1]:g} GeV has {counts[least]} events of the "
            f"background to optimise with, at least {LEAST_EVENTS} are wanted: use wider bins, or more events"
        )
        raise ValueError(msg)
    expected = sum(np.bincount(part.bin, part.expected, analysis.bins) for part in parts)
    if not np.all(expected > 0):
        msg = f"analysis: the weights of the background add up to {np.min(expected):.3g} events in one of the bins"
        raise ValueError(msg)
    return expected / counts


def rate_limit(settings: MenuSettings) -> float:
    """The rate [Hz] that both budgets leave: events are of one size, so that the smaller one decides."""
    given = settings.budget
    if given.bandwidth is None or given.event_size is None:
        return given.rate
    return min(given.rate, given.bandwidth / given.event_size)


def check_irreducible(menu: Menu, settings: MenuSettings, backgrounds: Processes) -> None:
    """A ValueError if the rate is above its budget with every threshold that can move at its tightest bound."""
    events, weight = list(backgrounds.values()), np.concatenate([b.weight for b in backgrounds.values()])
    passes = np.concatenate([hard(menu, menu.tightest, b) for b in events])
    fixed = np.array([not cuts for cuts in menu.of_seed])
    names = [name for name, is_fixed in zip(menu.names, fixed, strict=True) if is_fixed]
    prescales = np.array(menu.prescales)
    limit = rate_limit(settings)
    for columns, who in (
        (fixed, f"the fixed seeds ({', '.join(names)})"),
        (fixed | True, "all seeds at their tightest"),
    ):
        if not columns.any():
            continue
        least = menu_rates(passes[:, columns], weight, tuple(prescales[columns].tolist()))
        if least.total > limit:
            msg = (
                f"budget: {limit:.6g} Hz is below the irreducible rate: {who} use {least.total:.6g} +- "
                f"{least.total_error:.2g} Hz, {least.total - limit:.4g} Hz more"
            )
            raise ValueError(msg)


def split(processes: Processes, settings: MenuSettings) -> tuple[dict[str, MenuEvents], dict[str, MenuEvents]]:
    """Every process in two parts: to optimise with, and to judge with."""
    parts: tuple[dict[str, MenuEvents], dict[str, MenuEvents]] = ({}, {})
    for i, (name, events) in enumerate(processes.items()):
        order = np.random.default_rng([settings.search.seed, i]).permutation(events.size)
        middle = int(np.clip(round(settings.search.design * events.size), 1, max(events.size - 1, 1)))
        for part, rows in zip(parts, (order[:middle], order[middle:]), strict=True):
            if len(rows) == 0:
                msg = f"{name}: {events.size} events cannot be divided into two parts"
                raise ValueError(msg)
            part[name] = events.take(np.sort(rows))
    return parts


def joined(processes: Processes, settings: MenuSettings) -> MenuSample:
    """All processes in a row, with the weights of the rate and of the objective."""
    rate, worth, group = [], [], []
    for name, events in processes.items():
        rate.append(events.weight if name in settings.background else np.zeros(events.size))
        gained, place = worth_of(name, events, settings)
        worth.append(gained)
        group.append(place)
    seeds = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, axis=-1), *(events.seeds for events in processes.values())
    )
    groups = None if settings.analysis is None else jnp.concatenate(group)
    return MenuSample(seeds, jnp.concatenate(rate), jnp.concatenate(worth), groups)


def worth_of(name: str, events: MenuEvents, settings: MenuSettings) -> tuple[np.ndarray, np.ndarray]:
    """What each event of a process adds to the objective, and to which of its groups."""
    nothing = np.zeros(events.size), np.zeros(events.size, int)
    if events.selected is not None and settings.analysis is not None:
        first = 0 if name in settings.signals else settings.analysis.bins
        return events.selected.expected, events.selected.bin + first
    if name not in settings.signals:
        return nothing
    return settings.signals[name].weight / events.weight.sum() * np.asarray(events.weight), nothing[1]


def hard(menu: Menu, thresholds: np.ndarray, events: MenuEvents) -> np.ndarray:
    """Which seeds accept which events, (event, seed)."""
    return np.asarray(_margins(menu, jnp.asarray(thresholds), events.seeds)).T > 0


_margins = eqx.filter_jit(margins)


class Judge:
    """Hard cuts on some events: rates and efficiencies with their errors."""

    def __init__(self, menu: Menu, settings: MenuSettings, goal: Significance | None):
        self.menu, self.settings, self.goal = menu, settings, goal

    def __call__(self, thresholds: np.ndarray, processes: Processes) -> dict[str, Any]:
        """Rates of the backgrounds together, efficiencies of every signal, and the objective."""
        passes = {name: hard(self.menu, thresholds, events) for name, events in processes.items()}
        backgrounds = [name for name in processes if name in self.settings.background]
        rates = menu_rates(
            np.concatenate([passes[name] for name in backgrounds]),
            np.concatenate([processes[name].weight for name in backgrounds]),
            self.menu.prescales,
        )
        found, objective, variance = {}, 0.0, 0.0
        for name, signal in self.settings.signals.items():
            weight = np.asarray(processes[name].weight)
            value, error = efficiency(self.kept(passes[name]), weight)
            shares = passes[name] / np.array(self.menu.prescales, float)
            of_seed = [efficiency(share, weight) for share in shares.T]
            seeds = {seed: pair(*one) for seed, one in zip(self.menu.names, of_seed, strict=True)}
            found[name] = {**pair(value, error), "seeds": seeds}
            objective, variance = objective + signal.weight * value, variance + (signal.weight * error) ** 2
        size = self.settings.budget.event_size
        return {
            "rate": pair(rates.total, rates.total_error),
            "bandwidth": None if size is None else pair(size * rates.total, size * rates.total_error),
            "seeds": {
                name: {
                    "rate": pair(rates.seed[j], rates.seed_error[j]),
                    "pure": pair(rates.pure[j], rates.pure_error[j]),
                }
                for j, name in enumerate(self.menu.names)
            },
            "overlap": {"value": rates.overlap, "stderr": rates.overlap_error},
            "efficiency": found,
            "objective": pair(objective, float(np.sqrt(variance))),
            **self.analysed(passes, processes),
        }

    def analysed(self, passes: Mapping[str, np.ndarray], processes: Processes) -> dict[str, Any]:
        """The objective where there is an analysis, without a trigger too, and what it selects of every process."""
        if self.goal is None:
            return {}
        all_sums, sums = np.zeros((2, 2 * self.goal.bins))
        parts, selected = [], {}
        for name, events in processes.items():
            if events.selected is None:
                continue
            expected, place = worth_of(name, events, self.settings)
            left = expected * self.kept(passes[name])
            parts.append((place, left))
            np.add.at(all_sums, place, expected)
            np.add.at(sums, place, left)
            counts = {"all": expected, "kept": left}
            selected[name.removeprefix(SIMILAR)] = {
                which: pair(float(weights.sum()), float(np.sqrt(np.sum(weights**2))))
                for which, weights in counts.items()
            }
        value, slope = jax.value_and_grad(self.goal)(jnp.asarray(sums))
        # to first order in every event, each of which is there or not on its own
        variance = sum(np.sum((np.asarray(slope)[place] * weight) ** 2) for place, weight in parts)
        return {
            "objective": pair(float(value), float(np.sqrt(variance))),
            "without_trigger": float(self.goal(jnp.asarray(all_sums))),
            "selected": selected,
        }

    def kept(self, passes: np.ndarray) -> np.ndarray:
        """Share of each event that the menu keeps."""
        share = passes / np.array(self.menu.prescales, float)
        return 1 - np.prod(1 - share, axis=1)

    def turn_on(self, thresholds: np.ndarray, events: MenuEvents) -> dict[str, Any]:
        """Efficiency of the menu and of every seed against the hardest object's pt before the trigger's resolution."""
        passes = hard(self.menu, thresholds, events)
        first = {name: next(iter(kinds_of(seed)), None) for name, seed in self.settings.seeds.items()}
        curves = {}
        for kind, leading in events.leading.items():
            pt = np.asarray(leading)
            edges = np.linspace(np.min(pt), max(float(np.quantile(pt, 0.98)), float(np.min(pt)) + 1.0), BINS + 1)
            columns = {"menu": self.kept(passes)}
            columns |= {
                name: passes[:, j] / self.menu.prescales[j]
                for j, name in enumerate(self.menu.names)
                if first[name] in (kind, None)
            }
            parts = {}
            for name, kept in columns.items():
                value, error = turn_on(pt, kept, edges)
                parts[name] = {"value": without_nan(value), "stderr": without_nan(error)}
            curves[kind] = {"edges": edges, "curves": parts}
        return curves


def pair(value: float, stderr: float) -> dict[str, float]:
    """A number with its standard error."""
    return {"value": float(value), "stderr": float(stderr)}


def without_nan(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON can say them: null where there is none."""
    return [None if np.isnan(v) else float(v) for v in values]


def summary(found: BestMenu) -> dict[str, Any]:
    """How the thresholds were found."""
    return {
        "starts": len(found.objectives),
        "agree": found.agree,
        "objectives": found.objectives,
        "converged": found.converged,
        "gain_per_hz": found.multiplier,
        "gradient_evaluations": found.gradients,
        "evaluations": found.evaluations,
    }


def thresholds_of(settings: MenuSettings, menu: Menu, stages: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every threshold of the menu at every stage, the fixed ones as they are."""
    places = {cut.name: i for i, cut in enumerate(menu.cuts)}
    rows = []
    for seed, given in settings.seeds.items():
        for cut in cuts_of(given):
            name = f"{seed}.{cut.label}"
            row: dict[str, Any] = {"name": name, "unit": cut.unit, "fixed": cut.threshold.fixed, "below": cut.below}
            if name in places:
                moving = menu.cuts[places[name]]
                row |= {"bounds": moving.bounds, "step": moving.step}
                row |= {stage: float(values[places[name]]) for stage, values in stages.items()}
            else:
                row |= dict.fromkeys(stages, cut.threshold.start)
            rows.append(row)
    return rows
