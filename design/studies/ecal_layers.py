r"""Thicknesses of a sampling calorimeter, group by group, with a surrogate of Geant4 in the loop.

Electrons of several energies E; every layer's energy over its minimum-ionising sampling fraction, summed, is what is
measured. The objective is one over the mean of $\sigma/E \cdot \sqrt{E}$ over the energies, under budgets of cost and
depth. The optimiser sees the surrogate's showers, for random numbers that do not change; the design is judged by
fresh ones, or, with `calorimeter.geant4`, by full simulation, which the surrogate has not seen.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from diffhep.design.honest import Measured, measure_with_error
from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import EcalLayersSettings
from diffhep.parameters import Param, Scalar, resolve
from diffhep.surrogates import Incidence, LayerSurrogate, load_surrogate, shipped_surrogate
from diffhep.surrogates.stack import MATERIALS

INSIDE = 0.02  # of the trained range of thicknesses, kept clear at both ends


class Groups(eqx.Module):
    """The design: thicknesses of the layers of each group [mm]."""

    absorber: tuple[Scalar, ...]
    active: tuple[Scalar, ...]


class EcalLayers(ParametricStudy):
    """The study; see the module's text."""

    settings: EcalLayersSettings
    name = "ecal-layers"
    objective_name = "inverse stochastic term [GeV^-1/2]"
    estimator = "pathwise, through a learned surrogate of Geant4"
    # an evaluation takes a tenth of a second
    exact = False
    compared = False

    def __init__(self, settings: EcalLayersSettings):
        self.settings = settings
        s = settings.calorimeter
        trained = load_surrogate(s.surrogate) if s.surrogate else shipped_surrogate()
        # single precision would spoil the exact solver's line searches and the audit
        self.surrogate: LayerSurrogate = trained.in_double()
        layers = self.surrogate.stack.layers
        if layers % s.groups:
            msg = f"calorimeter.groups: {s.groups} does not divide the {layers} layers of the surrogate"
            raise ValueError(msg)
        low, high = (np.asarray(x, dtype=float) for x in (self.surrogate.domain.low, self.surrogate.domain.high))
        if not (low[0] <= min(s.energies) and max(s.energies) <= high[0]):
            msg = f"calorimeter.energies: the surrogate knows {low[0]:g} to {high[0]:g} GeV, got {s.energies}"
            raise ValueError(msg)
        margin = INSIDE * (high - low)
        self.bounds = [(float(low[i] + margin[i]), float(high[i] - margin[i])) for i in (2, 3)]
        first, self.fresh = jr.split(jr.key(settings.search.seed))
        # arrays are arguments of what is compiled; functions are not
        self.weights, self.rest = eqx.partition(self.surrogate, eqx.is_array)
        context = (self.weights, self.draw(first))
        self.judged = measure_with_error(self.weighted)
        budget = settings.budget
        constraints = (Constraint("cost", budget.cost, "cost unit"), Constraint("depth", budget.depth, "mm"))
        super().__init__(settings, constraints, context)

    def draw(self, key: Array) -> Float[Array, "energy shower noise"]:
        """Standard normal numbers for the showers of every energy."""
        s = self.settings.calorimeter
        return jr.normal(key, (len(s.energies), s.showers, self.surrogate.noise_size))

    def layout(self) -> Groups:
        """All groups alike."""
        s = self.settings.calorimeter
        start = [
            np.clip(x, low + 1e-3, high - 1e-3)
            for x, (low, high) in zip((s.absorber, s.active), self.bounds, strict=True)
        ]
        make = lambda i: tuple(
            Param(float(start[i]), unit="mm", role="geometry", bounds=self.bounds[i]) for _ in range(s.groups)
        )
        return Groups(make(0), make(1))

    def thicknesses(self, design: Groups) -> tuple[Float[Array, " layer"], Float[Array, " layer"]]:
        """Absorber and active thickness of every layer [mm]."""
        d, each = resolve(design), self.surrogate.stack.layers // self.settings.calorimeter.groups
        return jnp.repeat(jnp.stack(d.absorber), each), jnp.repeat(jnp.stack(d.active), each)

    def measured(self, absorber: Array, active: Array, layers: Float[Array, "*shape layer"]) -> Float[Array, "*shape"]:
        """Measured energies [GeV], up to a common factor."""
        a, s = (MATERIALS[name] for name in (self.surrogate.stack.absorber, self.surrogate.stack.active))
        return jnp.sum(layers * (1 + absorber * a.mip_loss / (active * s.mip_loss)), axis=-1)

    def term(self, energies: Float[Array, "energy shower"], weight: Float[Array, "energy shower"]) -> Array:
        """Mean stochastic term of measured energies [GeV^(1/2)]."""
        total = jnp.sum(weight, axis=1)
        mean = jnp.sum(weight * energies, axis=1) / total
        variance = jnp.sum(weight * (energies - mean[:, None]) ** 2, axis=1) / (total - 1)
        return jnp.mean(jnp.sqrt(variance) / mean * jnp.sqrt(jnp.asarray(self.settings.calorimeter.energies)))

    def simulated(self, design: Groups, weights: LayerSurrogate, noise: Array) -> Array:
        """Measured energies of the surrogate's showers (energy, shower)."""
        surrogate = eqx.combine(weights, self.rest)
        absorber, active = self.thicknesses(design)
        energy = jnp.asarray(self.settings.calorimeter.energies)[:, None]
        x = Incidence(energy, jnp.zeros_like(energy), absorber[None, None], active[None, None])
        return self.measured(absorber, active, surrogate.from_noise(x, noise, hard=False))

    def used(self, design: Groups) -> Float[Array, "2"]:
        """Cost, and depth [mm]."""
        absorber, active = self.thicknesses(design)
        return jnp.stack([jnp.sum(self.settings.budget.layer_cost(absorber, active)), jnp.sum(absorber + active)])

    def evaluate(self, design: Groups, context: Any) -> Outcome:
        """One over the stochastic term of the surrogate's showers; cost and depth."""
        energies = self.simulated(design, *context)
        return Outcome(1 / self.term(energies, jnp.ones_like(energies)), self.used(design))

    def weighted(self, design: Groups, factors: Mapping[str, Array], energies: Array) -> dict[str, Array]:
        """Objective and use with a weight for every shower."""
        cost, depth = self.used(design)
        objective = 1 / self.term(energies, factors["showers"].reshape(energies.shape))
        return {"objective": objective, "cost": cost, "depth": depth}

    def judge(self, design: Groups, *, relaxed: bool) -> Mapping[str, Measured]:
        """On fresh showers of the surrogate, or of Geant4 if hard and asked for."""
        if relaxed or not self.settings.calorimeter.geant4:
            energies = self.replay(design, self.weights, self.draw(self.fresh))
        else:
            energies = self.full_simulation(design)
        return self.judged(design, {"showers": energies.size}, energies)

    @cached_property
    def replay(self) -> Any:
        """`simulated`, compiled."""
        return jax.jit(self.simulated)

    def full_simulation(self, design: Groups) -> Float[Array, "energy shower"]:
        """Measured energies of Geant4's showers."""
        from diffhep.generate.geant4 import SamplingCalorimeter, simulate_each

        s, stack = self.settings.calorimeter, self.surrogate.stack
        absorber, active = (np.asarray(t) for t in self.thicknesses(design))
        showers = simulate_each(
            SamplingCalorimeter(stack.layers, stack.absorber, stack.active, absorber_energy=False),
            energy=np.repeat(s.energies, s.geant4),
            absorber_thickness=absorber,
            active_thickness=active,
            seed=self.settings.search.seed,
            processes=s.processes,
        )
        layers = jnp.asarray(showers.active_energy, dtype=float)
        measured = self.measured(jnp.asarray(absorber), jnp.asarray(active), layers)
        return measured.reshape(len(s.energies), s.geant4)

    def provenance(self) -> Mapping[str, Any]:
        """Which surrogate, and what judged the design with how many showers of each energy."""
        s = self.settings.calorimeter
        return {
            "surrogate": {"file": str(s.surrogate or "shipped")},
            "judge": {"simulation": "Geant4" if s.geant4 else "surrogate", "showers": s.geant4 or s.showers},
        }
