"""The design to beat: every stage tuned alone, against its usual proxy.

At a fixed layout the two networks are trained by cross-entropy to tell prompt photons from fakes; then each is cut at
a conventional efficiency for photons. This is how such an experiment is tuned today, stage by stage.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from diffhep.design.studies.higgs_diphoton.experiment import Data, Experiment, Spectrum, measured
from diffhep.design.study import Report
from diffhep.parameters import resolve
from diffhep.tagging import photon_features
from diffhep.trigger import trigger_features

PHOTON_EFFICIENCY = 0.90  # of the photon identification, per photon
TRIGGER_EFFICIENCY = 0.97  # of the trigger's classifier, per photon
CHUNK = 50


def stagewise(experiment: Experiment, spectrum: Spectrum, data: Data, *, steps: int, progress: Report) -> Experiment:
    """Train the networks at the experiment's layout, and set both cuts at fixed photon efficiency."""
    offline, online, label, weight = training_set(experiment, spectrum, data)
    networks = experiment.tagger, experiment.menu.classifier

    def loss(pair: tuple) -> Float[Array, ""]:
        tagger, classifier = pair
        logits = tagger.logit(offline), classifier(online)[..., 0]
        return jnp.sum(weight * sum(optax.sigmoid_binary_cross_entropy(x, label) for x in logits))

    trainable, rest = eqx.partition(networks, eqx.is_inexact_array)
    adam = optax.adam(optax.cosine_decay_schedule(0.02, max(steps, 1), alpha=0.05))

    @jax.jit
    def run(trainable: tuple, state: optax.OptState) -> tuple:
        def step(carry: tuple, _: None) -> tuple:
            trainable, state = carry
            gradient = jax.grad(lambda t: loss(eqx.combine(t, rest)))(trainable)
            updates, state = adam.update(gradient, state, trainable)
            return (optax.apply_updates(trainable, updates), state), None

        return jax.lax.scan(step, (trainable, state), length=CHUNK)[0]

    state = adam.init(trainable)
    for done in range(0, steps, CHUNK):
        trainable, state = run(trainable, state)
        progress("train networks", min(1.0, (done + CHUNK) / steps))
    tagger, classifier = eqx.combine(trainable, rest)

    prompt = np.asarray(label) == 1
    photon_cut = np.quantile(np.asarray(tagger.logit(offline))[prompt], 1 - PHOTON_EFFICIENCY)
    trigger_cut = np.quantile(np.asarray(classifier(online)[..., 0])[prompt], 1 - TRIGGER_EFFICIENCY)
    where = lambda e: (e.tagger, e.menu.classifier, e.photon_cut)
    shifted = eqx.tree_at(lambda c: c.biases[-1], classifier, classifier.biases[-1] - trigger_cut)
    return eqx.tree_at(where, experiment, (tagger, shifted, experiment.photon_cut.at(photon_cut)))


def training_set(experiment: Experiment, spectrum: Spectrum, data: Data) -> tuple[Array, Array, Array, Array]:
    """Features of both networks, labels, and weights that sum to one half for photons and for fakes.

    Photons are those of the signal, fakes the non-prompt candidates of the jets.
    """
    resolved = resolve(experiment)
    offline, online = [], []
    for events, noise in (data.signal(), (data.jets, data.noise["jets"])):
        photons = measured(resolved, spectrum, events, noise)
        offline.append(flat(photon_features(photons)))
        online.append(flat(trigger_features(photons)))
    fake = np.asarray((data.group < data.isolation_rate.size // 2) & data.jets.mask).ravel()
    count = len(offline[0])
    label = jnp.concatenate([jnp.ones(count), jnp.zeros(len(fake))])
    # the steep spectrum of the jets would leave a handful of heavy candidates: each counts alike
    weight = jnp.concatenate([jnp.full(count, 0.5 / count), jnp.asarray(fake / (2 * fake.sum()))])
    return jnp.concatenate(offline), jnp.concatenate(online), label, weight


def flat(features: Float[Array, "event object feature"]) -> Float[Array, "row feature"]:
    """One row per candidate."""
    return features.reshape(-1, features.shape[-1])
