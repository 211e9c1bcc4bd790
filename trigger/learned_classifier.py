r"""A multilayer perceptron of learned formats.

It begins with words of a common input format, as they arrive from the detector: input j is $2^{-e_j} x_j$, as in
`diffhep.trigger.classifier`. A quantiser of the input then keeps of each feature what training found worth its bits.
"""

import itertools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.checks import check_exponents, check_format, check_keys
from diffhep.trigger.classifier import DenseClassifier, scale
from diffhep.trigger.fixed_point import FixedPoint, quantise, require_x64
from diffhep.trigger.learned import Axis, Granularity, LearnedLinear, Quantiser

SCHEMA, VERSION = "diffhep trigger learned classifier", 1


class LearnedClassifier(AbstractStage):
    """A multilayer perceptron of learned formats: features in, logits out, both on grids.

    Args:
        input: of the scaled features, one format each.
        layers: the linear maps, each with a ReLU but the last.
        exponents: $e_j$ of the features, see the module.
        input_format: of the words that arrive; it saturates.

    Raises:
        ValueError: numbers of channels that do not follow from each other, or an input format that is too wide.
    """

    input: Quantiser
    layers: tuple[LearnedLinear, ...]
    exponents: tuple[int, ...] = eqx.field(static=True)
    input_format: FixedPoint = eqx.field(static=True)

    def __check_init__(self):
        check_format(self.input_format, "input format")
        check_exponents(self.exponents, inputs=self.inputs)
        shapes = [layer.weight.shape for layer in self.layers]
        if any(a[0] != b[1] for a, b in itertools.pairwise(shapes)):
            msg = f"learned classifier: layers of shapes {shapes} do not follow from each other"
            raise ValueError(msg)

    @staticmethod
    def of(
        classifier: DenseClassifier,
        *,
        input_format: FixedPoint,
        granularity: Granularity = "weight",
        weight_f: float = 5.0,
        activation_f: float = 4.0,
    ) -> "LearnedClassifier":
        """A floating-point network in formats to begin with; calibrate it before use.

        Args:
            classifier: weights, and scales and offsets of the features, which are folded in.
            input_format: of the scaled features.
            granularity: a number of bits for every weight, every output channel or every layer.
            weight_f: fractional bits of weights and biases.
            activation_f: fractional bits of inputs and activations.
        """
        biases, last = classifier.folded_biases(), len(classifier.weights) - 1
        layers = tuple(
            LearnedLinear.of(w, b, relu=n < last, granularity=granularity, weight_f=weight_f, output_f=activation_f)
            for n, (w, b) in enumerate(zip(classifier.weights, biases, strict=True))
        )
        bits = lambda value: jnp.full(classifier.inputs, value, classifier.weights[0].dtype)
        source = Quantiser(bits(float(input_format.i)), bits(activation_f), k=input_format.k)
        return LearnedClassifier(source, layers, classifier.exponents, input_format)

    @property
    def inputs(self) -> int:
        """Number of features."""
        return self.layers[0].weight.shape[1]

    @property
    def weights(self) -> int:
        """Number of weights that are not 0."""
        return int(sum(np.count_nonzero(np.asarray(layer.quantised_weight())) for layer in self.layers))

    def words(self, x: Float[Array, "*event n"] | np.ndarray) -> Float[Array, "*event n"]:
        """Features as the words that arrive, in the units of the input format."""
        return quantise(scale(jnp.asarray(x), self.exponents), self.input_format)

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The logits of events, on their grids; any leading shape."""
        return self.logits(self.words(x))

    def logits(self, words: Float[Array, "..."], *, axis: Axis = -1) -> Float[Array, "..."]:
        """The logits of words that have arrived: the function that becomes logic.

        Args:
            words: (..., n) for logits (..., m) or, with axis 0, (n, event) for (m, event).
            axis: of the channels.
        """
        u = self.input(words, axis=axis)
        for layer in self.layers:
            u = layer(u, axis=axis)
        return u

    def calibrated(self, words: Float[Array, "event n"], *, margin: int = 0) -> "LearnedClassifier":
        """The same fractional bits with the integer bits that a sample of words needs, layer by layer."""
        source = self.input.calibrated(words, margin=margin)
        u, layers = source(words), []
        for layer in self.layers:
            output = layer.output.calibrated(layer.sums(u), margin=margin)
            layers.append(eqx.tree_at(lambda layer: layer.output, layer, output))
            u = layers[-1](u)
        return eqx.tree_at(lambda net: (net.input, net.layers), self, (source, tuple(layers)))

    def wrapping(self) -> "LearnedClassifier":
        """The same formats without the logic that clips."""
        layers = tuple(eqx.tree_at(lambda layer: layer.output, layer, layer.output.wrapping()) for layer in self.layers)
        return LearnedClassifier(self.input.wrapping(), layers, self.exponents, self.input_format)

    def frozen(self) -> "LearnedClassifier":
        """The same function with every number on its grid, in double precision: what is exported.

        Raises:
            ValueError: JAX is not in 64-bit mode.
        """
        require_x64("LearnedClassifier")
        layers = tuple(layer.frozen() for layer in self.layers)
        return LearnedClassifier(self.input.frozen(), layers, self.exponents, self.input_format)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON; `from_dict` reads them back."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "input_format": str(self.input_format),
            "exponents": list(self.exponents),
            "input": self.input.to_dict(),
            "layers": [layer.to_dict() for layer in self.layers],
        }

    @staticmethod
    def from_dict(data: Any) -> "LearnedClassifier":
        """The frozen classifier that `to_dict` wrote.

        Raises:
            ValueError: another schema or version, or missing keys.
        """
        check_keys(data, ("schema", "version", "input_format", "exponents", "input", "layers"), "learned classifier")
        if (data["schema"], data["version"]) != (SCHEMA, VERSION):
            msg = f"learned classifier: schema {SCHEMA!r} version {VERSION} wanted, got {data['schema']!r} "
            msg += f"version {data['version']!r}"
            raise ValueError(msg)
        try:
            source = Quantiser.from_dict(data["input"])
            layers = tuple(LearnedLinear.from_dict(layer) for layer in data["layers"])
        except (KeyError, TypeError) as error:
            msg = f"learned classifier: layers not understood: {type(error).__name__} {error}"
            raise ValueError(msg) from None
        return LearnedClassifier(source, layers, tuple(data["exponents"]), FixedPoint.parse(data["input_format"]))
