r"""The historical baselines: a generative adversarial network and a variational auto-encoder.

Goodfellow et al., arXiv:1406.2661 (first used for calorimeters in CaloGAN, arXiv:1712.10321); Kingma and Welling,
arXiv:1312.6114. Both generate in the same whitened coordinates as the others, so that they share physics and metrics.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.generator import AbstractGenerator, context_size


class Adversarial(AbstractGenerator):
    """A generator and the discriminator it has to deceive.

    One loss serves both: the discriminator goes down it, the generator up, by reversing the gradient between them
    (Ganin and Lempitsky, arXiv:1409.7495).

    Args:
        layers: number of coordinates.
        width: of the hidden layers.
        depth: number of hidden layers.
        key: of the weights.
    """

    generator: eqx.nn.MLP
    discriminator: eqx.nn.MLP
    noise_size: int = eqx.field(static=True)

    def __init__(self, layers: int, *, width: int = 256, depth: int = 3, key: PRNGKeyArray):
        one, two = jr.split(key)
        size = layers + context_size(layers)
        self.generator = eqx.nn.MLP(size, layers, width, depth, jax.nn.silu, dtype=jnp.float32, key=one)
        self.discriminator = eqx.nn.MLP(size, "scalar", width, depth, jax.nn.silu, dtype=jnp.float32, key=two)
        self.noise_size = layers

    def sample(self, noise: Array, context: Array) -> Float[Array, " layer"]:
        """The generator's output."""
        return noise + self.generator(jnp.concatenate([noise, context]))

    def loss(self, real: Array, context: Array, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Cross-entropy of the discriminator, with the generator's gradient reversed."""
        fake = reverse(self.sample(jr.normal(key, real.shape, real.dtype), context))
        judge = lambda x: self.discriminator(jnp.concatenate([x, context]))
        return -jax.nn.log_sigmoid(judge(real)) - jax.nn.log_sigmoid(-judge(fake))


@jax.custom_jvp
def reverse(x: Array) -> Array:
    """The same value with the opposite derivative."""
    return x


@reverse.defjvp
def _reverse_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return primals[0], -tangents[0]


class Variational(AbstractGenerator):
    """An encoder to a Gaussian latent space, and a decoder with a learned Gaussian spread.

    Args:
        layers: number of coordinates.
        width: of the hidden layers.
        depth: number of hidden layers.
        latent: dimension of the latent space.
        key: of the weights.
    """

    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP
    latent: int = eqx.field(static=True)
    noise_size: int = eqx.field(static=True)

    def __init__(self, layers: int, *, width: int = 256, depth: int = 3, latent: int = 16, key: PRNGKeyArray):
        one, two = jr.split(key)
        context = context_size(layers)
        net = lambda inputs, outputs, key: eqx.nn.MLP(
            inputs, outputs, width, depth, jax.nn.silu, dtype=jnp.float32, key=key
        )
        self.encoder = net(layers + context, 2 * latent, one)
        self.decoder = net(latent + context, 2 * layers, two)
        self.latent, self.noise_size = latent, latent + layers

    def decode(self, latent: Array, context: Array) -> tuple[Array, Array]:
        """Mean and ln sigma of the coordinates."""
        mean, log_sigma = jnp.split(self.decoder(jnp.concatenate([latent, context])), 2)
        return mean, jnp.maximum(log_sigma, -3.0)

    def sample(self, noise: Array, context: Array) -> Float[Array, " layer"]:
        """Decoded latent numbers, scattered by the decoder's spread."""
        mean, log_sigma = self.decode(noise[: self.latent], context)
        return mean + jnp.exp(log_sigma) * noise[self.latent :]

    def loss(self, real: Array, context: Array, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Negative evidence lower bound per coordinate."""
        mean, log_sigma = jnp.split(self.encoder(jnp.concatenate([real, context])), 2)
        latent = mean + jnp.exp(log_sigma) * jr.normal(key, mean.shape, mean.dtype)
        divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_sigma) - 1 - 2 * log_sigma)
        at, spread = self.decode(latent, context)
        misfit = jnp.sum(0.5 * ((real - at) / jnp.exp(spread)) ** 2 + spread)
        return (misfit + divergence) / real.size
