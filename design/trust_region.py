r"""Following a surrogate's gradient, and refusing to where it is noise.

One update around the present design: simulate the designed set of points in the trust region, fit
(`diffhep.design.local_surrogate`, old events inside the region included), and find the best feasible point of the
surrogate by `polish`, with the constraints exact. With s that step and C the covariance of the slope g, the step is
significant when $g^T s/\sqrt{s^T C s}$ exceeds the square root of the chi-squared quantile of as many degrees of
freedom as there are parameters. That holds for whatever direction the noise made look best (Scheffe, Biometrika 40
(1953) 87: the bound is simultaneous over all s), so pure noise is followed as rarely as the level says. Then

- a significant step is tried with fresh events, and taken unless they say that it is worse; the ratio of the actual to
  the predicted gain, with its error, sets the trust region's size (Conn, Gould and Toint, Trust-Region Methods, ch. 6);
- one that is not asks for more events: the significance z grows as the root of their number N, so $N[(z_0/z)^2 - 1]$
  more are needed for $z_0$. Where the budget has too few even for z + 2, the search stops and says how many;
- a surrogate that does not fit (chi-squared) halves the trust region.

The result is measured once more with events that no decision has seen.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
import scipy.stats
from jaxtyping import Array, Float, PyTree

from diffhep.design.black_box import BlackBox, Measurements, gradient_of
from diffhep.design.exact import Sensitivities, polish
from diffhep.design.local_surrogate import LocalSurrogate, designed_points
from diffhep.design.problem import Constraint, Outcome, Problem, shortfalls
from diffhep.parameters import named_params, resolve

WIDEST = 0.25  # half width of the trust region, in raw leaves: beyond it cubic terms are most of the slope
NARROWEST = 1e-3
BAD, GOOD = 0.25, 0.75  # ratios of actual and predicted gain that narrow and widen the region
NOTHING = (Constraint("nothing", 1.0, ""),)  # the solver wants one constraint at least

Action = Literal["step", "rejected", "more events", "narrower", "refused", "stop"]


@dataclasses.dataclass(frozen=True)
class BlackBoxUpdate:
    """What one update saw and did.

    Attributes:
        design: centre of the trust region, by name, in each parameter's unit.
        radius: half width of the region, in raw leaves.
        events: simulated so far, in all.
        value, value_error: objective at the centre by the surrogate.
        gradient, gradient_error: per unit of each parameter.
        significance: of the slope along the proposed step, in standard deviations; `needed` to step.
        needed: see `significance`.
        predicted, predicted_error: gain of the step by the surrogate.
        actual, actual_error: by fresh events; None where none were spent.
        events_needed: how many more would make the gradient significant, if it stays as it is; 0 where it is, None
            where it points nowhere.
        action: `step`, `rejected` (fresh events say it is worse), `more events`, `narrower`, `refused` or `stop`.
        reason: in words.
    """

    design: dict[str, float]
    radius: float
    events: int
    value: float
    value_error: float
    gradient: dict[str, float]
    gradient_error: dict[str, float]
    significance: float
    needed: float
    predicted: float
    predicted_error: float
    actual: float | None
    actual_error: float | None
    events_needed: int | None
    action: Action
    reason: str


@dataclasses.dataclass(frozen=True)
class BlackBoxResult:
    """Where a search ended.

    Attributes:
        design: the layout with the parameters found.
        parameters: by name, in each parameter's unit.
        objective, stderr: at the end, from events that no decision has seen.
        used: by name of constraint.
        verdict: why the search ended, in one line.
        significant: whether the last gradient was more than noise.
        events_needed: of the last update.
        events: simulated in all.
        updates: the history.
    """

    design: PyTree
    parameters: dict[str, float]
    objective: float
    stderr: float
    used: dict[str, float]
    verdict: str
    significant: bool
    events_needed: int | None
    events: int
    updates: tuple[BlackBoxUpdate, ...]

    def summary(self) -> dict[str, Any]:
        """Everything but the design's tree, ready for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "design"}
        return plain | {"updates": [dataclasses.asdict(update) for update in self.updates]}


