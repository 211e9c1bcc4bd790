"""Multiple scattering against Highland's formula, for any number of steps, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.detector import MATERIALS, Material, scattering_angle, scattering_variance, step_variance


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize("whole", [0.28, 17.8])
def test_any_number_of_steps_scatters_like_the_whole_path(steps, whole):
    edges = jnp.linspace(0.0, whole, steps + 1)
    total = jnp.sqrt(jnp.sum(step_variance(edges[:-1], edges[1:], jnp.array(5.0))))
    highland = 0.0136 / 5 * np.sqrt(whole) * (1 + 0.038 * np.log(whole))
    # telescoping sum: rounding of a thousand differences
    assert float(total) == pytest.approx(highland, rel=1e-11)


def test_continuous_form():
    # d(theta^2)/dl = (13.6 MeV/p)^2 g (g + 0.076)
    path = jnp.array([0.01, 0.3, 1.0, 20.0])
    slope = jax.vmap(jax.grad(lambda l: scattering_variance(l, jnp.array(2.0))))(path)
    g = 1 + 0.038 * np.log(path)
    np.testing.assert_allclose(slope, (0.0136 / 2) ** 2 * g * (g + 0.076), rtol=1e-12)


@given(st.floats(0.0, 1e-6, allow_subnormal=False))
def test_nothing_scatters_nothing_and_has_finite_slopes(thickness):
    value, slope = jax.value_and_grad(lambda l: scattering_variance(l, jnp.array(1.0)))(jnp.array(thickness))
    angle, steep = jax.value_and_grad(lambda l: scattering_angle(l, jnp.array(1.0)))(jnp.array(thickness))
    assert all(np.isfinite([value, slope, angle, steep]))
    assert 0 <= float(value) <= 0.0136**2 * thickness


@given(st.floats(1e-9, 50), st.floats(1e-9, 50))
def test_thicker_scatters_more(a, b):
    low, high = sorted((a, b))
    first, second = (float(scattering_variance(jnp.array(x), jnp.array(1.0))) for x in (low, high))
    assert first <= second * (1 + 1e-12)


@pytest.mark.parametrize("material", MATERIALS.values(), ids=list(MATERIALS))
def test_materials_hang_together(material):
    # the table lists dE/dx a length; per g/cm^2 all solids lie between hydrogen-rich plastic and uranium
    per_mass = material.mip_loss / 1e-3 * 10 / material.density
    assert 1.0 < per_mass < 2.1
    assert material.radiation_length < material.interaction_length
    assert 5e-3 < material.critical_energy < 0.12


def test_a_material_without_density_is_refused():
    with pytest.raises(ValueError, match="material foam: density must be positive, got 0"):
        Material("foam", 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 6.0)
