"""Efficiencies of lifetime tags against scipy, the reference table, and where naive formulas overflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from diffhep.detector import decay_probability, displaced_efficiency, erfcx, impact_resolution, prompt_efficiency

ERFCX = jax.jit(lambda z: (erfcx(z), jax.vmap(jax.grad(erfcx))(z)))
# value, and derivatives with respect to the cut, the resolution and the displacement
EFFICIENCY = jax.jit(jax.value_and_grad(displaced_efficiency, argnums=(0, 1, 2)))


def test_erfcx_over_the_whole_range():
    z = np.concatenate([-np.geomspace(1e-9, 26, 80), [0.0, 4.999999, 5.0, 5.000001], np.geomspace(1e-9, 1e15, 300)])
    value, slope = ERFCX(jnp.asarray(z))
    assert_allclose(value, special.erfcx(z), rtol=1e-14)
    # 2 z erfcx(z) - 2/sqrt(pi) cancels above 1; the integral does not
    low = z < 1
    exact = 2 * z[low] * special.erfcx(z[low]) - 2 / np.sqrt(np.pi)
    assert_allclose(np.asarray(slope)[low], exact, rtol=1e-13)
    integral = lambda q: quad(lambda u: u * np.exp(-((u / q) ** 2) - 2 * u), 0, 30, epsabs=1e-15, epsrel=1e-13)[0]
    assert_allclose(np.asarray(slope)[~low], [-4 / np.sqrt(np.pi) / q**2 * integral(q) for q in z[~low]], rtol=1e-12)


def objective(k, s):
    """S over the root of the background of two b quarks, of two light ones, and of what remains."""
    b, l = float(EFFICIENCY(k, s, 0.150)[0]), 0.5 * special.erfc(k / np.sqrt(2))
    return b**2 / np.sqrt(0.02 * b**4 + l**2 + 0.003)


@pytest.mark.parametrize(
    ("s", "cut", "displaced", "prompt", "best"),
    [
        (0.010, 2.2360, 0.8631, 0.01268, 6.23846),
        (0.020, 2.0768, 0.7639, 0.01891, 5.78717),
        (0.040, 1.8902, 0.6226, 0.02936, 4.67764),
        (0.080, 1.6372, 0.4673, 0.05080, 2.70186),
    ],
)
def test_reference_table(s, cut, displaced, prompt, best):
    # scipy's types do not know what a minimum has
    found: Any = minimize_scalar(lambda k: -objective(k, s), bounds=(0.5, 4), method="bounded", options={"xatol": 1e-9})
    assert found.x == pytest.approx(cut, abs=6e-5)
    assert -found.fun == pytest.approx(best, abs=6e-6)
    assert float(EFFICIENCY(found.x, s, 0.150)[0]) == pytest.approx(displaced, abs=6e-5)
    assert float(prompt_efficiency(found.x)) == pytest.approx(prompt, abs=6e-6)


@given(st.floats(0.0, 6.0), st.floats(0.01, 5.0))
def test_efficiency_is_the_convolution(cut, ratio):
    # Exp(1) + N(0, ratio) above cut x ratio
    tail = lambda x: np.exp(-x) * special.ndtr(x / ratio - cut)
    expected = quad(tail, 0, 60, points=(cut * ratio,), limit=200, epsabs=1e-12)[0]
    assert float(EFFICIENCY(cut, ratio, 1.0)[0]) == pytest.approx(expected, abs=1e-9)


@given(st.floats(-8.0, 8.0), st.floats(0.0, 1e8), st.floats(1e-3, 1e3))
def test_efficiency_and_slopes_are_finite_and_ordered(cut, resolution, displacement):
    value, slopes = EFFICIENCY(cut, resolution, displacement)
    prompt = float(prompt_efficiency(cut))
    assert np.all(np.isfinite(slopes))
    # a tag never likes prompt tracks better; a few roundings
    assert prompt * (1 - 1e-12) <= float(value) <= 1 + 1e-12
    assert slopes[0] <= 1e-12


@pytest.mark.parametrize("at", [(2.0, 0.02, 0.15), (3.0, 0.5, 0.15), (1.0, 30.0, 0.15), (4.0, 1e-4, 0.15)])
def test_slopes_equal_finite_differences(at):
    slopes = EFFICIENCY(*at)[1]
    for i, slope in enumerate(slopes):
        h = 1e-3 * at[i]
        moved = lambda t, i=i, h=h: float(EFFICIENCY(*(x + t * h * (i == j) for j, x in enumerate(at)))[0])
        quotient = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
        assert float(slope) == pytest.approx(quotient, rel=1e-7, abs=1e-14 / h)


def test_perfect_resolution_keeps_all_displaced_tracks():
    value, slopes = EFFICIENCY(3.0, 0.0, 0.15)
    assert float(value) == pytest.approx(1.0, abs=1e-14)
    # to first order, tracks below k s are lost: k s/lambda of them
    assert float(slopes[1]) == pytest.approx(-3.0 / 0.15, rel=1e-3)


DECAY = jax.jit(jax.value_and_grad(decay_probability, argnums=(0, 1, 2)))


def test_best_lifetime_of_a_decay_volume():
    best = (1100.0 - 900.0) / np.log(1100 / 900)
    value, (slope, *_) = DECAY(best, 900.0, 1100.0)
    assert float(value) == pytest.approx(np.exp(-900 / best) - np.exp(-1100 / best), rel=1e-12)
    assert abs(float(slope)) < 1e-14
    assert all(float(DECAY(best * t, 900.0, 1100.0)[0]) < float(value) for t in (0.99, 1.01))
    # a thin volume at L is best for a lifetime of L
    assert abs(float(DECAY(1000.0, 1000.0, 1000.0 + 1e-3)[1][0])) < 1e-12


@pytest.mark.parametrize("length", [0.0, 1e-300, 1e-3, 1.0, 1e12])
@pytest.mark.parametrize("near", [0.0, 5.0])
def test_decay_probability_is_finite_for_any_lifetime(length, near):
    value, slopes = DECAY(length, near, 10.0)
    assert 0 <= float(value) <= 1
    assert np.all(np.isfinite(slopes))


def test_parametrised_resolution():
    assert float(impact_resolution(0.01, 0.06, 3.0)) == pytest.approx(np.hypot(0.01, 0.02))
    assert float(impact_resolution(0.0, 0.06, 3.0, eta=1.0)) == pytest.approx(0.02 * np.cosh(1.0) ** 1.5)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"displacement must be above 0, got 0\.0"):
        displaced_efficiency(1.0, 0.1, 0.0)
    with pytest.raises(ValueError, match=r"resolution must be 0 or more, got -0\.1"):
        displaced_efficiency(1.0, -0.1, 1.0)
    with pytest.raises(ValueError, match=r"the far end must be beyond the near one, got 2\.0 to 1\.0"):
        decay_probability(1.0, 2.0, 1.0)
