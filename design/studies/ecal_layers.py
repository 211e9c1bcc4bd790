r"""Thicknesses of a sampling calorimeter, group by group, with a surrogate of Geant4 in the loop.

Electrons of several energies E; every layer's energy over its minimum-ionising sampling fraction, summed, is what is
measured. The objective is one over the mean of $\sigma/E \cdot \sqrt{E}$ over the energies, under budgets of cost and
depth. The optimiser sees the surrogate's showers, for random numbers that do not change; the design is judged by
fresh ones, or, with `calorimeter.geant4`, by full simulation, which the surrogate has not seen. An optimiser finds the
stacks for which the surrogate flatters most: with `refinement.rounds` it is trained on there first (`ecal_rounds`).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
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
from diffhep.design.studies.ecal_rounds import Rounds
from diffhep.design.study import Report
from diffhep.generate.geant4 import SamplingCalorimeter, generate_each, simulate_each, unfinished
from diffhep.io import RunFolder, read_showers
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
        if settings.refinement.rounds and not s.geant4:
            msg = "refinement.rounds: Geant4 judges them; say with how many showers (calorimeter.geant4)"
            raise ValueError(msg)
        low, high = (np.asarray(x, dtype=float) for x in (self.surrogate.domain.low, self.surrogate.domain.high))
        if not (low[0] <= min(s.energies) and max(s.energies) <= high[0]):
            msg = f"calorimeter.energies: the surrogate knows {low[0]:g} to {high[0]:g} GeV, got {s.energies}"
            raise ValueError(msg)
        margin = INSIDE * (high - low)
        self.bounds = [(float(low[i] + margin[i]), float(high[i] - margin[i])) for i in (2, 3)]
        first, self.fresh = jr.split(jr.key(settings.search.seed))
        self.folder: RunFolder | None = None
        self.rounds: Mapping[str, Any] = {}
        # arrays are arguments of what is compiled; functions are not
        self.weights, self.rest = eqx.partition(self.surrogate, eqx.is_array)
        context = (self.weights, self.draw(first, s.showers))
        self.judged = measure_with_error(self.weighted)
        budget = settings.budget
        constraints = (Constraint("cost", budget.cost, "cost unit"), Constraint("depth", budget.depth, "mm"))
        super().__init__(settings, constraints, context)

    def draw(self, key: Array, showers: int) -> Float[Array, "energy shower noise"]:
        """Standard normal numbers for so many showers of every energy."""
        return jr.normal(key, (len(self.settings.calorimeter.energies), showers, self.surrogate.noise_size))

    def get_ready(self, folder: RunFolder, progress: Report) -> None:
        """Train the surrogate on where it is wanted, if asked for; Geant4's showers are kept from now on."""
        self.folder = folder
        if self.settings.refinement.rounds:
            self.rounds = Rounds(self, folder, progress).run()

    def exchange(self, surrogate: LayerSurrogate) -> None:
        """Take another surrogate of the same kind in place of the present one."""
        self.surrogate = surrogate.in_double()
        self.weights, _ = eqx.partition(self.surrogate, eqx.is_array)
        context = (self.weights, self.problem.context[1])
        self.problem = dataclasses.replace(self.problem, context=context, traces={})

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
        s = self.settings.calorimeter
        if relaxed or not s.geant4:
            energies = self.replay(design, self.weights, self.draw(self.fresh, max(s.showers, s.geant4)))
        else:
            energies = self.full_simulation(design)
        return self.judged(design, {"showers": energies.size}, energies)

    @cached_property
    def replay(self) -> Any:
        """`simulated`, compiled."""
        return jax.jit(self.simulated)

    def geant4_seed(self, *purpose: int) -> int:
        """A seed for full simulation, another one for every purpose."""
        return int(np.random.SeedSequence([self.settings.search.seed, *purpose]).generate_state(1)[0])

    def full_simulation(
        self, design: Groups, *, number: int = 0, progress: Callable[[float], None] | None = None
    ) -> Float[Array, "energy shower"]:
        """Measured energies of Geant4's showers: in a run, from the file of them if there is one.

        Args:
            design: the stack.
            number: of the judgement; every one has seeds of its own.
            progress: called with the fraction done; a bar if None.
        """
        s, stack = self.settings.calorimeter, self.surrogate.stack
        absorber, active = (np.asarray(t) for t in self.thicknesses(design))
        given: dict[str, Any] = {
            "energy": np.repeat(s.energies, s.geant4),
            "absorber_thickness": absorber,
            "active_thickness": active,
            "particle": np.array(stack.pdg_id),
            "seed": self.geant4_seed(number),
            "processes": s.processes,
            "progress": progress or True,
        }
        calorimeter = SamplingCalorimeter(stack.layers, stack.absorber, stack.active, absorber_energy=False)
        if self.folder:
            path = self.judged_file(self.folder, design, number)
            path.parent.mkdir(exist_ok=True)
            if not path.is_file():
                generate_each(calorimeter, **given, path=path, resume=unfinished(path))
            showers = read_showers(path)
        else:
            showers = simulate_each(calorimeter, **given)
        layers = jnp.asarray(showers.active_energy, dtype=float)
        measured = self.measured(jnp.asarray(absorber), jnp.asarray(active), layers)
        return measured.reshape(len(s.energies), s.geant4)

    def judged_file(self, folder: RunFolder, design: Groups, number: int) -> Path:
        """Where a run keeps the showers that judge a design."""
        digest = hashlib.sha256(np.concatenate(self.thicknesses(design)).tobytes()).hexdigest()
        return folder.path / "geant4" / f"judged-{number}-{digest[:12]}.npz"

    def provenance(self) -> Mapping[str, Any]:
        """Which surrogate, and what judged the design with how many showers of each energy."""
        s = self.settings.calorimeter
        return {
            "surrogate": {"file": str(s.surrogate or "shipped")},
            **self.rounds,
            "judge": {"simulation": "Geant4" if s.geant4 else "surrogate", "showers": s.geant4 or s.showers},
        }
