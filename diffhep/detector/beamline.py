r"""Linear beam optics: quadrupoles and drifts, thick or thin, the periodic cell, and the transport of a beam.

Every element is described by its length l [mm] and its integrated strength $g = k\,l$ [1/mm], the inverse of its focal
length; a positive one focuses the horizontal plane, x, and defocuses the vertical one. With $\xi = g\,l$ its matrix is

$\begin{pmatrix} C & l\,S \\ -g\,S & C \end{pmatrix}$ with $C = \cos\sqrt\xi$ and $S = \sin\sqrt\xi/\sqrt\xi$

(hyperbolic functions where $\xi < 0$). So a drift is g = 0, a thin lens l = 0, and nothing is singular at either.
H. Wiedemann, Particle Accelerator Physics, 4th edition, chapters 7 and 10.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from diffhep.kinematics import safe_sqrt

# terms of the power series for |xi| < 1: the first one left out is below 1e-17
TERMS = 10
COSINE_SERIES = np.cumprod([1.0] + [-1.0 / ((2 * n - 1) * (2 * n)) for n in range(1, TERMS)])
SINE_SERIES = np.cumprod([1.0] + [-1.0 / ((2 * n) * (2 * n + 1)) for n in range(1, TERMS)])
# smallest sin^2 of the phase advance: an unstable cell gets a beta function of a million instead of none
UNSTABLE = 1e-12


def oscillation(xi: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""$\cos\sqrt\xi$ and $\sin\sqrt\xi/\sqrt\xi$, entire functions of $\xi$, with all derivatives at 0.

    >>> [float(f(jnp.array(0.0))) for f in (lambda x: oscillation(x)[0], jax.grad(lambda x: oscillation(x)[1]))]
    [1.0, -0.16666666666666666]
    """
    small, positive = jnp.abs(xi) < 1, xi > 0
    near = jnp.where(small, xi, 0.0)
    root = jnp.sqrt(jnp.where(small, 1.0, jnp.abs(xi)))
    # the cosh of a trigonometric root could overflow where it is not taken
    grown = jnp.where(positive, 1.0, root)
    cosine = jnp.where(positive, jnp.cos(root), jnp.cosh(grown))
    sine = jnp.where(positive, jnp.sin(root) / root, jnp.sinh(grown) / grown)
    series = lambda coefficients: jnp.polyval(jnp.asarray(coefficients[::-1], near.dtype), near)
    return jnp.where(small, series(COSINE_SERIES), cosine), jnp.where(small, series(SINE_SERIES), sine)


