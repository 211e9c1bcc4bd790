"""Muons in a block of voxels: Highland's angle for any number of steps, displacement, geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.detector.material import BERYLLIUM, LEAD
from diffhep.detector.scattering import scattering_angle, step_variance
from diffhep.detector.voxels import VoxelVolume, deflected
from diffhep.events import Events


def vertical(n, *, slope=0.0, momentum=5.0):
    zero = jnp.zeros(n)
    fields = {"x": zero + 50, "y": zero + 50, "slope_x": zero + slope, "slope_y": zero, "momentum": zero + momentum}
    return Events(fields, jnp.ones((n, 1), bool), jnp.ones(n))


def slab(material, steps):
    return VoxelVolume(jnp.full((1, 1, 1), material.radiation_length), size=100.0, steps=steps)


def displacement(material, steps):
    """Width of the displacement behind 10 cm over theta_0 l/sqrt(3), from the variances of the steps."""
    edges = np.linspace(0, 100.0, steps + 1)
    length = edges / material.radiation_length
    variance = np.asarray(step_variance(jnp.asarray(length[:-1]), jnp.asarray(length[1:]), jnp.array(5.0)))
    h = 100.0 / steps
    remaining = 100.0 - edges[1:]
    total = np.sum(variance * (h**2 / 12 + (h / 2 + remaining) ** 2))
    return np.sqrt(total) / (float(scattering_angle(jnp.array(length[-1]), jnp.array(5.0))) * 100.0 / np.sqrt(3))


@pytest.mark.parametrize(("material", "many"), [(LEAD, 0.972), (BERYLLIUM, 0.967)], ids=["lead", "beryllium"])
def test_displacement_by_steps(material, many):
    assert displacement(material, 1) == pytest.approx(1.0, abs=1e-12)
    for steps in (10, 100, 1000):
        assert displacement(material, steps) == pytest.approx(many, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 8, 100])
def test_simulated_muons_scatter_so(steps):
    n = 40_000
    volume = slab(LEAD, steps)
    out = jax.jit(lambda x: volume(x, key=jax.random.key(steps)))(vertical(n))
    highland = 0.0136 / 5 * np.sqrt(100 / LEAD.radiation_length) * (1 + 0.038 * np.log(100 / LEAD.radiation_length))
    # 4 standard errors of a width; the tangent of 11 mrad differs from it by 4e-5
    assert_allclose(np.std(out["slope_x"]), highland, rtol=4 / np.sqrt(2 * n))
    assert_allclose(np.std(out["slope_y"]), highland, rtol=4 / np.sqrt(2 * n))
    wide = displacement(LEAD, steps) * highland * 100 / np.sqrt(3)
    assert_allclose(np.std(out["x"]), wide, rtol=4 / np.sqrt(2 * n))
    # angle and displacement share their random numbers: correlation sqrt(3)/2
    assert np.corrcoef(out["x"], -out["slope_x"])[0, 1] ** 2 == pytest.approx(0.75, abs=0.03) or steps > 1


def test_without_a_key_muons_go_straight():
    out = slab(LEAD, 4)(vertical(3, slope=0.2))
    assert_allclose(out["x"], 50 - 0.2 * 100, rtol=1e-12)
    assert_allclose(out["slope_x"], 0.2, rtol=1e-12)


def test_outside_nothing_scatters():
    beside = vertical(5)
    beside = beside.with_fields({"x": beside["x"] + 300.0})
    out = slab(LEAD, 2)(beside, key=jax.random.key(0))
    assert_allclose(out["slope_x"], 0.0, atol=1e-15)


def test_layers_are_passed_from_the_top():
    lengths = jnp.stack([jnp.full((1, 1), 1e9), jnp.full((1, 1), LEAD.radiation_length)])
    n = 2000
    above = VoxelVolume(lengths, size=100.0, steps=2)(vertical(n), key=jax.random.key(1))
    below = VoxelVolume(lengths[::-1], size=100.0, steps=2)(vertical(n), key=jax.random.key(1))
    # lead on top: the kick has another 10 cm to grow
    assert float(jnp.std(above["x"])) > 2 * float(jnp.std(below["x"]))


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-0.02, 0.02), st.floats(-0.02, 0.02))
def test_deflection_turns_by_the_angle(sx, sy, ax, ay):
    before, after = (np.array([*s, 1.0]) for s in ((sx, sy), map(float, deflected(*map(jnp.array, (sx, sy, ax, ay))))))
    chord = before / np.linalg.norm(before) - after / np.linalg.norm(after)
    # the kick is the tangent of the angle
    assert 2 * np.arcsin(np.linalg.norm(chord) / 2) == pytest.approx(np.arctan(np.hypot(ax, ay)), abs=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: VoxelVolume(jnp.ones((2, 2))), r"axes layer, x and y are wanted, got shape \(2, 2\)"),
        (lambda: VoxelVolume(-jnp.ones((1, 1, 1))), "radiation_length must be positive, got -1.0 mm"),
        (lambda: VoxelVolume(jnp.ones((1, 1, 1)), steps=0), "at least one step a layer and a positive size, got 0"),
    ],
)
def test_bad_input_is_one_line(make, words):
    with pytest.raises(ValueError, match=words):
        make()
