r"""Fixed-point numbers, exactly as an FPGA holds them: the arithmetic of Xilinx `ap_fixed` in JAX.

A format is (k, i, f): sign bit, integer bits *without* the sign, fractional bits. The word has k + i + f bits, its
least significant bit is worth $2^{-f}$, and the values run from $-k\,2^i$ to $2^i - 2^{-f}$. i and f may be negative.
In the notation of the vendor, `ap_fixed<W, I>`, W = k + i + f and I = k + i count the sign bit.

Three views of one number, which tests prove to be equal to each other and to the vendor's C++ headers:

- `quantise`: floating point in, floating point *on the grid* out, with a straight-through gradient for training;
- `encode`, `decode`: to and from the integer code, value = code $\cdot 2^{-f}$;
- `requantise`: from one format to another in integers alone.

`quantise_kif` takes the format as arrays that broadcast against the values (per tensor, per channel, per weight); a
`FixedPoint` is one such format, written down.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

Rounding = Literal["RND", "TRN"]
Overflow = Literal["SAT", "WRAP"]

MAX_WIDTH = 53  # a float64 holds every code of a wider word only approximately
MAX_EXPONENT = 256  # |i| and |f|: far from the ends of the float64 exponents, so that no scaling overflows
MAX_POINT = 31  # |i| and |f| of an exported word: where hls4ml still finds the type of a constant

PATTERN = re.compile(
    r"\s*ap_(?P<unsigned>u?)fixed\s*<\s*(?P<width>\d+)\s*,\s*(?P<integer>[+-]?\d+)\s*"
    r"(?:,\s*AP_(?P<rounding>\w+)\s*(?:,\s*AP_(?P<overflow>\w+)\s*(?:,\s*0\s*)?)?)?>\s*"
)


@dataclass(frozen=True)
class FixedPoint:
    r"""A fixed-point format.

    Args:
        k: 1 with a sign bit (two's complement), 0 without.
        i: integer bits without the sign; the values lie below $2^i$. May be negative.
        f: fractional bits; the grid is $2^{-f}$. May be negative.
        rounding: RND to nearest, ties upwards (`AP_RND`); TRN downwards (`AP_TRN`).
        overflow: SAT clips to the range (`AP_SAT`); WRAP drops the high bits (`AP_WRAP`).

    Raises:
        ValueError: a word of less than 1 or more than 53 bits, or an unknown mode.

    >>> format = FixedPoint(k=1, i=3, f=4)
    >>> str(format), format.minimum, format.maximum
    ('ap_fixed<8,4,AP_RND,AP_SAT>', -8.0, 7.9375)
    """

    k: int
    i: int
    f: int
    rounding: Rounding = "RND"
    overflow: Overflow = "SAT"

    def __post_init__(self):
        for name in ("k", "i", "f"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool):
                msg = f"fixed-point format: {name} must be an integer, got {value!r}"
                raise ValueError(msg)
            # plain integers, so that equal formats print and hash alike
            object.__setattr__(self, name, int(value))
        if self.k not in (0, 1):
            msg = f"fixed-point format: k must be 0 (unsigned) or 1 (signed), got {self.k}"
            raise ValueError(msg)
        if not 1 <= self.width <= MAX_WIDTH or max(abs(self.i), abs(self.f)) > MAX_EXPONENT:
            msg = (
                f"fixed-point format (k, i, f) = ({self.k}, {self.i}, {self.f}) has {self.width} bits, "
                f"wanted 1 to {MAX_WIDTH} with |i| and |f| at most {MAX_EXPONENT}"
            )
            raise ValueError(msg)
        check_modes(self.rounding, self.overflow)

    @property
    def width(self) -> int:
        """Bits of the word, with the sign bit."""
        return self.k + self.i + self.f

    @property
    def lsb(self) -> float:
        """Value of the least significant bit, the distance of two neighbours."""
        return 2.0**-self.f

    @property
    def codes(self) -> tuple[int, int]:
        """Smallest and largest integer code."""
        top = 1 << (self.i + self.f)
        return -self.k * top, top - 1

    @property
    def minimum(self) -> float:
        """Smallest value."""
        return self.codes[0] * self.lsb

    @property
    def maximum(self) -> float:
        """Largest value."""
        return self.codes[1] * self.lsb

    def __str__(self) -> str:
        unsigned = "" if self.k else "u"
        return f"ap_{unsigned}fixed<{self.width},{self.k + self.i},AP_{self.rounding},AP_{self.overflow}>"

    @staticmethod
    def parse(text: str) -> "FixedPoint":
        """The format written as `ap_fixed<W,I,AP_RND,AP_SAT>` or `ap_ufixed<...>`.

        Modes that are left out are the vendor's defaults, AP_TRN and AP_WRAP.

        Raises:
            ValueError: the text is no such type, or its mode or width is not supported.

        >>> FixedPoint.parse("ap_ufixed<6,2>")
        FixedPoint(k=0, i=2, f=4, rounding='TRN', overflow='WRAP')
        """
        match = PATTERN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            msg = f"fixed-point type {text!r} not understood, wanted for example 'ap_fixed<8,4,AP_RND,AP_SAT>'"
            raise ValueError(msg)
        k = 0 if match["unsigned"] else 1
        width, integer = int(match["width"]), int(match["integer"])
        rounding, overflow = match["rounding"] or "TRN", match["overflow"] or "WRAP"
        return FixedPoint(k, integer - k, width - integer, rounding, overflow)  # type: ignore[arg-type]


def check_modes(rounding: str, overflow: str) -> None:
    """A ValueError that names an unknown rounding or overflow mode."""
    if rounding not in ("RND", "TRN"):
        msg = f"fixed-point format: rounding must be RND or TRN, got {rounding!r}"
        raise ValueError(msg)
    if overflow not in ("SAT", "WRAP"):
        msg = f"fixed-point format: overflow must be SAT or WRAP, got {overflow!r}"
        raise ValueError(msg)


def power_of_two(
    exponent: Int[Array, "*shape"] | np.ndarray | int, dtype: jax.typing.DTypeLike
) -> Float[Array, "*shape"]:
    """2**exponent, exact, put together from its bits; exponents of normal numbers only.

    Neither `jnp.exp2` (wrong in the last bit at integers on a CPU) nor `jnp.ldexp` (which calls `pow`, and so rests on
    the accuracy of each backend) promises this.

    >>> float(power_of_two(-3, jnp.float32))
    0.125
    """
    info = jnp.finfo(dtype)
    integers = jnp.int64 if info.bits == 64 else jnp.int32
    bias = jnp.asarray(1 - info.minexp, integers)
    bits = (jnp.asarray(exponent, integers) + bias) << jnp.asarray(info.nmant, integers)
    return lax.bitcast_convert_type(bits, dtype)


@partial(jax.jit, static_argnums=(4, 5))
def float_codes(
    x: Array, k: Array, i: Array, f: Array, rounding: Rounding, overflow: Overflow
) -> tuple[Array, Array, Array]:
    """The codes as floating-point integers, their values, and where the value lay inside the range."""
    scaled = x * power_of_two(f, x.dtype)
    codes = jnp.floor(scaled)
    if rounding == "RND":
        # not floor(scaled + 1/2): the sum itself rounds, just below 1/2 and above half the largest odd integer
        codes = codes + (scaled - codes >= 0.5)
    top = power_of_two(i + f, x.dtype)
    low, high = -k * top, top - 1
    inside = (low <= codes) & (codes <= high)
    if overflow == "SAT":
        codes = jnp.clip(codes, low, high)
    else:
        # every finite double beyond the integers is a multiple of the period, as is what overflowed while scaling
        codes = jnp.where(jnp.isinf(codes), 0.0, codes)
        period = power_of_two(k + i + f, x.dtype)
        codes = codes - period * jnp.floor(codes / period)
        codes = jnp.where(codes > high, codes - period, codes)
    absent = k + i + f <= 0
    codes = jnp.where(absent, 0.0, codes)
    return codes, codes * power_of_two(-f, x.dtype), inside & ~absent


@partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def quantise_kif(
    x: Float[Array, "..."],
    k: Int[Array, "..."],
    i: Int[Array, "..."],
    f: Int[Array, "..."],
    rounding: Rounding = "RND",
    overflow: Overflow = "SAT",
) -> Float[Array, "..."]:
    r"""The nearest value on the grid of the format (k, i, f), whose arrays broadcast against x.

    RND: $\lfloor x\,2^f + 1/2 \rfloor$, TRN: $\lfloor x\,2^f \rfloor$; clipped to $[-k\,2^{i+f}, 2^{i+f} - 1]$ (SAT) or
    reduced modulo $2^{k+i+f}$ (WRAP); times $2^{-f}$. A format of no bits, k + i + f <= 0, is the constant 0. NaN stays
    NaN. Exact if the word fits the significand of x (24 bits in float32, 53 in float64); subnormal x may count as 0.

    The gradient is straight-through: 1 where the value is kept, 0 where SAT clips it or the word has no bits; WRAP
    passes 1 everywhere, its slope almost everywhere.

    >>> quantise_kif(jnp.array([0.3, 0.3, 9.0]), 1, jnp.array([3, 3, 3]), jnp.array([1, 4, 4])).tolist()
    [0.5, 0.3125, 7.9375]
    """
    x, k, i, f = broadcast(x, k, i, f)
    return float_codes(x, k, i, f, rounding, overflow)[1]


@quantise_kif.defjvp
def quantise_jvp(rounding: Rounding, overflow: Overflow, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Straight-through: the tangent passes where nothing was clipped."""
    x, k, i, f = broadcast(*primals)
    _, values, inside = float_codes(x, k, i, f, rounding, overflow)
    passes = inside if overflow == "SAT" else k + i + f > 0
    return values, jnp.where(passes, tangents[0], 0.0)


def broadcast(x: Array, k: Array | int, i: Array | int, f: Array | int) -> tuple[Array, Array, Array, Array]:
    """Arrays of the value's floating type and of its integers."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        msg = f"quantise: floating-point values wanted, got {x.dtype}"
        raise ValueError(msg)
    return x, jnp.asarray(k, jnp.int32), jnp.asarray(i, jnp.int32), jnp.asarray(f, jnp.int32)


def quantise(x: Float[Array, "*shape"] | np.ndarray | float, format: FixedPoint) -> Float[Array, "*shape"]:
    """The values on the grid of a format, in the floating type of x; straight-through gradient (`quantise_kif`).

    Raises:
        ValueError: the word is wider than the significand of x, so that not every value could be held.

    >>> float(quantise(0.30, FixedPoint(1, 3, 4)))
    0.3125
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating) and format.width > jnp.finfo(x.dtype).nmant + 1:
        msg = f"quantise: {format} has {format.width} bits, {x.dtype} holds {jnp.finfo(x.dtype).nmant + 1} exactly"
        raise ValueError(msg)
    return quantise_kif(x, format.k, format.i, format.f, format.rounding, format.overflow)  # type: ignore[arg-type]


