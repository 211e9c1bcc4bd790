r"""Bin-by-bin factors, profiled analytically: Barlow-Beeston (lite) and shapesys.

In one bin, $\lambda = M + \sum_k \gamma_k A_k$, with constraints of the $\gamma_k$: Poisson,
$a \sim \mathrm{Pois}(\tau\gamma)$, or Gaussian, $a \sim N(\gamma, \sigma)$. At the best $\gamma$, with
$r = 1 - n/\lambda$,

$\gamma_k = a_k/(\tau_k + A_k r)$ (Poisson), $\gamma_k = a_k - \sigma_k^2 A_k r$ (Gaussian),

so however many factors a bin has, one increasing function of one unknown, $\lambda$, has to be solved. For one factor
that is a quadratic equation (R. Barlow and C. Beeston, Comput. Phys. Commun. 77 (1993) 219; J. S. Conway,
arXiv:1103.0354), which is the start of the iteration and, up to rounding, its end.

With $v = -d\gamma/d(Ar)$, $u_k = \gamma_k - A_k r v_k$, $u_0 = 1$, $w = n/\lambda^2$ and
$W = w/(1 + w\sum A_k^2 v_k)$, the profiled likelihood of a bin has gradient $r\,(1, \gamma_k)$ and Hessian
$W u u^T - \mathrm{diag}(0, r^2 v_k)$ in $(M, A_k)$.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffhep.inference.likelihood import poisson_deviance, poisson_slopes

GAMMA_BOUNDS = (1e-10, 10.0)  # pyhf's


class Constraints(NamedTuple):
    """Constraints of the factors; all arrays (slot, channel, bin).

    Attributes:
        auxiliary: observed auxiliary counts (Poisson), or centre (Gaussian).
        spread: tau, the expected auxiliary counts at gamma = 1 (Poisson), or sigma (Gaussian).
        poisson: 1 for Poisson, 0 for Gaussian.
        lower: lower bound; equal to the upper one where the factor is fixed.
        upper: upper bound.
    """

    auxiliary: Float[Array, "slot channel bin"]
    spread: Float[Array, "slot channel bin"]
    poisson: Bool[Array, "slot channel bin"]
    lower: Float[Array, "slot channel bin"]
    upper: Float[Array, "slot channel bin"]


class Solution(NamedTuple):
    """Profiled bins: expectation, slope r and curvature w of half the deviance, factors and their response v."""

    expected: Float[Array, "channel bin"]
    r: Float[Array, "channel bin"]
    w: Float[Array, "channel bin"]
    gamma: Float[Array, "slot channel bin"]
    v: Float[Array, "slot channel bin"]


def solve(n: Array, rest: Array, scaled: Array, c: Constraints) -> Solution:
    """The best factors of every bin.

    Args:
        n: observed counts (channel, bin).
        rest: M, what no factor multiplies (channel, bin).
        scaled: A, what each factor multiplies (slot, channel, bin).
        c: the constraints.
    """
    expected = rest if not scaled.shape[0] else _expected(n, rest, scaled, c)
    r, w = poisson_slopes(n, expected)
    gamma, v = best_factor(r, scaled, c)
    return Solution(expected, r, w, gamma, v)


@jax.custom_jvp
def profiled(n: Array, rest: Array, scaled: Array, c: Constraints) -> Float[Array, "channel bin"]:
    """Half the deviance of each bin and of its factors' constraints, at the best factors; arguments as `solve`."""
    return joint(n, rest, scaled, c, solve(n, rest, scaled, c).gamma)


@profiled.defjvp
def _profiled_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # envelope theorem: the factors are held; differentiating this rule again finds how they move
    gamma = solve(*primals).gamma
    return jax.jvp(lambda n, m, a, c: joint(n, m, a, c, gamma), primals, tangents)


def joint(n: Array, rest: Array, scaled: Array, c: Constraints, gamma: Array) -> Float[Array, "channel bin"]:
    """Half the deviance of each bin plus that of the constraints of its factors, at given factors."""
    main = 0.5 * poisson_deviance(n, rest + jnp.sum(scaled * gamma, axis=0))
    safe = jnp.where(c.poisson, 1.0, c.spread)
    gauss = 0.5 * ((gamma - c.auxiliary) / safe) ** 2
    poisson = 0.5 * poisson_deviance(
        jnp.where(c.poisson, c.auxiliary, 1.0), jnp.where(c.poisson, c.spread * gamma, 1.0)
    )
    free = c.lower < c.upper
    return main + jnp.sum(jnp.where(free, jnp.where(c.poisson, poisson, gauss), 0.0), axis=0)


