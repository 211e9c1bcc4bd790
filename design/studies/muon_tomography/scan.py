r"""What is inside a block? A scan of voxels of lead and beryllium, the scene of TomOpt's hello world.

A block of 1 x 1 x 0.6 m in 6 x (10 x 10) voxels of 10 cm between 0.2 and 0.8 m, three layers of beryllium under three
of lead; 4 + 4 panels of 1 x 1 m above and below; muons of 5 GeV. The loss is the mean squared logarithm of measured
over true radiation length. Most of it is the bias of the point of closest approach, which puts all scattering of a muon
into one voxel.

Muons are simulated and collected in chunks; the reverse pass goes through the reconstruction of each chunk again, so
that of every muon only its two straight paths are kept in memory.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.design.studies.muon_tomography.layout import JITTER, Layout, observe
from diffhep.detector.material import BERYLLIUM, LEAD
from diffhep.detector.voxels import VoxelVolume
from diffhep.events import Events
from diffhep.generate.cosmic import Spectrum, cosmic_muons
from diffhep.reconstruction.scattering_tomography import VoxelSums, edges_of, radiation_lengths, voxel_sums

SIZE, BOTTOM, CEILING = 100.0, 200.0, 1000.0  # mm
SIDE = 1000.0  # mm
MARGIN = float(np.tan(np.pi / 12)) * (CEILING - BOTTOM + SIZE)
CHUNK = 1000  # muons simulated at once


class ScanSample(eqx.Module):
    """Muons and the key of everything random that happens to them.

    Attributes:
        incoming: in chunks, with a leading axis; positions at the top of the block.
        volume: the block.
        key: of scattering and resolution.
    """

    incoming: Events
    volume: VoxelVolume
    key: PRNGKeyArray


def scan_volume(*, steps: int = 2) -> VoxelVolume:
    """Three layers of beryllium under three of lead."""
    layers = np.array([BERYLLIUM.radiation_length] * 3 + [LEAD.radiation_length] * 3)
    return VoxelVolume(jnp.asarray(np.tile(layers[:, None, None], (1, 10, 10))), size=SIZE, bottom=BOTTOM, steps=steps)


def scan_sample(
    muons: int, *, seed: int, volume: VoxelVolume | None = None, momentum: float | Spectrum = 5.0, chunk: int = CHUNK
) -> ScanSample:
    """Muons that hit a block.

    Raises:
        ValueError: a number of muons that is not a multiple of the chunk.
    """
    if muons % chunk:
        msg = f"muons: a multiple of {chunk} is wanted, got {muons}"
        raise ValueError(msg)
    volume = scan_volume() if volume is None else volume
    start = (-MARGIN, SIDE + MARGIN)
    above = cosmic_muons(muons, seed=seed, height=CEILING, area=(start, start), momentum=momentum, box=volume.extent)
    down = CEILING - volume.top
    incoming = above.with_fields({c: above[c] - down * above[f"slope_{c}"] for c in ("x", "y")})
    return ScanSample(jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), incoming), volume, jr.key(seed))


def scan_sums(layout: Layout, sample: ScanSample, *, jitter: float | None) -> VoxelSums:
    """Voxel sums of all muons; Params resolved."""
    volume = sample.volume
    edges = tuple(jnp.asarray(edges_of(low, high, volume.size)) for low, high in volume.extent)
    panels = len(layout.upper.panels)

    @jax.checkpoint
    def sums_of(layout: Layout, incoming: Events, outgoing: Events, noise: Array) -> VoxelSums:
        heights = (volume.top, volume.bottom)
        seen, weight = observe(layout, incoming, outgoing, heights, noise, jitter=jitter)
        return voxel_sums(seen, weight, incoming["momentum"], edges)

    def add(total: VoxelSums, xs: tuple[Events, PRNGKeyArray]) -> tuple[VoxelSums, None]:
        incoming, key = xs
        scattering, resolution = jr.split(key)
        # nothing here depends on the panels: kept for the reverse pass, not simulated again
        outgoing = volume(incoming, key=scattering)
        noise = jr.normal(resolution, (2, 2, incoming.size, panels), jnp.float32).astype(incoming["x"].dtype)
        return jax.tree.map(jnp.add, total, sums_of(layout, incoming, outgoing, noise)), None

    chunks = sample.incoming.weight.shape[0]
    shape = jnp.moveaxis(volume.radiation_length, 0, -1)
    start = VoxelSums(jnp.zeros_like(shape), jnp.zeros_like(shape))
    return jax.lax.scan(add, start, (sample.incoming, jr.split(sample.key, chunks)))[0]


def scan_error(layout: Layout, sample: ScanSample, *, jitter: float | None = JITTER) -> Float[Array, ""]:
    """Mean squared logarithm of measured over true radiation length; Params resolved."""
    found = radiation_lengths(scan_sums(layout, sample, jitter=jitter))
    truth: Array = jnp.moveaxis(sample.volume.radiation_length, 0, -1)
    return jnp.mean(jnp.log(found / truth) ** 2)
