r"""Layer energies one after the other, each with its conditional distribution: the most accurate surrogate.

First the visible energy $S$, as $\mathrm{logit}(S/E)$, so that mean and resolution are a regression of one number and
energy is conserved; then, from back to front, what every layer takes of the energy in it and all layers before it,
$y_i = \mathrm{logit}(e_i/S_i)$ with $S_{i-1} = S_i - e_i$; the first layer takes the rest. Given what lies behind it, a
layer is empty with a learned probability, and otherwise $y_i$ follows a learned quantile function. Everything is
trained by maximum likelihood (as in masked autoregressive flows, Papamakarios et al., arXiv:1705.07057).

A standard normal number $z$ becomes a layer through $u = \Phi(z)$: empty for $u < p$, otherwise the quantile of
$(u - p)/(1 - p)$, which starts at zero energy. So energies are continuous in the random numbers and in the stack.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from diffhep.surrogates import quantiles
from diffhep.surrogates.chain import LAGS, Chain, shown, surprise
from diffhep.surrogates.coordinates import cut
from diffhep.surrogates.domain import Domain
from diffhep.surrogates.stack import Incidence, Stack, guess
from diffhep.surrogates.surrogate import LayerSurrogate

LEAST = 1e-20  # of a probability whose logarithm is taken
LOG_LEAST = -46.0  # ln of it, rounded up


class AutoregressiveSurrogate(LayerSurrogate):
    """Energies in the active layers of a sampling calorimeter, from an autoregressive density.

    Attributes:
        stack: materials, particle and threshold.
        network: the conditional distributions.
        domain: where the training showers lie.
    """

    stack: Stack
    network: Chain
    domain: Domain

    @property
    def noise_size(self) -> int:
        """One number for the visible energy and one for every layer but the first."""
        return self.stack.layers

    def from_noise(
        self, x: Incidence, noise: Float[Array, "*shape noise"], *, hard: bool = True
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV] for given standard normal numbers; see `AbstractSurrogate.from_noise`."""
        self.check(x)
        energies = self.from_known(self.network.known(self.stack, x, guess(self.stack, x)), x.energy, noise)
        return cut(energies, self.stack.threshold) if hard else energies

    def from_known(
        self, known: tuple[Array, Array, Array], energy: Float[Array, "*shape"], noise: Float[Array, "*shape noise"]
    ) -> Float[Array, "*shape layer"]:
        """Energies of all layers [GeV], from what `Chain.known` says of particles of these energies [GeV]."""
        network = self.network
        packed, at, share = known
        front, back = (network.unpacked(packed[..., i, :]) for i in (0, -1))
        noise = noise.astype(share.dtype)
        tails = jnp.maximum(ndtr(jnp.stack([noise, -noise], axis=-1)), LEAST)
        below, log_tails = tails[..., 0], jnp.log(tails)
        y = at + quantiles.quantile(share, log_tails[..., 0, 0] - log_tails[..., 0, 1])
        # all sums of energies are carried relative to the guess
        start = jnp.log(energy).astype(y.dtype) + jax.nn.log_sigmoid(y) - back.log_sum

        def step(memory: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            packed, below, log_above = inputs
            known = network.unpacked(packed)
            out = network.conditional(known, memory)
            log_filled = jnp.log(jnp.maximum(below - jax.nn.sigmoid(out[..., -1]), LEAST))
            inside = log_filled > LOG_LEAST
            y = quantiles.quantile(out[..., :-1], log_filled - log_above)
            left = memory[..., 0]
            energy = jnp.where(inside, jnp.exp(left + known.log_sum) * jax.nn.sigmoid(y), 0.0)
            left = left + known.rest - jnp.where(inside, jax.nn.softplus(y), 0.0)
            new = jnp.stack([left, memory[..., 1], shown(energy) - known.shown], axis=-1)
            return jnp.concatenate([new, memory[..., 2:-1]], axis=-1), energy

        memory = jnp.concatenate([start[..., None]] * 2 + [jnp.zeros((*start.shape, LAGS), start.dtype)], axis=-1)
        drawn = [jnp.moveaxis(v[..., 1:], -1, 0) for v in (below, log_tails[..., 1])]
        inputs = (jnp.moveaxis(packed, -2, 0), drawn[0], drawn[1])
        # a gradient works every layer out again: writing down and reading what all of them leave takes longer
        again = jax.checkpoint(step, prevent_cse=False)
        memory, behind = jax.lax.scan(again, memory, inputs, reverse=True)
        first = jnp.exp(memory[..., 0] + front.log_sum - front.rest)
        return jnp.concatenate([first[..., None], jnp.moveaxis(behind, 0, -1)], axis=-1)

    def log_prob(self, layers: Float[Array, "*shape layer"], x: Incidence) -> Float[Array, "*shape"]:
        """Logarithm of the density of layer energies [GeV], in 1/GeV to the number of layers that are not empty.

        Empty layers have a probability in place of a density. The first layer may not be empty.
        """
        self.check(x)
        log_total, log_rest = surprise(self.network, self.stack, x, guess(self.stack, x), layers)
        sums = jnp.cumsum(layers, axis=-1)
        total = sums[..., -1]
        first = jnp.log(x.energy) - jnp.log(total) - jnp.log(x.energy - total)
        filled = layers[..., 1:] > 0
        safe = jnp.where(filled, layers[..., 1:], 1.0)
        rest = jnp.log(sums[..., 1:]) - jnp.log(safe) - jnp.log(sums[..., :-1])
        return first + jnp.sum(jnp.where(filled, rest, 0.0), axis=-1) - log_total - jnp.sum(log_rest, axis=-1)
