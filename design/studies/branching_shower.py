r"""Layer thicknesses of a branching shower: a wanted multiplicity at the least cost (reference problem R7).

Every particle splits once in layer k with probability $p_k = 1 - e^{-t_k/\lambda}$, so that
$E[Z] = \prod_k(1 + p_k)$. The cost $\sum_k c_k t_k$ is made small while $E[Z] \ge Z_0$ and, if wanted,
$\sum_k t_k \ge T$. With `shower.showers` the mean is taken from simulated showers and its gradient by coupled flips
(`diffhep.branching`), and the optimum still is that of the closed form.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from diffhep.branching import branching_shower
from diffhep.design.honest import Measured
from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import BranchingShowerSettings
from diffhep.parameters import Param, Scalar, resolve


class Layers(eqx.Module):
    """The design: thickness of each layer [mm]."""

    thickness: tuple[Scalar, ...]


class BranchingShower(ParametricStudy):
    """The study; see the module's text."""

    settings: BranchingShowerSettings
    name = "branching-shower"
    objective_name = "inverse cost [1/cost unit]"

    def __init__(self, settings: BranchingShowerSettings):
        s = settings.shower
        self.settings = settings
        constraints = [Constraint("shortfall", 1.0, "wanted over reached multiplicity")]
        if s.depth:
            constraints.append(Constraint("shallowness", 1.0, "wanted over reached depth"))
        context: tuple = ()
        if s.showers:
            self.estimator = "branching: coupled flips"
            # an evaluation takes a tenth of a second
            self.exact = self.compared = False
            context, self.fresh = jr.split(jr.key(settings.search.seed), 2)
            self.mean_and_error = jax.jit(self.simulated_spread)
        super().__init__(settings, tuple(constraints), context)

    def layout(self) -> Layers:
        """All layers equally thick: too many particles, too dear."""
        s = self.settings.shower
        return Layers(
            tuple(Param(0.5 * s.thickest, unit="mm", role="geometry", bounds=(0.0, s.thickest)) for _ in s.cost)
        )

    def splitting(self, design: Layers) -> Float[Array, " layer"]:
        """Probability of splitting in each layer."""
        return -jnp.expm1(-jnp.stack(resolve(design).thickness) / self.settings.shower.length)

    def evaluate(self, design: Layers, context: Any) -> Outcome:
        """Inverse cost; wanted over reached multiplicity and depth."""
        s, p = self.settings.shower, self.splitting(design)
        thickness = jnp.stack(resolve(design).thickness)
        reached = jnp.mean(branching_shower(p, s.showers, key=context)[:, -1]) if s.showers else jnp.prod(1 + p)
        used = [s.target / reached] + ([s.depth / jnp.sum(thickness)] if s.depth else [])
        return Outcome(1 / (thickness @ jnp.asarray(s.cost)), jnp.stack(used))

    def simulated_spread(self, design: Layers, key: Array) -> tuple[Array, Array]:
        """Mean multiplicity of fresh showers, and its standard error."""
        n = self.settings.shower.showers
        reached = branching_shower(self.splitting(design), n, key=key)[:, -1]
        return jnp.mean(reached), jnp.std(reached) / jnp.sqrt(n)

    def judge(self, design: Layers, *, relaxed: bool) -> Mapping[str, Measured]:
        """Multiplicity of showers that were not used before; the rest is exact."""
        judged = dict(super().judge(design, relaxed=relaxed))
        if self.settings.shower.showers:
            mean, error = (float(x) for x in self.mean_and_error(design, self.fresh))
            target = self.settings.shower.target
            judged["shortfall"] = Measured(target / mean, np.array([target / mean**2 * error]))
        return judged
