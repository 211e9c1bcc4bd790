"""The surrogate of the layer energies: physics, moments and a generative network in one function."""

import abc
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.baselines import Adversarial, Variational
from diffhep.surrogates.config import SurrogateSettings
from diffhep.surrogates.coordinates import cut, log_jacobian, to_coordinates, to_energies
from diffhep.surrogates.domain import Domain
from diffhep.surrogates.flow_matching import FlowMatching, OneStep
from diffhep.surrogates.generator import AbstractDensity, AbstractGenerator, context_of, context_size
from diffhep.surrogates.moments import Moments
from diffhep.surrogates.normalising_flow import NormalisingFlow
from diffhep.surrogates.stack import Incidence, Stack, guess

GENERATORS: Mapping[str, type[AbstractGenerator]] = {
    "flow-matching": FlowMatching,
    "one-step": OneStep,
    "normalising-flow": NormalisingFlow,
    "gan": Adversarial,
    "vae": Variational,
}


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
        """Energies of all layers [GeV] for given standard normal numbers, smooth in the particle and the stack."""

    def sample(self, x: Incidence, *, key: PRNGKeyArray, hard: bool = True) -> Float[Array, "*shape layer"]:
        """One shower for each particle: energies of all layers [GeV].

        >>> surrogate.sample(x, key=jr.key(0)).sum(axis=-1) / x.energy  # doctest: +SKIP
        """
        shape = jnp.broadcast_shapes(x.energy.shape, x.angle.shape, x.absorber.shape[:-1], x.active.shape[:-1])
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
        """A ValueError unless the thicknesses are those of as many layers as the stack has."""
        for name in ("absorber", "active"):
            count = jnp.shape(getattr(x, name))[-1:]
            if count != (self.stack.layers,):
                msg = f"{name}: the surrogate is of {self.stack.layers} layers, got thicknesses of shape {count}"
                raise ValueError(msg)


class LayerSurrogate(AbstractSurrogate):
    """Energies in the active layers of a sampling calorimeter, in place of full simulation.

    Differentiable in the particle's energy and angle and in every thickness: derivatives of a sample are pathwise, for
    fixed random numbers. Never gives more energy than came in.

    Attributes:
        stack: materials, particle and threshold.
        moments: mean and width of the coordinates.
        generator: what is left of them.
        domain: where the training showers lie.
        shift: mean of the training showers' whitened coordinates that the generator misses.
        scale: ratio of their widths to the generator's; a student's are a per cent or two too narrow.
    """

    stack: Stack
    moments: Moments
    generator: AbstractGenerator
    domain: Domain
    shift: Float[Array, " layer"]
    scale: Float[Array, " layer"]

    @property
    def noise_size(self) -> int:
        """How many random numbers make a shower."""
        return self.generator.noise_size

    @property
    def precision(self) -> jnp.dtype:
        """Of the networks' weights: single as trained, double after `in_double`."""
        return jnp.result_type(*jax.tree.leaves(eqx.filter(self.moments, eqx.is_inexact_array)))

    def in_double(self) -> "LayerSurrogate":
        """The same surrogate in double precision, for optimisers and difference quotients."""
        return jax.tree.map(lambda v: v.astype(float) if eqx.is_inexact_array(v) else v, self)

    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV] for given standard normal numbers.

        Args:
            x: particles and stacks; leading axes as those of `noise`.
            noise: `noise_size` numbers a shower.
            hard: set energies below the threshold to zero, as a read-out does.

        Raises:
            ValueError: another number of layers than the surrogate was trained for.
        """
        self.check(x)
        seen = guess(self.stack, x)
        mean, sigma = self.moments(x, seen)
        shape = noise.shape[:-1]
        context = context_of(seen, self.precision)
        context = jnp.broadcast_to(context, (*shape, context_size(self.stack.layers)))
        noise = noise.astype(self.precision)
        flat = (noise.reshape(-1, noise.shape[-1]), context.reshape(-1, context.shape[-1]))
        whitened = jax.vmap(self.generator.sample)(*flat).reshape(*shape, -1)
        whitened = self.shift + self.scale * whitened
        energies = to_energies(mean + sigma * whitened.astype(mean.dtype), x.energy)
        return cut(energies, self.stack.threshold) if hard else energies

    def log_prob(self, layers: Float[Array, "*shape layer"], x: Incidence) -> Float[Array, "*shape"]:
        """Logarithm of the density of layer energies [GeV], in 1/GeV to the number of layers.

        For energies of which none is empty (`coordinates.fill_empty` fills those that are).

        Raises:
            ValueError: the generator has no exact density.
        """
        generator = self.generator
        if not isinstance(generator, AbstractDensity):
            msg = f"{type(generator).__name__} has no exact density; a NormalisingFlow has"
            raise ValueError(msg)
        self.check(x)

        seen = guess(self.stack, x)
        mean, sigma = self.moments(x, seen)
        whitened = ((to_coordinates(layers, x.energy) - mean) / sigma).astype(self.precision)
        whitened = (whitened - self.shift) / self.scale
        shape, context = whitened.shape[:-1], context_of(seen, self.precision)
        context = jnp.broadcast_to(context, (*shape, context.shape[-1])).reshape(-1, context.shape[-1])
        density = jax.vmap(generator.log_prob)(whitened.reshape(-1, whitened.shape[-1]), context).reshape(shape)
        width = jnp.log(sigma) + jnp.log(self.scale)
        return density - jnp.sum(width, axis=-1) + log_jacobian(layers, x.energy)


def empty_surrogate(settings: SurrogateSettings, stack: Stack, domain: Domain | None = None) -> LayerSurrogate:
    """An untrained surrogate, whose structure is that of a trained one."""
    network = settings.network
    one, two = jr.split(jr.key(settings.schedule.seed))
    kind: Any = GENERATORS[network.kind]
    generator = kind(stack.layers, width=network.width, depth=network.depth, key=two)
    nowhere = Domain(jnp.zeros(4, jnp.float32), jnp.zeros(4, jnp.float32))
    nothing, unit = jnp.zeros(stack.layers, jnp.float32), jnp.ones(stack.layers, jnp.float32)
    return LayerSurrogate(stack, Moments(network.moments, key=one), generator, domain or nowhere, nothing, unit)
