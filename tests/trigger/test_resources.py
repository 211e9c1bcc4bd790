"""What logic takes: digits and EBOPs by counting, the model of lookup tables against what yosys counted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.trigger.calibration import errors, padded, random_classifier, random_padded
from diffhep.trigger.exported import logits_of
from diffhep.trigger.learned import LearnedLinear, Quantiser
from diffhep.trigger.resources import (
    Load,
    alive,
    calibration_record,
    digit_slope,
    ebops,
    features_of,
    loads,
    lut_model,
    ones_of,
    signed_digits,
    weights_of,
)
from diffhep.trigger.synthesis import synthesised
from tests.trigger.test_learned import network


@given(st.integers(-(2**28), 2**28))
def test_signed_digits_are_the_fewest(number):
    # Reitwiesner's recoding, digit by digit
    n, count = abs(number), 0
    while n:
        if n % 2:
            count += 1
            n -= 2 - n % 4
        n //= 2
    assert int(signed_digits(jnp.array(number))) == count


def test_the_slope_of_the_digits_is_that_of_their_mean():
    # weights of a log-uniform magnitude: one bit more for all of them, in steps of 1/4 bit
    rng = np.random.default_rng(0)
    size = rng.uniform(-0.5, 0.5, 40_000)
    at = lambda x: np.asarray(signed_digits(jnp.asarray(np.floor(2.0 ** (size + x) + 0.5), jnp.int32))).mean()
    steps = np.arange(-3, 8, 0.25)
    slope = np.diff([at(x) for x in steps]) / 0.25
    middle = (steps[1:] + steps[:-1]) / 2
    model = np.array([np.asarray(digit_slope(jnp.asarray(size + x))).mean() for x in middle])
    # the first digit lasts over one bit and a half, while the model hands out the next one evenly: half a digit ahead
    np.testing.assert_allclose(np.cumsum(model) * 0.25, np.cumsum(slope) * 0.25, atol=0.5)
    # over many bits it is the slope that counts
    np.testing.assert_allclose(model[-16:].mean(), slope[-16:].mean(), rtol=0.1)


def test_ebops_count_the_bits_between_the_outer_ones():
    net = network()[0].frozen()
    total = 0
    for load in loads(net):
        bits = np.asarray(load.source.bits())
        for (_, n), w in np.ndenumerate(np.asarray(load.linear.quantised_weight())):
            numerator, _ = abs(float(w)).as_integer_ratio()
            while numerator and numerator % 2 == 0:
                numerator //= 2
            total += numerator.bit_length() * bits[n]
    assert float(eqx.filter_jit(ebops)(net)) == total > 0


def test_a_weight_that_is_fed_by_nothing_or_read_by_nothing_is_not_counted():
    net = network((4, 5, 3))[0].frozen()
    second = net.layers[1]
    deaf = eqx.tree_at(lambda l: l.weight, second, second.weight.at[:, 2].set(0.0))
    unread = eqx.tree_at(lambda n: n.layers, net, (net.layers[0], deaf))
    assert not bool(alive(loads(unread))[0].outputs[2])
    without = eqx.tree_at(lambda l: l.weight, net.layers[0], net.layers[0].weight.at[2].set(0.0))
    removed = eqx.tree_at(lambda n: n.layers, net, (without, deaf))
    # a channel without weights is a constant, its bias: what reads it takes nothing either
    assert not bool(alive(loads(removed))[1].inputs[2])
    luts = eqx.filter_jit(lut_model().luts)
    np.testing.assert_allclose(luts(unread), luts(removed), rtol=1e-12)
    assert float(luts(unread)) < float(luts(net))


@pytest.mark.parametrize("wrap", [True, False])
def test_channels_without_bits_change_no_feature(wrap):
    net = network((3, 4, 2), wrap=wrap)[0].frozen()
    for one, other in zip(features_of(net), features_of(padded(net, 6)), strict=True):
        np.testing.assert_allclose(jax.tree.leaves(one), jax.tree.leaves(other), rtol=1e-12, atol=1e-12)


def test_copies_of_a_map_add_up():
    net = network((3, 4, 2))[0].frozen()
    model, chain = lut_model(), loads(net)
    several = [Load(chain[0].source, chain[0].linear, copies=5), chain[1]]
    one, two = (model.luts_of(found) for found in features_of(net))
    np.testing.assert_allclose(model.luts(several), 5 * one + two, rtol=1e-12)
    assert float(ebops(several)) > float(ebops(net))


def test_more_bits_cost_more_by_about_what_the_slope_says():
    net = network((8, 16, 8), seed=4)[0]
    model = lut_model()

    def moved(delta):
        layers = tuple(eqx.tree_at(lambda l: l.weight_f, layer, layer.weight_f + delta) for layer in net.layers)
        return eqx.tree_at(lambda n: n.layers, net, layers)

    value = jax.jit(lambda delta: model.luts(moved(delta)))
    slope = jax.jit(jax.grad(value))
    slopes = [float(slope(delta)) for delta in np.linspace(-0.5, 0.5, 11)]
    assert min(slopes) > 0
    # the change over a whole bit, and the mean of the slopes on the way: a mean over 256 weights
    np.testing.assert_allclose(np.mean(slopes), float(value(0.5) - value(-0.5)), rtol=0.25)


def test_gradients_reach_all_bits_and_are_finite():
    net = network((4, 6, 2))[0]
    for cost in (lut_model().luts, lut_model().depth, ebops):
        slope = eqx.filter_jit(eqx.filter_grad(cost))(net)
        for leaf in jax.tree.leaves(slope):
            assert bool(jnp.isfinite(leaf).all())
        assert float(jnp.abs(slope.layers[0].weight_f).max()) > 0


def test_weights_that_round_to_nothing_have_neither_digits_nor_bits():
    layer = LearnedLinear.of(jnp.array([[0.2, 0.9]]), jnp.zeros(1), relu=False, weight_f=0.0)
    found = weights_of(layer)
    assert found.digits.tolist() == [[0.0, 1.0]]
    assert found.enclosed.tolist() == [[0.0, 1.0]]


def test_the_shipped_constants_do_on_networks_held_out_what_is_said_of_them():
    # the recorded counts of some of them, against the model as it is now
    record, model = calibration_record(), lut_model()
    held = [row for row in record["counted"] if row["seed"] >= record["networks"]["first_held_out"]]
    assert len(held) == record["networks"]["held_out"]
    luts, some = eqx.filter_jit(model.luts), held[:20]
    found = np.array([float(luts(random_padded(row["seed"])[0])) for row in some])
    assert errors(found, np.array([row["luts"] for row in some]))["largest"] <= record["held_out"]["luts"]["largest"]
    assert record["held_out"]["luts"]["median"] < record["held_out"]["luts_by_ebops"]["median"] / 1.5


def test_a_constant_takes_what_bits_are_set_in_it():
    # weight 1 on a word of 4 bits, and constants 3, -1 and 1/16: two bits, all five of the sum, and nothing but wiring
    source, output = (Quantiser(jnp.full(n, i), jnp.zeros(n), k=k) for n, i, k in ((1, 4.0, 0), (3, 6.0, 1)))
    bias = jnp.array([3.0, -1.0, 1 / 16]) - 0.5
    layer = LearnedLinear(jnp.ones((3, 1)), bias, jnp.zeros((3, 1)), jnp.full(3, 4.0), output, relu=False)
    found = ones_of(layer, finest=jnp.zeros(3), width=jnp.full(3, 5.0))
    assert found.tolist() == [2.0, 5.0, 0.0]
    # sums up to 19 have six bits with their sign
    (all_of_it,) = features_of([Load(source, layer)])
    assert float(all_of_it.ones) == 2.0 + 6.0


def test_the_sign_of_a_digit_is_that_of_its_place():
    # 7 = 8 - 1, -7 = 1 - 8 and -3 = 1 - 4 have a positive digit; -5 = -4 - 1, -1 and 0 have none
    weight = jnp.array([[7.0, -7.0, -3.0, 5.0, -5.0, -1.0, 0.0]])
    layer = LearnedLinear.of(weight, jnp.zeros(1), relu=False, weight_f=0.0)
    assert weights_of(layer).adds.tolist() == [[True, True, True, True, False, False, False]]


def test_a_word_of_one_bit_times_a_constant_is_wiring():
    output = Quantiser(jnp.full(1, 6.0), jnp.zeros(1), k=1)
    made = lambda weight: LearnedLinear(weight, jnp.zeros(1), jnp.zeros((1, 2)), jnp.zeros(1), output, relu=False)
    of_bits = lambda bits: Quantiser(jnp.full(2, bits), jnp.zeros(2), k=0)
    found = lambda bits, weight: features_of([Load(of_bits(bits), made(jnp.array(weight)))])[0]
    # 5 = 4 + 1 has two digits, with words of two bits and more
    assert [float(found(bits, [[5.0, 0.0]]).digits) for bits in (1.0, 2.0)] == [1.0, 2.0]
    assert [float(found(bits, [[5.0, 5.0]]).bits) for bits in (1.0, 2.0)] == [2.0, 8.0]
    # and one word of a sum is not added to anything
    assert float(found(2.0, [[1.0, 0.0]]).products) == 0.0
    assert float(found(2.0, [[1.0, 1.0]]).products) == 2.0


def test_a_word_that_is_cut_off_whole_does_not_pay_for_another_one():
    def cost(f):
        output = Quantiser(jnp.array([9.0 - f, 8.0]), jnp.array([f - 8.0, 0.0]), k=1)
        weight = jnp.array([[3.0, 5.0], [7.0, 5.0]])
        layer = LearnedLinear(weight, jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros(2), output, relu=False)
        return float(lut_model().luts([Load(Quantiser(jnp.full(2, 3.0), jnp.zeros(2), k=0), layer)]))

    # sums of six bits: beyond them there is nothing left to cut off
    assert cost(0) == cost(-20) == cost(-50) > 0


@pytest.mark.long
@pytest.mark.needs("da4ml", "yosys")
def test_yosys_counts_what_was_recorded():
    row = next(row for row in calibration_record()["counted"] if row["seed"] == 5)
    logits = logits_of(random_classifier(5))
    found = synthesised(logits.function, logits.words, levels_per_stage=5)
    assert (found["cost"], found["levels"]) == (row["cost"], row["levels"])
    # releases of yosys differ by some per cent
    assert abs(found["luts"] / row["luts"] - 1) < 0.1
    assert abs(round(float(lut_model().depth(random_padded(5)[0]))) - found["levels"]) <= 3
