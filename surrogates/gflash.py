r"""The GFLASH parametrisation as a surrogate: nothing is learned; a shower is a gamma profile whose shape fluctuates.

Grindhammer and Peters, hep-ex/0001020; formulas in `diffhep.detector.gflash`. The stack is an effective medium made of
mean thicknesses, weighted with the guessed profile, so layers of unlike thickness are only followed roughly. Sampling
fluctuations: energies of a layer are gamma distributed with variance $c^2 e$ (the paper's appendix), where
$c^2 = E_c t_p/F$ from counting crossings of the active slabs, $t_p$ absorber thicknesses in radiation lengths.
"""

import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from diffhep.detector.gflash import EffectiveMedium, draw_shape, effective_medium, energy_fractions
from diffhep.surrogates.coordinates import cut
from diffhep.surrogates.stack import MATERIALS, PROFILE_OFFSETS, SEEN_TRACKS, Incidence, Stack, guess
from diffhep.surrogates.surrogate import AbstractSurrogate

CONVERSION = 9 / 7  # mean depth at which a photon converts [X0]


class GflashSurrogate(AbstractSurrogate):
    """Showers of electrons and photons from the GFLASH parametrisation.

    Attributes:
        stack: materials, particle and threshold.
    """

    stack: Stack

    @property
    def noise_size(self) -> int:
        """Two numbers for the shape, one for where a photon converts, one for each layer."""
        return 3 + self.stack.layers

    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV] for given standard normal numbers; see `AbstractSurrogate.from_noise`."""
        self.check(x)
        a, s = MATERIALS[self.stack.absorber], MATERIALS[self.stack.active]
        weights = guess(self.stack, x).energy
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
        mean = lambda thickness: jnp.sum(weights * thickness, axis=-1)
        absorber, active = mean(x.absorber), mean(x.active)
        each = jnp.vectorize(lambda p, q: jnp.stack(effective_medium(a, s, p, q)), signature="(),()->(n)")
        medium = EffectiveMedium(*jnp.moveaxis(each(absorber, active), -1, 0))
        path = 1 / jnp.cos(x.angle)[..., None]
        depth = jnp.cumsum((x.absorber / a.radiation_length + x.active / s.radiation_length) * path, axis=-1)
        edges = jnp.concatenate([jnp.zeros_like(depth[..., :1]), depth], axis=-1)
        if PROFILE_OFFSETS[self.stack.pdg_id] > 0:
            edges = edges + CONVERSION * norm.logcdf(noise[..., 2])[..., None]
        shares = energy_fractions(draw_shape(medium, x.energy, noise[..., :2]), edges)
        sampled = x.active * s.mip_loss / (x.active * s.mip_loss + x.absorber * a.mip_loss)
        deposits = x.energy[..., None] * shares
        # counted in effective energy, before the sampling fraction
        variance = medium.critical_energy * absorber * path[..., 0] / a.radiation_length / SEEN_TRACKS
        crossings = jnp.maximum(deposits / variance[..., None], 1e-3)
        visible = deposits * gamma_ratio(crossings, noise[..., 3:])
        energies = visible * sampled * medium.electron_response[..., None]
        return cut(energies, self.stack.threshold) if hard else energies


def gamma_ratio(shape: Float[Array, "*shape"], noise: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A gamma-distributed number over its mean, from a normal one: the cube of Wilson and Hilferty (1931)."""
    third = 1 / (9 * shape)
    return jnp.maximum(1 - third + noise * jnp.sqrt(third), 0.0) ** 3
