"""Settings of a trigger menu: a TOML file, in which every number carries its unit.

A threshold is fixed where it is one number (`pt = "25 GeV"`), and optimised where it is a table with bounds
(`pt = {start = "25 GeV", low = "16 GeV", high = "80 GeV"}`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from diffhep.quantities import number_in
from diffhep.settings import Settings, read_toml, settings_from


class Threshold(Settings):
    """A threshold: fixed, or to be optimised between two bounds."""

    start: float = Field(description="where it is, or where it begins")
    low: float | None = Field(default=None, description="lower bound; no bounds for a fixed threshold")
    high: float | None = Field(default=None, description="upper bound")
    step: float | None = Field(default=None, gt=0, description="least significant bit; by default that of [hardware]")
    width: float | None = Field(
        default=None, gt=0, description="of the kernel at the cut's edge; by default search.width times the range"
    )

    @property
    def fixed(self) -> bool:
        """Whether it stays where it is."""
        return self.low is None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if (self.low is None) != (self.high is None):
            msg = "low and high go together: both for a threshold to be optimised, neither for a fixed one"
            raise ValueError(msg)
        if self.low is not None and self.high is not None and not self.low < self.start < self.high:
            msg = f"wanted low < start < high, got {self.low:g}, {self.start:g} and {self.high:g}"
            raise ValueError(msg)
        return self


def threshold_in(unit: str) -> Callable[[Any], Any]:
    """What turns a number of a file, or a table of numbers, into the fields of a `Threshold` in some unit."""

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number_in(number, unit) for key, number in value.items()}
        return {"start": number_in(value, unit)} if isinstance(value, int | float | str) else value

    return convert


def quantity(unit: str) -> BeforeValidator:
    """A plain number of a file in some unit."""
    return BeforeValidator(lambda value: number_in(value, unit))


Energy = Annotated[Threshold, BeforeValidator(threshold_in("GeV"))]
Plain = Annotated[Threshold, BeforeValidator(threshold_in(""))]
Frequency = Annotated[float, quantity("Hz")]


class SeedSettings(Settings):
    """What seeds of every kind have."""

    prescale: int = Field(default=1, ge=1, description="one event in so many is kept [count]")
    eta: float | None = Field(default=None, gt=0, description="largest |eta| of an object []")


class ObjectSeed(SeedSettings):
    """A seed on objects of one kind."""

    object: str = Field(default="Photon", min_length=1, description="prefix of the branches")
    isolation: Plain | None = Field(default=None, description="largest isolation of an object []")


class SingleSeed(ObjectSeed):
    """One object above a threshold."""

    kind: Literal["single"]
    pt: Energy = Field(description="of the object [GeV]")


class DoubleSeed(ObjectSeed):
    """Two objects of one kind, each above its threshold."""

    kind: Literal["double"]
    pt: tuple[Energy, Energy] = Field(description="of the harder and of the softer object [GeV]")


class CrossSeed(SeedSettings):
    """One object of each of two kinds."""

    kind: Literal["cross"]
    objects: tuple[str, str] = Field(description="prefixes of the branches")
    pt: tuple[Energy, Energy] = Field(description="of the two objects [GeV]")

    @model_validator(mode="after")
    def _two_kinds(self) -> Self:
        if self.objects[0] == self.objects[1]:
            msg = f"objects: two kinds are wanted, got {self.objects[0]} twice; a seed of one kind is a 'double'"
            raise ValueError(msg)
        return self


class MassSeed(ObjectSeed):
    """Two objects of one kind with an invariant mass above a threshold."""

    kind: Literal["mass"]
    pt: tuple[Energy, Energy] = Field(description="of the harder and of the softer object [GeV]")
    mass: Energy = Field(description="of the two, taken as massless [GeV]")


class IsolationSeed(ObjectSeed):
    """One isolated object above a threshold."""

    kind: Literal["isolation"]
    pt: Energy = Field(description="of the object [GeV]")
    isolation: Plain = Field(description="largest isolation of the object []")


class ScoreSeed(SeedSettings):
    """A score, such as the output of a network: one number an event, or one an object."""

    kind: Literal["score"]
    branch: str = Field(min_length=1, description="of the score: a whole name, or what follows the object's prefix")
    score: Plain = Field(description="of the event or object []")
    below: bool = Field(default=False, description="accept what is below the threshold []")
    object: str | None = Field(default=None, description="prefix of the branches; none for a score of the event")
    pt: Energy | None = Field(default=None, description="of the object [GeV]")

    @model_validator(mode="after")
    def _object(self) -> Self:
        if self.object is None and (self.pt is not None or self.eta is not None):
            msg = "pt and eta are an object's: name it, as in object = 'Photon'"
            raise ValueError(msg)
        return self


Seed = Annotated[
    SingleSeed | DoubleSeed | CrossSeed | MassSeed | IsolationSeed | ScoreSeed, Field(discriminator="kind")
]


class BackgroundSettings(Settings):
    """Events that make the rate."""

    file: str = Field(description="ROOT file, or the name of a shipped sample")
    cross_section: Annotated[float, quantity("pb")] | None = Field(
        default=None, gt=0, description="in place of the file's [pb]"
    )
    rate: Frequency | None = Field(
        default=None, gt=0, description="of everything generated, in place of cross-section times luminosity [Hz]"
    )


class SignalSettings(Settings):
    """Events to be kept."""

    file: str = Field(description="ROOT file, or the name of a shipped sample")
    weight: float = Field(default=1.0, ge=0, description="of this efficiency in the objective []")
    cross_section: Annotated[float, quantity("pb")] | None = Field(
        default=None, gt=0, description="in place of the file's, for the analysis [pb]"
    )


class SelectedSettings(Settings):
    """Events that an analysis cannot tell from its signal."""

    file: str = Field(description="ROOT file, or the name of a shipped sample")
    cross_section: Annotated[float, quantity("pb")] | None = Field(
        default=None, gt=0, description="in place of the file's [pb]"
    )


class AnalysisSettings(Settings):
    """The analysis that the menu serves: its significance takes the place of the weighted efficiency.

    Objects are as they are, without the trigger's resolution. All signals of the menu count, each with its
    cross-section.
    """

    luminosity: Annotated[float, quantity("1/pb")] = Field(gt=0, description="integrated [1/pb]")
    object: str = Field(default="Photon", min_length=1, description="prefix of the branches")
    observable: Literal["mass", "pt"] = Field(
        default="mass", description="mass of the two hardest objects, taken as massless, or pt of the hardest"
    )
    low: Annotated[float, quantity("GeV")] = Field(description="of the histogram [GeV]")
    high: Annotated[float, quantity("GeV")] = Field(description="of the histogram [GeV]")
    bins: int = Field(default=10, ge=1, le=1000, description="of equal width [count]")
    pt: tuple[Annotated[float, quantity("GeV")], ...] = Field(
        default=(), max_length=2, description="least pt of the hardest object and of the second [GeV]"
    )
    eta: float | None = Field(default=None, gt=0, description="largest |eta| of these objects []")
    uncertainty: float = Field(default=0.0, ge=0, description="of the background of each bin, relative []")
    backgrounds: dict[str, SelectedSettings] = Field(min_length=1, description="events that look like the signal")

    @property
    def objects(self) -> int:
        """How many objects an event must have."""
        return max(len(self.pt), 2 if self.observable == "mass" else 1)

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.low < self.high:
            msg = f"wanted low < high, got {self.low:g} and {self.high:g} GeV"
            raise ValueError(msg)
        return self


class ObjectSettings(Settings):
    """How the trigger sees objects of one kind: pt (1 + sqrt(stochastic^2/pt + constant^2) z), z normal."""

    most: int = Field(default=4, ge=1, le=16, description="objects of an event that are looked at [count]")
    stochastic: Annotated[float, quantity("GeV^(1/2)")] = Field(default=0.0, ge=0, description="[GeV^(1/2)]")
    constant: float = Field(default=0.0, ge=0, description="[]")
    isolation: str = Field(default="pfRelIso03_all", description="branch of the isolation, without the prefix")


class BudgetSettings(Settings):
    """What the menu may use up."""

    rate: Frequency = Field(gt=0, description="of all seeds together [Hz]")
    event_size: Annotated[float, quantity("MB")] | None = Field(default=None, gt=0, description="of one event [MB]")
    bandwidth: Annotated[float, quantity("MB/s")] | None = Field(
        default=None, gt=0, description="of all events kept [MB/s]"
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.bandwidth is not None and self.event_size is None:
            msg = "a bandwidth budget needs event_size, as in event_size = '1 MB'"
            raise ValueError(msg)
        return self


class HardwareSettings(Settings):
    """Least significant bits of the thresholds."""

    pt: Annotated[float, quantity("GeV")] = Field(default=0.5, gt=0, description="[GeV]")
    mass: Annotated[float, quantity("GeV")] = Field(default=1.0, gt=0, description="[GeV]")
    isolation: float = Field(default=1 / 64, gt=0, description="[]")
    score: float = Field(default=1 / 64, gt=0, description="[]")


class SearchSettings(Settings):
    """How the best thresholds are looked for."""

    starts: int = Field(default=4, ge=1, le=64, description="first the menu as written, then random ones [count]")
    width: float = Field(default=0.05, gt=0, le=0.5, description="of the kernel at an edge, over the range []")
    design: float = Field(default=0.5, gt=0, lt=1, description="share of events to optimise with, others judge []")
    # the rate of as many other events is then above the budget once in sixty times: its error is that of both samples
    safety: float = Field(
        default=3.0, ge=0, le=10, description="standard errors of the rate that are kept below its budget []"
    )
    front: int = Field(default=5, ge=0, le=50, description="rate budgets of the curve of efficiency [count]")
    seed: int = Field(default=0, ge=0, description="of every random number []")


class MenuSettings(Settings):
    """A trigger menu, the events it is judged with, and its budgets."""

    luminosity: Annotated[float, quantity("1/(cm^2 s)")] = Field(
        default=2e34, gt=0, description="instantaneous [1/(cm^2 s)]"
    )
    budget: BudgetSettings
    background: dict[str, BackgroundSettings] = Field(min_length=1, description="events that make the rate")
    signals: dict[str, SignalSettings] = Field(min_length=1, description="events to be kept")
    objects: dict[str, ObjectSettings] = Field(default={}, description="how the trigger sees each kind of object")
    hardware: HardwareSettings = HardwareSettings()
    seeds: dict[str, Seed] = Field(min_length=1, description="the menu")
    analysis: AnalysisSettings | None = Field(default=None, description="what the menu is for, if it is one analysis")
    search: SearchSettings = SearchSettings()

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if not any(signal.weight > 0 for signal in self.signals.values()):
            msg = "signals: at least one weight must be above 0"
            raise ValueError(msg)
        weighted = [name for name, signal in self.signals.items() if signal.weight != 1]
        if self.analysis is not None and weighted:
            msg = f"signals.{weighted[0]}.weight: an analysis counts events by cross-section, it takes no weights"
            raise ValueError(msg)
        twice = [name for name in self.signals if self.analysis is not None and name in self.analysis.backgrounds]
        if twice:
            msg = f"analysis.backgrounds.{twice[0]}: a signal has this name already"
            raise ValueError(msg)
        return self


def read_menu(path: Path, *, budget: dict[str, Any] | None = None) -> tuple[MenuSettings, dict[str, Any]]:
    """The settings of a TOML file, and the file's own words.

    Args:
        path: of the file.
        budget: entries of `[budget]` in place of the file's.

    Raises:
        ValueError: the file cannot be read, is not TOML, or a value, a unit, a key or a kind of seed is wrong; one line
            that names the file and the field.
    """
    values = read_toml(path)
    if budget:
        given = values.get("budget", {})
        values["budget"] = {**given, **budget} if isinstance(given, dict) else given
    return settings_from(MenuSettings, values, source=str(path)), values
