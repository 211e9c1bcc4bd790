"""A detector that is known only by its events: a simulator without gradients, and what is to be made large.

`BlackBox` holds what a user gives: a layout of `Param`s, `simulate(design, key) -> events`, an objective of events,
and limits on known functions such as cost and depth. `estimate_gradient` is the gradient there with its error bar;
`diffhep.design.trust_region` follows it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from diffhep.design.exact import raw_values, with_values
from diffhep.design.local_surrogate import BLOCKS, LocalSurrogate, designed_points, fit_local, jackknife
from diffhep.design.problem import Constraint
from diffhep.parameters import Param, is_param, named_params, resolve

LEAST = 2 * BLOCKS  # events of one call: the jackknife leaves out two at least


@dataclasses.dataclass(frozen=True)
class BlackBox:
    """A simulator without gradients.

    Attributes:
        layout: the initial design: a dictionary, a module or any other tree of scalar Params.
        simulate: (design, key) -> events, an array with axes (event, observable). The design is the layout with a
            float, in the Param's unit, in place of each Param; the key is a typed JAX key, another one in every call.
            Events must be independent of each other; how many there are in a call is the simulator's choice.
        objective: (event, observable) -> a number to be made large. It need not be differentiable, but must be a
            property of the distribution that does not grow with the number of events: a mean, not a sum.
        constraints: upper limits on what a design uses.
        used: of a design with numbers in place of Params: what each constraint limits. Known exactly, and
            differentiable by JAX; no event is spent on it.
        parameters: paths of the Params that move; all that are not frozen if none is named.

    Raises:
        ValueError: a parameter that is unknown, frozen or not a scalar, or none at all; limits without `used`.

    >>> import jax
    >>> layout = {"gap": Param(2.0, unit="mm", role="geometry", bounds=(0.5, 5.0))}
    >>> noise = lambda key: jax.random.normal(key, (100, 1))
    >>> BlackBox(layout, lambda design, key: design["gap"] + noise(key), lambda y: float(y.mean())).names
    ('gap',)
    """

    layout: PyTree
    simulate: Callable[[Any, PRNGKeyArray], Any]
    objective: Callable[[Float[np.ndarray, "event observable"]], float]
    constraints: tuple[Constraint, ...] = ()
    used: Callable[[Any], Float[Array, " constraint"]] | None = None
    parameters: tuple[str, ...] = ()

    def __post_init__(self):
        params = named_params(self.layout)
        free = [name for name, p in params.items() if not p.frozen]
        for name in self.parameters:
            if name not in params:
                msg = f"parameters: no parameter is called {name!r}; there are {', '.join(params) or 'none'}"
                raise ValueError(msg)
            if name not in free:
                msg = f"parameters: {name!r} is frozen; free are {', '.join(free) or 'none'}"
                raise ValueError(msg)
        if not free:
            msg = f"layout: no free parameter to move, got {len(params)} frozen ones"
            raise ValueError(msg)
        for name in self.names:
            if params[name].raw.ndim:
                msg = f"layout: {name!r} has shape {params[name].raw.shape}, wanted scalars"
                raise ValueError(msg)
        if bool(self.constraints) != (self.used is not None):
            msg = f"got {len(self.constraints)} constraints {'without' if self.used is None else 'and'} `used`"
            raise ValueError(msg + ", wanted both or neither")
        if self.used is not None:
            shape = jnp.shape(self.used(resolve(self.layout)))
            if shape != (len(self.constraints),):
                msg = f"used: got shape {shape}, wanted ({len(self.constraints)},), one number for each constraint"
                raise ValueError(msg)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of the Params that move."""
        return self.parameters or tuple(name for name, p in named_params(self.layout).items() if not p.frozen)

    @property
    def start(self) -> Float[np.ndarray, " parameter"]:
        """Raw leaves of the initial design."""
        return raw_values(self.layout, self.names)

    def design(self, raw: Float[np.ndarray, " parameter"]) -> PyTree:
        """The layout with other raw leaves."""
        return with_values(self.layout, self.names, raw)

    def values(self, raw: Float[np.ndarray, " parameter"]) -> dict[str, float]:
        """Physical values of the parameters that move."""
        params = named_params(self.design(raw))
        return {name: float(params[name].unwrap()) for name in self.names}

    def slopes(self, raw: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, " parameter"]:
        """d(value)/d(raw) of the parameters that move."""
        params = named_params(self.design(raw))
        return np.array([float(params[name].slope()) for name in self.names])

    def numbers(self, raw: Float[np.ndarray, " parameter"]) -> Any:
        """What `simulate` is given: floats (arrays, where a Param that does not move is one) in place of Params."""
        plain = lambda x: number(x.unwrap()) if isinstance(x, Param) else x
        return resolve(jax.tree.map(plain, self.design(raw), is_leaf=is_param))

    def describe(self, raw: Float[np.ndarray, " parameter"]) -> str:
        """The design in words, for messages."""
        params = named_params(self.layout)
        parts = [f"{name} = {value:.6g} {params[name].unit}".rstrip() for name, value in self.values(raw).items()]
        return ", ".join(parts)


def number(value: Array) -> float | np.ndarray:
    """A float of a scalar; other shapes as numpy arrays."""
    return float(value) if jnp.ndim(value) == 0 else np.asarray(value)


