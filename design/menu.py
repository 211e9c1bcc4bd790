r"""Thresholds of a trigger menu for the largest weighted efficiency, or significance, under a rate budget.

$\max_t \sum_s \omega_s\epsilon_s(t)$ subject to $R(t) \le R_{max}$, with the hard cuts of `diffhep.trigger.seeds`: the
solver sees the OR behind the kernel of the Boundary gate, whose derivative is the flux of events at the edge of the
union. Instead of their sum the objective may be any function of what several groups of events add up to, such as the
significance of a histogram: each event at an edge then counts with the slope of that function.

Then all thresholds move together until the hard rate meets its budget - at a constrained optimum every direction buys
as much at the same price, so that this costs nothing to first order -, are snapped to the next multiple of their least
significant bit that accepts no more, and take back single steps, what gains most per rate first, as long as the budget
holds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Int

from diffhep.design.exact import Sensitivities, certify, polish
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.gates import Boundary, Hard
from diffhep.parameters import Param, Scalar, named_params, resolve
from diffhep.trigger.seeds import Menu, SeedValues, accepted, margins, snapped

Goal = Callable[[Float[Array, " group"]], Float[Array, ""]]
AGREE = 0.005  # starts agree when their objectives differ by less than this fraction
BISECTIONS = 50
MOST_STEPS = 200  # single least significant bits that are taken back
NEAR = 0.05  # a budget counts as binding within this relative distance
# kernels that wide first: a wide one sees past the noise of single events, the last one decides
BLURS = (3.0, 1.0)
MOST_ITERATIONS = 30
TOLERANCE = 1e-6  # of ln(objective), far below the noise of any sample
INSIDE = 1e-9  # of the range: a Param on its bound has no finite leaf


class MenuDesign(eqx.Module):
    """What moves: the thresholds.

    Attributes:
        threshold: in the units of their Params.
        blur: factor on the widths of all cuts, which stays.
    """

    threshold: tuple[Scalar, ...]
    blur: Any


class MenuSample(eqx.Module):
    """Weighted events, all processes in a row.

    Attributes:
        seeds: what every seed looks at.
        rate: weight in Hz; 0 for what makes no rate.
        worth: contribution to the sum of the event's group; 0 for what only makes rate.
        group: of each event; none if there is one group only.
    """

    seeds: tuple[SeedValues, ...]
    rate: Float[Array, " event"]
    worth: Float[Array, " event"]
    group: Int[Array, " event"] | None = None


def group_sums(
    worth: Float[Array, " event"], group: Int[Array, " event"] | None, groups: int
) -> Float[Array, " group"]:
    """What the events of each group add up to."""
    return jnp.sum(worth)[None] if group is None else jax.ops.segment_sum(worth, group, groups)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Thresholds, and what they do to the events of the optimisation behind hard cuts."""

    thresholds: np.ndarray
    objective: float
    rate: float


@dataclasses.dataclass(frozen=True)
class BestMenu:
    """The way of a menu to its best thresholds.

    Attributes:
        written: as the settings have it.
        optimum: within the budget.
        final: snapped to the hardware's least significant bits, within the budget.
        multiplier: gain of the objective per Hz of the budget.
        objectives: that every start ended with, before snapping.
        converged: whether the solver says so of the best start.
        gradients: points where value and gradient were evaluated.
        evaluations: points where the hard menu was evaluated.
    """

    written: Stage
    optimum: Stage
    final: Stage
    multiplier: float
    objectives: np.ndarray
    converged: bool
    gradients: int
    evaluations: int

    @property
    def agree(self) -> int:
        """Starts whose objective is that of the best one."""
        return int(np.sum(self.objectives > (1 - AGREE) * self.objectives.max()))


