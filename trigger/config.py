"""Settings of a training for firmware: a TOML file, every constant of which the command line can override."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from diffhep.settings import Settings


class DataSettings(Settings):
    """Events: features and a class for each."""

    file: Path | None = Field(default=None, description=".npz or .root file; the five-class sample if none is named")
    features: str = Field(default="features", description="array of a .npz, or prefix of the branches of a .root file")
    label: str = Field(default="label", description="array of a .npz, or branch of a .root file: 0, 1, ...")
    tree: str = Field(default="Events", description="of a .root file")
    events: int = Field(default=80_000, ge=100, description="of the five-class sample [count]")
    held_out: float = Field(default=0.25, gt=0, lt=1, description="share for choosing and for judging, half each []")


class NetworkSettings(Settings):
    """The network and the formats it starts with."""

    kind: Literal["dense", "tables"] = Field(
        default="dense", description="a multilayer perceptron, or a function in a lookup table for every connection"
    )
    hidden: tuple[int, ...] | None = Field(
        default=None,
        description="widths of the hidden layers; if none is given 64, 32 and 32, of tables 8 [count]",
    )
    granularity: Literal["weight", "channel", "layer"] = Field(
        default="weight", description="what has a number of bits of its own"
    )
    input_format: str = Field(default="ap_fixed<12,4,AP_RND,AP_SAT>", description="of the features over their scales")
    weight_bits: float = Field(
        default=5.0, ge=-8, le=12, description="fractional bits to begin with; of tables those of their results [bit]"
    )
    activation_bits: float = Field(
        default=4.0,
        ge=-8,
        le=12,
        description="fractional bits to begin with; of tables those of a word from -4 to 4, at most 4 [bit]",
    )
    overflow: Literal["WRAP", "CLIP", "SAT"] = Field(
        default="SAT",
        description="SAT cuts off at learned ranges; WRAP takes no logic, its ranges are those of the training sample; "
        "CLIP cuts off at these",
    )
    margin: int = Field(default=0, ge=0, le=8, description="integer bits beyond the sample's ranges, not of SAT [bit]")

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.hidden is not None and (not self.hidden or min(self.hidden) < 1):
            msg = f"hidden ({self.hidden}) must name at least one positive width"
            raise ValueError(msg)
        if self.margin and self.ranges == "SAT":
            msg = f"margin ({self.margin}) is of ranges found on a sample: overflow must be 'WRAP' or 'CLIP'"
            raise ValueError(msg)
        if self.kind == "tables":
            for name in ("granularity", "overflow"):
                if getattr(self, name) != NetworkSettings.model_fields[name].default:
                    msg = f"{name} is of dense networks: tables have a format each, and their words saturate"
                    raise ValueError(msg)
            if self.weight_bits < 0 or self.activation_bits > 4:
                msg = "tables begin with weight_bits of at least 0 and activation_bits of at most 4, got "
                msg += f"{self.weight_bits:g} and {self.activation_bits:g}"
                raise ValueError(msg)
        return self

    @property
    def ranges(self) -> Literal["WRAP", "CLIP", "SAT"]:
        """What becomes of words beyond the ends: those of tables saturate at learned ones."""
        return self.overflow if self.kind == "dense" else "SAT"

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the hidden layers."""
        return self.hidden or ((64, 32, 32) if self.kind == "dense" else (8,))


class FormatSchedule(Settings):
    """How long is trained, and at which price."""

    cost: Literal["luts", "ebops"] = Field(default="luts", description="what has a price")
    warm_up: int = Field(default=800, ge=1, description="steps without a price [count]")
    ramp: int = Field(default=9600, ge=1, description="steps of rising price [count]")
    polish: int = Field(default=2000, ge=0, description="steps within the budget, if there is one [count]")
    batch: int = Field(default=1024, ge=1, description="events a step [count]")
    rate: float = Field(default=8e-3, gt=0, description="largest step size of Adam []")
    first_price: float = Field(default=1e-5, gt=0, description="of a unit of cost, at the start of the ramp [nat]")
    last_price: float = Field(default=2e-3, gt=0, description="at its end [nat]")
    checkpoint: int = Field(default=50, ge=1, description="steps between checkpoints; divides the others [count]")
    seed: int = Field(default=0, ge=0, description="of every random number []")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for name in ("warm_up", "ramp", "polish"):
            if getattr(self, name) % self.checkpoint:
                msg = f"{name} ({getattr(self, name)}) must be a multiple of checkpoint ({self.checkpoint})"
                raise ValueError(msg)
        if not self.first_price <= self.last_price:
            msg = f"first_price ({self.first_price}) must not be above last_price ({self.last_price})"
            raise ValueError(msg)
        return self


class FirmwareSettings(Settings):
    """What is exported, and how it is proved."""

    budget: float | None = Field(default=None, gt=0, description="LUTs the exported network may take [count]")
    tolerance: float = Field(default=0.01, ge=0, lt=1, description="accuracy given up where there is no budget []")
    clock_period: float = Field(default=5.0, gt=0, le=1000, description="target [ns]")
    levels: int = Field(
        default=5, ge=0, description="adders between two registers; 0 for logic without a clock [count]"
    )
    input_register: bool = Field(default=True, description="begin with a register; without it, inputs come from one")
    part: str = Field(default="xcvu13p-flga2577-2-e", description="part number, as Vivado spells it")
    inputs: int = Field(default=100_000, ge=1, description="random inputs of the proof [count]")

    @property
    def pipeline(self) -> dict[str, Any]:
        """What the Verilog is asked for, as `diffhep.trigger.export_rtl` takes it."""
        return {"levels_per_stage": self.levels or None, "input_register": self.input_register}


class TriggerTraining(Settings):
    """A classifier whose bit widths are learned, from events to Verilog."""

    data: DataSettings = DataSettings()
    network: NetworkSettings = NetworkSettings()
    schedule: FormatSchedule = FormatSchedule()
    firmware: FirmwareSettings = FirmwareSettings()

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.network.kind == "tables" and self.schedule.cost != "luts":
            msg = f"tables are counted in LUTs: schedule.cost must be 'luts', got {self.schedule.cost!r}"
            raise ValueError(msg)
        if self.firmware.budget is not None and self.schedule.cost != "luts":
            msg = f"a budget is in LUTs: schedule.cost must be 'luts', got {self.schedule.cost!r}"
            raise ValueError(msg)
        return self
