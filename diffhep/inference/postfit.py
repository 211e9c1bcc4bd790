r"""What is reported about one HistFactory fit: every parameter with its uncertainty, impacts, and yields with theirs.

Bin-by-bin factors $\gamma$ are profiled analytically, so that the fit has only $\theta$; what is said of them comes
from the Hessian of the joint likelihood in $(\theta, \gamma)$ all the same. Its inverse, by blocks, with $C$ the
covariance of $\theta$ (the inverse of the profiled Hessian, that is of the Schur complement) and
$G = d\hat\gamma/d\theta$:

$\mathrm{cov}(\theta, \gamma) = C G^T$, $\quad\mathrm{cov}(\gamma) = H_{\gamma\gamma}^{-1} + G C G^T$.

In a bin $H_{\gamma\gamma} = \mathrm{diag}(1/v) + w A A^T$ (symbols of `diffhep.inference.gammas`) and different bins do
not mix, hence $[H_{\gamma\gamma}^{-1}]_{kk} = v_k - (v_k A_k)^2 w/(1 + w \sum_j v_j A_j^2)$, and a fitted yield
$\lambda$ has variance $\lambda' C \lambda'^T + S/(1 + w S)$, $S = \sum_k v_k A_k^2$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffhep.inference import gammas as g
from diffhep.inference.absolute import saturated
from diffhep.inference.fitting import Fit
from diffhep.inference.likelihood import poisson_slopes
from diffhep.inference.model import HistFactory, Observation
from diffhep.kinematics import safe_div, safe_sqrt


class Estimates(eqx.Module):
    """Every parameter of a fit, analytic bin-by-bin factors included, one number per component.

    Attributes:
        value: best fit.
        uncertainty: standard deviation from the joint Hessian; 0 for those held, on a bound, or undetermined
            because the likelihood does not change along some direction they take part in.
        center: centre of the constraint; 0 for free parameters.
        width: width of the constraint; 0 for free parameters.
        linear: cov(mu, k)/sigma_k, the impact on the parameter of interest to first order; 0 if there is none.
        lower: lower bound.
        upper: upper bound.
        held: whether the measurement, or an empty bin, keeps the component fixed.
        at_bound: whether the fit ended on a bound.
        names: names of the components as pyhf has them, those of the model's `theta` first.
    """

    value: Float[Array, " component"]
    uncertainty: Float[Array, " component"]
    center: Float[Array, " component"]
    width: Float[Array, " component"]
    linear: Float[Array, " component"]
    lower: Float[Array, " component"]
    upper: Float[Array, " component"]
    held: Bool[Array, " component"]
    at_bound: Bool[Array, " component"]
    names: tuple[str, ...] = eqx.field(static=True)


class Yields(eqx.Module):
    """Expected counts, padded to the longest channel.

    Attributes:
        samples: counts of every sample.
        total: their sum.
        uncertainty: its standard deviation from the parameters' uncertainties; without that of the counts themselves.
    """

    samples: Float[Array, "channel sample bin"]
    total: Float[Array, "channel bin"]
    uncertainty: Float[Array, "channel bin"]


class PostFit(eqx.Module):
    """What follows from a fit; it means nothing if the fit did not converge.

    Attributes:
        twice_nll: -2 ln L with all constants, as pyhf counts them.
        estimates: every parameter.
        before: yields at the start values, with the constraints' widths as uncertainties.
        after: yields at the best fit.
        ndf: bins minus free parameters.
    """

    twice_nll: Float[Array, ""]
    estimates: Estimates
    before: Yields
    after: Yields
    ndf: Float[Array, ""]


class _Point(eqx.Module):
    """Expected counts around one point: parts and factors, with their slopes on the last axis."""

    rest: Float[Array, "channel bin *parameter"]
    scaled: Float[Array, "slot channel bin *parameter"]
    gamma: Float[Array, "slot channel bin *parameter"]


@eqx.filter_jit
def postfit(model: HistFactory, found: Fit, data: Observation) -> PostFit:
    """All that is reported about a fit, in one compiled call.

    Args:
        model: the model, float64.
        found: its fit to `data`.
        data: observed data.

    >>> from diffhep.inference import fit, histfactory
    >>> unc = {"name": "db", "type": "shapesys", "data": [10.0]}
    >>> channel = {"name": "c", "samples": [{"name": "b", "data": [100.0], "modifiers": [unc]}]}
    >>> model = histfactory([channel], poi=None)
    >>> data = model.data([100.0])
    >>> found = postfit(model, fit(model, data), data).estimates
    >>> found.names, round(float(found.uncertainty[0]), 6)  # 1/sqrt(100 + 100): constraint and bin weigh the same
    (('db[0]',), 0.070711)
    """

    def point(theta: Array) -> _Point:
        return _Point(*model.parts(theta), model.best_gammas(theta, data))

    # before and after the fit, and both with slopes, in one vectorised program
    both = jnp.stack([model.init, found.theta])
    at, slopes = jax.vmap(lambda theta: (point(theta), jax.jacfwd(point)(theta)))(both)
    pick = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    matrix, lost = _covariance(model, found, data)
    estimates, after = _after(model, found, data, matrix, lost, pick(at, 1), pick(slopes, 1))
    return PostFit(
        twice_nll=2 * found.nll - 2 * saturated(model, data),
        estimates=estimates,
        before=_before(model, data, pick(at, 0), pick(slopes, 0)),
        after=after,
        ndf=model.degrees_of_freedom(),
    )


def _covariance(model: HistFactory, found: Fit, data: Observation) -> tuple[Array, Array]:
    """Covariance of `theta` without directions the likelihood does not depend on, and the parameters those move."""
    hessian = model.derivatives(found.theta, data)[2]
    diagonal = jnp.diagonal(hessian)
    free = ~found.at_bound & ~np.isin(np.array(model.names), model.fixed)
    known = free & (diagonal > 0)
    scale = jnp.where(known, jax.lax.rsqrt(jnp.where(known, diagonal, 1.0)), 0.0)
    values, vectors = jnp.linalg.eigh(hessian * scale[:, None] * scale + jnp.diag(jnp.where(known, 0.0, 1.0)))
    # scaled to a unit diagonal, where rounding is 1e-14 or so
    flat = values < 1e-10
    inverse = jnp.where(flat, 0.0, 1 / jnp.where(flat, 1.0, values))
    moved = jnp.sum(jnp.where(flat, vectors**2, 0.0), axis=1) > 1e-8
    return (vectors * inverse) @ vectors.T * scale[:, None] * scale, moved | (free & ~known)


def _after(
    model: HistFactory, found: Fit, data: Observation, matrix: Array, lost: Array, at: _Point, slopes: _Point
) -> tuple[Estimates, Yields]:
    c, used = model.constraints(data.gammas), model.mask > 0
    total = at.rest + jnp.sum(at.scaled * at.gamma, axis=0)
    r, w = poisson_slopes(model.grid(data.counts), total)
    _, v = g.best_factor(jnp.where(used, r, 0.0), at.scaled, c)
    w = jnp.where(used, w, 0.0)
    room = jnp.sum(v * at.scaled**2, axis=0)
    mixed = jnp.einsum("scbp,pq->scbq", slopes.gamma, matrix)
    variance = v - (v * at.scaled) ** 2 * w / (1 + w * room) + jnp.sum(mixed * slopes.gamma, axis=3)
    sigma = jnp.where(lost, 0.0, safe_sqrt(jnp.diagonal(matrix))), safe_sqrt(variance)
    with_poi = (matrix[model.poi], mixed[..., model.poi]) if model.poi >= 0 else (0 * found.theta, 0 * variance)
    held, free = np.isin(np.array(model.names), model.fixed), c.lower < c.upper
    center, width = model.constraint_of(data)
    safe = jnp.where(c.poisson, c.spread, 1.0)
    join = lambda theta, gamma: jnp.concatenate([theta, _components(model, gamma)])
    estimates = Estimates(
        value=join(found.theta, at.gamma),
        uncertainty=join(*sigma),
        center=join(center, jnp.where(c.poisson, c.auxiliary / safe, c.auxiliary)),
        width=join(width, jnp.where(c.poisson, 1 / jnp.sqrt(safe), c.spread)),
        linear=join(*(safe_div(x, s) for x, s in zip(with_poi, sigma, strict=True))),
        lower=join(model.lower, c.lower),
        upper=join(model.upper, c.upper),
        held=join(jnp.asarray(held), ~free),
        at_bound=join(found.at_bound & ~held, free & (v == 0)),
        names=component_names(model),
    )
    slope = slopes.rest + jnp.sum(slopes.scaled * at.gamma[..., None] + at.scaled[..., None] * slopes.gamma, axis=0)
    spread = jnp.einsum("cbp,pq,cbq->cb", slope, matrix, slope) + room / (1 + w * room)
    return estimates, Yields(_per_sample(model, found.theta, at.gamma), total, safe_sqrt(spread))


def _before(model: HistFactory, data: Observation, at: _Point, slopes: _Point) -> Yields:
    c, gamma = model.constraints(data.gammas), model.gamma_init
    width = jnp.where(np.isin(np.array(model.names), model.fixed), 0.0, model.constraint_of(data)[1])
    slope = slopes.rest + jnp.sum(slopes.scaled * gamma[..., None], axis=0)
    square = jnp.where(c.poisson, 1 / jnp.where(c.poisson, c.spread, 1.0), c.spread**2)
    own = jnp.sum(jnp.where(c.lower < c.upper, square, 0.0) * at.scaled**2, axis=0)
    total = at.rest + jnp.sum(at.scaled * gamma, axis=0)
    variance = jnp.sum((slope * width) ** 2, axis=2) + own
    return Yields(_per_sample(model, model.init, gamma), total, safe_sqrt(variance))


def component_names(model: HistFactory) -> tuple[str, ...]:
    """Names of all components as pyhf has them: those of `theta`, then the analytic factors as name[i]."""
    t = model.structure
    return (*model.names, *(f"{one.name}[{one.first + i}]" for one in t.gammas for i in range(t.bins[one.channel])))


def _components(model: HistFactory, gamma: Array) -> Array:
    """Numbers of the analytic factors one after the other, without padding."""
    parts = [gamma[one.slot, one.channel, : model.structure.bins[one.channel]] for one in model.structure.gammas]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, gamma.dtype)


def _per_sample(model: HistFactory, theta: Array, gamma: Array) -> Array:
    """Yields of every sample with its analytic factor."""
    slots, yields = model.structure.slots.values, model.yields(theta)
    if not model.structure.n_slots:
        return yields
    factor = gamma[slots, np.arange(slots.shape[0])[:, None]]
    return yields * jnp.where(slots[..., None] >= 0, factor, 1.0)