def encode(x: Float[Array, "*shape"] | np.ndarray | float, format: FixedPoint) -> Int[Array, "*shape"]:
    """The integer codes (int64) of values quantised to a format.

    Raises:
        ValueError: JAX is not in 64-bit mode, or a value is NaN or infinite. (A traced value cannot be checked.)

    >>> int(encode(0.30, FixedPoint(1, 3, 4)))
    5
    """
    require_x64("encode")
    # in numpy: inside a jit, JAX would trace the check of a constant as well
    if not isinstance(x, Tracer) and not np.isfinite(np.asarray(x)).all():
        where = np.argwhere(~np.isfinite(np.asarray(x)))[0].tolist()
        msg = f"encode: value at index {where} is not finite, a fixed-point word has no such code"
        raise ValueError(msg)
    x, k, i, f = broadcast(jnp.asarray(x, jnp.float64), format.k, format.i, format.f)
    return float_codes(x, k, i, f, format.rounding, format.overflow)[0].astype(jnp.int64)


def decode(codes: Int[Array, "*shape"] | np.ndarray | int, format: FixedPoint) -> Float[Array, "*shape"]:
    """The values (float64) of integer codes.

    >>> float(decode(5, FixedPoint(1, 3, 4)))
    0.3125
    """
    require_x64("decode")
    return jnp.asarray(codes, jnp.int64).astype(jnp.float64) * power_of_two(-format.f, jnp.float64)


