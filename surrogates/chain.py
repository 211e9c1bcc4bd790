r"""Networks for the conditional distributions of layer energies, from the back of a stack to its front.

What depends on the stack only is worked out for all layers at once by one network; the step from layer to layer is a
small one, which sees the energy that is left, the visible energy, and the layers behind.
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates import quantiles
from diffhep.surrogates.stack import FEATURES, MATERIALS, Guess, Incidence, Stack, running_sum
from diffhep.units import MeV

LAGS = 6  # layers behind that a layer sees one by one; the others through their sum
MEMORY = LAGS + 2
SUMMARY = 16  # numbers about every layer that the visible share sees, averaged over the layers
SMALL = 0.01 * MeV  # energies are seen as ln(1 + e/SMALL)
RARE = -3.0  # logit of the probability of an empty layer before training


class Perceptron(NamedTuple):
    """A multilayer perceptron whose matrices lie as XLA multiplies single rows fastest, (inputs, outputs).

    A tuple, because JAX flattens tuples ten times faster than modules, which counts for a single shower.
    """

    weights: tuple[Float[Array, "inputs outputs"], ...]
    biases: tuple[Float[Array, " outputs"], ...]

    def __call__(self, x: Float[Array, "*shape inputs"]) -> Float[Array, "*shape outputs"]:
        """The outputs, along the last axis."""
        return self.after_first(product(x, self.weights[0]))

    def after_first(self, x: Float[Array, "*shape hidden"]) -> Float[Array, "*shape outputs"]:
        """The outputs, from the product of the inputs with the first weights."""
        for weight, bias in zip(self.weights[1:], self.biases[:-1], strict=True):
            x = product(jax.nn.silu(x + bias), weight)
        return x + self.biases[-1]


def perceptron(*sizes: int, last: Array, key: PRNGKeyArray) -> Perceptron:
    """An untrained perceptron; `last` are its last biases."""
    pairs = list(pairwise(sizes))
    weights = [
        jr.normal(k, p, jnp.float32) * p[0] ** -0.5 for k, p in zip(jr.split(key, len(pairs)), pairs, strict=True)
    ]
    return Perceptron((*weights[:-1], 0.3 * weights[-1]), (*(jnp.zeros(n, jnp.float32) for n in sizes[1:-1]), last))


def product(x: Float[Array, "*shape inner"], matrix: Float[Array, "inner outer"]) -> Float[Array, "*shape outer"]:
    """A product along the last axis. All other axes as one: XLA has fast products for matrices only."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1) if x.ndim > 1 else x @ matrix