class Measurements:
    """All simulated points so far: where, the objective with its variance, and how many events.

    Args:
        box: the simulator.
        seed: of every random number; call k of the simulator gets the seed's key folded with k.
    """

    def __init__(self, box: BlackBox, *, seed: int):
        self.box, self.key = box, jr.key(seed)
        self.raw: list[np.ndarray] = []
        self.values: list[float] = []
        self.variances: list[float] = []
        self.counts: list[int] = []
        self.observables: int | None = None

    @property
    def events(self) -> int:
        """Simulated so far."""
        return sum(self.counts)

    @property
    def per_call(self) -> int:
        """Events of the largest call so far."""
        return max(self.counts)

    def simulate(self, raw: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, "event observable"]:
        """One call of the simulator, checked and remembered.

        Raises:
            ValueError: what comes back is no array (event, observable) of finite numbers, or too short, or the
                objective of it is not a finite number.
        """
        got = self.box.simulate(self.box.numbers(raw), jr.fold_in(self.key, len(self.counts)))
        events = checked_events(got, self.observables, at=self.box.describe(raw))
        value, variance = jackknife(lambda y: self.evaluate(y, raw), events)
        self.observables = events.shape[1]
        self.raw.append(np.array(raw))
        self.values.append(value)
        self.variances.append(variance)
        self.counts.append(len(events))
        return events

    def evaluate(self, events: Float[np.ndarray, "event observable"], raw: np.ndarray) -> float:
        """The objective, checked."""
        got = self.box.objective(events)
        if np.ndim(got) != 0 or not np.isfinite(got):
            what = f"shape {np.shape(got)}" if np.ndim(got) else f"{float(got)}"
            at = self.box.describe(raw)
            msg = f"objective: got {what} of {len(events)} events at {at}, wanted one finite number"
            raise ValueError(msg)
        return float(got)

    def surround(self, centre: Float[np.ndarray, " parameter"], radius: float, calls: int = 1) -> None:
        """Simulate the designed set of points around a design, each `calls` times."""
        for offset in designed_points(len(centre)):
            for _ in range(calls):
                self.simulate(centre + radius * offset)

    def fit(self, centre: Float[np.ndarray, " parameter"], radius: float) -> LocalSurrogate:
        """The surrogate from every event inside the trust region."""
        arrays = (np.array(x) for x in (self.raw, self.values, self.variances, self.counts))
        return fit_local(*arrays, centre=centre, radius=radius)

    def fresh(self, raw: Float[np.ndarray, " parameter"], calls: int) -> tuple[float, float]:
        """Objective and its standard error from new events only."""
        events = np.concatenate([self.simulate(raw) for _ in range(calls)])
        value, variance = jackknife(lambda y: self.evaluate(y, raw), events)
        return value, float(np.sqrt(variance))


def checked_events(got: Any, observables: int | None, *, at: str) -> Float[np.ndarray, "event observable"]:
    """What a simulator returned, as an array of finite floats; a ValueError of one line otherwise."""
    wanted = "wanted an array (event, observable) of numbers"
    if not isinstance(got, np.ndarray | jax.Array):
        msg = f"simulate: got {type(got).__name__} at {at}, {wanted}"
        raise ValueError(msg)
    events = np.asarray(got)
    if events.dtype.kind not in "fiub" or events.ndim != 2 or events.shape[1] == 0:
        msg = f"simulate: got shape {events.shape} of {events.dtype} at {at}, {wanted}"
        raise ValueError(msg)
    if len(events) < LEAST:
        msg = f"simulate: got {len(events)} events at {at}, wanted at least {LEAST}"
        raise ValueError(msg)
    if observables is not None and events.shape[1] != observables:
        msg = f"simulate: got {events.shape[1]} observables at {at}, wanted {observables} as in the call before"
        raise ValueError(msg)
    bad = int(np.sum(~np.isfinite(events)))
    if bad:
        msg = f"simulate: got {bad} NaN or infinite of {events.size} numbers at {at}, wanted finite ones"
        raise ValueError(msg)
    return events.astype(float)


@dataclasses.dataclass(frozen=True)
class GradientEstimate:
    """A gradient with its error bar.

    Attributes:
        value, value_error: of the objective.
        gradient, error: per unit of each parameter, by name; the error is one standard deviation.
        significance: of the whole gradient, as the number of standard deviations of one normal variable.
        events: used.
    """

    value: float
    value_error: float
    gradient: dict[str, float]
    error: dict[str, float]
    significance: float
    events: int


def estimate_gradient(
    box: BlackBox, *, radius: float = 0.1, calls: int = 1, seed: int = 0, at: np.ndarray | None = None
) -> GradientEstimate:
    """Gradient of a black box's objective from events around a design, with its error bar.

    Args:
        box: the simulator.
        radius: half width of the box of points, in raw leaves; for a Param in the middle of its bounds 0.1 is
            2.5 % of their distance. The bias grows as its square, the noise falls as its inverse.
        calls: of the simulator at each point.
        seed: of every random number.
        at: raw leaves of the design; the box's own layout if not given.
    """
    centre = box.start if at is None else np.asarray(at)
    found = Measurements(box, seed=seed)
    found.surround(centre, radius, calls)
    return gradient_of(box, found.fit(centre, radius))


def gradient_of(box: BlackBox, surrogate: LocalSurrogate) -> GradientEstimate:
    """A surrogate's gradient per unit of each parameter."""
    count, scale = len(surrogate.centre), surrogate.radius * box.slopes(surrogate.centre)
    covariance = surrogate.covariance[1 : 1 + count, 1 : 1 + count]
    squared = float(surrogate.slope @ np.linalg.pinv(covariance) @ surrogate.slope)
    by_name = lambda x: dict(zip(box.names, (x / scale).tolist(), strict=True))
    return GradientEstimate(
        surrogate.value,
        surrogate.value_error,
        by_name(surrogate.slope),
        by_name(surrogate.slope_error),
        float(scipy.stats.norm.isf(scipy.stats.chi2.sf(squared, count) / 2)),
        surrogate.events,
    )
