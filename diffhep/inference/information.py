r"""Fisher information and the Cramer-Rao bound: what a measurement can know at best, without a fit.

$I_{kl}(\theta) = -\mathrm{E}_\theta[\partial_k \partial_l \ln L]$, constraints included; no unbiased estimate has a
covariance below $I^{-1}$ (C. R. Rao, 1945; H. Cramer, 1946). Poisson, Gaussian and extended unbinned likelihoods are
linear in their data up to terms without parameters, so the expectation over the data is the Hessian for the expected
data, which is the Asimov data set: one Hessian, no toys (INFERNO, arXiv:1806.04743, trains on its inverse).

Bin-by-bin factors that a `HistFactory` profiles analytically are not rows of the matrix; they are taken out of it by
their Schur complement, exactly, so that the rest of the inverse is what it would be with them.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from diffhep.inference.fitting import information, variance_of
from diffhep.inference.likelihood import AbstractModel
from diffhep.kinematics import safe_sqrt


def fisher_information(
    model: AbstractModel, theta: Float[ArrayLike, " parameter"] | None = None, data: PyTree | None = None
) -> Float[Array, "parameter parameter"]:
    """Expected Fisher information of all parameters of a model.

    Differentiable in `theta` and in everything in the model; the dependence of the expected data is included.

    Args:
        model: the model, float64.
        theta: parameters, default the model's start values.
        data: observed data, for models whose analytic factors are to be at their best for them (as in `asimov`).

    Raises:
        ValueError: a number of parameters that is not the model's, single precision.

    >>> from diffhep.inference import BinnedModel
    >>> model = BinnedModel(
    ...     lambda t, p: t[0] * p["s"] + p["b"], {"s": jnp.array([10.0]), "b": jnp.array([90.0])},
    ...     names=("mu",), init=(1.0,), constrained=(), poi="mu",
    ... )
    >>> fisher_information(model).tolist()
    [[1.0]]
    """
    return _expected_information(model, _parameters(model, theta), data)


@eqx.filter_jit
def _expected_information(model: AbstractModel, theta: Array, data: PyTree | None) -> Array:
    return information(model, theta, model.asimov(theta, data))


def cramer_rao(
    model: AbstractModel, theta: Float[ArrayLike, " parameter"] | None = None, data: PyTree | None = None
) -> Float[Array, " parameter"]:
    """Smallest standard deviation of every parameter that an unbiased estimate can have, the others unknown.

    Infinite, with gradient 0, for a parameter that the data do not determine. Arguments and errors as in
    `fisher_information`. Parameters that the model holds in every fit are taken for known; they have 0 themselves.

    >>> from diffhep.inference import BinnedModel
    >>> model = BinnedModel(
    ...     lambda t, p: t[0] * p["s"] + p["b"], {"s": jnp.array([10.0]), "b": jnp.array([90.0])},
    ...     names=("mu",), init=(1.0,), constrained=(), poi="mu",
    ... )
    >>> cramer_rao(model).tolist()
    [1.0]
    """
    return _bound(model, fisher_information(model, theta, data))


@eqx.filter_jit
def _bound(model: AbstractModel, whole: Array) -> Array:
    """Standard deviations from the information of all parameters."""
    free = [i for i, name in enumerate(model.names) if name not in model.fixed]
    matrix = whole[jnp.array(free)][:, jnp.array(free)]
    variance = jnp.stack([variance_of(matrix, k) for k in range(len(free))])
    known = jnp.isfinite(variance)
    sigma = jnp.where(known, safe_sqrt(jnp.where(known, variance, 1.0)), jnp.inf)
    return jnp.zeros(len(model.names)).at[jnp.array(free)].set(sigma)


def _parameters(model: AbstractModel, theta: ArrayLike | None) -> Array:
    out = model.init if theta is None else jnp.asarray(theta)
    if out.shape != (len(model.names),):
        msg = f"theta: {len(model.names)} parameters are wanted ({', '.join(model.names)}), got shape {out.shape}"
        raise ValueError(msg)
    return out
