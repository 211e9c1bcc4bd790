r"""The likelihood with all its constants and all its parameters, as other programs count them.

Fits use the deviance, which differs from -2 ln L by a constant of the data and has the bin-by-bin factors profiled out.
Here is the rest: every parameter by its name in the specification, the log-density with log-factorials and Gaussian
normalisations (pyhf's `logpdf`), and the constant between the two.
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffhep.inference import gammas as g
from diffhep.inference.model import HistFactory, Observation
from diffhep.inference.specification import FREE, GAUSS, POISSON


def parameter_values(
    model: HistFactory, theta: Float[Array, " parameter"], data: Observation
) -> dict[str, Float[Array, " component"]]:
    """Every parameter by its name: those of `theta`, and the bin-by-bin factors at their best for `theta` and `data`.

    Scalars come as lists of one, bin-by-bin factors as one number per bin.
    """
    gamma = model.best_gammas(theta, data)
    values = {name: theta[first : first + size] for name, first, size in model.structure.sets}
    for one in model.structure.gammas:
        part = gamma[one.slot, one.channel, : model.structure.bins[one.channel]]
        values[one.name] = jnp.concatenate([values[one.name], part]) if one.name in values else part
    return values


def unpack(
    model: HistFactory, values: Mapping[str, Float[ArrayLike, "*component"]]
) -> tuple[Float[Array, " parameter"], Float[Array, "slot channel bin"]]:
    """`theta` and the bin-by-bin factors from parameters by name; what is not named is at its start.

    Raises:
        ValueError: a name the model does not have, or a wrong number of components.
    """
    t, theta, gamma = model.structure, model.init, model.gamma_init
    sizes = {name: size for name, _, size in t.sets}
    for one in t.gammas:
        sizes[one.name] = sizes.get(one.name, 0) + t.bins[one.channel]
    arrays = {name: jnp.atleast_1d(jnp.asarray(value, dtype=float)) for name, value in values.items()}
    for name, value in arrays.items():
        if name not in sizes:
            msg = f"no parameter {name!r}; the model has {', '.join(sizes)}"
            raise ValueError(msg)
        if value.shape != (sizes[name],):
            msg = f"parameter {name!r}: {sizes[name]} component(s) wanted, got shape {value.shape}"
            raise ValueError(msg)
    for name, first, size in t.sets:
        if name in arrays:
            theta = theta.at[first : first + size].set(arrays[name])
    for one in t.gammas:
        if one.name in arrays:
            bins = t.bins[one.channel]
            gamma = gamma.at[one.slot, one.channel, :bins].set(arrays[one.name][one.first : one.first + bins])
    return theta, gamma


def expected_counts(model: HistFactory, values: Mapping[str, Float[ArrayLike, "*component"]]) -> Float[Array, " bin"]:
    """Expected main counts for parameters by name, channels one after the other."""
    theta, gamma = unpack(model, values)
    return _expected_counts(model, theta, gamma)


@eqx.filter_jit
def _expected_counts(model: HistFactory, theta: Array, gamma: Array) -> Array:
    rest, scaled = model.parts(theta)
    return model.flat(rest + jnp.sum(scaled * gamma, axis=0))


def logpdf(
    model: HistFactory, values: Mapping[str, Float[ArrayLike, "*component"]], data: Observation
) -> Float[Array, ""]:
    """Logarithm of the full density of main and auxiliary data at parameters given by name, constants included.

    >>> from diffhep.inference import histfactory
    >>> unc = {"name": "db", "type": "shapesys", "data": [5.0]}
    >>> channel = {"name": "c", "samples": [{"name": "b", "data": [50.0], "modifiers": [unc]}]}
    >>> model = histfactory([channel], poi=None)
    >>> round(float(logpdf(model, {"db": [1.1]}, model.data([52.0]))), 6)
    -6.846082
    """
    theta, gamma = unpack(model, values)
    return _logpdf(model, theta, gamma, data)


@eqx.filter_jit
def _logpdf(model: HistFactory, theta: Array, gamma: Array, data: Observation) -> Array:
    rest, scaled = model.parts(theta)
    n, c = model.grid(data.counts), model.constraints(data.gammas)
    main = jnp.where(model.mask > 0, _log_poisson(n, rest + jnp.sum(scaled * gamma, axis=0)), 0.0)
    return jnp.sum(main) + jnp.sum(_log_constraints(model, c, gamma)) + jnp.sum(_log_theta(model, theta, data))


@eqx.filter_jit
def twice_nll(model: HistFactory, theta: Float[Array, " parameter"], data: Observation) -> Float[Array, ""]:
    """-2 ln L at `theta`, bin-by-bin factors at their best, with all constants: 2 `model.nll` plus one of the data."""
    return 2 * model.nll(theta, data) - 2 * saturated(model, data)


def saturated(model: HistFactory, data: Observation) -> Float[Array, ""]:
    """Logarithm of the density where every expectation equals what was observed."""
    n, c = model.grid(data.counts), model.constraints(data.gammas)
    main = jnp.where(model.mask > 0, _log_poisson(n, n), 0.0)
    best = jnp.where(c.poisson, c.auxiliary / jnp.where(c.poisson, c.spread, 1.0), c.auxiliary)
    kinds = np.array(model.structure.kinds, dtype=int)
    theta = jnp.where(kinds == POISSON, data.auxiliary / model.spread, data.auxiliary)
    return jnp.sum(main) + jnp.sum(_log_constraints(model, c, best)) + jnp.sum(_log_theta(model, theta, data))


def _log_poisson(n: Array, expected: Array) -> Array:
    return xlogy(n, expected) - expected - gammaln(n + 1)


def _log_normal(x: Array, center: Array, width: Array) -> Array:
    return -0.5 * ((x - center) / width) ** 2 - jnp.log(width) - 0.5 * np.log(2 * np.pi)


def _log_constraints(model: HistFactory, c: g.Constraints, gamma: Array) -> Array:
    """One term for each bin of each analytic factor, bins without content or error included, as pyhf counts."""
    real = np.zeros(c.poisson.shape, dtype=bool)
    for one in model.structure.gammas:
        real[one.slot, one.channel, : model.structure.bins[one.channel]] = True
    poisson = _log_poisson(jnp.where(c.poisson, c.auxiliary, 1.0), jnp.where(c.poisson, c.spread * gamma, 1.0))
    gauss = _log_normal(gamma, c.auxiliary, jnp.where(c.poisson, 1.0, c.spread))
    return jnp.where(real, jnp.where(c.poisson, poisson, gauss), 0.0)


def _log_theta(model: HistFactory, theta: Array, data: Observation) -> Array:
    kinds = np.array(model.structure.kinds, dtype=int)
    poisson = _log_poisson(jnp.where(kinds == POISSON, data.auxiliary, 1.0), jnp.maximum(model.spread * theta, 1e-300))
    gauss = _log_normal(theta, data.auxiliary, model.spread)
    return jnp.where(kinds == FREE, 0.0, jnp.where(kinds == GAUSS, gauss, poisson))
