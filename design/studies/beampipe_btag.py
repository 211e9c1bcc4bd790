r"""Beam pipe, innermost layer and cut of a b tagger (reference problem R3).

A track of a b hadron has an impact parameter of mean $\lambda$, smeared by $s = \sigma_{d_0}$; the cut is k in units of
s. What is made large is $\epsilon_b^2/\sqrt{0.02\,\epsilon_b^4 + \epsilon_l^2 + 0.003}$, a signal with two b jets over
the root of its backgrounds. Closer to the beam s is smaller and occupancy, efficiency $e^{-k_{occ}/r_1^2}$, is worse.
The pipe must stay inside the first layer. With `tagger.resolution` s is given and only the cut moves.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import BeampipeBtagSettings
from diffhep.detector import SiliconTracker
from diffhep.detector.impact import displaced_efficiency, prompt_efficiency
from diffhep.parameters import Param, Scalar, resolve
from diffhep.reconstruction import impact_parameter_resolution, track_covariance
from diffhep.units import um


class Vertexing(eqx.Module):
    """The design: cut [s], radii of the first layer and of the beam pipe [mm]."""

    cut: Scalar
    first: Scalar
    pipe: Scalar


class BeampipeBtag(ParametricStudy):
    """The study; see the module's text."""

    settings: BeampipeBtagSettings
    name = "beampipe-btag"
    objective_name = "two b jets over the root of backgrounds"

    def __init__(self, settings: BeampipeBtagSettings):
        self.settings = settings
        super().__init__(settings, (Constraint("clearance", 1.0, "pipe and gap over first layer"),))

    def layout(self) -> Vertexing:
        """The detector as configured."""
        t = self.settings.tagger
        given = t.resolution > 0
        return Vertexing(
            Param(t.cut, unit="sigma", role="threshold", bounds=(0.0, 10.0)),
            Param(t.first, unit="mm", role="geometry", bounds=(10.0, 80.0), frozen=given),
            Param(t.pipe, unit="mm", role="geometry", bounds=(t.smallest_pipe, 70.0), frozen=given),
        )

    def resolution(self, design: Vertexing) -> Float[Array, ""]:
        """Impact-parameter resolution [mm]; resolved Params."""
        t = self.settings.tagger
        if t.resolution:
            return jnp.asarray(t.resolution * um)
        radii = jnp.concatenate([design.first[None], jnp.asarray(t.outer_layers)])
        tracker = SiliconTracker(
            radii, resolution=t.hit, thickness=t.thickness, pipe_radius=design.pipe, pipe_thickness=t.pipe_thickness
        )
        return impact_parameter_resolution(track_covariance(*tracker.surfaces(jnp.asarray(t.momentum))))

    def efficiencies(self, design: Vertexing) -> tuple[Array, Array]:
        """Of b and of light tracks; resolved Params."""
        t, s = self.settings.tagger, self.resolution(design)
        found = jnp.exp(-t.occupancy / design.first**2)
        return found * displaced_efficiency(design.cut, s, t.displacement * um), found * prompt_efficiency(design.cut)

    def evaluate(self, design: Vertexing, context: Any) -> Outcome:
        """The objective; how much of the first layer's radius pipe and gap take."""
        resolved, t = resolve(design), self.settings.tagger
        b, light = self.efficiencies(resolved)
        used = (resolved.pipe + t.gap) / resolved.first
        value = b**2 / jnp.sqrt(0.02 * b**4 + light**2 + 0.003)
        return Outcome(value, used[None])
