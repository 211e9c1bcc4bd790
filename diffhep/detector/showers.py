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
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float
from numpy.typing import NDArray

from diffhep.detector.shower import LeakageCurve

E_OVER_MIP = 0.7  # response to electromagnetic showers over that to minimum-ionising particles, about: lead, plastic
NEIGHBOURS = 16  # showers of a library, next to a particle's energy, of which it gets one
ORDER = 5  # of the response of a library as a polynomial of ln E
STEPS, FLATTEST = 4, 0.25  # of Newton's method, from a measured energy to the one it belongs to; least slope in it


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
            noise: standard normal numbers, `noise_size` of each particle; a library takes the first of more.
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
        wanted = jnp.log(measured)
        visible = lambda log_energy: log_energy + jnp.log1p(-self.lost(jnp.exp(log_energy)))
        log_energy = wanted
        for _ in range(STEPS):
            value, slope = jax.jvp(visible, (log_energy,), (jnp.ones_like(log_energy),))
            log_energy = log_energy - (value - wanted) / jnp.maximum(slope, FLATTEST)
        return self.lost(jnp.exp(log_energy))


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
    def of(cls, energy: NDArray, visible: NDArray, fraction: float, ends: tuple[float, float] | None = None) -> Self:
        """A library of showers, from energies of particles and of groups of layers (shower, readout) [GeV].

        Args:
            energy: of the particles.
            visible: deposited in the active slabs of each group.
            fraction: visible over total energy loss of a minimum-ionising particle.
            ends: of the range of energies [GeV]; those of the particles if None. Libraries with the same ends and of as
                many showers share what is compiled.

        Raises:
            ValueError: too few showers for their mean.
        """
        if len(energy) < 20 * ORDER:
            msg = f"showers: at least {20 * ORDER} are wanted for a library, got {len(energy)}"
            raise ValueError(msg)
        order = np.argsort(energy)
        energy, share = energy[order], (visible / energy[:, None])[order] / (fraction * E_OVER_MIP)
        low, high = ends or (energy[0], energy[-1])
        log_range = (float(np.log(low)), float(np.log(high)))
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
