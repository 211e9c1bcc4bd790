r"""Interpolation of yields between the variations at alpha = -1 and +1: HistFactory's codes 0, 1, 2, 4 and 4p.

Additive codes (0, 2, 4p) give what is added to the nominal yield, multiplicative ones (1, 4) a factor. References: K.
Cranmer et al., CERN-OPEN-2012-016; the pyhf documentation. One deviation from pyhf: its code 2 jumps at alpha = 1
(scikit-hep/pyhf#2729); here, as in ROOT, the straight lines continue the parabola.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

AdditiveCode = Literal["code0", "code2", "code4p"]
MultiplicativeCode = Literal["code1", "code4"]


def code0(
    down: Float[Array, "*bin"], nominal: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, "*bin"]
) -> Float[Array, "*bin"]:
    """Additive, piecewise linear; its derivative jumps at alpha = 0.

    >>> float(code0(jnp.array(8.0), jnp.array(10.0), jnp.array(13.0), jnp.array(-0.5)))
    -1.0
    """
    return alpha * jnp.where(alpha > 0, up - nominal, nominal - down)


def code1(down: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, "*bin"]) -> Float[Array, "*bin"]:
    """Multiplicative, piecewise exponential; its derivative jumps at alpha = 0.

    Args:
        down: factor at alpha = -1, positive.
        up: factor at alpha = +1, positive.
        alpha: nuisance parameter.

    >>> float(code1(jnp.array(0.8), jnp.array(1.25), jnp.array(-1.0)))
    0.8
    """
    return jnp.exp(jnp.abs(alpha) * jnp.log(jnp.where(alpha > 0, up, down)))


def code2(
    down: Float[Array, "*bin"], nominal: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, "*bin"]
) -> Float[Array, "*bin"]:
    """Additive, a parabola for |alpha| < 1 and its tangents beyond.

    >>> float(code2(jnp.array(8.0), jnp.array(10.0), jnp.array(13.0), jnp.array(2.0)))
    6.5
    """
    even, odd = 0.5 * (up + down) - nominal, 0.5 * (up - down)
    inner = alpha * (odd + even * alpha)
    side = jnp.sign(alpha)
    outer = even + side * odd + (odd + 2 * side * even) * (alpha - side)
    return jnp.where(jnp.abs(alpha) < 1, inner, outer)


# value, first and second derivative of a1 x + ... + a6 x^6 at x = +1 and x = -1
_POWERS = np.arange(1, 7)
_SIXTH = np.linalg.inv(
    np.stack(
        [
            np.ones(6),
            (-1.0) ** _POWERS,
            _POWERS,
            -_POWERS * (-1.0) ** _POWERS,
            _POWERS * (_POWERS - 1.0),
            _POWERS * (_POWERS - 1) * (-1.0) ** _POWERS,
        ]
    )
)


def code4(down: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, "*bin"]) -> Float[Array, "*bin"]:
    """Multiplicative, exponential for |alpha| > 1 and a sextic polynomial inside, twice differentiable.

    Arguments as for `code1`.

    >>> float(code4(jnp.array(0.8), jnp.array(1.25), jnp.array(0.0)))
    1.0
    """
    log_up, log_down = jnp.log(up), jnp.log(down)
    ends = (up - 1, down - 1, up * log_up, -down * log_down, up * log_up**2, down * log_down**2)
    x = jnp.where(jnp.abs(alpha) < 1, alpha, 0.0)
    inner = jnp.zeros_like(x * up)
    for row in reversed(_SIXTH):
        coefficient = sum(float(c) * end for c, end in zip(row, ends, strict=True))
        inner = x * (coefficient + inner)
    outer = jnp.exp(jnp.abs(alpha) * jnp.where(alpha > 0, log_up, log_down))
    return jnp.where(jnp.abs(alpha) < 1, 1 + inner, outer)


def code4p(
    down: Float[Array, "*bin"], nominal: Float[Array, "*bin"], up: Float[Array, "*bin"], alpha: Float[Array, "*bin"]
) -> Float[Array, "*bin"]:
    r"""Additive, a sextic polynomial for $|\alpha| < 1$ and straight lines beyond, twice differentiable.

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


ADDITIVE: dict[str, Callable[..., Array]] = {"code0": code0, "code2": code2, "code4p": code4p}
MULTIPLICATIVE: dict[str, Callable[..., Array]] = {"code1": code1, "code4": code4}


def with_slopes(
    function: Callable[[Array], Array], alpha: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Value, first and second derivative of an elementwise function of alpha."""
    one = jnp.ones_like(alpha)
    first = lambda x: jax.jvp(function, (x,), (one,))
    (value, slope), (_, bend) = jax.jvp(first, (alpha,), (one,))
    return value, slope, bend
