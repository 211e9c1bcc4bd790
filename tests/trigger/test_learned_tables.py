"""Networks of tables: the functions, their formats and slopes, what they take, and the same function as logic."""

import json
from importlib.util import find_spec

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.trigger import (
    FixedPoint,
    LearnedTables,
    Quantiser,
    TableClassifier,
    Words,
    export_function,
    lut_model,
    verify_function,
)
from diffhep.trigger.config import TriggerTraining
from diffhep.trigger.exported import logits_of, read_network
from diffhep.trigger.labelled import five_classes
from diffhep.trigger.learned_tables import KNOTS, MOST_BITS
from diffhep.trigger.learning import fit_formats
from diffhep.trigger.resources import LutModel
from diffhep.trigger.synthesis import synthesised
from diffhep.trigger.table_calibration import LEAST, random_padded, random_tables
from diffhep.trigger.table_resources import live_tables, record, table_features
from tests.trigger.test_learned import differences
from tests.trigger.test_training import HARD

FORMAT = FixedPoint(1, 3, 6)
PLACES = np.linspace(-4, 4, KNOTS)


def layer(heights, *, f, i, word_f):
    """Tables of given heights (in, knot, out), all of them and their words in one format each."""
    n, knots, m = np.shape(heights)
    full = lambda x, *shape: jnp.full(shape, float(x))
    source = Quantiser(full(i, n), full(word_f, n), k=1)
    return LearnedTables(jnp.asarray(heights), full(f, n, m), source, full(-4, n), full(8 / (knots - 1), n))


def random_layer(seed=0, *, n=2, m=3, f=3, i=2, word_f=2):
    return layer(np.random.default_rng(seed).normal(size=(n, KNOTS, m)), f=f, i=i, word_f=word_f)


def network(seed=0, *, sizes=(4, 3)):
    """Random functions of three features, with bits of every kind, among them none at all."""
    rng = np.random.default_rng(seed)
    words = np.round(rng.normal(size=(300, 3)) * 64) / 64
    made = TableClassifier.init(words, sizes, exponents=(0, 1, -1), input_format=FORMAT, key=jr.key(seed))
    for n in range(len(sizes)):
        change = lambda x, low: x + jnp.asarray(rng.uniform(low, 1.0, x.shape))
        made = eqx.tree_at(lambda t, n=n: t.layers[n].f, made, change(made.layers[n].f, -6))
        made = eqx.tree_at(lambda t, n=n: t.layers[n].source.f, made, change(made.layers[n].source.f, -5))
    return made, jnp.asarray(words)


# functions ------------------------------------------------------------------------------------------------------------


@given(st.integers(-1, 3), st.integers(-3, 5), st.integers(-2, 8), st.integers(0, 2**32 - 1))
def test_a_table_holds_the_function_between_its_knots_on_its_grid(i, word_f, f, seed):
    made = random_layer(seed, n=1, m=1, f=f, i=i, word_f=word_f)
    word_f = min(word_f, MOST_BITS - 1 - i)
    x = np.random.default_rng(seed).normal(size=40) * 4
    words = np.clip(np.floor(x * 2.0**word_f) / 2.0**word_f, -(2.0**i), 2.0**i - 2.0**-word_f) * (1 + i + word_f > 0)
    found = np.asarray(made(jnp.asarray(x)[:, None]))[:, 0]
    codes = np.arange(-(2.0**i), 2.0**i, 2.0**-word_f) if 1 + i + word_f > 0 else np.zeros(1)
    on_grid = lambda x: np.floor(np.interp(x, PLACES, np.asarray(made.heights)[0, :, 0]) * 2.0**f + 0.5) / 2.0**f
    constant = np.ptp(on_grid(codes)) == 0
    np.testing.assert_array_equal(found, np.where(constant, 0.0, on_grid(words)))


def test_results_are_added():
    made = random_layer(n=3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2, 3)))
    alone = [eqx.tree_at(lambda t: t.heights, made, made.heights.at[np.arange(3) != j].set(0.0)) for j in range(3)]
    np.testing.assert_array_equal(made(x), sum(one(x) for one in alone))


def test_a_word_beyond_the_most_bits_loses_its_finest_ones():
    fine, most = random_layer(word_f=11), random_layer(word_f=MOST_BITS - 3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 2)))
    np.testing.assert_array_equal(fine(x), most(x))
    assert fine.word.bits().tolist() == [MOST_BITS] * 2


