"""A surrogate in three steps: the physics guess, a regression of mean and width, and a generative network."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffhep.surrogates.coordinates import cut, log_jacobian, to_coordinates, to_energies
from diffhep.surrogates.domain import Domain
from diffhep.surrogates.generator import AbstractDensity, AbstractGenerator, context_of, context_size
from diffhep.surrogates.moments import Moments
from diffhep.surrogates.stack import Incidence, Stack, guess
from diffhep.surrogates.surrogate import LayerSurrogate


class WhitenedSurrogate(LayerSurrogate):
    """Layer energies from whitened coordinates that a generative network makes.

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
        return self.scale.dtype

    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV] for given standard normal numbers; see `AbstractSurrogate.from_noise`."""
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
