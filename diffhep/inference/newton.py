r"""A damped Newton minimiser that is a differentiable layer.

Steps come from an eigen-decomposition of the Hessian, scaled to unit diagonal so that units of parameters do not
matter, with the eigenvalues made positive (Nocedal and Wright, Numerical Optimization, ch. 3.4) and a Levenberg-
Marquardt damping that grows on failure. Bounds: parameters on a bound whose gradient points outwards are held. The
stop is on the gradient in units of each parameter's own uncertainty, |g|/sqrt(H_ii).

The derivative of the optimum is that of the implicit function theorem, $\dot\theta = -H^{-1}\,\partial_a g\,\dot a$,
and the derivative of the minimum is that of the envelope theorem, $\partial_a f$ at the optimum; neither looks inside
the loop, and both can be differentiated again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from diffhep.inference.likelihood import require_float64, second_order

CONVERGED, MAX_STEPS, STALLED, NOT_FINITE, IMPOSSIBLE = 0, 1, 2, 3, 4
REASONS = (
    "converged",
    "too many steps",
    "no further descent found",
    "objective not finite",
    "observed where nothing is expected",
)

Objective = Callable[[Array, PyTree], Array]
Derivatives = Callable[[Array, PyTree], tuple[Array, Array, Array]]


class Minimum(eqx.Module):
    """Where a minimisation ended.

    Attributes:
        theta: the parameters.
        value: the objective there.
        gradient_norm: largest |gradient|/sqrt(Hessian diagonal) among the parameters not held by a bound.
        steps: evaluations of objective, gradient and Hessian.
        status: 0 converged, otherwise see `reason`.
        at_bound: parameters held by a bound.
        hessian: second derivatives of the objective at the last point evaluated, one Newton step before `theta`.
    """

    theta: Float[Array, " parameter"]
    value: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    at_bound: Bool[Array, " parameter"]
    hessian: Float[Array, "parameter parameter"]

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the gradient is below the tolerance."""
        return self.status == CONVERGED

    @property
    def reason(self) -> str:
        """The status in words; for a concrete, single result."""
        return REASONS[int(self.status)]


