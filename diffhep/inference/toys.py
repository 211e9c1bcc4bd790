"""Pseudo-experiments: main and auxiliary data drawn, every one fitted, in chunks of one compiled loop.

A toy whose fits do not converge is not an exception; it is left out of the fractions and counted.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from diffhep.inference.fitting import chunk_size, poi_of, repeat, search_each
from diffhep.inference.hypotest import Statistic, check_statistic, statistics
from diffhep.inference.likelihood import AbstractModel
from diffhep.kinematics import safe_div, safe_sqrt

Hypothesis = Literal["q", "qtilde", "q0"]


class ToyTest(eqx.Module):
    """CLs from pseudo-experiments.

    Attributes:
        observed: CLs.
        error: its standard error from the finite number of toys.
        expected: CLs for the quantiles of the test statistic without signal, at -2 ... +2 standard deviations.
        cl_sb: fraction of toys with signal at least as extreme as the data.
        cl_b: fraction of toys without.
        q: observed test statistic.
        failed: number of toys, of both kinds, whose fits did not converge.
    """

    observed: Float[Array, ""]
    error: Float[Array, ""]
    expected: Float[Array, "5"]
    cl_sb: Float[Array, ""]
    cl_b: Float[Array, ""]
    q: Float[Array, ""]
    failed: Int[Array, ""]


def toy_test(
    model: AbstractModel,
    data: PyTree,
    mu: Float[ArrayLike, ""] = 1.0,
    *,
    toys: int = 1000,
    key: PRNGKeyArray,
    statistic: Statistic = "qtilde",
    chunk: int | None = None,
) -> ToyTest:
    """CLs of a signal strength from pseudo-experiments with and without signal.

    Nuisance parameters are at their conditional fits to the data; main and auxiliary measurements are drawn.

    Args:
        model: the model, float64; it must be able to `sample`.
        data: observed data.
        mu: the strength to test.
        toys: number of pseudo-experiments for each hypothesis.
        key: typed key.
        statistic: "qtilde" or "q".
        chunk: toys fitted at a time; memory grows with it. Default `chunk_size`.

    Raises:
        ValueError: no parameter of interest, no toys, an unknown statistic.
    """
    poi_of(model)
    check_statistic(statistic)
    chunk = chunk_size(model, data) if chunk is None else chunk
    if toys < 1 or chunk < 1:
        msg = f"toys: at least one is wanted, got {toys} in chunks of {chunk}"
        raise ValueError(msg)
    return _toy_test(model, data, jnp.asarray(mu, dtype=float), toys, key, statistic, min(chunk, toys))


@eqx.filter_jit
def _toy_test(
    model: AbstractModel, data: PyTree, mu: Array, toys: int, key: PRNGKeyArray, statistic: Statistic, chunk: int
) -> ToyTest:
    poi = model.poi
    place = np.eye(len(model.names))[poi]
    held = np.stack([0 * place, place, place]) > 0
    values = jnp.stack([0 * mu, mu, 0 * mu])[:, None] * place
    observed = search_each(model, repeat(data, 3), values, held)
    q = statistics(mu, observed.theta[0, poi], observed.value[0], observed.value[1], observed.value[2], statistic)

    def run(key: PRNGKeyArray, truth: Array) -> tuple[Array, Array]:
        def batch(keys: Array) -> tuple[Array, Array]:
            return toy_statistics(model, sample_each(model, truth, data, keys), mu, statistic)

        keys = jr.split(key, -(-toys // chunk) * chunk).reshape(-1, chunk)
        q, good = jax.lax.map(batch, keys)
        return q.reshape(-1)[:toys], good.reshape(-1)[:toys]

    (q_sb, good_sb), (q_b, good_b) = (run(k, observed.theta[i]) for k, i in zip(jr.split(key), (1, 2), strict=True))
    above = lambda level, q, good: safe_div(jnp.sum(good & (q >= level)).astype(float), jnp.sum(good).astype(float))
    cl_sb, cl_b = above(q, q_sb, good_sb), above(q, q_b, good_b)
    n_sb, n_b = jnp.sum(good_sb), jnp.sum(good_b)
    relative = safe_div(1 - cl_sb, cl_sb * n_sb) + safe_div(1 - cl_b, cl_b * n_b)
    # quantiles of the statistic without signal; -2 sigma is the most extreme one, hence the smallest CLs
    tail = jax.scipy.stats.norm.cdf(jnp.array([2.0, 1.0, 0.0, -1.0, -2.0]))
    levels = jnp.nanquantile(jnp.where(good_b, q_b, jnp.nan), tail)
    expected = jax.vmap(lambda level: safe_div(above(level, q_sb, good_sb), above(level, q_b, good_b)))(levels)
    return ToyTest(
        observed=safe_div(cl_sb, cl_b),
        error=safe_div(cl_sb, cl_b) * safe_sqrt(relative),
        expected=expected,
        cl_sb=cl_sb,
        cl_b=cl_b,
        q=q,
        failed=jnp.sum(~good_sb) + jnp.sum(~good_b),
    )


def sample_each(model: AbstractModel, theta: Array, data: PyTree, keys: Array) -> PyTree:
    """One pseudo-experiment per key, at `theta` with analytic factors as fitted to `data`."""
    return jax.vmap(lambda key: model.sample(theta, data, key=key))(keys)


def toy_statistics(
    model: AbstractModel, data: PyTree, mu: Float[Array, ""], statistic: Statistic
) -> tuple[Float[Array, " toy"], Array]:
    """Test statistics of many data sets, and which of them can be trusted because their fits converged."""
    count = jax.tree.leaves(data)[0].shape[0]
    place = np.eye(len(model.names))[model.poi]
    strengths = [mu] if statistic == "q" else [mu, 0 * mu]
    free = search_each(model, data, jnp.zeros((count, place.size)), np.zeros((count, place.size), dtype=bool))
    good, nll = free.converged, []
    for strength in strengths:
        rows = jnp.broadcast_to(strength * place, (count, place.size))
        fits = search_each(model, data, rows, np.broadcast_to(place > 0, rows.shape), start=free.theta)
        good, nll = good & fits.converged, [*nll, fits.value]
    return statistics(mu, free.theta[:, model.poi], free.value, nll[0], nll[-1], statistic), good
