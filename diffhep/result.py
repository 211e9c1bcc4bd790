"""What a run folder says about its outcome: `result.json` and `fpga.json`.

Only what `design.summary` always writes is required; whatever a run can do without (a front, a scan, pictures) may be
missing or null.
"""

from typing import Annotated, Any, Self

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from diffhep.checked import Content, Count, Matrix, NotNegative, Rising, Row, Value, same_length

RESULT, FPGA = "result.json", "fpga.json"


class Judged(Content):
    """An objective on held-out events, with soft and with hard decisions."""

    relaxed: Value
    hard: Value


class Gain(Value):
    """The difference of two designs on the same events, and how many standard errors it is; None if it has none."""

    significance: float | None


class Parameter(Content):
    """One Param, before and after; `worth` is the relative change of the objective per unit."""

    initial: float
    final: float
    unit: str
    role: str
    bounds: tuple[float, float] | None = None
    gradient: float | None = None
    worth: float | None = None


class Budget(Value):
    """Use of a constraint by the hard final design, its limit, and d(objective)/d(limit)."""

    initial: float
    relaxed: float
    limit: float
    unit: str
    multiplier: float
    active: bool


class Kkt(Content):
    """Residual of the Karush-Kuhn-Tucker conditions, and the largest relative excess over a limit."""

    residual: float
    excess: float


class Starts(Content):
    """All lanes of the ascent; `history` is (step, lane)."""

    count: Count
    agree: Count
    tolerance: float
    objectives: Row
    within_budget: list[bool]
    history: Matrix

    @model_validator(mode="after")
    def lanes_agree(self) -> Self:
        """Every list has one entry a start."""
        lanes = {"objectives": self.objectives, "within_budget": self.within_budget, "history": self.history.T}
        same_length(count=range(self.count), **lanes)
        return self


class FrontPoint(Content):
    """An optimum under another limit; `used` is in the order of the constraints."""

    limit: float
    used: Row
    objective: float


class Front(Content):
    """Optima along a range of one limit; the area they dominate up to a use of `reference`."""

    constraint: str
    points: Annotated[list[FrontPoint], Field(min_length=1)]
    hypervolume: float | None = None
    reference: float | None = None


class Baseline(Content):
    """What a gradient-free method found with as many evaluations; None if nothing met the budgets."""

    method: str
    evaluations: Count
    objective: float | None


class JudgedPoint(Value):
    """Hard objective of a design within another limit, and what it uses."""

    limit: float
    used: float


class JudgedFront(Content):
    """Designs that could be built, along a range of one limit."""

    constraint: str
    points: Annotated[list[JudgedPoint], Field(min_length=1)]


class Change(Value):
    """Of the objective, for one bit more or fewer, and of the lookup tables."""

    luts: float


class WordsWorth(Content):
    """What a bit of some words is worth; None where nothing is left to fit."""

    words: str
    bits: Count
    fewer: Change | None
    more: Change | None


class Logic(Content):
    """The trigger's logic as part of the design."""

    luts: NotNegative
    weights: Count
    words: list[WordsWorth]
    front: JudgedFront | None = None


class Confirmed(Content):
    """Hard objective and trigger rate [Hz] of a design with showers of a surrogate, and with those of Geant4."""

    design: str
    showers: Count
    surrogate: Value | None
    geant4: Value | None
    deviation: Value | None
    surrogate_rate: Value | None
    geant4_rate: Value | None


class ResponseAt(Content):
    """Response of a surrogate over that of full simulation in a range of energies [GeV], and both resolutions."""

    low: float
    high: float
    response: Value | None
    surrogate: Value | None
    geant4: Value | None


class Confirmation(Content):
    """What full simulation says of designs that a surrogate judged."""

    designs: list[Confirmed]
    energies: list[ResponseAt]


class Grid(Content):
    """Hard objective and used budgets over two parameters; rows along the first of them."""

    names: tuple[str, str]
    unit: str
    axes: tuple[Rising, Rising]
    rows: list[list[dict[str, float | None]]]

    @model_validator(mode="after")
    def rectangular(self) -> Self:
        """One row an entry of the first axis, one cell an entry of the second."""
        same_length(axis=self.axes[0], rows=self.rows)
        for cells in self.rows:
            same_length(axis=self.axes[1], cells=cells)
        if any("objective" not in cell for cells in self.rows for cell in cells):
            msg = "a cell has no objective"
            raise ValueError(msg)
        if np.all(np.isnan(self.values("objective"))):
            msg = "the objective of every cell is null"
            raise ValueError(msg)
        return self

    def values(self, name: str) -> Float[np.ndarray, "first second"]:
        """One number of every cell; nan where it is missing or null."""
        cells = [[cell.get(name) for cell in cells] for cells in self.rows]
        return np.array([[np.nan if value is None else value for value in line] for line in cells])


