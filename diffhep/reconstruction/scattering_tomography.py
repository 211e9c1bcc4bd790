r"""Muon scattering tomography: from hits above and below a volume to what is inside.

A straight line is fitted to the hits on each side; the incoming and the outgoing line give the scattering angle and the
point of closest approach (PoCA), where all scattering is taken to have happened. Voxels then collect the muons whose
PoCA lies in them: the probability that it does is a product of three differences of normal distributions, so that
$N\,(n_x + n_y + n_z)$ values of them are enough for all $N\,n_x n_y n_z$ pairs, and sums over muons are matrix
products.

The mean squared angle of the muons of a voxel of size h gives its radiation length by Highland's formula without the
logarithm, $\langle p^2\theta^2\cos\theta_z\rangle/2 = (13.6\,\mathrm{MeV})^2\,h/X_0$ (PDG Review, Passage of
particles).
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float

from diffhep.kinematics import safe_div, safe_sqrt
from diffhep.units import HIGHLAND_ENERGY

FINEST = 1e-3  # least standard deviation of a height [mm]
FLATTEST = 1e-6  # inverse variance of the prior of a slope


class Line(eqx.Module):
    """Straight lines fitted to hits, at the mean height of the hits, where position and slope are uncorrelated.

    Attributes:
        position: x and y [mm].
        slope: dx/dz and dy/dz.
        height: z of the positions [mm].
        position_variance: of either coordinate [mm^2].
        slope_variance: of either slope.
    """

    position: Float[Array, "2 event"]
    slope: Float[Array, "2 event"]
    height: Float[Array, ""]
    position_variance: Float[Array, ""]
    slope_variance: Float[Array, ""]


class Scatter(NamedTuple):
    """What two lines say about the scattering between them.

    Attributes:
        point: x, y and z of the point of closest approach, half-way between the lines [mm].
        point_variance: of each of its coordinates, from the hits' resolution [mm^2].
        angle_squared: squared angle between the lines, as the squared chord between unit vectors [rad^2].
        cosine: mean of the cosines of both zenith angles.
        noise_squared: expectation of `angle_squared` without scattering [rad^2].
    """

    point: Float[Array, "3 event"]
    point_variance: Float[Array, "3 event"]
    angle_squared: Float[Array, " event"]
    cosine: Float[Array, " event"]
    noise_squared: Float[Array, " event"]


def fit_line(z: Float[Array, " panel"], hits: Float[Array, "2 event panel"], weight: Float[Array, " panel"]) -> Line:
    """Weighted least squares, in x and y apart.

    Slopes have a prior of width 1000 around 0, so that hits at one height give a finite, useless line.

    Args:
        z: heights of the panels [mm].
        hits: measured positions [mm].
        weight: inverse variance of the hits [1/mm^2].

    >>> z = jnp.array([0.0, 1.0, 2.0])
    >>> line = fit_line(z, jnp.broadcast_to(3.0 * z, (2, 1, 3)), jnp.ones(3))
    >>> line.slope[:, 0].round(4).tolist(), float(line.slope_variance.round(4))
    ([3.0, 3.0], 0.5)
    """
    total = jnp.sum(weight)
    height = jnp.sum(weight * z) / total
    arm = z - height
    spread = jnp.sum(weight * arm**2) + FLATTEST
    return Line(hits @ weight / total, hits @ (weight * arm) / spread, height, 1 / total, 1 / spread)


def scatter(incoming: Line, outgoing: Line) -> Scatter:
    r"""Point of closest approach and angle of two lines, with the errors of the lines propagated.

    From z = 0 the lines are $r_k + a_k d_k$ with $d_k = (s_{x,k}, s_{y,k}, 1)$; the shortest connection, along
    $n = d_1\times d_2$, begins and ends at $a_k = P_k/n^2$ with $P_1 = (w\times d_2)\cdot n$, $P_2 = (w\times d_1)\cdot
    n$ and $w = r_2 - r_1$. Written so, nothing cancels for lines that are nearly parallel; the derivatives with respect
    to the eight numbers that make two lines are written out, which takes a tenth of the time of differentiating.

    Returns:
        Parallel lines meet at z = 0 with variance 0, by definition.
    """
    (x1, y1), (x2, y2) = incoming.position, outgoing.position
    (sx1, sy1), (sx2, sy2) = incoming.slope, outgoing.slope
    h1, h2 = incoming.height, outgoing.height
    x1, y1, x2, y2 = x1 - sx1 * h1, y1 - sy1 * h1, x2 - sx2 * h2, y2 - sy2 * h2
    dx, dy = x2 - x1, y2 - y1
    nx, ny, nz = sy1 - sy2, sx2 - sx1, sx1 * sy2 - sy1 * sx2
    inverse = safe_div(jnp.ones_like(nx), nx**2 + ny**2 + nz**2)
    u, v1, v2 = dy * nx - dx * ny, dx * sy1 - dy * sx1, dx * sy2 - dy * sx2
    a1, a2 = (u + v2 * nz) * inverse, (u + v1 * nz) * inverse

    # derivatives of P_1 and P_2 with respect to dx and dy, and with respect to the slopes as they stand
    gx, gy = jnp.stack([sy2 * nz - ny, sy1 * nz - ny]), jnp.stack([nx - sx2 * nz, nx - sx1 * nz])
    of_slopes = jnp.stack(
        [
            jnp.stack([dx + v2 * sy2, dx - dy * nz + v1 * sy2]),
            jnp.stack([dy - v2 * sx2, dy + dx * nz - v1 * sx2]),
            jnp.stack([-dx - dy * nz - v2 * sy1, -dx - v1 * sy1]),
            jnp.stack([-dy + dx * nz + v2 * sx1, -dy + v1 * sx1]),
        ]
    )
    of_square = 2 * jnp.stack([nz * sy2 - ny, nx - nz * sx2, ny - nz * sy1, nz * sx1 - nx])
    a = jnp.stack([a1, a2])
    explicit = of_slopes - a * of_square[:, None] + jnp.stack([h1 * gx, h1 * gy, -h2 * gx, -h2 * gy])
    slopes = inverse * jnp.concatenate([jnp.stack([-gx, -gy, gx, gy]), explicit])  # (8, 2, event)

    zero, one = jnp.zeros_like(nx), jnp.ones_like(nx)
    spread = [incoming.position_variance, outgoing.position_variance, incoming.slope_variance, outgoing.slope_variance]
    spread = jnp.repeat(jnp.stack(spread), 2)
    in_x = jnp.stack([one, zero, one, zero, a1 - h1, zero, a2 - h2, zero])
    in_y = jnp.stack([zero, one, zero, one, zero, a1 - h1, zero, a2 - h2])
    d1, d2 = slopes[:, 0], slopes[:, 1]
    variance = [spread @ ((d1 * t1 + d2 * t2 + own) / 2) ** 2 for t1, t2, own in ((sx1, sx2, in_x), (sy1, sy2, in_y))]
    variance.append(spread @ ((d1 + d2) / 2) ** 2)
    point = [(x1 + x2 + a1 * sx1 + a2 * sx2) / 2, (y1 + y2 + a1 * sy1 + a2 * sy2) / 2, (a1 + a2) / 2]

    cos1, cos2 = 1 / jnp.sqrt(1 + sx1**2 + sy1**2), 1 / jnp.sqrt(1 + sx2**2 + sy2**2)
    chord = (sx1 * cos1 - sx2 * cos2) ** 2 + (sy1 * cos1 - sy2 * cos2) ** 2 + (cos1 - cos2) ** 2
    # across and along the tilt the slopes count with the cosine and with its square
    noise = (incoming.slope_variance + outgoing.slope_variance) * (cos1**2 + cos1**4)
    return Scatter(jnp.stack(point), jnp.stack(variance), chord, (cos1 + cos2) / 2, noise)


def shares(
    point: Float[Array, " event"], variance: Float[Array, " event"], edges: Float[Array, " edge"]
) -> Float[Array, "event bin"]:
    """Probability that a normally distributed coordinate lies in each bin."""
    width = safe_sqrt(2 * variance)[:, None]
    return jnp.diff(erf((edges - point[:, None]) / jnp.maximum(width, 1e-9)), axis=1) / 2


class VoxelSums(NamedTuple):
    """Sums over muons for every voxel; those of two samples are added.

    Attributes:
        weight: of the muons.
        density: of their inverse radiation lengths [1/mm].
    """

    weight: Float[Array, "x y layer"]
    density: Float[Array, "x y layer"]


def voxel_sums(
    seen: Scatter,
    weight: Float[Array, " event"],
    momentum: Float[Array, " event"],
    edges: Sequence[Float[Array, " edge"]],
) -> VoxelSums:
    """What some muons contribute to every voxel.

    Args:
        seen: scattering of the muons.
        weight: for example the probability that both telescopes see the muon.
        momentum: [GeV].
        edges: of the voxels in x, y and z, increasing [mm]; a voxel's height is that of its layer.
    """
    a, b, c = (shares(seen.point[i], seen.point_variance[i], e) for i, e in enumerate(edges))
    square = (seen.angle_squared - seen.noise_squared) * seen.cosine * momentum**2
    columns = jnp.stack([weight, weight * square / (2 * HIGHLAND_ENERGY**2)])
    # (2 x layers, event) by (event, x y): one matrix product
    lifted = (columns[:, None, :] * c.T[None]).reshape(-1, weight.size)
    plane = (a[:, :, None] * b[:, None, :]).reshape(weight.size, -1)
    sums = (lifted @ plane).reshape(2, c.shape[1], a.shape[1], b.shape[1])
    height = jnp.diff(edges[2])[:, None, None]
    return VoxelSums(*(jnp.moveaxis(s, 0, -1) for s in (sums[0], sums[1] / height)))


def radiation_lengths(sums: VoxelSums, *, longest: float = 1e6, shortest: float = 1.0) -> Float[Array, "x y layer"]:
    """Radiation length of every voxel [mm], between two limits; close to `longest` where nothing was seen."""
    # a millionth of a muon: where there are none, the quotient would have no finite derivative
    density = sums.density / (sums.weight + 1e-6)
    # smooth where noise was subtracted from noise
    floor, ceiling = 1 / longest, 1 / shortest
    kept = floor + (density + jnp.sqrt(density**2 + floor**2)) / 2
    return 1 / jnp.minimum(kept, ceiling)


def weighted_quantile(
    values: Float[Array, " event"], weight: Float[Array, " event"], fraction: float
) -> Float[Array, ""]:
    """Value below which a fraction of the weight lies, interpolated between neighbours.

    >>> float(weighted_quantile(jnp.array([3.0, 1.0, 2.0]), jnp.ones(3), 0.5))
    2.0
    """
    if not 0 <= fraction <= 1:
        msg = f"fraction: a number from 0 to 1 is wanted, got {fraction}"
        raise ValueError(msg)
    order = jnp.argsort(values)
    ranked, share = values[order], weight[order]
    middle = jnp.cumsum(share) - share / 2
    return jnp.interp(fraction * jnp.sum(share), middle, ranked)


def clipped_mean_weights(
    seen: Scatter,
    accepted: Float[Array, " event"],
    taper: Float[Array, " event"],
    *,
    tails: float = 0.15865,
) -> Float[Array, " event"]:
    """Weights of points of closest approach for a robust mean of their heights.

    A muon counts with the inverse variance of its height; standard deviations are kept between the two quantiles
    `tails` and 1 - `tails` of the accepted muons, and the weights then below their upper one, so that neither a lucky
    nor a hopeless muon decides.

    Args:
        seen: scattering of the muons.
        accepted: weight of each muon in the quantiles.
        taper: further factor, for example one that falls towards the sides of the volume.
        tails: fraction of muons cut at an end.
    """
    deviation = safe_sqrt(seen.point_variance[2])
    low, high = (weighted_quantile(deviation, accepted, f) for f in (tails, 1 - tails))
    # lines through hits at one height meet nowhere in particular, with no error
    weight = taper / jnp.maximum(jnp.clip(deviation, low, high), FINEST) ** 2
    return jnp.minimum(weight, weighted_quantile(weight, accepted, 1 - tails))


def edges_of(low: float, high: float, size: float) -> Float[np.ndarray, " edge"]:
    """Edges of voxels between two limits [mm]."""
    return np.linspace(low, high, round((high - low) / size) + 1)
