"""Ionisation loss against the PDG's minimum of each material, and the shape of Bethe's and Landau's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.detector import MATERIALS, density_effect, landau_width, mean_energy_loss, most_probable_loss
from diffhep.detector.material import AIR, SILICON
from diffhep.units import keV

MUON = 0.1056584  # GeV
BETA_GAMMA = np.linspace(2.0, 6.0, 81)


@pytest.mark.parametrize("material", MATERIALS.values(), ids=list(MATERIALS))
def test_minimum_is_that_of_the_table(material):
    loss = np.asarray(mean_energy_loss(material, BETA_GAMMA * MUON, MUON))
    # the general parameters of the density effect instead of each material's own
    assert loss.min() == pytest.approx(material.mip_loss, rel=0.025)
    assert 2.5 < BETA_GAMMA[loss.argmin()] < 4.2


def test_fast_particles_see_the_fermi_plateau():
    # density effect at high energies: delta/2 = ln(plasma energy/I) + ln(beta gamma) - 1/2
    plasma = 28.816e-9 * np.sqrt(SILICON.density * SILICON.charge_over_mass)
    delta = float(density_effect(SILICON, 1e5))
    assert delta / 2 == pytest.approx(np.log(plasma / SILICON.mean_excitation) + np.log(1e5) - 0.5, rel=1e-12)
    assert float(density_effect(SILICON, 1.0)) == 0
    # a gas keeps its relativistic rise a hundred times longer
    rise = lambda material: mean_energy_loss(material, 300 * MUON, MUON) / material.mip_loss
    assert float(rise(AIR)) > float(rise(SILICON)) + 0.1


@pytest.mark.parametrize("material", MATERIALS.values(), ids=list(MATERIALS))
def test_density_effect_is_continuous_and_rises(material):
    delta = np.asarray(density_effect(material, np.geomspace(0.1, 1e6, 2000)))
    assert np.all(np.diff(delta) >= 0)
    assert np.diff(delta).max() < 0.06


def test_most_probable_loss_in_silicon():
    # 300 um at minimum: about 80 keV against a mean of 116 keV, and a width of 5.8 keV
    loss = float(most_probable_loss(SILICON, 3.5 * MUON, MUON, 0.3)) / keV
    assert 75 < loss < 86
    assert float(landau_width(SILICON, 3.5 * MUON, MUON, 0.3)) / keV == pytest.approx(5.8, rel=0.05)
    assert loss < float(mean_energy_loss(SILICON, 3.5 * MUON, MUON)) * 0.3 / keV
    # a slice has less than its share
    assert (
        2 * float(most_probable_loss(SILICON, 1.0, MUON, 0.15)) / keV
        < float(most_probable_loss(SILICON, 1.0, MUON, 0.3)) / keV
    )


def test_charge_enters_squared():
    once, twice = (float(mean_energy_loss(SILICON, 10.0, 3.727, charge=z)) for z in (1.0, 2.0))
    assert twice == pytest.approx(4 * once, rel=1e-12)


BOTH = jax.jit(
    lambda p, x: (
        jax.value_and_grad(lambda p: mean_energy_loss(SILICON, p, MUON))(p),
        jax.value_and_grad(lambda p, x: most_probable_loss(SILICON, p, MUON, x), argnums=(0, 1))(p, x),
    )
)


@given(st.floats(0.0, 1e5, allow_subnormal=False), st.floats(0.0, 100.0, allow_subnormal=False))
def test_values_and_slopes_are_finite(momentum, thickness):
    for leaf in jax.tree.leaves(BOTH(momentum, thickness)):
        assert np.isfinite(leaf)


def test_gradients_equal_finite_differences():
    at = (0.8, 0.3)
    (_, mean), (_, probable) = BOTH(*at)
    for i, slopes in ((0, (mean, probable[0])), (1, (0.0, probable[1]))):
        h = 1e-3 * at[i]
        moved = lambda t, i=i, h=h: np.array(
            [float(v[0]) for v in BOTH(*(x + t * h * (i == j) for j, x in enumerate(at)))]
        )
        quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        assert_allclose(slopes, quotient, rtol=1e-7, atol=1e-16)


def test_massless_particles_are_refused():
    with pytest.raises(ValueError, match="mass must be above 0 GeV, got 0"):
        mean_energy_loss(SILICON, 1.0, 0.0)
    assert float(most_probable_loss(SILICON, jnp.array(1.0), MUON, 0.0)) == 0
