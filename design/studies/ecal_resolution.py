r"""The sampling calorimeter with the best photon energy resolution within a budget (reference problem R1).

Absorber and active thickness and the number of layers minimise $\sigma_E/E$ at one energy, with cost and depth limited;
formulas and constants in `diffhep.detector.calorimeter`. What is made large is the inverse of the resolution in per
cent. With a Gaussian peak of S events on b events/GeV, the significance is $S/\sqrt{2\sqrt\pi\,\sigma_m b}$ (Fisher
information of a small signal), so this is also the detector that sees a narrow resonance best.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import EcalResolutionSettings
from diffhep.detector import SamplingCalorimeter
from diffhep.parameters import Param, resolve


class EcalResolution(ParametricStudy):
    """The study; see the module's text."""

    settings: EcalResolutionSettings
    name = "ecal-resolution"
    objective_name = "inverse photon energy resolution [1/%]"
    integers = ("layers",)
    scanned = ("absorber", "active")

    def __init__(self, settings: EcalResolutionSettings):
        b = settings.budget
        limits = (Constraint("cost", b.cost, "cost unit"), Constraint("depth", b.depth, "mm"))
        self.settings = settings
        super().__init__(settings, limits)

    def layout(self) -> SamplingCalorimeter:
        """The initial stack."""
        c = self.settings.calorimeter
        return SamplingCalorimeter(
            Param(c.absorber, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            Param(c.active, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            Param(c.layers, unit="", role="geometry", bounds=(4.0, 160.0), frozen=c.fixed_layers),
            photoelectrons=c.photoelectrons,
            constant_term=c.constant_term,
            noise=0.0,
            profile_offset=c.profile_offset,
        )

    def evaluate(self, design: SamplingCalorimeter, context: Any) -> Outcome:
        """Inverse resolution in per cent; cost and depth."""
        calorimeter, b = resolve(design), self.settings.budget
        each = b.cost_per_layer + b.cost_per_absorber * calorimeter.absorber + b.cost_per_active * calorimeter.active
        resolution = calorimeter.resolution(jnp.asarray(self.settings.calorimeter.energy))
        return Outcome(0.01 / resolution, jnp.stack([calorimeter.layers * each, calorimeter.depth()]))

    def rescaled(self, design: SamplingCalorimeter, factor: float) -> SamplingCalorimeter:
        """More or fewer layers of the same thickness: the first guess at another cost."""
        if design.layers.frozen:
            return design
        count = np.clip(float(design.layers.unwrap()) * factor, 4.5, 159.0)
        return eqx.tree_at(lambda c: c.layers, design, design.layers.at(count))

    def pictures(self, initial: SamplingCalorimeter, final: SamplingCalorimeter) -> Mapping[str, Any]:
        """Terms of the resolution against the absorber thickness at the final values of the rest."""
        c, energy = self.settings.calorimeter, self.settings.calorimeter.energy
        thickness = np.linspace(0.5, 12.0, 47)

        def terms(absorber: Array) -> dict[str, Array]:
            moved = eqx.tree_at(lambda s: s.absorber, resolve(final), absorber)
            mean, spread = moved.leakage(jnp.asarray(energy))
            return {
                "sampling": moved.sampling_term() / np.sqrt(energy),
                "photo-statistics": moved.photo_term() / np.sqrt(energy),
                "leakage": spread / (1 - mean),
                "total": moved.resolution(jnp.asarray(energy)),
            }

        found = jax.jit(jax.vmap(terms))(jnp.asarray(thickness))
        return {
            "resolution": {
                "absorber": thickness,
                "terms": found,
                "constant": c.constant_term,
                "energy": energy,
                "final": float(final.absorber.unwrap()),
            }
        }
