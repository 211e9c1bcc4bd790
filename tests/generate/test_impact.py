"""Impact parameters: the perigee of a helix against a walk along it."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.generate.impact import GEV_PER_T_MM, perigee, resolution


def along(pt, eta, phi):
    return pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)


def test_the_perigee_by_walking_along_the_helix():
    rng = np.random.default_rng(2)
    n = 20
    momentum = np.stack(along(rng.uniform(0.3, 20, n), rng.normal(0, 1, n), rng.uniform(-np.pi, np.pi, n)), axis=1)
    charge, vertex, field = rng.choice([-1.0, 1.0], n), rng.normal(0, 3.0, (n, 3)), 3.8
    d0, dz = perigee(momentum, charge, vertex, field=field)
    pt, phi = np.hypot(momentum[:, 0], momentum[:, 1]), np.arctan2(momentum[:, 1], momentum[:, 0])
    radius = pt / (GEV_PER_T_MM * charge * field)
    # a positive charge in a field along z turns clockwise: dphi/ds = -1/R
    s = np.linspace(-40, 40, 80_001)[:, None]
    x = vertex[:, 0] + radius * (np.sin(phi) - np.sin(phi - s / radius))
    y = vertex[:, 1] - radius * (np.cos(phi) - np.cos(phi - s / radius))
    nearest = np.hypot(x, y).argmin(axis=0)
    assert ((nearest > 0) & (nearest < len(s) - 1)).all()
    rows = np.arange(n)
    # the nearest point is half a step of 1 um away at most; dz leaves that behind times pz/pT
    assert_allclose(np.abs(d0), np.hypot(x, y)[nearest, rows], atol=5e-4)
    off = np.abs(dz - vertex[:, 2] - s[nearest, 0] * momentum[:, 2] / pt)
    assert (off < 5.1e-4 * (1 + np.abs(momentum[:, 2] / pt))).all()
    direction = phi - s[nearest, 0] / radius
    side = -np.sin(direction) * x[nearest, rows] + np.cos(direction) * y[nearest, rows]
    assert_array_equal(np.sign(side), np.sign(d0))


def test_neutral_particles_have_no_impact_parameter():
    momentum = np.stack(along(np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)), axis=1)
    for values in perigee(momentum, np.zeros(2), np.ones((2, 3))):
        assert_array_equal(values, np.zeros(2))
    d0, dz = resolution(momentum)
    assert_allclose(d0, np.hypot(0.010, 0.080 / np.array([1.0, 2.0])))
    assert_allclose(dz, np.hypot(0.020, 0.120 / np.array([1.0, 2.0])))
