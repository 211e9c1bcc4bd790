r"""What logic takes, as a differentiable function of the bits: EBOPs, lookup tables, levels and clock cycles.

A `Load` is one linear map with the words it meets, which is all that the models look at. Their values are those of the
rounded numbers of bits; their slopes in the numbers of bits are surrogates, straight through the rounding.

**EBOPs** (Sun et al., arXiv:2405.00645) count $\sum b_u b_w$ over products, with the bits of a weight that its non-zero
bits enclose.

**Lookup tables.** A product with a constant is a sum of shifted words, one for each non-zero digit of the weight in
canonical signed digits (Reitwiesner 1960), so what a layer takes goes with the bits $\sum d_w b_u$ that are added, but
one word of each sum, and with $A = \sum_n (d_n - 1)\,B_n$, where $d_n$ are the digits and $B_n$ the width of the sum of
output n. A word of one bit times a constant is wiring and counts as one digit. Adders that outputs share make it a
power of these, whose constants were fitted to yosys on random networks (`diffhep.trigger.calibration`); the ReLU,
constants and words that saturate take logic in proportion to their bits. Only what reaches an output counts.
"""

import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffhep.trigger.learned import LearnedLinear, Quantiser, rounded_bits
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learned_tables import TableClassifier
from diffhep.trigger.modes import power_of_two
from diffhep.trigger.primitive import LN2, whole
from diffhep.trigger.table_resources import TableModel, table_model

FILE = "lut_model.json"
FIELDS = ("widths", "powers", "parts", "levels")


class Load(NamedTuple):
    """A linear map and the words it meets.

    Attributes:
        source: formats of its inputs, which broadcast to (in,).
        linear: the map.
        copies: how often it stands in the logic, for example once a particle.
    """

    source: Quantiser
    linear: LearnedLinear
    copies: int = 1


Network = LearnedClassifier | Sequence[Load]


def loads(network: LearnedClassifier) -> list[Load]:
    """The linear maps of a network, in order."""
    sources = [network.input, *(layer.output for layer in network.layers[:-1])]
    return [Load(source, layer) for source, layer in zip(sources, network.layers, strict=True)]


