"""What every surrogate of the layer energies offers, and what those that are trained have in common."""

import abc
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.domain import Domain
from diffhep.surrogates.stack import Incidence, Stack


class AbstractSurrogate(eqx.Module):
    """Energies in the active layers of a sampling calorimeter, in place of full simulation."""

    stack: eqx.AbstractVar[Stack]

    @property
    @abc.abstractmethod
    def noise_size(self) -> int:
        """How many standard normal numbers make a shower."""

    @abc.abstractmethod
    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV] for given standard normal numbers, continuous in the particle and the stack.

        Args:
            x: particles and stacks; leading axes as those of `noise`.
            noise: `noise_size` numbers a shower.
            hard: set energies below the threshold to zero, as a read-out does.

        Raises:
            ValueError: another number of layers than the surrogate's.
        """

    def sample(self, x: Incidence, *, key: PRNGKeyArray, hard: bool = True) -> Float[Array, "*shape layer"]:
        """One shower for each particle: energies of all layers [GeV].

        >>> surrogate.sample(x, key=jr.key(0)).sum(axis=-1) / x.energy  # doctest: +SKIP
        """
        merged = () if x.merged is None else x.merged.shape
        shape = jnp.broadcast_shapes(x.energy.shape, x.angle.shape, x.absorber.shape[:-1], x.active.shape[:-1], merged)
        noise = jr.normal(key, (*shape, self.noise_size), jnp.float32)
        return self.from_noise(x, noise, hard=hard)

    def mean(self, x: Incidence, *, key: PRNGKeyArray, showers: int = 1000) -> Float[Array, "*shape layer"]:
        """Mean energies of all layers [GeV] over showers with common, antithetic random numbers."""
        half = jr.normal(key, (-(-showers // 2), self.noise_size), jnp.float32)
        noise = jnp.concatenate([half, -half])
        noise = noise.reshape(-1, *(1,) * x.energy.ndim, noise.shape[-1])
        noise = jnp.broadcast_to(noise, (noise.shape[0], *x.energy.shape, noise.shape[-1]))
        return jnp.mean(self.from_noise(x, noise), axis=0)

    def check(self, x: Incidence) -> None:
        """A ValueError unless the thicknesses are those of as many layers, or groups of them, as the stack has."""
        if (x.merged is not None) != self.stack.merged:
            kinds = {True: "a stack read out in groups of layers (merged)", False: "a stack read out layer by layer"}
            msg = f"the surrogate is of {kinds[self.stack.merged]}, asked for is {kinds[not self.stack.merged]}"
            raise ValueError(msg)
        for name in ("absorber", "active"):
            count = jnp.shape(getattr(x, name))[-1:]
            if count != (self.stack.layers,):
                msg = f"{name}: the surrogate is of {self.stack.layers} layers, got thicknesses of shape {count}"
                raise ValueError(msg)


class LayerSurrogate(AbstractSurrogate):
    """A surrogate that was trained on full simulation.

    Differentiable in the particle's energy and angle and in every thickness: derivatives of a sample are pathwise, for
    fixed random numbers. Never gives more energy than came in.
    """

    domain: eqx.AbstractVar[Domain]

    def in_double(self) -> Self:
        """The same surrogate in double precision, for optimisers and difference quotients."""
        return jax.tree.map(lambda v: v.astype(float) if eqx.is_inexact_array(v) else v, self)

    @abc.abstractmethod
    def log_prob(self, layers: Float[Array, "*shape layer"], x: Incidence) -> Float[Array, "*shape"]:
        """Logarithm of the density of layer energies [GeV], in 1/GeV to the number of layers.

        Raises:
            ValueError: the density is not known.
        """
