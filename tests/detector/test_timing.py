"""The timing layer against the closed form of its best radius, and curled tracks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from diffhep.detector import KAON, PION, TimingLayer, Track, to_cylinder
from diffhep.units import m, ps


@jax.jit
def merit(radius, momentum, field=0.0):
    """Separation of kaons and pions times survival of the kaon."""
    layer = TimingLayer(radius, field=field)
    separation, survival = layer.separation(momentum, KAON, PION), layer.survival(momentum, KAON)
    return jnp.stack([separation, survival, separation * survival])


SLOPE = jax.jit(
    jax.jacfwd(lambda radius, momentum, field: jnp.log(merit(radius, momentum, field)[2]), argnums=(0, 1, 2))
)


@pytest.mark.parametrize(
    ("momentum", "length", "radius", "separation", "survival", "best"),
    [(1.0, 7.517061, 4.124168, 22.6396, 0.577734, 13.07967), (2.0, 15.034122, 7.916640, 8.39646, 0.590623, 4.95914)],
)
def test_best_radius(momentum, length, radius, separation, survival, best):
    l, s0, s1 = momentum * KAON.decay_length / KAON.mass / m, 20.0, 30.0  # m, ps, ps/m^(1/2)
    assert l == pytest.approx(length, abs=6e-7)
    part = s1**2 * l - 2 * s0**2
    closed = (part + np.sqrt(part**2 + 16 * s1**2 * s0**2 * l)) / (4 * s1**2)
    assert closed == pytest.approx(radius, abs=6e-7)
    found = float(brentq(lambda r: float(SLOPE(r, momentum, 0.0)[0]), 500.0, 20_000.0, xtol=1e-9))  # type: ignore[arg-type]
    assert found / m == pytest.approx(closed, rel=1e-9)
    assert_allclose(merit(found, momentum), [separation, survival, best], rtol=4e-6)


def test_without_area_term_the_best_radius_is_the_decay_length():
    layer, p = (lambda r: TimingLayer(r, area_term=0.0)), jnp.array(1.0)
    slope = jax.grad(lambda r: jnp.log(layer(r).separation(p, KAON, PION) * layer(r).survival(p, KAON)))
    assert abs(float(slope(KAON.decay_length / KAON.mass))) < 1e-15


@given(st.floats(0.5, 1e3), st.floats(100.0, 5000.0), st.floats(0.0, 4.0))
def test_arc_is_that_of_the_helix(pt, radius, field):
    layer = TimingLayer(radius, field=field)
    crossing = TO_LAYER(pt, radius, field)
    assert bool(crossing.reached) == (float(layer.margin(jnp.array(pt))) >= 0)
    if crossing.reached:
        assert float(layer.flight_path(jnp.array(pt))) == pytest.approx(float(crossing.length), rel=1e-9)


TO_LAYER = jax.jit(
    lambda pt, radius, field: to_cylinder(
        Track(jnp.zeros(3), pt * jnp.array([1.0, 0.0, 0.0]), jnp.array(1.0)), radius, field
    )
)


def test_delay_of_fast_particles_does_not_cancel():
    layer, fast = TimingLayer(1000.0), jnp.array(1e6)
    expected = 1000 / 299.792458 * (KAON.mass**2 - PION.mass**2) / 2e12
    assert float(layer.delay(fast, KAON, PION)) == pytest.approx(expected, rel=1e-9)


def test_inclined_tracks_fly_longer():
    layer = TimingLayer(1000.0, field=2.0)
    central = layer.delay(jnp.array(2.0), KAON, PION)
    # one transverse momentum, so one arc: longer by cosh(eta), at another momentum
    eta, momentum = 1.0, 2.0 * np.cosh(1.0)
    slow = lambda p: np.sqrt(1 + (KAON.mass / p) ** 2) - np.sqrt(1 + (PION.mass / p) ** 2)
    ratio = np.cosh(eta) * slow(momentum) / slow(2.0)
    assert float(layer.delay(jnp.array(momentum), KAON, PION, eta=eta) / central) == pytest.approx(ratio, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.01, 0.29979, 0.299792458, 0.3, 1.0, 1e4])
@pytest.mark.parametrize("field", [0.0, 2.0])
def test_finite_for_curled_and_straight_tracks(momentum, field):
    assert np.all(np.isfinite(merit(1000.0, momentum, field)))
    assert np.all(np.isfinite(SLOPE(1000.0, momentum, field)))


def test_gradients_equal_finite_differences():
    at = (1200.0, 0.9, 2.0)
    for i, slope in enumerate(SLOPE(*at)):
        h = 1e-3 * at[i]
        moved = lambda t, i=i, h=h: np.log(float(merit(*(x + t * h * (i == j) for j, x in enumerate(at)))[2]))
        quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        assert float(slope) == pytest.approx(quotient, rel=1e-7)


def test_default_units():
    layer = TimingLayer(1 * m)
    assert float(layer.resolution()) == pytest.approx(np.hypot(20, 30) * ps, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius must be above 0 mm, got 0.0"),
        ({"constant": -1.0}, "constant must be above 0 ns, got -1.0"),
        ({"area_term": -1.0}, "area_term must be 0 or more"),
        ({"field": float("inf")}, "field must be a finite number of T, got inf"),
    ],
)
def test_impossible_layers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TimingLayer(**({"radius": 1000.0} | options))
