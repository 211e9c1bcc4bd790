r"""A variational autoencoder whose encoder becomes logic: quantised means, everything else in floating point.

(Kingma and Welling, arXiv:1312.6114.) The encoder is a `LearnedClassifier` of the words that arrive; its outputs are
the latent means $\mu$, with learned formats. Only training needs the rest: the logarithm of the variances, a linear map
of the encoder's last hidden words, and the decoder, which gives back the features. With standardised features $x$, the
loss is

$$\frac1n\Bigl(\sum_{j\,\text{there}}\bigl(\sqrt{1 + (\hat x_j - x_j)^2} - 1\bigr)
  + \frac\beta2\sum_k(\mu_k^2 + \sigma_k^2 - 1 - \ln\sigma_k^2)\Bigr),$$

whose first part grows like the distance only, for the spectra have long tails. Directions of objects that are not there
are not asked for. Events count by their weights.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.format_training import Task
from diffhep.trigger.learned import Granularity
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.resources import LutModel

MOST_LOG_VARIANCE = 8.0  # either way: a variance may not overflow
JUDGE = 0  # of the random numbers that all networks are judged with


class Autoencoder(AbstractStage):
    """Encoder and decoder.

    Attributes:
        encoder: words to latent means, on their grids.
        log_variance: last hidden words to the logarithms of the variances.
        decoder: latent variables to standardised features.
        mean, spread: of the words, by which they are standardised; not trained.
        beta: weight of the divergence from the prior.
    """

    encoder: LearnedClassifier
    log_variance: DenseClassifier
    decoder: DenseClassifier
    mean: Float[Array, " n"]
    spread: Float[Array, " n"]
    beta: float = eqx.field(static=True)

    @staticmethod
    def init(
        mean: Float[np.ndarray, " n"] | Float[Array, " n"],
        spread: Float[np.ndarray, " n"] | Float[Array, " n"],
        *,
        hidden: Sequence[int],
        latent: int,
        decoder: Sequence[int],
        beta: float,
        exponent: int,
        input_format: FixedPoint,
        granularity: Granularity = "weight",
        weight_f: float = 5.0,
        activation_f: float = 4.0,
        key: PRNGKeyArray,
    ) -> "Autoencoder":
        """Random weights, for words of given mean and spread; calibrate it before use.

        Args:
            mean: of the words, in units of the input format.
            spread: of the words, above 0.
            hidden: widths of the encoder's hidden layers.
            latent: number of latent variables.
            decoder: widths of the decoder's hidden layers.
            beta: weight of the divergence.
            exponent: e of every feature, whose word is 2^-e times it.
            input_format: of the words.
            granularity: a number of bits for every weight, every output channel or every layer.
            weight_f: fractional bits of weights and biases.
            activation_f: fractional bits of inputs and activations.
            key: typed key of the random weights.
        """
        keys, n = jr.split(key, 3), len(mean)
        floating = DenseClassifier.init(
            (n, *hidden, latent), key=keys[0], exponents=(exponent,) * n, offsets=np.asarray(mean).tolist()
        )
        # standardised features cost nothing: the spreads go into the first weights, as the means into the bias
        first = floating.weights[0] / jnp.asarray(spread)
        floating = eqx.tree_at(lambda net: net.weights[0], floating, first)
        encoder = LearnedClassifier.of(
            floating,
            input_format=input_format,
            granularity=granularity,
            weight_f=weight_f,
            activation_f=activation_f,
        )
        variance = DenseClassifier.init((hidden[-1], latent), key=keys[1])
        small = eqx.tree_at(lambda net: net.weights[0], variance, 0.1 * variance.weights[0])
        return Autoencoder(
            encoder,
            small,
            DenseClassifier.init((latent, *decoder, n), key=keys[2]),
            jnp.asarray(mean),
            jnp.asarray(spread),
            beta,
        )

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event n"]:
        """What the decoder makes of words that have arrived, standardised; of the latent means without a key."""
        mean, log_variance = self.latent(x)
        noise = 0.0 if key is None else jr.normal(key, mean.shape, mean.dtype)
        return self.decoder(mean + jnp.exp(log_variance / 2) * noise)

    def latent(self, words: Float[Array, "*event n"]) -> tuple[Float[Array, "*event m"], Float[Array, "*event m"]]:
        """Means, on their grids, and logarithms of the variances of the latent variables."""
        *hidden, last = self.encoder.layers
        u = self.encoder.input(words)
        for layer in hidden:
            u = layer(u)
        return last(u), jnp.clip(self.log_variance(u), -MOST_LOG_VARIANCE, MOST_LOG_VARIANCE)

    def loss(
        self,
        words: Float[Array, "*event n"],
        there: Bool[Array, "*event n"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, " *event"]:
        """The loss of events [nat], as in the module.

        Args:
            words: as they have arrived.
            there: which features belong to something.
            key: of the latent variables.
        """
        mean, log_variance = self.latent(words)
        z = mean + jnp.exp(log_variance / 2) * jr.normal(key, mean.shape, mean.dtype)
        still = jax.lax.stop_gradient
        missed = self.decoder(z) - (words - still(self.mean)) / still(self.spread)
        distance = jnp.where(there, jnp.sqrt(1 + missed**2) - 1, 0.0)
        divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=-1)
        return (jnp.sum(distance, axis=-1) + self.beta * divergence) / words.shape[-1]

    def calibrated(self, words: Float[Array, "event n"], *, margin: int = 0) -> "Autoencoder":
        """With the integer bits that a sample of words needs."""
        return self.with_encoder(self.encoder.calibrated(words, margin=margin))

    def wrapping(self) -> "Autoencoder":
        """Without the logic that clips."""
        return self.with_encoder(self.encoder.wrapping())

    def frozen(self) -> "Autoencoder":
        """With every number of the encoder on its grid, in double precision."""
        double = lambda x: jnp.asarray(np.asarray(x, np.float64)) if eqx.is_inexact_array(x) else x
        return jax.tree.map(double, self).with_encoder(self.encoder.frozen())

    def with_encoder(self, encoder: LearnedClassifier) -> "Autoencoder":
        """The same with another encoder."""
        return Autoencoder(encoder, self.log_variance, self.decoder, self.mean, self.spread, self.beta)


def reconstruction(there: Callable[[Array], Array]) -> Task:
    """Training of an `Autoencoder`: each event belongs with its weight, whose mean is 1.

    Args:
        there: which features of some words belong to something.
    """

    def loss(model: Autoencoder, words: Array, weight: Array, key: PRNGKeyArray) -> Array:
        return jnp.mean(weight * model.loss(words, there(words), key=key))

    def judge(model: Autoencoder, words: Array, weight: Array) -> tuple[Array, Array]:
        found = loss(model, words, weight.astype(words.dtype), jr.key(JUDGE)) / jnp.mean(weight)
        # a figure of merit between 0 and 1
        return jnp.exp(-found), found

    return Task(loss, judge)


def encoder_luts(model: Autoencoder, luts: LutModel) -> Float[Array, ""]:
    """Lookup tables of an encoder and of the sum of the squares of its outputs.

    A square of b bits has b (b + 1) / 2 products of two bits, each about a lookup table with its share of the sum.
    """
    bits = model.encoder.layers[-1].output.bits()
    return luts.luts(model.encoder) + jnp.sum(bits * (bits + 1)) / 2
