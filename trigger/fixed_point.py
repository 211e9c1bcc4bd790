r"""Fixed-point numbers, exactly as an FPGA holds them: the arithmetic of Xilinx `ap_fixed` in JAX.

A format is (k, i, f): sign bit, integer bits *without* the sign, fractional bits. The word has k + i + f bits, its
least significant bit is worth $2^{-f}$, and the values run from $-k\,2^i$ to $2^i - 2^{-f}$. i and f may be negative.
In the notation of the vendor, `ap_fixed<W, I>`, W = k + i + f and I = k + i count the sign bit.

Three views of one number, which tests prove to be equal to each other and to the vendor's C++ headers:

- `quantise`: floating point in, floating point *on the grid* out, with a straight-through gradient for training;
- `encode`, `decode`: to and from the integer code, value = code $\cdot 2^{-f}$;
- `requantise`: from one format to another in integers alone.

A `FixedPoint` is one format, written down. `diffhep.trigger.primitive.quantise_kif` takes arrays of formats that
broadcast against the values (per tensor, per channel, per weight).
"""

import re
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from diffhep.trigger.modes import Overflow, Rounding, check_modes, float_codes, power_of_two, shifted
from diffhep.trigger.primitive import quantise_kif

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
        rounding: RND to nearest, ties upwards (`AP_RND`), or another mode of `diffhep.trigger.modes`.
        overflow: SAT clips to the range (`AP_SAT`), or another mode.

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
        return -self.k * (max(top - 1, 1) if self.overflow == "SAT_SYM" else top), top - 1

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
    return quantise_kif(x, format.k, format.i, format.f, format.rounding, format.overflow)


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
    k, i, f = (jnp.asarray(bits, jnp.int64) for bits in (format.k, format.i, format.f))
    codes = float_codes(jnp.asarray(x, jnp.float64), k, i, f, format.rounding, format.overflow)[1]
    return codes.astype(jnp.int64)


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