def best_factor(r: Array, scaled: Array, c: Constraints) -> tuple[Array, Array]:
    """The factors that go with a slope r, and v = -d(gamma)/d(A r), zero where a bound holds."""
    push = scaled * r
    total = c.spread + push
    runaway = c.poisson & (total <= 0)
    safe = jnp.where(c.poisson & ~runaway, total, 1.0)
    free = jnp.where(c.poisson, c.auxiliary / safe, c.auxiliary - c.spread**2 * push)
    free = jnp.where(runaway, jnp.inf, free)
    gamma = jnp.clip(free, c.lower, c.upper)
    inside = (free > c.lower) & (free < c.upper)
    return gamma, jnp.where(inside, jnp.where(c.poisson, gamma / safe, c.spread**2), 0.0)


def _excess(expected: Array, n: Array, rest: Array, scaled: Array, c: Constraints) -> Array:
    """What must vanish: expectation minus the sum of the parts at the factors that go with it."""
    gamma, _ = best_factor(poisson_slopes(n, expected)[0], scaled, c)
    return expected - rest - jnp.sum(scaled * gamma, axis=0)


@jax.custom_jvp
def _expected(n: Array, rest: Array, scaled: Array, c: Constraints) -> Array:
    if scaled.shape[0] == 1:
        return _one_factor(n, rest, scaled[0], c)
    ends = jnp.stack([scaled * c.lower, scaled * c.upper])
    low = rest + jnp.sum(jnp.min(ends, axis=0), axis=0)
    high = rest + jnp.sum(jnp.max(ends, axis=0), axis=0)

    def error(x: Array) -> tuple[Array, Array, Array]:
        r, w = poisson_slopes(n, x)
        gamma, v = best_factor(r, scaled, c)
        parts = scaled * gamma
        size = jnp.abs(x) + jnp.abs(rest) + jnp.sum(jnp.abs(parts), axis=0)
        excess = x - rest - jnp.sum(parts, axis=0)
        # 1e-14 is some forty roundings of the sum
        excess = jnp.where(jnp.abs(excess) <= 1e-14 * size, 0.0, excess)
        return excess, 1 + w * jnp.sum(scaled**2 * v, axis=0), x

    def body(state: tuple) -> tuple:
        (excess, slope, x), low, high, steps = state
        low, high = jnp.where(excess < 0, x, low), jnp.where(excess > 0, x, high)
        new = x - excess / slope
        new = jnp.where((new >= low) & (new <= high), new, 0.5 * (low + high))
        new = jnp.where(excess == 0, x, new)
        return error(new), low, high, steps + 1

    # start as if all errors were Gaussian and small
    center = jnp.where(c.poisson, c.auxiliary / jnp.where(c.poisson, c.spread, 1.0), c.auxiliary)
    center = jnp.clip(center, c.lower, c.upper)
    variance = jnp.where(c.poisson, center / jnp.where(c.poisson, c.spread, 1.0), c.spread**2)
    variance = jnp.sum(jnp.where(c.lower < c.upper, variance * scaled**2, 0.0), axis=0)
    prior = rest + jnp.sum(scaled * center, axis=0)
    start = prior + (n - prior) * variance / jnp.maximum(variance + jnp.abs(prior), 1e-300)
    start = jnp.clip(start, low, high)
    state = (error(start), low, high, jnp.array(0))
    (_, _, x), *_ = jax.lax.while_loop(lambda s: jnp.any(jnp.abs(s[0][0]) > 0) & (s[3] < 100), body, state)
    return x


@_expected.defjvp
def _expected_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x = _expected(*primals)
    _, right = jax.jvp(lambda *inputs: _excess(x, *inputs), primals, tangents)
    _, slope = jax.jvp(lambda y: _excess(y, *primals), (x,), (jnp.ones_like(x),))
    return x, -right / slope


def _one_factor(n: Array, rest: Array, a: Array, c: Constraints) -> Array:
    """Expectation of bins with one factor: the positive root of the quadratic equation for it.

    The equation is written for gamma - center, so that nothing cancels when the constraint is tight.
    """
    poisson, lower, upper, s = c.poisson[0], c.lower[0], c.upper[0], c.spread[0]
    center = jnp.clip(c.auxiliary[0] / jnp.where(poisson, s, 1.0), lower, upper)
    prior = rest + a * center
    miss = prior - n
    square = jnp.where(poisson, a * (a + s), a)
    linear = jnp.where(poisson, a * (a * center + miss) + s * prior, prior + (a * s) ** 2)
    constant = a * miss * jnp.where(poisson, center, s * s)
    root = jnp.sqrt(jnp.maximum(linear**2 - 4 * square * constant, 0.0))
    delta = -2 * constant / jnp.where(linear > 0, linear + root, 1.0)
    delta = jnp.where(linear > 0, delta, (root - linear) / jnp.where(square != 0, 2 * square, 1.0))
    # lower - center, not the sum of the two: a tiny delta keeps its digits
    return prior + a * jnp.clip(delta, lower - center, upper - center)