@pytest.mark.parametrize("seed", range(4))
def test_frozen_it_is_the_same_function(seed):
    made, words = network(seed)
    exact, wanted = made.frozen(), made.logits(words)
    assert 0 < exact.weights < 3 * 4 + 4 * 3
    np.testing.assert_array_equal(exact.logits(words), wanted)
    np.testing.assert_array_equal(exact.frozen().logits(words), wanted)
    back = TableClassifier.from_dict(json.loads(json.dumps(exact.to_dict())))
    np.testing.assert_array_equal(back.logits(words), wanted)
    assert back.to_dict() == exact.to_dict()
    for one, other in zip(made.layers, back.layers, strict=True):
        np.testing.assert_array_equal(one.bits(), other.bits())
    assert read_network(exact.to_dict()).to_dict() == exact.to_dict()


def test_a_feature_far_from_zero_keeps_its_codes_and_a_rare_one_its_values():
    rng = np.random.default_rng(0)
    masses = np.round((91.2 + 2 * rng.normal(size=4000)) * 16) / 16
    flag = (np.arange(4000) < 3).astype(float)
    words = np.stack([masses, flag, np.full(4000, 5.0)], axis=1)
    made = TableClassifier.init(
        words, (2,), exponents=(0, 0, 0), input_format=FixedPoint(1, 8, 4), result_f=8.0, key=jr.key(0)
    )
    assert abs(made.offsets[0] - 91.2) < 0.5
    assert made.offsets[1:] == (0.0, 5.0)
    seen = made.layers[0].word(jnp.asarray(words) - jnp.asarray(made.offsets))
    assert [len(np.unique(column)) for column in np.asarray(seen).T] == [len(np.unique(seen[:, 0])), 2, 1]
    assert len(np.unique(seen[:, 0])) > 60
    exact = TableClassifier.from_dict(made.to_dict())
    np.testing.assert_array_equal(exact.logits(jnp.asarray(words)), made.logits(jnp.asarray(words)))
    if find_spec("da4ml"):
        assert differences(exact.logits, Words((3,), made.input_format))[0] == 0


def test_features_arrive_in_their_scales():
    made, words = network()
    x = np.ldexp(np.asarray(words), [0, 1, -1])
    np.testing.assert_array_equal(made(jnp.asarray(x)), made.logits(words))


# slopes ---------------------------------------------------------------------------------------------------------------


def test_the_slope_in_a_height_is_its_share_of_the_words():
    made = random_layer(n=1, m=1, word_f=2)
    x = jnp.array([[0.30], [1.9], [9.0]])  # words 0.25, 1.75 and 3.75, between knots every 0.5
    slope = jax.grad(lambda h: jnp.sum(eqx.tree_at(lambda t: t.heights, made, h)(x)))(made.heights)[0, :, 0]
    wanted = np.zeros(KNOTS)
    for at in (0.25, 1.75, 3.75):
        wanted += np.maximum(1 - np.abs(at - PLACES) / 0.5, 0)
    np.testing.assert_allclose(slope, wanted, atol=1e-15)


def test_the_slope_in_the_bits_of_a_result_is_that_of_its_error():
    made = random_layer(n=1, m=1, word_f=1)
    x = jnp.array([[0.6], [2.2]])
    slope = jax.grad(lambda f: jnp.sum(eqx.tree_at(lambda t: t.f, made, f)(x)))(made.f)
    true = np.interp([0.5, 2.0], PLACES, np.asarray(made.heights)[0, :, 0])
    np.testing.assert_allclose(float(slope[0, 0]), -np.log(2) * np.sum(np.asarray(made(x))[:, 0] - true), rtol=1e-12)


def test_the_slope_in_a_word_is_that_of_the_function_over_one_step():
    made = random_layer(n=2, m=3, f=20, word_f=1)
    x = jnp.array([0.6, -1.2])
    slope = jax.jacobian(made)(x)
    words, h = np.array([0.5, -1.5]), np.asarray(made.heights)
    at = lambda j, m, shift: np.interp(words[j] + shift, PLACES, h[j, :, m])
    wanted = [[(at(j, m, 0.25) - at(j, m, -0.25)) / 0.5 for j in range(2)] for m in range(3)]
    np.testing.assert_allclose(slope, wanted, rtol=1e-12)