def element_matrix(
    strength: Float[ArrayLike, "*shape"], length: Float[ArrayLike, "*shape"]
) -> Float[Array, "*shape 2 2"]:
    """Transfer matrix of one plane: position [mm] and slope.

    Args:
        strength: integrated, k l [1/mm]; negative for the plane that is defocused.
        length: [mm]; 0 is a thin lens.

    >>> element_matrix(0.0, 500.0).tolist()
    [[1.0, 500.0], [-0.0, 1.0]]
    """
    strength, length = jnp.asarray(strength, float), jnp.asarray(length, float)
    cosine, sine = oscillation(strength * length)
    rows = [[cosine, length * sine], [-strength * sine, cosine]]
    return jnp.stack([jnp.stack(jnp.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)


def multiply(second: Float[Array, "*shape 2 2"], first: Float[Array, "*shape 2 2"]) -> Float[Array, "*shape 2 2"]:
    """Product of two-by-two matrices, element by element: a call of a library costs more than the product."""
    a, b, c, d = second[..., 0, 0], second[..., 0, 1], second[..., 1, 0], second[..., 1, 1]
    e, f, g, h = first[..., 0, 0], first[..., 0, 1], first[..., 1, 0], first[..., 1, 1]
    entries = jnp.stack([a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h], axis=-1)
    return entries.reshape(*entries.shape[:-1], 2, 2)


def line_matrix(matrices: Float[Array, "*shape element 2 2"]) -> Float[Array, "*shape 2 2"]:
    """Matrix of a whole line, the elements being passed in order; neighbours are multiplied pairwise, all at once."""
    while matrices.shape[-3] > 1:
        even = matrices.shape[-3] // 2 * 2
        pairs = multiply(matrices[..., 1:even:2, :, :], matrices[..., 0:even:2, :, :])
        matrices = jnp.concatenate([pairs, matrices[..., even:, :, :]], axis=-3)
    return matrices[..., 0, :, :]


def matrices_along(matrices: Float[Array, "*shape element 2 2"]) -> Float[Array, "*shape element 2 2"]:
    """Matrices from the begin of a line to the end of each element."""
    return jax.lax.associative_scan(lambda first, second: multiply(second, first), matrices, axis=matrices.ndim - 3)


def transport_covariance(
    covariance: Float[Array, "*shape 2 2"], matrix: Float[Array, "*shape 2 2"]
) -> Float[Array, "*shape 2 2"]:
    r"""Covariance of a beam behind a line, $M \Sigma M^T$, in one plane."""
    return multiply(multiply(matrix, covariance), jnp.swapaxes(matrix, -1, -2))


class Twiss(NamedTuple):
    """The periodic solution of a cell.

    Attributes:
        beta: [mm], at the begin of the cell.
        alpha: there.
        phase: advance in (0, 2 pi) [rad].
        stable: whether there is a periodic solution. Where there is none, beta is a million times the cell's scale and
            the phase next to 0 or pi: a minimum is never found there.
    """

    beta: Float[Array, "*shape"]
    alpha: Float[Array, "*shape"]
    phase: Float[Array, "*shape"]
    stable: Bool[Array, "*shape"]


def periodic_twiss(cell: Float[Array, "*shape 2 2"]) -> Twiss:
    r"""Periodic beta function of a cell with matrix M: $\cos\mu = \frac12 tr M$, $\beta = M_{12}/\sin\mu$."""
    cosine = (cell[..., 0, 0] + cell[..., 1, 1]) / 2
    squared = 1 - cosine**2
    stable = squared > 0
    sine = jnp.where(cell[..., 0, 1] < 0, -1.0, 1.0) * jnp.sqrt(jnp.maximum(squared, UNSTABLE))
    alpha = (cell[..., 0, 0] - cell[..., 1, 1]) / (2 * sine)
    phase = jnp.arctan2(sine, jnp.clip(cosine, -1.0, 1.0))
    return Twiss(cell[..., 0, 1] / sine, alpha, jnp.where(phase < 0, phase + 2 * jnp.pi, phase), stable)


def beta_along(start: Twiss, matrices: Float[Array, "*shape element 2 2"]) -> Float[Array, "*shape element"]:
    """Beta function at the end of each element of a line [mm], from the one at its begin."""
    m = matrices_along(matrices)
    cosine, sine = m[..., 0, 0], m[..., 0, 1]
    beta, alpha = jnp.asarray(start.beta)[..., None], jnp.asarray(start.alpha)[..., None]
    # beta (m11 - m12 alpha/beta)^2 + m12^2/beta
    return (cosine * beta - sine * alpha) ** 2 / beta + sine**2 / beta


def beam_covariance(emittance: ArrayLike, twiss: Twiss) -> Float[Array, "*shape 2 2"]:
    """Covariance matrix of a matched beam of some emittance [mm rad]."""
    beta, alpha = jnp.asarray(twiss.beta), jnp.asarray(twiss.alpha)
    rows = [[beta, -alpha], [-alpha, (1 + alpha**2) / beta]]
    matrix = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    return jnp.asarray(emittance)[..., None, None] * matrix


def fodo_cell(
    length: ArrayLike, strength: ArrayLike, *, quadrupole_length: ArrayLike = 0.0
) -> tuple[Float[Array, " 5"], Float[Array, " 5"]]:
    """Strengths and lengths of a FODO cell: half QF, drift, QD, drift, half QF.

    It begins at the centre of the focusing quadrupole, where the horizontal beta function is largest.

    Args:
        length: of the cell [mm].
        strength: integrated strength of each quadrupole, 1/f [1/mm].
        quadrupole_length: of each of the two quadrupoles [mm]; 0 is a thin lens.

    Returns:
        Integrated strengths [1/mm] and lengths [mm] of the five elements, the arguments of `element_matrix`.

    Raises:
        ValueError: quadrupoles that do not fit into the cell.

    >>> twiss = periodic_twiss(line_matrix(element_matrix(*fodo_cell(1000.0, 0.002))))
    >>> round(float(twiss.phase), 6), round(float(twiss.beta), 3)
    (1.047198, 1732.051)
    """
    if not any(isinstance(x, Tracer) for x in (length, quadrupole_length)):
        cell, magnet = float(np.asarray(length)), float(np.asarray(quadrupole_length))
        if not cell > 0 or not 0 <= 2 * magnet <= cell:
            msg = f"quadrupole_length: 2 x {magnet} mm do not fit into a cell of {cell} mm"
            raise ValueError(msg)
    length, strength = jnp.asarray(length, float), jnp.asarray(strength, float)
    magnet = jnp.asarray(quadrupole_length, float)
    drift, none = length / 2 - magnet, jnp.zeros_like(strength)
    strengths = jnp.stack([strength / 2, none, -strength, none, strength / 2])
    return strengths, jnp.stack(jnp.broadcast_arrays(magnet / 2, drift, magnet, drift, magnet / 2))


def transmission(
    width: Float[ArrayLike, "*shape"], half_aperture: Float[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Share of a centred Gaussian beam inside $|x| < x_{max}$: $\mathrm{erf}(x_{max}/(\sqrt2\,\sigma_x))$.

    Args:
        width: rms of the beam [mm]; 0 passes.
        half_aperture: $x_{max}$ [mm].

    >>> round(float(transmission(1.0, 2.0)), 6)
    0.9545
    """
    width, half = jnp.asarray(width, float), jnp.asarray(half_aperture, float)
    # 40 widths are as good as none are
    ratio = half / jnp.maximum(width, jnp.abs(half) / 40 + 1e-100)
    return jax.scipy.special.erf(ratio / np.sqrt(2.0))


def beam_width(covariance: Float[Array, "*shape 2 2"]) -> Float[Array, "*shape"]:
    """Root mean square of the position [mm]."""
    return safe_sqrt(covariance[..., 0, 0])


def beam_elements(elements: Sequence[tuple[float, float]]) -> tuple[Float[Array, " element"], Float[Array, " element"]]:
    """Integrated strengths [1/mm] and lengths [mm] from a list of (k [1/mm^2], length [mm]); k = 0 is a drift.

    Raises:
        ValueError: an empty list, a negative length.
    """
    table = np.asarray(elements, dtype=float)
    if table.ndim != 2 or table.shape[1] != 2 or not len(table):
        msg = f"elements: pairs (k in 1/mm^2, length in mm) are wanted, got shape {table.shape}"
        raise ValueError(msg)
    if not np.all(np.isfinite(table)) or np.any(table[:, 1] < 0):
        bad = int(np.argmax(~np.isfinite(table).all(axis=1) | (table[:, 1] < 0)))
        msg = f"elements: number {bad} has k = {table[bad, 0]} /mm^2 and length {table[bad, 1]} mm"
        raise ValueError(msg)
    return jnp.asarray(table[:, 0] * table[:, 1]), jnp.asarray(table[:, 1])
