"""Configuration of the shipped studies: every constant, its default, its unit.

Frozen pydantic models. They build the study's objects and are then forgotten; none enters jit.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from diffhep.design.reference_config import REFERENCE_STUDIES, StackBudgetSettings, StackSettings
from diffhep.design.settings import SearchSettings as SearchSettings
from diffhep.settings import Settings

LEAST_SHOWERS = 1000  # of Geant4 that judge a design


class SampleSettings(Settings):
    """Events; a file that is not named is the one that ships with the package."""

    signal: Path | None = Field(default=None, description="ROOT file of H -> gamma gamma events")
    background: Path | None = Field(default=None, description="ROOT file of diphoton-continuum events")
    jets: Path | None = Field(
        default=None, description="ROOT file of dijet and gamma+jet events, for the rate and the fakes"
    )
    signal_cross_section: float | None = Field(default=None, gt=0, description="in place of the file's [pb]")
    background_cross_section: float | None = Field(default=None, gt=0, description="in place of the file's [pb]")
    jets_cross_section: float | None = Field(default=None, gt=0, description="in place of the file's [pb]")
    design_events: int = Field(
        default=4000, ge=200, description="events per sample that the design is made with [count]"
    )
    held_out_events: int = Field(
        default=12000, ge=200, description="most other events per sample that judge it [count]"
    )


class CalorimeterSettings(StackSettings):
    """The sampling calorimeter: lead and polystyrene."""

    noise: float = Field(default=0.005, ge=0, description="electronic noise of one layer [GeV]")
    inner_radius: float = Field(default=1300, gt=0, description="radius of the front face [mm]")
    position_constant: float = Field(default=0.3, ge=0, description="constant term of the position [mm]")
    width_constant: float = Field(default=0.03, ge=0, description="relative fluctuation of the squared shower width []")
    hadron_response: float = Field(default=0.5, ge=0, description="response to showering hadrons []")
    readouts: int = Field(default=8, ge=4, le=64, multiple_of=4, description="longitudinal readout groups [count]")


class SimulationSettings(Settings):
    """Showers of a learned surrogate of Geant4, and of Geant4 itself; with `response = "surrogate"`."""

    surrogate: Path | None = Field(
        default=None, description="folder of a surrogate of photons, layers in groups; the shipped one if none"
    )
    geant4: int = Field(
        default=0,
        ge=0,
        description="showers of Geant4 that judge the initial and the final design; 0 for none, or from 1000 [count]",
    )
    processes: int = Field(default=1, ge=1, description="of Geant4 at once [count]")

    @field_validator("geant4")
    @classmethod
    def _enough(cls, value: int) -> int:
        if 0 < value < LEAST_SHOWERS:
            msg = f"at least {LEAST_SHOWERS} showers are wanted for a judgement, got {value}"
            raise ValueError(msg)
        return value


class BudgetSettings(StackBudgetSettings):
    """What the detector may use up."""

    rate: float = Field(default=25, gt=0, description="trigger rate [Hz]")
    luts: float | None = Field(
        default=None,
        gt=0,
        description="logic of the trigger's classifier, whose bits are then learned with everything else [LUT]",
    )


class TriggerSettings(Settings):
    """The diphoton menu."""

    leading: float = Field(default=40, gt=18, lt=100, description="initial threshold of the leading candidate [GeV]")
    subleading: float = Field(
        default=30, gt=14, lt=80, description="initial threshold of the subleading candidate [GeV]"
    )
    instantaneous_luminosity: float = Field(default=2e34, gt=0, description="[1/(cm^2 s)]")
    hidden: int = Field(default=8, ge=1, le=64, description="hidden units of the classifier [count]")
    weight_bits: int = Field(
        default=8, ge=2, le=16, description="width of the classifier's weights, unless learned [bit]"
    )
    activation_bits: int = Field(default=10, ge=2, le=20, description="width of its activations, unless learned [bit]")


class AnalysisSettings(Settings):
    """The search for a resonance in the diphoton mass spectrum."""

    luminosity: float = Field(default=10, gt=0, description="integrated luminosity [1/fb]")
    mass_low: float = Field(default=105, gt=0, description="lower end of the spectrum [GeV]")
    mass_high: float = Field(default=160, gt=0, description="upper end of the spectrum [GeV]")
    bins: int = Field(default=55, ge=5, le=400, description="bins of the spectrum [count]")
    energy_scale: float = Field(default=0.003, ge=0, description="relative energy-scale uncertainty []")
    isolation: float = Field(default=0.1, gt=0, description="largest relative isolation of a photon []")
    leading_ratio: float = Field(default=1 / 3, ge=0, description="least pt/mass of the leading photon []")
    subleading_ratio: float = Field(default=1 / 4, ge=0, description="least pt/mass of the subleading photon []")
    tagger_width: int = Field(default=16, ge=1, le=256, description="hidden units of the photon identification [count]")


class TrainedSearchSettings(SearchSettings):
    """How the optimum is looked for, and how long networks are trained before."""

    warmup: int = Field(default=400, ge=0, description="steps that train the networks at the initial geometry [count]")


class HiggsDiphotonSettings(Settings):
    """H -> gamma gamma: absorber, active medium, layers, thresholds and networks for the largest significance."""

    response: Literal["parametrised", "surrogate"] = Field(
        default="parametrised", description="how photons shower: textbook formulas, or a learned surrogate of Geant4"
    )
    samples: SampleSettings = SampleSettings()
    calorimeter: CalorimeterSettings = CalorimeterSettings()
    budget: BudgetSettings = BudgetSettings()
    trigger: TriggerSettings = TriggerSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    simulation: SimulationSettings = SimulationSettings()
    search: TrainedSearchSettings = TrainedSearchSettings()

    @model_validator(mode="after")
    def _simulated(self) -> Self:
        if self.simulation != SimulationSettings() and self.response != "surrogate":
            msg = 'simulation: plays no part without response = "surrogate" (--response surrogate)'
            raise ValueError(msg)
        return self


STUDIES: dict[str, type[Settings]] = {"higgs-diphoton": HiggsDiphotonSettings, **REFERENCE_STUDIES}