# what it takes --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=2))
def test_the_bits_of_a_result_are_those_that_hold_every_value(ends):
    low, high = sorted(ends)
    heights = np.interp(PLACES, [-4, 4], [low, high])[None, :, None]
    # words reach from -4 to 3.5: the last step but one of the function
    made = layer(heights, f=0, i=2, word_f=1)
    values = np.unique(np.asarray(made.results()))
    fits = lambda k, bits: -k * 2**bits <= values.min() and values.max() <= 2**bits - 1
    wanted = min(k + bits for k in (0, 1) for bits in range(8) if fits(k, bits))
    assert float(made.bits()[0, 0]) == (wanted if len(values) > 1 else 0)


def test_what_is_fed_by_nothing_or_read_by_nothing_is_not_counted():
    made, _ = network()
    some = lambda layer, value, where: eqx.tree_at(lambda t: t.heights, layer, layer.heights.at[where].set(value))
    first, second = made.layers[0], eqx.tree_at(lambda t: t.f, made.layers[1], jnp.full((4, 3), 3.0))
    fine = eqx.tree_at(lambda t: (t.f, t.source.f), first, (jnp.full((3, 4), 3.0), jnp.full(3, 3.0)))
    second = eqx.tree_at(lambda t: t.source.f, second, jnp.full(4, 3.0))
    unread, unfed = some(second, 0.0, np.s_[1]), some(fine, 0.0, np.s_[:, :, 2])
    net = TableClassifier((unfed, unread), made.exponents, made.offsets, FORMAT)
    a, b = live_tables(net)
    np.testing.assert_array_equal(a, np.broadcast_to([True, False, False, True], (3, 4)))
    np.testing.assert_array_equal(b, np.broadcast_to([[True], [False], [False], [True]], (4, 3)))
    assert float(table_features(net).tables.sum()) == sum(
        float(jnp.where(live, layer.bits(), 0).sum()) for layer, live in zip(net.layers, (a, b), strict=True)
    )


def test_the_model_falls_with_every_bit_and_its_slopes_are_finite():
    made, _ = network(3)
    model = lut_model()
    cost = eqx.filter_jit(model.luts)
    slope = eqx.filter_jit(eqx.filter_grad(model.luts))(made)
    for leaf in jax.tree.leaves(eqx.filter(slope, eqx.is_inexact_array)):
        assert bool(jnp.isfinite(leaf).all())
    assert float(slope.layers[0].f.max()) > 0
    assert float(slope.layers[0].source.f.max()) > 0
    fewer = eqx.tree_at(lambda t: [layer.f for layer in t.layers], made, [layer.f - 1 for layer in made.layers])
    assert 0 < float(cost(fewer)) < float(cost(made))


@pytest.mark.parametrize("word_f", [3, 4, 6])
def test_the_price_of_a_word_falls_with_its_bits(word_f):
    # 4 fractional bits are as many as a word may have, 6 more than that
    first = random_layer(n=3, m=2, f=4, word_f=word_f)
    net = TableClassifier((first,), (0,) * 3, (0.0,) * 3, FORMAT)
    model = lut_model()
    assert float(eqx.filter_grad(model.luts)(net).layers[0].source.f.min()) > 0
    loss = lambda net: jnp.sum(net.logits(jnp.array([[0.3, -1.2, 2.1]])) ** 2)
    assert float(jnp.abs(eqx.filter_grad(loss)(net).layers[0].source.f).min()) > 0
    fewer = eqx.tree_at(lambda t: t.layers[0].source.f, net, jnp.full(3, min(word_f, 4) - 1.0))
    assert float(model.luts(fewer)) < float(model.luts(net))


def test_a_model_without_tables_says_so():
    bare = eqx.tree_at(lambda m: m.tables, lut_model(), None)
    assert isinstance(bare, LutModel)
    with pytest.raises(ValueError, match="not fitted to networks of tables"):
        bare.luts(network()[0])


def test_the_shipped_constants_do_on_networks_held_out_what_is_said_of_them():
    shipped, model = record(), lut_model()
    first = shipped["networks"]["first_held_out"]
    held = [row for row in shipped["counted"] if row["seed"] >= first and row["luts"] >= LEAST]
    assert len(held) == shipped["networks"]["held_out"]
    count = eqx.filter_jit(model.luts)
    luts = np.array([float(count(random_padded(row["seed"])[0])) for row in held])
    off = np.abs(luts / np.array([row["luts"] for row in held]) - 1)
    np.testing.assert_allclose(np.median(off), shipped["held_out"]["luts"]["median"], rtol=1e-6)
    np.testing.assert_allclose(np.quantile(off, 0.95), shipped["held_out"]["luts"]["p95"], rtol=1e-6)


