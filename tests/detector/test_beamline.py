"""Beam lines against closed forms: thin and thick FODO cells, transport, transmission through apertures."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import expm
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import qmc

from diffhep.detector import (
    BeamLine,
    beam_covariance,
    beam_elements,
    beam_width,
    beta_along,
    element_matrix,
    fodo_cell,
    line_matrix,
    periodic_twiss,
    transmission,
    transport_covariance,
)
from diffhep.gates import Boundary, Hard

CELL = 1000.0  # mm
MATRIX = jax.jit(element_matrix)
MATRIX_SLOPE = jax.jit(jax.jacfwd(element_matrix, argnums=(0, 1)))


@jax.jit
def cell_twiss(strength, magnet):
    return periodic_twiss(line_matrix(element_matrix(*fodo_cell(CELL, strength, quadrupole_length=magnet))))


TWISS_SLOPE = jax.jit(jax.jacfwd(lambda g, magnet: cell_twiss(g, magnet)[:3], argnums=(0, 1)))


@pytest.mark.parametrize(
    ("magnet", "best", "phase"),
    [(0.1, 1.630033, 77.2231), (0.01, 1.661656, 76.4289), (0.001, 1.664752, 76.3537), (0.0, 1.665095, 76.3454)],
)
def test_smallest_beta_of_thick_and_thin_cells(magnet, best, phase):
    beta = lambda g: float(cell_twiss(g, magnet * CELL).beta) / CELL
    found: Any = minimize_scalar(beta, bounds=(1e-4, 3.9e-3), method="bounded", options={"xatol": 1e-12})
    assert found.fun == pytest.approx(best, abs=6e-7)
    # the minimum is flat: its place is known to the root of the rounding
    assert np.degrees(float(cell_twiss(found.x, magnet * CELL).phase)) == pytest.approx(phase, abs=1e-4)


def test_closed_form_of_the_thin_cell():
    phase = 2 * np.arcsin((np.sqrt(5) - 1) / 2)
    assert np.degrees(phase) == pytest.approx(76.345415, abs=1e-6)
    twiss = cell_twiss(4 * np.sin(phase / 2) / CELL, 0.0)
    assert float(twiss.phase) == pytest.approx(phase, rel=1e-12)
    assert float(twiss.beta) / CELL == pytest.approx(np.sqrt((11 + 5 * np.sqrt(5)) / 8), rel=1e-12)
    assert float(twiss.beta) == pytest.approx(CELL * (1 + np.sin(phase / 2)) / np.sin(phase), rel=1e-12)
    assert abs(float(TWISS_SLOPE(4 * np.sin(phase / 2) / CELL, 0.0)[0][0])) * 1e-3 / CELL < 1e-10


@given(st.floats(-1e-2, 1e-2), st.floats(0.0, 2000.0))
def test_an_element_solves_the_equation_of_motion(strength, length):
    # x'' = -k x over the length; the integrated strength is k l
    generator = np.array([[0.0, length], [-strength, 0.0]])
    matrix = np.asarray(MATRIX(strength, length))
    assert_allclose(matrix, expm(generator), rtol=1e-9, atol=1e-9 * np.abs(matrix).max())
    assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-12 * np.abs(matrix).max() ** 2)


@pytest.mark.parametrize("length", [0.0, 1e-3, 300.0])
@pytest.mark.parametrize("strength", [0.0, 1e-12, -1e-12, 1e-3, -1e-3, 3.3333e-3, -3.3334e-3])
def test_gradients_at_drifts_and_thin_lenses(strength, length):
    slopes = [np.asarray(s) for s in MATRIX_SLOPE(strength, length)]
    for i, (x, h) in enumerate(((strength, 1e-5), (length, 0.1))):
        moved = lambda t, i=i, h=h: np.asarray(
            MATRIX(*(v + t * h * (i == j) for j, v in enumerate((strength, length))))
        )
        quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        assert_allclose(slopes[i], quotient, rtol=1e-6, atol=1e-12 * (1 + abs(x)) / h)


@pytest.mark.parametrize("strength", [0.0, 1e-6, 3.99e-3, 4e-3, 4.01e-3, 0.1])
@pytest.mark.parametrize("magnet", [0.0, 100.0, 500.0])
def test_finite_for_stable_and_unstable_cells(strength, magnet):
    twiss = cell_twiss(strength, magnet)
    for leaf in (*twiss[:3], *jax.tree.leaves(TWISS_SLOPE(strength, magnet))):
        assert np.isfinite(leaf)
    if not twiss.stable:
        assert float(twiss.beta) > 1e3 * CELL


def test_beta_along_a_cell_comes_back():
    strengths, lengths = fodo_cell(CELL, 2.5e-3, quadrupole_length=100.0)
    matrices = element_matrix(strengths, lengths)
    twiss = periodic_twiss(line_matrix(matrices))
    beta = np.asarray(beta_along(twiss, matrices))
    assert beta[-1] == pytest.approx(float(twiss.beta), rel=1e-12)
    assert beta.max() == beta[-1]
    # a matched beam is unchanged by its cell
    start = beam_covariance(2e-3, twiss)
    assert_allclose(transport_covariance(start, line_matrix(matrices)), start, rtol=1e-10, atol=1e-15)
    assert float(beam_width(start)) == pytest.approx(np.sqrt(2e-3 * float(twiss.beta)), rel=1e-12)


@pytest.mark.parametrize("elements", [1, 2, 5, 32])
def test_a_line_is_the_product_of_its_elements(elements):
    rng = np.random.default_rng(elements)
    strengths, lengths = beam_elements(
        [(k, l) for k, l in zip(rng.normal(0, 1e-5, elements), rng.uniform(0, 500, elements), strict=True)]
    )
    matrices = np.asarray(element_matrix(strengths, lengths))
    product = np.eye(2)
    for matrix in matrices:
        product = matrix @ product
    assert_allclose(line_matrix(jnp.asarray(matrices)), product, rtol=1e-10, atol=1e-12)


# apertures ------------------------------------------------------------------------------------------------------------


def test_transmission_and_its_slope():
    share, slope = jax.vmap(jax.value_and_grad(lambda a: transmission(0.7, a)))(jnp.array([0.1, 0.7, 2.0]))
    a = np.array([0.1, 0.7, 2.0])
    assert_allclose(slope, np.sqrt(2 / np.pi) / 0.7 * np.exp(-(a**2) / (2 * 0.7**2)), rtol=1e-12)
    assert float(share[1]) == pytest.approx(0.6826894921370859, rel=1e-12)


@pytest.mark.parametrize(("width", "half"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1e-300, 1.0), (1.0, 1e9)])
def test_transmission_is_finite_at_the_edges(width, half):
    value, slopes = jax.value_and_grad(transmission, argnums=(0, 1))(width, half)
    assert np.all(np.isfinite([value, *slopes]))
    assert float(value) == pytest.approx(1.0 if half > 10 * width else 0.0)


LENSES = beam_elements([(1e-5, 100.0), (0.0, 500.0)])


def line_of(k, half, gate):
    """A quadrupole with k, a drift, and one aperture at the end."""
    return BeamLine(jnp.stack([k * 100.0, 0.0]), LENSES[1], jnp.stack([jnp.inf, half]), gate)


def expected(k, half):
    """Transmission in x of a beam of 1 mm and 1 mrad."""
    m = line_matrix(element_matrix(jnp.stack([k * 100.0, 0.0]), LENSES[1]))
    return transmission(beam_width(transport_covariance(jnp.diag(jnp.array([1.0, 1e-6])), m)), half)


@pytest.fixture(scope="module")
def sample():
    # Sobol's points: what is tested is the estimator, not its noise (1 to 2 % of dS/dk for a million random particles)
    x = ndtri(qmc.Sobol(2, rng=5).random_base2(18)) * [1.0, 1e-3]
    return jnp.asarray(np.concatenate([x, np.zeros_like(x)], axis=1))


@pytest.fixture(scope="module")
def sampled(sample):
    return jax.jit(jax.value_and_grad(lambda k, a: jnp.mean(line_of(k, a, Boundary(0.2))(sample)[1]), argnums=(0, 1)))


@pytest.mark.parametrize("half", [0.8, 1.2, 1.8])
def test_gradient_through_a_hard_aperture_is_that_of_the_closed_form(half, sampled):
    value, slopes = sampled(1e-5, half)
    exact, wanted = jax.jit(jax.value_and_grad(expected, argnums=(0, 1)))(1e-5, half)
    assert float(value) == pytest.approx(float(exact), abs=1e-4)
    # bias of the kernel, of fourth order in a third of the beam's width
    assert_allclose(slopes, wanted, rtol=0.01)


def test_lost_is_lost():
    line = BeamLine(jnp.zeros(3), jnp.full(3, 100.0), jnp.array([1.0, jnp.inf, 5.0]))
    # wide at the first aperture, back on the axis at the last; inside; out in y
    x = jnp.array([[2.0, -0.01, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.02]])
    end, weight = line(x)
    assert weight.tolist() == [0.0, 1.0, 0.0]
    assert_allclose(end[:, 0], [-1.0, 0.5, 0.0], atol=1e-12)


def test_two_apertures_in_one_place_count_once(sample):
    few = sample[:200_000]

    def survival(half, number):
        apertures = jnp.broadcast_to(half, (number,))
        return jnp.mean(BeamLine(jnp.zeros(number), jnp.zeros(number), apertures, Boundary(0.25))(few)[1])

    one, two = (float(jax.jit(jax.grad(lambda a, n=n: survival(a, n)))(1.2)) for n in (1, 2))
    assert two == pytest.approx(one, rel=1e-12)


def test_gates_only_differ_in_the_gradient(sample):
    few = sample[:1000]
    soft, hard = jax.jit(lambda x: [line_of(1e-5, 1.2, gate)(x)[1] for gate in (Boundary(0.25), Hard())])(few)
    assert_allclose(soft, hard, atol=1e-12)
    slopes = eqx.filter_jit(eqx.filter_grad(lambda line: line(few)[1].sum()))(line_of(1e-5, 1.2, Boundary(0.25)))
    assert np.all(np.isfinite(slopes.strengths))
    assert np.all(np.isfinite(slopes.half_apertures))


def test_impossible_lines_are_refused():
    with pytest.raises(ValueError, match=r"quadrupole_length: 2 x 600.0 mm do not fit into a cell of 1000\.0 mm"):
        fodo_cell(1000.0, 1e-3, quadrupole_length=600.0)
    with pytest.raises(ValueError, match=r"elements: number 1 has k = 0\.0 /mm\^2 and length -1\.0 mm"):
        beam_elements([(1.0, 1.0), (0.0, -1.0)])
    with pytest.raises(ValueError, match=r"elements: pairs .* are wanted, got shape \(0,\)"):
        beam_elements([])
    with pytest.raises(ValueError, match="one number an element is wanted, got shapes strengths"):
        BeamLine(jnp.zeros(2), jnp.zeros(3), jnp.ones(2))
    with pytest.raises(ValueError, match="half_apertures must not be below 0 mm"):
        BeamLine(jnp.zeros(2), jnp.zeros(2), -jnp.ones(2))
