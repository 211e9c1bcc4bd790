"""What a study is: the only place where a detector, samples and an objective meet.

A study answers a dozen questions; `diffhep.design.optimise` asks them in order. To start a new one, copy
`diffhep/design/studies/tof_pid.py` (parameters only) or `higgs_diphoton` (events and networks).
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from diffhep.audit import AuditRow, audit
from diffhep.design.honest import Measured
from diffhep.design.problem import Outcome, Problem, shortfalls
from diffhep.io import RunFolder

AUDIT_WEIGHTS = 12

Report = Callable[[str, float], None]
"""Called with a phase's name and the fraction done."""


class AbstractStudy(abc.ABC):
    """A design problem with its data.

    Attributes:
        name: as typed on the command line.
        settings: every constant.
        problem: the relaxed objective on the design sample, with its constraints.
        integers: paths of Params that are integers in the real detector.
        adjustable: paths of the scalar Params that the last, exact step moves.
        categorical: paths of Params that choose among alternatives, held at each pure one in the last step.
        scanned: paths of the two scalar Params whose plane `scan` covers; empty for no scan.
        objective_name: with its unit, for tables and plots.
        estimator: how gradients pass through discrete decisions, in words.
        reach: how far the exact steps move a raw leaf; where the ascent did not lead, an objective made of few events
            is not believed.
        exact: whether an evaluation is so cheap that every start and every point of the front is brought to its exact
            optimum.
        solver_steps: most steps of the exact solver; with 0 a start is settled where the ascent left it.
        audit_tolerance: relative, of the gradient audit.
        stepwise: names of constraints that the adjustable parameters do not move: only the ascent trades them.
        traded: name of a constraint for which a front is judged on held-out events, hard; empty for none.
        compared: whether a gradient-free method is given as many evaluations, for comparison.
    """

    name: str
    settings: Any
    problem: Problem
    integers: tuple[str, ...]
    adjustable: tuple[str, ...]
    categorical: tuple[str, ...] = ()
    stepwise: tuple[str, ...] = ()
    traded: str = ""
    scanned: tuple[str, ...]
    objective_name: str
    estimator: str = "soft cuts while optimising, hard ones when judging"
    reach: float = 1.0
    exact: bool = False
    compared: bool = False
    solver_steps: int = 40
    audit_tolerance: float = 1e-6

    def get_ready(self, folder: RunFolder, progress: Report) -> None:
        """What comes before the search and is kept in the run's folder, such as training; nothing for most studies."""
        del folder, progress

    @abc.abstractmethod
    def untrained(self) -> PyTree:
        """The initial layout with random networks: the structure of every design of this study."""

    @abc.abstractmethod
    def initial(self, *, progress: Report) -> PyTree:
        """The design to beat: each stage tuned alone, within the budget."""

    @abc.abstractmethod
    def train(self, design: PyTree, *, progress: Report) -> PyTree:
        """The design with its networks trained at its own layout, against their usual proxy."""

    def check_feasible(self) -> None:
        """Refuse budgets that no design inside the bounds can meet, naming each and by how much."""
        missing = shortfalls(self.problem.constraints, self.least_use())
        if missing:
            msg = f"{self.name}: infeasible budget: {'; '.join(missing)}"
            raise ValueError(msg)

    @abc.abstractmethod
    def start(self, initial: PyTree, *, key: PRNGKeyArray) -> PyTree:
        """A random start, with the initial design's networks."""

    @abc.abstractmethod
    def rescaled(self, design: PyTree, factor: float) -> PyTree:
        """The design made smaller or larger, to use about `factor` of its first budget."""

    @abc.abstractmethod
    def scan(self, design: PyTree, points: int, progress: Callable[[float], None]) -> Mapping[str, Any]:
        """Hard objective on held-out events over a grid of two geometry parameters, all else held."""

    @abc.abstractmethod
    def evaluate(self, design: PyTree, context: PyTree) -> Outcome:
        """The relaxed objective; what `problem.evaluate` calls."""

    @abc.abstractmethod
    def settle(self, design: PyTree) -> PyTree:
        """The design with its thresholds moved so that the hard detector meets its budgets on the design sample."""

    @abc.abstractmethod
    def judge(self, design: PyTree, *, relaxed: bool) -> Mapping[str, Measured]:
        """`objective` and every constraint's name, on held-out events, relaxed or hard."""

    def discretised(self, design: PyTree, limit: float | None = None) -> PyTree:
        """The end of an ascent with numbers of bits as whole ones, within what is `traded` or another limit of it."""
        return design

    def logic(self, design: PyTree, *, progress: Report) -> Mapping[str, Any] | None:
        """What the words of a trigger are worth, JSON-able; None if they are not part of the design."""
        return None

    def confirm(
        self, initial: PyTree, final: PyTree, folder: RunFolder, *, progress: Report
    ) -> Mapping[str, Any] | None:
        """What full simulation says of both designs, JSON-able; None if a study has none or none is wanted."""
        return None

    def alternatives(self) -> Sequence[Mapping[str, float]]:
        """Values of the categorical Params for each pure choice."""
        return [{}]

    def audit(self, design: PyTree, *, seed: int = 0, progress: Report | None = None) -> list[AuditRow]:
        """Gradient of the relaxed objective against finite differences: every Param, and some network weights."""
        problem = self.problem
        return audit(
            problem.value,
            problem.value_and_grad,
            design,
            problem.context,
            weights=AUDIT_WEIGHTS,
            tolerance=self.audit_tolerance,
            seed=seed,
            progress=progress,
        )

    @abc.abstractmethod
    def pictures(self, initial: PyTree, final: PyTree) -> Mapping[str, Any]:
        """Arrays for the report's figures, JSON-able."""

    @abc.abstractmethod
    def hardware(self, design: PyTree) -> Any:
        """The quantised classifier of the trigger, ready for export; None if there is none."""

    @abc.abstractmethod
    def least_use(self) -> np.ndarray:
        """The least any design inside the bounds uses of each constraint."""

    @abc.abstractmethod
    def provenance(self) -> Mapping[str, Any]:
        """Where the data came from, for the result and the model card."""
