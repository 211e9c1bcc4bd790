r"""The sampling calorimeter with the best photon energy resolution within a budget (reference problem R1).

Absorber and active thickness and the number of layers minimise $\sigma_E/E$ at one energy, with cost and depth limited;
formulas and constants in `diffhep.detector.calorimeter`. What is made large is the inverse of the resolution in per
cent. With a Gaussian peak of S events on b events/GeV, the significance is $S/\sqrt{2\sqrt\pi\,\sigma_m b}$ (Fisher
information of a small signal), so this is also the detector that sees a narrow resonance best.
"""

import dataclasses
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
from diffhep.detector import MATERIALS, Material, SamplingCalorimeter
from diffhep.parameters import Param, Scalar, resolve

PURE = 20.0  # preference of a pure choice: the others have shares of 2e-9


class Stack(SamplingCalorimeter):
    """The design: a calorimeter, and how much each absorber material is preferred.

    With several materials the objective is the mean over them with the softmax of the preferences as weights: exact for
    a pure choice, and a gradient that points to the better one before.
    """

    preference: tuple[Scalar, ...] = ()


class EcalResolution(ParametricStudy):
    """The study; see the module's text."""

    settings: EcalResolutionSettings
    name = "ecal-resolution"
    objective_name = "inverse photon energy resolution [1/%]"
    integers = ("layers",)
    scanned = ("absorber", "active")

    def __init__(self, settings: EcalResolutionSettings):
        b, materials = settings.budget, settings.calorimeter.materials
        if unknown := [name for name in materials if name not in MATERIALS]:
            msg = f"calorimeter.materials: no material is called {unknown[0]!r}; there are {', '.join(MATERIALS)}"
            raise ValueError(msg)
        if len(b.prices) != len(materials):
            msg = f"budget.prices: one a material is wanted, got {len(b.prices)} for {len(materials)}"
            raise ValueError(msg)
        limits = (Constraint("cost", b.cost, "cost unit"), Constraint("depth", b.depth, "mm"))
        self.settings = settings
        if len(materials) > 1:
            self.categorical = tuple(f"preference[{i}]" for i in range(len(materials)))
            self.estimator = "choice of a material: mean over the alternatives, weights by softmax; exact when pure"
        super().__init__(settings, limits)

    def layout(self) -> Stack:
        """The initial stack."""
        c = self.settings.calorimeter
        choices = c.materials if len(c.materials) > 1 else ()
        return Stack(
            Param(c.absorber, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            Param(c.active, unit="mm", role="geometry", bounds=(0.3, 20.0)),
            Param(c.layers, unit="", role="geometry", bounds=(4.0, 160.0), frozen=c.fixed_layers),
            photoelectrons=c.photoelectrons,
            constant_term=c.constant_term,
            noise=0.0,
            profile_offset=c.profile_offset,
            preference=tuple(Param(0.0, unit="", role="geometry") for _ in choices),
        )

    def alternatives(self) -> list[dict[str, float]]:
        """Each material alone."""
        pure = lambda chosen: {name: PURE * (name == chosen) for name in self.categorical}
        return [pure(name) for name in self.categorical] or [{}]

    def evaluate(self, design: Stack, context: Any) -> Outcome:
        """Inverse resolution in per cent; cost and depth."""
        stack, b = resolve(design), self.settings.budget
        energy = jnp.asarray(self.settings.calorimeter.energy)
        values, costs = [], []
        for name, price in zip(self.settings.calorimeter.materials, b.prices, strict=True):
            one = with_absorber(stack, MATERIALS[name])
            values.append(0.01 / one.resolution(energy))
            costs.append(stack.layers * b.layer_cost(stack.absorber, stack.active, price=price))
        share = jax.nn.softmax(jnp.stack(stack.preference)) if stack.preference else jnp.ones(1)
        used = jnp.stack([share @ jnp.stack(costs), stack.depth()])
        return Outcome(share @ jnp.stack(values), used)

    def chosen(self, design: Stack) -> Stack:
        """The design of the material it prefers; Params resolved."""
        resolved = resolve(design)
        best = int(np.argmax(resolved.preference)) if resolved.preference else 0
        material = MATERIALS[self.settings.calorimeter.materials[best]]
        return with_absorber(resolved, material)

    def rescaled(self, design: Stack, factor: float) -> Stack:
        """More or fewer layers of the same thickness: the first guess at another cost."""
        layers = design.layers
        if layers.frozen:
            return design
        count = np.clip(float(layers.unwrap()) * factor, 4.5, 159.0)
        return eqx.tree_at(lambda s: s.layers, design, layers.at(count))

    def pictures(self, initial: Stack, final: Stack) -> Mapping[str, Any]:
        """Terms of the resolution against the absorber thickness at the final values of the rest."""
        c, energy = self.settings.calorimeter, self.settings.calorimeter.energy
        thickness, stack = np.linspace(0.5, 12.0, 47), self.chosen(final)

        def terms(absorber: Array) -> dict[str, Array]:
            moved = eqx.tree_at(lambda s: s.absorber, stack, absorber)
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
                "final": float(stack.absorber),
            }
        }


def with_absorber(stack: Stack, material: Material) -> Stack:
    """The same stack of another absorber."""
    return dataclasses.replace(stack, absorber_material=material)