def optimise_black_box(
    box: BlackBox,
    *,
    events: int,
    radius: float = 0.1,
    calls: int = 1,
    significance: float = 3.0,
    worth: float = 0.001,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    on_update: Callable[[BlackBoxUpdate], None] | None = None,
) -> BlackBoxResult:
    """Make a black box's objective large within a budget of events.

    Args:
        box: the simulator, its objective and its constraints.
        events: most that are simulated, in all; the simulator's calls must be of about equal length.
        radius: first half width of the trust region, in raw leaves. The slope's bias grows as its square, its noise
            falls as its inverse.
        calls: of the simulator at each point of an update.
        significance: of the gradient, below which no step is taken: standard deviations of one normal variable.
        worth: relative gain below which no more events are asked for.
        seed: of every random number; the same seed gives the same result.
        progress: called with the phase and the fraction of the events spent.
        on_update: called with every update.

    Raises:
        ValueError: a budget of events that is too small for one update, constraints that no design nearby meets, or
            anything wrong with what `simulate` and `objective` return.
    """
    if not (np.isfinite(radius) and 0 < radius <= WIDEST):
        msg = f"radius: got {radius}, wanted more than 0 and at most {WIDEST} (raw leaves)"
        raise ValueError(msg)
    if calls < 1 or significance <= 0 or worth < 0:
        msg = f"got calls {calls}, significance {significance}, worth {worth}: wanted at least 1, above 0, at least 0"
        raise ValueError(msg)
    search = Search(box, events, calls, significance, worth, seed, progress or (lambda phase, fraction: None))
    return search.run(radius, on_update or (lambda update: None))


