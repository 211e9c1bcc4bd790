r"""The trigger's classifier as the FPGA computes it: every weight, bias and activation has a fixed-point format.

`QuantisedClassifier` has two evaluations that agree exactly: `__call__` quantises floating-point values on the way
(float64, straight-through gradients, so it can be trained through), `integers` works on integer codes alone, as the
hardware does. `diffhep.trigger.export` writes the third, C++ for high-level synthesis, and `diffhep.trigger.verify`
proves it equal to the second.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.checks import (
    MAX_BITS,
    check_exponents,
    check_format,
    check_inputs,
    check_keys,
    check_layers,
    read_codes,
)
from diffhep.trigger.classifier import DenseClassifier, feature_formats, scale
from diffhep.trigger.fixed_point import FixedPoint, decode, encode, format_for, quantise, requantise, require_x64
from diffhep.trigger.modes import Overflow, Rounding
from diffhep.trigger.primitive import quantise_kif

SCHEMA, VERSION = "diffhep trigger classifier", 1
MAX_ACCUMULATOR = 53  # bits: sums that float64 holds exactly, in any order of summation


@dataclass(frozen=True)
class LayerFormat:
    """The fixed-point formats of one layer: its weights, its biases, and the values it hands on."""

    weight: FixedPoint
    bias: FixedPoint
    output: FixedPoint


class QuantisedClassifier(AbstractStage):
    """A dense ReLU classifier whose every number has a fixed-point format.

    Made by `quantised` or read back by `from_dict`. The weights are floating-point numbers that are
    quantised on use: gradients reach them straight through, so the network can be trained further in its formats.

    Args:
        weights: one (out, in) array a layer.
        biases: one (out,) array a layer.
        exponents: $e_j$ of the inputs, see the module; the offsets are folded into the first bias.
        input_format: format of the scaled inputs $u_j$.
        formats: formats of the layers. A hidden layer hands on what is left by the ReLU, so usually without sign.

    Raises:
        ValueError: shapes that do not follow from each other, weights that are not finite, words above 32 bits, or sums
            that may need more than 53 bits (beyond them float64 and the integers could differ).
    """

    weights: tuple[Float[Array, "m n"], ...]
    biases: tuple[Float[Array, " m"], ...]
    exponents: tuple[int, ...] = eqx.field(static=True)
    input_format: FixedPoint = eqx.field(static=True)
    formats: tuple[LayerFormat, ...] = eqx.field(static=True)

    def __check_init__(self):
        check_layers(self.weights, self.biases)
        check_exponents(self.exponents, inputs=self.inputs)
        if len(self.formats) != len(self.weights):
            msg = f"classifier: {len(self.weights)} layers, but formats of {len(self.formats)}"
            raise ValueError(msg)
        check_format(self.input_format, "input format")
        for number, layer in enumerate(self.formats):
            for name in ("weight", "bias", "output"):
                check_format(getattr(layer, name), f"layer {number}: {name} format")
        for number in range(len(self.weights)):
            self.accumulator(number)

    @property
    def inputs(self) -> int:
        """Number of features."""
        return self.weights[0].shape[1]

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self.weights[-1].shape[0]

    @property
    def output_format(self) -> FixedPoint:
        """Format of the logits; a threshold is a multiple of its `lsb`."""
        return self.formats[-1].output

    def feature_formats(self) -> tuple[FixedPoint, ...]:
        """The format of each feature in its own unit: the input format with its binary point moved by $e_j$."""
        return feature_formats(self.input_format, self.exponents)

    def accumulator(self, number: int) -> FixedPoint:
        """The format that holds every sum of a layer exactly, whatever its weights and inputs.

        Raises:
            ValueError: it has more than 53 bits.
        """
        layer, fan_in = self.formats[number], self.weights[number].shape[1]
        source = self.input_format if number == 0 else self.formats[number - 1].output
        f = max(source.f + layer.weight.f, layer.bias.f)
        largest = lambda format: max(-format.codes[0], format.codes[1])
        products = (fan_in * largest(source) * largest(layer.weight)) << (f - source.f - layer.weight.f)
        bound = products + (largest(layer.bias) << (f - layer.bias.f))
        width = 1 + bound.bit_length()
        if width > MAX_ACCUMULATOR:
            msg = (
                f"layer {number}: sums may need {width} bits, at most {MAX_ACCUMULATOR} are exact; use narrower formats"
            )
            raise ValueError(msg)
        return FixedPoint(1, width - 1 - f, f)

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The logits (float64, on the grid of the output format) of events; straight-through gradients.

        Raises:
            ValueError: JAX is not in 64-bit mode, where the sums would be rounded.
        """
        require_x64("QuantisedClassifier")
        u = quantise(scale(jnp.asarray(x, jnp.float64), self.exponents), self.input_format)
        for number, layer in enumerate(self.formats):
            weight = quantise(self.weights[number].astype(jnp.float64), layer.weight)
            bias = quantise(self.biases[number].astype(jnp.float64), layer.bias)
            sums = u @ weight.T + bias
            u = quantise(sums if number == len(self.formats) - 1 else jax.nn.relu(sums), layer.output)
        return u

    def encode_inputs(self, x: Float[Array, "*event n"] | np.ndarray) -> Int[Array, "*event n"]:
        """The integer codes of features, as the firmware receives them."""
        require_x64("QuantisedClassifier")
        return encode(scale(jnp.asarray(x, jnp.float64), self.exponents), self.input_format)

    def integers(self, x: Float[Array, "*event n"] | np.ndarray) -> Int[Array, "*event m"]:
        """The codes (int64) of the logits, by integer arithmetic alone after the inputs are encoded.

        `decode(model.integers(x), model.output_format)` equals `model(x)` exactly.

        Raises:
            ValueError: JAX is not in 64-bit mode, or a feature is not finite.
        """
        return self.propagate(self.encode_inputs(x))

    def propagate(self, codes: Int[Array, "*event n"]) -> Int[Array, "*event m"]:
        """The codes of the logits from the codes of the inputs."""
        for number, (weights, biases) in enumerate(self.codes()):
            layer = self.formats[number]
            source = self.input_format if number == 0 else self.formats[number - 1].output
            total = self.accumulator(number)
            shifts = total.f - source.f - layer.weight.f, total.f - layer.bias.f
            sums = integer_sums(jnp.asarray(codes), weights, biases, *shifts)
            if number < len(self.formats) - 1:
                sums = jnp.maximum(sums, 0)
            codes = requantise(sums, total, layer.output)
        return codes

    def codes(self) -> list[tuple[Int[Array, "m n"], Int[Array, " m"]]]:
        """The integer codes of weights and biases, layer by layer."""
        # constants of an enclosing jit are encoded once, here, so that only integers are left in its program
        with jax.ensure_compile_time_eval():
            return [
                (encode(weight, layer.weight), encode(bias, layer.bias))
                for weight, bias, layer in zip(self.weights, self.biases, self.formats, strict=True)
            ]

    def frozen(self) -> "QuantisedClassifier":
        """The same function with its weights rounded to the grid: what is exported."""
        rounded = [
            (decode(weight, layer.weight), decode(bias, layer.bias))
            for (weight, bias), layer in zip(self.codes(), self.formats, strict=True)
        ]
        weights, biases = zip(*rounded, strict=True)
        return QuantisedClassifier(weights, biases, self.exponents, self.input_format, self.formats)

    def emulator(self) -> "EmulatedClassifier":
        """The same logits from a program that serves every format of this shape."""
        exact, bits = self.frozen(), lambda f: jnp.array([f.k, f.i, f.f], jnp.int32)
        outputs = tuple(layer.output for layer in self.formats)
        return EmulatedClassifier(
            exact.weights,
            exact.biases,
            bits(self.input_format),
            tuple(bits(f) for f in outputs),
            self.exponents,
            tuple((f.rounding, f.overflow) for f in (self.input_format, *outputs)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Integer codes and formats as plain lists and texts, for JSON; `from_dict` reads them back."""
        layers = [
            {
                "weight_format": str(layer.weight),
                "weight_codes": np.asarray(weight).tolist(),
                "bias_format": str(layer.bias),
                "bias_codes": np.asarray(bias).tolist(),
                "output_format": str(layer.output),
            }
            for (weight, bias), layer in zip(self.codes(), self.formats, strict=True)
        ]
        features = {"input_format": str(self.input_format), "exponents": list(self.exponents)}
        return {"schema": SCHEMA, "version": VERSION, **features, "layers": layers}

    @staticmethod
    def from_dict(data: Any) -> "QuantisedClassifier":
        """The classifier written by `to_dict`, equal to it in every output.

        Raises:
            ValueError: another schema or version, missing or unknown keys, formats that are not understood or too wide,
                codes that are no integers, do not fit their format or form no rectangle.
        """
        check_keys(data, ("schema", "version", "input_format", "exponents", "layers"), "classifier")
        if data["schema"] != SCHEMA or data["version"] != VERSION:
            got = f"{data['schema']!r} version {data['version']!r}"
            msg = f"classifier: schema {SCHEMA!r} version {VERSION} wanted, got {got}"
            raise ValueError(msg)
        if not isinstance(data["exponents"], list) or not isinstance(data["layers"], list):
            msg = "classifier: exponents and layers must be lists"
            raise ValueError(msg)
        weights, biases, formats = [], [], []
        for number, layer in enumerate(data["layers"]):
            what = f"layer {number}"
            check_keys(layer, ("weight_format", "weight_codes", "bias_format", "bias_codes", "output_format"), what)
            weight, bias, output = (FixedPoint.parse(layer[f"{name}_format"]) for name in ("weight", "bias", "output"))
            formats.append(LayerFormat(weight, bias, output))
            weights.append(decode(read_codes(layer["weight_codes"], weight, 2, f"{what}: weight_codes"), weight))
            biases.append(decode(read_codes(layer["bias_codes"], bias, 1, f"{what}: bias_codes"), bias))
        input_format = FixedPoint.parse(data["input_format"])
        return QuantisedClassifier(
            tuple(weights), tuple(biases), tuple(data["exponents"]), input_format, tuple(formats)
        )


class EmulatedClassifier(AbstractStage):
    """A `QuantisedClassifier` whose formats are numbers, not part of the program; made by its `emulator`.

    Formats follow the ranges of a layout, and the compiler would spend seconds on every layout with a new one.

    Attributes:
        weights, biases: on their grids already.
        input_bits, output_bits: k, i, f of the inputs and of what each layer hands on.
        exponents: of the inputs.
        modes: rounding and overflow of the inputs and of each layer's output.
    """

    weights: tuple[Float[Array, "m n"], ...]
    biases: tuple[Float[Array, " m"], ...]
    input_bits: Int[Array, "3"]
    output_bits: tuple[Int[Array, "3"], ...]
    exponents: tuple[int, ...] = eqx.field(static=True)
    modes: tuple[tuple[Rounding, Overflow], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The logits (float64, on the grid of the output format) of events; straight-through gradients.

        Raises:
            ValueError: JAX is not in 64-bit mode, where the sums would be rounded.
        """
        require_x64("EmulatedClassifier")
        u = quantise_kif(scale(jnp.asarray(x, jnp.float64), self.exponents), *self.input_bits, *self.modes[0])
        layers = zip(self.weights, self.biases, self.output_bits, self.modes[1:], strict=True)
        for number, (weight, bias, bits, mode) in enumerate(layers):
            sums = u @ weight.T + bias
            u = quantise_kif(sums if number == len(self.weights) - 1 else jax.nn.relu(sums), *bits, *mode)
        return u


def quantised(
    classifier: DenseClassifier,
    *,
    input_format: FixedPoint,
    weight_bits: int,
    activation_bits: int,
    calibration_inputs: Float[Array, "event in"] | np.ndarray,
    output_bits: int | None = None,
) -> QuantisedClassifier:
    """A classifier in fixed point; the integer bits come from the ranges found on a calibration sample.

    Weights share one format a layer, activations too (unsigned after a ReLU). Biases lie on the grid of the sums, where
    they cost nothing, as far as 32 bits allow. All formats round to nearest and saturate.

    Args:
        classifier: the floating-point network.
        input_format: format of the scaled inputs $2^{-e_j} x_j$; values outside it saturate.
        weight_bits: bits of a weight with its sign, 2 to 32.
        activation_bits: bits of a hidden activation, 1 to 32.
        calibration_inputs: typical events, features in their units; rare larger activations saturate.
        output_bits: bits of a logit with its sign; `activation_bits` if left out.

    Raises:
        ValueError: a number of bits out of range, a calibration sample that does not fit the network, is not finite or
            lies by more than half outside the input range, JAX not in 64-bit mode, or sums beyond 53 bits.
    """
    require_x64("quantised")
    output_bits = activation_bits if output_bits is None else output_bits
    for name, bits, least in (
        ("weight", weight_bits, 2),
        ("activation", activation_bits, 1),
        ("output", output_bits, 2),
    ):
        if not isinstance(bits, int | np.integer) or not least <= bits <= MAX_BITS:
            msg = f"quantised: {name}_bits must be an integer from {least} to {MAX_BITS}, got {bits!r}"
            raise ValueError(msg)
    check_format(input_format, "input format")
    sample = check_inputs(calibration_inputs, classifier.inputs, "calibration sample")

    scaled = scale(jnp.asarray(sample, jnp.float64), classifier.exponents)
    u = quantise(scaled, input_format)
    # a few events beyond the range saturate as intended; most of them there is a wrong scale
    outside = np.asarray(jnp.mean(abs(scaled - u) > input_format.lsb, axis=0))
    if input_format.overflow == "SAT" and outside.max() > 0.5:
        j = int(outside.argmax())
        low, high = np.ldexp([input_format.minimum, input_format.maximum], classifier.exponents[j])
        msg = f"quantised: {outside[j]:.0%} of feature {j} lie outside its input range, {low:g} to {high:g} in its unit"
        raise ValueError(msg)
    source, formats = input_format, []
    weights = tuple(jnp.asarray(w, jnp.float64) for w in classifier.weights)
    biases = tuple(jnp.asarray(b, jnp.float64) for b in classifier.folded_biases())
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        last = number == len(weights) - 1
        weight_format = format_for(weight, bits=weight_bits, k=1)
        bias_format = format_for(bias, bits=MAX_BITS, k=1, finest=source.f + weight_format.f)
        sums = u @ quantise(weight, weight_format).T + quantise(bias, bias_format)
        values = sums if last else jax.nn.relu(sums)
        output = format_for(values, bits=output_bits if last else activation_bits, k=1 if last else 0)
        formats.append(LayerFormat(weight_format, bias_format, output))
        u, source = quantise(values, output), output
    return QuantisedClassifier(weights, biases, classifier.exponents, input_format, tuple(formats))


@jax.jit
def integer_sums(codes: Array, weights: Array, biases: Array, product_shift: int, bias_shift: int) -> Array:
    """The sums of a layer in units of their common grid."""
    return ((codes @ weights.T) << product_shift) + (biases << bias_shift)
