r"""A stack and the particle that meets it: what a surrogate is conditioned on, and a first guess of its answer.

The guess is a gamma profile (Longo and Sestili, NIM 128 (1975) 283) integrated over the layers in radiation lengths,
times the share of minimum-ionising loss in the active slabs. What is learned is the correction to it, so that a layer
thickness acts through physics first and through a network second.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffhep.detector.material import COPPER, IRON, LEAD, LIQUID_ARGON, POLYSTYRENE, SILICON, TUNGSTEN, Material
from diffhep.detector.shower import LEGENDRE_NODES, LEGENDRE_WEIGHTS, SHOWER_RATE
from diffhep.io.showers import Showers
from diffhep.units import MeV

# the table has no polyvinyltoluene; polystyrene differs by 3 % in radiation length, which the networks take up
MATERIALS: Mapping[str, Material] = {
    "G4_Pb": LEAD,
    "G4_W": TUNGSTEN,
    "G4_Fe": IRON,
    "G4_Cu": COPPER,
    "G4_Si": SILICON,
    "G4_lAr": LIQUID_ARGON,
    "G4_PLASTIC_SC_VINYLTOLUENE": POLYSTYRENE,
    "G4_POLYSTYRENE": POLYSTYRENE,
}
PROFILE_OFFSETS: Mapping[int, float] = {11: -0.5, -11: -0.5, 22: 0.5}
ELECTRON_RESPONSE = 0.7  # an electromagnetic shower's active share relative to that of a minimum-ionising particle
SEEN_TRACKS = 0.7  # share of a shower's track length that crosses active slabs visibly
FLOOR = 1e-3 * MeV  # keeps ratios of expected energies finite far behind a shower


class Incidence(eqx.Module):
    """Particles and the stacks they meet; leading axes broadcast.

    Attributes:
        energy: kinetic energy [GeV].
        angle: from the normal of the layers [rad].
        absorber: thickness of the absorber of every layer [mm].
        active: thickness of the active slab of every layer [mm].
        merged: for a stack that is read out in groups, the number of its layers in a group, whole or not; the
            thicknesses are then those of a group. None for a stack that is read out layer by layer.
    """

    energy: Float[Array, "*shape"]
    angle: Float[Array, "*shape"]
    absorber: Float[Array, "*shape layer"]
    active: Float[Array, "*shape layer"]
    merged: Float[Array, "*shape"] | None = None

    @property
    def count(self) -> Float[Array, "*shape 1"] | float:
        """Slabs of each kind in a layer, or in a group of layers."""
        return 1.0 if self.merged is None else self.merged[..., None]


class Stack(eqx.Module):
    """What does not change between showers.

    Attributes:
        layers: their number; that of groups if they are read out in groups.
        absorber: NIST name of the absorber.
        active: NIST name of the active material.
        pdg_id: of the particle.
        threshold: energy of a layer below which it counts as empty [GeV].
        merged: whether layers are read out in groups, of a number that is a part of the geometry.
    """

    layers: int = eqx.field(static=True)
    absorber: str = eqx.field(static=True, default="G4_Pb")
    active: str = eqx.field(static=True, default="G4_PLASTIC_SC_VINYLTOLUENE")
    pdg_id: int = eqx.field(static=True, default=11)
    threshold: float = eqx.field(static=True, default=0.01 * MeV)
    merged: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        for name in (self.absorber, self.active):
            if name not in MATERIALS:
                msg = f"material {name!r}: a surrogate knows {', '.join(MATERIALS)}"
                raise ValueError(msg)
        if self.pdg_id not in PROFILE_OFFSETS:
            msg = f"pdg_id {self.pdg_id}: a surrogate knows electrons (11), positrons (-11) and photons (22)"
            raise ValueError(msg)
        if self.layers < 2:
            msg = f"layers: at least 2 are wanted, got {self.layers}"
            raise ValueError(msg)


class Guess(NamedTuple):
    """What physics expects before anything is learned.

    Attributes:
        energy: mean energy in every active slab [GeV], (..., layer), at least `FLOOR`.
        features: what networks see of every layer, of order one, (..., layer, feature).
        pooled: mean of the features, weighted with the expected energy, (..., feature).
        resolution: relative width of the visible energy, from counting crossings of active slabs.
    """

    energy: Float[Array, "*shape layer"]
    features: Float[Array, "*shape layer feature"]
    pooled: Float[Array, "*shape feature"]
    resolution: Float[Array, "*shape"]


FEATURES = 13
TOGETHER = 8  # arrays that XLA stacks in one loop


def guess(stack: Stack, x: Incidence) -> Guess:
    """Mean profile and features of every layer.

    Args:
        stack: materials and particle.
        x: energies, angles and thicknesses; differentiable in all of them.

    >>> x = Incidence(jnp.array(2.0), jnp.array(0.0), jnp.full(30, 4.0), jnp.full(30, 5.0))
    >>> float(guess(Stack(30), x).energy.sum().round(2))
    0.22
    """
    a, s = MATERIALS[stack.absorber], MATERIALS[stack.active]
    path = 1 / jnp.cos(x.angle)[..., None]
    # of one slab, where layers are read out in groups: that is what sampling depends on
    absorber, active = x.absorber / x.count, x.active / x.count
    in_absorber = absorber * path / a.radiation_length
    in_active = active * path / s.radiation_length
    step = x.count * (in_absorber + in_active)
    depth = running_sum(step)
    edges = jnp.concatenate([jnp.zeros_like(depth[..., :1]), depth], axis=-1)
    total = depth[..., -1]
    critical = jnp.sum(x.count * (in_absorber * a.critical_energy + in_active * s.critical_energy), axis=-1) / total
    log_y = jnp.log(x.energy / critical)
    shape = 1 + SHOWER_RATE * jnp.maximum(log_y + PROFILE_OFFSETS[stack.pdg_id], 0.5)
    share = profile(shape, SHOWER_RATE * edges[..., :-1], SHOWER_RATE * step)
    sampled = active * s.mip_loss / (active * s.mip_loss + absorber * a.mip_loss)
    energy = ELECTRON_RESPONSE * x.energy[..., None] * share * sampled + FLOOR
    weights = energy / jnp.sum(energy, axis=-1, keepdims=True)
    middle = depth - 0.5 * step
    before = jnp.concatenate([active[..., :1], active[..., :-1]], axis=-1)
    behind = jnp.concatenate([in_absorber[..., 1:], in_absorber[..., -1:]], axis=-1)
    scalar = lambda value: value[..., None]
    features = scaled(
        (in_absorber, 2, -1),
        (jnp.log(in_absorber), 0.5, 0),
        (active * path, 1 / 3, -1.5),
        (jnp.log(active), 1, -1),
        (behind, 1, 0),
        (before, 1 / 5, -1),
        (middle, 1 / 10, -1),
        (middle - scalar(shape - 1) / SHOWER_RATE, 1 / 5, 0),
        (scalar(log_y), 1, -5),
        (path, 5, -5.5),
        (jnp.log(energy), 1 / 5, 1.5),
        (scalar(total), 1 / 15, -1.5),
        (sampled, 4, -1),
    )
    crossed = jnp.sum(weights * in_absorber, axis=-1) * critical / SEEN_TRACKS
    return Guess(energy, features, jnp.sum(weights[..., None] * features, axis=-2), jnp.sqrt(crossed / x.energy))


def scaled(*columns: tuple[Array, float, float]) -> Float[Array, "*shape layer column"]:
    """Columns side by side, each times its scale and shifted: value, scale, shift."""
    values = jnp.broadcast_arrays(*(value for value, _, _ in columns))
    factors = jnp.asarray([numbers for _, *numbers in columns], values[0].dtype)
    # of more, each has a loop of its own; they are so many that XLA wakes a second thread, which takes longer than all
    parts = [slice(i, i + TOGETHER) for i in range(0, len(columns), TOGETHER)]
    stacked = [jnp.stack(values[part], axis=-1) * factors[part, 0] + factors[part, 1] for part in parts]
    return jnp.concatenate(stacked, axis=-1)


def running_sum(values: Float[Array, "*shape layer"]) -> Float[Array, "*shape layer"]:
    """Sums over a layer and all before it, as a product: for a single shower faster than `cumsum`."""
    return values @ jnp.asarray(np.triu(np.ones(2 * values.shape[-1:])), values.dtype)


def profile(
    shape: Float[Array, "*shape"], start: Float[Array, "*shape layer"], step: Float[Array, "*shape layer"]
) -> Float[Array, "*shape layer"]:
    """Probability of a gamma distribution of the given shape, 2 or more, in the layers; to 1e-5.

    As `diffhep.detector.shower.gamma_fractions`, but in the precision of its arguments, and with Stirling's series in
    place of ln Gamma: a single shower takes half the time.
    """
    nodes = start[..., None] + step[..., None] * jnp.asarray(LEGENDRE_NODES, step.dtype)
    inverse = 1 / shape
    series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))
    log_gamma = (shape - 0.5) * jnp.log(shape) - shape + 0.5 * math.log(2 * math.pi) + series
    density = jnp.exp((shape - 1)[..., None, None] * jnp.log(nodes) - nodes - log_gamma[..., None, None])
    return step * jnp.sum(density * jnp.asarray(LEGENDRE_WEIGHTS, step.dtype), axis=-1)


def incidence_of(showers: Showers, dtype: jax.typing.DTypeLike = float) -> Incidence:
    """Energies, angles and thicknesses of simulated showers."""
    return Incidence(
        jnp.asarray(showers.energy, dtype),
        jnp.asarray(showers.angle, dtype),
        jnp.asarray(showers.absorber_thickness, dtype),
        jnp.asarray(showers.active_thickness, dtype),
        None if showers.merged is None else jnp.asarray(showers.merged, dtype),
    )


def stack_of(showers: Showers, threshold: float = 0.01 * MeV) -> Stack:
    """The stack that showers were simulated in.

    Raises:
        ValueError: several kinds of particle, layers read out together, materials unknown here.
    """
    kinds = np.unique(showers.pdg_id)
    if len(kinds) != 1:
        msg = f"pdg_id: a surrogate is trained on one kind of particle, the showers are of {kinds.tolist()}"
        raise ValueError(msg)
    if showers.readouts != showers.layers:
        msg = f"active_energy: {showers.readouts} read-outs of {showers.layers} layers; wanted one for each layer"
        raise ValueError(msg)
    setup = showers.config.get("calorimeter", {})
    names = [setup.get(key) for key in ("absorber", "active")]
    if not all(isinstance(name, str) for name in names):
        msg = "config: does not say of which absorber and active material the calorimeter is"
        raise ValueError(msg)
    merged = showers.merged is not None
    return Stack(showers.layers, str(names[0]), str(names[1]), int(kinds[0]), threshold, merged)
