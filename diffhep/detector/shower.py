r"""Longitudinal profile of an electromagnetic shower: gamma distributions integrated over the layers of a stack.

$dE/dt = E\,b\,(bt)^{A-1}e^{-bt}/\Gamma(A)$ with b = 0.5 per radiation length and $(A-1)/b = \ln(E/E_c) + C$, C = 0.5
for photons and -0.5 for electrons (Longo and Sestili, NIM 128 (1975) 283; PDG Review, Passage of particles).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

SHOWER_RATE = 0.5  # b, per X0
PHOTON_START = 9.0 / 7.0  # mean depth of the first conversion, X0
LEGENDRE_NODES, LEGENDRE_WEIGHTS = ((x + (1.0, 0.0)[i]) / 2 for i, x in enumerate(np.polynomial.legendre.leggauss(6)))
ROOT_NODES, ROOT_WEIGHTS = ((x + (1.0, 0.0)[i]) / 2 for i, x in enumerate(np.polynomial.legendre.leggauss(32)))
# in the square root of the depth, where a power of it is smooth at 0 even if it is not an integer
SURVIVAL_NODES, SURVIVAL_WEIGHTS = ROOT_NODES**2, 2 * ROOT_NODES * ROOT_WEIGHTS
LAGUERRE_NODES, LAGUERRE_WEIGHTS = np.polynomial.laguerre.laggauss(60)


def shape_parameter(energy: Float[Array, "*shape"], critical_energy: float, offset: float) -> Float[Array, "*shape"]:
    """Shape A of the profile of a shower of some energy [GeV]; energies below 0.1 GeV count as 0.1 GeV."""
    return 1 + SHOWER_RATE * (jnp.log(jnp.maximum(energy, 0.1) / critical_energy) + offset)


def gamma_density(shape: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Density $x^{A-1}e^{-x}/\Gamma(A)$, and 0 (with gradient 0) for $x \le 0$."""
    inside = x > 0
    safe = jnp.where(inside, x, 1.0)
    log_density = (shape - 1) * jnp.log(safe) - safe - jax.scipy.special.gammaln(shape)
    return jnp.where(inside, jnp.exp(log_density), 0.0)


def gamma_nodes(x: Float[Array, "*shape edge"]) -> tuple[Array, Array]:
    """Nodes and weights of six-point Gauss-Legendre quadrature inside each interval of the edges."""
    length = jnp.diff(x, axis=-1)[..., None]
    return x[..., :-1, None] + length * jnp.asarray(LEGENDRE_NODES), length * jnp.asarray(LEGENDRE_WEIGHTS)


@jax.custom_jvp
def gamma_fractions(shape: Float[Array, "*shape"], x: Float[Array, "*shape edge"]) -> Float[Array, "*shape bin"]:
    """Probability of a gamma distribution of the given shape between neighbouring edges.

    Quadrature, because the incomplete gamma function costs twenty times as much. For intervals up to 2 it is right to
    2e-6 for A >= 3.5 (photons above 1 GeV), and to 6e-5 for A >= 2. The derivative with respect to an edge is the
    density there, exactly; with six nodes that of the quadrature equals it to 1e-6, with four it would not.

    >>> float(gamma_fractions(jnp.array(3.0), jnp.linspace(0.0, 30.0, 31)).sum().round(5))
    1.0
    """
    nodes, weights = gamma_nodes(x)
    return jnp.sum(gamma_density(shape[..., None, None], nodes) * weights, axis=-1)


def gamma_fractions_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Derivative rule: densities at the edges; quadrature only where the shape itself moves."""
    (shape, x), (d_shape, d_x) = primals, tangents
    out = gamma_fractions(shape, x)
    tangent = jnp.zeros_like(out)
    if not isinstance(d_x, SymbolicZero):
        tangent = tangent + jnp.diff(gamma_density(shape[..., None], x) * d_x, axis=-1)
    if not isinstance(d_shape, SymbolicZero):
        nodes, weights = gamma_nodes(x)
        log_nodes = jnp.log(jnp.where(nodes > 0, nodes, 1.0)) - jax.scipy.special.digamma(shape)[..., None, None]
        slope = jnp.sum(gamma_density(shape[..., None, None], nodes) * log_nodes * weights, axis=-1)
        tangent = tangent + slope * d_shape[..., None]
    return out, tangent


gamma_fractions.defjvp(gamma_fractions_jvp, symbolic_zeros=True)


def gamma_survival(shape: Float[Array, "*shape"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Regularised upper incomplete gamma function Q(A, x), to 1e-9 for 2 <= A <= 12 and x <= 60; 1 at x = 0.

    32-point Gauss-Legendre quadrature of the density in the root of x; `jax.scipy.special.gammaincc` agrees, but takes
    a second to compile.

    >>> float(gamma_survival(jnp.array(3.0), jnp.array(2.0)).round(9))
    0.676676416
    """
    density = gamma_density(shape[..., None], x[..., None] * jnp.asarray(SURVIVAL_NODES))
    return 1 - x * jnp.sum(density * jnp.asarray(SURVIVAL_WEIGHTS), axis=-1)


