"""Photon identification: a small network that tells photons from jets by the shape of their shower.

A neutral pion is two photons: it starts to shower earlier, is a little wider, and its jet leaves hadronic energy deep
in the calorimeter.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.events import Events
from diffhep.kinematics import safe_div
from diffhep.stage import AbstractStage


def readout_fractions(events: Events) -> Float[Array, "event object readout"]:
    """Share of the photon's measured energy in each readout group; 0 for an object without energy."""
    energy = events["readout_energy"]
    return safe_div(energy, jnp.maximum(jnp.sum(energy, axis=-1, keepdims=True), 1e-3))


def photon_features(
    events: Events, *, width_scale: Float[Array, ""] | float = 15.0
) -> Float[Array, "event object feature"]:
    """Inputs of the network: readout fractions, ln(width/scale), ln(pt/50 GeV) and |eta|, all of order one.

    Args:
        events: with `readout_energy` [GeV], `width` [mm], `pt` [GeV] and `eta`.
        width_scale: width of a single photon's shower [mm].
    """
    width = 5 * jnp.log(jnp.maximum(events["width"], 1e-3) / width_scale)
    pt = jnp.log(jnp.maximum(events["pt"], 1e-3) / 50.0)
    scalars = jnp.stack([width, pt, jnp.abs(events["eta"]) - 1.0], axis=-1)
    return jnp.concatenate([4 * readout_fractions(events), scalars], axis=-1)


def affine(layer: eqx.nn.Linear, x: Float[Array, "*shape n"]) -> Float[Array, "*shape m"]:
    """A dense layer on a whole batch: one matrix product takes half the time of vmapped matrix-vector products."""
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias


class PhotonTagger(AbstractStage):
    """Adds `photon_score`, the logit of being a prompt photon, to every object.

    Attributes:
        layers: dense layers, with tanh between them.
        width_scale: width of a single photon's shower [mm].
    """

    layers: tuple[eqx.nn.Linear, ...]
    width_scale: Float[Array, ""] | float = 15.0

    @staticmethod
    def init(readouts: int, *, width: int = 16, depth: int = 2, key: PRNGKeyArray) -> "PhotonTagger":
        """A fresh network for a calorimeter with the given number of readout groups."""
        sizes = (readouts + 3, *(width,) * depth, 1)
        keys = jr.split(key, depth + 1)
        layers = [eqx.nn.Linear(n, m, key=k) for n, m, k in zip(sizes[:-1], sizes[1:], keys, strict=True)]
        return PhotonTagger(tuple(layers))

    def logit(self, features: Float[Array, "*shape feature"]) -> Float[Array, "*shape"]:
        """The score of each row of features."""
        x = features
        for layer in self.layers[:-1]:
            x = jnp.tanh(affine(layer, x))
        return affine(self.layers[-1], x)[..., 0]

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """The events with `photon_score` added."""
        return x.with_fields({"photon_score": self.logit(photon_features(x, width_scale=self.width_scale))})
