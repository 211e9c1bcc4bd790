"""Settings of an anomaly trigger: a TOML file, every constant of which the command line can override."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from diffhep.settings import Settings
from diffhep.trigger.config import FirmwareSettings, FormatSchedule, NetworkSettings
from diffhep.trigger.level1 import Level1Settings


class AnomalyData(Settings):
    """Minimum bias to train on, and signals to look at afterwards."""

    file: Path | None = Field(default=None, description="ROOT file of minimum bias, which must be named")
    signals: tuple[Path, ...] = Field(default=(), description="ROOT files of signals; training never sees them")
    held_out: float = Field(default=0.25, gt=0, lt=1, description="share for choosing and for judging, half each []")

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [path.stem for path in self.signals]
        if len(set(names)) < len(names):
            msg = f"signals: two files of the same name ({', '.join(names)}); they name the rows of the table"
            raise ValueError(msg)
        return self


class RateSettings(Settings):
    """What the trigger may keep."""

    budget: float = Field(default=1000.0, gt=0, description="of the trigger, and of each seed beside it [Hz]")
    # 2,760 pairs of bunches meet 11,245 times a second
    total: float = Field(default=31e6, gt=0, description="of everything generated: bunches that meet [Hz]")

    headroom: int = Field(
        default=1, ge=0, le=8, description="bits left above the threshold, which may rise by four for each [bit]"
    )

    @model_validator(mode="after")
    def _below(self) -> Self:
        if not self.budget < self.total:
            msg = f"budget ({self.budget:g} Hz) must be below the total rate ({self.total:g} Hz)"
            raise ValueError(msg)
        return self


class AutoencoderSettings(Settings):
    """What surrounds the encoder's hidden layers."""

    latent: int = Field(default=8, ge=1, le=64, description="latent variables [count]")
    decoder: tuple[int, ...] = Field(default=(24, 32), description="widths of the decoder's hidden layers [count]")
    beta: float = Field(default=0.05, gt=0, description="weight of the divergence from the prior []")


class AnomalyTraining(Settings):
    """An anomaly trigger, from minimum bias to Verilog."""

    data: AnomalyData = AnomalyData()
    rate: RateSettings = RateSettings()
    objects: Level1Settings = Level1Settings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    # what no event of the training reaches is what is looked for, and must not wrap
    network: NetworkSettings = NetworkSettings(
        hidden=(28, 15),
        input_format="ap_fixed<12,7,AP_RND,AP_SAT>",
        weight_bits=3.0,
        activation_bits=3.0,
        overflow="CLIP",
    )
    schedule: FormatSchedule = FormatSchedule(
        warm_up=1200, ramp=9600, batch=512, rate=4e-3, first_price=3e-7, last_price=4e-6
    )
    # of exp(-loss), which all that can be learned of minimum bias raises by a few per cent only
    # two stages at the 40 MHz of the bunch crossings, from register to register
    firmware: FirmwareSettings = FirmwareSettings(tolerance=0.001, clock_period=25.0, levels=15, input_register=False)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, values: Any) -> Any:
        # a section that names some of its settings keeps the others, which are not those of a classifier
        if not isinstance(values, dict):
            return values
        sections = {name: cls.model_fields[name].default for name in values.keys() & cls.model_fields}
        return values | {
            name: default.model_dump() | values[name]
            for name, default in sections.items()
            if isinstance(default, Settings) and isinstance(values[name], dict)
        }

    @model_validator(mode="after")
    def _budget(self) -> Self:
        if self.network.kind != "dense":
            msg = f"network.kind must be 'dense' here, got {self.network.kind!r}"
            raise ValueError(msg)
        if self.network.overflow == "WRAP":
            msg = "network.overflow must be 'CLIP' or 'SAT' here: words that wrap would hide what is far out"
            raise ValueError(msg)
        if self.schedule.cost != "luts":
            msg = f"schedule.cost must be 'luts' here, got {self.schedule.cost!r}"
            raise ValueError(msg)
        return self
