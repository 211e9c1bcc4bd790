"""Quantisation as one primitive: one equation, every transformation, and the surrogate derivatives written down."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffhep.trigger import FixedPoint, quantise, quantise_kif
from diffhep.trigger.modes import OVERFLOWS, ROUNDINGS

LN2 = math.log(2)


def test_it_is_one_equation_whatever_the_format():
    for bits in ((1, 3, 4), (1, np.arange(3), 4 - np.arange(3)), (jnp.array(1), 3, jnp.linspace(2.0, 4.0, 3))):
        jaxpr = jax.make_jaxpr(lambda x, bits=bits: quantise_kif(x, *bits))(jnp.zeros(3))
        assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["quantise"]
        mapped = jax.make_jaxpr(jax.vmap(lambda x, bits=bits: quantise_kif(x, *bits)))(jnp.zeros((5, 3)))
        assert [eqn.primitive.name for eqn in mapped.eqns] == ["quantise"]
        assert mapped.out_avals[0].shape == (5, 3)


def test_every_mode_is_a_parameter_of_the_equation():
    for modes in itertools.product(ROUNDINGS, OVERFLOWS):
        (eqn,) = jax.make_jaxpr(lambda x, modes=modes: quantise_kif(x, 1, 3, 4, *modes))(0.0).eqns
        assert (eqn.params["rounding"], eqn.params["overflow"]) == modes


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(None, 0), (0, None), (1, 0), (0, 1)]))
def test_batching_aligns_operands_of_any_rank(seed, axes):
    rng = np.random.default_rng(seed)
    draw = lambda shape, axis, f: f(shape if axis is None else tuple(np.insert(shape, axis, 3)))
    x = draw((4, 2), axes[0], lambda s: rng.normal(size=s) * 4)
    f = draw((2,), axes[1], lambda s: rng.integers(0, 5, s))
    mapped = jax.vmap(lambda x, f: quantise_kif(x, 1, 2, f), in_axes=axes)(x, f)
    one = lambda array, axis, n: array if axis is None else np.take(array, n, axis)
    for n in range(3):
        np.testing.assert_array_equal(mapped[n], quantise_kif(one(x, axes[0], n), 1, 2, one(f, axes[1], n)))


def test_transformations_compose():
    x, f = jnp.linspace(-9.0, 9.0, 12).reshape(3, 4) + 0.01, jnp.array([1.0, 2.0, 3.0, 4.0])
    loss = lambda x, f: jnp.sum(quantise_kif(x, 1, 2, f) ** 3)
    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=1), in_axes=(0, None)))(x, f)
    forward = jax.jit(jax.jacfwd(loss, argnums=1))
    for row, slope in zip(x, mapped, strict=True):
        # forwards or backwards, a product of three factors is rounded once or twice
        np.testing.assert_allclose(forward(row, f), slope, rtol=1e-14)
    # of a staircase with straight-through slopes, only the outer square and its like are left: 6 q (dq/dx)^2
    second = jax.grad(jax.grad(lambda v: quantise_kif(v, 1, 2, 3) ** 3))(1.03)
    assert float(second) == 6 * float(quantise_kif(1.03, 1, 2, 3))
    # and in the numbers of bits, forwards over backwards, backwards over backwards, and mapped
    bits = [jax.jacfwd(jax.grad(loss, argnums=1), argnums=1), jax.jacrev(jax.grad(loss, argnums=1), argnums=1)]
    one, other = (jax.vmap(jax.jit(hessian), in_axes=(0, None))(x, f) for hessian in bits)
    np.testing.assert_allclose(one, other, rtol=1e-13)
    assert float(jnp.abs(one).max()) > 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_type_of_the_values_is_kept(dtype):
    x = jnp.asarray([0.3, 9.0], dtype)
    out, tangent = jax.jvp(lambda v, f: quantise_kif(v, 1, 3, f), (x, jnp.float64(4)), (x, jnp.float64(1)))
    assert (out.dtype, tangent.dtype) == (dtype, dtype)


# learned numbers of bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounding", "overflow"), [*((r, "SAT") for r in ROUNDINGS), *(("RND", o) for o in OVERFLOWS[1:])]
)
def test_slope_in_fractional_bits_is_minus_ln2_times_the_error(rounding, overflow):
    x = jnp.linspace(-3.9, 3.9, 40)
    f = jnp.full(40, 3.0)
    slope = jax.grad(lambda f: quantise_kif(x, 1, 2, f, rounding, overflow).sum())(f)
    error = quantise_kif(x, 1, 2, 3, rounding, overflow) - x
    inside = abs(x) < 3.8  # every mode keeps these values
    np.testing.assert_allclose(slope[inside], -LN2 * error[inside], rtol=1e-14, atol=1e-16)


def test_slopes_where_the_value_is_clipped_are_those_of_the_ends():
    value = lambda x, i, f, overflow: quantise_kif(x, 1, i, f, "RND", overflow)
    slopes = jax.grad(value, argnums=(0, 1, 2))
    step = 2.0**-4
    # the ends are 2^i - 2^-f and -2^i, or its mirror image
    assert slopes(9.0, 3.0, 4.0, "SAT") == pytest.approx((0, LN2 * 8, LN2 * step))
    assert slopes(-9.0, 3.0, 4.0, "SAT") == pytest.approx((0, -LN2 * 8, 0))
    assert slopes(-9.0, 3.0, 4.0, "SAT_SYM") == pytest.approx((0, -LN2 * 8, -LN2 * step))
    assert slopes(9.0, 3.0, 4.0, "SAT_ZERO") == (0, 0, 0)
    # wrapping adds a multiple of the period, which f does not move
    assert slopes(9.02, 3.0, 4.0, "WRAP") == pytest.approx((1, 0, LN2 * 0.02))


@pytest.mark.parametrize("side", [1, -1])
def test_slope_in_integer_bits_is_that_of_the_range(side):
    # the ends at i = 3 and i = 2 and i = 4: the slope lies between the two differences, as that of 2^i does
    end = lambda i: float(quantise_kif(side * 100.0, 1, i, 4))
    slope = float(jax.grad(lambda i: quantise_kif(side * 100.0, 1, i, 4))(3.0))
    low, high = sorted((abs(end(3) - end(2)), abs(end(4) - end(3))))
    assert low < abs(slope) < high
    assert np.sign(slope) == side


def test_a_word_without_bits_is_drawn_back():
    slope = jax.grad(lambda x, f: quantise_kif(x, 1, 0, f), argnums=(0, 1))(0.3, -1.0)
    assert slope == pytest.approx((0, LN2 * 0.3))


def test_numbers_of_bits_are_rounded_to_the_nearest():
    for f, whole in ((3.49, 3), (3.5, 4), (-0.5, 0), (-0.6, -1)):
        assert float(quantise_kif(0.9, 1, 2, f)) == float(quantise_kif(0.9, 1, 2, whole))


def test_bits_are_learned_where_they_matter():
    # weights that need few bits and weights that need many, under a price per bit: HGQ in small
    target = jnp.array([0.5, -0.25, 0.37109375, -0.62890625])
    weight = jnp.array([1.0, 1.0, 1.0, 1.0])

    def loss(f):
        errors = weight * (quantise_kif(target, 1, 0, f) - target)
        return 1e3 * jnp.sum(errors**2) + 0.02 * jnp.sum(jnp.maximum(1 + f, 0))

    optimiser = optax.adam(0.05)

    def step(carry, _):
        f, state = carry
        update, state = optimiser.update(jax.grad(loss)(f), state)
        return (optax.apply_updates(f, update), state), None

    start = jnp.full(4, 6.0)
    (f, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), length=400)
    bits = np.floor(np.asarray(f) + 0.5)
    assert (bits[:2] < bits[2:]).all()
    assert (bits[:2] >= [1, 2]).all()
    assert loss(f) < loss(start)


def test_per_channel_formats_get_a_gradient_of_their_own_shape():
    x = jax.random.normal(jax.random.key(0), (50, 3))
    slope = jax.grad(lambda f: jnp.sum(quantise_kif(x, 1, 3, f) ** 2))(jnp.array([1.0, 3.0, 6.0]))
    errors = quantise_kif(x, 1, 3, np.array([1, 3, 6])) - x
    want = (2 * (x + errors) * -LN2 * errors).sum(axis=0)
    # sums of 50 products, float64
    np.testing.assert_allclose(slope, want, rtol=1e-12)


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantise_kif(jnp.arange(3), 1, 3, 4), "floating-point values wanted, got int64"),
        (lambda: quantise_kif(0.5, np.ones(2), 3, 4), "k must be an integer"),
        (lambda: quantise_kif(0.5, 1, 3, 4, "ROUND"), "rounding must be one of RND, .* got 'ROUND'"),  # type: ignore[arg-type]
        (lambda: quantise_kif(0.5, 1, 3, 4, "RND", "CLIP"), "overflow must be one of SAT, .* got 'CLIP'"),  # type: ignore[arg-type]
        (lambda: quantise(jnp.zeros(2, jnp.float32), FixedPoint(1, 3, 26)), "30 bits, float32 holds 24"),
    ],
)
def test_bad_operands_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_symmetric_words_of_one_bit_are_as_in_the_vendors_headers():
    format = FixedPoint(1, 0, 0, "TRN", "SAT_SYM")
    assert (format.minimum, format.maximum) == (-1.0, 0.0)
    assert quantise(jnp.array([-7.0, -0.5, 0.5, 7.0]), format).tolist() == [-1, -1, 0, 0]
    assert FixedPoint(1, 3, 4, "RND", "SAT_SYM").minimum == -FixedPoint(1, 3, 4).maximum
