r"""Networks of learned lookup tables: every connection is a function of one word, whose results are added.

$$s_i = \sum_j q_{f_{ij}}\bigl(\varphi_{ij}(u_j)\bigr)$$

A sum of functions of one variable each, layer by layer, approximates what a perceptron does (Kolmogorov-Arnold
networks, Liu et al., arXiv:2404.19756), and it is what an FPGA is made of: a lookup table of six inputs holds one bit
of any function of a word of six bits, where a product with a constant takes an adder for every digit.

Under training $\varphi$ is piecewise linear between knots, whose heights are learned along with the fractional bits of
the results and the formats of the words; a table without bits is a pruned connection. The heights hold the bias too,
and words saturate. The function is the same in training and in hardware: the results for all codes of a word are worked
out first, rounded to their grids, and looked up.
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.checks import check_exponents, check_format, check_keys
from diffhep.trigger.classifier import scale
from diffhep.trigger.fixed_point import FixedPoint, quantise, require_x64
from diffhep.trigger.learned import WEIGHT_RANGE, Axis, Quantiser
from diffhep.trigger.modes import power_of_two
from diffhep.trigger.primitive import LN2, quantise_kif, whole

SCHEMA, VERSION = "diffhep trigger table classifier", 1
MOST_BITS = 7  # of a word: a bit more would take another three lookup tables for every bit of every result
KNOTS = 17  # of a function under training
REACH = 2  # integer bits of a hidden word to begin with
TAIL = 0.001  # share of a feature's values beyond either end of its knots
WASTED = 2.0  # reach of a word over the range of its values, from which on an offset is worth an adder


@jax.custom_jvp
def looked_up(
    results: Float[Array, "n code m"], slopes: Float[Array, "n code m"], u: Float[Array, "*event n"], f: Array, k: Array
) -> Float[Array, "*event n m"]:
    """The results that belong to words on their grids; `slopes` take the place of their derivatives in u.

    Args:
        results: for each code, the negative ones after the others as in two's complement.
        slopes: likewise.
        u: the words.
        f: fractional bits of the words.
        k: bits of the words before the point, with their sign.
    """
    rows = codes_of(u, f, k)
    return results.at[jnp.arange(u.shape[-1]), rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


@looked_up.defjvp
def _looked_up(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    results, slopes, u, f, k = primals
    d_results, _, d_u, *_ = tangents
    rows, channel = codes_of(u, f, k), jnp.arange(u.shape[-1])
    there = lambda x: x.at[channel, rows].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return there(results), there(d_results) + there(slopes) * d_u[..., None]


def codes_of(u: Float[Array, "*event n"], f: Array, k: Array) -> Int[Array, "*event n"]:
    """Two's complement codes of words that lie on their grids, read without a sign: wiring."""
    unsigned = quantise_kif(u, 0, k, f, "TRN", "WRAP")
    return (unsigned * power_of_two(whole(f), u.dtype)).astype(jnp.int32)


