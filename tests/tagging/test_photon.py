"""Photon identification: features as documented, the network against plain numpy, and that it can learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.parameters import split
from diffhep.tagging import PhotonTagger, photon_features, readout_fractions
from tests.strategies import measured


def test_fractions_add_up_to_one():
    assert_allclose(readout_fractions(measured()).sum(-1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("energy", [0.0, -1.0])
def test_an_object_without_energy_has_bounded_fractions(energy):
    events = measured()
    empty = events.with_fields({"readout_energy": jnp.full((4, 2, 8), energy)})
    # the sum counts as at least 1 MeV
    assert_array_equal(readout_fractions(empty), np.full((4, 2, 8), energy / 1e-3))


def test_features_are_those_of_the_docstring():
    events = measured()
    features = np.asarray(photon_features(events, width_scale=12.0))
    assert features.shape == (4, 2, 11)
    assert_allclose(features[..., :8], 4 * np.asarray(readout_fractions(events)), rtol=1e-15)
    assert_allclose(features[..., 8], 5 * np.log(np.asarray(events["width"]) / 12.0), rtol=1e-12, atol=1e-13)
    assert_allclose(features[..., 9], np.log(np.asarray(events["pt"]) / 50.0), rtol=1e-12, atol=1e-13)
    assert_allclose(features[..., 10], np.abs(np.asarray(events["eta"])) - 1, rtol=1e-12, atol=1e-13)


def test_features_do_not_know_the_sign_of_eta_nor_phi():
    events = measured()
    mirrored = events.with_fields({"eta": -events["eta"], "phi": events["phi"] + 1.0})
    assert_array_equal(photon_features(mirrored), photon_features(events))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_network_is_affine_layers_with_tanh_between(depth):
    tagger = PhotonTagger.init(8, width=5, depth=depth, key=jr.key(1))
    assert [layer.weight.shape for layer in tagger.layers] == [
        (m, n) for n, m in zip((11, *(5,) * depth), (*(5,) * depth, 1), strict=True)
    ]
    x = np.asarray(photon_features(measured(), width_scale=tagger.width_scale))
    for i, layer in enumerate(tagger.layers):
        x = x @ np.asarray(layer.weight).T + np.asarray(layer.bias)
        x = np.tanh(x) if i < depth else x
    assert_allclose(tagger(measured())["photon_score"], x[..., 0], rtol=1e-12, atol=1e-14)


def test_objects_are_scored_one_by_one():
    events, tagger = measured(), PhotonTagger.init(8, key=jr.key(1))
    scores = tagger(events)["photon_score"]
    swapped = events.with_fields({name: x[:, ::-1] for name, x in events.fields.items()})
    assert_allclose(tagger(swapped)["photon_score"], scores[:, ::-1], rtol=1e-13)
    assert_allclose(tagger(events.take(np.array([2])))["photon_score"], scores[2:3], rtol=1e-13)


def test_the_same_key_gives_the_same_network():
    one, two, other = (PhotonTagger.init(8, key=jr.key(seed)) for seed in (1, 1, 2))
    assert eqx.tree_equal(one, two)
    assert not eqx.tree_equal(one, other)


def test_the_network_learns_to_tell_wide_showers_from_narrow_ones():
    events = measured(200)
    wide = np.asarray(events["width"]) > 19.0
    features, target = photon_features(events), jnp.asarray(~wide, float)
    trainable, rest = split(PhotonTagger.init(8, width=8, depth=1, key=jr.key(3)))

    @jax.jit
    def loss(t):
        return optax.sigmoid_binary_cross_entropy(eqx.combine(t, rest).logit(features), target).mean()

    step = jax.jit(jax.value_and_grad(loss))
    optimiser = optax.adam(0.03)
    state, first = optimiser.init(trainable), float(loss(trainable))
    for _ in range(120):
        _, gradient = step(trainable)
        updates, state = optimiser.update(gradient, state)
        trainable = eqx.apply_updates(trainable, updates)
    scores = np.asarray(eqx.combine(trainable, rest).logit(features))
    assert first > 0.5
    assert np.mean((scores > 0) == ~wide) > 0.97
