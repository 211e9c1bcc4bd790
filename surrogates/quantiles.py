r"""A flexible distribution of one number: its quantile function is a line plus steps, all of them rising.

With $w = \ln(v/(1-v))$ of a uniform number $v$, the number is
$y = m + s\,(a_0 w + \sum_k a_k \tanh(b_k w - c_k))$ with positive $s$, $a$ and $b$: a steep step is a gap, a flat
piece a peak. Samples are cheap and smooth in the parameters; the density needs the inverse, found by Newton's method.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

STEPS = 8
PARAMETERS = 3 + 3 * STEPS
FLATTEST = 0.02  # least slope of the line: keeps the inverse finite
FURTHEST = 30.0  # |w| beyond it has a probability of 1e-13
ITERATIONS = 30


def standard_parameters() -> NDArray[np.float64]:
    """Parameters of a number of about zero mean and unit variance."""
    centres = np.linspace(-4.0, 4.0, STEPS)
    slopes = np.full(STEPS, 0.8)
    heights = np.full(STEPS, 0.15)
    return np.concatenate([[0.0, 0.0, np.log(0.3)], np.log(heights), np.log(slopes), slopes * centres])


def parts_of(parameters: Float[Array, "*shape parameter"]) -> tuple[Array, ...]:
    """Shift, width, slope of the line; heights, steepness and places of the steps."""
    # one exponential of all: every operation of its own costs a single shower as much as its arithmetic
    positive = jnp.exp(parameters[..., 1 : 3 + 2 * STEPS])
    heights, steepness = positive[..., 2 : 2 + STEPS], positive[..., 2 + STEPS :]
    places = parameters[..., 3 + 2 * STEPS :]
    return parameters[..., 0], positive[..., 0], FLATTEST + positive[..., 1], heights, steepness, places


def quantile(parameters: Float[Array, "*shape parameter"], w: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The number whose cumulative probability is sigmoid(w)."""
    shift, width, line, heights, steepness, places = parts_of(parameters)
    steps = jnp.sum(heights * jnp.tanh(steepness * w[..., None] - places), axis=-1)
    return shift + width * (line * w + steps)


def log_density(parameters: Float[Array, "*shape parameter"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logarithm of the density of the number; its derivatives are right to first order."""
    shift, width, line, heights, steepness, places = parts_of(parameters)
    scaled = (y - shift) / width

    def value_and_slope(w: Array) -> tuple[Array, Array]:
        inside = jnp.tanh(steepness * w[..., None] - places)
        value = line * w + jnp.sum(heights * inside, axis=-1)
        return value, line + jnp.sum(heights * steepness * (1 - inside**2), axis=-1)

    fixed = jax.lax.stop_gradient(scaled)

    def closer(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, w = state
        value, slope = value_and_slope(w)
        low, high = jnp.where(value < fixed, w, low), jnp.where(value < fixed, high, w)
        new = w - (value - fixed) / slope
        return low, high, jnp.where((new > low) & (new < high), new, 0.5 * (low + high))

    end = jnp.full_like(fixed, FURTHEST)
    _, _, w = jax.lax.stop_gradient(jax.lax.fori_loop(0, ITERATIONS, closer, (-end, end, jnp.zeros_like(end))))
    # one more step of Newton's method carries the derivative
    value, slope = value_and_slope(w)
    w = w - (value - scaled) / jax.lax.stop_gradient(slope)
    _, slope = value_and_slope(w)
    return -jax.nn.softplus(w) - jax.nn.softplus(-w) - jnp.log(slope) - parameters[..., 1]
