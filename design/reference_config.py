"""Configuration of the reference problems: every constant, its default, its unit."""

from pathlib import Path
from typing import Any

from pydantic import Field

from diffhep.design.settings import SearchSettings
from diffhep.design.tomography_config import MuonTomographySettings
from diffhep.settings import Settings


class StackSettings(Settings):
    """The sampling calorimeter: lead and polystyrene."""

    absorber: float = Field(default=5.6, gt=0.3, lt=20, description="initial absorber thickness of a layer [mm]")
    active: float = Field(default=4.0, gt=0.3, lt=20, description="initial active thickness of a layer [mm]")
    layers: float = Field(default=25, gt=4, lt=160, description="initial number of layers [count]")
    photoelectrons: float = Field(default=5000, gt=0, description="photo-electrons per visible energy [1/GeV]")
    constant_term: float = Field(default=0.003, ge=0, description="relative constant term of the energy []")


class StackBudgetSettings(Settings):
    """What the calorimeter may use up."""

    cost: float = Field(default=60, gt=0, description="cost of the calorimeter [cost unit]")
    depth: float = Field(default=250, gt=0, description="depth of the calorimeter [mm]")
    cost_per_layer: float = Field(default=1.0, ge=0, description="readout cost [cost unit/layer]")
    cost_per_absorber: float = Field(default=0.02, ge=0, description="absorber cost [cost unit/mm]")
    cost_per_active: float = Field(default=0.05, ge=0, description="active cost [cost unit/mm]")

    def layer_cost(self, absorber: Any, active: Any, *, price: float = 1.0) -> Any:
        """Cost of one layer, for thicknesses in mm, numbers or arrays; `price` multiplies that of the absorber."""
        return self.cost_per_layer + price * self.cost_per_absorber * absorber + self.cost_per_active * active


class EcalStackSettings(StackSettings):
    """The sampling calorimeter, and the photons it is made for."""

    fixed_layers: bool = Field(default=False, description="keep the number of layers []")
    materials: tuple[str, ...] = Field(default=("lead",), min_length=1, description="absorbers to choose from []")
    profile_offset: float = Field(default=0.5, description="of the shower maximum: +0.5 photons, -0.5 electrons [X0]")
    energy: float = Field(default=60, gt=0.1, description="of the photons [GeV]")


class EcalBudgetSettings(StackBudgetSettings):
    """What the calorimeter may use up."""

    prices: tuple[float, ...] = Field(default=(1.0,), description="absorber cost of each material, relative []")


class EcalSearchSettings(SearchSettings):
    """How the optimum is looked for."""

    starts: int = Field(default=30, ge=1, le=64, description="designs optimised at once [count]")
    pareto: int = Field(
        default=30, ge=0, le=64, description="points of the front of the objective against a budget [count]"
    )


class EcalResolutionSettings(Settings):
    """Sampling calorimeter: absorber, active medium and layers for the best photon energy resolution."""

    calorimeter: EcalStackSettings = EcalStackSettings()
    budget: EcalBudgetSettings = EcalBudgetSettings()
    search: EcalSearchSettings = EcalSearchSettings()


class LayersSettings(Settings):
    """A stack of groups of layers, simulated by a surrogate of Geant4."""

    surrogate: Path | None = Field(default=None, description="folder of a trained surrogate; the shipped one if none")
    groups: int = Field(default=10, ge=1, description="of layers that are alike; divides the surrogate's [count]")
    absorber: float = Field(default=4.0, gt=0, description="initial absorber thickness of a layer [mm]")
    active: float = Field(default=4.0, gt=0, description="initial active thickness of a layer [mm]")
    energies: tuple[float, ...] = Field(default=(1, 2, 4), min_length=1, description="of the electrons [GeV]")
    showers: int = Field(default=500, ge=50, description="of each energy that the design is made with [count]")
    geant4: int = Field(
        default=0, ge=0, description="Geant4 showers of each energy that judge a design; 0 for the surrogate's [count]"
    )
    processes: int = Field(default=1, ge=1, description="of Geant4 at once [count]")


class RefinementSettings(Settings):
    """Rounds in which the surrogate is trained on at its own optimum, until Geant4 confirms it there."""

    rounds: int = Field(default=0, ge=0, description="of training at most; they want calorimeter.geant4 [count]")
    showers: int = Field(default=6000, ge=200, description="of Geant4 around the optimum, each round [count]")
    steps: int = Field(default=1000, ge=10, multiple_of=10, description="of training, each round [count]")
    rate: float = Field(default=1e-3, gt=0, description="largest step size of Adam []")
    replay: tuple[Path, ...] = Field(
        default=(), description="files of showers that the surrogate was trained on; as many new general ones if none"
    )
    tolerance: float = Field(
        default=0.03, gt=0, description="relative deviation from Geant4, with its error, that ends the rounds []"
    )


