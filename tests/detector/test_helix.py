"""Closed helices: against the equation of motion, the first crossing by brute force, and straight lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.detector import Track, advance, to_cylinder, to_plane

ADVANCE = jax.jit(advance)
CYLINDER = jax.jit(to_cylinder)
PLANE = jax.jit(to_plane)
LOOSE = 1000.0  # mm


def tracks(n, seed=0):
    """Tracks that start inside a cylinder of 900 mm in any direction, 30 MeV to 100 GeV, and a field for each."""
    rng = np.random.default_rng(seed)
    pt, phi, at = 10 ** rng.uniform(-1.5, 2, n), rng.uniform(-np.pi, np.pi, n), rng.uniform(-np.pi, np.pi, n)
    r = rng.uniform(0, 900, n)
    position = np.stack([r * np.cos(at), r * np.sin(at), rng.normal(0, 50, n)], 1)
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), rng.normal(0, 1, n) * pt], 1)
    track = Track(jnp.asarray(position), jnp.asarray(momentum), jnp.asarray(rng.choice([-1.0, 1.0], n)))
    return track, jnp.asarray(rng.choice([0.0, 1e-9, 1e-3, 3.8, -3.8], n))


def test_radius_and_sense_of_a_circle():
    # 1 GeV in 2 T: R = p/(0.3 B); positive charges turn clockwise in a field along +z
    radius = 1 / (0.299792458e-3 * 2)
    track = Track(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), jnp.array(1.0))
    quarter = ADVANCE(track, 0.5 * np.pi * radius, 2.0)
    assert_allclose(quarter.position, [radius, -radius, 0.0], atol=1e-9)
    assert_allclose(quarter.momentum, [0.0, -1.0, 0.0], atol=1e-14)


def test_steps_add_up_and_keep_the_momentum():
    track, field = tracks(50)
    whole = ADVANCE(track, 700.0, field)
    half = ADVANCE(ADVANCE(track, 350.0, field), 350.0, field)
    # a track of 30 MeV turns twice in 700 mm: the rounding of the angle
    assert_allclose(half.position, whole.position, atol=1e-10)
    assert_allclose(jnp.linalg.norm(whole.momentum, axis=1), jnp.linalg.norm(track.momentum, axis=1), rtol=1e-14)
    back = ADVANCE(whole, -700.0, field)
    assert_allclose(back.position, track.position, atol=1e-10)


def test_first_crossing_of_a_cylinder():
    track, field = tracks(2000)
    crossing = CYLINDER(track, LOOSE, field)
    reached = np.asarray(crossing.reached)
    assert 0.5 < reached.mean() < 1
    assert np.all(reached[np.asarray(field) == 0])
    radius = np.linalg.norm(np.asarray(crossing.track.position)[:, :2], axis=1)
    assert_allclose(radius[reached], LOOSE, atol=1e-9)
    # nowhere outside on the way, and the others never: 300 points each, ten turns of the slowest
    way = jnp.where(crossing.reached, crossing.length * (1 - 1e-9), 2e5)
    farthest = np.zeros(2000)
    for share in np.linspace(0, 1, 300):
        at = np.asarray(ADVANCE(track, share * way, field).position)
        farthest = np.maximum(farthest, np.linalg.norm(at[:, :2], axis=1))
    assert np.all(farthest < LOOSE)


@pytest.mark.parametrize("pt", [0.5, 0.56, 0.58, 3.0])
def test_curl_up_is_a_value(pt):
    # from the axis a track reaches R above 0.15 B R
    track = Track(jnp.zeros(3), jnp.array([0.0, pt, 0.1]), jnp.array(1.0))
    crossing = CYLINDER(track, LOOSE, 3.8)
    assert bool(crossing.reached) == (pt > 0.5 * 0.299792458e-3 * 3.8 * LOOSE)
    assert np.all(np.isfinite(crossing.track.position))


@pytest.mark.parametrize(
    ("position", "momentum"),
    [([0, 0, 0], [0, 0, 1]), ([1500, 0, 0], [1, 0, 0]), ([1500, 0, 0], [-1, 0, 0])],
    ids=["along the axis", "outside", "from outside"],
)
def test_tracks_without_a_crossing(position, momentum):
    track = Track(jnp.array(position, float), jnp.array(momentum, float), jnp.array(1.0))
    crossing = CYLINDER(track, LOOSE, 3.8)
    assert not crossing.reached
    assert float(crossing.length) == 0
    assert np.all(np.isfinite(crossing.track.momentum))


def test_crossing_of_planes():
    track, field = tracks(2000, seed=1)
    rng = np.random.default_rng(2)
    point, normal = rng.normal(0, 300, (2000, 3)), rng.normal(size=(2000, 3))
    crossing = PLANE(track, point, normal, field)
    reached = np.asarray(crossing.reached)
    distance = np.sum((np.asarray(crossing.track.position) - point) * normal, axis=1) / np.linalg.norm(normal, axis=1)
    assert_allclose(distance[reached], 0.0, atol=1e-9)
    assert np.all(np.asarray(crossing.length)[reached] >= -1e-6)
    # straight tracks reach every plane in front of them, and no other
    straight = np.abs(np.asarray(field)) == 0
    ahead = np.sum((point - track.position) * normal, axis=1) / np.sum(np.asarray(track.momentum) * normal, axis=1) > 0
    assert np.array_equal(reached[straight], ahead[straight])


def test_disks_are_reached_along_the_field():
    track = Track(jnp.zeros(3), jnp.array([0.05, 0.0, 0.1]), jnp.array(-1.0))
    crossing = PLANE(track, jnp.array([0.0, 0, 300.0]), jnp.array([0.0, 0, 1.0]), 3.8)
    assert bool(crossing.reached)
    assert float(crossing.length) == pytest.approx(300 * np.hypot(0.05, 0.1) / 0.1, rel=1e-12)


# gradients ------------------------------------------------------------------------------------------------------------


def ends(values, surface):
    """Position and length at a surface, from eight numbers: momentum, position, surface, field."""
    track = Track(values[3:6], values[:3], jnp.array(1.0))
    if surface == "cylinder":
        crossing = to_cylinder(track, values[6], values[7])
    else:
        crossing = to_plane(track, jnp.array([values[6], 0.0, 0.0]), jnp.array([1.0, 0.2, 0.1]), values[7])
    return jnp.append(crossing.track.position, crossing.length)


VALUE = jax.jit(ends, static_argnames="surface")
SLOPE = jax.jit(jax.jacrev(ends), static_argnames="surface")


@pytest.mark.parametrize("surface", ["cylinder", "plane"])
@pytest.mark.parametrize("field", [0.0, 3.8])
def test_gradients_equal_finite_differences(surface, field):
    at = np.array([1.0, 0.3, 0.4, 10.0, -20.0, 30.0, 900.0, field])
    slopes = np.asarray(SLOPE(at, surface=surface))
    for i, h in enumerate(1e-3 * np.maximum(np.abs(at), 1.0)):
        moved = lambda t, i=i, h=h: np.asarray(VALUE(at + t * h * (np.arange(8) == i), surface=surface))
        quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        # rounding of 1000 mm over the step
        assert_allclose(slopes[:, i], quotient, rtol=1e-7, atol=1e-10 / h)


@given(st.floats(1e-3, 1e4), st.floats(-np.pi, np.pi), st.floats(-5.0, 5.0), st.sampled_from(["cylinder", "plane"]))
def test_gradients_are_finite(pt, phi, field, surface):
    at = np.array([pt * np.cos(phi), pt * np.sin(phi), 0.1, 0.0, 0.0, 0.0, 900.0, field])
    assert np.all(np.isfinite(VALUE(at, surface=surface)))
    assert np.all(np.isfinite(SLOPE(at, surface=surface)))