class MenuOptimiser:
    """A menu with its events, compiled once.

    Args:
        menu: with at least one cut that can move.
        sample: events to optimise with.
        budget: largest rate of the OR [Hz].
        goal: positive function of the sums of all groups; by default that of a single group itself.
        groups: their number.

    Raises:
        ValueError: the budget is not positive, or the rate is above it with every threshold at its tightest bound.
    """

    def __init__(self, menu: Menu, sample: MenuSample, budget: float, *, goal: Goal | None = None, groups: int = 1):
        self.menu, self.sample, self.budget, self.evaluations = menu, sample, budget, 0
        self.goal, self.groups = goal or jnp.sum, groups
        self.problem = Problem(self.evaluate, sample, (Constraint("rate", budget, "Hz"),))
        self.sensitivities = Sensitivities(self.problem, tuple(named_params(self.design(menu.start))))
        self.hard = jax.jit(lambda t, events: self.outcome(t, events, Hard()))
        if (least := self.at(menu.tightest).rate) > budget:
            msg = f"rate: at least {least:.4g} Hz is needed, {least - budget:.4g} Hz more than {budget:.4g} Hz"
            raise ValueError(msg)

    def design(self, thresholds: np.ndarray, blur: float = 1.0) -> MenuDesign:
        """Params at some thresholds; those on a bound or beyond are put just inside."""
        params = []
        for cut, value in zip(self.menu.cuts, thresholds, strict=True):
            low, high = cut.bounds or (-np.inf, np.inf)
            edge = INSIDE * (high - low)
            inside = float(np.clip(value, low + edge, high - edge))
            params.append(Param(inside, unit=cut.unit, role="threshold", bounds=cut.bounds))
        return MenuDesign(tuple(params), paramax.NonTrainable(jnp.asarray(blur)))

    def outcome(self, thresholds: Array, events: MenuSample, gate: Callable[[Array], Array]) -> Outcome:
        """Objective and rate."""
        kept = accepted(margins(self.menu, thresholds, events.seeds), self.menu.prescales, gate)
        sums = group_sums(events.worth * kept, events.group, self.groups)
        return Outcome(self.goal(sums), jnp.sum(events.rate * kept)[None])

    def evaluate(self, design: MenuDesign, events: MenuSample) -> Outcome:
        """The same behind the kernel, whose derivative is that of the expectation."""
        moved = resolve(design)
        return self.outcome(jnp.stack(moved.threshold), events, Boundary(moved.blur).smooth)

    def at(self, thresholds: np.ndarray) -> Stage:
        """Behind hard cuts."""
        self.evaluations += 1
        out = self.hard(jnp.asarray(thresholds), self.sample)
        return Stage(np.asarray(thresholds), float(out.objective), float(out.used[0]))

    def settled(self, thresholds: np.ndarray, budget: float) -> Stage:
        """All thresholds moved together, as little as possible, until the hard menu just meets its budget."""
        low, high = np.array([cut.bounds for cut in self.menu.cuts]).T
        moved = lambda shift: self.at(np.clip(thresholds + shift * self.menu.direction, low, high))
        reach = float(np.max((high - low) / np.abs(self.menu.direction)))
        # the rate falls with the shift; `inside` is always within the budget
        outside, inside = -reach, reach
        best = self.at(self.menu.tightest)
        for _ in range(BISECTIONS):
            middle = 0.5 * (outside + inside)
            if (found := moved(middle)).rate > budget:
                outside = middle
            else:
                inside, best = middle, found
            if inside - outside < 1e-7:
                break
        return best

    def refilled(self, thresholds: np.ndarray, budget: float) -> Stage:
        """Single least significant bits taken back, what gains most per rate first, while the budget holds."""
        best, open_ = self.at(thresholds), set(range(len(thresholds)))
        for _ in range(MOST_STEPS):
            tried = {}
            for i in sorted(open_):
                cut = self.menu.cuts[i]
                looser = best.thresholds.copy()
                looser[i] -= cut.sign * cut.step
                bound = self.menu.loosest[i]
                found = self.at(looser) if cut.sign * (looser[i] - bound) > -1e-9 * cut.step else None
                if found is None or found.rate > budget:
                    # the rate only grows from here: what does not fit now never will
                    open_.discard(i)
                elif found.objective > best.objective:
                    tried[i] = found
            if not tried:
                break
            now = best
            best = max(
                tried.values(),
                key=lambda found, now=now: (found.objective - now.objective) / max(found.rate - now.rate, 1e-12),
            )
        return best

    def climb(self, start: np.ndarray, budget: float, blurs: Sequence[float] = BLURS) -> tuple[Stage, bool]:
        """From some thresholds to an optimum whose hard menu meets its budget, and whether the solver converged."""
        begun = self.settled(start, budget)
        best, cuts, converged = begun, begun.thresholds, False
        for blur in blurs:
            found = polish(
                self.sensitivities,
                self.design(cuts, blur),
                limits=np.array([budget]),
                straight=True,
                max_steps=MOST_ITERATIONS,
                tolerance=TOLERANCE,
            )
            cuts = np.array([float(p.unwrap()) for p in named_params(found.design).values()])
            end = self.settled(cuts, budget)
            if end.objective >= best.objective:
                best, converged = end, found.converged
        return best, converged

    def best(
        self,
        starts: int,
        *,
        seed: int = 0,
        budget: float | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> BestMenu:
        """The best of several starts: the menu as written, then thresholds anywhere between their bounds.

        Args:
            starts: how many.
            seed: of the random ones.
            budget: a smaller one, to keep some in hand [Hz].
            progress: called with the share done.
        """
        budget = self.budget if budget is None else budget
        rng = np.random.default_rng(seed)
        low, high = np.array([cut.bounds for cut in self.menu.cuts]).T
        ends = []
        for start in (self.menu.start, *rng.uniform(low, high, (starts - 1, len(low)))):
            ends.append(self.climb(start, budget))
            progress(len(ends) / (starts + 1))
        objectives = np.array([end.objective for end, _ in ends])
        optimum, converged = ends[int(np.argmax(objectives))]
        design = self.design(optimum.thresholds)
        # the kernel's rate differs from the hard one by its bias and by noise: the budget binds where the hard one is
        binding = optimum.rate > (1 - NEAR) * budget
        used = self.sensitivities(self.sensitivities.raw(design), design)[1]
        certificate = certify(self.sensitivities, design, limits=used if binding else 1e6 * used)
        final = self.refilled(snapped(self.menu, optimum.thresholds), budget)
        progress(1.0)
        return BestMenu(
            self.at(self.menu.start),
            optimum,
            final,
            float(certificate.multipliers[0]),
            objectives,
            converged,
            self.sensitivities.calls,
            self.evaluations,
        )

    def front(self, thresholds: np.ndarray, factors: Sequence[float]) -> list[dict[str, float]]:
        """Objective against the rate, for the budget times each factor, each from the thresholds of the one before."""
        least, points = self.at(self.menu.tightest).rate, []
        possible = sorted(factor for factor in factors if factor * self.budget > least)
        # from here outwards, to smaller budgets and then to larger ones
        for path in ([f for f in reversed(possible) if f <= 1], [f for f in possible if f > 1]):
            cuts = thresholds
            for factor in path:
                end, _ = self.climb(cuts, self.budget * factor, BLURS[-1:])
                points.append({"budget": self.budget * factor, "rate": end.rate, "objective": end.objective})
                cuts = end.thresholds
        return sorted(points, key=lambda point: point["budget"])
