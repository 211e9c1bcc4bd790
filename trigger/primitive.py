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

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from diffhep.trigger.modes import Overflow, Rounding, check_modes, code_range, float_codes, power_of_two, scale_of

quantise_p, tangent_p = Primitive("quantise"), Primitive("quantise_tangent")
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
    codes = float_codes(x, k, i, f, rounding, overflow)[1]
    # a division too, so that a word which is repeated, such as a bias, is rounded once
    return codes * scale_of(x, -f) if f.size < codes.size else codes / power_of_two(f, x.dtype)


def abstract(x: Any, *others: Any, **settings: Any) -> Any:
    """The common shape of the operands, and the type of x."""
    return jax.core.ShapedArray(jax.lax.broadcast_shapes(x.shape, *(operand.shape for operand in others)), x.dtype)


def batched(primitive: Primitive, args: tuple, axes: tuple, **settings: Any) -> tuple[Array, int]:
    """Batch axes to the front; ones between them and the shape of an operand of lower rank."""
    ranks = [jnp.ndim(a) - (axis is not batching.not_mapped) for a, axis in zip(args, axes, strict=True)]
    aligned = []
    for operand, axis, rank in zip(args, axes, ranks, strict=True):
        if axis is batching.not_mapped:
            aligned.append(operand)
            continue
        front = jnp.moveaxis(operand, axis, 0)
        aligned.append(front.reshape(front.shape[:1] + (1,) * (max(ranks) - rank) + front.shape[1:]))
    return primitive.bind(*aligned, **settings), 0


def slopes(
    x: Array, k: Array, i: Array, f: Array, moving: tuple[int, ...], rounding: Rounding, overflow: Overflow
) -> list[Array]:
    """The surrogate derivatives of the module in those operands (0: x, 2: i, 3: f) that are asked for."""
    ki, ii, fi = (jax.lax.stop_gradient(whole(bits)) for bits in (k, i, f))
    rounded, codes, inside = float_codes(jax.lax.stop_gradient(x), ki, ii, fi, rounding, overflow)
    top, lsb = scale_of(x, ii + fi), scale_of(x, -fi)
    low, high = code_range(ki.astype(x.dtype), top, overflow)
    present = top * (1 + ki.astype(x.dtype)) > 1
    through = present if overflow == "WRAP" else inside
    # without bits the error is the whole value; wrapping adds multiples of the period, which f does not move
    error = jnp.where(present, rounded * lsb, 0.0) - x
    kept = through | ~present
    found = {0: jnp.where(through, 1.0, 0.0), 2: jnp.zeros_like(error), 3: jnp.where(kept, -LN2 * error, 0.0)}
    if overflow in ("SAT", "SAT_SYM"):
        ends = jnp.where(rounded > high, 1.0, jnp.where(low < 0, -1.0, 0.0))
        # the upper end is 2**i - 2**-f, the lower one -2**i or, in SAT_SYM, its mirror image
        symmetric = (codes == high) | (codes == -high)
        found[2] = jnp.where(kept, 0.0, ends * LN2 * top * lsb)
        found[3] = jnp.where(kept, found[3], jnp.where(symmetric, ends, 0.0) * LN2 * lsb)
    return [found[n].astype(x.dtype) for n in moving]


def tangent(
    x: Array,
    k: Array,
    i: Array,
    f: Array,
    *tangents: Array,
    moving: tuple[int, ...],
    rounding: Rounding,
    overflow: Overflow,
) -> Array:
    """How the words move with the operands that move."""
    found = slopes(x, k, i, f, moving, rounding, overflow)
    total = sum(slope * given for slope, given in zip(found, tangents, strict=True))
    return jnp.broadcast_to(total, abstract(x, k, i, f, *tangents).shape)


def derivative(primals: tuple, tangents: tuple, **modes: Any) -> tuple[Array, Any]:
    """The words, and how they move: one equation of its own, so that a gradient keeps the operands, not the slopes."""
    out = quantise_p.bind(*primals, **modes)
    still = lambda n: n == 1 or isinstance(tangents[n], ad.Zero) or tangents[n].dtype == jax.dtypes.float0
    moving = tuple(n for n in range(len(primals)) if not still(n))
    if not moving:
        return out, ad.Zero.from_primal_value(out)
    given = [tangents[n].astype(out.dtype) for n in moving]
    return out, tangent_p.bind(*primals, *given, moving=moving, **modes)


def transpose(cotangent: Any, *operands: Any, moving: tuple[int, ...], **modes: Any) -> list[Any]:
    """Cotangents of what moves; the slopes are worked out here, where they are used up at once."""
    fixed, given = operands[:4], operands[4:]
    if isinstance(cotangent, ad.Zero):
        return [None] * 4 + [ad.Zero(operand.aval) for operand in given]
    found = slopes(*fixed, moving, **modes)
    return [None] * 4 + [summed(slope * cotangent, one.aval.shape) for slope, one in zip(found, given, strict=True)]


def summed(x: Array, shape: tuple[int, ...]) -> Array:
    """The sum over the axes along which an array of this shape was repeated."""
    extra = x.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(n + extra for n, size in enumerate(shape) if size == 1 != x.shape[n + extra])
    if axes == (x.ndim - 1,) and x.ndim > 1:
        # on a CPU a sum along memory is several times as fast as a product: a loop must not change its order
        return jnp.matmul(x, jnp.ones((x.shape[-1], 1), x.dtype), precision="highest").reshape(shape)
    return jnp.sum(x, axis=axes).reshape(shape)


def second_derivative(primals: tuple, tangents: tuple, **settings: Any) -> tuple[Array, Array]:
    """Of the slopes."""
    return jax.jvp(partial(tangent, **settings), primals, tuple(map(ad.instantiate_zeros, tangents)))


quantise_p.def_impl(jax.jit(value, static_argnames=("rounding", "overflow")))
quantise_p.def_abstract_eval(abstract)
mlir.register_lowering(quantise_p, mlir.lower_fun(value, multiple_results=False))
batching.primitive_batchers[quantise_p] = partial(batched, quantise_p)
ad.primitive_jvps[quantise_p] = derivative

tangent_p.def_impl(jax.jit(tangent, static_argnames=("moving", "rounding", "overflow")))
tangent_p.def_abstract_eval(abstract)
mlir.register_lowering(tangent_p, mlir.lower_fun(tangent, multiple_results=False))
batching.primitive_batchers[tangent_p] = partial(batched, tangent_p)
ad.primitive_jvps[tangent_p] = second_derivative
ad.primitive_transposes[tangent_p] = transpose
