r"""Upper limits on the signal strength: where CLs reaches 1 minus the confidence level, observed and expected.

The root is found by Newton's method on ln CLs inside a bracket, observed limit and five bands in one loop. Its
derivative is that of the implicit function theorem, $d\mu/d\phi = -\partial_\phi \ln CL_s / \partial_\mu \ln CL_s$, and
nothing is differentiated inside the loop.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import log_ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from diffhep.inference.asymptotics import root_of_q
from diffhep.inference.fitting import Fit, attach_each, poi_of, repeat, search_each
from diffhep.inference.hypotest import BANDS, Statistic, check_statistic, statistics, tails
from diffhep.inference.likelihood import AbstractModel
from diffhep.inference.newton import constant


class UpperLimit(eqx.Module):
    """Upper limits on the parameter of interest.

    Attributes:
        observed: limit from the observed data.
        expected: limits if there is no signal, at -2, -1, 0, +1, +2 standard deviations (smallest first).
        converged: whether the limits and all fits behind them converged.
        gradient_norm: largest gradient of the fits.
        residual: largest |ln CLs - ln(1 - level)| at the limits.
    """

    observed: Float[Array, ""]
    expected: Float[Array, "5"]
    converged: Bool[Array, ""]
    gradient_norm: Float[Array, ""]
    residual: Float[Array, ""]


def upper_limit(
    model: AbstractModel, data: PyTree, *, level: Float[ArrayLike, ""] = 0.95, statistic: Statistic = "qtilde"
) -> UpperLimit:
    """CLs upper limit at a confidence level, with its expected bands.

    Args:
        model: the model, float64.
        data: observed data.
        level: confidence level.
        statistic: "qtilde" or "q".

    Raises:
        ValueError: no parameter of interest, a level outside (0, 1), an unknown statistic.

    >>> from diffhep.inference import histfactory
    >>> signal = {"name": "s", "data": [12.0, 11.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    >>> unc = {"name": "db", "type": "shapesys", "data": [3.0, 7.0]}
    >>> background = {"name": "b", "data": [50.0, 52.0], "modifiers": [unc]}
    >>> model = histfactory([{"name": "SR", "samples": [signal, background]}])
    >>> round(float(upper_limit(model, model.data([51.0, 48.0])).observed), 4)
    1.0115
    """
    poi_of(model)
    check_statistic(statistic)
    if not isinstance(level, Tracer) and not 0 < np.asarray(level).item() < 1:
        msg = f"level: a number between 0 and 1 is wanted, got {level}"
        raise ValueError(msg)
    return _upper_limit(model, data, jnp.asarray(level, dtype=float), statistic)


@eqx.filter_jit
def _upper_limit(model: AbstractModel, data: PyTree, level: Array, statistic: Statistic) -> UpperLimit:
    # best fit and background-only fit, once; every strength is then two more fits
    poi = model.poi
    place = np.eye(len(model.names))[poi]
    values, held = jnp.zeros((2, len(model.names))), np.stack([np.zeros_like(place), place]) > 0
    base = search_each(model, repeat(data, 2), values, held)
    base = attach_each(model, repeat(data, 2), values, held, base)
    asimov = model.asimov(base.theta[1], data)
    args = (model, data, asimov, base.theta[0, poi], base.nll, level)
    # arXiv:1007.1727 eq. 89, with sigma from the Asimov data at mu = 1
    probe = search_each(model, repeat(asimov, 1), place[None], place[None] > 0)
    sigma = jnp.maximum(1.0 / jnp.maximum(root_of_q(2 * probe.value[0]), 1e-6), 1e-6)
    bands = -BANDS
    guess = sigma * (ndtri(1 - (1 - level) * jnp.exp(log_ndtr(bands))) + bands)
    guess = constant(jnp.concatenate([guess[2:3] + jnp.maximum(base.theta[:1, poi], 0), guess]))
    mu, start, steps = _roots(constant(args), jnp.maximum(guess, 1e-3 * sigma), constant(base.theta[1]), statistic)
    mu = _limit(mu, args, start, statistic=statistic)
    residual, fits = _excess(mu, args, start, statistic)
    return UpperLimit(
        observed=mu[0],
        expected=mu[1:],
        converged=jnp.all(fits.converged)
        & jnp.all(base.converged)
        & (jnp.max(jnp.abs(residual)) < 1e-6)
        & (steps < 100),
        gradient_norm=jnp.maximum(jnp.max(fits.gradient_norm), jnp.max(base.gradient_norm)),
        residual=jnp.max(jnp.abs(residual)),
    )


def _excess(
    mu: Float[Array, "6"], args: PyTree, start: Float[Array, "7 parameter"], statistic: Statistic
) -> tuple[Float[Array, "6"], Fit]:
    """How far ln CLs is above its goal, for the observed limit and the five bands, each at its own strength."""
    model, data, asimov, mu_hat, base, level = args
    place = np.eye(len(model.names))[model.poi]
    # fit 0 is to the data at the observed limit, the others to the Asimov data
    values = jnp.concatenate([mu[:1], mu])[:, None] * place
    sets = jax.tree.map(lambda d, a: jnp.concatenate([d[None], jnp.broadcast_to(a, (6, *a.shape))]), data, asimov)
    held = np.broadcast_to(place > 0, values.shape)
    fits = search_each(model, sets, values, held, start=start)
    fits = attach_each(model, sets, values, held, fits)
    q_asimov = 2 * fits.nll[1:]
    q = statistics(mu[0], mu_hat, base[0], fits.nll[0], base[1], statistic)
    log_sb, log_b = tails(q, q_asimov[0], statistic)
    bands = BANDS
    expected = log_ndtr(-bands - root_of_q(q_asimov[1:])) - log_ndtr(-bands)
    return jnp.concatenate([(log_sb - log_b)[None], expected]) - jnp.log1p(-level), fits


def _slope(mu: Array, args: PyTree, start: Array, statistic: Statistic) -> tuple[Array, Array, Array]:
    """The excess, its derivative with respect to each one's own strength, and the fitted parameters."""

    def run(x: Array) -> tuple[Array, Array]:
        value, fits = _excess(x, args, start, statistic)
        return value, fits.theta

    (value, theta), (slope, _) = jax.jvp(run, (mu,), (jnp.ones_like(mu),))
    return value, slope, theta


def _roots(args: PyTree, mu: Array, theta: Array, statistic: Statistic) -> tuple[Array, Array, Array]:
    """Newton's method inside a bracket; ln CLs falls with mu."""

    def body(state: tuple) -> tuple:
        mu, low, high, start, steps, _ = state
        value, slope, start = _slope(mu, args, start, statistic)
        low, high = jnp.where(value > 0, mu, low), jnp.where(value <= 0, mu, high)
        new = mu - value / jnp.where(slope < 0, slope, -1e-300)
        # without an upper end yet at most three times as far, otherwise inside
        inside = (new > low) & (new < high) & (new < 3 * mu + 1e-12)
        new = jnp.where(inside, new, jnp.where(jnp.isfinite(high), 0.5 * (low + high), 3 * mu))
        done = jnp.abs(value) < 1e-11
        return jnp.where(done, mu, new), low, high, start, steps + 1, jnp.all(done | (high - low <= 1e-15 * high))

    start = jnp.broadcast_to(theta, (7, theta.size))
    state = (mu, jnp.zeros_like(mu), jnp.full_like(mu, jnp.inf), start, jnp.array(0), jnp.array(False))
    mu, _, _, start, steps, _ = jax.lax.while_loop(lambda s: ~s[-1] & (s[-2] < 100), body, state)
    return mu, start, steps


@eqx.filter_custom_jvp
def _limit(mu: Array, args: PyTree, start: Array, *, statistic: Statistic) -> Array:
    return mu


@_limit.def_jvp
def _limit_jvp(primals: tuple, tangents: tuple, *, statistic: Statistic) -> tuple[Array, Array]:
    mu, args, start = primals
    mu = _limit(mu, args, start, statistic=statistic)
    _, value_dot = eqx.filter_jvp(lambda a: _excess(mu, a, start, statistic)[0], (args,), (tangents[1],))
    _, slope, _ = _slope(mu, args, start, statistic)
    return mu, -value_dot / slope
