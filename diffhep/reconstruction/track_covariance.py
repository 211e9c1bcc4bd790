r"""Covariance of a track fit in the bending plane, multiple scattering included.

Near its origin a track of high momentum is a parabola, $y = a + b x + \kappa x^2/2$, with hits at $x_i$ and scatterers
at $x_k$, each of which tilts what lies behind it by an angle of variance $\theta_k^2$. So the hits have the covariance

$C_{ij} = \sigma_i^2\delta_{ij} + \sum_{x_k < \min(x_i, x_j)} \theta_k^2 (x_i - x_k)(x_j - x_k)$,

and the parameters $(A^T C^{-1} A)^{-1}$, with rows $(1, x_i, x_i^2/2)$ of A (R. L. Gluckstern, NIM 24 (1963) 381).
Adding the resolution and the scattering of a track in quadrature instead is wrong by 22 % for the impact parameter of
a typical tracker at 10 GeV. `kalman_covariance` has the same answer from a Kalman filter, which shares no matrix with
it, in a time that is linear in the number of layers.

Positions may be in any order and may coincide. Hits at fewer than three places do not determine a curvature: variances
are then many orders of magnitude above those of a good layout, but finite, as their derivatives are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffhep.kinematics import safe_sqrt
from diffhep.units import SPEED_OF_LIGHT

BENDING = SPEED_OF_LIGHT * 1e-6  # p = BENDING B R, in GeV/(T mm); often rounded to 0.3e-3
# prior knowledge of each parameter, as a share of what the hits know about it when the other two are known
PRIOR = 1e-26


def scattering_covariance(
    hits: Float[Array, "*shape hit"], scatterers: Float[Array, "*shape scatterer"], scattering: Array
) -> Float[Array, "*shape hit hit"]:
    """Covariance of hits that scattering makes [mm^2]; a hit on a scatterer itself is not displaced by it.

    Args:
        hits: positions along the track [mm].
        scatterers: positions [mm].
        scattering: variance of the angle at each scatterer, projected on the bending plane [rad^2].
    """
    lever = jnp.maximum(hits[..., :, None] - scatterers[..., None, :], 0.0)
    return jnp.einsum("...ik,...k,...jk->...ij", lever, scattering, lever)


def track_covariance(
    hits: Float[Array, "*shape hit"],
    information: Float[Array, "*shape hit"],
    scatterers: Float[Array, "*shape scatterer"],
    scattering: Float[Array, "*shape scatterer"],
) -> Float[Array, "*shape 3 3"]:
    r"""Covariance of position, slope and curvature at x = 0 of a parabola fitted by generalised least squares.

    Leading axes broadcast, so that one call serves many momenta and many layouts.

    Args:
        hits: positions of the layers [mm], in any order.
        information: of each hit, $1/\sigma_i^2$ [1/mm^2]; 0 is a layer that does not measure.
        scatterers: positions of the scatterers [mm]; a layer with material is one.
        scattering: variance of the angle at each, projected on the bending plane [rad^2].

    Returns:
        Covariance of (a [mm], b, kappa [1/mm]).

    Raises:
        ValueError: lists of different lengths.

    >>> hits, none = jnp.array([0.0, 500.0, 1000.0]), jnp.zeros(1)
    >>> covariance = track_covariance(hits, jnp.full(3, 1e4), none, none)  # 10 um
    >>> round(float(jnp.sqrt(covariance[2, 2])) * 1000**2 / 0.01, 6)
    9.797959
    """
    check_lengths(hits, information, scatterers, scattering)
    centre, scale = frame(hits)
    root = safe_sqrt(information)
    # in units of the resolution all eigenvalues are at least 1, whatever the momentum
    spread = root[..., :, None] * scattering_covariance(hits, scatterers, scattering) * root[..., None, :]
    t = (hits - centre) / scale
    rows = root[..., None] * jnp.stack([jnp.ones_like(t), t, t**2 / 2], axis=-1)
    white = whitened(jnp.eye(hits.shape[-1]) + spread, rows)
    own = jnp.sum(white**2, axis=-2)
    size = jnp.sqrt(own + PRIOR * jnp.sum(own, axis=-1, keepdims=True))
    prior = jnp.broadcast_to(jnp.sqrt(PRIOR) * jnp.eye(3, dtype=white.dtype), (*white.shape[:-2], 3, 3))
    return at_origin(triangle(jnp.concatenate([white / size[..., None, :], prior], axis=-2)), size, centre, scale)


def kalman_covariance(
    hits: Float[Array, "*shape hit"],
    information: Float[Array, "*shape hit"],
    scatterers: Float[Array, "*shape scatterer"],
    scattering: Float[Array, "*shape scatterer"],
) -> Float[Array, "*shape 3 3"]:
    """`track_covariance` by an inward Kalman filter (R. Frühwirth, NIM A262 (1987) 444), for comparison.

    It is the filter in square-root information form (G. J. Bierman, Factorization Methods for Discrete Sequential
    Estimation, 1977): it starts without knowledge at the outermost surface. At each one the slope is blurred by
    the scattering there and the position gains what the hit knows; in between the parabola is carried inwards. The
    derivative with respect to a scattering or an information that is exactly 0 is taken for 0.
    """
    check_lengths(hits, information, scatterers, scattering)
    return jnp.vectorize(filter_inwards, signature="(n),(n),(m),(m)->(3,3)")(hits, information, scatterers, scattering)


def filter_inwards(hits: Array, information: Array, scatterers: Array, scattering: Array) -> Array:
    """The Kalman filter of one track."""
    centre, scale = frame(hits)
    position = (jnp.concatenate([hits, scatterers]) - centre) / scale
    gain = safe_sqrt(jnp.concatenate([information, jnp.zeros_like(scattering)]))
    kick = safe_sqrt(jnp.concatenate([jnp.zeros_like(information), scattering])) * scale
    inwards = jnp.argsort(-position)
    aim = jnp.array([0.0, 1.0, 0.0], position.dtype)

    def step(carry: tuple[Array, Array], surface: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        (root, last), (x, gain, kick) = carry, surface
        root = root @ parabola_matrix(last - x)
        # unknowns: the kick in units of its width, then the parameters inside the surface
        rows = [jnp.append(1.0, 0 * aim), jnp.append(0.0, gain * jnp.roll(aim, -1))]
        rows += [jnp.append(-kick * root[i, 1], root[i]) for i in range(3)]
        return (triangle(jnp.stack(rows))[1:, 1:], x), None

    start = jnp.sqrt(PRIOR * jnp.sum(information)) * jnp.eye(3, dtype=position.dtype)
    surfaces = (position[inwards], gain[inwards], kick[inwards])
    (root, last), _ = jax.lax.scan(step, (start, position[inwards[0]]), surfaces)
    # a parabola without further scattering: the parameters at the frame's centre stand for those at the origin
    root = triangle(root @ parabola_matrix(last))
    return at_origin(root, jnp.ones(3, root.dtype), centre, scale)


def parabola_matrix(distance: Float[Array, "*shape"]) -> Float[Array, "*shape 3 3"]:
    """Position, slope and curvature of a parabola at a distance, from those here."""
    one, zero = jnp.ones_like(distance), jnp.zeros_like(distance)
    rows = [[one, distance, distance**2 / 2], [zero, one, distance], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def frame(hits: Float[Array, "*shape hit"]) -> tuple[Float[Array, "*shape 1"], Float[Array, "*shape 1"]]:
    """Middle and half range of the hits: in this frame the three parameters are nearly uncorrelated and of one size.

    The covariance does not depend on the frame, so no derivative is taken through it.
    """
    low, high = jnp.min(hits, axis=-1, keepdims=True), jnp.max(hits, axis=-1, keepdims=True)
    low, high = jax.lax.stop_gradient((low, high))
    alone = jnp.where(high > 0, high, 1.0)
    return (low + high) / 2, jnp.where(high > low, (high - low) / 2, alone)


def whitened(covariance: Float[Array, "*shape row row"], x: Float[Array, "*shape row column"]) -> Array:
    """L^-1 X with L L^T = C: forward elimination of [C | X], column after column.

    Not by `jax.numpy.linalg`: matrices this small cost less than the calls, and in jaxlib 0.10.1 a program with a batch
    of a thousand Cholesky factors and triangular solutions was seen to wait for its own threads, for ever.
    """
    n = covariance.shape[-1]
    batch = jnp.broadcast_shapes(covariance.shape[:-2], x.shape[:-2])
    both = [jnp.broadcast_to(y, batch + y.shape[-2:]) for y in (covariance, x)]

    def eliminate(left: Array, j: Array) -> tuple[Array, Array]:
        row = jax.lax.dynamic_index_in_dim(left, j, axis=-2, keepdims=False)
        column = jax.lax.dynamic_index_in_dim(left, j, axis=-1, keepdims=False)
        pivot = jax.lax.dynamic_index_in_dim(row, j, axis=-1)
        left = left - column[..., :, None] * (row / pivot)[..., None, :]
        return left, row[..., n:] / jnp.sqrt(pivot)

    _, white = jax.lax.scan(eliminate, jnp.concatenate(both, axis=-1), jnp.arange(n))
    return jnp.moveaxis(white, 0, -2)


def triangle(x: Float[Array, "*shape row column"]) -> Float[Array, "*shape column column"]:
    """Upper triangular R with R^T R = X^T X, by the modified method of Gram and Schmidt; X^T X itself loses digits."""
    columns = [x[..., i] for i in range(x.shape[-1])]
    zero, rows = jnp.zeros_like(columns[0][..., 0]), []
    for i, column in enumerate(columns):
        size = jnp.sqrt(jnp.sum(column**2, axis=-1))
        unit = column / size[..., None]
        along = [jnp.sum(unit * other, axis=-1) for other in columns[i + 1 :]]
        columns[i + 1 :] = [o - a[..., None] * unit for o, a in zip(columns[i + 1 :], along, strict=True)]
        rows.append(jnp.stack([zero] * i + [size, *along], axis=-1))
    return jnp.stack(rows, axis=-2)


def at_origin(root: Float[Array, "*shape 3 3"], size: Array, centre: Array, scale: Array) -> Float[Array, "*shape 3 3"]:
    """Covariance at x = 0 from R of the information in the frame of the hits, R^T R, whose columns are over `size`."""
    a, b, c, d, e, f = (root[..., i, j] for i, j in zip(*np.triu_indices(3), strict=True))
    zero = jnp.zeros_like(a)
    upper = [[1 / a, -b / (a * d), (b * e - c * d) / (a * d * f)], [zero, 1 / d, -e / (d * f)], [zero, zero, 1 / f]]
    inverse = jnp.stack([jnp.stack(row, axis=-1) for row in upper], axis=-2) / size[..., :, None]
    unit = jnp.concatenate([jnp.ones_like(scale), 1 / scale, 1 / scale**2], axis=-1)
    spread = parabola_matrix(-centre[..., 0]) @ (unit[..., :, None] * inverse)
    return spread @ jnp.swapaxes(spread, -1, -2)


def momentum_resolution(
    covariance: Float[Array, "*shape 3 3"],
    pt: Float[Array, "*shape"],
    field: Array | float,
    *,
    bending: float = BENDING,
) -> Float[Array, "*shape"]:
    r"""Relative resolution $\sigma_{p_T}/p_T = p_T\,\sigma_\kappa/(0.3\,B)$.

    Args:
        covariance: of a track fit, at this momentum.
        pt: transverse momentum [GeV].
        field: [T].
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).
    """
    return pt * safe_sqrt(covariance[..., 2, 2]) / (bending * jnp.abs(jnp.asarray(field)))


def impact_parameter_resolution(covariance: Float[Array, "*shape 3 3"]) -> Float[Array, "*shape"]:
    """Resolution of the transverse impact parameter [mm]."""
    return safe_sqrt(covariance[..., 0, 0])


def gluckstern_curvature(points: int, length: float, resolution: float) -> float:
    r"""Resolution of the curvature with equidistant hits and without scattering [1/mm].

    $\frac{\sigma}{L^2}\sqrt{\frac{720 N^3}{(N-1)(N+1)(N+2)(N+3)}}$ for N + 1 points over a length L
    (R. L. Gluckstern, NIM 24 (1963) 381); the often quoted $\sqrt{720/(N+5)}$ is larger by 1.7 % for 10 points.

    Args:
        points: number of hits, at least 3.
        length: from the first to the last [mm].
        resolution: of a hit [mm].

    Raises:
        ValueError: fewer than 3 points.

    >>> round(gluckstern_curvature(5, 1.0, 1.0), 6)
    8.55236
    """
    if points < 3:
        msg = f"points: a curvature needs at least 3, got {points}"
        raise ValueError(msg)
    n = points - 1
    return float(resolution / length**2 * np.sqrt(720 * n**3 / ((n - 1) * (n + 1) * (n + 2) * (n + 3))))


def check_lengths(hits: Array, information: Array, scatterers: Array, scattering: Array) -> None:
    """Refuse lists that do not belong together."""
    for names, one, other in (
        ("hits and information", hits, information),
        ("scatterers and scattering", scatterers, scattering),
    ):
        if jnp.ndim(one) < 1 or jnp.ndim(other) < 1 or one.shape[-1] != other.shape[-1]:
            msg = f"{names}: one number a surface is wanted, got shapes {jnp.shape(one)} and {jnp.shape(other)}"
            raise ValueError(msg)
