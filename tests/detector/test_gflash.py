"""GFLASH: the effective media and shapes of a published comparison, distributions of what is drawn, gradients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffhep.detector.gflash import (
    LateralProfile,
    average_shape,
    contained,
    draw_radius,
    draw_shape,
    effective_medium,
    energy_fractions,
    fluctuations,
    homogeneous_medium,
    lateral_profile,
)
from diffhep.detector.material import LEAD, SILICON, TUNGSTEN, Material

VINYLTOLUENE = Material("vinyltoluene", 425.4, 770.0, 0.09, 2e-4, 1.032, 0.5414, 64.7e-9, 5.61)
STACKS = {
    # absorber, active, mm of each; X0 [cm], Ec [MeV], F_S, e/mip; T, alpha, widths and correlation at 10 GeV
    "lead": (LEAD, VINYLTOLUENE, 2.0, 5.0, (1.90, 9.89, 2.72, 0.65), (5.66, 4.03, 0.163, 0.215, 0.63)),
    "tungsten": (TUNGSTEN, SILICON, 1.4, 0.3, (0.422, 8.23, None, None), (5.87, 4.09, 0.157, 0.209, 0.62)),
}


@pytest.mark.parametrize("name", STACKS)
def test_medium_and_shape_of_a_published_comparison(name):
    absorber, active, thick, thin, medium, shape = STACKS[name]
    found = effective_medium(absorber, active, jnp.array(thick), jnp.array(thin))
    values = (found.radiation_length / 10, found.critical_energy * 1e3, found.sampling, found.electron_response)
    for value, wanted in zip(values, medium, strict=True):
        # as many digits as were published
        assert wanted is None or float(value) == pytest.approx(wanted, rel=4e-3)
    f = fluctuations(found, jnp.array(10.0))
    drawn = (jnp.exp(f.log_maximum), jnp.exp(f.log_alpha), f.width_maximum, f.width_alpha, f.correlation)
    assert [float(x) for x in drawn] == pytest.approx(shape, abs=6e-3)


def test_a_homogeneous_medium_has_the_constants_of_one():
    found = homogeneous_medium(LEAD)
    assert float(found.radiation_length) == pytest.approx(LEAD.radiation_length, rel=1e-12)
    assert float(found.electron_response) == 1.0
    # 2.66 MeV (X0 Z/A)^1.1 is within 2 % of the critical energy in the table
    assert float(found.critical_energy) == pytest.approx(LEAD.critical_energy, rel=0.02)


def test_the_average_shape_is_that_of_the_published_constants(stack):
    # lead and scintillator at 10 GeV: ln y = 6.919, Z = 67.9, F_S = 2.72, e/mip = 0.651
    shape = average_shape(stack, jnp.array(10.0))
    assert float(shape.maximum) == pytest.approx(6.919 - 0.858 - 0.59 / 2.72 - 0.53 * 0.349, abs=2e-3)
    assert float(shape.alpha) == pytest.approx(0.21 + (0.492 + 2.38 / 67.9) * 6.919 - 0.444 / 2.72, abs=2e-3)
    assert float(shape.beta) == pytest.approx(float((shape.alpha - 1) / shape.maximum), rel=1e-12)


@pytest.fixture(scope="module")
def stack():
    return effective_medium(LEAD, VINYLTOLUENE, jnp.array(2.0), jnp.array(5.0))


def test_shapes_fluctuate_as_they_should(stack):
    energy = jnp.full(20000, 10.0)
    shape = jax.jit(draw_shape)(stack, energy, jr.normal(jr.key(0), (20000, 2)))
    f = fluctuations(stack, jnp.array(10.0))
    logs = np.log(np.stack([shape.maximum, shape.alpha]))
    # widths of 20000 normals are good to 0.5 %, their correlation to 0.4 %
    assert np.std(logs, axis=1) == pytest.approx([float(f.width_maximum), float(f.width_alpha)], rel=0.02)
    assert np.corrcoef(logs)[0, 1] == pytest.approx(float(f.correlation), abs=0.02)


def test_energy_is_conserved_and_nothing_is_before_the_start(stack):
    shape = draw_shape(stack, jnp.array([1.0, 10.0, 100.0]), jr.normal(jr.key(1), (3, 2)))
    edges = jnp.linspace(-5.0, 80.0, 171)
    found = energy_fractions(shape, jnp.broadcast_to(edges, (3, 171)))
    np.testing.assert_array_equal(found[:, :9], 0.0)
    expected = np.diff(
        scipy.stats.gamma.cdf(np.maximum(edges, 0) * np.asarray(shape.beta)[:, None], np.asarray(shape.alpha)[:, None])
    )
    # the error of six-point quadrature for shapes near 2
    np.testing.assert_allclose(found, expected, atol=6e-5)


@given(
    st.floats(0.05, 3),
    st.floats(0.05, 3),
    st.floats(0, 1, allow_subnormal=False),
    st.floats(0, 0.999, allow_subnormal=False),
)
def test_radius_is_the_inverse_of_what_is_contained(core, tail, share, uniform):
    profile = LateralProfile(*(jnp.array(x) for x in (core, tail, share)))
    radius = draw_radius(profile, jnp.array(uniform))
    assert float(contained(profile, radius)) == pytest.approx(uniform, abs=1e-12)


def test_showers_grow_wider_with_depth_and_lose_their_core(stack):
    tau = jnp.linspace(0.2, 3.0, 15)
    profile = lateral_profile(stack, jnp.full(15, 10.0), tau)
    assert np.all(np.diff(contained(profile, jnp.full(15, 0.5))[3:]) < 0)
    assert np.all((profile.share >= 0) & (profile.share <= 1))


def test_derivatives_in_the_thickness_are_those_of_differences():
    noise, uniform = jr.normal(jr.key(2), (50, 2)), jr.uniform(jr.key(3), (50,))

    @jax.jit
    def deposit(thickness):
        medium = effective_medium(LEAD, VINYLTOLUENE, thickness, jnp.array(5.0))
        shape = draw_shape(medium, jnp.full(50, 10.0), noise)
        edges = jnp.arange(4) * (thickness + 5.0) / medium.radiation_length * 4
        radius = draw_radius(lateral_profile(medium, jnp.full(50, 10.0), jnp.full(50, 0.7)), uniform)
        return jnp.mean(
            energy_fractions(shape, jnp.broadcast_to(edges, (50, 4)))[:, 1] * radius * medium.moliere_radius
        )

    step = 1e-4
    difference = (deposit(2.0 + step) - deposit(2.0 - step)) / (2 * step)
    assert float(jax.grad(deposit)(2.0)) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("energy", [0.0, 1e-3, 0.1, 1e5])
def test_no_energy_gives_a_nan(stack, energy):
    shape = draw_shape(stack, jnp.array([energy]), jnp.array([[3.0, -3.0]]))
    slope = jax.grad(lambda e: draw_shape(stack, e, jnp.zeros((1, 2))).alpha.sum())(jnp.array([energy]))
    assert np.all(np.isfinite([*shape, slope]))
    assert float(shape.alpha[0]) > 1
