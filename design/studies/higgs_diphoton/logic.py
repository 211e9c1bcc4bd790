"""The trigger's classifier as logic whose words are designed with the detector: formats as parameters, and their price.

Numbers of bits are Params of the role `bits`: the ascent moves them with thicknesses, thresholds and weights, within a
number of lookup tables by the model of `diffhep.trigger.resources`. Words saturate, also in hardware, so that an event
unlike all of the sample does no worse than be clipped, and relaxed and hard designs are the same function.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from diffhep.design.studies.higgs_diphoton.experiment import Experiment
from diffhep.parameters import Param, resolve
from diffhep.trigger import DenseClassifier, FixedPoint, LearnedClassifier, lut_model
from diffhep.trigger.resources import weights_of

FINEST = 8  # fractional bits, of all words alike, that the search for the initial formats begins with
SCORE = 4  # fractional bits of the score, which are not learned: they take next to no logic, and a cut has a place


def formats(network: LearnedClassifier) -> tuple[Any, ...]:
    """Learned numbers of bits: integer ones of inputs and hidden values, then all fractional ones."""
    hidden = tuple(layer.output.i for layer in network.layers[:-1])
    return (network.input.i, *hidden, *fractional(network))


def fractional(network: LearnedClassifier) -> tuple[Any, ...]:
    """Learned fractional bits: of inputs and hidden values, then of weights and biases, layer by layer."""
    hidden = tuple(layer.output.f for layer in network.layers[:-1])
    return (network.input.f, *hidden, *(f for layer in network.layers for f in (layer.weight_f, layer.bias_f)))


def with_params(network: LearnedClassifier) -> LearnedClassifier:
    """The network with its numbers of bits as Params, those of the score frozen."""
    params = tuple(Param(bits, unit="bit", role="bits") for bits in formats(network))
    score = lambda n: (n.layers[-1].output.i, n.layers[-1].output.f)
    frozen = tuple(Param(bits, unit="bit", role="bits", frozen=True) for bits in score(network))
    return eqx.tree_at(lambda n: (*formats(n), *score(n)), network, (*params, *frozen))


def in_formats(classifier: DenseClassifier, bits: float, input_format: FixedPoint) -> LearnedClassifier:
    """A floating-point network with the same number of fractional bits in all words but the score, without ranges."""
    network = LearnedClassifier.of(classifier, input_format=input_format, weight_f=bits, activation_f=bits)
    score = lambda n: n.layers[-1].output.f
    return eqx.tree_at(score, network, jnp.full_like(score(network), SCORE))


def quantised_after_training(
    classifier: DenseClassifier,
    inputs: Float[Array, "row feature"],
    photons: Float[Array, "row feature"],
    *,
    efficiency: float,
    luts: float,
    input_format: FixedPoint,
) -> LearnedClassifier:
    """Formats as they are chosen when the trigger is a stage of its own: all words alike, as fine as the logic allows.

    Args:
        classifier: trained in floating point.
        inputs: what it sees, for the ranges.
        photons: what it sees of photons.
        efficiency: for them, to which the threshold is set again.
        luts: that there are.
        input_format: of the words that arrive.

    Raises:
        ValueError: not even words with a single fractional bit fit.
    """
    needed = 0.0
    for bits in range(FINEST, 0, -1):
        network = in_formats(classifier, bits, input_format)
        network = network.calibrated(network.words(inputs))
        cut = jnp.quantile(network(photons)[..., 0], 1 - efficiency)
        shifted = eqx.tree_at(lambda n: n.layers[-1].bias, network, network.layers[-1].bias - cut)
        network = shifted.calibrated(shifted.words(inputs))
        needed = float(lut_model().luts(network))
        if needed <= luts:
            return network
    msg = f"budget.luts: at least {needed:.0f} are needed for words with one fractional bit, got {luts:g}"
    raise ValueError(msg)


def trimmed(
    design: Experiment, limit: float, slopes: Callable[[Experiment], Experiment], *, most: int = 500
) -> Experiment:
    """Bits as whole numbers, and so many taken away that the logic fits: each time the one that buys most with least.

    What a bit is worth is its surrogate gradient, what it takes the difference of the model with and without it.

    Args:
        design: with learned formats.
        limit: of the lookup tables.
        slopes: gradient of the objective, in the structure of a design.
        most: bits that are taken away.

    Raises:
        ValueError: the logic does not become small enough.
    """
    where = lambda e: fractional(e.menu.classifier)
    whole = lambda param: eqx.tree_at(lambda p: p.raw, param, jnp.floor(param.raw + 0.5))
    every = lambda e: formats(e.menu.classifier)
    design = eqx.tree_at(every, design, tuple(whole(p) for p in every(design)))
    _, restore = ravel_pytree([p.raw for p in where(design)])

    def with_bits(design: Experiment, bits: Array) -> Experiment:
        moved = [eqx.tree_at(lambda p: p.raw, p, raw) for p, raw in zip(where(design), restore(bits), strict=True)]
        return eqx.tree_at(where, design, tuple(moved))

    @jax.jit
    def taken(network: LearnedClassifier, bits: Array) -> tuple[Array, Array]:
        """Lookup tables, and those without one bit of each word."""

        def luts(b: Array) -> Array:
            return lut_model().luts(resolve(eqx.tree_at(fractional, network, tuple(restore(b)))))

        return luts(bits), jax.vmap(luts)(bits - jnp.eye(bits.size))

    for _ in range(most):
        bits, _ = ravel_pytree([p.raw for p in where(design)])
        luts, without = (np.asarray(x) for x in taken(design.menu.classifier, bits))
        if luts <= limit:
            return design
        worth = np.asarray(ravel_pytree([p.raw for p in where(slopes(design))])[0])
        saved = luts - without
        if not np.any(saved > 0):
            design = with_bits(design, bits - 1)
            continue
        price = np.where(saved > 0, worth / np.maximum(saved, 1e-9), np.inf)
        design = with_bits(design, bits.at[int(np.argmin(price))].add(-1))
    msg = f"budget.luts: the classifier still takes {luts:.0f} after {most} bits were taken away, {limit:g} are wanted"
    raise ValueError(msg)


class Words(NamedTuple):
    """Words of a network that one sentence speaks of.

    Attributes:
        name: of them.
        fractional: their fractional bits in a network.
        bits: of each of them, with signs; of a weight those from its first digit to its last.
    """

    name: str
    fractional: Callable[[Any], Any]
    bits: Callable[[Any], Float[Array, "*shape"]]


def groups(network: LearnedClassifier) -> list[Words]:
    """The learned words of a network by where they are: inputs, weights and values of each layer."""
    rows, last = [Words("inputs", lambda n: n.input.f, lambda n: n.input.bits())], len(network.layers) - 1
    for number in range(last + 1):
        layer = lambda n, i=number: n.layers[i]
        weights = lambda n, of=layer: weights_of(of(n)).enclosed
        rows.append(Words(f"weights of layer {number}", lambda n, of=layer: of(n).weight_f, weights))
        if number < last:
            values = lambda n, of=layer: of(n).output.bits()
            rows.append(Words(f"values after layer {number}", lambda n, of=layer: of(n).output.f, values))
    return rows


def moved(design: Experiment, words: Words, by: int) -> Experiment:
    """The design with so many more fractional bits in each of the words that have any."""
    present = words.bits(resolve(design.menu.classifier)) > 0
    where = lambda e: words.fractional(e.menu.classifier).raw
    return eqx.tree_at(where, design, where(design) + by * present)
