"""A diphoton trigger: two transverse-energy thresholds and a small classifier for each photon candidate.

The menu multiplies event weights by its acceptance. With `Soft` gates it is differentiable in the thresholds, the
classifier and everything upstream; with `Hard` gates and the quantised classifier it is the real trigger.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.events import Events
from diffhep.gates import AbstractGate, Soft
from diffhep.parameters import Scalar
from diffhep.stage import AbstractStage
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.quantised import EmulatedClassifier, QuantisedClassifier

TRIGGER_SUMS = 4  # coarse sums a candidate's readout groups are added up to


def trigger_features(events: Events) -> Float[Array, "event object feature"]:
    """What the trigger knows of a candidate: four longitudinal shares of its energy, and pt/64 GeV, within [0, 4).

    A trigger reads coarse sums: neighbouring readout groups are added up, and there is no lateral shape. A division by
    a power of two costs nothing in hardware; values out of range saturate.

    Raises:
        ValueError: the number of readout groups is not a multiple of four.
    """
    energy = events["readout_energy"]
    if energy.shape[-1] % TRIGGER_SUMS:
        msg = f"readout groups must be a multiple of {TRIGGER_SUMS}, got {energy.shape[-1]}"
        raise ValueError(msg)
    sums = energy.reshape(*energy.shape[:-1], TRIGGER_SUMS, -1).sum(axis=-1)
    shares = sums / jnp.maximum(jnp.sum(energy, axis=-1, keepdims=True), 1e-3)
    return jnp.clip(jnp.concatenate([shares, events["pt"][..., None] / 64.0], axis=-1), 0.0, 4.0 - 2.0**-10)


class DiphotonMenu(AbstractStage):
    """Accepts events whose two candidates pass both thresholds and the classifier.

    Attributes:
        leading, subleading: thresholds on the transverse energy of the two candidates [GeV].
        classifier: logit of each candidate's `trigger_features`; the bias is its threshold.
        energy_gate: width in GeV.
        score_gate: width in units of the logit.
    """

    leading: Scalar
    subleading: Scalar
    classifier: DenseClassifier | QuantisedClassifier | EmulatedClassifier | LearnedClassifier
    energy_gate: AbstractGate = Soft(0.5)
    score_gate: AbstractGate = Soft(0.25)

    def energy_acceptance(self, events: Events) -> Float[Array, " event"]:
        """Acceptance of the two thresholds alone."""
        pt = jnp.where(events.mask, events["pt"], 0.0)
        high, low = jnp.maximum(pt[:, 0], pt[:, 1]), jnp.minimum(pt[:, 0], pt[:, 1])
        return self.energy_gate(high - self.leading) * self.energy_gate(low - self.subleading)

    def object_acceptance(self, events: Events) -> Float[Array, "event object"]:
        """Acceptance of the classifier for each candidate; 0 where there is none."""
        accepted = self.score_gate(self.classifier(trigger_features(events))[..., 0])
        return jnp.where(events.mask, accepted, 0.0)

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """Events with their weights multiplied by the acceptance of the menu."""
        objects = self.object_acceptance(x)
        return x.reweight(self.energy_acceptance(x) * objects[:, 0] * objects[:, 1])
