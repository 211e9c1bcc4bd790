"""Simulated showers in a calorimeter: a library gives what is in it, and the calibration undoes the mean response."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.detector import FrozenShowers, LeakageCurve, SamplingCalorimeter, draw_noise
from diffhep.detector.showers import E_OVER_MIP, NEIGHBOURS, Calibration
from diffhep.reconstruction import PhotonReconstruction
from tests.strategies import photons

FRACTION = 0.1


def stack(showers=None, readouts=4):
    return SamplingCalorimeter(jnp.array(5.6), jnp.array(4.0), jnp.array(25.0), readouts=readouts, showers=showers)


def library(n=4000, *, slope=0.0, width=0.05, seed=0):
    """Showers that leave a tenth in the active slabs, a little more or less with ln E, in four equal groups."""
    random = np.random.default_rng(seed)
    energy = np.exp(random.uniform(0, np.log(300.0), n))
    response = (1 + slope * np.log(energy / 20)) * (1 + width * random.normal(size=n) / np.sqrt(energy))
    visible = energy[:, None] * response[:, None] * FRACTION * E_OVER_MIP / 4 * np.ones(4)
    return FrozenShowers.of(energy, visible, FRACTION)


def test_without_fluctuations_a_library_gives_what_it_was_made_of():
    showers, energy = library(width=0.0), jnp.array([0.0, 2.0, 17.0, 290.0, 900.0])
    found = showers.deposits(stack().layout(), energy, jr.normal(jr.key(0), (5, 1)))
    assert_allclose(found, np.asarray(energy)[:, None] / 4 * np.ones(4), rtol=1e-12)


def test_a_particle_gets_one_of_the_showers_of_about_its_energy():
    showers = library(400)
    energies, shares = np.asarray(showers.energy), np.asarray(showers.share)
    energy, noise = jnp.full(5000, 30.0), jr.normal(jr.key(1), (5000, 3))
    found = np.asarray(showers.deposits(stack().layout(), energy, noise)) / 30.0
    chosen = np.argmin(np.abs(found[:, :1] - shares[:, 0]), axis=1)
    assert_allclose(found, shares[chosen], rtol=1e-12)
    near = np.argsort(np.abs(energies - 30.0))[: 2 * NEIGHBOURS]
    numbers, counts = np.unique(chosen, return_counts=True)
    assert set(numbers) <= set(near)
    assert len(numbers) == NEIGHBOURS
    # each as often as any other: chi squared of 15 degrees of freedom below its 99.9 % quantile
    assert np.sum((counts - 5000 / NEIGHBOURS) ** 2 / (5000 / NEIGHBOURS)) < 37.7


@pytest.mark.parametrize("slope", [-0.02, 0.0, 0.03])
def test_the_calibration_undoes_the_mean_response(slope):
    showers = library(slope=slope)
    calibration = showers.calibration(stack().layout())
    energy = np.array([2.0, 20.0, 200.0])
    measured = jnp.asarray(energy * (1 + slope * np.log(energy / 20)))
    # 4000 showers with fluctuations of 5 %/sqrt(E)
    assert_allclose(measured / (1 - calibration(measured)), energy, rtol=0.002)


def test_the_calibration_finds_the_energy_that_fits():
    lost = LeakageCurve(jnp.array([0.1, 0.05, -0.02]), (0.0, 6.0))
    energy = jnp.array([1.5, 30.0, 300.0])
    measured = energy * (1 - lost(energy))
    assert_allclose(Calibration(lost)(measured), lost(energy), rtol=1e-9)


def test_the_calibration_converges_where_most_of_a_shower_leaks():
    """Seven radiation lengths: from 10 % to 75 % of the energy is lost between 1 and 400 GeV."""
    lost = LeakageCurve(jnp.array([0.4, 0.33, 0.02]), (0.0, 6.0))
    energy = jnp.geomspace(1.1, 390.0, 20)
    measured = energy * (1 - lost(energy))
    assert bool(jnp.all(jnp.diff(measured) > 0))
    assert_allclose(measured / (1 - Calibration(lost)(measured)), energy, rtol=1e-4)


def test_reconstructed_photons_have_their_energy():
    calorimeter = dataclasses.replace(stack(library(slope=0.03)), noise=0.0, constant_term=0.0)
    events = photons(2000)
    fields = {name: value for name, value in events.fields.items() if name not in ("hoe", "em_fraction")}
    # of many energies: those of one get sixteen showers only
    pt = jnp.geomspace(30.0, 50.0, 4000).reshape(2000, 2)
    events = dataclasses.replace(events, fields={**fields, "pt": pt, "eta": jnp.zeros_like(pt)})
    found = PhotonReconstruction(calorimeter.leakage_curve())(calorimeter(events, key=jr.key(3)))
    ratio = np.asarray(found["energy"] / pt).ravel()
    # photo-electrons are of visible energy: the fraction of a minimum-ionising particle, times e/mip
    visible = float(calorimeter.sampling_fraction()) * E_OVER_MIP
    wanted = np.hypot(0.05, np.sqrt(1 / (calorimeter.photoelectrons * visible))) / np.sqrt(np.asarray(pt).ravel())
    # 4000 photons, but of these energies the library has 360 showers: 4 % of a width of which they make two thirds
    assert ratio.std() == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=0.1)
    assert ratio.mean() == pytest.approx(1.0, abs=4 * 0.05 / np.sqrt(40 * 360) + 0.002)


def test_hadrons_are_parametrised_all_the_same():
    """A candidate without photons in it has the deposits of the parametrisation."""
    events = photons(50)
    events = events.with_fields({"em_fraction": jnp.zeros_like(events["em_fraction"])})
    simulated, plain = stack(library()), stack()
    noise = draw_noise(events, 4, key=jr.key(1), showers=simulated.showers)
    assert noise.shower is not None
    assert noise.shower.shape == (*events["em_fraction"].shape, 1)
    wanted, found = plain.deposits(events, noise), simulated.deposits(events, noise)
    assert_allclose(found.energy, wanted.energy, rtol=1e-12)
    assert_allclose(found.unsampled, wanted.unsampled, rtol=1e-12)
    # photons have their sampling fluctuations already
    assert_allclose(simulated.deposits(photons(50), noise).unsampled, plain.deposits(events, noise).energy, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="at least 100 are wanted for a library, got 99"):
        library(99)
    with pytest.raises(ValueError, match="the library is of 4 groups of layers, got 8"):
        library().deposits(stack(readouts=8).layout(), jnp.ones(1), jnp.zeros((1, 1)))
    events = photons(2)
    with pytest.raises(ValueError, match="simulated showers want random numbers of their own"):
        stack(library()).respond(events, draw_noise(events, 4, key=jr.key(0)))