class LearnedTables(AbstractStage):
    """A layer of tables, one for every input and output, and the sums of their results.

    Args:
        heights: of the functions at their knots, (in, knot, out).
        f: fractional bits of the results, (in, out).
        source: formats of the words they are functions of, (in,), with a sign; at most `most_bits` each, of which the
            finest are left out where there are more.
        low: first knot of each input; not trained.
        spacing: of the knots of each input; not trained.
        most_bits: of a word.

    Raises:
        ValueError: shapes that do not follow from each other, or words without a sign.
    """

    heights: Float[Array, "n knot m"]
    f: Float[Array, "n m"]
    source: Quantiser
    low: Float[Array, " n"]
    spacing: Float[Array, " n"]
    most_bits: int = eqx.field(static=True, default=MOST_BITS)

    def __check_init__(self):
        n, knots, m = jnp.shape(self.heights)
        shapes = tuple(jnp.shape(x) for x in (self.f, self.source.i, self.low, self.spacing))
        if shapes != ((n, m), (n,), (n,), (n,)) or knots < 2:
            msg = f"learned tables: heights of shape {(n, knots, m)} do not go with shapes {shapes} of f, source, low "
            msg += "and spacing"
            raise ValueError(msg)
        if self.source.k != 1:
            msg = "learned tables: words with a sign wanted"
            raise ValueError(msg)

    @staticmethod
    def of(
        low: Float[np.ndarray, " n"],
        high: Float[np.ndarray, " n"],
        outputs: int,
        *,
        result_f: float = 4.0,
        word_f: float = 4.0,
        key: PRNGKeyArray,
    ) -> "LearnedTables":
        """Random functions of words between given ends: half of them linear, half of them steps.

        Args:
            low: lower ends of the words.
            high: upper ends.
            outputs: number of sums.
            result_f: fractional bits of the results.
            word_f: fractional bits of a word that reaches from -4 to 4; more or fewer for others.
            key: of the random numbers.
        """
        n, dtype = len(low), jnp.result_type(float)
        keys = jr.split(key, 3)
        place = jnp.linspace(-4.0, 4.0, KNOTS)[None, :, None]
        kinks = jr.uniform(keys[0], (n, 1, outputs), minval=-1.5, maxval=1.5)
        shape = jnp.where(jr.bernoulli(keys[1], 0.5, (n, 1, outputs)), jnp.tanh(place - kinks), place)
        heights = jr.normal(keys[2], (n, 1, outputs)) * shape / n**0.5
        # a format reaches to a power of two: the one that is next to the ends
        reach = np.ceil(np.log2(np.maximum(np.maximum(np.abs(low), np.abs(high)), 2.0**-8)) - 1e-9)
        source = Quantiser(jnp.asarray(reach, dtype), jnp.asarray(word_f + REACH - reach, dtype), k=1)
        spacing = np.where(high > low, high - low, 1.0) / (KNOTS - 1)
        bits = jnp.full((n, outputs), result_f, dtype)
        return LearnedTables(heights, bits, source, jnp.asarray(low, dtype), jnp.asarray(spacing, dtype))

    @property
    def word(self) -> Quantiser:
        """The formats of the words, within `most_bits`."""
        q = self.source
        # straight through: what is beyond has to find its way back
        beyond = jax.nn.relu(jax.lax.stop_gradient(q.f) - (self.most_bits - q.k - whole(q.i)))
        return Quantiser(q.i, q.f - beyond, q.k, q.rounding, q.overflow)

    def codes(self) -> Float[Array, "n code"]:
        """All values of the words, the negative ones after the others; beyond those of a word, repetitions."""
        word = self.word
        bits, step = jnp.maximum(word.k + whole(word.i) + whole(word.f), 0), power_of_two(-whole(word.f), word.f.dtype)
        count = power_of_two(bits, word.f.dtype)[:, None]
        row = jnp.mod(jnp.arange(2**self.most_bits, dtype=word.f.dtype), count)
        return jnp.where(2 * row < count, row, row - count) * step[:, None]

    def functions(self, values: Float[Array, "n value"]) -> Float[Array, "n value m"]:
        """What is tabulated, at given values of the inputs; constant beyond the ends."""
        low, spacing = (jax.lax.stop_gradient(x)[:, None] for x in (self.low, self.spacing))
        place = jnp.clip((values - low) / spacing, 0, self.heights.shape[1] - 1)
        hats = jax.nn.relu(1 - jnp.abs(place[..., None] - jnp.arange(self.heights.shape[1], dtype=values.dtype)))
        return hats @ self.heights

    def results(self) -> Float[Array, "n code m"]:
        """The tables: a result on its grid for every code; nothing of a table whose results are all the same."""
        table = quantise_kif(self.functions(self.codes()), 1, WEIGHT_RANGE, self.f[:, None])
        pruned = jnp.max(table, axis=1, keepdims=True) == jnp.min(table, axis=1, keepdims=True)
        # straight through, as for a word without bits
        return table - jax.lax.stop_gradient(jnp.where(pruned, table, 0.0))

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The sums; any leading shape."""
        word, codes = self.word, jax.lax.stop_gradient(self.codes())
        half = power_of_two(-whole(word.f) - 1, codes.dtype)[:, None]
        # half a step to either side, since a step is what a word moves by
        slopes = (self.functions(codes + half) - self.functions(codes - half)) / (2 * half[..., None])
        found = looked_up(self.results(), jax.lax.stop_gradient(slopes), word(x), word.f, word.i + word.k)
        return jnp.sum(found, axis=-2)

    def bits(self) -> Float[Array, "n m"]:
        """Bits of the results, with a sign where they need one; slopes in f and in the heights."""
        step = power_of_two(whole(self.f), self.f.dtype)
        table = jax.lax.stop_gradient(self.results())
        high, low = table.max(axis=1) * step, table.min(axis=1) * step
        whole_bits = jnp.ceil(jnp.log2(1 + jnp.maximum(jnp.maximum(high, -low - 1), 0.0))) + (low < 0)
        most = jnp.maximum(jnp.max(self.heights, axis=1), -jnp.min(self.heights, axis=1))
        moved = 1 + LN2 * (self.f - jax.lax.stop_gradient(self.f))
        slope = jnp.log2(1 + 2 * most * step * moved)
        return whole_bits + (slope - jax.lax.stop_gradient(slope))

    def frozen(self) -> "LearnedTables":
        """The same function with a knot for every code, each height on its grid, in double precision."""
        double = lambda x: np.asarray(x, np.float64)
        word = self.word.frozen()
        i, f = double(word.i), double(word.f)
        # by code from the smallest on, instead of two's complement
        taken = np.maximum(1 + i + f, 0).astype(int)
        count = 2 ** taken[:, None]
        order = np.minimum(np.arange(2**self.most_bits), count - 1) - count // 2
        table = np.take_along_axis(double(self.results()), np.mod(order, count)[..., None], axis=1)
        low = np.where(taken > 0, -np.exp2(i), 0.0)
        table, bits, low, step = (jnp.asarray(x) for x in (table, double(whole(self.f)), low, np.exp2(-f)))
        return LearnedTables(table, bits, word, low, step, self.most_bits)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON; the numbers on their grids are exact."""
        exact = self.frozen()
        bits = max(1, int(np.asarray(exact.source.bits()).max()))
        arrays = {"results": np.asarray(exact.heights)[:, : 2**bits].tolist(), "f": np.asarray(exact.f).tolist()}
        return {**arrays, "words": exact.source.to_dict(), "bits": bits}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "LearnedTables":
        """What `to_dict` wrote."""
        heights, f = (jnp.asarray(data[name], jnp.float64) for name in ("results", "f"))
        source = Quantiser.from_dict(data["words"])
        low = jnp.where(source.bits() > 0, -power_of_two(whole(source.i), jnp.float64), 0.0)
        return LearnedTables(heights, f, source, low, power_of_two(-whole(source.f), jnp.float64), data["bits"])