def minimise(
    objective: Objective,
    init: Float[Array, " parameter"],
    args: PyTree = None,
    *,
    derivatives: Derivatives | None = None,
    lower: Float[Array, " parameter"] | None = None,
    upper: Float[Array, " parameter"] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> Minimum:
    """Minimum of a smooth function of a few hundred parameters at most.

    Works under jit and vmap and is differentiable, twice, with respect to `args` (not `init`): everything the objective
    depends on must be in there. A failure is a value: see `Minimum.status`.

    Args:
        objective: `objective(theta, args)`, a scalar with two derivatives; must not capture traced arrays.
        init: start, float64.
        args: any pytree.
        derivatives: `derivatives(theta, args)`, value, gradient and Hessian where there is a better way than automatic
            differentiation of the objective.
        lower: lower bounds; a parameter may lie on them.
        upper: upper bounds.
        tolerance: on `Minimum.gradient_norm`.
        max_steps: evaluations allowed.

    Raises:
        ValueError: single precision.

    >>> found = minimise(lambda x, a: jnp.sum((x - a) ** 4 + (x - a) ** 2), jnp.zeros(2), jnp.array([1.0, 2.0]))
    >>> [round(float(x), 6) for x in found.theta], bool(found.converged)
    ([1.0, 2.0], True)
    """
    init = jnp.asarray(init)
    require_float64(init)
    lower = jnp.full_like(init, -jnp.inf) if lower is None else lower
    upper = jnp.full_like(init, jnp.inf) if upper is None else upper
    problem = Problem(objective, derivatives or partial(second_order, objective), tolerance, max_steps)
    return attach(problem, search(problem, init, args, lower, upper), args)


class Problem(NamedTuple):
    """What is minimised, and how far: everything about a minimisation that is static."""

    objective: Objective
    derivatives: Derivatives
    tolerance: float = 1e-9
    max_steps: int = 200
    gradient: Callable[[Array, PyTree], Array] | None = None


def search(problem: Problem, init: Array, args: PyTree, lower: Array, upper: Array) -> Minimum:
    """The minimum as a constant: nothing of it can be differentiated."""
    init, args, lower, upper = constant((init, args, lower, upper))
    if init.size == 0:
        none = jnp.zeros(0, bool)
        value, nothing = problem.objective(init, args), jnp.zeros((0, 0))
        return Minimum(init, value, jnp.zeros(()), jnp.array(0), jnp.array(CONVERGED), none, nothing)
    return _loop(problem, jnp.clip(init, lower, upper), args, lower, upper)


def attach(problem: Problem, found: Minimum, args: PyTree) -> Minimum:
    """The minimum with its derivatives: those of the implicit function theorem and of the envelope theorem.

    The numbers stay what they are; keeping the two apart lets many fits share one loop that is never differentiated.
    """
    theta = attach_theta(problem, found, args)
    value = attach_value(problem, found, args)
    return eqx.tree_at(lambda m: (m.theta, m.value), found, (theta, value))


def attach_theta(problem: Problem, found: Minimum, args: PyTree) -> Array:
    """The optimum with its derivative, that of the implicit function theorem."""
    if not found.theta.size:
        return found.theta
    theta, hessian = constant((found.theta, found.hessian))
    return _implicit(args, theta, hessian, found.at_bound, problem=problem)


def attach_value(problem: Problem, found: Minimum, args: PyTree) -> Array:
    """The minimum with its derivative, that of the envelope theorem."""
    value, theta, hessian = constant((found.value, found.theta, found.hessian))
    return _envelope(value, args, theta, hessian, found.at_bound, problem=problem)


def constant(tree: PyTree) -> PyTree:
    """The tree without derivatives."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, tree)


@eqx.filter_custom_jvp
def _envelope(value: Array, args: PyTree, theta: Array, hessian: Array, at_bound: Array, *, problem: Problem) -> Array:
    return value


@_envelope.def_jvp
def _envelope_jvp(primals: tuple, tangents: tuple, *, problem: Problem) -> tuple[Array, Array]:
    value, args, theta, hessian, at_bound = primals
    # theta moves with the arguments, which first derivatives do not feel, but second ones do
    if theta.size:
        theta = _implicit(args, theta, hessian, at_bound, problem=problem)
    _, value_dot = eqx.filter_jvp(lambda a: problem.objective(theta, a), (args,), (tangents[1],))
    return _envelope(value, args, *primals[2:], problem=problem), value_dot


@eqx.filter_custom_jvp
def _implicit(args: PyTree, theta: Array, hessian: Array, at_bound: Array, *, problem: Problem) -> Array:
    return theta


@_implicit.def_jvp
def _implicit_jvp(primals: tuple, tangents: tuple, *, problem: Problem) -> tuple[Array, Array]:
    args, _, hessian, at_bound = primals
    theta = _implicit(*primals, problem=problem)
    gradient = problem.gradient or jax.grad(problem.objective)
    _, right = eqx.filter_jvp(lambda a: gradient(theta, a), (args,), (tangents[0],))
    free = ~at_bound & (jnp.diagonal(hessian) > 0)

    def operate(x: Array) -> Array:
        moved = problem.derivatives(theta, args)[2] @ jnp.where(free, x, 0.0)
        return jnp.where(free, moved, x)

    # the system is solved with the Hessian that the search left; `operate` is only looked at by the next derivative
    solve = lambda _, x: solve_free(hessian, x, free)
    right = jnp.where(free, right, 0.0)
    return theta, -jax.lax.custom_linear_solve(operate, right, solve, solve, symmetric=True)


def solve_free(hessian: Array, right: Array, free: Bool[Array, " parameter"]) -> Array:
    """Solution of H x = right among the free parameters, 0 for the others.

    Parameters the objective does not depend on are taken out as well.
    """
    diagonal = jnp.diagonal(hessian)
    free = free & (diagonal > 0)
    scale = jnp.where(free, jax.lax.rsqrt(jnp.where(free, diagonal, 1.0)), 0.0)
    matrix = hessian * scale[:, None] * scale + jnp.diag(jnp.where(free, 0.0, 1.0))
    if right.size == 1:
        return scale * (scale * right) / matrix[0, 0]
    return scale * jnp.linalg.solve(matrix, scale * right)


def _free(theta: Array, gradient: Array, lower: Array, upper: Array) -> Array:
    """Parameters that may move: not on a bound with the descent direction pointing outwards."""
    return ~(((theta <= lower) & (gradient >= 0)) | ((theta >= upper) & (gradient <= 0)))


def _scale(hessian: Array) -> Array:
    diagonal = jnp.abs(jnp.diagonal(hessian))
    return jnp.where(diagonal > 1e-200, jax.lax.rsqrt(jnp.where(diagonal > 1e-200, diagonal, 1.0)), 1.0)


def _step(gradient: Array, hessian: Array, free: Array, damping: Array) -> Array:
    """Newton step with the spectrum of the scaled Hessian made positive, and damped."""
    scale = jnp.where(free, _scale(hessian), 0.0)
    g = scale * gradient
    matrix = hessian * scale[:, None] * scale
    if gradient.size == 1:
        return -scale * g / (jnp.maximum(jnp.abs(matrix[0]), 1e-12) + damping)
    values, vectors = jnp.linalg.eigh(matrix)
    return -scale * (vectors @ ((vectors.T @ g) / (jnp.maximum(jnp.abs(values), 1e-12) + damping)))


def _inside(x: Array, step: Array, lower: Array, upper: Array) -> Array:
    """The point a step leads to: shortened to the first bound it meets, so that its direction is kept.

    Where that would be hardly a step at all, the bounds are met one by one instead.
    """
    room = jnp.where(step > 0, upper - x, x - lower)
    share = jnp.min(jnp.where((step != 0) & (room > 0), room / jnp.where(step != 0, jnp.abs(step), 1.0), jnp.inf))
    step = jnp.where(share > 1e-3, jnp.minimum(share, 1.0), 1.0) * step
    # on the bound, not one rounding beside it
    there = jnp.abs(step) >= room * (1 - 1e-12)
    return jnp.where(there, jnp.where(step > 0, upper, lower), x + step)


def _loop(problem: Problem, theta: Array, args: PyTree, lower: Array, upper: Array) -> Minimum:
    # The state is packed into few arrays: XLA compiles one kernel for every array it has to select between.
    n = theta.size

    def body(state: tuple) -> tuple:
        # evaluates at the next point and keeps the better of two. One point that is worse is forgiven if the step from
        # there leads to a better one: in a narrow curved valley that is a step along it and a step back to its floor.
        vectors, h, scalars, steps, _ = state
        _x, _g, x_new = vectors
        f, norm, damping, forgiven = scalars
        f_new, g_new, h_new = problem.derivatives(x_new, args)
        free_new = _free(x_new, g_new, lower, upper)
        norm_new = jnp.max(jnp.abs(g_new) * _scale(h_new) * free_new)
        # near the minimum the decrease drowns in rounding, and only the gradient still tells
        noise = 1e-13 * (1 + jnp.abs(f_new))
        better = (f_new < f - noise) | ((f_new <= f + noise) & (norm_new < norm))
        finite = jnp.isfinite(f_new) & jnp.isfinite(norm_new)
        good = (steps == 0) | (better & finite)
        forgive = ~good & finite & (forgiven == 0)
        # the range is wide because a nearly flat valley wants a damping near its own tiny curvature
        worse = jnp.where(damping > 0, damping * 30, 1e-2)
        damping = jnp.where(good, damping / 20, jnp.where(forgive, damping, worse))
        damping = jnp.where(damping < 1e-14, 0.0, damping)
        new = jnp.stack([f_new, norm_new, damping, 0.0])
        scalars = jnp.where(good, new, jnp.stack([f, norm, damping, forgive.astype(f.dtype)]))
        go_on = good | forgive
        base, h_base = jnp.where(go_on, jnp.stack([x_new, g_new]), vectors[:2]), jnp.where(go_on, h_new, h)
        kept, h = jnp.where(good, base, vectors[:2]), jnp.where(good, h_new, h)
        step = _step(base[1], h_base, _free(base[0], base[1], lower, upper), damping)
        status = jnp.where(steps + 1 >= problem.max_steps, MAX_STEPS, -1)
        status = jnp.where(damping > 1e12, STALLED, status)
        status = jnp.where((steps == 0) & ~finite, NOT_FINITE, status)
        status = jnp.where(scalars[1] <= problem.tolerance, CONVERGED, status)
        target = _inside(base[0], step, lower, upper)
        return jnp.concatenate([kept, target[None]]), h, scalars, steps + 1, status

    zero = jnp.zeros_like(theta)
    state = (
        jnp.stack([theta, zero, theta]),
        jnp.eye(n, dtype=theta.dtype),
        jnp.array([jnp.inf, jnp.inf, 0.0, 0.0], theta.dtype),
        jnp.array(0),
        jnp.array(-1),
    )
    (x, g, ahead), h, scalars, steps, status = jax.lax.while_loop(lambda s: s[-1] == -1, body, state)
    # the next Newton step is known already, and brings the parameters from the tolerance to rounding
    x = jnp.where(status == CONVERGED, ahead, x)
    return Minimum(x, scalars[0], scalars[1], steps, status, ~_free(x, g, lower, upper), h)
