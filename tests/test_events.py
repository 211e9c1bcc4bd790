"""Events: shapes that agree, fields that exist, weights that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.events import Events
from tests.strategies import photons


def test_fields_are_found_by_name():
    events = photons(3)
    assert events["pt"].shape == (3, 2)
    assert events.size == 3
    assert "eta" in events
    assert "mass" not in events


def test_a_missing_field_names_those_that_exist():
    with pytest.raises(KeyError, match="no field 'mass'; they have em_fraction, em_rms, eta, hoe, phi, pt"):
        photons()["mass"]


@pytest.mark.parametrize(
    ("fields", "mask", "weight"),
    [
        ({"pt": np.ones((3, 2))}, np.ones((4, 2), bool), np.ones(4)),
        ({"pt": np.ones((3, 2))}, np.ones((3, 2), bool), np.ones(4)),
        ({"pt": np.ones((3, 2)), "met": np.ones(2)}, np.ones((3, 2), bool), np.ones(3)),
    ],
)
def test_lengths_that_disagree_are_refused(fields, mask, weight):
    with pytest.raises(ValueError, match=r"fields disagree on the number of events: \{'pt': 3"):
        Events(fields, mask, weight)


def test_events_are_immutable_and_changes_are_copies():
    events = photons(3)
    with pytest.raises(AttributeError):
        events.weight = jnp.ones(3)  # type: ignore[misc]
    changed = events.with_fields({"pt": 2 * events["pt"], "mass": jnp.zeros((3, 2))})
    assert_array_equal(changed["pt"], 2 * events["pt"])
    assert_array_equal(changed["eta"], events["eta"])
    assert "mass" not in events


def test_reweighting_multiplies_weights_and_nothing_else():
    events = photons(3)
    factor = jnp.array([0.0, 1.0, -0.5])
    changed = events.reweight(factor)
    assert_array_equal(changed.weight, events.weight * factor)
    assert_array_equal(changed["pt"], events["pt"])


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([2, 0, 2]), jnp.array([3])])
def test_rows_are_taken_from_everything(rows):
    events = photons(4)
    some = events.take(rows)
    for name, x in events.fields.items():
        assert_array_equal(some[name], x[rows])
    assert_array_equal(some.mask, events.mask[rows])
    assert_array_equal(some.weight, events.weight[rows])


def test_sum_of_weights_has_the_error_of_a_weighted_count():
    events = Events({"pt": jnp.ones((3, 1))}, jnp.ones((3, 1), bool), jnp.array([2.0, -1.0, 2.0]))
    assert_allclose(events.sum_of_weights(), (3.0, 3.0), rtol=1e-15)


def test_events_pass_through_transformations():
    events = photons(3)
    doubled = jax.jit(lambda e: e.reweight(jnp.full(3, 2.0)))(events)
    assert_array_equal(doubled.weight, 2 * events.weight)
    assert jax.eval_shape(lambda e: e, events).size == 3
    assert jax.tree.map(lambda _: None, events).fields["pt"] is None
