"""The kinds of surrogate that settings name, untrained."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from diffhep.surrogates.autoregressive import AutoregressiveSurrogate
from diffhep.surrogates.baselines import Adversarial, Variational
from diffhep.surrogates.chain import untrained_chain
from diffhep.surrogates.config import SurrogateSettings
from diffhep.surrogates.domain import Domain
from diffhep.surrogates.flow_matching import FlowMatching, OneStep
from diffhep.surrogates.generator import AbstractGenerator
from diffhep.surrogates.moments import Moments
from diffhep.surrogates.normalising_flow import NormalisingFlow
from diffhep.surrogates.splits import Tree
from diffhep.surrogates.splitter import untrained_splitter
from diffhep.surrogates.stack import Stack
from diffhep.surrogates.surrogate import LayerSurrogate
from diffhep.surrogates.voxels import VoxelSurrogate
from diffhep.surrogates.whitened import WhitenedSurrogate

GENERATORS: Mapping[str, type[AbstractGenerator]] = {
    "flow-matching": FlowMatching,
    "one-step": OneStep,
    "normalising-flow": NormalisingFlow,
    "gan": Adversarial,
    "vae": Variational,
}


def empty_surrogate(settings: SurrogateSettings, stack: Stack, domain: Domain | None = None) -> LayerSurrogate:
    """An untrained surrogate of layers, in the structure of a trained one; for voxels, the one of their layers."""
    network = settings.network
    one, two = jr.split(jr.key(settings.schedule.seed))
    nowhere = jnp.zeros(5 if stack.merged else 4, jnp.float32)
    domain = domain or Domain(nowhere, nowhere)
    if network.kind in ("autoregressive", "voxels"):
        chain = untrained_chain(network.width, network.depth, network.memory, key=two)
        return AutoregressiveSurrogate(stack=stack, network=chain, domain=domain)
    kind: Any = GENERATORS[network.kind]
    generator = kind(stack.layers, width=network.width, depth=network.depth, key=two)
    nothing, unit = jnp.zeros(stack.layers, jnp.float32), jnp.ones(stack.layers, jnp.float32)
    moments = Moments(network.moments, key=one)
    return WhitenedSurrogate(
        stack=stack, moments=moments, generator=generator, domain=domain, shift=nothing, scale=unit
    )


def empty_voxels(settings: SurrogateSettings, stack: Stack, tree: Tree) -> VoxelSurrogate:
    """An untrained surrogate of voxels, whose structure is that of a trained one."""
    layers = empty_surrogate(settings, stack)
    assert isinstance(layers, AutoregressiveSurrogate)
    key = jr.fold_in(jr.key(settings.schedule.seed), 11)
    return VoxelSurrogate(
        layers, untrained_splitter(tree, settings.network.splitter, key=key), tree, settings.threshold
    )
