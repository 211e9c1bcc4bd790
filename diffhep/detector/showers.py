r"""Simulated showers in a calorimeter, in place of a parametrised profile: learned ones, or a library of them.

`AbstractShowers` is what a `SamplingCalorimeter` asks for; `FrozenShowers` answers from a library of fully simulated
showers in one layout, as the frozen showers of ATLAS do (Barberio et al., J. Phys. Conf. Ser. 160 (2009) 012082).
Energies are at the electromagnetic scale: those in the active slabs, over the sampling fraction of minimum-ionising
particles and over `E_OVER_MIP`. What is left of the response is taken out by the calibration, `response`.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpy.typing import NDArray

from diffhep.detector.shower import LeakageCurve

E_OVER_MIP = 0.7  # response to electromagnetic showers over that to minimum-ionising particles, about: lead, plastic
NEIGHBOURS = 16  # showers of a library, next to a particle's energy, of which it gets one
ORDER = 5  # of the response of a library as a polynomial of ln E
ITERATIONS = 4  # from a measured energy to the one it belongs to; each gains a factor of 20 or more


class Layout(NamedTuple):
    """A calorimeter of equal layers.

    Attributes:
        absorber, active: thickness in one layer [mm].
        layers: their number, whole or not.
        fraction: visible over total energy loss of a minimum-ionising particle.
        readouts: groups of layers that are read out.
    """

    absorber: Float[Array, ""]
    active: Float[Array, ""]
    layers: Float[Array, ""]
    fraction: Float[Array, ""]
    readouts: int


class AbstractShowers(eqx.Module):
    """Showers of photons and electrons."""

    @property
    @abc.abstractmethod
    def noise_size(self) -> int:
        """How many standard normal numbers a shower takes."""

    @abc.abstractmethod
    def deposits(
        self, layout: Layout, energy: Float[Array, "*shape"], noise: Float[Array, "*shape noise"]
    ) -> Float[Array, "*shape readout"]:
        """Energy of a shower in each group of layers [GeV], at the electromagnetic scale, with all its fluctuations.

        Args:
            layout: the calorimeter.
            energy: of the particles [GeV]; nothing comes of nothing.
            noise: standard normal numbers; the first `noise_size` of each particle are taken.
        """

    @abc.abstractmethod
    def lost(self, layout: Layout) -> LeakageCurve:
        """Mean share of the energy that is not seen, against energy; negative where too much is."""

    def calibration(self, layout: Layout) -> Callable[[Array], Array]:
        """Mean share of the energy that is not seen, as a function of the measured energy [GeV]."""
        return Calibration(self.lost(layout))


class Calibration(eqx.Module):
    """Share of the energy that is not seen, at a measured energy.

    Attributes:
        lost: the same at a true energy.
    """

    lost: LeakageCurve

    def __call__(self, measured: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The share, where energy and measured energy fit together."""
        energy = measured
        for _ in range(ITERATIONS):
            energy = measured / (1 - self.lost(energy))
        return self.lost(energy)


class FrozenShowers(AbstractShowers):
    """A library of simulated showers in one layout: a particle gets one of about its energy, in proportion.

    Attributes:
        energy: of the simulated particles [GeV], rising.
        share: of that energy in each group of layers, at the electromagnetic scale.
        curve: mean share of the energy that is not seen.
    """

    energy: Float[Array, " shower"]
    share: Float[Array, "shower readout"]
    curve: LeakageCurve

    @classmethod
    def of(cls, energy: NDArray, visible: NDArray, fraction: float) -> Self:
        """A library of showers, from energies of particles and of groups of layers (shower, readout) [GeV].

        Args:
            energy: of the particles.
            visible: deposited in the active slabs of each group.
            fraction: visible over total energy loss of a minimum-ionising particle.

        Raises:
            ValueError: too few showers for their mean.
        """
        if len(energy) < 20 * ORDER:
            msg = f"showers: at least {20 * ORDER} are wanted for a library, got {len(energy)}"
            raise ValueError(msg)
        order = np.argsort(energy)
        energy, share = energy[order], (visible / energy[:, None])[order] / (fraction * E_OVER_MIP)
        log_range = (float(np.log(energy[0])), float(np.log(energy[-1])))
        x = (2 * np.log(energy) - sum(log_range)) / (log_range[1] - log_range[0])
        columns = np.polynomial.chebyshev.chebvander(x, ORDER - 1)
        # fluctuations of a share go with 1/sqrt(E)
        weight = np.sqrt(energy)
        found, *_ = np.linalg.lstsq(columns * weight[:, None], (1 - share.sum(axis=1)) * weight, rcond=None)
        return cls(jnp.asarray(energy), jnp.asarray(share), LeakageCurve(jnp.asarray(found), log_range))

    @property
    def noise_size(self) -> int:
        """One number chooses among neighbours."""
        return 1

    def deposits(
        self, layout: Layout, energy: Float[Array, "*shape"], noise: Float[Array, "*shape noise"]
    ) -> Float[Array, "*shape readout"]:
        """Energy in each group of layers [GeV]; see `AbstractShowers.deposits`. The layout is that of the library."""
        if layout.readouts != self.share.shape[1]:
            msg = f"readouts: the library is of {self.share.shape[1]} groups of layers, got {layout.readouts}"
            raise ValueError(msg)
        size = self.energy.size
        first = jnp.searchsorted(self.energy, energy) - NEIGHBOURS // 2
        first = jnp.clip(first, 0, size - NEIGHBOURS)
        step = jnp.floor(NEIGHBOURS * ndtr(noise[..., 0])).astype(int)
        return self.share[first + jnp.clip(step, 0, NEIGHBOURS - 1)] * energy[..., None]

    def lost(self, layout: Layout) -> LeakageCurve:
        """Mean share of the energy that is not seen."""
        return self.curve
