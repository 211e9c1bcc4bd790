r"""The sampling calorimeter of `ecal-resolution` as a simulator of events, from which nothing but events comes out.

Photons of one energy, each with its own conversion depth, shower leakage, sampling and photo-statistics, go through
`diffhep.detector.SamplingCalorimeter`; what is returned is the measured energy. The objective is the inverse of the
relative root mean square in per cent; cost and depth are limited as in `diffhep.design.studies.ecal_resolution`. The
number of layers is fixed.

This is the file to copy for a simulator of your own: replace `measured_energies` by whatever runs Geant4, and start
`diffhep black-box FILE.py -o DIR --events N`, which asks `box` below for what it is to make large.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.design.black_box import BlackBox
from diffhep.design.problem import Constraint
from diffhep.design.reference_config import EcalBudgetSettings, EcalResolutionSettings, EcalStackSettings
from diffhep.detector import SamplingCalorimeter
from diffhep.events import Events
from diffhep.parameters import Param


def ecal_black_box(settings: EcalResolutionSettings, *, events: int = 1500) -> BlackBox:
    """The calorimeter of some settings, of lead and with the number of layers fixed; parameters `absorber`, `active`.

    Args:
        settings: of `ecal-resolution`; `calorimeter.layers` is rounded.
        events: photons in one call of the simulator.
    """
    c, b = settings.calorimeter, settings.budget
    layers = round(c.layers)

    # one compiled program: thicknesses are arguments, the number of photons is not
    @jax.jit
    def simulate(design: dict[str, float], key: PRNGKeyArray) -> Float[Array, "event 1"]:
        return measured_energies(stack_of(settings, design), c.energy, events, key)

    def used(design: dict[str, Array]) -> Float[Array, "2"]:
        absorber, active = design["absorber"], design["active"]
        return jnp.stack([layers * b.layer_cost(absorber, active), layers * (absorber + active)])

    return BlackBox(
        layout={
            "absorber": Param(c.absorber, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            "active": Param(c.active, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        },
        simulate=simulate,
        objective=inverse_resolution,
        constraints=(Constraint("cost", b.cost, "cost unit"), Constraint("depth", b.depth, "mm")),
        used=used,
    )


def box() -> BlackBox:
    """Case C2 of the reference (a cost of 60, 53 layers) from a stack that is much too thin."""
    stack = EcalStackSettings(absorber=1.8, active=1.8, layers=53)
    return ecal_black_box(EcalResolutionSettings(calorimeter=stack, budget=EcalBudgetSettings(cost=60)), events=600)


def stack_of(settings: EcalResolutionSettings, design: dict[str, float]) -> SamplingCalorimeter:
    """The calorimeter with some thicknesses [mm]."""
    c = settings.calorimeter
    return SamplingCalorimeter(
        design["absorber"],
        design["active"],
        round(c.layers),
        photoelectrons=c.photoelectrons,
        constant_term=c.constant_term,
        noise=0.0,
        profile_offset=c.profile_offset,
    )


def measured_energies(
    calorimeter: SamplingCalorimeter, energy: float, events: int, key: PRNGKeyArray
) -> Float[Array, "event 1"]:
    """Measured energies [GeV] of photons of one energy [GeV] at normal incidence."""
    zeros = jnp.zeros((events, 1))
    photons = Events({"pt": zeros + energy, "eta": zeros, "phi": zeros}, zeros == 0, jnp.ones(events))
    return jnp.sum(calorimeter(photons, key=key)["readout_energy"], axis=-1)


def inverse_resolution(measured: Float[np.ndarray, "event 1"]) -> float:
    """Mean over root mean square deviation, in 1/%."""
    return 0.01 * float(np.mean(measured) / np.std(measured, ddof=1))