def shown(energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Energies [GeV] as the network sees them: logarithms that are zero for nothing."""
    return 0.5 * jnp.log1p(energy / SMALL)


class Known(NamedTuple):
    """What is known of a layer before the first random number; in one array, so that a step reads it at once.

    Attributes:
        hidden: what the network of the step starts from.
        parameters: of the layer's distribution, without what the memory adds.
        taken: guessed share of the layer in the energy of it and all before it.
        rest: ln of that energy over the energy before the layer, both guessed.
        crossing: ln of about the least that a crossing particle leaves, over the guessed energy.
        log_sum: ln of the guessed energy in the layer and all before it [GeV].
        shown: the layer's guessed energy as the memory shows energies.
    """

    hidden: Float[Array, "*shape hidden"]
    parameters: Float[Array, "*shape parameter"]
    taken: Float[Array, "*shape"]
    rest: Float[Array, "*shape"]
    crossing: Float[Array, "*shape"]
    log_sum: Float[Array, "*shape"]
    shown: Float[Array, "*shape"]


SCALARS = 5  # of them


class Chain(NamedTuple):
    """Networks for the parameters of all conditional distributions.

    Attributes:
        stack: sees a layer's features and their mean over the stack.
        share: gives the distribution of the visible share.
        recall: from the memory to the hidden layer of the step.
        step: from there to the parameters.
    """

    stack: Perceptron
    share: Perceptron
    recall: Float[Array, "memory hidden"]
    step: Float[Array, "hidden parameter"]

    def known(self, stack: Stack, x: Incidence, seen: Guess) -> tuple[Array, Array, Array]:
        """What is known before the first random number.

        Returns:
            `Known` of every layer but the first, packed; guess, and parameters, of the logit of the visible share.
        """
        dtype = self.recall.dtype
        features, pooled, energy = (v.astype(dtype) for v in (seen.features, seen.pooled, seen.energy))
        # the layers' mean is the same for all of them: multiplied once
        own, mean = jnp.split(self.stack.weights[0], 2)
        out = self.stack.after_first(product(features, own) + product(pooled, mean)[..., None, :])
        sums = running_sum(energy)
        total = sums[..., -1]
        summary = jnp.sum((energy / total[..., None])[..., None] * out[..., -SUMMARY:], axis=-2)
        share = self.share(jnp.concatenate([pooled, summary], axis=-1))
        # a guess of location and width of the logit of the visible share
        visible = jnp.minimum(total / x.energy.astype(dtype), 0.99)
        at = jnp.log(visible) - jnp.log1p(-visible)
        share = share.at[..., 1].add(jnp.log(seen.resolution.astype(dtype) / (1 - visible)))
        slab = x.active[..., 1:] / jnp.cos(x.angle)[..., None]
        crossing = 0.5 * MATERIALS[stack.active].mip_loss * slab.astype(dtype)
        log_sums = jnp.log(sums)
        scalars = (
            energy[..., 1:] / sums[..., 1:],
            log_sums[..., 1:] - log_sums[..., :-1],
            jnp.log(crossing) - log_sums[..., 1:],
            log_sums[..., 1:],
            shown(energy[..., 1:]),
        )
        scalars = jnp.stack(jnp.broadcast_arrays(*scalars), axis=-1)
        return jnp.concatenate([out[..., 1:, :-SUMMARY], scalars], axis=-1), at, share

    def unpacked(self, packed: Float[Array, "*shape known"]) -> Known:
        """What is known of layers, by name."""
        hidden = self.recall.shape[1]
        scalars = (packed[..., i - SCALARS] for i in range(SCALARS))
        return Known(packed[..., :hidden], packed[..., hidden:-SCALARS], *scalars)

    def conditional(self, known: Known, memory: Float[Array, "*shape memory"]) -> Float[Array, "*shape parameter"]:
        """Parameters of a layer given the memory: the last is the logit of the probability that it is empty.

        Args:
            known: of the layer.
            memory: energy in the layer and all before it, visible energy (both logarithms relative to the guess), and
                the layers behind, the nearest first, as `shown` relative to the guess.
        """
        out = known.parameters + product(jnp.tanh(known.hidden + product(memory, self.recall)), self.step)
        # a layer takes its share of the energy, but not less than a crossing particle leaves
        base = jnp.log(known.taken + jnp.exp(known.crossing - memory[..., 0])) + known.rest
        return jnp.concatenate([out[..., :1] + base[..., None], out[..., 1:]], axis=-1)


def untrained_chain(width: int, depth: int, memory: int, *, key: PRNGKeyArray) -> Chain:
    """A chain whose distributions are those of the guess.

    Args:
        width: of the hidden layers of the networks that see the stack.
        depth: number of them.
        memory: width of the hidden layer of the step from layer to layer.
        key: of the weights.
    """
    one, two, three, four = jr.split(key, 4)
    hidden = depth * (width,)
    start = jnp.asarray(quantiles.standard_parameters(), jnp.float32)
    last = jnp.concatenate([jnp.zeros(memory), start, jnp.full(1, RARE), jnp.zeros(SUMMARY)]).astype(jnp.float32)
    return Chain(
        perceptron(2 * FEATURES, *hidden, last.size, last=last, key=one),
        perceptron(FEATURES + SUMMARY, *hidden, start.size, last=start, key=two),
        jr.normal(three, (MEMORY, memory), jnp.float32) * MEMORY**-0.5,
        jr.normal(four, (memory, start.size + 1), jnp.float32) * 0.3 * memory**-0.5,
    )


def surprise(
    network: Chain, stack: Stack, x: Incidence, seen: Guess, layers: Float[Array, "*shape layer"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape layer-1"]]:
    """Negative log-likelihood of the visible share's logit, and of what every layer but the first takes.

    Args:
        network: the conditional distributions.
        stack: materials and particle.
        x: the particles and their stacks.
        seen: the guess for them.
        layers: energies [GeV]; zero where a layer is empty, which the first may not be.
    """
    packed, at, share = network.known(stack, x, seen)
    known = network.unpacked(packed)
    dtype = share.dtype
    sums = jnp.cumsum(layers, axis=-1)
    total = sums[..., -1]
    y = (jnp.log(total) - jnp.log(x.energy - total)).astype(dtype)
    of_total = -quantiles.log_density(share, y - at)
    filled = layers[..., 1:] > 0
    left = jnp.log(sums[..., 1:]).astype(dtype) - known.log_sum
    y = jnp.log(jnp.where(filled, layers[..., 1:], 1.0)) - jnp.log(sums[..., :-1])
    y = jnp.where(filled, y, 0.0).astype(dtype)
    new = shown(layers[..., 1:]).astype(dtype) - known.shown
    later = jnp.concatenate([new[..., 1:], jnp.zeros((*new.shape[:-1], LAGS), dtype)], axis=-1)
    lags = [later[..., i : i + new.shape[-1]] for i in range(LAGS)]
    first = jnp.broadcast_to(left[..., -1:], left.shape)
    out = network.conditional(known, jnp.stack([left, first, *lags], axis=-1))
    # where a layer is empty the quantile function plays no part
    inside = -quantiles.log_density(out[..., :-1], jnp.where(filled, y, jax.lax.stop_gradient(out[..., 0])))
    empty = out[..., -1]
    return of_total, jnp.where(filled, inside + jax.nn.softplus(empty), jax.nn.softplus(-empty))
