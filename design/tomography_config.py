"""Configuration of the muon-tomography study: every constant, its default, its unit."""

from typing import Literal

from pydantic import Field

from diffhep.design.settings import SearchSettings
from diffhep.settings import Settings

Rows = tuple[tuple[float, float, float, float, float], ...]
WIDE = 866.0  # eight panels of this width cost 6


class PanelSettings(Settings):
    """The panels to begin with."""

    upper: Rows = Field(
        default=tuple((500, 500, z, WIDE, WIDE) for z in (1550, 1500, 1450, 1420)),
        description="x, y, z and widths of every panel above the volume [mm]",
    )
    lower: Rows = Field(
        default=tuple((500, 500, z, WIDE, WIDE) for z in (380, 350, 300, 250)),
        description="x, y, z and widths of every panel below the volume [mm]",
    )
    resolution: float = Field(default=0.1, gt=0, description="of a hit [mm]")
    efficiency: float = Field(default=0.9, gt=0, le=1, description="of a panel []")
    narrowest: float = Field(default=50, gt=0, description="least width of a panel [mm]")
    widest: float = Field(default=3000, gt=0, description="largest width of a panel [mm]")
    held: tuple[Literal["x", "y", "z", "span_x", "span_y"], ...] = Field(
        default=("x", "y"), description="coordinates that do not move []"
    )


class MuonSettings(Settings):
    """The cosmic muons."""

    design: int = Field(default=6000, ge=100, description="muons that the design is made with, a fill height [count]")
    held_out: int = Field(default=24000, ge=2000, description="other muons that judge it, a fill height [count]")
    per_volume: int = Field(default=1000, ge=10, description="muons that scan one volume [count]")
    momentum: float = Field(default=5.0, gt=0, description="of every muon; see spectrum [GeV]")
    spectrum: bool = Field(default=False, description="momenta of the sea-level spectrum in place of one []")
    steps: int = Field(default=4, ge=1, description="scattering steps in a layer of voxels [count]")
    jitter: float = Field(default=10.0, gt=0, description="sideways jitter that carries the panels' edges [mm]")


class PanelBudgetSettings(Settings):
    """What the panels may cost."""

    cost: float = Field(default=6.0, gt=0, description="of all panels [cost unit]")
    price: float = Field(default=1.0, gt=0, description="of a panel [cost unit/m^2]")


class MuonTomographySettings(Settings):
    """Muon tomography: tracking panels for the best fill height of a furnace, or the best scan of a block."""

    scene: Literal["ladle-furnace", "hello-world"] = Field(
        default="ladle-furnace", description="what is looked into []"
    )
    panels: PanelSettings = PanelSettings()
    muons: MuonSettings = MuonSettings()
    budget: PanelBudgetSettings = PanelBudgetSettings()
    search: SearchSettings = SearchSettings(starts=1, steps=160, pareto=0, grid=0)
