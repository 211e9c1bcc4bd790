r"""Smooth templates from few simulated events.

An Asimov data set made from a template with fluctuations has them for truth, and an optimiser learns to exploit them: a
bin that happens to be empty of background makes its signal count for certain. `smooth_counts` replaces the template by
the best $\lambda_j = \exp(\sum_k c_k P_k(x_j))$, with Legendre polynomials P.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from diffhep.inference.likelihood import require_float64
from diffhep.inference.newton import minimise, solve_free


class SmoothCounts(eqx.Module):
    """A smooth template.

    Attributes:
        counts: its value per bin; adds up to the sum of the fitted counts.
        error: its standard deviation per bin, propagated from the variances.
        coefficients: of the Legendre polynomials in the exponent.
        chi2: sum of squared residuals over the variances, smoothed likewise; to be compared with `ndf`.
        ndf: number of bins minus number of coefficients.
        converged: whether the fit converged.
    """

    counts: Float[Array, " bin"]
    error: Float[Array, " bin"]
    coefficients: Float[Array, " coefficient"]
    chi2: Float[Array, ""]
    ndf: int = eqx.field(static=True)
    converged: Bool[Array, ""]


def smooth_counts(
    counts: Float[ArrayLike, " bin"],
    variances: Float[ArrayLike, " bin"],
    centers: Float[ArrayLike, " bin"],
    degree: int = 2,
) -> SmoothCounts:
    r"""Maximum-likelihood fit of exp(polynomial) to a weighted histogram of equal bins.

    Maximises $\sum_j (n_j \ln\lambda_j - \lambda_j)$: for weighted events the maximum is that of the scaled Poisson
    likelihood with one common scale, unbiased whatever the weights, and defined for empty and even negative bins as
    long as the sum is positive. The function is convex, so there is one maximum; it is differentiated through it.

    Args:
        counts: sum of weights per bin.
        variances: sum of squared weights per bin; they decide the errors, not the template.
        centers: bin centres, increasing, any unit.
        degree: of the polynomial in the exponent; 1 is an exponential.

    Raises:
        ValueError: lengths that differ, fewer bins than coefficients, a sum that is not positive, single precision.

    >>> x = jnp.linspace(100.0, 160.0, 30)
    >>> falling = 50 * jnp.exp(-(x - 100) / 30)
    >>> bool(jnp.allclose(smooth_counts(falling, falling, x, 1).counts, falling))
    True
    """
    n, v, x = (jnp.asarray(a, dtype=float) for a in (counts, variances, centers))
    require_float64(n)
    if n.ndim != 1 or n.shape != v.shape or n.shape != x.shape:
        msg = f"counts, variances and centers must be lists of one length, got shapes {n.shape}, {v.shape}, {x.shape}"
        raise ValueError(msg)
    if not 0 <= degree < n.size:
        msg = f"degree must be from 0 to the number of bins minus one, {n.size - 1}, got {degree}"
        raise ValueError(msg)
    if not isinstance(n, Tracer) and not float(jnp.sum(n)) > 0:
        msg = f"counts must add up to more than zero, got {float(jnp.sum(n))}"
        raise ValueError(msg)
    return _smooth(n, v, x, degree)


@eqx.filter_jit
def _smooth(n: Array, v: Array, x: Array, degree: int) -> SmoothCounts:
    """`smooth_counts` of checked arrays."""
    basis = legendre(2 * (x - x[0]) / (x[-1] - x[0]) - 1, degree)
    total = jnp.sum(n)
    # the shape alone is fitted, normalised to the total: the fit then does not see the size of the weights, and the
    # convex objective is that of a multinomial, whose normalisation is exact at every step
    start = jnp.zeros(degree)
    found = minimise(_shape_objective, start, (n / total, basis[:, 1:])) if degree else None
    shape = jnp.zeros_like(n) if found is None else basis[:, 1:] @ found.theta
    log_total = jax.nn.logsumexp(shape)
    out = total * jnp.exp(shape - log_total)
    coefficients = jnp.concatenate([(jnp.log(total) - log_total)[None], jnp.zeros(0) if found is None else found.theta])
    bread = basis.T @ (out[:, None] * basis)
    meat = basis.T @ (v[:, None] * basis)
    free = jnp.ones(degree + 1, bool)
    half = jax.vmap(lambda row: solve_free(bread, row, free))(basis)
    error = out * jnp.sqrt(jnp.einsum("ij,jk,ik->i", half, meat, half))
    # variance in the direction of the smooth template: one scale for all bins, as in the likelihood
    expected_variance = out * jnp.sum(v) / total
    chi2 = jnp.sum((n - out) ** 2 / expected_variance)
    converged = jnp.array(True) if found is None else found.converged
    return SmoothCounts(out, error, coefficients, chi2, n.size - degree - 1, converged)


def legendre(x: Float[Array, " point"], degree: int) -> Float[Array, "point coefficient"]:
    """Legendre polynomials of degree 0 to `degree` at points of [-1, 1]."""
    columns = [jnp.ones_like(x), x]
    for k in range(1, degree):
        columns.append(((2 * k + 1) * x * columns[k] - k * columns[k - 1]) / (k + 1))
    return jnp.stack(columns[: degree + 1], axis=1)


def _shape_objective(theta: Array, args: PyTree) -> Array:
    share, basis = args
    log_shape = basis @ theta
    return jax.nn.logsumexp(log_shape) - share @ log_shape
