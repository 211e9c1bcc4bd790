"""The diphoton menu: thresholds, classifier and gates act as written."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from diffhep.events import Events
from diffhep.gates import Hard, Soft, StraightThrough
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.menu import DiphotonMenu, trigger_features
from tests.strategies import measured

LIMIT = 4.0 - 2.0**-10


def always(logit) -> Any:
    """A classifier that gives every candidate the same logit."""
    return lambda features: jnp.full((*features.shape[:-1], 1), logit)


def events_with(pt):
    pt = jnp.asarray(pt, dtype=float)
    events = measured(pt.shape[0], objects=pt.shape[1])
    return Events({**events.fields, "pt": pt}, pt > 0, jnp.ones(pt.shape[0]))


def test_features_are_coarse_shares_and_pt():
    events = measured()
    features, energy = np.asarray(trigger_features(events)), np.asarray(events["readout_energy"])
    assert features.shape == (4, 2, 5)
    for i in range(4):
        pair = energy[..., 2 * i] + energy[..., 2 * i + 1]
        assert_allclose(features[..., i], pair / energy.sum(-1), rtol=1e-14)
    assert_allclose(features[..., 4], np.asarray(events["pt"]) / 64, rtol=1e-15)


@pytest.mark.parametrize("pt", [0.0, 1e6])
def test_features_saturate(pt):
    events = measured()
    features = np.asarray(trigger_features(events.with_fields({"pt": jnp.full((4, 2), pt)})))
    assert set(features[..., 4].ravel()) == {min(pt, LIMIT)}
    spike = events.with_fields({"readout_energy": jnp.tile(jnp.array([99.0, 0, -98.0, 0, 0, 0, 0, 0]), (4, 2, 1))})
    assert set(np.unique(trigger_features(spike)[..., :4])) == {0.0, LIMIT}


@pytest.mark.parametrize("readouts", [1, 6, 9])
def test_readout_groups_that_cannot_be_paired_are_refused(readouts):
    with pytest.raises(ValueError, match=f"readout groups must be a multiple of 4, got {readouts}"):
        trigger_features(measured(readouts=readouts))


@given(st.floats(19, 90), st.floats(15, 70), st.floats(-3, 3))
@settings(max_examples=20)
def test_soft_acceptance_is_a_product_of_logistics(leading, subleading, logit):
    events = events_with([[50.0, 30.0], [30.0, 50.0]])
    accepted = DiphotonMenu(leading, subleading, always(logit), Soft(0.5), Soft(0.25))(events).weight
    expected = expit((50 - leading) / 0.5) * expit((30 - subleading) / 0.5) * expit(logit / 0.25) ** 2
    # the order of the candidates does not matter
    assert_allclose(accepted, expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("pt", "logit", "passes"),
    [
        ([50.0, 30.0], 1.0, 1.0),
        ([30.0, 50.0], 1.0, 1.0),
        ([50.0, 24.0], 1.0, 0.0),
        ([34.0, 30.0], 1.0, 0.0),
        ([35.0, 30.0], 1.0, 0.0),
        ([50.0, 30.0], -1.0, 0.0),
        ([50.0, 30.0], 0.0, 0.0),
        ([50.0, 0.0], 1.0, 0.0),
        ([0.0, 0.0], 1.0, 0.0),
    ],
)
def test_hard_decisions(pt, logit, passes):
    menu = DiphotonMenu(35.0, 25.0, always(logit), Hard(), Hard())
    assert menu(events_with([pt])).weight.tolist() == [passes]


def test_third_candidates_are_not_looked_at():
    menu = DiphotonMenu(35.0, 25.0, always(1.0), Hard(), Hard())
    assert menu(events_with([[50.0, 20.0, 90.0]])).weight.tolist() == [0.0]


def test_a_missing_candidate_is_never_accepted():
    events = measured()
    alone = Events(events.fields, events.mask.at[:, 1].set(False), jnp.ones(4))
    menu = DiphotonMenu(1.0, 0.0, always(50.0), Soft(5.0), Soft(5.0))
    assert menu(alone).weight.tolist() == [0.0] * 4
    assert_array_equal(menu.object_acceptance(alone)[:, 1], np.zeros(4))


def test_weights_are_multiplied_and_fields_kept():
    events = measured()
    x = DiphotonMenu(1.0, 1.0, always(1.0), Hard(), Hard())(events)
    assert_array_equal(x.weight, events.weight)
    assert set(x.fields) == set(events.fields)


@given(st.floats(1.0, 40.0), st.floats(0.1, 20.0))
@settings(max_examples=20)
def test_raising_a_threshold_never_accepts_more(threshold, raised):
    events = measured(30)
    positive = Events(events.fields, events.mask, jnp.ones(30))
    classifier = DenseClassifier.init((5, 4, 1), key=jr.key(0))
    for gate in (Soft(0.5), Hard()):
        accepted = [
            np.asarray(DiphotonMenu(a, b, classifier, gate, gate)(positive).weight)
            for a, b in ((threshold, threshold), (threshold + raised, threshold), (threshold, threshold + raised))
        ]
        assert np.all(accepted[1] <= accepted[0])
        assert np.all(accepted[2] <= accepted[0])


def test_straight_through_counts_like_hard_and_learns_like_soft():
    events = events_with([[36.0, 30.0], [50.0, 26.0], [34.5, 40.0]])
    rate = lambda t, gate: DiphotonMenu(t, 25.0, always(9.0), gate, Soft(0.25))(events).weight.sum()
    assert_allclose(rate(35.0, StraightThrough(0.5)), rate(35.0, Hard()), rtol=1e-14)
    assert float(jax.grad(rate)(35.0, Hard())) == 0.0
    assert float(jax.grad(rate)(35.0, StraightThrough(0.5))) < 0.0
