"""The silicon tracker: what its surfaces are, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.detector import SiliconTracker, scattering_variance
from diffhep.parameters import Param, resolve

RADII = jnp.array([500.0, 30.0, 1000.0])


def test_surfaces_of_a_track():
    tracker = SiliconTracker(RADII, resolution=0.02, thickness=0.01, efficiency=jnp.array([0.9, 1.0, 0.5]))
    hits, information, scatterers, scattering = tracker.surfaces(jnp.array([1.0, 10.0]))
    assert_allclose(hits, RADII)
    assert_allclose(information, np.array([0.9, 1.0, 0.5]) / 0.02**2)
    assert_allclose(scatterers, [500.0, 30.0, 1000.0, 22.0])
    thickness = np.array([0.01, 0.01, 0.01, 0.003])
    highland = (0.0136 * np.sqrt(thickness) * (1 + 0.038 * np.log(thickness))) ** 2
    assert_allclose(scattering, highland / np.array([[1.0], [100.0]]), rtol=1e-12)


def test_forward_tracks_scatter_as_the_impact_parameter_says():
    # without the logarithm: b/(p sin^(3/2) theta), p the momentum
    eta, pt = 1.5, 2.0
    tracker = SiliconTracker(RADII)
    stretch = np.cosh(eta)
    expected = scattering_variance(jnp.array(0.02 * stretch), jnp.array(pt * stretch)) * stretch**2
    assert_allclose(tracker.scattering(pt, eta=eta)[0], expected, rtol=1e-12)
    plain = float(tracker.scattering(pt, eta=eta)[0] / tracker.scattering(pt)[0])
    logarithm = (1 + 0.038 * np.log(0.02 * stretch)) / (1 + 0.038 * np.log(0.02))
    assert plain == pytest.approx(stretch * logarithm**2, rel=1e-12)


def test_slow_particles_scatter_more():
    tracker = SiliconTracker(RADII)
    beta = 0.5 / np.hypot(0.5, 0.493677)
    assert_allclose(tracker.scattering(0.5, mass=0.493677), tracker.scattering(0.5) / beta**2, rtol=1e-12)


def test_area_of_a_layer_that_covers_a_range_of_eta():
    # 2 pi r times the length 2 r sinh(eta)
    assert_allclose(SiliconTracker(RADII).areas(2.5), 4 * np.pi * np.array(RADII) ** 2 * np.sinh(2.5), rtol=1e-12)


def test_radii_may_be_a_parameter():
    tracker = SiliconTracker(Param(np.array(RADII), unit="mm", role="geometry", bounds=(25.0, 1100.0)))
    assert_allclose(resolve(tracker).surfaces(1.0).hits, RADII, rtol=1e-12)


def test_gradient_is_finite_without_material():
    slope = jax.grad(lambda x: SiliconTracker(RADII, thickness=x, pipe_thickness=x).scattering(1.0).sum())(0.0)
    assert np.isfinite(slope)
    assert slope > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radii": 5.0}, "radii must be a list of radii in mm, got 5.0"),
        ({"radii": jnp.array([-1.0, 2.0])}, "radii must be at least 0 mm"),
        ({"resolution": 0.0}, "resolution must be above 0 mm, got 0.0"),
        ({"thickness": jnp.ones(2)}, r"thickness has shape \(2,\), the tracker 3 layers"),
        ({"thickness": float("nan")}, "thickness must be at least 0 X0, got nan"),
        ({"efficiency": 1.1}, "efficiency must be above 0 and at most 1, got 1.1"),
        ({"pipe_radius": jnp.ones(3)}, r"pipe_radius has shape \(3,\)"),
        ({"pipe_thickness": -0.1}, "pipe_thickness must be at least 0 X0, got -0.1"),
    ],
)
def test_impossible_trackers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SiliconTracker(**({"radii": RADII} | options))