def leakage_moments(
    shape: Float[Array, "*shape"], depth: Float[Array, ""]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Mean and standard deviation, over conversion depths, of the fraction of a photon that leaks out at the back.

    Args:
        shape: shape parameter A of the profile.
        depth: of the stack [X0].

    Returns:
        60-point Gauss-Laguerre quadrature over the exponential conversion depth; a photon that does not convert leaks
        entirely.
    """
    behind = jnp.maximum(depth - PHOTON_START * jnp.asarray(LAGUERRE_NODES), 0.0)
    lost = gamma_survival(shape[..., None], SHOWER_RATE * behind)
    weights = jnp.asarray(LAGUERRE_WEIGHTS)
    mean = jnp.sum(weights * lost, axis=-1)
    variance = jnp.sum(weights * (lost - mean[..., None]) ** 2, axis=-1)
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-30))


class LeakageCurve(eqx.Module):
    """Mean leakage against energy: a Chebyshev interpolation in ln E, cheap enough to call for every photon.

    Attributes:
        coefficients: of the Chebyshev polynomials in ln E, mapped from `log_range` to [-1, 1].
        log_range: ln of the lowest and highest energy [GeV]; energies outside count as the nearest end.
    """

    coefficients: Float[Array, " order"]
    log_range: tuple[float, float] = eqx.field(static=True)

    @classmethod
    def through(cls, values: Float[Array, " order"], log_range: tuple[float, float]) -> "LeakageCurve":
        """The curve through values at the energies `chebyshev_energies`."""
        return cls(jnp.asarray(chebyshev_transform(values.size)) @ values, log_range)

    def __call__(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Mean fraction of the energy that leaks out."""
        return chebyshev_basis(energy, self.coefficients.size, self.log_range) @ self.coefficients


def leakage_curve(depth: Float[Array, ""], critical_energy: float, offset: float, *, nodes: int = 8) -> LeakageCurve:
    """Mean leakage of photons between 1 GeV and 3 TeV in a stack of some depth [X0], interpolated to 1e-4 of itself."""
    log_range = (0.0, float(np.log(3000.0)))
    energy = jnp.asarray(chebyshev_energies(nodes, log_range))
    mean, _ = leakage_moments(shape_parameter(energy, critical_energy, offset), depth)
    return LeakageCurve.through(mean, log_range)


def chebyshev_angles(order: int) -> np.ndarray:
    """Angles of the zeros of a Chebyshev polynomial."""
    return (np.arange(order) + 0.5) * np.pi / order


def chebyshev_transform(order: int) -> np.ndarray:
    """Matrix from values at the zeros of a Chebyshev polynomial to coefficients of those of lower order."""
    rows = np.arange(order)[:, None]
    return np.cos(rows * chebyshev_angles(order)) * np.where(rows == 0, 1, 2) / order


def chebyshev_basis(
    energy: Float[Array, "*shape"], order: int, log_range: tuple[float, float]
) -> Float[Array, "*shape order"]:
    """Chebyshev polynomials below an order, in ln E mapped from a range to [-1, 1]; outside, those of the end."""
    low, high = log_range
    x = (2 * jnp.log(jnp.maximum(energy, 1e-3)) - low - high) / (high - low)
    angle = jnp.arccos(jnp.clip(x, -0.999999, 0.999999))
    return jnp.cos(jnp.arange(order) * angle[..., None])


def chebyshev_energies(order: int, log_range: tuple[float, float]) -> np.ndarray:
    """Energies [GeV] at the zeros of a Chebyshev polynomial in ln E, between which it interpolates."""
    return np.exp(sum(log_range) / 2 + (log_range[1] - log_range[0]) / 2 * np.cos(chebyshev_angles(order)))
