r"""What follows from a fit: covariance, pulls, impacts, scans, intervals and goodness of fit.

The covariance is the inverse Hessian at the best fit; bin-by-bin factors that were profiled analytically enter it
exactly. An impact is the shift of the parameter of interest when one parameter moves by its own uncertainty: either
with everything fitted again, or to first order, cov(mu, k)/sigma_k, which is the implicit function theorem applied to
the fit.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from diffhep.inference.fitting import Fit, fit, fit_each, index_of, poi_of, repeat
from diffhep.inference.likelihood import AbstractModel
from diffhep.inference.newton import solve_free
from diffhep.kinematics import safe_div, safe_sqrt


class Impacts(eqx.Module):
    """Shifts of the parameter of interest, one number per parameter in the order of the model's `names`.

    Attributes:
        up: shift when the parameter is fixed at its best fit plus its uncertainty and the rest is fitted again.
        down: the same for minus.
        linear: cov(mu, k)/sigma_k, the shift to first order.
        pull: best fit minus centre of the constraint, in units of the constraint's width; 0 for free parameters.
        constraint: uncertainty after the fit divided by that before; 0 for free parameters.
        converged: whether both fits of the parameter converged.
    """

    up: Float[Array, " parameter"]
    down: Float[Array, " parameter"]
    linear: Float[Array, " parameter"]
    pull: Float[Array, " parameter"]
    constraint: Float[Array, " parameter"]
    converged: Bool[Array, " parameter"]


class Interval(eqx.Module):
    """Where twice the profiled likelihood rises by a given amount above its minimum.

    Attributes:
        low: lower end per parameter; the bound where that is met first.
        high: upper end.
        converged: whether both ends were found.
    """

    low: Float[Array, " parameter"]
    high: Float[Array, " parameter"]
    converged: Bool[Array, " parameter"]


class GoodnessOfFit(eqx.Module):
    """Comparison of the best fit with the saturated model.

    Attributes:
        statistic: twice the log-likelihood ratio to the model that fits every bin and every constraint perfectly.
        ndf: number of bins minus number of free parameters.
        p_value: chance of a larger statistic, from the chi-squared distribution.
    """

    statistic: Float[Array, ""]
    ndf: Float[Array, ""]
    p_value: Float[Array, ""]


@eqx.filter_jit
def covariance(model: AbstractModel, found: Fit, data: PyTree) -> Float[Array, "parameter parameter"]:
    """Covariance matrix of the parameters of a fit; zero for those held or on a bound.

    Args:
        model: the model.
        found: its fit to `data`.
        data: the data.
    """
    _, _, hessian = model.derivatives(found.theta, data)
    free = ~found.at_bound & ~np.isin(np.array(model.names), model.fixed)
    columns = jax.vmap(lambda unit: solve_free(hessian, unit, free))(jnp.diag(free.astype(float)))
    return 0.5 * (columns + columns.T)


def uncertainties(model: AbstractModel, found: Fit, data: PyTree) -> Float[Array, " parameter"]:
    """Standard deviations of the parameters of a fit, from the covariance matrix."""
    return safe_sqrt(jnp.diagonal(covariance(model, found, data)))


def correlation(covariance: Float[Array, "parameter parameter"]) -> Float[Array, "parameter parameter"]:
    """Correlation matrix; zero for parameters without uncertainty."""
    sigma = safe_sqrt(jnp.diagonal(covariance))
    return safe_div(covariance, sigma[:, None] * sigma)


@eqx.filter_jit
def impacts(model: AbstractModel, data: PyTree) -> Impacts:
    """Impact of every parameter on the parameter of interest, refitted and to first order, in one compiled call.

    Args:
        model: the model, float64.
        data: observed data.

    Raises:
        ValueError: no parameter of interest.
    """
    poi, n = poi_of(model), len(model.names)
    best = fit(model, data)
    matrix = covariance(model, best, data)
    sigma = safe_sqrt(jnp.diagonal(matrix))
    shift = jnp.concatenate([jnp.diag(sigma), -jnp.diag(sigma)])
    target = jnp.clip(best.theta + shift, model.lower, model.upper)
    held = np.tile(np.eye(n, dtype=bool), (2, 1))
    fits = fit_each(model, repeat(data, 2 * n), target, held, start=target)
    moved = (fits.theta[:, poi] - best.theta[poi]).reshape(2, n)
    center, width = model.constraint_of(data)
    return Impacts(
        up=moved[0],
        down=moved[1],
        linear=safe_div(matrix[poi], sigma),
        pull=safe_div(best.theta - center, width),
        constraint=safe_div(sigma, width),
        converged=jnp.all(fits.converged.reshape(2, n), axis=0) & best.converged,
    )


def scan(model: AbstractModel, data: PyTree, name: str, values: Float[ArrayLike, " point"]) -> Fit:
    """Profile-likelihood scan: the model fitted with one parameter held at each of the values.

    Returns:
        A `Fit` with one more axis in front; twice `nll` minus its minimum is the curve usually drawn.

    Raises:
        ValueError: a parameter the model does not have.
    """
    index = index_of(model.names, name)
    return _scan(model, data, index, jnp.asarray(values, dtype=float))


@eqx.filter_jit
def _scan(model: AbstractModel, data: PyTree, index: int, values: Array) -> Fit:
    place = np.eye(len(model.names))[index]
    rows = values[:, None] * place
    return fit_each(model, repeat(data, values.size), rows, np.broadcast_to(place > 0, rows.shape))


@eqx.filter_jit
def intervals(model: AbstractModel, data: PyTree, rise: Float[ArrayLike, ""] = 1.0) -> Interval:
    r"""Likelihood intervals of all parameters, as MINOS gives them: where $2\Delta\mathrm{nll}$ = `rise`.

    Every end is found by a secant iteration on the root of the rise, all in one loop.

    Args:
        model: the model, float64.
        data: observed data.
        rise: 1 for 68.3 % of one parameter, 3.84 for 95 %.
    """
    best = fit(model, data)
    n = len(model.names)
    sigma = safe_sqrt(jnp.diagonal(covariance(model, best, data)))
    rise = jnp.asarray(rise, dtype=float)
    held = np.tile(np.eye(n, dtype=bool), (2, 1))
    side = np.repeat([1.0, -1.0], n)
    center, unit = jnp.tile(best.theta, 2), jnp.tile(jnp.where(sigma > 0, sigma, 1.0), 2)
    room = jnp.where(side > 0, jnp.tile(model.upper, 2) - center, center - jnp.tile(model.lower, 2))
    data = repeat(data, 2 * n)

    def height(distance: Array, start: Array) -> tuple[Array, Array, Array]:
        rows = jnp.where(held, (center + side * distance)[:, None], 0.0)
        fits = fit_each(model, data, rows, held, start=start)
        return safe_sqrt(2 * (fits.nll - best.nll)), fits.theta, fits.converged

    def body(state: tuple) -> tuple:
        # the root of the rise is a straight line for a parabola, so the proportional step is nearly Newton's
        distance, low, high, start, steps, _, _ = state
        value, start, good = height(distance, start)
        target = jnp.sqrt(rise)
        low, high = jnp.where(value < target, distance, low), jnp.where(value >= target, distance, high)
        done = (jnp.abs(value - target) < 1e-10) | ((distance >= room) & (value <= target))
        new = distance * target / jnp.maximum(value, 0.2 * target)
        new = jnp.where((new > low) & (new < high), new, 0.5 * (low + jnp.minimum(high, 4 * distance)))
        new = jnp.minimum(new, room)
        return jnp.where(done, distance, new), low, high, start, steps + 1, done, good

    first = jnp.minimum(unit * jnp.sqrt(rise), room)
    start = jnp.broadcast_to(best.theta, (2 * n, n))
    off = jnp.zeros(2 * n, bool)
    state = (first, jnp.zeros(2 * n), jnp.full(2 * n, jnp.inf), start, jnp.array(0), off, off)
    distance, *_, done, good = jax.lax.while_loop(lambda s: ~jnp.all(s[5]) & (s[4] < 60), body, state)
    ends = (center + side * distance).reshape(2, n)
    still = np.isin(np.array(model.names), model.fixed)
    return Interval(
        low=jnp.where(still, best.theta, ends[1]),
        high=jnp.where(still, best.theta, ends[0]),
        converged=jnp.all((done & good).reshape(2, n), axis=0) | still,
    )


def goodness_of_fit(model: AbstractModel, data: PyTree) -> GoodnessOfFit:
    """Goodness of fit against the saturated model (R. D. Cousins, "Generalization of chisquare goodness-of-fit", 2013).

    Args:
        model: the model, float64.
        data: observed data.
    """
    found = fit(model, data)
    statistic = 2 * found.nll
    ndf = model.degrees_of_freedom()
    return GoodnessOfFit(statistic, ndf, gammaincc(0.5 * jnp.maximum(ndf, 1e-9), 0.5 * statistic))
