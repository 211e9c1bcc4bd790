"""What is optimised: an objective, its constraints, and the parameters they depend on.

A `Problem` is a pure function `evaluate(design, context) -> Outcome` of a tree of `Param`s, the events and keys it needs
(its context), and the names of its constraints. Everything in `diffhep.design` works on a Problem; studies make them.
The context is an argument of every compiled function, never a constant in it: the compiler would spend minutes on
folding events and random numbers into the program.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
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
    """

    evaluate: Callable[[PyTree, PyTree], Outcome]
    context: PyTree
    constraints: tuple[Constraint, ...]

    @property
    def limits(self) -> np.ndarray:
        """Limits of all constraints."""
        return np.array([c.limit for c in self.constraints])


def excess(used: Float[Array, " constraint"], limits: Float[Array, " constraint"]) -> Float[Array, " constraint"]:
    """Relative excess over each limit: used/limit - 1, not positive where the constraint holds."""
    return used / jnp.asarray(limits) - 1