class Search:
    """One search; see `optimise_black_box` for the arguments."""

    def __init__(
        self,
        box: BlackBox,
        budget: int,
        calls: int,
        significance: float,
        worth: float,
        seed: int,
        progress: Callable[[str, float], None],
    ):
        self.box, self.budget, self.calls, self.worth, self.progress = box, budget, calls, worth, progress
        self.measured = Measurements(box, seed=seed)
        self.surface = SurrogateSurface(box)
        count = len(box.names)
        self.points = len(designed_points(count)) * calls
        self.checks = -(-self.points // 3)
        self.needed = float(np.sqrt(scipy.stats.chi2.isf(2 * scipy.stats.norm.sf(significance), count)))
        self.updates: list[BlackBoxUpdate] = []
        self.first = WIDEST

    def run(self, radius: float, on_update: Callable[[BlackBoxUpdate], None]) -> BlackBoxResult:
        """From the feasible design next to the layout to where no significant step is left."""
        centre, self.first = self.surface.nearest_feasible(), radius
        self.measured.simulate(centre)
        if not self.affords(self.points):
            least = (2 * self.points + 1) * self.measured.per_call
            msg = f"events: got {self.budget}, wanted at least {least}: {2 * self.points + 1} calls of"
            msg += f" {self.measured.per_call} events make one update and the final measurement"
            raise ValueError(msg)
        self.measured.surround(centre, radius, self.calls)
        while True:
            self.progress("black box", min(1.0, self.measured.events / self.budget))
            model = self.measured.fit(centre, radius)
            trial = self.surface.propose(model)
            update = self.judge(model, trial)
            ended, spent = update.action in ("stop", "refused"), not self.affords(self.points)
            if spent and not ended:
                update = dataclasses.replace(update, reason=update.reason + "; the events are spent")
            self.updates.append(update)
            on_update(update)
            if update.action == "step":
                centre = trial
            if ended or spent:
                break
            radius = self.resized(update, model, trial)
            self.measured.surround(centre, radius, self.calls)
        return self.finish(centre)

    def affords(self, calls: int) -> bool:
        """Whether so many calls leave enough events for the final measurement."""
        return self.measured.events + (calls + self.points) * self.measured.per_call <= self.budget

    def judge(self, model: LocalSurrogate, trial: Float[np.ndarray, " parameter"]) -> BlackBoxUpdate:
        """What to do about a surrogate and its best point."""
        step = model.offset(trial)
        gain, error = model.gain(step)
        found, here = model.significance(step), gradient_of(self.box, model)
        update = BlackBoxUpdate(
            design=self.box.values(model.centre),
            radius=model.radius,
            events=self.measured.events,
            value=model.value,
            value_error=model.value_error,
            gradient=here.gradient,
            gradient_error=here.error,
            significance=found,
            needed=self.needed,
            predicted=gain,
            predicted_error=error,
            actual=None,
            actual_error=None,
            events_needed=self.more_events(found, model.events) if found > 0 else None,
            action="stop",
            reason="",
        )
        decide = lambda action, reason, **more: dataclasses.replace(update, action=action, reason=reason, **more)
        if not model.fits:
            if model.radius / 2 < NARROWEST:
                return decide("stop", "no quadratic fits: does the simulation jump?")
            why = f"no quadratic fits: chi-squared {model.chi_squared:.4g} for {model.freedom} degrees of freedom"
            return decide("narrower", why)
        if found >= self.needed:
            return self.try_step(decide, model, trial, gain)
        if model.radius <= self.first and gain + 2 * error < self.worth * abs(model.value):
            return decide(
                "stop", f"converged: within the trust region no more than {gain + 2 * error:.3g} is to be won"
            )
        more = update.events_needed
        # what was found is itself uncertain by one: hope ends where two standard deviations more would not help
        hoped = self.more_events(found + 2, model.events)
        why = f"not significant: the gradient is {found:.2g} standard deviations of the {self.needed:.2f} needed"
        why += "; it points nowhere" if more is None else f"; about {more} more events would be needed"
        spare = self.budget - self.measured.events - (self.points + self.checks) * self.measured.per_call
        # a region that has grown is made small again before its surrogate is believed that nothing is left
        again = hoped <= spare or (model.radius > self.first and self.affords(self.points))
        return decide("more events" if again else "refused", why)

    def try_step(
        self, decide: Callable[..., BlackBoxUpdate], model: LocalSurrogate, trial: np.ndarray, gain: float
    ) -> BlackBoxUpdate:
        """Fresh events at a significant step."""
        if not self.affords(self.checks):
            return decide("stop", "a significant step is left, but no events to try it with")
        # events already in the surrogate chose the trial point; these did not
        value, error = self.measured.fresh(trial, self.checks)
        actual, spread = value - model.value, float(np.hypot(error, model.value_error))
        verdict = f"gained {actual:.4g} +- {spread:.2g} of {gain:.4g} predicted"
        return decide(
            "step" if actual > 0 else "rejected",
            verdict,
            actual=actual,
            actual_error=spread,
            events=self.measured.events,
        )

    def resized(self, update: BlackBoxUpdate, model: LocalSurrogate, trial: np.ndarray) -> float:
        """The next trust region: narrower where the surrogate was wrong, wider where it was right up to the edge."""
        if update.action == "narrower":
            return model.radius / 2
        if update.action == "more events":
            # cubic terms pass for a slope as the square of the radius, which matters once little of the slope is left
            return max(min(self.first, model.radius), model.radius / 2)
        if update.actual is None or update.actual_error is None or update.predicted <= 0:
            return model.radius
        ratio, error = update.actual / update.predicted, update.actual_error / update.predicted
        if ratio + error < BAD:
            return model.radius / 2
        at_edge = bool(np.max(np.abs(model.offset(trial))) > 0.9)
        if ratio > GOOD and at_edge:
            return min(WIDEST, 1.5 * model.radius)
        return model.radius

    def more_events(self, significance: float, events: int) -> int:
        """How many more than so many events would make a gradient of some significance reach what is needed."""
        return max(0, int(np.ceil(events * ((self.needed / significance) ** 2 - 1))))

    def finish(self, centre: Float[np.ndarray, " parameter"]) -> BlackBoxResult:
        """The result, with fresh events at the end."""
        last = self.updates[-1]
        value, error = self.measured.fresh(centre, self.points)
        self.progress("black box", 1.0)
        used = [] if self.box.used is None else np.asarray(self.box.used(self.box.numbers(centre))).tolist()
        return BlackBoxResult(
            design=self.box.design(centre),
            parameters=self.box.values(centre),
            objective=value,
            stderr=error,
            used=dict(zip([c.name for c in self.box.constraints], used, strict=True)),
            verdict=f"{last.action}: {last.reason}",
            significant=last.significance >= last.needed,
            events_needed=last.events_needed,
            events=self.measured.events,
            updates=tuple(self.updates),
        )


class Quadratic(eqx.Module):
    """Coefficients of a surrogate, as arrays: another one compiles nothing new."""

    centre: Float[Array, " parameter"]
    radius: Float[Array, ""]
    slope: Float[Array, " parameter"]
    curvature: Float[Array, "parameter parameter"]


class Placed(eqx.Module):
    """A layout and the surrogate that judges it."""

    layout: PyTree
    surrogate: PyTree


class SurrogateSurface:
    """The surrogate as a `Problem` with the box's own constraints, compiled once for all updates."""

    def __init__(self, box: BlackBox):
        self.box = box
        problem = Problem(self.evaluate, (), box.constraints or NOTHING)
        self.sensitivities = Sensitivities(problem, [f"layout.{name}" for name in box.names])

    def evaluate(self, placed: Placed, context: PyTree) -> Outcome:
        """Exp of the gain: `polish` works with the logarithm of an objective."""
        surrogate = resolve(placed.surrogate)
        params = named_params(placed.layout)
        raw = jnp.stack([params[name].raw for name in self.box.names])
        offset = (raw - surrogate.centre) / surrogate.radius
        gain = surrogate.slope @ offset + 0.5 * offset @ surrogate.curvature @ offset
        used = jnp.zeros(1) if self.box.used is None else self.box.used(resolve(placed.layout))
        return Outcome(jnp.exp(gain), used)

    def best(self, centre: np.ndarray, radius: float, slope: np.ndarray, curvature: np.ndarray, reach: float) -> Any:
        """`polish` on a quadratic."""
        # of order one, so that the solver's tolerance means the same for every objective
        size = float(np.max(np.abs(slope), initial=0.0) + np.max(np.abs(curvature), initial=0.0)) or 1.0
        arrays = [jnp.asarray(x, dtype=float) for x in (centre, radius, slope / size, curvature / size)]
        placed = Placed(self.box.design(centre), paramax.NonTrainable(Quadratic(*arrays)))
        return polish(self.sensitivities, placed, reach=reach)

    def propose(self, model: LocalSurrogate) -> Float[np.ndarray, " parameter"]:
        """Raw leaves of the surrogate's best feasible point in the trust region; the centre if there is no better."""
        found = self.best(model.centre, model.radius, model.slope, model.curvature, model.radius)
        trial = self.sensitivities.raw(found.design)
        # the solver may end anywhere if it fails: no step is better than one that breaks a budget
        met = bool(np.all(found.used <= self.sensitivities.problem.limits)) and bool(np.all(np.isfinite(trial)))
        return trial if met else np.array(model.centre)

    def nearest_feasible(self) -> Float[np.ndarray, " parameter"]:
        """Raw leaves of the layout, or of the nearest design that meets the constraints; no events are spent.

        Raises:
            ValueError: the solver finds none; names each constraint and the shortfall.
        """
        start, limits = self.box.start, self.sensitivities.problem.limits
        if self.box.used is None or np.all(np.asarray(self.box.used(self.box.numbers(start))) <= limits):
            return start
        count = len(start)
        found = self.best(start, 1.0, np.zeros(count), -np.eye(count), np.inf)
        if not np.all(found.used <= limits):
            missing = shortfalls(self.box.constraints, found.used)
            msg = f"layout: no design near {self.box.describe(start)} meets the constraints: {'; '.join(missing)}"
            raise ValueError(msg)
        return self.sensitivities.raw(found.design)
