"""Panels: closed forms of acceptance and slope, and what their hard edges do to an expectation and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.detector.panels import Panel, Shifts, Telescope, largest, pair_acceptance, panel_stack, slope_variance
from diffhep.events import Events

# geometric factor of two aligned squares of 1 m for a cos^2 flux [m^2 sr]
TABLE = {0.5: 0.914974, 1.0: 0.520231, 2.0: 0.201117, 20.0: 0.00249377}


def straight(x, y, slope_x, slope_y):
    n = len(x)
    fields = {"x": x, "y": y, "slope_x": slope_x, "slope_y": slope_y}
    fields = {name: jnp.asarray(value) for name, value in fields.items()}
    return Events(fields, jnp.ones((n, 1), bool), jnp.ones(n))


@pytest.mark.parametrize("metres", TABLE)
def test_geometric_factor_of_two_panels(metres):
    assert pair_acceptance(1000, 1000, 1000 * metres) / 1e6 == pytest.approx(TABLE[metres], rel=1e-5)


@given(
    st.floats(50, 3000, allow_subnormal=False),
    st.floats(50, 3000, allow_subnormal=False),
    st.floats(20, 1e4, allow_subnormal=False),
)
def test_geometric_factor_has_its_symmetry_and_its_limits(a, b, h):
    found = pair_acceptance(a, b, h)
    assert found == pytest.approx(pair_acceptance(b, a, h), rel=1e-9)
    # a flux that falls with the cosine squared passes pi/2 through an area, and A^2/h^2 far away
    assert found < a * b * min(np.pi / 2, a * b / h**2)


def test_geometric_factor_by_simulation():
    # pairs of points on both panels, each with the weight h^4/d^6
    u = np.random.default_rng(1).uniform(0, 1, (4, 400_000))
    square = (800 * (u[0] - u[1])) ** 2 + (600 * (u[2] - u[3])) ** 2 + 500.0**2
    weight = (800 * 600) ** 2 * 500.0**4 / square**3
    assert pair_acceptance(800, 600, 500) == pytest.approx(weight.mean(), abs=4 * weight.std() / np.sqrt(400_000))


@given(
    st.lists(st.floats(-500, 500, allow_subnormal=False), min_size=2, max_size=6),
    st.floats(0.01, 10, allow_subnormal=False),
)
def test_slope_variance(heights, sigma):
    z = np.array(heights)
    if np.ptp(z) < 1e-3:
        return
    found = float(slope_variance(jnp.asarray(z), sigma))
    assert found == pytest.approx(sigma**2 / np.sum((z - z.mean()) ** 2), rel=1e-9)
    # no arrangement between the same ends does better than half of the panels at each
    n = len(z)
    best = sigma**2 / (np.ptp(z) ** 2 * (n // 2) * (n - n // 2) / n)
    assert found >= best * (1 - 1e-9)


def test_hard_panels_are_rectangles():
    panels = panel_stack([0.0, 100.0], x=10.0, y=0.0, span_x=20.0, span_y=40.0)
    muons = straight([0.0, -0.01, 19.99, 20.0, 10.0, 10.0], [0.0, 0, 0, 0, 19.0, 19.0], [0.0] * 6, [0.0] * 5 + [0.02])
    hard = panels.shifts(panels.crossings(muons, 0.0)).acceptance(None)
    assert_array_equal(hard, [1, 0, 1, 0, 1, 0])


def test_uniform_muons_count_the_area_and_its_edges():
    """Expectation and gradient are those of the hard edges, for a narrow and for a wide jitter."""
    rng = np.random.default_rng(3)
    side, n = 400.0, 40_000
    x, y = rng.uniform(-side, side, (2, n))
    slope = rng.normal(0, 0.3, (2, n))
    muons = straight(x, y, *slope)

    def rate(span, jitter):
        # the second panel's edges lie almost on those of the first: a product of soft edges would count them twice
        panels = panel_stack([0.0, 1.0], x=0.0, y=0.0, span_x=span, span_y=200.0)
        shifts = panels.shifts(panels.crossings(muons, 0.0))
        return jnp.sum(shifts.acceptance(jitter)) * (2 * side) ** 2 / n

    both = jax.jit(jax.value_and_grad(rate), static_argnums=1)
    # the planes are 1 mm apart: the overlap is shorter by the mean of |slope| times that
    area = (300.0 - 0.3 * np.sqrt(2 / np.pi)) * (200.0 - 0.3 * np.sqrt(2 / np.pi))
    error = area * np.sqrt((2 * side) ** 2 / area / n)
    for jitter in (5.0, 40.0):
        value, slope_of = both(300.0, jitter)
        assert float(value) == pytest.approx(area, abs=4 * error)
        # muons within the jitter of an edge, each with the density of the jitter there
        assert float(slope_of) == pytest.approx(200.0, rel=4 * np.sqrt(2 * side / (3 * jitter) / n * 4))
    assert float(rate(300.0, None)) == pytest.approx(area, abs=4 * error)


share = jax.jit(jax.value_and_grad(lambda high, low, jitter: Shifts(low, high).acceptance(jitter)[0]))


@given(
    st.floats(-50, 50, allow_subnormal=False),
    st.floats(0, 60, allow_subnormal=False),
    st.floats(1, 30, allow_subnormal=False),
)
def test_acceptance_is_a_share(low, width, jitter):
    value, slope = share(jnp.full((2, 1), low + width), jnp.full((2, 1), low), jitter)
    assert 0 <= float(value) <= 1
    assert bool(jnp.all(jnp.isfinite(slope)) & jnp.all(slope >= 0))


@given(
    st.lists(st.floats(-500, 500, allow_subnormal=False), min_size=1, max_size=5),
    st.floats(0.1, 5, allow_subnormal=False),
)
def test_blended_edges_lie_just_inside(edges, blend):
    x = np.array(edges)
    assert -1e-9 <= float(largest(jnp.asarray(x), blend)) - x.max() <= blend * np.log(x.size) + 1e-9
    assert float(largest(jnp.asarray(x), 0.0)) == x.max()


def test_panels_that_do_not_overlap_accept_nothing():
    value, slope = share(jnp.full((2, 1), -5.0), jnp.full((2, 1), 5.0), 10.0)
    assert float(value) == 0
    assert_array_equal(slope, 0)


@given(st.lists(st.floats(0.01, 0.99, allow_subnormal=False), min_size=2, max_size=5))
def test_two_hits_make_a_direction(seen):
    panels = Telescope(tuple(Panel(0.0, 0.0, 10.0 * i, 1.0, 1.0, efficiency=e) for i, e in enumerate(seen)))
    patterns = np.array(np.meshgrid(*[[0, 1]] * len(seen), indexing="ij")).reshape(len(seen), -1)
    e = np.array(seen)[:, None]
    chance = np.prod(np.where(patterns == 1, e, 1 - e), axis=0)
    assert float(panels.efficiency()) == pytest.approx(chance[patterns.sum(axis=0) >= 2].sum(), abs=1e-12)


def test_compiled_is_the_same():
    rng = np.random.default_rng(5)
    muons = straight(*rng.normal(0, 100, (2, 50)), *rng.normal(0, 0.3, (2, 50)))
    panels = panel_stack([0.0, 30.0, 90.0], x=1.0, y=2.0, span_x=150.0, span_y=120.0)
    count = lambda p, m: p.shifts(p.crossings(m, 0.0)).acceptance(20.0)
    assert_allclose(jax.jit(count)(panels, muons), count(panels, muons), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Panel(0.0, 0.0, 0.0, -1.0, 1.0), "span_x must be positive, got -1.0 mm"),
        (lambda: Panel(0.0, 0.0, 0.0, 1.0, 1.0, efficiency=1.2), "efficiency must be above 0 and at most 1, got 1.2"),
        (lambda: Panel(0.0, 0.0, 0.0, 1.0, 1.0, resolution=0.0), "resolution must be positive, got 0.0 mm"),
        (lambda: panel_stack([1.0], x=0.0, y=0.0, span_x=1.0, span_y=1.0), "at least two panels .* got 1"),
        (lambda: panel_stack([1.0, 1.0], x=0.0, y=0.0, span_x=1.0, span_y=1.0), "two different heights, got all at 1"),
        (lambda: slope_variance(jnp.array([3.0, 3.0]), 0.1), "two different heights"),
        (lambda: pair_acceptance(1.0, 1.0, 0.0), "distance must be positive, got 0.0 mm"),
        (lambda: Shifts(jnp.zeros((2, 1)), jnp.ones((2, 1))).acceptance(0.0), "a positive width is wanted, or None"),
    ],
)
def test_bad_input_is_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
