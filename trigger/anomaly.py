r"""An anomaly trigger: an event is kept where the latent means of an autoencoder's encoder are far from the origin.

The encoder of a variational autoencoder that was trained on minimum bias (`diffhep.trigger.autoencoder`) hands on
words $\mu_j$ of learned formats. The score is $\sum_j\mu_j^2$, the part of the Kullback-Leibler divergence from the
prior that needs no logarithm (as AXOL1TL, arXiv:2411.19506), and an event is accepted above a threshold. Squares and
sums of words are words: nothing is rounded, so the score is exact in the logic, in double precision
(`AnomalyTrigger.score`) and in integers alone (`AnomalyTrigger.integers`).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.checks import check_inputs, check_keys
from diffhep.trigger.classifier import scale
from diffhep.trigger.fixed_point import encode, require_x64
from diffhep.trigger.learned import LearnedLinear, Quantiser
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.modes import shifted
from diffhep.trigger.primitive import whole

SCHEMA, VERSION = "diffhep anomaly trigger", 1
MAX_SCORE = 53  # bits: scores that float64 holds exactly


class AnomalyTrigger(AbstractStage):
    r"""Features in; score $\sum_j\mu_j^2$, and whether it is above the threshold, out.

    Args:
        encoder: latent means of an event, on their grids; no ReLU after its last layer.
        threshold: a multiple of `lsb`; an event whose score is above it is accepted.

    Raises:
        ValueError: the threshold is negative or not finite.
    """

    encoder: LearnedClassifier
    threshold: float = eqx.field(static=True)

    def __check_init__(self):
        if not 0 <= self.threshold < np.inf:
            msg = f"anomaly trigger: a finite threshold of at least 0 wanted, got {self.threshold}"
            raise ValueError(msg)

    def __call__(
        self, x: Float[Array, "*event n"] | Float[np.ndarray, "*event n"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " *event"]:
        """The score of events; any leading shape."""
        return self.score(self.encoder.words(x))

    def score(self, words: Float[Array, "*event n"]) -> Float[Array, " *event"]:
        """The score of words that have arrived."""
        return squared_norm(self.encoder.logits(words))

    def decision(self, words: Float[Array, "*event n"]) -> tuple[Float[Array, " *event"], Bool[Array, " *event"]]:
        """The score of words that have arrived, and whether they are accepted: the function that becomes logic."""
        score = self.score(words)
        return score, score > self.threshold

    @property
    def lsb(self) -> float:
        """The step of the score; thresholds are multiples of it."""
        return 2.0 ** (-2 * point_of(self.encoder))

    def limited(self, headroom: int) -> "AnomalyTrigger":
        r"""The same decisions with fewer bits: latent words saturate where one of them alone is above the threshold.

        What saturates has $\mu_j^2$ above the threshold before and after, so no event changes sides.

        Args:
            headroom: bits that are left above; the threshold may be raised by a factor of four for each.
        """
        output = self.encoder.layers[-1].output
        f = np.asarray(whole(output.f), float)
        largest = lambda i: 2.0**i - 2.0**-f
        i = np.ceil(np.log2(np.sqrt(self.threshold) + 2.0**-f))
        i = np.where(largest(i) ** 2 > self.threshold, i, i + 1) + headroom
        if output.overflow == "WRAP":
            msg = "anomaly trigger: words that wrap cannot be limited, they are to saturate"
            raise ValueError(msg)
        few = eqx.tree_at(lambda words: words.i, output, jnp.minimum(output.i, i))
        encoder = eqx.tree_at(lambda net: net.layers[-1].output, self.encoder, few)
        return AnomalyTrigger(encoder, self.threshold)

    def integers(self, x: Float[Array, "event n"] | np.ndarray) -> Int[np.ndarray, " event"]:
        """The score in units of `lsb`, by integer arithmetic alone after the features are encoded.

        `trigger.integers(x) * trigger.lsb` equals `trigger(x)` exactly.

        Raises:
            ValueError: JAX is not in 64-bit mode, a feature is not finite, or a score may need more than 53 bits.
        """
        require_x64("AnomalyTrigger")
        check_score(self.encoder)
        latent, points = integer_words(self.encoder, check_inputs(x, self.encoder.inputs, "anomaly trigger"))
        aligned = latent << np.maximum(point_of(self.encoder) - points, 0)
        return np.sum(aligned**2, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON; `from_dict` reads them back."""
        return {"schema": SCHEMA, "version": VERSION, "threshold": self.threshold, "encoder": self.encoder.to_dict()}

    @staticmethod
    def from_dict(data: Any) -> "AnomalyTrigger":
        """The frozen trigger that `to_dict` wrote.

        Raises:
            ValueError: another schema or version, or missing keys.
        """
        check_keys(data, ("schema", "version", "threshold", "encoder"), "anomaly trigger")
        if (data["schema"], data["version"]) != (SCHEMA, VERSION):
            msg = f"anomaly trigger: schema {SCHEMA!r} version {VERSION} wanted, got {data['schema']!r} "
            msg += f"version {data['version']!r}"
            raise ValueError(msg)
        return AnomalyTrigger(LearnedClassifier.from_dict(data["encoder"]), float(data["threshold"]))