class Compared(Content):
    """One derivative of the gradient audit."""

    name: str
    role: str
    unit: str
    automatic: float
    difference: float
    error: float
    relative: NotNegative
    passed: bool


class Spectrum(Content):
    """Expected events per bin."""

    signal: Row
    background: Row
    fakes: Row | None = None


class Spectra(Content):
    """Mass spectra of both designs over the same bins [GeV]."""

    edges: Rising
    initial: Spectrum
    final: Spectrum

    @model_validator(mode="after")
    def bins_agree(self) -> Self:
        """One entry a bin."""
        for part in (self.initial, self.final):
            same_length(bins=self.edges[1:], signal=part.signal, background=part.background, fakes=part.fakes)
        return self


class Resolution(Content):
    """Terms of the relative energy resolution against the absorber thickness [mm], at one energy [GeV]."""

    absorber: Rising
    terms: Annotated[dict[str, Row], Field(min_length=1)]
    constant: float | None = None
    energy: float
    final: float

    @model_validator(mode="after")
    def terms_agree(self) -> Self:
        """One entry a thickness."""
        same_length(absorber=self.absorber, **self.terms)
        return self


class Efficiency(Content):
    """Efficiency per bin with its error; `filled` marks the bins that have events."""

    efficiency: Row
    error: Row
    filled: list[bool]


class TurnOn(Content):
    """Trigger efficiency of both designs over the same bins of transverse momentum [GeV]."""

    edges: Rising
    initial: Efficiency
    final: Efficiency

    @model_validator(mode="after")
    def bins_agree(self) -> Self:
        """One entry a bin."""
        for part in (self.initial, self.final):
            same_length(bins=self.edges[1:], efficiency=part.efficiency, error=part.error, filled=part.filled)
        return self


class RateCurve(Content):
    """Trigger rate [Hz] with its error against a common shift of the thresholds [GeV]."""

    shift: Rising
    rate: Row
    error: Row

    @model_validator(mode="after")
    def points_agree(self) -> Self:
        """One entry a shift."""
        same_length(shift=self.shift, rate=self.rate, error=self.error)
        return self


class Rates(Content):
    """Rate curves of both designs."""

    initial: RateCurve
    final: RateCurve


class Pictures(Content):
    """What a study offers for figures; another study may offer other things, which are not shown."""

    spectrum: Spectra | None = None
    resolution: Resolution | None = None
    turn_on: TurnOn | None = None
    rate: Rates | None = None


class Result(Content):
    """`result.json`; `events` says whether samples of events went in, and sections about them make sense."""

    study: str
    objective: str
    estimator: str = ""
    events: bool = True
    initial: Judged
    final: Judged
    improvement: Gain
    parameters: dict[str, Parameter]
    constraints: dict[str, Budget]
    starts: Starts
    kkt: Kkt | None = None
    front: Front | None = None
    logic: Logic | None = None
    confirmation: Confirmation | None = None
    grid: Grid | None = None
    baseline: Baseline | None = None
    tolerances: dict[str, float | None] | None = None
    audit: list[Compared] = Field(default_factory=list)
    audit_tolerance: float = 1e-6
    pictures: Pictures = Pictures()
    gradient_cost_ratio: float | None = None
    compilations: dict[str, int] = Field(default_factory=dict)
    timing: dict[str, NotNegative] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    data: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def front_is_of_a_constraint(self) -> Self:
        """A front names a constraint, and points of the relaxed one have all of them."""
        judged = self.logic.front if self.logic else None
        if judged is not None and judged.constraint not in self.constraints:
            msg = f"logic.front.constraint: no constraint is called {judged.constraint!r}"
            raise ValueError(msg)
        if self.front is not None:
            if self.front.constraint not in self.constraints:
                msg = f"front.constraint: no constraint is called {self.front.constraint!r}"
                raise ValueError(msg)
            for point in self.front.points:
                same_length(constraints=self.constraints, used=point.used)
        return self


class Proof(Content):
    """`fpga.json`, as `diffhep.trigger.verify` returns it."""

    inputs: Count
    outputs: Count
    mismatches: Count
    max_difference: float
    files: Count | None = None
    seconds: dict[str, NotNegative] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