def requantise(
    codes: Int[Array, "*shape"] | np.ndarray | int, source: FixedPoint, target: FixedPoint
) -> Int[Array, "*shape"]:
    """The codes (int64) in another format, by shifts and comparisons of integers alone.

    `source` gives the position of the binary point of the codes, and promises that they fit its width.

    Raises:
        ValueError: JAX is not in 64-bit mode.

    >>> int(requantise(5, FixedPoint(1, 3, 4), FixedPoint(1, 3, 3)))  # 5/16, a tie, goes up to 3/8
    3
    """
    require_x64("requantise")
    k, i, f = (jnp.asarray(bits, jnp.int64) for bits in (target.k, target.i, target.f))
    shift = jnp.asarray(source.f - target.f, jnp.int64)
    return shifted(jnp.asarray(codes, jnp.int64), shift, k, i, f, target.rounding, target.overflow)


@partial(jax.jit, static_argnums=(5, 6))
def shifted(codes: Array, shift: Array, k: Array, i: Array, f: Array, rounding: Rounding, overflow: Overflow) -> Array:
    """Codes moved `shift` bits to the right and put into the format (k, i, f); its arrays broadcast."""
    right, left = jnp.clip(shift, 0, 63), jnp.clip(-shift, 0, 62)
    half = 0
    if rounding == "RND":
        # the last bit that falls off is the half to be rounded up; adding half an LSB first could overflow
        half = jnp.where(shift > 0, (codes >> jnp.clip(shift - 1, 0, 63)) & 1, 0)
    codes = (codes >> right) + half  # beyond 63 bits only the sign is left
    top = jnp.left_shift(1, i + f)
    low, high = -k * top, top - 1
    if overflow == "SAT":
        # clip before shifting left, one step outside the range, so that nothing leaves the 64 bits
        codes = jnp.clip(codes, -(-low >> left) - 1, (high >> left) + 1) << left
        return jnp.where(k + i + f > 0, jnp.clip(codes, low, high), 0)
    codes = jnp.where(-shift > 62, 0, codes << left) & ((top << k) - 1)
    return jnp.where(k + i + f > 0, jnp.where(codes > high, codes - (top << k), codes), 0)


