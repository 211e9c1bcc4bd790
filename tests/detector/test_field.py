"""Tracks in field maps against the closed helix; fields against Maxwell's equations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from diffhep.detector import Track, advance, to_cylinder
from diffhep.detector.field import FieldMap, SolenoidField, UniformField, propagate, propagate_to_cylinder

SOLENOID = SolenoidField(3.8, 1500.0, 3000.0)
MIX = jnp.array([0.3, -0.7, 1.1, 0.4])
POINT = jnp.array([200.0, -300.0, 900.0])


@pytest.fixture(scope="module")
def along():
    return eqx.filter_jit(lambda track, length, field: propagate(track, length, field))


@pytest.fixture(scope="module")
def outwards():
    def both(values):
        track = Track(values[3:6], values[:3], jnp.array(-1.0))
        crossing = propagate_to_cylinder(track, values[6], UniformField(values[7]))
        return jnp.append(crossing.track.position, crossing.length), crossing.reached

    return jax.jit(both), jax.jit(jax.grad(lambda v: both(v)[0] @ MIX))


def track_of(pt, charge=1.0):
    return Track(jnp.array([1.0, 2.0, 3.0]), pt * jnp.array([0.8, 0.6, 0.5]), jnp.array(charge))


@pytest.mark.parametrize("pt", [0.2, 0.7, 2.0, 50.0])
@pytest.mark.parametrize("length", [1500.0, -800.0])
def test_uniform_field_is_a_helix(pt, length, along):
    track = track_of(pt)
    numeric = along(track, jnp.array(length), UniformField(jnp.array(3.8)))
    exact = advance(track, length, 3.8)
    assert bool(numeric.reached)
    assert_allclose(numeric.track.position, exact.position, atol=1e-9)
    assert_allclose(numeric.track.momentum, exact.momentum, atol=1e-12 * pt)


@pytest.mark.parametrize("pt", [0.3, 0.8, 3.0, 100.0])
def test_cylinder_in_a_uniform_field(pt, outwards):
    values = np.array([0.8 * pt, 0.6 * pt, 0.5 * pt, 1.0, 2.0, 3.0, 1000.0, 3.8])
    found, reached = outwards[0](values)
    exact = to_cylinder(track_of(pt, -1.0), 1000.0, 3.8)
    assert bool(reached) == bool(exact.reached)
    assert np.all(np.isfinite(found))
    if reached:
        assert_allclose(found, jnp.append(exact.track.position, exact.length), atol=1e-9)


@pytest.mark.long
@pytest.mark.slow
def test_gradient_at_a_cylinder_is_that_of_the_helix(outwards):
    values = jnp.array([0.8, 0.6, 0.5, 1.0, 2.0, 3.0, 1000.0, 3.8])

    def helix(v):
        crossing = to_cylinder(Track(v[3:6], v[:3], jnp.array(-1.0)), v[6], v[7])
        return jnp.append(crossing.track.position, crossing.length)

    assert_allclose(outwards[1](values), jax.jit(jax.grad(lambda v: helix(v) @ MIX))(values), rtol=1e-8)


def test_solenoid_has_its_strength_and_no_sources():
    assert_allclose(SOLENOID(jnp.zeros(3)), [0.0, 0.0, 3.8], rtol=1e-12)
    slopes = np.asarray(jax.jacfwd(SOLENOID)(POINT))
    assert abs(np.trace(slopes)) < 1e-16
    # the expansion is cut after r^3: what is left of the curl is of the next order, 2 % of the field's own slopes
    curl = slopes[[2, 0, 1], [1, 2, 0]] - slopes[[1, 2, 0], [2, 0, 1]]
    assert np.abs(curl).max() < 0.02 * np.abs(slopes).max()


def test_field_turns_outwards_at_the_end():
    inside, end = SOLENOID(jnp.array([300.0, 0.0, 0.0])), SOLENOID(jnp.array([300.0, 0.0, 3000.0]))
    assert abs(float(inside[0])) < 1e-12
    assert float(end[0]) > 0
    # half of the field of a long coil at its end
    assert float(end[2]) == pytest.approx(1.9, rel=0.1)


def test_map_of_a_linear_field_is_exact():
    slope = jnp.array([[0.1, 0.2, 0.3], [0.0, -0.4, 0.1], [0.5, 0.0, 0.3]]) * 1e-3
    linear = lambda x: slope @ x + jnp.array([0.0, 0.1, 2.0])
    grid = FieldMap.sample(linear, (-500.0, -500.0, 0.0), (500.0, 500.0, 1000.0), (3, 4, 5))
    for point in ([200.0, -300.0, 900.0], [-500.0, 500.0, 1000.0], [0.0, 0.0, 0.0]):
        assert_allclose(grid(jnp.array(point)), linear(jnp.array(point)), rtol=1e-12, atol=1e-15)
    assert_allclose(jax.jacfwd(grid)(POINT), slope, rtol=1e-9, atol=1e-12)
    # outside: the nearest edge
    assert_allclose(grid(jnp.array([900.0, 0, 0])), linear(jnp.array([500.0, 0, 0])), rtol=1e-12)


def test_track_in_a_map_against_scipy():
    grid = FieldMap.sample(SOLENOID, (-1000.0, -1000.0, -100.0), (1000.0, 1000.0, 2000.0), (11, 11, 12))
    track, field = track_of(2.0), jax.jit(lambda x: grid(x))
    run = jax.jit(lambda track: propagate(track, 1200.0, grid, tolerance=1e-8))
    mapped, p = run(track), 2 * np.sqrt(1.25)
    bend = 0.299792458e-3 / p

    def motion(s, y):
        return np.concatenate([y[3:], bend * np.cross(y[3:], np.asarray(field(y[:3])))])

    start = np.concatenate([track.position, track.momentum / p])
    exact = solve_ivp(motion, (0, 1200), start, rtol=1e-8, atol=1e-8).y[:, -1]
    assert bool(mapped.reached)
    # both step over the kinks between cells
    assert_allclose(mapped.track.position, exact[:3], atol=1e-3)
    assert_allclose(mapped.track.momentum / p, exact[3:], atol=1e-6)


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match=r"values of shape \(x, y, z, 3\), .* are wanted, got \(2, 2, 3\)"):
        FieldMap(jnp.zeros((2, 2, 3)), jnp.zeros(3), jnp.ones(3))
    with pytest.raises(ValueError, match="spacing must be above 0 mm"):
        FieldMap(jnp.zeros((2, 2, 2, 3)), jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ValueError, match="radius must be above 0 mm, got 0"):
        SolenoidField(3.8, 0.0)
