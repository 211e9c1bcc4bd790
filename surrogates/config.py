"""Settings of a training: a TOML file, every constant of which can be overridden from the command line."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from diffhep.settings import Settings

Kind = Literal["autoregressive", "flow-matching", "one-step", "normalising-flow", "gan", "vae", "voxels"]


class NetworkSettings(Settings):
    """The generative network."""

    kind: Kind = Field(default="autoregressive", description="one-step is a student of flow-matching, trained after it")
    width: int = Field(default=96, ge=1, description="of the hidden layers [count]")
    depth: int = Field(default=2, ge=1, description="hidden layers, or coupling layers of a normalising flow [count]")
    splitter: int = Field(
        default=48, ge=1, description="width of the network that divides a layer among its cells, for voxels [count]"
    )
    memory: int = Field(default=64, ge=1, description="width of an autoregressive step from layer to layer [count]")
    moments: int = Field(
        default=64, ge=1, description="width of the networks for mean and resolution of the others [count]"
    )


class ScheduleSettings(Settings):
    """How long is trained."""

    moments: int = Field(
        default=4000, ge=1, description="steps of the networks for mean and resolution, if there are any [count]"
    )
    generator: int = Field(default=8000, ge=1, description="steps of the generative network [count]")
    student: int = Field(default=6000, ge=1, description="steps of the one-step student [count]")
    splits: int = Field(default=20_000, ge=1, description="steps of the network that divides layers [count]")
    rows: int = Field(default=4096, ge=1, description="divisions a step of that network [count]")
    batch: int = Field(default=512, ge=1, description="showers a step, each in a stack of its own [count]")
    rate: float = Field(default=1e-3, gt=0, description="largest step size of Adam []")
    replay: float = Field(
        default=0.5, gt=0, lt=1, description="share of every step that are showers of `replay`, if there are any []"
    )
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of the showers for the validation curve []")
    checkpoint: int = Field(default=1000, ge=1, description="steps between checkpoints; divides the others [count]")
    seed: int = Field(default=0, ge=0, description="of every random number []")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for name in ("moments", "generator", "student", "splits"):
            if getattr(self, name) % self.checkpoint:
                msg = f"{name} ({getattr(self, name)}) must be a multiple of checkpoint ({self.checkpoint})"
                raise ValueError(msg)
        return self


class GroupSettings(Settings):
    """Layers that are read out in groups of equal depth, in stacks of different lengths."""

    count: int = Field(default=0, ge=0, description="groups; 0 reads out every layer [count]")
    layers: tuple[float, float] = Field(
        default=(16.0, 64.0), description="least and largest number of layers: those behind are left out [count]"
    )
    copies: int = Field(default=4, ge=1, description="lengths in which every simulated shower is used [count]")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.layers
        if self.count and not self.count <= low < high:
            msg = f"layers: wanted the number of groups ({self.count}) or more, then a larger number, got {self.layers}"
            raise ValueError(msg)
        return self


class SurrogateSettings(Settings):
    """A surrogate of the layer energies of a sampling calorimeter."""

    data: tuple[Path, ...] = Field(default=(), description="files of showers; the shipped sample if none is named")
    start_from: Path | None = Field(
        default=None,
        description="folder of a surrogate to train on from, or shipped; random weights if none. It brings its network",
    )
    replay: tuple[Path, ...] = Field(
        default=(), description="files of showers that keep what it knows: those that it was trained on before"
    )
    threshold: float = Field(default=1e-5, gt=0, description="energy below which a layer counts as empty [GeV]")
    groups: GroupSettings = GroupSettings()
    network: NetworkSettings = NetworkSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _cells_of_layers(self) -> Self:
        if self.network.kind == "voxels" and self.groups.count:
            msg = f"groups.count: cells are those of single layers, got {self.groups.count} groups; wanted 0"
            raise ValueError(msg)
        return self