def format_for(values: Float[Array, "..."] | np.ndarray, *, bits: int, k: int, finest: int = MAX_POINT) -> FixedPoint:
    """The finest format of at most `bits` bits, and of at most `finest` fractional bits, that clips none of the values.

    Values that are all 0 say nothing about their range: they get the format of a number below 1.

    Raises:
        ValueError: the values lie beyond the largest format.

    >>> str(format_for(np.array([-0.3, 5.1]), bits=8, k=1))
    'ap_fixed<8,4,AP_RND,AP_SAT>'
    """
    values, finest = np.asarray(values, np.float64), min(finest, MAX_POINT)
    if not values.any():
        return FixedPoint(k, 0, max(min(bits - k, finest), 1 - k))
    for f in range(finest, -MAX_POINT - 1, -1):
        codes = np.floor(np.ldexp(values, f) + 0.5)
        low, high = int(codes.min()), int(codes.max())
        # what two's complement takes beside the sign; a word has one bit at least
        width = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0, 1 - k)
        if width + k <= bits and abs(width - f) <= MAX_POINT:
            return FixedPoint(k, width - f, f)
    largest = float(np.abs(values).max())
    msg = f"values up to {largest:.3g} fit no fixed-point format of {bits} bits and at most {MAX_POINT} integer bits"
    raise ValueError(msg)


def require_x64(what: str) -> None:
    """A ValueError unless JAX computes in 64 bits: codes would silently become int32."""
    if jnp.zeros((), jnp.result_type(int)).dtype != np.dtype("int64"):
        msg = f"{what} needs 64-bit integers: call jax.config.update('jax_enable_x64', True) first"
        raise ValueError(msg)