class LayersBudgetSettings(StackBudgetSettings):
    """What the calorimeter may use up."""

    cost: float = Field(default=40, gt=0, description="cost of the calorimeter [cost unit]")


class LayersSearchSettings(SearchSettings):
    """How the optimum is looked for."""

    pareto: int = Field(default=4, ge=0, le=64, description="points of the front against a budget [count]")
    grid: int = Field(default=0, ge=0, le=41, description="points a side of the scan around the optimum [count]")


class EcalLayersSettings(Settings):
    """Thicknesses of a sampling calorimeter, layer by layer, with a learned surrogate of Geant4."""

    calorimeter: LayersSettings = LayersSettings()
    refinement: RefinementSettings = RefinementSettings()
    budget: LayersBudgetSettings = LayersBudgetSettings()
    search: LayersSearchSettings = LayersSearchSettings()


class MenuSettings(Settings):
    """Independent triggers, one threshold each: exponential spectra of signal and background."""

    signal_mean: tuple[float, ...] = Field(default=(18, 35, 40, 60), description="mean of each signal spectrum [GeV]")
    background_mean: tuple[float, ...] = Field(default=(4, 7, 9, 12), description="mean of each background [GeV]")
    background_rate: tuple[float, ...] = Field(default=(4e5, 1.5e6, 2e5, 8e4), description="before any cut [Hz]")
    weight: tuple[float, ...] = Field(default=(1, 0.8, 0.5, 0.7), description="worth of each trigger's efficiency []")
    rate: float = Field(default=100, gt=0, description="budget of the sum of all rates [Hz]")
    highest: float = Field(default=200, gt=0, description="upper bound of the thresholds [GeV]")


class ThresholdEventSettings(Settings):
    """The same from sampled events with hard cuts."""

    count: int = Field(default=0, ge=0, description="events of each spectrum; 0 for the closed form [count]")
    bandwidth: float = Field(default=2.0, gt=0, description="of the density at a threshold, for the gradient [GeV]")
    stretch: float = Field(default=4.0, ge=1, description="background is drawn this much harder, and weighted []")


class TriggerThresholdsSettings(Settings):
    """Trigger thresholds for the most signal within a rate budget."""

    menu: MenuSettings = MenuSettings()
    events: ThresholdEventSettings = ThresholdEventSettings()
    search: SearchSettings = SearchSettings(starts=8, grid=0)


class BranchingSettings(Settings):
    """A shower in which every particle may split once in every layer."""

    target: float = Field(default=20, gt=1, description="mean number of particles wanted behind the last layer [count]")
    depth: float = Field(default=0, ge=0, description="total thickness wanted; 0 leaves it free [mm]")
    length: float = Field(default=1, gt=0, description="mean free path of splitting [mm]")
    cost: tuple[float, ...] = Field(
        default=(1, 1.2, 1.5, 2, 1, 1.2, 1.5, 2), description="of each layer's thickness [cost unit/mm]"
    )
    thickest: float = Field(default=3, gt=0, description="upper bound of a layer's thickness [mm]")
    showers: int = Field(default=0, ge=0, description="simulated showers; 0 for the closed form [count]")


class BranchingShowerSettings(Settings):
    """Layer thicknesses of a branching shower for a wanted multiplicity at the least cost."""

    shower: BranchingSettings = BranchingSettings()
    search: SearchSettings = SearchSettings(starts=8, grid=0)


class BarrelSettings(Settings):
    """Silicon layers around a beam pipe."""

    layers: int = Field(default=8, ge=3, le=40, description="silicon layers [count]")
    inner: float = Field(default=30, ge=0, description="smallest radius of a layer [mm]")
    outer: float = Field(default=1100, gt=0, description="largest radius of a layer [mm]")
    spacing: float = Field(default=20, ge=0, description="least distance of two layers [mm]")
    resolution: float = Field(default=0.01, gt=0, description="of a hit in the bending plane [mm]")
    thickness: float = Field(default=0.02, ge=0, description="of a layer [X0]")
    pipe_radius: float = Field(default=22, ge=0, description="of the beam pipe [mm]")
    pipe_thickness: float = Field(default=0.003, ge=0, description="of the beam pipe [X0]")
    momenta: tuple[float, ...] = Field(default=(1, 10, 100), min_length=1, description="transverse momenta [GeV]")
    momentum_share: float = Field(
        default=1.0, ge=0, le=1, description="of curvature in the objective; the rest is the impact parameter []"
    )


