r"""How full is a ladle furnace? Fill heights from the points of closest approach of a thousand muons.

The scene of TomOpt's published benchmark (arXiv:2309.14027): a block of 1 x 1 x 1 m between 0.4 and 1.4 m in voxels of
10 cm, steel walls and floor one voxel thick, liquid steel up to one of eight heights, a layer of slag on it, air above;
4 + 4 panels above and below, within 0.4 m of the block. The fill height is a straight line in the weighted mean height
of the points of closest approach, fitted to the truth.

**Objective.** With t the true height, p that mean for n muons, $\mu_t$ its expectation and $v_t$ its variance, the mean
squared error of the best straight line is

$$\mathrm{MSE} = \mathrm{var}\,t - \frac{\mathrm{cov}(t, \mu_t)^2}{\mathrm{var}\,\mu_t + \overline{v_t}}, \qquad
v_t = \frac{N}{n}\,\frac{\sum_i A_i w_i^2 (z_i - \mu_t)^2}{(\sum_i A_i w_i)^2},$$

estimated from N simulated muons a height with acceptance A and weight w. No volumes of n muons have to be drawn, and
the objective fluctuates less than the mean over N/n of them; `predicted_heights` draws them, with hard edges, as the
check.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffhep.design.studies.muon_tomography.layout import JITTER, Layout, observe
from diffhep.detector.voxels import VoxelVolume
from diffhep.events import Events
from diffhep.generate.cosmic import Spectrum, cosmic_muons
from diffhep.kinematics import safe_div
from diffhep.reconstruction.scattering_tomography import clipped_mean_weights, edges_of, shares
from diffhep.units import m

# radiation lengths of the scene [mm]
STEEL, LIQUID_STEEL, SLAG, AIR = 17.82, 19.91, 82.11, 303900.0
HEIGHTS = tuple(600.0 + 100.0 * i for i in range(8))  # mm
SIZE, VOXELS, BOTTOM = 100.0, 10, 400.0  # mm, voxels a side, mm
TOP = BOTTOM + VOXELS * SIZE
CEILING = 1800.0  # mm
SIDE = SIZE * VOXELS
MARGIN = float(np.tan(np.pi / 12)) * (CEILING - BOTTOM + SIZE)  # muons start this far beyond the block's sides
NOTHING = 1e-9  # every muon counts at least so much: a layout that none crosses is bad, not undefined
SMOOTH = 1.0  # width of the taper towards the walls, in half sides


class FurnaceSample(eqx.Module):
    """Simulated muons, the same for every layout: panels do not scatter, so nothing here depends on them.

    Attributes:
        incoming: muons above the block, their positions at its top.
        outgoing: behind it, at its bottom, with a leading axis for the fill heights.
        noise: unit normals of the hits.
    """

    incoming: Events
    outgoing: Events
    noise: Float[Array, "height side 2 event panel"]


class Moments(NamedTuple):
    """Mean height of the points of closest approach, its variance, and the muons used, for every fill height."""

    mean: Float[Array, " height"]
    variance: Float[Array, " height"]
    used: Float[Array, " height"]


def furnace_volume(fill: float, slag: float = 100.0, *, steps: int = 4) -> VoxelVolume:
    """The furnace filled up to some height [mm], with that much slag on it."""
    if not BOTTOM + SIZE <= fill <= TOP:
        msg = f"fill: a height between {BOTTOM + SIZE} and {TOP} mm is wanted, got {fill}"
        raise ValueError(msg)
    top_of_layer = BOTTOM + SIZE * (np.arange(VOXELS) + 1)
    inside = np.where(
        top_of_layer <= fill + 1e-6, LIQUID_STEEL, np.where(top_of_layer <= fill + slag + 1e-6, SLAG, AIR)
    )
    inside[0] = STEEL
    length = np.broadcast_to(inside[:, None, None], (VOXELS,) * 3).copy()
    length[:, [0, -1], :] = length[:, :, [0, -1]] = STEEL
    return VoxelVolume(jnp.asarray(length), size=SIZE, bottom=BOTTOM, steps=steps)


def furnace_sample(
    muons: int, *, seed: int, panels: int = 4, momentum: float | Spectrum = 5.0, steps: int = 4, slag: float = 100.0
) -> FurnaceSample:
    """Simulates muons that hit the furnace, at all fill heights."""
    box = furnace_volume(HEIGHTS[0]).extent
    start = (-MARGIN, SIDE + MARGIN)
    above = cosmic_muons(muons, seed=seed, height=CEILING, area=(start, start), momentum=momentum, box=box)
    down = CEILING - TOP
    moved = {c: above[c] - down * above[f"slope_{c}"] for c in ("x", "y")}
    incoming = above.with_fields(moved)
    lengths = jnp.stack([furnace_volume(h, slag).radiation_length for h in HEIGHTS])
    keys = jax.random.split(jax.random.key(seed), len(HEIGHTS))
    outgoing = through(lengths, incoming, keys, steps)
    rng = np.random.default_rng(seed + 1)
    noise = rng.standard_normal((len(HEIGHTS), 2, 2, muons, panels))
    return FurnaceSample(incoming, outgoing, jnp.asarray(noise))


@eqx.filter_jit
def through(lengths: Array, incoming: Events, keys: Array, steps: int) -> Events:
    """Muons behind the furnace, for each of some voxel contents."""

    def one(args: tuple[Array, Array]) -> Events:
        length, key = args
        return VoxelVolume(length, size=SIZE, bottom=BOTTOM, steps=steps)(incoming, key=key)

    return jax.lax.map(one, (lengths, keys))


def taper(seen_x: Array, seen_y: Array, variance_x: Array, variance_y: Array) -> Float[Array, " event"]:
    r"""Weight that falls from the middle of the furnace to its walls.

    In each direction $2\,\sigma((1 - |\delta|)/s)/\sigma(1/s) - 1$ at the centre of a pixel, $\delta$ its distance from
    the middle over half the side and s = `SMOOTH`, averaged over the pixels with the muon's probability of each.
    """
    edges = jnp.asarray(edges_of(0.0, SIDE, SIZE))
    centre = (edges[1:] + edges[:-1]) / 2
    delta = jnp.abs(2 * centre / SIDE - 1)
    height = 2 * jax.nn.sigmoid((1 - delta) / SMOOTH) / jax.nn.sigmoid(1 / SMOOTH) - 1
    return (shares(seen_x, variance_x, edges) @ height) * (shares(seen_y, variance_y, edges) @ height)


def seen_heights(
    layout: Layout, incoming: Events, outgoing: Events, noise: Array, jitter: float | None
) -> tuple[Array, Array, Array]:
    """Heights of the points of closest approach, their weights, and the acceptance, for one furnace."""
    seen, accepted = observe(layout, incoming, outgoing, (TOP, BOTTOM), noise, jitter=jitter)
    accepted = accepted + NOTHING
    side = taper(seen.point[0], seen.point[1], seen.point_variance[0], seen.point_variance[1])
    # so it must for the weights: no point of a handful of muons need be seen inside
    return seen.point[2], clipped_mean_weights(seen, accepted, side) + NOTHING, accepted


def moments(layout: Layout, sample: FurnaceSample, *, muons: int, jitter: float | None) -> Moments:
    """Expectation and variance of the mean height for a number of muons a volume; Params resolved."""

    def one(outgoing: Events, noise: Array) -> Moments:
        z, weight, accepted = seen_heights(layout, sample.incoming, outgoing, noise, jitter)
        share = accepted * weight
        total = jnp.sum(share)
        mean = jnp.sum(share * z) / total
        spread = jnp.sum(share * weight * (z - mean) ** 2) / total**2
        thrown = sample.incoming.size / muons
        return Moments(mean, spread * thrown, jnp.sum(accepted) / thrown)

    return jax.vmap(one)(sample.outgoing, sample.noise)


def fill_height_error(
    layout: Layout, sample: FurnaceSample, *, muons: int = 1000, jitter: float | None = JITTER
) -> Float[Array, ""]:
    """Mean squared error of the fill height [m^2]; Params resolved."""
    found = moments(layout, sample, muons=muons, jitter=jitter)
    truth = jnp.asarray(HEIGHTS)
    covariance = jnp.mean((truth - jnp.mean(truth)) * found.mean)
    # a prediction that never varies, as without any measured direction, predicts nothing
    error = jnp.var(truth) - safe_div(covariance**2, jnp.var(found.mean) + jnp.mean(found.variance))
    return error / m**2


@eqx.filter_jit
def predicted_heights(layout: Layout, sample: FurnaceSample, *, muons: int = 1000) -> Float[Array, "height volume"]:
    """Weighted mean heights of whole volumes of muons, hard panels; Params resolved [mm]."""
    volumes = sample.incoming.size // muons
    cut = lambda x, axis: jnp.moveaxis(jnp.reshape(x, (*x.shape[:axis], volumes, muons, *x.shape[axis + 1 :])), axis, 0)
    used = volumes * muons
    incoming = jax.tree.map(lambda x: cut(x[:used], 0), sample.incoming)

    def one_height(args: tuple[Events, Array]) -> Array:
        outgoing, noise = args
        parts = (incoming, jax.tree.map(lambda x: cut(x[:used], 0), outgoing), cut(noise[:, :, :used], 2))

        def one(part: tuple) -> Array:
            z, weight, accepted = seen_heights(layout, part[0], part[1], part[2], None)
            return jnp.sum(accepted * weight * z) / jnp.sum(accepted * weight)

        return jax.lax.map(one, parts)

    return jax.lax.map(one_height, (sample.outgoing, sample.noise))


def squared_errors(predicted: np.ndarray) -> Float[np.ndarray, " volume"]:
    """Squared errors of all volumes after the straight line that fits them best [m^2]."""
    truth = np.repeat(np.array(HEIGHTS)[:, None], predicted.shape[1], axis=1).ravel()
    slope, offset = np.polyfit(predicted.ravel(), truth, 1)
    return ((slope * predicted.ravel() + offset - truth) / m) ** 2