@pytest.mark.long
@pytest.mark.needs("da4ml", "yosys")
def test_yosys_counts_what_was_recorded():
    row = next(row for row in record()["counted"] if row["seed"] == 1)
    logits = logits_of(random_tables(1))
    found = synthesised(logits.function, logits.words, levels_per_stage=5)
    assert (found["cost"], found["levels"]) == (row["cost"], row["levels"])
    # releases of yosys differ by some per cent
    assert abs(found["luts"] / row["luts"] - 1) < 0.1


# logic ----------------------------------------------------------------------------------------------------------------


def test_channels_without_bits_change_no_feature():
    for seed in (0, 3):
        small, large = table_features(random_tables(seed)), table_features(random_padded(seed)[0])
        for one, other in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.needs("da4ml")
@pytest.mark.parametrize("seed", range(3))
def test_the_logic_is_the_same_function(seed):
    made = random_tables(seed)
    wrong, compared = differences(made.logits, Words((made.inputs,), made.input_format))
    assert compared > 0
    assert wrong == 0


@pytest.mark.needs("da4ml", "verilator", "g++")
def test_c_simulation_and_verilog_agree_with_jax(tmp_path):
    made = network(5)[0].frozen()
    export_function(made.logits, tmp_path / "project", inputs=[Words((3,), FORMAT)], name="tables")
    found = verify_function(tmp_path / "project", made.logits, n=20_000)
    assert (found["inputs"], found["mismatches"], found["missing"]) == (20_000, 0, {})


# training -------------------------------------------------------------------------------------------------------------


def training(**network):
    return TriggerTraining.model_validate(
        {
            "network": {"kind": "tables", **network},
            "schedule": {"warm_up": 40, "ramp": 80, "polish": 60, "batch": 256, "checkpoint": 20, **HARD},
            "firmware": {"budget": 300.0},
        }
    )


def test_tables_are_trained_and_keep_a_budget():
    front, data = fit_formats(training(hidden=[6]), five_classes(4000, seed=0))
    costs = [member.cost for member in front]
    assert costs == sorted(costs, reverse=True)
    assert max(member.accuracy for member in front) > 0.5  # 0.2 by guessing
    # what the ramp left is larger
    assert min(costs) <= 300
    assert front[-1].accuracy > 0.4
    member = front[-1]
    # what is exported passes through a file
    np.testing.assert_array_equal(
        read_network(member.network.to_dict()).logits(data.judge[0][:100].astype(float)),
        member.network.logits(data.judge[0][:100].astype(float)),
    )
    assert float(lut_model().luts(read_network(member.network.to_dict()))) == pytest.approx(member.cost)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"kind": "tables", "overflow": "CLIP"}}, "overflow is of dense networks"),
        ({"network": {"kind": "tables", "granularity": "layer"}}, "granularity is of dense networks"),
        ({"network": {"kind": "tables"}, "schedule": {"cost": "ebops"}}, "tables are counted in LUTs"),
        ({"network": {"kind": "tables", "margin": 1}}, "overflow must be 'WRAP' or 'CLIP'"),
        ({"network": {"margin": 1}}, "overflow must be 'WRAP' or 'CLIP'"),
        ({"network": {"kind": "tables", "weight_bits": -1}}, "weight_bits of at least 0"),
        ({"network": {"kind": "tables", "activation_bits": 5}}, "activation_bits of at most 4"),
        ({"network": {"kind": "trees"}}, "'dense' or 'tables'"),
    ],
)
def test_settings_that_do_not_go_with_tables_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TriggerTraining.model_validate(changes)


def test_broken_tables_are_refused():
    good = network()[0].to_dict()
    for change, message in (
        ({"version": 2}, "version 2"),
        ({"layers": [{}]}, "layers not understood: KeyError"),
        ({"offsets": [0.3, 0, 0]}, "offsets on the grid"),
        ({"layers": good["layers"][:1] * 2}, "do not follow from each other"),
    ):
        with pytest.raises(ValueError, match=message):
            TableClassifier.from_dict(good | change)
    made = random_layer()
    with pytest.raises(ValueError, match="words with a sign"):
        LearnedTables(made.heights, made.f, Quantiser(made.source.i, made.source.f, k=0), made.low, made.spacing)
    with pytest.raises(ValueError, match="do not go with shapes"):
        LearnedTables(made.heights, made.f[:, :1], made.source, made.low, made.spacing)