def squared_norm(latent: Float[Array, "*event m"]) -> Float[Array, " *event"]:
    """The sum of the squares."""
    return jnp.sum(latent**2, axis=-1)


def point_of(encoder: LearnedClassifier) -> int:
    """The most fractional bits of a latent word; 0 if none has a bit."""
    output = encoder.layers[-1].output
    f = np.asarray(whole(output.f))
    there = np.asarray(output.bits()) > 0
    return int(f[there].max()) if there.any() else 0


def check_score(encoder: LearnedClassifier) -> None:
    """A ValueError if a score could need more bits than float64 holds exactly."""
    output = encoder.layers[-1].output
    bits = np.asarray(output.bits()) - np.asarray(whole(output.f)) + point_of(encoder)
    needed = 2 * float(bits.max()) + np.ceil(np.log2(bits.size))
    if needed > MAX_SCORE:
        msg = f"anomaly trigger: a score may need {needed:.0f} bits, at most {MAX_SCORE} are exact; use fewer bits"
        raise ValueError(msg)


def integer_words(
    network: LearnedClassifier, x: Float[Array, "event n"] | np.ndarray
) -> tuple[Int[np.ndarray, "event m"], Int[np.ndarray, " m"]]:
    """The outputs of a frozen network as integer codes, each with its number of fractional bits.

    Everything after the encoding of the features is sums, products and shifts of 64-bit integers.
    """
    codes = encode(scale(jnp.asarray(x, jnp.float64), network.exponents), network.input_format)
    codes, points = requantised(codes, np.full(network.inputs, network.input_format.f), network.input)
    for layer in network.layers:
        codes, points = integer_layer(layer, codes, points)
    return np.asarray(codes), points


def integer_layer(
    layer: LearnedLinear, codes: Int[Array, "event n"], points: Int[np.ndarray, " n"]
) -> tuple[Int[Array, "event m"], Int[np.ndarray, " m"]]:
    """One linear map of integer codes."""
    weight, half = np.asarray(layer.quantised_weight(), float), np.asarray(layer.output.half(), float)
    bias = np.broadcast_to(np.asarray(layer.quantised_bias(), float) + half, weight.shape[:1])
    # one binary point for all sums of the layer: that of its finest product or bias
    finest = max(int(np.max(points)) + digits(weight), digits(bias))
    whole_weight = np.ldexp(weight, finest - points[None, :]).astype(np.int64)
    sums = codes @ whole_weight.T + np.ldexp(bias, finest).astype(np.int64)
    if layer.relu:
        sums = jnp.maximum(sums, 0)
    return requantised(sums, np.full(len(weight), finest), layer.output)


def digits(values: Float[np.ndarray, "..."]) -> int:
    """The fewest fractional bits that hold every one of some numbers on binary grids.

    >>> digits(np.array([0.75, 3.0]))
    2
    """
    f = 0
    while (np.ldexp(values, f) % 1).any():
        f += 1
    return f


def requantised(
    codes: Int[Array, "event m"], points: Int[np.ndarray, " m"], words: Quantiser
) -> tuple[Int[Array, "event m"], Int[np.ndarray, " m"]]:
    """Codes with given numbers of fractional bits in the formats of some words."""
    i, f = (jnp.broadcast_to(whole(bits).astype(jnp.int64), points.shape) for bits in (words.i, words.f))
    k, shift = jnp.asarray(words.k, jnp.int64), jnp.asarray(points, jnp.int64) - f
    return shifted(codes, shift, k, i, f, words.rounding, words.overflow), np.asarray(f)
