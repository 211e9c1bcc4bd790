r"""Branching processes with an unbiased gradient: the coupled flip.

A shower starts with one particle; in layer k each particle splits in two with probability $p_k$, so that
$z_{k+1} = z_k + b_k$ with $b_k \sim \mathrm{Binomial}(z_k, p_k)$ (Galton and Watson). Samples do not move when p
does, so the derivative along them is 0. Coupled to the same random numbers, a particle that did not split does so at
$p_k + dp_k$ with probability $dp_k/(1 - p_k)$ and then adds one more independent subtree, which starts in layer k+1:

$$\frac{d}{dp_k}E[z_l] = E\left[\frac{z_k - b_k}{1 - p_k}\; m_{k+1,l}\right],$$

with $m_{k+1,l}$ the mean size in layer l of a subtree that starts with one particle in layer k+1 (G. Arya et al.,
arXiv:2210.08572). Independent showers estimate it as $\sum z_l/\sum z_{k+1}$, without bias, because the mean of $z_l$
given $z_{k+1}$ is $m\,z_{k+1}$; so each half of the showers serves the other. The gradient costs no further sampling,
one reverse pass gives it for every layer, and all of it is inside jit.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, PRNGKeyArray

TABULATED = 256  # numbers up to this are drawn from a table


def branching_shower(
    probability: Float[Array, " layer"], showers: int, *, key: PRNGKeyArray
) -> Float[Array, "shower layer+1"]:
    """Number of particles before each layer and behind the last, of many showers.

    The derivative with respect to `probability` is unbiased for the mean over showers of any linear function of the
    numbers (an energy deposit, a multiplicity); functions that are not linear need the whole subtree, not its mean.

    Args:
        probability: of splitting, in [0, 1) for each layer.
        showers: how many, at least 2: each half takes its subtrees from the other.
        key: of the random numbers.

    Returns:
        Counts as floats, the first of them 1.

    Raises:
        ValueError: fewer than two showers.

    >>> counts = branching_shower(jnp.full(8, 0.5), 20000, key=jr.key(0))
    >>> bool(abs(counts[:, -1].mean() / 1.5**8 - 1) < 0.01)
    True
    """
    if showers < 2:
        msg = f"at least two showers are needed, got {showers}"
        raise ValueError(msg)
    kept: Any = _shower(jnp.asarray(probability, dtype=float), showers, jr.key_data(key), str(jr.key_impl(key)))
    return kept.T


def simulate(probability: Array, showers: int, key: Array) -> Array:
    """The counts themselves, (layer, shower)."""
    counts = [jnp.ones(showers, probability.dtype)]
    for layer, layer_key in enumerate(jr.split(key, probability.size)):
        most = 2 ** min(layer, 30)
        draw = tabulated_binomial if most <= TABULATED else rejected_binomial
        counts.append(counts[-1] + draw(layer_key, counts[-1], probability[layer], most))
    return jnp.stack(counts)


def rejected_binomial(key: Array, number: Array, p: Array, most: int) -> Array:
    """Binomial draws for numbers of any size."""
    return jr.binomial(key, number, p, dtype=number.dtype)


def tabulated_binomial(key: Array, number: Array, p: Array, most: int) -> Array:
    """Binomial draws for numbers up to `most`, ten times as fast: bisection in the cumulative distribution of each."""
    n, b = jnp.arange(most + 1.0)[:, None], jnp.arange(most + 1.0)[None, :]
    inside = b <= n
    gamma = jax.lax.lgamma
    ways = gamma(n + 1) - gamma(b + 1) - gamma(jnp.where(inside, n - b, 0.0) + 1)
    log_density = ways + xlogy(b, p) + xlog1py(jnp.where(inside, n - b, 0.0), -p)
    cumulative = jnp.cumsum(jnp.where(inside, jnp.exp(log_density), 0.0), axis=1)
    # 32-bit integers: the gathers are what takes the time
    table = jnp.round(jnp.minimum(cumulative, 1.0) * (2**32 - 1)).astype(jnp.uint32).ravel()
    uniform = jr.bits(key, number.shape, jnp.uint32)
    high = number.astype(jnp.int32)
    row, low = high * (most + 1), jnp.zeros_like(high)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) >> 1
        beyond = table.at[row + middle].get(mode="promise_in_bounds") > uniform
        return jnp.where(beyond, low, jnp.minimum(middle + 1, high)), jnp.where(beyond, middle, high)

    # the smallest b whose cumulative probability exceeds the uniform number, the last one whatever rounding says; as a
    # loop, because the compiler would work out each unrolled step again for every later one
    low, _ = jax.lax.fori_loop(0, most.bit_length(), halve, (low, high))
    return low.astype(number.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def _shower(probability: Array, showers: int, key: Array, implementation: str) -> Array:
    return simulate(probability, showers, jr.wrap_key_data(key, impl=implementation))


def _forward(probability: Array, showers: int, key: Array, implementation: str) -> tuple[Array, Any]:
    counts = simulate(probability, showers, jr.wrap_key_data(key, impl=implementation))
    return counts, (probability, counts)


def _backward(showers: int, implementation: str, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, None]:
    probability, counts = kept
    middle, total = counts.shape[1] // 2, 0.0
    halves = (slice(None, middle), slice(middle, None))
    for mine, other in (halves, halves[::-1]):
        total = total + flips(counts[:, mine], cotangent[:, mine]) * jnp.triu(subtrees(counts[:, other]))
    return jnp.sum(total, axis=1) / (1 - probability), None


def flips(counts: Array, cotangent: Array) -> Array:
    """Particles that did not split, times what one more is worth: (layer, later layer), summed over showers."""
    return (2 * counts[:-1] - counts[1:]) @ cotangent[1:].T


def subtrees(counts: Array) -> Array:
    """Mean size in each later layer of a subtree that starts with one particle behind each layer."""
    size = jnp.sum(counts[1:], axis=1)
    return size[None, :] / size[:, None]


_shower.defvjp(_forward, _backward)
