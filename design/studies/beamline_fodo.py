r"""Quadrupole strength of a FODO cell with the smallest beam (reference problem R6).

The largest beta function of a periodic cell, at the centre of the focusing quadrupole, is made small. For thin lenses
it is $L\,(1 + \sin\frac{\mu}{2})/\sin\mu$, smallest at $\mu = 2\arcsin\frac{\sqrt5 - 1}{2} = 76.345^\circ$: 1.665 L.
What is made large is the cell length over it.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import BeamlineFodoSettings
from diffhep.detector.beamline import Twiss, element_matrix, fodo_cell, line_matrix, periodic_twiss
from diffhep.parameters import Param, Scalar, resolve


class Cell(eqx.Module):
    """The design: integrated strength of each quadrupole, in units of the inverse length of the cell."""

    strength: Scalar


class BeamlineFodo(ParametricStudy):
    """The study; see the module's text."""

    settings: BeamlineFodoSettings
    name = "beamline-fodo"
    objective_name = "cell length over the largest beta function"

    def __init__(self, settings: BeamlineFodoSettings):
        self.settings = settings
        super().__init__(settings, (Constraint("strength", settings.cell.strongest, "1/cell length"),))

    def layout(self) -> Cell:
        """The cell as configured; thin lenses are unstable from a strength of 4 on."""
        return Cell(Param(self.settings.cell.strength, unit="1/cell length", role="geometry", bounds=(0.1, 4.0)))

    def twiss(self, design: Cell) -> Twiss:
        """The periodic solution; resolved Params."""
        c = self.settings.cell
        cell = fodo_cell(c.length, design.strength / c.length, quadrupole_length=c.quadrupole * c.length)
        return periodic_twiss(line_matrix(element_matrix(*cell)))

    def evaluate(self, design: Cell, context: Any) -> Outcome:
        """Inverse of the largest beta function; the strength."""
        resolved = resolve(design)
        return Outcome(self.settings.cell.length / self.twiss(resolved).beta, jnp.atleast_1d(resolved.strength))