class TrackerSearchSettings(SearchSettings):
    """How the optimum is looked for."""

    starts: int = Field(default=32, ge=1, le=64, description="designs optimised at once [count]")
    grid: int = Field(default=0, ge=0, le=41, description="points a side of the scan around the optimum [count]")


class TrackerMomentumSettings(Settings):
    """Radii of silicon layers for the best momentum resolution."""

    tracker: BarrelSettings = BarrelSettings()
    search: TrackerSearchSettings = TrackerSearchSettings()


class TrackerImpactSettings(TrackerMomentumSettings):
    """Radii of silicon layers for the best impact-parameter resolution."""

    tracker: BarrelSettings = BarrelSettings(momentum_share=0.0)


class TofSettings(Settings):
    """A timing layer: kaons against pions."""

    radius: float = Field(default=2000, gt=10, lt=30000, description="initial radius [mm]")
    largest: float = Field(default=20000, gt=10, description="largest radius [mm]")
    momentum: float = Field(default=1, gt=0, description="of the hadrons [GeV]")
    constant: float = Field(default=20, gt=0, description="resolution without the share of the area [ps]")
    area_term: float = Field(default=30, ge=0, description="share of the area in the resolution [ps/m^(1/2)]")
    field: float = Field(default=0, ge=0, description="along the beam [T]")
    turn_on: float = Field(default=0.02, gt=0, description="width of the acceptance where tracks curl up [GeV]")


class TofPidSettings(Settings):
    """Radius of a timing layer that tells kaons from pions."""

    timing: TofSettings = TofSettings()
    search: SearchSettings = SearchSettings(starts=8, grid=0)


class CellSettings(Settings):
    """A FODO cell."""

    length: float = Field(default=1000, gt=0, description="of the cell [mm]")
    quadrupole: float = Field(
        default=0, ge=0, lt=0.5, description="length of each quadrupole, 0 for thin [cell length]"
    )
    strength: float = Field(default=1.5, gt=0.1, lt=4, description="initial integrated strength [1/cell length]")
    strongest: float = Field(default=3.9, gt=0, description="largest integrated strength [1/cell length]")


class BeamlineFodoSettings(Settings):
    """Quadrupole strength of a FODO cell with the smallest beam."""

    cell: CellSettings = CellSettings()
    search: SearchSettings = SearchSettings(starts=8, grid=0)


class TaggerSettings(Settings):
    """A b tagger that cuts on the impact parameter."""

    displacement: float = Field(default=150, gt=0, description="mean impact parameter of b tracks [um]")
    resolution: float = Field(
        default=0, ge=0, description="given impact-parameter resolution; 0 for the tracker's [um]"
    )
    cut: float = Field(default=3, gt=0, lt=10, description="initial cut [sigma]")
    first: float = Field(default=40, gt=10, lt=80, description="initial radius of the first layer [mm]")
    pipe: float = Field(default=30, gt=10, lt=70, description="initial radius of the beam pipe [mm]")
    smallest_pipe: float = Field(default=10, gt=0, lt=70, description="smallest radius of the beam pipe [mm]")
    gap: float = Field(default=5, ge=0, description="least distance of pipe and first layer [mm]")
    pipe_thickness: float = Field(default=0.003, ge=0, description="of the beam pipe [X0]")
    outer_layers: tuple[float, ...] = Field(
        default=(70, 110, 150, 400, 700, 1000), min_length=2, description="radii of the other layers [mm]"
    )
    hit: float = Field(default=0.01, gt=0, description="resolution of a hit [mm]")
    thickness: float = Field(default=0.02, ge=0, description="of a layer [X0]")
    momentum: float = Field(default=5, gt=0, description="transverse momentum of the tracks [GeV]")
    occupancy: float = Field(default=40, ge=0, description="loss by occupancy times the squared first radius [mm^2]")


class BeampipeBtagSettings(Settings):
    """Beam pipe, innermost layer and cut of a b tagger."""

    tagger: TaggerSettings = TaggerSettings()
    search: SearchSettings = SearchSettings(starts=8, grid=0)


REFERENCE_STUDIES: dict[str, type[Settings]] = {
    "ecal-resolution": EcalResolutionSettings,
    "ecal-layers": EcalLayersSettings,
    "tracker-momentum": TrackerMomentumSettings,
    "tracker-impact": TrackerImpactSettings,
    "beampipe-btag": BeampipeBtagSettings,
    "trigger-thresholds": TriggerThresholdsSettings,
    "tof-pid": TofPidSettings,
    "beamline-fodo": BeamlineFodoSettings,
    "branching-shower": BranchingShowerSettings,
    "muon-tomography": MuonTomographySettings,
}
