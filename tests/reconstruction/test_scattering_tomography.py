"""Lines, points of closest approach and voxels against independent calculations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.reconstruction.scattering_tomography import (
    Line,
    Scatter,
    VoxelSums,
    clipped_mean_weights,
    edges_of,
    fit_line,
    radiation_lengths,
    scatter,
    shares,
    voxel_sums,
    weighted_quantile,
)
from diffhep.units import HIGHLAND_ENERGY

N = 40


@pytest.fixture(scope="module")
def lines():
    """Two tilted lines that nearly meet, with the errors of some telescope."""
    rng = np.random.default_rng(2)
    slope = rng.normal(0, 0.4, (2, N))
    kink = rng.normal(0, 0.015, (2, N))
    meeting, z = rng.uniform(200, 800, (2, N)), rng.uniform(500, 1300, N)
    made = []
    for height, s, variances in ((1600.0, slope, (2.5e-3, 1e-6)), (200.0, slope + kink, (3e-3, 4e-6))):
        at = meeting + s * (height - z) + rng.normal(0, 0.3, (2, N))
        made.append(Line(jnp.asarray(at), jnp.asarray(s), jnp.array(height), *map(jnp.asarray, variances)))
    return tuple(made)


@pytest.fixture(scope="module")
def seen(lines):
    return jax.jit(scatter)(*lines)


def test_line_is_a_weighted_fit():
    rng = np.random.default_rng(1)
    z, weight = np.array([0.0, 40.0, 300.0, 390.0]), np.array([1.0, 4.0, 2.0, 0.5])
    hits = rng.normal(0, 100, (2, 5, 4))
    line = fit_line(jnp.asarray(z), jnp.asarray(hits), jnp.asarray(weight))
    for axis in range(2):
        for event in range(5):
            (slope, offset), cov = np.polyfit(z, hits[axis, event], 1, w=np.sqrt(weight), cov="unscaled")
            assert line.slope[axis, event] == pytest.approx(slope, rel=1e-9)
            assert line.position[axis, event] == pytest.approx(offset + slope * float(line.height), rel=1e-9)
    assert float(line.slope_variance) == pytest.approx(cov[0, 0], rel=1e-9)
    assert float(line.position_variance) == pytest.approx(1 / weight.sum(), rel=1e-12)


def test_point_is_where_the_lines_are_closest(lines, seen):
    first, second = lines
    for event in range(N):
        begin, direction = zip(
            *(
                (np.array([*line.position[:, event], line.height]), np.array([*line.slope[:, event], 1.0]))
                for line in (first, second)
            ),
            strict=True,
        )
        lengths = np.linalg.lstsq(np.stack([direction[0], -direction[1]], axis=1), begin[1] - begin[0], rcond=None)[0]
        middle = (begin[0] + lengths[0] * direction[0] + begin[1] + lengths[1] * direction[1]) / 2
        assert_allclose(seen.point[:, event], middle, rtol=1e-6, atol=1e-6)
        angle = np.arccos(np.dot(*(d / np.linalg.norm(d) for d in direction)))
        assert float(seen.angle_squared[event]) == pytest.approx(4 * np.sin(angle / 2) ** 2, rel=1e-6)


def test_variances_are_those_of_the_derivatives(lines, seen):
    first, second = lines

    def point(numbers):
        p1, p2, s1, s2 = numbers.reshape(4, 2, N)
        one = Line(p1, s1, first.height, first.position_variance, first.slope_variance)
        two = Line(p2, s2, second.height, second.position_variance, second.slope_variance)
        return jnp.sum(scatter(one, two).point, axis=1)

    at = jnp.concatenate([x.ravel() for x in (first.position, second.position, first.slope, second.slope)])
    slopes = np.asarray(jax.jit(jax.jacrev(point))(at)).reshape(3, 8, N)
    pairs = (first.position_variance, second.position_variance, first.slope_variance, second.slope_variance)
    spread = np.repeat(np.array([float(v) for v in pairs]), 2)
    assert_allclose(seen.point_variance, np.einsum("j,ijn->in", spread, slopes**2), rtol=1e-8)


def test_noise_is_the_angle_without_scattering():
    rng = np.random.default_rng(4)
    n, sigma = 100_000, 1e-3
    slope = np.array([[0.9], [-0.3]])
    made = [
        Line(
            jnp.zeros((2, n)),
            jnp.asarray(slope + rng.normal(0, sigma, (2, n))),
            jnp.array(h),
            *map(jnp.array, (1.0, sigma**2)),
        )
        for h in (100.0, 0.0)
    ]
    found = jax.jit(scatter)(*made)
    assert float(jnp.mean(found.angle_squared)) == pytest.approx(float(found.noise_squared[0]), rel=0.02)


def test_parallel_lines_are_finite():
    line = Line(jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.array(1.0), jnp.array(1.0), jnp.array(1e-6))
    total = lambda slope: sum(jnp.sum(x) for x in scatter(line, Line(line.position + 1, slope, *[jnp.array(1.0)] * 3)))
    value, slope = jax.jit(jax.value_and_grad(total))(jnp.zeros((2, 1)))
    assert bool(jnp.isfinite(value) & jnp.all(jnp.isfinite(slope)))


def test_sums_are_those_of_a_loop_over_voxels(seen):
    rng = np.random.default_rng(6)
    weight, momentum = rng.uniform(0, 1, (2, N)) + 0.1
    edges = tuple(jnp.asarray(e) for e in (np.linspace(100, 900, 4), np.linspace(0, 900, 3), np.linspace(400, 1400, 6)))
    found = voxel_sums(seen, jnp.asarray(weight), jnp.asarray(momentum), edges)
    chances = [np.asarray(shares(seen.point[i], seen.point_variance[i], e)) for i, e in enumerate(edges)]
    square = (seen.angle_squared - seen.noise_squared) * seen.cosine * momentum**2 / (2 * HIGHLAND_ENERGY**2) / 200.0
    for i, j, k in np.ndindex(3, 2, 5):
        inside = chances[0][:, i] * chances[1][:, j] * chances[2][:, k] * weight
        assert float(found.weight[i, j, k]) == pytest.approx(inside.sum(), rel=1e-9, abs=1e-12)
        assert float(found.density[i, j, k]) == pytest.approx(float(np.sum(inside * square)), rel=1e-9, abs=1e-12)


def test_radiation_length_comes_back():
    """Muons scattered by Highland's width without the logarithm, all in one voxel."""
    rng = np.random.default_rng(7)
    n, length, p = 20_000, 20.0, 3.0
    theta = rng.normal(0, HIGHLAND_ENERGY / p * np.sqrt(100.0 / length), (2, n))
    flat = jnp.ones(n)
    made = Scatter(jnp.full((3, n), 50.0), jnp.full((3, n), 1e-4), jnp.asarray((theta**2).sum(axis=0)), flat, 0 * flat)
    sums = voxel_sums(made, flat, p * flat, (jnp.array([0.0, 100.0]),) * 3)
    assert float(radiation_lengths(sums)[0, 0, 0]) == pytest.approx(length, rel=4 / np.sqrt(n))


