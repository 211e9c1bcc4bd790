r"""Networks whose fixed-point formats are trained: a number of bits for every weight and every activation.

A `Quantiser` holds the formats of an array of words, real numbers under training that are rounded on use
(`diffhep.trigger.primitive`, where their surrogate gradients are). Fractional bits are learned; integer bits follow the
range found on data (`calibrated`), or are learned too where words saturate. What has no bits left is the constant 0:
a weight, an activation or a whole input is pruned that way, and by nothing else.

The same function is trained, judged and turned into logic. **Rounding costs no hardware**: a `LearnedLinear` adds half
the least significant bit of its output to its bias, which is a constant, and the words are then cut off,
$\lfloor s + b + 2^{-f-1} \rfloor_f$ being the nearest word; the ReLU in between changes neither.

Linear maps act on the last axis, so a network is any function of them. A DeepSets network shares one map among its
particles, a convolution is one on the patches of an image, an edge convolution one on pairs of nodes; a sum is brought
back to few bits by a `Quantiser`. **Perceptrons are trained with events last** (`axis=0`, the channels first): slopes
of weights and of formats are sums over events, which then lie side by side, and a step takes a quarter less time.
"""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.modes import Overflow, Rounding, power_of_two
from diffhep.trigger.primitive import LN2, quantise_kif, whole

Granularity = Literal["weight", "channel", "layer"]
Axis = Literal[0, -1]
WEIGHT_RANGE = 16  # integer bits of a weight: never clipped, a constant takes the bits that its digits need


