"""Photon reconstruction: the calibration undoes the leakage, pairs and masses are what they are called."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.detector import LeakageCurve
from diffhep.events import Events
from diffhep.kinematics import diphoton_mass
from diffhep.reconstruction import PhotonReconstruction, leading_pair, pair_mass
from tests.strategies import measured


@given(st.floats(0.0, 0.4), st.floats(-0.02, 0.02))
@settings(max_examples=20)
def test_energy_is_the_sum_over_what_is_contained(leak, scale):
    events = measured()
    x = PhotonReconstruction(lambda energy: leak + 0 * energy, scale)(events)
    energy = np.asarray(events["readout_energy"]).sum(-1) / (1 - leak) * (1 + scale)
    assert_allclose(x["energy"], energy, rtol=1e-13)
    assert_allclose(x["pt"], energy / np.cosh(events["eta"]), rtol=1e-13)


def test_the_leakage_is_looked_up_at_the_measured_energy():
    seen = []
    PhotonReconstruction(lambda energy: seen.append(energy) or 0.01 + 0 * energy)(measured())
    assert_allclose(seen[0], measured()["readout_energy"].sum(-1), rtol=1e-14)


def test_a_curve_of_the_calorimeter_is_accepted():
    flat = LeakageCurve(jnp.array([0.05, 0.0]), (0.0, 8.0))
    x = PhotonReconstruction(flat)(measured())
    assert_allclose(x["energy"], measured()["readout_energy"].sum(-1) / 0.95, rtol=1e-13)


def test_everything_else_is_kept():
    events = measured()
    x = PhotonReconstruction(lambda energy: 0 * energy)(events)
    assert set(x.fields) == set(events.fields)
    for name in ("eta", "phi", "width", "readout_energy"):
        assert_array_equal(x[name], events[name])
    assert_array_equal(x.weight, events.weight)


def test_noise_below_zero_is_a_small_positive_energy():
    events = measured()
    negative = events.with_fields({"readout_energy": -events["readout_energy"]})
    x = PhotonReconstruction(lambda energy: 0 * energy)(negative)
    assert_allclose(x["energy"], 1e-3, rtol=1e-15)


def test_a_missing_field_is_named():
    with pytest.raises(KeyError, match="no field 'readout_energy'"):
        PhotonReconstruction(lambda energy: 0 * energy)(
            Events({"pt": jnp.ones((1, 2))}, jnp.ones((1, 2), bool), jnp.ones(1))
        )


def test_leading_pair_orders_each_event():
    high, low = leading_pair(jnp.array([[3.0, 5.0, 9.0], [4.0, 1.0, 9.0], [2.0, 2.0, 9.0]]))
    assert high.tolist() == [5.0, 4.0, 2.0]
    assert low.tolist() == [3.0, 1.0, 2.0]


def test_pair_mass_is_that_of_the_first_two_objects():
    events = measured(objects=3)
    first, second = ([events[name][:, i] for name in ("pt", "eta", "phi")] for i in (0, 1))
    assert_allclose(pair_mass(events), diphoton_mass(*first, *second), rtol=1e-15)


@pytest.mark.parametrize("present", [[True, False], [False, True], [False, False]])
def test_an_event_without_two_photons_has_no_mass(present):
    events = measured(1)
    alone = Events(events.fields, jnp.array([present]), events.weight)
    assert pair_mass(alone).tolist() == [0.0]
