r"""Interpolation of yields between up and down variations (HistFactory, CERN-OPEN-2012-016; pyhf's codes)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def code4p(
    down: Float[Array, "*bin"], nominal: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, ""]
) -> Float[Array, "*bin"]:
    r"""Additive change of the yields: a sextic polynomial for $|\alpha| < 1$, linear beyond, twice differentiable.

    Args:
        down: yields at alpha = -1.
        nominal: yields at alpha = 0.
        up: yields at alpha = +1.
        alpha: nuisance parameter in units of its uncertainty.

    Returns:
        What is added to the nominal yields.

    >>> one = jnp.array(1.0)
    >>> [float(code4p(8 * one, 10 * one, 13 * one, alpha * one)) for alpha in (-2, -1, 0, 1, 2)]
    [-4.0, -2.0, 0.0, 3.0, 6.0]
    """
    half = 0.5 * (up - down)
    even = 0.0625 * (up + down - 2 * nominal)
    square = alpha * alpha
    inner = alpha * (half + even * alpha * (15 + square * (3 * square - 10)))
    outer = alpha * jnp.where(alpha > 0, up - nominal, nominal - down)
    return jnp.where(jnp.abs(alpha) < 1, inner, outer)
