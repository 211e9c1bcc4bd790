"""A trigger menu from its settings to its result: read, optimised on one part of the events, judged on the others."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from diffhep.design.menu import BestMenu, MenuOptimiser, MenuSample
from diffhep.trigger.menu_config import MenuSettings
from diffhep.trigger.menu_events import MenuEvents, cuts_of, kinds_of, menu_of, read_menu_events
from diffhep.trigger.rate import efficiency, menu_rates, turn_on
from diffhep.trigger.seeds import Menu, margins

Processes = Mapping[str, MenuEvents]
BINS = 25  # of a turn-on curve
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
    signals = {name: read_menu_events(settings, s.file) for name, s in settings.signals.items()}
    progress("events", 1.0)
    budget = rate_limit(settings)
    check_irreducible(menu, settings, backgrounds)
    halves = split(backgrounds, settings), split(signals, settings)
    design, held_out = ({**b, **s} for b, s in zip(*halves, strict=True))

    judge, target = Judge(menu, settings), budget
    stages, found, front = {"before": menu.start}, None, []
    if menu.cuts:
        optimiser = MenuOptimiser(menu, joined(design, settings), budget)
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
    rate, worth = [], []
    for name, events in processes.items():
        is_signal = name in settings.signals
        nothing = np.zeros(events.size)
        rate.append(nothing if is_signal else events.weight)
        share = settings.signals[name].weight / events.weight.sum() if is_signal else 0.0
        worth.append(share * events.weight if is_signal else nothing)
    seeds = jax.tree.map(
        lambda *parts: jnp.concatenate(parts, axis=-1), *(events.seeds for events in processes.values())
    )
    return MenuSample(seeds, jnp.concatenate(rate), jnp.concatenate(worth))


def hard(menu: Menu, thresholds: np.ndarray, events: MenuEvents) -> np.ndarray:
    """Which seeds accept which events, (event, seed)."""
    return np.asarray(_margins(menu, jnp.asarray(thresholds), events.seeds)).T > 0


_margins = eqx.filter_jit(margins)


class Judge:
    """Hard cuts on some events: rates and efficiencies with their errors."""

    def __init__(self, menu: Menu, settings: MenuSettings):
        self.menu, self.settings = menu, settings

    def __call__(self, thresholds: np.ndarray, processes: Processes) -> dict[str, Any]:
        """Rates of the backgrounds together, efficiencies of every signal and their weighted sum."""
        passes = {name: hard(self.menu, thresholds, events) for name, events in processes.items()}
        backgrounds = [name for name in processes if name not in self.settings.signals]
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