def rounded_bits(bits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The nearest whole number of bits, straight through."""
    return bits + jax.lax.stop_gradient(jnp.floor(bits + 0.5) - bits)


def along(x: Float[Array, "*shape"], axis: Axis) -> Float[Array, "..."]:
    """What belongs to channels, for channels on the last axis or on the first of two."""
    return x if axis == -1 else x[:, None]


class Quantiser(AbstractStage):
    """Words of learned formats: each element, or what broadcasts against it, has its own.

    Args:
        i: integer bits without the sign.
        f: fractional bits, of the same shape.
        k: 1 with a sign bit, 0 without.
        rounding: of `diffhep.trigger.modes`.
        overflow: likewise; SAT under training, and WRAP, which takes no logic, once the ranges are final.

    Raises:
        ValueError: shapes that differ, or k that is neither 0 nor 1.

    >>> Quantiser(jnp.array([1.0, 1.0]), jnp.array([2.0, -1.0]), k=0)(jnp.array([1.3, 1.3])).tolist()
    [1.25, 0.0]
    """

    i: Float[Array, "*shape"]
    f: Float[Array, "*shape"]
    k: int = eqx.field(static=True)
    rounding: Rounding = eqx.field(static=True, default="TRN")
    overflow: Overflow = eqx.field(static=True, default="SAT")

    def __check_init__(self):
        if jnp.shape(self.i) != jnp.shape(self.f) or self.k not in (0, 1):
            msg = f"quantiser: i and f of one shape and k of 0 or 1 wanted, got {jnp.shape(self.i)}, "
            msg += f"{jnp.shape(self.f)}, {self.k}"
            raise ValueError(msg)

    def __call__(
        self, x: Float[Array, "..."], *, axis: Axis = -1, key: PRNGKeyArray | None = None
    ) -> Float[Array, "..."]:
        """The words nearest to the values, as the modes say; with axis 0 the formats are those of the rows of x."""
        i, f = (along(bits, axis) for bits in (self.i, self.f))
        return quantise_kif(x, self.k, i, f, self.rounding, self.overflow)

    def bits(self) -> Float[Array, "*shape"]:
        """Bits of each word with its sign, at least 0; slope 1 in i and in f where there are any."""
        return jax.nn.relu(self.k + rounded_bits(self.i) + rounded_bits(self.f))

    def half(self) -> Float[Array, "*shape"]:
        r"""Half a least significant bit, $2^{-f-1}$; its slope in f is $-\ln 2$ of it."""
        # divisions, which are worked out once and not for every event: see `modes.scale_of`
        return 0.5 / power_of_two(whole(self.f), self.f.dtype) / (1 + LN2 * (self.f - jax.lax.stop_gradient(self.f)))

    def calibrated(self, x: Float[Array, "*event n"], *, margin: int = 0) -> "Quantiser":
        """The same fractional bits, and the fewest integer bits that hold every value of a sample.

        Values that all become 0 leave a word without bits.

        Args:
            x: the sample, before this quantiser.
            margin: integer bits more than the sample needs.
        """
        f = whole(self.f).astype(self.f.dtype)
        step = power_of_two(whole(self.f), x.dtype)
        codes = jnp.floor(x * step) if self.rounding == "TRN" else jnp.floor(x * step + 0.5)
        # what two's complement takes beside the sign: n bits reach up to 2**n - 1 and down to -2**n
        largest = jnp.where(codes < 0, -codes - 1, codes) if self.k else jnp.maximum(codes, 0)
        axes = tuple(range(x.ndim - self.f.ndim)) if self.f.shape == x.shape[x.ndim - self.f.ndim :] else None
        top = jnp.max(largest, axis=axes) if axes is not None else jnp.max(largest)
        nonzero = jnp.max(jnp.abs(codes), axis=axes) if axes is not None else jnp.max(jnp.abs(codes))
        bits = jnp.where(nonzero > 0, jnp.frexp(top)[1] + margin, -self.k)
        return eqx.tree_at(lambda q: q.i, self, jnp.broadcast_to(bits - f, self.f.shape).astype(self.f.dtype))

    def wrapping(self) -> "Quantiser":
        """The same formats without the logic that clips: values in their range stay what they are."""
        return Quantiser(self.i, self.f, self.k, self.rounding, "WRAP")

    def frozen(self) -> "Quantiser":
        """The formats as whole numbers, in double precision."""
        i, f = (np.asarray(whole(bits), np.float64) for bits in (self.i, self.f))
        return Quantiser(jnp.asarray(i), jnp.asarray(f), self.k, self.rounding, self.overflow)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON."""
        i, f = (np.asarray(whole(bits)).tolist() for bits in (self.i, self.f))
        return {"k": self.k, "i": i, "f": f, "rounding": self.rounding, "overflow": self.overflow}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Quantiser":
        """What `to_dict` wrote."""
        i, f = (jnp.asarray(data[name], jnp.float64) for name in ("i", "f"))
        return Quantiser(i, f, data["k"], data["rounding"], data["overflow"])


class LearnedLinear(AbstractStage):
    r"""A linear map of words to words, $q(\sigma(W u + b))$ with learned formats of W, b and the outputs.

    Args:
        weight: (out, in).
        bias: (out,).
        weight_f: fractional bits of the weights: (out, in), (out, 1) or (1, 1).
        bias_f: fractional bits of the biases: (out,) or (1,).
        output: of what is handed on; it cuts off, since half a step is added here.
        relu: whether $\sigma$ is the ReLU, or nothing.
    """

    weight: Float[Array, "m n"]
    bias: Float[Array, " m"]
    weight_f: Float[Array, "mm nn"]
    bias_f: Float[Array, " mm"]
    output: Quantiser
    relu: bool = eqx.field(static=True)

    @staticmethod
    def of(
        weight: Float[Array, "m n"],
        bias: Float[Array, " m"],
        *,
        relu: bool,
        granularity: Granularity = "weight",
        weight_f: float = 5.0,
        output_f: float = 4.0,
    ) -> "LearnedLinear":
        """A map with given weights in formats to begin with; calibrate its output before use."""
        m, n = weight.shape
        shape = {"weight": (m, n), "channel": (m, 1), "layer": (1, 1)}[granularity]
        words = (1,) if granularity == "layer" else (m,)
        bits = lambda shape, f: jnp.full(shape, f, weight.dtype)
        output = Quantiser(bits(words, 4.0), bits(words, output_f), k=0 if relu else 1)
        return LearnedLinear(weight, bias, bits(shape, weight_f), bits(words, weight_f), output, relu)

    def quantised_weight(self) -> Float[Array, "m n"]:
        """The weights on their grids."""
        return quantise_kif(self.weight, 1, WEIGHT_RANGE, self.weight_f)

    def quantised_bias(self) -> Float[Array, " m"]:
        """The biases on their grids, without the half step."""
        return quantise_kif(self.bias, 1, WEIGHT_RANGE, self.bias_f)

    def sums(self, u: Float[Array, "..."], *, axis: Axis = -1) -> Float[Array, "..."]:
        """What is quantised in the end."""
        weight, bias = self.quantised_weight(), along(self.quantised_bias() + self.output.half(), axis)
        sums = (u @ weight.T if axis == -1 else weight @ u) + bias
        return jax.nn.relu(sums) if self.relu else sums

    def __call__(
        self, u: Float[Array, "..."], *, axis: Axis = -1, key: PRNGKeyArray | None = None
    ) -> Float[Array, "..."]:
        """The words handed on: (..., n) to (..., m) or, with axis 0, (n, event) to (m, event)."""
        return self.output(self.sums(u, axis=axis), axis=axis)

    def frozen(self) -> "LearnedLinear":
        """The same function with every number on its grid, in double precision."""
        double = lambda array: jnp.asarray(np.asarray(array, np.float64))
        bits = lambda array: double(whole(array))
        return LearnedLinear(
            double(self.quantised_weight()),
            double(self.quantised_bias()),
            bits(self.weight_f),
            bits(self.bias_f),
            self.output.frozen(),
            self.relu,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON; the numbers on their grids are exact."""
        exact = self.frozen()
        arrays = {name: np.asarray(getattr(exact, name)).tolist() for name in ("weight", "bias", "weight_f", "bias_f")}
        return {**arrays, "relu": self.relu, "output": self.output.to_dict()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "LearnedLinear":
        """What `to_dict` wrote."""
        arrays = [jnp.asarray(data[name], jnp.float64) for name in ("weight", "bias", "weight_f", "bias_f")]
        return LearnedLinear(*arrays, Quantiser.from_dict(data["output"]), data["relu"])
