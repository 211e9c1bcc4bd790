r"""Radii of silicon layers for the best momentum or impact-parameter resolution (reference problem R2).

The covariance of a track fit with multiple scattering (`diffhep.reconstruction.track_covariance`) gives
$\sigma_\kappa$ and $\sigma_{d_0}$ at some transverse momenta; the mean logarithm over them is made small:
`tracker.momentum_share` of it that of the curvature [1/m], the rest that of the impact parameter [m]. The design is the
innermost radius and the gaps between layers, so that the least spacing is a bound, and the outer radius the budget.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import TrackerMomentumSettings
from diffhep.detector import SiliconTracker
from diffhep.parameters import Param, Scalar, resolve
from diffhep.reconstruction import impact_parameter_resolution, track_covariance
from diffhep.units import m


class Barrel(eqx.Module):
    """The design: the innermost radius and the gaps between layers [mm]."""

    inner: Scalar
    gap: tuple[Scalar, ...]

    def radii(self) -> Float[Array, " layer"]:
        """Radius of each layer, from inside out; for a design whose Params are resolved."""
        return self.inner + jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.stack(self.gap))])


class Tracker(ParametricStudy):
    """The study; see the module's text."""

    settings: TrackerMomentumSettings
    name = "tracker"
    objective_name = "inverse track resolution"

    def __init__(self, settings: TrackerMomentumSettings):
        t = settings.tracker
        room = t.outer - t.inner - (t.layers - 1) * t.spacing
        if room <= 0:
            msg = (
                f"tracker: {t.layers} layers with gaps of {t.spacing} mm do not fit between {t.inner} and {t.outer} mm"
            )
            raise ValueError(msg)
        self.settings = settings
        super().__init__(settings, (Constraint("outer radius", t.outer, "mm"),))

    def layout(self) -> Barrel:
        """Uniform layers."""
        t = self.settings.tracker
        room = t.outer - t.inner
        step = room / (t.layers - 1) * (1 - 1e-3)
        inner = Param(t.inner + 1e-3 * room, unit="mm", role="geometry", bounds=(t.inner, t.outer))
        gap = Param(step, unit="mm", role="geometry", bounds=(t.spacing, room))
        return Barrel(inner, (gap,) * (t.layers - 1))

    def start(self, initial: Barrel, *, key: Array) -> Barrel:
        """Random radii: the free room is shared at random among the innermost radius and the gaps."""
        t = self.settings.tracker
        rng = np.random.default_rng(np.asarray(jr.key_data(key)))
        room = t.outer - t.inner - (t.layers - 1) * t.spacing
        shares = room * rng.dirichlet(np.full(t.layers, 0.5))
        nudged = np.clip(shares, 1e-3 * room, 0.999 * room)
        gaps = tuple(p.at(t.spacing + s) for p, s in zip(initial.gap, nudged[1:], strict=True))
        return Barrel(initial.inner.at(t.inner + 0.1 * nudged[0]), gaps)

    def tracker(self, design: Barrel) -> SiliconTracker:
        """The detector of a design whose Params are resolved."""
        t = self.settings.tracker
        return SiliconTracker(
            design.radii(),
            resolution=t.resolution,
            thickness=t.thickness,
            pipe_radius=t.pipe_radius,
            pipe_thickness=t.pipe_thickness,
        )

    def mean_log_resolution(self, design: Barrel) -> Float[Array, ""]:
        """What is made small; resolved Params."""
        t = self.settings.tracker
        covariance = track_covariance(*self.tracker(design).surfaces(jnp.asarray(t.momenta)))
        curvature = jnp.log(jnp.sqrt(covariance[:, 2, 2]) * m)
        impact = jnp.log(impact_parameter_resolution(covariance) / m)
        return jnp.mean(t.momentum_share * curvature + (1 - t.momentum_share) * impact)

    def evaluate(self, design: Barrel, context: Any) -> Outcome:
        """Inverse of the geometric mean of the resolutions; the outermost radius."""
        resolved = resolve(design)
        return Outcome(jnp.exp(-self.mean_log_resolution(resolved)), resolved.radii()[-1:])


class TrackerMomentum(Tracker):
    """Best momentum resolution."""

    name = "tracker-momentum"
    objective_name = "inverse curvature resolution [m]"


class TrackerImpact(Tracker):
    """Best impact-parameter resolution."""

    name = "tracker-impact"
    objective_name = "inverse impact-parameter resolution [1/m]"
