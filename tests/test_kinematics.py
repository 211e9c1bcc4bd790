"""Kinematics against the `vector` package, boosts, and the edges where a naive formula has no derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import vector
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.kinematics import (
    delta_r,
    diphoton_mass,
    energy_of,
    safe_div,
    safe_log,
    safe_norm,
    safe_sqrt,
    wrap_phi,
)
from tests.strategies import azimuths, finite, massless, momenta, rapidities, velocities

EPS = np.finfo(float).eps


def at(function, *numbers):
    return float(function(*(jnp.asarray(x, dtype=float) for x in numbers)))


def four_vector(particle):
    pt, eta, phi = particle
    return vector.obj(pt=pt, eta=eta, phi=phi, mass=0.0)


@given(massless(), massless())
def test_diphoton_mass_is_vectors(one, two):
    pair: Any = four_vector(one) + four_vector(two)
    # vector subtracts squared momenta from squared energies: it loses E^2 eps in m^2, ours does not
    assert at(diphoton_mass, *one, *two) ** 2 == pytest.approx(pair.mass2, rel=1e-12, abs=32 * EPS * pair.energy**2)


@given(massless(), st.floats(0.5, 2.0), st.floats(1e-7, 1e-3), st.floats(1e-7, 1e-3))
def test_mass_of_collinear_photons_does_not_cancel(one, ratio, d_eta, d_phi):
    pt, eta, phi = one
    mass = at(diphoton_mass, pt, eta, phi, pt * ratio, eta + d_eta, phi + d_phi)
    # m^2 = pt1 pt2 (d_eta^2 + d_phi^2) up to the next order, d^2/12; eta + d_eta itself is rounded
    expected = pt * np.sqrt(ratio) * np.hypot(d_eta, d_phi)
    assert mass == pytest.approx(expected, rel=1e-6 + 8 * EPS / np.hypot(d_eta, d_phi))


@given(massless(), massless(), velocities, velocities, velocities)
def test_mass_is_boost_invariant(one, two, x, y, z):
    scale = 0.9 / max(1.0, np.sqrt(x * x + y * y + z * z))
    boost = vector.obj(x=x * scale, y=y * scale, z=z * scale)
    moved = [four_vector(p).boost_beta3(boost) for p in (one, two)]
    mass = at(diphoton_mass, *(v for p in moved for v in (p.pt, p.eta, p.phi)))
    # a boosted component is a difference of energies: its rounding is eps E' gamma, and m^2 inherits it twice
    energy = max(p.energy for p in moved) * 3
    assert mass**2 == pytest.approx(at(diphoton_mass, *one, *two) ** 2, rel=1e-9, abs=1e3 * EPS * energy**2)


@given(massless(), massless())
def test_mass_is_symmetric_and_rotation_invariant(one, two):
    mass = at(diphoton_mass, *one, *two)
    # XLA's sinh is odd to a rounding only
    assert at(diphoton_mass, *two, *one) == pytest.approx(mass, rel=8 * EPS)
    turned = [(pt, eta, phi + 1.0) for pt, eta, phi in (one, two)]
    # the difference of two rotated angles is rounded once more
    assert at(diphoton_mass, *turned[0], *turned[1]) == pytest.approx(mass, rel=1e-9, abs=1e-12)


@given(massless(), massless())
def test_delta_r_is_vectors(one, two):
    expected = four_vector(one).deltaR(four_vector(two))
    assert at(delta_r, *one[1:], *two[1:]) == pytest.approx(expected, rel=1e-12, abs=16 * EPS)


@given(momenta, rapidities, st.floats(0.0, 200.0))
def test_energy_is_vectors(pt, eta, mass):
    assert at(energy_of, pt, eta, mass) == pytest.approx(
        vector.obj(pt=pt, eta=eta, phi=0.0, mass=mass).energy, rel=1e-13
    )
    assert at(energy_of, pt, eta) == pytest.approx(pt * np.cosh(eta), rel=1e-13)


# angles ---------------------------------------------------------------------------------------------------------------

ODD = np.arange(-2001, 2001, 2) * np.pi


@given(finite)
def test_wrapped_angles_lie_in_the_half_open_circle(phi):
    wrapped = at(wrap_phi, phi)
    assert -np.pi < wrapped <= np.pi
    # whole turns were taken away, to the rounding of the angle
    assert np.cos(wrapped - phi) == pytest.approx(1.0, abs=1e-9)
    assert np.sin(wrapped - phi) == pytest.approx(0.0, abs=4 * EPS * max(abs(phi), 1.0))


@pytest.mark.parametrize("towards", [-np.inf, 0.0, np.inf])
def test_angles_beside_odd_multiples_of_pi_stay_inside(towards):
    for x in (ODD, np.nextafter(ODD, towards), np.nextafter(np.nextafter(ODD, towards), towards)):
        wrapped = np.asarray(wrap_phi(jnp.asarray(x)))
        assert np.all((-np.pi < wrapped) & (wrapped <= np.pi))


@given(azimuths)
def test_an_angle_inside_stays_as_it_is(phi):
    assert at(wrap_phi, phi) == phi


def test_the_open_end_is_taken_to_the_closed_one():
    assert at(wrap_phi, -np.pi) == np.pi
    assert at(wrap_phi, np.pi) == np.pi


def test_wrapping_has_derivative_one():
    phi = jnp.array([-7.0, -np.pi, 0.0, np.pi, 7.0])
    assert jax.vmap(jax.grad(wrap_phi))(phi).tolist() == [1.0] * 5


def test_single_precision_angles_lie_inside_too():
    wrapped = np.asarray(wrap_phi(jnp.asarray(ODD, jnp.float32)))
    assert wrapped.dtype == np.float32
    assert np.all((np.float32(-np.pi) < wrapped) & (wrapped <= np.float32(np.pi)))


# safe functions -------------------------------------------------------------------------------------------------------


@given(finite)
def test_safe_functions_are_numpys_where_those_exist(x):
    assert at(safe_sqrt, x) == pytest.approx(np.sqrt(x) if x > 0 else 0.0, rel=4 * EPS)
    assert at(safe_log, x) == pytest.approx(np.log(x) if x > 1e-300 else np.log(1e-300), rel=4 * EPS, abs=4 * EPS)
    assert at(safe_div, 3.0, x) == pytest.approx(3.0 / x if x != 0 else 0.0, rel=4 * EPS)


@given(st.lists(finite, min_size=3, max_size=3))
def test_safe_norm_is_numpys(x):
    assert at(safe_norm, x) == pytest.approx(np.linalg.norm(x), rel=8 * EPS, abs=1e-150)


def test_safe_div_says_what_it_was_told_to():
    assert at(lambda a, b: safe_div(a, b, otherwise=-1.0), 2.0, 0.0) == -1.0


def test_safe_sqrt_and_log_have_a_floor():
    assert at(lambda x: safe_sqrt(x, floor=1.0), 0.5) == 0.0
    assert at(lambda x: safe_log(x, floor=1e-3), 1e-6) == pytest.approx(np.log(1e-3), rel=1e-15)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (safe_sqrt, (0.0,)),
        (safe_sqrt, (-1.0,)),
        (safe_log, (0.0,)),
        (safe_div, (1.0, 0.0)),
        (safe_norm, ([0.0, 0.0, 0.0],)),
        (delta_r, (0.3, 1.0, 0.3, 1.0)),
        (energy_of, (0.0, 1.0)),
        (diphoton_mass, (50.0, 0.5, 1.0, 30.0, 0.5, 1.0)),
        (diphoton_mass, (0.0, 0.5, 1.0, 0.0, 0.4, 2.0)),
    ],
)
def test_gradients_vanish_where_the_naive_formula_has_none(function, arguments):
    arguments = tuple(jnp.asarray(x, dtype=float) for x in arguments)
    gradients = jax.grad(lambda a: function(*a))(arguments)
    for gradient in gradients:
        assert_allclose(gradient, 0.0, atol=0)