def signed_digits(codes: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Non-zero digits of integers in canonical signed digits: the ones in which n and 3n differ.

    >>> signed_digits(jnp.array([0, 1, 7, -11])).tolist()  # 7 = 8 - 1, -11 = -8 - 4 + 1
    [0, 1, 2, 3]
    """
    n = jnp.abs(codes)
    return jax.lax.population_count(n ^ (3 * n))


def digit_slope(log_size: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\partial d/\partial f$ of the mean number of digits of weights around $w$, at $x = \log_2 |w| + f$.

    Averaged over $\log_2 |w|$ the digits d(x) are the same function for every weight: none where |w| rounds to 0, the
    first one around x = -1, then one for every three bits.
    """
    return jnp.where(log_size < -1.5, 0.0, jnp.where(log_size < -0.5, 1.0, 1.0 / 3.0))


class Weights(NamedTuple):
    """The weights of a map as logic sees them.

    Attributes:
        digits: non-zero signed digits of each; slope in its fractional bits.
        enclosed: bits between its first and its last one.
        last: fractional bits of the last non-zero bit.
        value: on its grid.
        adds: whether any of its digits is positive.
    """

    digits: Float[Array, "m n"]
    enclosed: Float[Array, "m n"]
    last: Float[Array, "m n"]
    value: Float[Array, "m n"]
    adds: Bool[Array, "m n"]


def weights_of(linear: LearnedLinear) -> Weights:
    """The weights of a map as logic sees them."""
    f = jnp.broadcast_to(linear.weight_f, linear.weight.shape)
    value = jax.lax.stop_gradient(linear.quantised_weight())
    codes = (value * power_of_two(whole(f), value.dtype)).astype(jnp.int32)
    size = jnp.log2(jnp.maximum(jnp.abs(jax.lax.stop_gradient(linear.weight)), 1e-30)) + f
    moved = f - jax.lax.stop_gradient(f)
    digits = signed_digits(codes) + digit_slope(jax.lax.stop_gradient(size)) * moved
    zeros = jax.lax.population_count((codes & -codes) - 1)
    length = 32 - jax.lax.clz(jnp.abs(codes))
    present = codes != 0
    enclosed = jnp.where(present, length - zeros + moved, 0.0)
    last = jnp.where(present, rounded_bits(f) - zeros, -99.0)
    # a digit of n is where n and 3n differ, positive where 3n has the bit
    n = jnp.abs(codes)
    adds = jnp.where(codes > 0, 3 * n & ~n, n & ~(3 * n)) != 0
    digits, enclosed, last = (x.astype(value.dtype) for x in (digits, enclosed, last))
    return Weights(digits, enclosed, last, value, adds)


def ones_of(linear: LearnedLinear, finest: Float[Array, " m"], width: Float[Array, " m"]) -> Float[Array, " m"]:
    """Bits that are set in the constant added to each sum, within its width and above its finest step.

    Half of them on average, which is the slope in the width.
    """
    constant = jax.lax.stop_gradient(linear.quantised_bias() + linear.output.half())
    # what is finer than the sum is wiring; beyond 30 bits there is no sum that a trigger could afford
    shift = jnp.clip(whole(jax.lax.stop_gradient(finest)), -30, 30)
    codes = jnp.floor(jnp.clip(constant * power_of_two(shift, constant.dtype), -(2.0**30), 2.0**30)).astype(jnp.int32)
    there = jnp.left_shift(1, jnp.clip(jnp.ceil(jax.lax.stop_gradient(width)), 0, 30).astype(jnp.int32)) - 1
    return jax.lax.population_count(codes & there) + 0.5 * (width - jax.lax.stop_gradient(width))


class Live(NamedTuple):
    """What of a map takes logic.

    Attributes:
        inputs: those that are not constant.
        outputs: those that reach the end of the chain.
    """

    inputs: Bool[Array, " n"]
    outputs: Bool[Array, " m"]


def alive(chain: Sequence[Load]) -> list[Live]:
    """What of each map of a chain takes logic: constants come out of it before, what nobody reads is left out."""
    shown = [jnp.broadcast_to(load.source.bits() > 0, load.linear.weight.shape[1:]) for load in chain]
    nonzero = [load.linear.quantised_weight() != 0 for load in chain]
    varies = [shown[0]]
    for some, there in zip(nonzero[:-1], shown[1:], strict=True):
        varies.append((some & varies[-1]).any(axis=1) & there)
    last = chain[-1].linear
    read = [jnp.broadcast_to(last.output.bits() > 0, last.bias.shape)]
    for some, there in zip(nonzero[:0:-1], shown[:0:-1], strict=True):
        read.insert(0, (some & read[0][:, None]).any(axis=0) & there)
    return [Live(*masks) for masks in zip(varies, read, strict=True)]


def ebops(network: Network) -> Float[Array, ""]:
    """Effective bit operations of all products; slope 1 in the bits of a weight times those of its input."""
    total = jnp.zeros(())
    for load in loads(network) if isinstance(network, LearnedClassifier) else network:
        total += load.copies * jnp.sum(weights_of(load.linear).enclosed * load.source.bits())
    return total


class Features(NamedTuple):
    """What the models look at, summed over what is alive of one map.

    Attributes:
        products: bits that are added, all but one word of each sum [bit].
        adders: A of the module [bit].
        bits: that are added, all [bit].
        digits, outputs, inputs: how many.
        relu: bits that a ReLU hands on.
        clipped: bits of words that saturate.
        clipped_sums: bits of the sums before them.
        clipped_inputs: bits of inputs that saturate.
        ones: in the constants that are added.
        negated: bits of sums in which every digit is negative.
        dropped: bits that are cut off of sums of several digits.
        depth: log2 of the most digits of an output, and 1.
        saturates: 1 if the words saturate.
        copies: how often the map stands in the logic.
    """

    products: Array
    adders: Array
    bits: Array
    digits: Array
    outputs: Array
    inputs: Array
    relu: Array
    clipped: Array
    clipped_sums: Array
    clipped_inputs: Array
    ones: Array
    negated: Array
    dropped: Array
    depth: Array
    saturates: Array
    copies: Array


def features(load: Load, live: Live, *, first: bool) -> Features:
    """The features of one map, given what of it counts; `first` if its inputs are quantised before it."""
    linear, w = load.linear, weights_of(load.linear)
    m, n = linear.weight.shape
    source, dtype = load.source, linear.weight.dtype
    b, f = (jnp.broadcast_to(x, (n,)) for x in (source.bits(), rounded_bits(source.f)))
    words = jnp.broadcast_to(linear.output.bits(), (m,))
    counts = live.outputs[:, None] & live.inputs
    used = (w.value != 0) & counts
    digits = jnp.where(counts, w.digits, 0.0)
    most = jnp.max(jnp.sum(digits, axis=1))
    several = jnp.clip(b - 1, 0.0, 1.0)
    digits = several * digits + (1 - several) * jnp.minimum(digits, 1.0)
    each, added = jnp.sum(digits, axis=1), jnp.sum(digits * b, axis=1)
    count = used.any(axis=1)
    # the largest sum in units of the finest step, and the sign
    reaches = power_of_two(whole(source.i), dtype) * (1 + LN2 * (source.i - jax.lax.stop_gradient(source.i)))
    largest = jnp.where(b > 0, reaches, 0.0)
    ends = jnp.stack([w.value * largest, -source.k * w.value * largest])
    reach = jnp.maximum(ends.max(axis=0).sum(axis=1), -ends.min(axis=0).sum(axis=1)) + jnp.abs(linear.bias)
    finest = jnp.max(jnp.where(used, w.last + f, -99.0), axis=1)
    width = jax.nn.relu(jnp.where(count, jnp.log2(jnp.maximum(reach, 1e-9)) + finest + 1, 0.0))
    saturates = linear.output.overflow != "WRAP"
    finer = finest - jnp.broadcast_to(rounded_bits(linear.output.f), (m,))
    varying = words - jax.nn.relu(-finer)
    # a sum within the range is not clipped; the sign is gone after a ReLU
    clips = jnp.clip(width - linear.relu - finer - words, 0.0, 1.0)
    if not linear.relu and not saturates:
        # high bits that are wrapped away are not computed
        width = jnp.where(count, jnp.clip(words + finer, 0.0, width), 0.0)
    total = lambda x: jnp.sum(jnp.where(count, x, 0.0))
    nothing = jnp.zeros((), dtype)
    return Features(
        products=total(added * (1 - 1 / jnp.maximum(each, 1.0))),
        adders=total(jax.nn.relu(each - 1) * width),
        bits=jnp.sum(added),
        digits=jnp.sum(digits),
        outputs=jnp.sum(count).astype(dtype),
        inputs=jnp.sum(used.any(axis=0)).astype(dtype),
        relu=total(jax.nn.relu(varying)) if linear.relu else nothing,
        clipped=total(clips * words) if saturates else nothing,
        clipped_sums=total(clips * width) if saturates else nothing,
        clipped_inputs=jnp.sum(jnp.where(used.any(axis=0), b, 0.0)) if first and source.overflow != "WRAP" else nothing,
        ones=total(ones_of(linear, finest, width)),
        negated=total(jnp.where(jnp.any(used & w.adds, axis=1), 0.0, width)),
        dropped=total(jnp.clip(each - 1, 0.0, 1.0) * jnp.clip(finer, 0.0, width)),
        depth=jnp.log2(1 + most),
        saturates=jnp.full((), float(saturates), dtype),
        copies=jnp.full((), float(load.copies), dtype),
    )


def features_of(network: Network) -> list[Features]:
    """The features of the maps of a network, in order."""
    chain = loads(network) if isinstance(network, LearnedClassifier) else list(network)
    return [
        features(load, live, first=number == 0)
        for number, (load, live) in enumerate(zip(chain, alive(chain), strict=True))
    ]


class LutModel(eqx.Module):
    """The fitted constants.

    Attributes:
        widths: factors of the bits that are added and of A.
        powers: exponents: of the weighted sum of both (over 1), of the outputs, the inputs, the digits an output, the
            bits a digit.
        parts: lookup tables a bit of: ReLU, word that saturates, its sum, input that saturates, constant, negation,
            what is cut off.
        levels: of adders: for each map, for log2 of its digits, for a word that saturates.
        tables: those of networks of tables; None where they are not asked for.
    """

    widths: Float[Array, "2"]
    powers: Float[Array, "5"]
    parts: Float[Array, "7"]
    levels: Float[Array, "3"]
    tables: TableModel | None = None

    def luts(self, network: Network | TableClassifier) -> Float[Array, ""]:
        """Lookup tables (LUT1 to LUT6 and inverters of a Xilinx UltraScale+) that a network takes, by yosys, no DSP.

        Args:
            network: a classifier, or the maps of one, in order.
        """
        if isinstance(network, TableClassifier):
            return self.of_tables().luts(network)
        return sum((self.luts_of(found) for found in features_of(network)), jnp.zeros(()))

    def depth(self, network: Network | TableClassifier) -> Float[Array, ""]:
        """Levels of adders between input and output."""
        if isinstance(network, TableClassifier):
            return self.of_tables().depth(network)
        return sum((self.levels_of(found) for found in features_of(network)), jnp.zeros(()))

    def of_tables(self) -> TableModel:
        """The model of networks of tables; a ValueError without one."""
        if self.tables is None:
            msg = "this model of lookup tables was not fitted to networks of tables"
            raise ValueError(msg)
        return self.tables

    def cycles(self, network: Network | TableClassifier, *, levels_per_stage: int) -> int:
        """Clock cycles from input to output, with a register at the input and one after so many levels."""
        return math.ceil(round(float(self.depth(network))) / levels_per_stage) + 1

    def luts_of(self, x: Features) -> Float[Array, "*map"]:
        """Lookup tables of one map, or of several at once."""
        size = self.widths[0] * x.products + self.widths[1] * x.adders
        some = lambda count: jnp.log(jnp.maximum(count, 1.0))
        each = x.digits / jnp.maximum(x.outputs, 1.0), x.bits / jnp.maximum(x.digits, 1.0)
        logs = jnp.log1p(size), some(x.outputs), some(x.inputs), some(each[0]), some(each[1])
        shared = sum(power * value for power, value in zip(self.powers, logs, strict=True))
        parts = (x.relu, x.clipped, x.clipped_sums, x.clipped_inputs, x.ones, x.negated, x.dropped)
        rest = sum(factor * bits for factor, bits in zip(self.parts, parts, strict=True))
        return x.copies * jnp.maximum(size * jnp.exp(shared) + rest, 0.0)

    def levels_of(self, x: Features) -> Float[Array, "*map"]:
        """Levels of one map, or of several at once; none if nothing of it is left."""
        some = jnp.minimum(x.outputs, 1.0)
        return some * (self.levels[0] + self.levels[1] * x.depth + self.levels[2] * x.saturates)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in FIELDS}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "LutModel":
        """What `to_dict` wrote."""
        return LutModel(*(jnp.asarray(data[name], float) for name in FIELDS))


def calibration_record() -> dict[str, Any]:
    """The shipped fit: constants, the networks they were fitted to, and how well they do on others."""
    return json.loads(importlib.resources.files("diffhep.trigger").joinpath(FILE).read_text(encoding="utf-8"))


def lut_model() -> LutModel:
    """The model with its shipped constants.

    >>> lut_model().widths.shape
    (2,)
    """
    model = LutModel.from_dict(calibration_record()["model"])
    return LutModel(model.widths, model.powers, model.parts, model.levels, table_model())
