"""Rounding and overflow of fixed-point words: every mode of the vendor's `ap_fixed`, in floating point and in integers.

A value is first rounded to a multiple of the least significant bit, then brought into the range of the word:

| rounding | a number between two codes goes |
|---|---|
| RND | to the nearest, a tie upwards |
| RND_ZERO, RND_INF | to the nearest, a tie towards zero, away from zero |
| RND_MIN_INF | to the nearest, a tie downwards |
| RND_CONV | to the nearest, a tie to the even code |
| TRN, TRN_ZERO | downwards, towards zero |

| overflow | a code outside the range becomes |
|---|---|
| SAT, SAT_SYM | the nearest end; SAT_SYM leaves out the most negative code |
| SAT_ZERO | 0 |
| WRAP | its low bits |

A signed word of one bit in SAT_SYM keeps its code -1, as in the vendor's headers: without it, it could hold nothing.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

Rounding = Literal["RND", "RND_ZERO", "RND_MIN_INF", "RND_INF", "RND_CONV", "TRN", "TRN_ZERO"]
Overflow = Literal["SAT", "SAT_ZERO", "SAT_SYM", "WRAP"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)


def check_modes(rounding: str, overflow: str) -> None:
    """A ValueError that names an unknown rounding or overflow mode."""
    for what, mode, known in (("rounding", rounding, ROUNDINGS), ("overflow", overflow, OVERFLOWS)):
        if mode not in known:
            msg = f"fixed-point format: {what} must be one of {', '.join(known)}, got {mode!r}"
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


def scale_of(x: Array, exponent: Array) -> Array:
    """2**exponent to scale x by, exact, by a division where it is repeated along x; of -exponent a normal number too.

    XLA works a division out once, and what is cheaper again for every element that it is repeated along: a dozen
    operations on exponents beside the few on x.

    >>> scale_of(jnp.zeros((2, 2)), jnp.array([3, -1])).tolist()
    [8.0, 0.5]
    """
    if exponent.size < x.size:
        return 1 / power_of_two(-exponent, x.dtype)
    return power_of_two(exponent, x.dtype)


def rounds_up(rounding: Rounding, *, odd: Array, negative: Array, half: Array, sticky: Array) -> Array:
    """Whether the code above is taken instead of the one below.

    Args:
        rounding: the mode.
        odd: the code below is odd.
        negative: the value is below zero.
        half: at least half a step lies above the code below.
        sticky: something lies above it beside that half.
    """
    tie = {"RND": True, "RND_ZERO": negative, "RND_MIN_INF": False, "RND_INF": ~negative, "RND_CONV": odd}
    if rounding in tie:
        return half & (sticky | tie[rounding])
    return negative & (half | sticky) if rounding == "TRN_ZERO" else jnp.zeros_like(half)


def code_range(k: Array, top: Array, overflow: Overflow) -> tuple[Array, Array]:
    """Smallest and largest code of a word, where top is 2**(i + f)."""
    low = -k * (jnp.maximum(top - 1, 1) if overflow == "SAT_SYM" else top)
    return low, top - 1


@partial(jax.jit, static_argnums=(4, 5))
def float_codes(
    x: Array, k: Array, i: Array, f: Array, rounding: Rounding, overflow: Overflow
) -> tuple[Array, Array, Array]:
    """The codes as floating-point integers, before the overflow and after it, and where they are the same.

    A word of no bits, k + i + f <= 0, is 0 after it and never the same.
    """
    scaled = x * scale_of(x, f)
    below = jnp.floor(scaled)
    # not floor(scaled + 1/2): the sum itself rounds, just below 1/2 and above half the largest odd integer
    rest = scaled - below  # exact where it matters: it rounds to neither 0 nor 1/2
    up = rounds_up(
        rounding,
        odd=below != 2 * jnp.floor(below / 2),
        negative=x < 0,
        half=rest >= 0.5,
        sticky=(rest != 0) & (rest != 0.5),
    )
    rounded = below + up
    top = scale_of(x, i + f)
    low, high = code_range(k.astype(x.dtype), top, overflow)
    present = top * (1 + k.astype(x.dtype)) > 1
    inside = (low <= rounded) & (rounded <= high)
    if overflow == "WRAP":
        # every finite double beyond the integers is a multiple of the period, as is what overflowed while scaling
        codes = jnp.where(jnp.isinf(rounded), 0.0, rounded)
        period = power_of_two(k + i + f, x.dtype)
        codes = codes - period * jnp.floor(codes / period)
        codes = jnp.where(codes > high, codes - period, codes)
    elif overflow == "SAT_ZERO":
        codes = jnp.where(inside | jnp.isnan(rounded), rounded, 0.0)
    else:
        codes = jnp.clip(rounded, low, high)
    return rounded, jnp.where(present, codes, 0.0), inside & present


@partial(jax.jit, static_argnums=(5, 6))
def shifted(codes: Array, shift: Array, k: Array, i: Array, f: Array, rounding: Rounding, overflow: Overflow) -> Array:
    """Integer codes moved `shift` bits to the right and put into the format (k, i, f); its arrays broadcast."""
    right, left = jnp.clip(shift, 0, 63), jnp.clip(-shift, 0, 62)
    # what falls off: its first bit is the half, the others are only asked whether one is set. Beyond 63 bits only the
    # sign is left; adding half an LSB first could overflow
    dropped = jnp.clip(shift - 1, 0, 63)
    half = (shift > 0) & ((codes >> dropped) & 1 == 1)
    mask = jnp.where(dropped == 63, jnp.iinfo(jnp.int64).max, jnp.left_shift(1, jnp.minimum(dropped, 62)) - 1)
    sticky = (shift > 0) & jnp.where(shift > 64, codes != 0, codes & mask != 0)
    below = codes >> right
    codes = below + rounds_up(rounding, odd=below & 1 == 1, negative=codes < 0, half=half, sticky=sticky)
    top = jnp.left_shift(1, i + f)
    low, high = code_range(k, top, overflow)
    present = k + i + f > 0
    if overflow == "WRAP":
        codes = jnp.where(-shift > 62, 0, codes << left) & ((top << k) - 1)
        return jnp.where(present, jnp.where(codes > high, codes - (top << k), codes), 0)
    # clip before shifting left, one step outside the range, so that nothing leaves the 64 bits
    codes = jnp.clip(codes, -(-low >> left) - 1, (high >> left) + 1) << left
    if overflow == "SAT_ZERO":
        return jnp.where(present & (low <= codes) & (codes <= high), codes, 0)
    return jnp.where(present, jnp.clip(codes, low, high), 0)