class TableClassifier(AbstractStage):
    """A classifier of learned tables: features in, logits out, both on grids.

    Args:
        layers: of tables; the last one's sums are the logits.
        exponents: $e_j$ of the features: input j is $2^{-e_j} x_j$.
        offsets: what is subtracted from the words that arrive, on their grid; 0 costs nothing.
        input_format: of the words that arrive; it saturates.

    Raises:
        ValueError: numbers of channels that do not follow from each other, or an input format that is too wide.
    """

    layers: tuple[LearnedTables, ...]
    exponents: tuple[int, ...] = eqx.field(static=True)
    offsets: tuple[float, ...] = eqx.field(static=True)
    input_format: FixedPoint = eqx.field(static=True)

    def __check_init__(self):
        check_format(self.input_format, "input format")
        check_exponents(self.exponents, inputs=self.inputs)
        if len(self.offsets) != self.inputs or any(x % self.input_format.lsb for x in self.offsets):
            msg = (
                f"table classifier: {self.inputs} offsets on the grid of {self.input_format} wanted, got {self.offsets}"
            )
            raise ValueError(msg)
        shapes = [layer.f.shape for layer in self.layers]
        if any(a[1] != b[0] for a, b in itertools.pairwise(shapes)):
            msg = f"table classifier: layers of shapes {shapes} do not follow from each other"
            raise ValueError(msg)

    @staticmethod
    def init(
        words: Float[np.ndarray, "event n"] | Float[Array, "event n"],
        sizes: tuple[int, ...],
        *,
        exponents: tuple[int, ...],
        input_format: FixedPoint,
        result_f: float = 4.0,
        word_f: float = 4.0,
        key: PRNGKeyArray,
    ) -> "TableClassifier":
        """Random functions between the ends of a sample.

        Args:
            words: the sample, as it arrives.
            sizes: widths of the hidden layers, and number of logits.
            exponents: of the features.
            input_format: of the words that arrive.
            result_f: fractional bits of the results to begin with.
            word_f: fractional bits of a word between -4 and 4 to begin with.
            key: of the random numbers.
        """
        values = np.asarray(words, np.float64)
        ends = np.quantile(values, [TAIL, 1 - TAIL], axis=0)
        # of what is rare, such as a flag, all that there is
        ends = np.where(ends[0] < ends[1], ends, [values.min(axis=0), values.max(axis=0)])
        # words are symmetric: far from 0 most of their codes would be those of no value
        far = np.abs(ends).max(axis=0) > WASTED * (ends[1] - ends[0])
        offsets = np.where(far, np.round(ends.mean(axis=0) / input_format.lsb) * input_format.lsb, 0.0)
        ends, layers = ends - offsets, []
        for size, k in zip(sizes, jr.split(key, len(sizes)), strict=True):
            layers.append(LearnedTables.of(*ends, size, result_f=result_f, word_f=word_f, key=k))
            ends = np.outer([-(2.0**REACH), 2.0**REACH], np.ones(size))
        return TableClassifier(tuple(layers), exponents, tuple(offsets.tolist()), input_format)

    @property
    def inputs(self) -> int:
        """Number of features."""
        return self.layers[0].f.shape[0]

    @property
    def weights(self) -> int:
        """Number of tables that are left."""
        return int(sum(np.count_nonzero(np.asarray(layer.bits())) for layer in self.layers))

    def words(self, x: Float[Array, "*event n"] | np.ndarray) -> Float[Array, "*event n"]:
        """Features as the words that arrive, in the units of the input format."""
        return quantise(scale(jnp.asarray(x), self.exponents), self.input_format)

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The logits of events, on their grids; any leading shape."""
        return self.logits(self.words(x))

    def logits(self, words: Float[Array, "..."], *, axis: Axis = -1) -> Float[Array, "..."]:
        """The logits of words that have arrived: the function that becomes logic; as for `LearnedClassifier`."""
        u = words if axis == -1 else words.T
        u = u - jnp.asarray(self.offsets, u.dtype) if any(self.offsets) else u
        for layer in self.layers:
            u = layer(u)
        return u if axis == -1 else u.T

    def calibrated(self, words: Float[Array, "event n"], *, margin: int = 0) -> "TableClassifier":
        """Itself: words saturate, with learned ranges."""
        return self

    def wrapping(self) -> "TableClassifier":
        """Itself: a table ends with its word."""
        return self

    def frozen(self) -> "TableClassifier":
        """The same function with every number on its grid, in double precision: what is exported.

        Raises:
            ValueError: JAX is not in 64-bit mode.
        """
        require_x64("TableClassifier")
        layers = tuple(layer.frozen() for layer in self.layers)
        return TableClassifier(layers, self.exponents, self.offsets, self.input_format)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and texts, for JSON; `from_dict` reads them back."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "input_format": str(self.input_format),
            "exponents": list(self.exponents),
            "offsets": list(self.offsets),
            "layers": [layer.to_dict() for layer in self.layers],
        }

    @staticmethod
    def from_dict(data: Any) -> "TableClassifier":
        """The frozen classifier that `to_dict` wrote.

        Raises:
            ValueError: another schema or version, or missing keys.
        """
        check_keys(data, ("schema", "version", "input_format", "exponents", "offsets", "layers"), "table classifier")
        if (data["schema"], data["version"]) != (SCHEMA, VERSION):
            msg = f"table classifier: schema {SCHEMA!r} version {VERSION} wanted, got {data['schema']!r} "
            msg += f"version {data['version']!r}"
            raise ValueError(msg)
        try:
            layers = tuple(LearnedTables.from_dict(layer) for layer in data["layers"])
        except (KeyError, TypeError) as error:
            msg = f"table classifier: layers not understood: {type(error).__name__} {error}"
            raise ValueError(msg) from None
        features = tuple(data["exponents"]), tuple(data["offsets"])
        return TableClassifier(layers, *features, FixedPoint.parse(data["input_format"]))
