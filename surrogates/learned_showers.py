"""A learned surrogate as the showers of a sampling calorimeter: what a study puts in place of the parametrisation."""

import math
from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from diffhep.detector import LeakageCurve
from diffhep.detector.shower import chebyshev_basis, chebyshev_energies, chebyshev_transform
from diffhep.detector.showers import E_OVER_MIP, AbstractShowers, Layout
from diffhep.surrogates.autoregressive import AutoregressiveSurrogate
from diffhep.surrogates.chain import product
from diffhep.surrogates.stack import Incidence, guess
from diffhep.surrogates.surrogate import LayerSurrogate

NODES = 12  # energies between which the network's answers for a layout, and the mean response, are interpolated
QUANTILES = 128  # of the visible energy, whose mean is the mean response


class Bounds(NamedTuple):
    """Ranges of energy [GeV], absorber and active thickness [mm], and number of layers."""

    energy: tuple[float, float]
    absorber: tuple[float, float]
    active: tuple[float, float]
    layers: tuple[float, float]


class LearnedShowers(AbstractShowers):
    """Showers of a surrogate of layers that are read out in groups, at normal incidence.

    Energies outside the trained range are those of showers at its end, in proportion. Layouts outside of `bounds` are
    not refused: inside a trace there is nothing to compare.

    Attributes:
        surrogate: in double precision, for gradients that difference quotients can confirm.
        bounds: what it was trained on: energy [GeV], absorber and active thickness [mm], number of layers.
    """

    surrogate: AutoregressiveSurrogate
    bounds: Bounds = eqx.field(static=True)

    @classmethod
    def of(cls, surrogate: LayerSurrogate) -> Self:
        """The showers of a surrogate.

        Raises:
            ValueError: a surrogate of another kind, of single layers, of one energy, or not of normal incidence.
        """
        if not isinstance(surrogate, AutoregressiveSurrogate) or not surrogate.stack.merged:
            kind = type(surrogate).__name__ if surrogate.stack.merged else "one of single layers"
            msg = f"surrogate: wanted an autoregressive one of layers in groups (groups.count), got {kind}"
            raise ValueError(msg)
        low, high = (np.asarray(end, float) for end in (surrogate.domain.low, surrogate.domain.high))
        if not (low[1] == 0.0 and low[0] < high[0]):
            msg = "surrogate: wanted one of a range of energies at normal incidence (angle 0), "
            msg += f"got {low[0]:g} to {high[0]:g} GeV and angles from {low[1]:g} rad"
            raise ValueError(msg)
        ranges = [(float(low[i]), float(high[i])) for i in (0, 2, 3)]
        groups = surrogate.stack.layers
        return cls(surrogate.in_double(), Bounds(*ranges, (groups * float(low[4]), groups * float(high[4]))))

    @property
    def noise_size(self) -> int:
        """Those of the surrogate."""
        return self.surrogate.noise_size

    def deposits(
        self, layout: Layout, energy: Float[Array, "*shape"], noise: Float[Array, "*shape noise"]
    ) -> Float[Array, "*shape readout"]:
        """Energy of a shower in each group of layers [GeV]; see `AbstractShowers.deposits`."""
        trained = jnp.clip(energy, *self.bounds.energy)
        seen = self.surrogate.from_known(self.known(layout, trained), trained, noise)
        return seen * (energy / trained / (layout.fraction * E_OVER_MIP))[..., None]

    def known(self, layout: Layout, energy: Float[Array, "*shape"]) -> tuple[Array, Array, Array]:
        """What the surrogate knows of particles before their random numbers: interpolated in ln E.

        A layout is one for all of them, so that the large networks are asked a dozen times only. Interpolation is
        linear in their answers, and so is what conserves energy.
        """
        surrogate, ends = self.surrogate, self.log_range
        x = self.incidence(layout, jnp.asarray(chebyshev_energies(NODES, ends)))
        answers = surrogate.network.known(surrogate.stack, x, guess(surrogate.stack, x))
        weights = chebyshev_basis(energy, NODES, ends) @ chebyshev_transform(NODES)
        between = lambda values: product(weights, values.reshape(NODES, -1)).reshape(*energy.shape, *values.shape[1:])
        packed, at, share = (between(values) for values in answers)
        return packed, at, share

    @property
    def log_range(self) -> tuple[float, float]:
        """Range of ln E."""
        low, high = self.bounds.energy
        return math.log(low), math.log(high)

    def incidence(self, layout: Layout, energy: Float[Array, "*shape"]) -> Incidence:
        """Particles of given energies on a layout."""
        groups = self.surrogate.stack.layers
        if layout.readouts != groups:
            msg = f"readouts: the surrogate is of {groups} groups of layers, got {layout.readouts}"
            raise ValueError(msg)
        merged = layout.layers / groups
        of_group = lambda thickness: jnp.broadcast_to(merged * thickness, (groups,))
        return Incidence(energy, jnp.array(0.0), of_group(layout.absorber), of_group(layout.active), merged)

    def lost(self, layout: Layout) -> LeakageCurve:
        """Mean share of the energy that is not seen."""
        energy = jnp.asarray(chebyshev_energies(NODES, self.log_range))
        return LeakageCurve.through(1 - jnp.mean(self.quantiles(layout, energy), axis=-1) / energy, self.log_range)

    def quantiles(
        self, layout: Layout, energy: Float[Array, "*shape"], count: int = QUANTILES
    ) -> Float[Array, "*shape quantile"]:
        """Evenly spaced quantiles of the visible energy at the electromagnetic scale [GeV]; a width wants thousands.

        It depends on the first random number of a shower alone.
        """
        first = ndtri((jnp.arange(count) + 0.5) / count)
        noise = jnp.zeros((*energy.shape, count, self.noise_size)).at[..., 0].set(first)
        each = jnp.broadcast_to(energy[..., None], noise.shape[:-1])
        return jnp.sum(self.deposits(layout, each, noise), axis=-1)
