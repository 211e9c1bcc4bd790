r"""Radius of a timing layer that tells kaons from pions (reference problem R5).

The separation $\Delta t/\sigma_t$ grows with the radius, the resolution that a fixed budget buys gets worse with the
area, $\sigma_t^2 = s_0^2 + s_1^2 R$, and kaons decay on the way: $(\Delta t/\sigma_t)\,e^{-R/l}$ is made large. Without
a field the optimum is the root of a quadratic equation; with one, tracks bend, and below 0.15 B R they never arrive.
"""

from typing import Any

import jax.numpy as jnp

from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import TofPidSettings
from diffhep.detector import TimingLayer
from diffhep.detector.timing import KAON, PION
from diffhep.gates import Soft
from diffhep.parameters import Param, resolve
from diffhep.units import m, ps


class TofPid(ParametricStudy):
    """The study; see the module's text."""

    settings: TofPidSettings
    name = "tof-pid"
    objective_name = "separation of surviving kaons from pions"

    def __init__(self, settings: TofPidSettings):
        self.settings = settings
        super().__init__(settings, (Constraint("radius", settings.timing.largest, "mm"),))

    def layout(self) -> TimingLayer:
        """The layer where the configuration puts it."""
        t = self.settings.timing
        radius = Param(t.radius, unit="mm", role="geometry", bounds=(10.0, 30000.0))
        return TimingLayer(radius, t.constant * ps, t.area_term * ps / m**0.5, t.field)

    def evaluate(self, design: TimingLayer, context: Any) -> Outcome:
        """Separation times survival, and acceptance if there is a field; the radius."""
        layer, t = resolve(design), self.settings.timing
        momentum = jnp.asarray(t.momentum)
        value = layer.separation(momentum, KAON, PION) * layer.survival(momentum, KAON)
        if t.field:
            value = value * Soft(t.turn_on)(layer.margin(momentum))
        return Outcome(value, layer.radius[None])
