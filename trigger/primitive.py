r"""Quantisation as one JAX primitive, `quantise`, which learns: values, and numbers of bits.

One equation in the jaxpr, whatever the format, so that a walk over it (`diffhep.trigger.lowering`) sees the quantiser
and not its arithmetic. It has an implementation, an abstract evaluation, a lowering, a batching rule and a derivative;
formats are operands, integers k, i and f that broadcast against the values: per tensor, per channel or per element.

**The derivatives are surrogates**, since the function is a staircase. With $q(x) = x + d$ and the rounding error $d$:

- in x, straight through: 1 where the value is kept, 0 where it is clipped;
- in f, the error shrinks like $2^{-f}$: $\partial q/\partial f = -\ln 2 \cdot d$ (Sun et al., arXiv:2405.00645). A word
  without bits, whose error is the whole value, is drawn back by the same formula;
- where the value is clipped, the derivative of the end of the range: $2^i - 2^{-f}$ at the top.

So i and f may be floating-point numbers under training; they are rounded to the nearest integer on use.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from diffhep.trigger.modes import Overflow, Rounding, check_modes, code_range, float_codes, power_of_two

quantise_p = Primitive("quantise")
LN2 = float(np.log(2.0))
Bits = Int[Array, "..."] | Float[Array, "..."] | np.ndarray | int | float


def quantise_kif(
    x: Float[Array, "..."] | np.ndarray | float,
    k: Int[Array, "..."] | np.ndarray | int,
    i: Bits,
    f: Bits,
    rounding: Rounding = "RND",
    overflow: Overflow = "SAT",
) -> Float[Array, "..."]:
    r"""The value on the grid of the format (k, i, f), whose arrays broadcast against x; of the shape of them all.

    The range is $-k\,2^i$ to $2^i - 2^{-f}$, the step $2^{-f}$; modes: `diffhep.trigger.modes`. A format of no bits,
    k + i + f <= 0, is the constant 0. NaN stays NaN. Exact if the word fits the significand of x (24 bits in float32,
    53 in float64); subnormal x may count as 0. The derivatives in x, i and f are those of the module.

    Args:
        x: floating-point values.
        k: 1 with a sign bit, 0 without.
        i: integer bits without the sign; a learned number of bits is rounded to the nearest integer.
        f: fractional bits; likewise.
        rounding: one of `modes.ROUNDINGS`.
        overflow: one of `modes.OVERFLOWS`.

    Raises:
        ValueError: x is not floating-point, a mode is unknown, or k is not an integer.

    >>> quantise_kif(jnp.array([0.3, 0.3, 9.0]), 1, jnp.array([3, 3, 3]), jnp.array([1, 4, 4])).tolist()
    [0.5, 0.3125, 7.9375]
    >>> float(jax.grad(lambda f: quantise_kif(0.3, 1, 3, f))(4.0))  # the error is 0.0125
    -0.00866...
    """
    check_modes(rounding, overflow)
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        msg = f"quantise: floating-point values wanted, got {x.dtype}"
        raise ValueError(msg)
    # plain numbers stay plain: converting them here would add equations of their own
    k, i, f = (bits if hasattr(bits, "dtype") else np.asarray(bits) for bits in (k, i, f))
    if not jnp.issubdtype(k.dtype, jnp.integer):
        msg = f"quantise: k must be an integer (0 or 1), got {k.dtype}"
        raise ValueError(msg)
    return quantise_p.bind(x, k, i, f, rounding=rounding, overflow=overflow)


def whole(bits: Array) -> Array:
    """Numbers of bits as integers, the nearest one."""
    return (jnp.floor(bits + 0.5) if jnp.issubdtype(bits.dtype, jnp.floating) else bits).astype(jnp.int32)


def value(x: Array, k: Array, i: Array, f: Array, *, rounding: Rounding, overflow: Overflow) -> Array:
    """What the primitive computes."""
    k, i, f = (whole(bits) for bits in (k, i, f))
    return float_codes(x, k, i, f, rounding, overflow)[1] * power_of_two(-f, x.dtype)


def abstract(x: Any, k: Any, i: Any, f: Any, *, rounding: Rounding, overflow: Overflow) -> Any:
    """The common shape, and the type of x."""
    return jax.core.ShapedArray(jax.lax.broadcast_shapes(x.shape, k.shape, i.shape, f.shape), x.dtype)


def batched(args: tuple, axes: tuple, *, rounding: Rounding, overflow: Overflow) -> tuple[Array, int]:
    """Batch axes to the front; ones between them and the shape of an operand of lower rank."""
    ranks = [jnp.ndim(a) - (axis is not batching.not_mapped) for a, axis in zip(args, axes, strict=True)]
    aligned = []
    for operand, axis, rank in zip(args, axes, ranks, strict=True):
        if axis is batching.not_mapped:
            aligned.append(operand)
            continue
        front = jnp.moveaxis(operand, axis, 0)
        aligned.append(front.reshape(front.shape[:1] + (1,) * (max(ranks) - rank) + front.shape[1:]))
    return quantise_p.bind(*aligned, rounding=rounding, overflow=overflow), 0


def derivative(primals: tuple, tangents: tuple, *, rounding: Rounding, overflow: Overflow) -> tuple[Array, Any]:
    """The surrogate derivatives of the module."""
    x, k, i, f = primals
    out = quantise_p.bind(x, k, i, f, rounding=rounding, overflow=overflow)
    ki, ii, fi = (jax.lax.stop_gradient(whole(bits)) for bits in (k, i, f))
    rounded, codes, inside = float_codes(jax.lax.stop_gradient(x), ki, ii, fi, rounding, overflow)
    lsb = power_of_two(-fi, x.dtype)
    present = ki + ii + fi > 0
    through = present if overflow == "WRAP" else inside
    slopes = [jnp.where(through, 1.0, 0.0), None, jnp.zeros_like(out), jnp.zeros_like(out)]
    # without bits the error is the whole value; wrapping adds multiples of the period, which f does not move
    error = jnp.where(present, rounded * lsb, 0.0) - x
    kept = through | ~present
    slopes[3] = jnp.where(kept, -LN2 * error, 0.0)
    if overflow in ("SAT", "SAT_SYM"):
        top = power_of_two(ii + fi, x.dtype)
        low, high = code_range(ki.astype(x.dtype), top, overflow)
        ends = jnp.where(rounded > high, 1.0, jnp.where(low < 0, -1.0, 0.0))
        # the upper end is 2**i - 2**-f, the lower one -2**i or, in SAT_SYM, its mirror image
        symmetric = (codes == high) | (codes == -high)
        slopes[2] = jnp.where(kept, 0.0, ends * LN2 * top * lsb)
        slopes[3] = jnp.where(kept, slopes[3], jnp.where(symmetric, ends, 0.0) * LN2 * lsb)
    total = None
    for slope, tangent in zip(slopes, tangents, strict=True):
        if slope is None or isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0:
            continue
        term = slope.astype(x.dtype) * tangent.astype(x.dtype)
        total = term if total is None else total + term
    return out, ad.Zero.from_primal_value(out) if total is None else total


quantise_p.def_impl(jax.jit(value, static_argnames=("rounding", "overflow")))
quantise_p.def_abstract_eval(abstract)
mlir.register_lowering(quantise_p, mlir.lower_fun(value, multiple_results=False))
batching.primitive_batchers[quantise_p] = batched
ad.primitive_jvps[quantise_p] = derivative
