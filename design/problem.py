"""What is optimised: an objective, its constraints, and the parameters they depend on.

A `Problem` is a pure function `evaluate(design, context) -> Outcome` of a tree of `Param`s, the events it needs (its
context), and the names of its constraints. Everything in `diffhep.design` works on a Problem; studies make them.
The context is an argument of every compiled function, never a constant in it: the compiler would spend minutes on
folding events and random numbers into the program.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


class Outcome(eqx.Module):
    """Value of a design.

    Attributes:
        objective: to be made large.
        used: what each constraint limits, in its own unit.
    """

    objective: Float[Array, ""]
    used: Float[Array, " constraint"]


@dataclasses.dataclass(frozen=True)
class Constraint:
    """An upper limit on something a design uses up.

    Attributes:
        name: for example `cost`.
        limit: the budget, positive.
        unit: of the limit.
    """

    name: str
    limit: float
    unit: str

    def __post_init__(self):
        if not (np.isfinite(self.limit) and self.limit > 0):
            msg = f"{self.name}: the limit must be positive and finite, got {self.limit} {self.unit}".rstrip()
            raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective with upper limits.

    Attributes:
        evaluate: (design with Params unresolved, context) -> Outcome; pure and jit-safe.
        context: arrays that do not change: events, weights, keys.
        constraints: in the order of `Outcome.used`.
        traces: how often each compiled function was traced; once is right.
    """

    evaluate: Callable[[PyTree, PyTree], Outcome]
    context: PyTree
    constraints: tuple[Constraint, ...]
    traces: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)

    @functools.cached_property
    def outcome(self) -> Callable[[PyTree, PyTree], Outcome]:
        """`evaluate`, traced once for every program that contains it."""
        return jax.jit(self.evaluate)

    @functools.cached_property
    def value(self) -> Callable[[PyTree, PyTree, PyTree], Float[Array, ""]]:
        """Compiled objective of (trainable part, rest, context); one program for everyone who asks."""
        return jax.jit(counted(self.objective_of, self.traces, "value"))

    @functools.cached_property
    def value_and_grad(self) -> Callable[[PyTree, PyTree, PyTree], tuple[Float[Array, ""], PyTree]]:
        """The same with its gradient with respect to the trainable part."""
        return jax.jit(jax.value_and_grad(counted(self.objective_of, self.traces, "value and gradient")))

    def objective_of(self, trainable: PyTree, rest: PyTree, context: PyTree) -> Float[Array, ""]:
        """Objective of a design in two parts, as `split` makes them."""
        return self.outcome(eqx.combine(trainable, rest), context).objective

    @property
    def limits(self) -> np.ndarray:
        """Limits of all constraints."""
        return np.array([c.limit for c in self.constraints])


def counted(function: Callable, traces: dict[str, int], name: str) -> Callable:
    """The function, counting how often it is traced."""

    def traced(*args: PyTree) -> PyTree:
        traces[name] = traces.get(name, 0) + 1
        return function(*args)

    return traced


def excess(used: Float[Array, " constraint"], limits: Float[Array, " constraint"]) -> Float[Array, " constraint"]:
    """Relative excess over each limit: used/limit - 1, not positive where the constraint holds."""
    return used / jnp.asarray(limits) - 1


def shortfalls(constraints: Sequence[Constraint], least: np.ndarray) -> list[str]:
    """One sentence for each constraint that even the least possible use exceeds."""
    return [
        f"{c.name}: at least {low:.4g} {c.unit}".rstrip() + f" is needed, {low - c.limit:.4g} more than {c.limit:.4g}"
        for c, low in zip(constraints, least, strict=True)
        if low > c.limit
    ]
