"""Studies whose design is nothing but parameters: no networks, no samples from files, often a closed form.

A subclass gives its layout (a module of `Param`s), its objective and what it uses; the rest of a study has an answer
that suits most of them, and can be overridden. Such a study goes through the same phases as every other.
"""

import abc
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from diffhep.design.exact import with_values
from diffhep.design.honest import Measured
from diffhep.design.problem import Constraint, Problem
from diffhep.design.study import AbstractStudy, Report
from diffhep.parameters import Param, named_params

EXACT = np.zeros(1)  # the influence of no event: a number without statistical error
EDGE = 34.0  # raw leaf of a value next to its bound
CORNERS = 10  # parameters up to which every corner of the box is looked at
INSIDE = 0.02  # a random start keeps this fraction of the range away from both bounds


class ParametricStudy(AbstractStudy):
    """Base of the studies without networks.

    A subclass defines `name`, `objective_name`, `layout` and `evaluate`, and calls `super().__init__`.

    Attributes:
        see `AbstractStudy`.
    """

    integers: tuple[str, ...] = ()
    scanned: tuple[str, ...] = ()
    estimator: str = "exact: the objective is smooth"
    reach: float = np.inf
    exact: bool = True
    compared: bool = True
    solver_steps: int = 200

    def __init__(self, settings: Any, constraints: tuple[Constraint, ...], context: PyTree = ()):
        self.settings = settings
        self.problem = Problem(self.evaluate, context, constraints)
        params = named_params(self.layout())
        free = [name for name, p in params.items() if not p.frozen]
        self.adjustable = tuple(name for name in free if name not in self.integers + self.categorical)
        # an integer that is held is no longer one to be found
        self.integers = tuple(name for name in self.integers if name in free)

    @abc.abstractmethod
    def layout(self) -> PyTree:
        """The initial design, a module of Params."""

    def untrained(self) -> PyTree:
        """The layout: there is nothing to train."""
        return self.layout()

    def initial(self, *, progress: Report) -> PyTree:
        """The layout."""
        progress("initial design", 1.0)
        return self.layout()

    def train(self, design: PyTree, *, progress: Report) -> PyTree:
        """The design as it is."""
        return design

    def start(self, initial: PyTree, *, key: PRNGKeyArray) -> PyTree:
        """Every free bounded Param at a random place of its range; the others one unit around where they were."""
        params = named_params(initial)
        names = self.adjustable + self.integers + self.categorical
        uniform = np.asarray(jr.uniform(key, (len(names),), minval=INSIDE, maxval=1 - INSIDE))
        raw = [drawn(params[name], u) for name, u in zip(names, uniform, strict=True)]
        return with_values(initial, names, np.array(raw))

    def rescaled(self, design: PyTree, factor: float) -> PyTree:
        """The design itself: the ascent finds its way to the other budget."""
        return design

    def settle(self, design: PyTree) -> PyTree:
        """The design itself: what was optimised is what is built."""
        return design

    def judge(self, design: PyTree, *, relaxed: bool) -> Mapping[str, Measured]:
        """Objective and use of a closed form: relaxed and hard are the same, and there is no statistical error."""
        outcome = self.problem.outcome(design, self.problem.context)
        used = {c.name: Measured(float(u), EXACT) for c, u in zip(self.problem.constraints, outcome.used, strict=True)}
        return {"objective": Measured(float(outcome.objective), EXACT), **used}

    def scan(self, design: PyTree, points: int, progress: Callable[[float], None]) -> Mapping[str, Any]:
        """Objective and use over two parameters, 15 % around the design, as far as the bounds allow."""
        params = named_params(design)
        axes = [around(params[name], points) for name in self.scanned]
        raw = jnp.array(
            [[float(params[n].at(v).raw) for v in axis] for n, axis in zip(self.scanned, axes, strict=True)]
        )
        one = lambda a, b: self.problem.outcome(
            with_values(design, self.scanned, jnp.stack([a, b])), self.problem.context
        )
        outcome = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(raw[0], raw[1])
        names = [c.name for c in self.problem.constraints]
        rows = [
            [
                {"objective": float(outcome.objective[i, j]), "stderr": 0.0, **dict(zip(names, used, strict=True))}
                for j, used in enumerate(np.asarray(outcome.used[i]).tolist())
            ]
            for i in range(points)
        ]
        progress(1.0)
        short = [name.rsplit(".", 1)[-1] for name in self.scanned]
        return {"names": short, "unit": params[self.scanned[0]].unit, "axes": axes, "rows": rows}

    def pictures(self, initial: PyTree, final: PyTree) -> Mapping[str, Any]:
        """None beside those that every run has."""
        return {}

    def hardware(self, design: PyTree) -> Any:
        """There is no classifier."""
        return None

    def least_use(self) -> np.ndarray:
        """The least use over the corners of the box of parameters (and its middle)."""
        design, params = self.layout(), named_params(self.layout())
        names = [n for n in self.adjustable + self.integers if params[n].bounds is not None]
        ends = [(-EDGE, EDGE)] * len(names) if len(names) <= CORNERS else []
        corners = np.array([*itertools.product(*ends)] if ends else [[-EDGE] * len(names), [EDGE] * len(names)])
        corners = np.vstack([corners, np.zeros((1, len(names)))])
        use = jax.jit(
            jax.vmap(lambda raw: self.problem.outcome(with_values(design, names, raw), self.problem.context).used)
        )
        found = np.asarray(use(jnp.asarray(corners))) if names else np.zeros((1, len(self.problem.constraints)))
        return np.min(np.where(np.isfinite(found), found, np.inf), axis=0, initial=np.inf)

    def provenance(self) -> Mapping[str, Any]:
        """No data went in."""
        return {}


def drawn(param: Param, uniform: float) -> float:
    """Raw leaf of a scalar Param at a fraction of its range; without bounds, within one unit of where it was."""
    if param.bounds is None:
        return float(param.raw) + 2 * uniform - 1
    low, high = param.bounds
    return float(param.at(low + (high - low) * uniform).raw)


def around(param: Param, points: int) -> np.ndarray:
    """Values of a scalar Param from 15 % below to 18 % above, strictly inside its bounds."""
    value = float(param.unwrap())
    low, high = value * 0.85, value * 1.18
    if param.bounds is not None:
        width = param.bounds[1] - param.bounds[0]
        low, high = max(low, param.bounds[0] + 1e-6 * width), min(high, param.bounds[1] - 1e-6 * width)
    return np.linspace(low, high, points)
