"""A diphoton trigger: two transverse-energy thresholds and a small classifier for each photon candidate.

The menu multiplies event weights by its acceptance. With `Soft` gates it is differentiable in the thresholds, the
classifier and everything upstream; with `Hard` gates and the quantised classifier it is the real trigger.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.events import Events
from diffhep.gates import AbstractGate, Soft
from diffhep.parameters import Param
from diffhep.stage import AbstractStage

Scalar = Float[Array, ""] | Param | float


def trigger_features(events: Events) -> Float[Array, "event object feature"]:
    """What the trigger knows of a candidate: readout fractions, width/16 mm and pt/64 GeV, each within [0, 4).

    Divisions by powers of two cost nothing in hardware; values out of range saturate.
    """
    energy = events["readout_energy"]
    fractions = energy / jnp.maximum(jnp.sum(energy, axis=-1, keepdims=True), 1e-3)
    scalars = jnp.stack([events["width"] / 16.0, events["pt"] / 64.0], axis=-1)
    return jnp.clip(jnp.concatenate([fractions, scalars], axis=-1), 0.0, 4.0 - 2.0**-10)


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
    classifier: Callable[[Float[Array, "*shape feature"]], Float[Array, "*shape"]]
    energy_gate: AbstractGate = Soft(0.5)
    score_gate: AbstractGate = Soft(0.25)

    def energy_acceptance(self, events: Events) -> Float[Array, " event"]:
        """Acceptance of the two thresholds alone."""
        pt = jnp.where(events.mask, events["pt"], 0.0)
        high, low = jnp.maximum(pt[:, 0], pt[:, 1]), jnp.minimum(pt[:, 0], pt[:, 1])
        return self.energy_gate(high - self.leading) * self.energy_gate(low - self.subleading)

    def object_acceptance(self, events: Events) -> Float[Array, "event object"]:
        """Acceptance of the classifier for each candidate."""
        return self.score_gate(self.classifier(trigger_features(events))[..., 0])

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """Events with their weights multiplied by the acceptance of the menu."""
        objects = self.object_acceptance(x)
        return x.reweight(self.energy_acceptance(x) * objects[:, 0] * objects[:, 1])
