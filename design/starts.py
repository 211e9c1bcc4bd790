"""The starts of a run: how each ascended, where its exact optimum is, how many agree, and the integers nearby."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from diffhep.design.ascent import Ascent, AscentState, lane
from diffhep.design.exact import with_values
from diffhep.parameters import Param, named_params

AGREE = 0.005  # starts agree when their objectives differ by less than this fraction
SEARCHED = 1e-5  # excess over a budget that such a start may be left with


class Ascended:
    """The end of the ascent: all lanes, and how they got there.

    Attributes:
        climb, state: the compiled ascent and its last state.
        history: (step, lane, 1 + constraint), objective and used budgets before every step.
    """

    def __init__(self, climb: Ascent, state: AscentState, history: np.ndarray):
        self.climb, self.state, self.history = climb, state, history

    def design(self, index: int) -> PyTree:
        """The whole design of one lane."""
        return eqx.combine(lane(self.state.trainable, index), self.climb.rest)


@dataclasses.dataclass(frozen=True)
class Starts:
    """The exact optimum that every start led to.

    Attributes:
        designs, objectives: of each start.
        excess: (start, constraint), relative; not positive where the budget is met.
    """

    designs: list[PyTree]
    objectives: np.ndarray
    excess: np.ndarray

    @property
    def within(self) -> np.ndarray:
        """Whether each start meets every budget."""
        return np.all(self.excess <= SEARCHED, axis=1) & np.isfinite(self.objectives)

    @property
    def best(self) -> int:
        """The start with the largest objective among those within the budgets."""
        if not self.within.any():
            return int(np.argmin(self.excess.max(axis=1)))
        return int(np.argmax(np.where(self.within, self.objectives, -np.inf)))

    def summary(self, ascended: Ascended) -> dict[str, Any]:
        """How many starts there were, and how many agree with the best."""
        agree = self.within & (np.abs(self.objectives / self.objectives[self.best] - 1) < AGREE)
        return {
            "count": len(self.objectives),
            "agree": int(agree.sum()),
            "tolerance": AGREE,
            "objectives": self.objectives,
            "within_budget": self.within,
            "history": ascended.history[:, :, 0],
        }


def nearby_integers(param: Param) -> list[float]:
    """The two integers below a scalar Param and the two above, those strictly inside its bounds."""
    # rounded, because an integer comes back from its raw leaf with an error in the last digits
    value, (low, high) = np.round(float(param.unwrap()), 9), param.bounds or (-np.inf, np.inf)
    around = {np.floor(value) - 1, np.floor(value), np.ceil(value), np.ceil(value) + 1}
    # a raw leaf on a bound would be infinite
    return [float(n) for n in sorted(around) if low < n < high]


def with_fixed(design: PyTree, values: Mapping[str, float]) -> PyTree:
    """The design with some scalar Params at given values."""
    params = named_params(design)
    raw = [float(params[name].at(value).raw) for name, value in values.items()]
    return with_values(design, tuple(values), np.array(raw))
