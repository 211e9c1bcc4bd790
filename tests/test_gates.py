"""Gates: which value and which gradient each promises."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from diffhep.gates import AbstractGate, Boundary, Hard, Score, Soft, StraightThrough

SCORES = jnp.array([-800.0, -3.0, -0.4, 0.0, 0.4, 3.0, 800.0])
WIDTH = 0.7


def gradient(gate, scores, **key):
    return jax.grad(lambda s: gate(s, **key).sum())(scores)


@given(st.floats(-1e3, 1e3, allow_subnormal=False), st.floats(0.01, 10.0))
def test_soft_is_a_logistic(score, width):
    assert float(Soft(width)(jnp.asarray(score))) == pytest.approx(expit(score / width), rel=1e-12, abs=1e-300)


def test_soft_tends_to_hard():
    off = SCORES[SCORES != 0]
    # at 0.4 and width 0.01 the logistic misses the step by exp(-40)
    assert_allclose(Soft(0.01)(off), Hard()(off), atol=5e-18)


def test_hard_accepts_where_the_score_is_positive_and_has_no_gradient():
    assert Hard()(SCORES).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert Hard()(SCORES).dtype == SCORES.dtype
    assert gradient(Hard(), SCORES).tolist() == [0.0] * 7


def test_straight_through_has_the_value_of_hard_and_the_gradient_of_soft():
    assert_allclose(StraightThrough(WIDTH)(SCORES), Hard()(SCORES), atol=1e-15)
    assert_array_equal(gradient(StraightThrough(WIDTH), SCORES), gradient(Soft(WIDTH), SCORES))


def test_boundary_has_the_value_of_hard_and_the_flux_as_gradient():
    assert_array_equal(Boundary(WIDTH)(SCORES), Hard()(SCORES))
    # events of an exponential spectrum: the share above a cut falls as the density there
    x = -np.log1p(-(np.arange(200_000) + 0.5) / 200_000) * 10.0
    kept = lambda cut: jnp.mean(Boundary(1.0)(jnp.asarray(x) - cut))
    for cut in (5.0, 20.0):
        # bias of the fourth-order kernel: h^4/8 of the fourth derivative, 1e-4/8 of the density here
        assert float(jax.grad(kept)(cut)) == pytest.approx(-np.exp(-cut / 10) / 10, rel=3e-5)


def test_smooth_boundary_is_the_integral_of_its_gradient():
    gate = Boundary(WIDTH)
    assert_array_equal(gradient(gate, SCORES), jax.grad(lambda s: gate.smooth(s).sum())(SCORES))
    assert_allclose(gate.smooth(jnp.array([-8.0, 8.0]) * WIDTH), [0.0, 1.0], atol=1e-13)


def test_score_draws_zeros_and_ones_with_the_probability_of_soft():
    scores = jnp.linspace(-2.0, 2.0, 5)
    keys = jr.split(jr.key(0), 20_000)
    drawn = jax.vmap(lambda k: Score(WIDTH)(scores, key=k))(keys)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    p = np.asarray(Soft(WIDTH)(scores))
    # four binomial standard errors
    assert np.all(np.abs(drawn.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / len(keys)))


def test_score_has_an_unbiased_gradient():
    scores = jnp.linspace(-2.0, 2.0, 5)
    draws = jax.vmap(lambda k: gradient(Score(WIDTH), scores, key=k))(jr.split(jr.key(1), 20_000))
    expected = np.asarray(gradient(Soft(WIDTH), scores))
    error = np.asarray(draws.std(0)) / np.sqrt(draws.shape[0])
    # four standard errors, and errors small enough that a missing factor would show
    assert np.all(np.abs(draws.mean(0) - expected) < 4 * error)
    assert np.all(error < 0.05 * expected)


@pytest.mark.parametrize("gate", [Soft(WIDTH), StraightThrough(WIDTH), Score(WIDTH), Hard()])
def test_gradients_are_finite_far_from_the_threshold(gate):
    for scores in (SCORES, SCORES.astype(jnp.float32)):
        assert bool(jnp.all(jnp.isfinite(gradient(gate, scores, key=jr.key(0)))))
        assert bool(jnp.all(jnp.isfinite(gate(scores, key=jr.key(0)))))


def test_score_needs_a_key():
    with pytest.raises(ValueError, match="needs key=; use Soft"):
        Score(WIDTH)(SCORES)


@pytest.mark.parametrize("gate", [Soft, StraightThrough, Score])
@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), 0])
def test_a_width_that_is_not_positive_is_refused(gate, width):
    with pytest.raises(ValueError, match="gate width must be positive, got"):
        gate(width)


@pytest.mark.parametrize("gate", [Soft, StraightThrough])
def test_widths_can_be_annealed_without_recompiling(gate):
    traces = []

    @jax.jit
    def accept(width, scores):
        traces.append(1)
        return gate(width)(scores)

    first, second = (accept(jnp.asarray(w), jnp.array([0.3])) for w in (1.0, 0.1))
    assert len(traces) == 1
    assert float(second[0]) >= float(first[0])


def test_all_gates_share_one_interface():
    for gate in (Soft(WIDTH), StraightThrough(WIDTH), Score(WIDTH), Hard()):
        assert isinstance(gate, AbstractGate)
        accepted = gate(SCORES, key=jr.key(0))
        assert accepted.shape == SCORES.shape
        assert bool(jnp.all((accepted >= 0) & (accepted <= 1)))