lengths_and_slopes = jax.jit(jax.value_and_grad(lambda s: radiation_lengths(s).sum()))


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_radiation_lengths_stay_between_their_limits(density, weight):
    sums = VoxelSums(*(jnp.full((1, 1, 1), v) for v in (weight, density)))
    found, slope = lengths_and_slopes(sums)
    assert 1.0 <= float(found) <= 1e6 * (1 + 1e-9)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in slope)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.81])
def test_quantile_counts_weights(fraction):
    rng = np.random.default_rng(11)
    values, weights = rng.permutation(30).astype(float), rng.integers(1, 5, 30)
    found = float(weighted_quantile(jnp.asarray(values), jnp.asarray(weights, dtype=float), fraction))
    order = np.argsort(values)
    middle = np.cumsum(np.array(weights)[order]) - np.array(weights)[order] / 2
    assert found == pytest.approx(np.interp(fraction * sum(weights), middle, values[order]))


def test_no_muon_decides():
    n = 101
    deviation = np.linspace(1, 50, n)
    deviation[[0, 1]] = 1e-9
    made = Scatter(*[jnp.zeros((3, n)), jnp.asarray(np.tile(deviation**2, (3, 1))), *[jnp.ones(n)] * 3])
    weight = np.asarray(clipped_mean_weights(made, jnp.ones(n), jnp.ones(n)))
    assert weight.max() == pytest.approx(np.sort(weight)[-16])
    assert weight.min() == pytest.approx(np.sort(weight)[16], rel=0.05)


def test_edges():
    assert_allclose(edges_of(400.0, 1400.0, 100.0), 400.0 + 100 * np.arange(11))


def test_a_fraction_above_one_is_refused():
    with pytest.raises(ValueError, match="a number from 0 to 1 is wanted, got 2"):
        weighted_quantile(jnp.ones(2), jnp.ones(2), 2)
