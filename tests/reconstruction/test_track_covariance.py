"""The covariance of a track fit against closed forms, published formulas, a broken-line fit and a Kalman filter.

Reference numbers use p = 0.3 B R and metres; their last printed digit is the tolerance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.detector import SiliconTracker
from diffhep.reconstruction import (
    gluckstern_curvature,
    impact_parameter_resolution,
    kalman_covariance,
    momentum_resolution,
    track_covariance,
)

ROUND = 0.3e-3  # GeV/(T mm)
FIELD = 3.8  # T
MOMENTA = jnp.array([1.0, 10.0, 100.0])  # GeV
SIGMA = 0.01  # mm
ELEVEN = jnp.linspace(30.0, 1030.0, 11)  # mm
NONE = jnp.zeros(1)
FIT = jax.jit(track_covariance)

# without scattering ---------------------------------------------------------------------------------------------------


@jax.jit
def curvature(hits):
    """Of hits with 1 mm resolution and no material [1/mm]."""
    return jnp.sqrt(track_covariance(hits, jnp.ones_like(hits), NONE, NONE)[2, 2])


@pytest.mark.parametrize(
    ("points", "coefficient", "excess"),
    [(3, 9.797959, 3.5), (5, 8.552360, 4.6), (8, 7.560864, 2.5), (10, 7.050145, 1.7), (20, 5.449095, 0.5)],
)
def test_equidistant_hits_resolve_as_gluckstern_says(points, coefficient, excess):
    assert float(curvature(jnp.linspace(0.0, 1000.0, points))) * 1000**2 == pytest.approx(coefficient, abs=6e-7)
    assert gluckstern_curvature(points, 1.0, 1.0) == pytest.approx(coefficient, abs=6e-7)
    assert 100 * (np.sqrt(720 / (points + 4)) / coefficient - 1) == pytest.approx(excess, abs=0.06)


@pytest.mark.parametrize(("number", "best"), [(4, 8.0), (8, 5.65685), (12, 4.6188)])
def test_the_best_positions_coincide(number, best):
    hits = jnp.repeat(jnp.array([0.0, 500.0, 1000.0]), np.array([1, 2, 1]) * number // 4, total_repeat_length=number)
    assert float(curvature(hits)) * 1000**2 == pytest.approx(16 / np.sqrt(number), rel=1e-11)
    assert round(float(curvature(hits)) * 1000**2, 5) == pytest.approx(best, abs=6e-6)


def test_certificate_of_the_best_positions():
    # Elfving: no position in [0, L] would tell more about the curvature than the three that are used, L = 1
    rows = lambda x: np.stack([np.ones_like(x), x, x**2 / 2], axis=-1)
    used = rows(np.array([0.0, 0.5, 0.5, 1.0]))
    inverse = np.asarray(FIT(jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.full(4, 0.25), NONE, NONE))
    assert_allclose(inverse, np.linalg.inv(used.T @ used / 4), rtol=1e-9)
    assert inverse[2, 2] == pytest.approx(256, rel=1e-10)
    told = (rows(np.linspace(0, 1, 1001)) @ inverse[2]) ** 2
    assert np.all(told <= 256 * (1 + 1e-9))
    assert_allclose(told[[0, 500, 1000]], 256, rtol=1e-9)


def test_three_stations_of_a_muon_spectrometer():
    # far from the origin: p sigma_kappa/(0.3 B) with sigma_kappa = 8 sqrt(3/2) sigma/L^2, 3 m from 5 to 8 m
    hits = jnp.array([5000.0, 6500.0, 8000.0])
    resolution = momentum_resolution(
        FIT(hits, jnp.full(3, 1 / 0.05**2), NONE, NONE), jnp.array(1000.0), 0.5, bending=ROUND
    )
    assert float(resolution) == pytest.approx(8 * np.sqrt(1.5) * 1000 * 0.05 / (0.3e-3 * 0.5 * 3000**2), rel=1e-9)
    eight = jnp.repeat(hits, np.array([2, 4, 2]), total_repeat_length=8)
    assert float(curvature(eight)) * 3000**2 == pytest.approx(16 / np.sqrt(8), rel=1e-9)


# with scattering ------------------------------------------------------------------------------------------------------


@functools.cache
def eleven_layers(**options):
    surfaces = SiliconTracker(ELEVEN, resolution=SIGMA, thickness=0.02, pipe_thickness=0.0, **options).surfaces(MOMENTA)
    covariance = FIT(*surfaces)
    pt = momentum_resolution(covariance, MOMENTA, FIELD, bending=ROUND)
    return np.asarray(pt), np.asarray(impact_parameter_resolution(covariance)) * 1e3, covariance, surfaces


def drasal_riegler():
    """The four closed formulas (arXiv:1805.12014) at 1 GeV, 1 GeV (um), for any momentum times it, and any (um)."""
    n, length, r0 = 10, 1.0, 0.03
    r, theta = r0 / length, 0.0136 * np.sqrt(0.02) * (1 + 0.038 * np.log(0.02))
    scattering = theta * np.sqrt(n + 1) / (0.3 * FIELD * length) * n / np.sqrt((n + 1) * (n - 1))
    impact = 3 * 10 / np.sqrt(n + 5) * np.sqrt(1 + 8 * r + 28 * r**2 + 40 * r**3 + 20 * r**4)
    return (
        scattering,
        theta * r0 * 1e6 * np.sqrt(1 + r / 2 + n * r**2 / 4),
        gluckstern_curvature(11, length, 1e-5) / (0.3 * FIELD),
        impact,
    )


def test_published_formulas_of_each_part():
    scattering, impact_scattering, curved, impact = drasal_riegler()
    printed = [0.004788, 49.54, 0.0005989, 8.717]
    assert_allclose([scattering, impact_scattering, 10 * curved, impact], printed, rtol=1.1e-4)
    # generalised least squares with one part at a time
    alone = FIT(ELEVEN, jnp.full(11, 1 / SIGMA**2), NONE, NONE)
    assert float(momentum_resolution(alone, jnp.array(10.0), FIELD, bending=ROUND)) == pytest.approx(5.989e-4, rel=1e-4)
    assert float(impact_parameter_resolution(alone)) * 1e3 == pytest.approx(8.530, abs=6e-4)
    exact = SiliconTracker(ELEVEN, resolution=1e-5, thickness=0.02, pipe_thickness=0.0)
    scattered = FIT(*exact.surfaces(1.0))
    assert float(momentum_resolution(scattered, jnp.array(1.0), FIELD, bending=ROUND)) == pytest.approx(
        0.004788, abs=6e-7
    )
    assert float(impact_parameter_resolution(scattered)) * 1e3 == pytest.approx(50.26, abs=6e-3)


def test_full_fit_against_quadrature():
    pt, impact, *_ = eleven_layers()
    assert_allclose(pt, [0.004792, 0.004985, 0.007967], atol=6e-7)
    assert_allclose(impact, [52.06, 12.84, 8.768], rtol=2e-4)
    scattering, impact_scattering, curved, impact_resolution = drasal_riegler()
    together = np.hypot(scattering, curved * np.asarray(MOMENTA))
    assert_allclose(together, [0.004788, 0.004825, 0.007668], atol=6e-7)
    quadrature = np.hypot(impact_scattering / np.asarray(MOMENTA), impact_resolution)
    assert_allclose(quadrature, [50.31, 10.03, 8.731], rtol=1e-3)
    # what a sum in quadrature misses at 10 GeV: 22 %
    assert 1 - quadrature[1] / impact[1] == pytest.approx(0.22, abs=0.005)


OPTIMA = {
    "p": ([30, 50, 71.5, 545.2, 1029.9, 1060, 1080, 1100], -7.772022, -7.518015),
    "d": ([30, 50, 70, 118.1, 138.1, 562.3, 679.2, 1100], -10.989717, -10.893119),
    "m": ([30, 50, 70, 118, 608, 1060, 1080, 1100], -9.370924, -9.205567),
}


@jax.jit
def objectives(radii):
    """Mean over momenta of log sigma_kappa [1/m], log sigma_d0 [m] and half of both."""
    covariance = track_covariance(*SiliconTracker(radii).surfaces(MOMENTA))
    p = jnp.mean(jnp.log(jnp.sqrt(covariance[:, 2, 2]) * 1e3))
    d = jnp.mean(jnp.log(impact_parameter_resolution(covariance) * 1e-3))
    return jnp.stack([p, d, 0.5 * (p + d)])


@pytest.mark.parametrize("name", OPTIMA)
def test_values_of_the_reference_layouts(name):
    radii, best, uniform = OPTIMA[name]
    which = list(OPTIMA).index(name)
    assert_allclose(objectives(jnp.array(radii, float))[which], best, atol=1e-6)
    assert_allclose(objectives(jnp.linspace(30.0, 1100.0, 8))[which], uniform, atol=6e-7)


def test_order_of_layers_does_not_matter():
    radii = jnp.array([30, 50, 70, 118, 608, 1060, 1080, 1100.0])
    shuffled = radii[jnp.array([4, 0, 7, 2, 1, 6, 3, 5])]
    assert_allclose(objectives(shuffled), objectives(radii), rtol=1e-12)


def broken_lines(hits, information, scatterers, scattering):
    """Least squares with a kick at each scatterer as a parameter, in numpy and with units of a metre."""
    x, s = np.asarray(hits) / 1e3, np.asarray(scatterers) / 1e3
    rows = np.concatenate([np.stack([np.ones_like(x), x, x**2 / 2], 1), np.maximum(x[:, None] - s, 0)], 1)
    known = rows.T @ (rows * (np.asarray(information) * 1e6)[:, None])
    known += np.diag(np.concatenate([np.zeros(3), 1 / np.asarray(scattering)]))
    unit = np.array([1e3, 1, 1e-3])
    return np.linalg.inv(known)[:3, :3] * unit[:, None] * unit


def test_a_broken_line_fit_has_the_same_covariance():
    surfaces = SiliconTracker(jnp.array(OPTIMA["m"][0], float)).surfaces(MOMENTA)
    covariance = np.asarray(FIT(*surfaces))
    for got, scattering in zip(covariance, surfaces.scattering, strict=True):
        assert_allclose(got, broken_lines(*surfaces[:3], scattering), rtol=1e-8)


def test_kalman_filter_agrees():
    covariance, surfaces = eleven_layers()[2:]
    # two algorithms without a matrix in common
    assert_allclose(jax.jit(kalman_covariance)(*surfaces), covariance, rtol=1e-12)


BOTH = jax.jit(lambda *surfaces: (track_covariance(*surfaces), kalman_covariance(*surfaces)))
radii = st.lists(st.floats(25.0, 1100.0), min_size=6, max_size=6, unique_by=lambda r: round(r / 20))


@given(radii, st.floats(0.3, 200.0), st.floats(0.0, 0.1), st.floats(0.003, 0.1))
@settings(max_examples=40)
def test_kalman_filter_agrees_for_any_layout(radii, pt, thickness, resolution):
    tracker = SiliconTracker(jnp.array(radii), resolution=resolution, thickness=thickness)
    fit, kalman = (np.asarray(x) for x in BOTH(*tracker.surfaces(pt)))
    size = np.sqrt(np.diag(fit))
    # layers 20 mm apart among 1100 cost some digits: hundreds of roundings
    assert_allclose(kalman / np.outer(size, size), fit / np.outer(size, size), atol=1e-10)


@given(radii, st.floats(0.3, 200.0), st.floats(0.0, 0.1))
@settings(max_examples=20)
def test_another_layer_never_hurts_and_scattering_never_helps(radii, pt, thickness):
    tracker = SiliconTracker(jnp.array(radii), thickness=thickness)
    hits, information, scatterers, scattering = tracker.surfaces(pt)
    fit = lambda *surfaces: np.diag(np.asarray(BOTH(*surfaces)[0]))
    full = fit(hits, information, scatterers, scattering)
    blind = fit(hits, information.at[2].set(0.0), scatterers, scattering)
    clear = fit(hits, information, scatterers, 0.0 * scattering)
    assert np.all(full <= blind * (1 + 1e-9))
    assert np.all(clear <= full * (1 + 1e-9))


def test_many_layouts_in_one_call():
    layouts = jnp.array([OPTIMA[name][0] for name in OPTIMA], float)
    one_by_one = jnp.stack([objectives(r) for r in layouts])
    assert_allclose(jax.jit(jax.vmap(objectives))(layouts), one_by_one, rtol=1e-11)


# gradients and edges --------------------------------------------------------------------------------------------------


def losses(radii, thickness, resolution, pt, fit=track_covariance):
    """Logarithms of both resolutions."""
    covariance = fit(*SiliconTracker(radii, resolution=resolution, thickness=thickness).surfaces(pt))
    return 0.5 * jnp.log(jnp.diagonal(covariance)[jnp.array([0, 2])])


VALUES = jax.jit(losses)
SLOPES = jax.jit(jax.jacrev(losses, argnums=(0, 1, 2, 3)))


def test_gradients_equal_finite_differences():
    at = [np.array([30.0, 55, 80, 300, 700, 1000]), np.full(6, 0.02), np.full(6, 0.01), np.array([3.0])]
    slopes = SLOPES(*at[:3], at[3][0])
    for i, (x, slope) in enumerate(zip(at, slopes, strict=True)):
        for j, h in enumerate(1e-3 * x):
            given = lambda t, i=i, j=j, h=h: [y + t * h * (np.arange(y.size) == j) * (k == i) for k, y in enumerate(at)]
            moved = lambda t, given=given: (lambda y: np.asarray(VALUES(*y[:3], y[3][0])))(given(t))
            quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
            assert_allclose(np.asarray(slope).reshape(2, -1)[:, j], quotient, rtol=1e-6, atol=1e-8 / x[j])


def test_both_algorithms_have_one_gradient():
    at = (jnp.array([30.0, 55, 80, 300, 700, 1000]), jnp.full(6, 0.02), jnp.full(6, 0.01))
    along = tuple(jnp.asarray(np.random.default_rng(0).normal(size=6)) * x for x in at)
    pt = jnp.array(3.0)
    kalman = lambda r, x, s: losses(r, x, s, pt, fit=kalman_covariance)
    _, filtered = jax.jit(lambda x, v: jax.jvp(kalman, x, v))(at, along)
    fitted = sum(slope @ v for slope, v in zip(SLOPES(*at, pt), along, strict=False))
    assert_allclose(filtered, fitted, rtol=1e-9)


EDGES = {
    "no material": ([30, 50, 70, 118, 608, 1100], 0.0, 1.0),
    "two places": ([30, 30, 30, 1100, 1100, 1100], 0.02, 1.0),
    "two places, no material": ([0, 0, 0, 1100, 1100, 1100], 0.0, 1.0),
    "one place": ([1100] * 6, 0.02, 1.0),
    "at the origin": ([0] * 6, 0.0, 1.0),
    "on the beam pipe": ([22, 22, 22, 22, 500, 1100], 0.02, 1.0),
    "slow": ([30, 50, 70, 118, 608, 1100], 0.1, 0.05),
    "fast": ([30, 50, 70, 118, 608, 1100], 1e-9, 1e5),
}


@pytest.mark.parametrize("name", EDGES)
def test_finite_at_the_edges(name):
    radii, thickness, pt = EDGES[name]
    at = (jnp.array(radii, float), jnp.full(6, thickness), jnp.full(6, 0.01), jnp.array(pt))
    surfaces = SiliconTracker(at[0], thickness=at[1]).surfaces(at[3])
    for value in (VALUES(*at), *BOTH(*surfaces)):
        assert np.all(np.isfinite(value))
    for slope in SLOPES(*at):
        assert np.all(np.isfinite(slope))


def test_finite_for_a_thousand_designs_and_their_bounds():
    rng = np.random.default_rng(1)
    radii = rng.uniform(30.0, 1100.0, (1000, 8))
    radii = np.where(rng.random(radii.shape) < 0.3, rng.choice([30.0, 1100.0], radii.shape), radii)
    for out in jax.jit(jax.vmap(lambda r: (objectives(r), jax.jacrev(objectives)(r))))(radii):
        assert np.all(np.isfinite(out))


def test_a_layout_that_measures_no_curvature_is_a_wall_not_a_hole():
    two_places = jnp.array([0.0, 0, 0, 0, 1000, 1000, 1000, 1000])
    assert float(curvature(two_places)) > 1e5 * float(curvature(jnp.linspace(0.0, 1000.0, 8)))


def test_lists_of_different_length_are_refused():
    with pytest.raises(
        ValueError, match=r"hits and information: one number a surface is wanted, got shapes \(3,\) and"
    ):
        track_covariance(jnp.zeros(3), jnp.ones(2), NONE, NONE)
    with pytest.raises(ValueError, match="scatterers and scattering"):
        kalman_covariance(jnp.zeros(3), jnp.ones(3), NONE, jnp.zeros(2))
    with pytest.raises(ValueError, match="points: a curvature needs at least 3, got 2"):
        gluckstern_curvature(2, 1.0, 1.0)
