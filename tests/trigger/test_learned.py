"""Learned formats: rounding without logic, ranges from data, pruning, gradients, and the same function as logic."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.trigger import DenseClassifier, FixedPoint, LearnedClassifier, LearnedLinear, Quantiser, Words, trace
from diffhep.trigger.comparison import compiled, encode_words
from diffhep.trigger.learned import Granularity
from diffhep.trigger.primitive import quantise_kif

FORMAT = FixedPoint(1, 3, 6)


def linear(m, n, *, relu=True, seed=0, granularity: Granularity = "weight"):
    """A map with bits of every kind, among them none at all."""
    rng = np.random.default_rng(seed)
    made = LearnedLinear.of(
        jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(n)),
        jnp.asarray(rng.normal(size=m) / 4),
        relu=relu,
        granularity=granularity,
    )
    bits = lambda x, low, high: jnp.asarray(rng.uniform(low, high, x.shape))
    made = eqx.tree_at(lambda l: (l.weight_f, l.bias_f), made, (bits(made.weight_f, -1, 6), bits(made.bias_f, 0, 6)))
    return eqx.tree_at(lambda l: l.output.f, made, bits(made.output.f, -1, 5))


def network(sizes=(5, 7, 4, 3), *, seed=0, wrap=True, granularity: Granularity = "weight"):
    """A calibrated network of learned formats, and the words it was calibrated on."""
    layers = [
        linear(m, n, relu=number < len(sizes) - 2, seed=seed + number, granularity=granularity)
        for number, (n, m) in enumerate(itertools.pairwise(sizes))
    ]
    rng = np.random.default_rng(seed)
    source = Quantiser(jnp.zeros(sizes[0]), jnp.asarray(rng.uniform(0, 6, sizes[0])), k=1)
    made = LearnedClassifier(source, tuple(layers), tuple(range(sizes[0])), FORMAT)
    words = made.words(np.ldexp(rng.normal(size=(400, sizes[0])), range(sizes[0])))
    made = made.calibrated(words)
    return (made.wrapping() if wrap else made), words


def differences(function, words, *, events=2000, seed=0):
    """How many outputs of the logic, by da4ml's interpreter, differ from the compiled function's; and of how many."""
    traced = trace(function, words)
    formats = list(words.formats().ravel())
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(f.codes[0], f.codes[1] + 1, events) for f in formats], axis=1)
    want = compiled(function, [words])(codes)
    got = np.tile(traced.constants, (events, 1))
    values = np.ldexp(codes.astype(float), [-f.f for f in formats])
    got[:, np.isnan(traced.constants)] = traced.circuit.evaluate(values)
    assert (encode_words(values, formats) == codes).all()
    return int((got != want).sum()), want.size


# words ----------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1), st.integers(-3, 8), st.lists(st.integers(-2000, 2000), min_size=1, max_size=8))
def test_calibrated_ranges_hold_the_sample_and_no_bit_more(k, f, codes):
    x = jnp.asarray(codes, float) / 16
    made = Quantiser(jnp.zeros(()), jnp.array(float(f)), k=k).calibrated(x)
    wanted = np.floor(np.asarray(x) * 2.0**f) / 2.0**f
    wanted = np.maximum(wanted, 0) if k == 0 else wanted
    np.testing.assert_array_equal(made(x), wanted)
    np.testing.assert_array_equal(made.wrapping()(jnp.maximum(x, 0) if k == 0 else x), wanted)
    if wanted.any():
        narrower = eqx.tree_at(lambda q: q.i, made, made.i - 1)
        assert not np.array_equal(narrower(x), wanted)
    else:
        assert float(made.bits()) == 0


def test_what_is_always_zero_has_no_bits_and_margin_adds_some():
    x = jnp.array([[0.01, 3.0], [0.02, -5.0]])
    made = Quantiser(jnp.zeros(2), jnp.array([2.0, 2.0]), k=1).calibrated(x)
    assert made.bits().tolist() == [0.0, 6.0]
    assert made.calibrated(x, margin=2).bits().tolist() == [0.0, 8.0]
    layer = Quantiser(jnp.zeros(1), jnp.array([2.0]), k=1).calibrated(x)
    assert layer.bits().tolist() == [6.0]


@given(st.integers(0, 1000))
def test_rounding_is_to_the_nearest_word_though_words_are_cut_off(seed):
    layer = linear(4, 6, seed=seed, relu=seed % 2 == 0)
    u = jnp.asarray(np.random.default_rng(seed).integers(-40, 40, (30, 6)) / 8)
    layer = eqx.tree_at(lambda l: l.output, layer, layer.output.calibrated(layer.sums(u)))
    sums = u @ layer.quantised_weight().T + layer.quantised_bias()
    sums = jax.nn.relu(sums) if layer.relu else sums
    nearest = quantise_kif(sums, layer.output.k, layer.output.i, layer.output.f, "RND", "SAT")
    np.testing.assert_array_equal(layer(u), nearest)


def test_a_quantiser_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="i and f of one shape and k of 0 or 1 wanted"):
        Quantiser(jnp.zeros(2), jnp.zeros(3), k=1)
    with pytest.raises(ValueError, match="do not follow from each other"):
        LearnedClassifier(Quantiser(jnp.zeros(4), jnp.zeros(4), k=1), (linear(3, 4), linear(2, 4)), (0,) * 4, FORMAT)


# gradients ------------------------------------------------------------------------------------------------------------


def test_the_slope_in_fractional_bits_is_that_of_the_shrinking_error():
    # d(q)/d(f) = -ln 2 (q - x) with the error of rounding to the nearest, though the words are cut off
    layer = linear(4, 6, relu=False)
    u = jnp.asarray(np.random.default_rng(1).integers(-40, 40, (30, 6)) / 8)
    layer = eqx.tree_at(lambda l: l.output, layer, layer.output.calibrated(layer.sums(u)))
    with_bits = lambda f: eqx.tree_at(lambda l: l.output.f, layer, f)(u)
    exact = u @ layer.quantised_weight().T + layer.quantised_bias()
    slope = jax.jacfwd(with_bits)(layer.output.f)
    np.testing.assert_allclose(
        jnp.einsum("emm->em", slope), -np.log(2) * (np.asarray(layer(u)) - exact), rtol=1e-12, atol=1e-12
    )


def test_a_pruned_weight_is_drawn_back_by_its_whole_value():
    layer = eqx.tree_at(lambda l: l.weight_f, linear(1, 1, relu=False), jnp.array([[-4.0]]))
    assert float(layer.quantised_weight()[0, 0]) == 0.0
    slope = jax.grad(lambda f: jnp.sum(eqx.tree_at(lambda l: l.weight_f, layer, f).quantised_weight()))(layer.weight_f)
    np.testing.assert_allclose(slope, np.log(2) * layer.weight, rtol=1e-12)


def test_bits_count_straight_through_rounding():
    made = Quantiser(jnp.array([1.4, -3.0]), jnp.array([2.2, 1.0]), k=1)
    assert made.bits().tolist() == [4.0, 0.0]
    slope = jax.grad(lambda f: jnp.sum(Quantiser(made.i, f, k=1).bits()))(made.f)
    assert slope.tolist() == [1.0, 0.0]


# the classifier -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
def test_freezing_and_writing_change_no_output(granularity):
    net, words = network(granularity=granularity)
    frozen = net.frozen()
    back = LearnedClassifier.from_dict(net.to_dict())
    np.testing.assert_array_equal(frozen.logits(words), net.logits(words))
    np.testing.assert_array_equal(back.logits(words), net.logits(words))
    assert back.to_dict() == frozen.to_dict() == net.to_dict()
    x = jnp.asarray(np.ldexp(np.asarray(words), np.asarray(net.exponents)))
    np.testing.assert_array_equal(net(x), net.logits(words))


def test_wrapping_changes_nothing_on_the_sample():
    net, words = network(wrap=False)
    np.testing.assert_array_equal(net.wrapping().logits(words), net.logits(words))


def test_a_floating_network_starts_close_to_itself():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 4)) * [1, 30, 0.02, 5] + [0, 100, 0, -5]
    floating = DenseClassifier.init((4, 8, 2), key=jax.random.key(0)).standardised_to(x)
    net = LearnedClassifier.of(floating, input_format=FixedPoint(1, 4, 12), weight_f=12.0, activation_f=12.0)
    net = net.calibrated(net.words(x))
    # 12 bits behind the point in every step, and gains of order 1 between
    np.testing.assert_allclose(net(jnp.asarray(x)), floating(jnp.asarray(x)), atol=0.02)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d | {"version": 9}, "version 1 wanted, got"),
        (lambda d: {k: v for k, v in d.items() if k != "input"}, r"missing keys \['input'\]"),
        (lambda d: d | {"layers": [{}]}, "layers not understood: KeyError"),
        (lambda d: d | {"input_format": "float"}, "fixed-point type 'float' not understood"),
    ],
)
def test_a_broken_file_is_refused(spoil, message):
    with pytest.raises(ValueError, match=message):
        LearnedClassifier.from_dict(spoil(network((2, 2, 1))[0].to_dict()))


# as logic -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("da4ml")
@pytest.mark.parametrize("seed", range(4))
def test_a_network_is_exact_as_logic(seed):
    net = network(seed=seed, wrap=seed % 2 == 0)[0].frozen()
    wrong, total = differences(net.logits, Words((net.inputs,), net.input_format))
    assert (wrong, total) == (0, 2000 * 3)


@pytest.mark.needs("da4ml")
def test_sets_edges_and_patches_are_functions_of_the_same_pieces():
    phi, rho = linear(4, 3).frozen(), linear(2, 4, relu=False, seed=1).frozen()
    pool = Quantiser(jnp.full(4, 4.0), jnp.full(4, 2.0), k=0, overflow="SAT")
    edge = linear(3, 6, seed=2).frozen()

    def sets(x):
        return rho(pool(jnp.sum(phi(x), axis=0)))

    def edges(x):
        # each node against every other one, as in an edge convolution
        pairs = jnp.concatenate([jnp.repeat(x[:, None], 4, 1), x[None] - x[:, None]], axis=-1)
        return jnp.max(edge(pairs), axis=1)

    kernel = linear(2, 4, seed=3).frozen()

    def convolution(x):
        patches = jnp.stack([x[a : 3 + a, b : 2 + b] for a in (0, 1) for b in (0, 1)], axis=-1)
        return kernel(patches)

    words = Words((4, 3), FixedPoint(1, 1, 3))
    for function in (sets, edges, convolution):
        wrong, total = differences(function, words, events=500)
        assert wrong == 0
        assert total >= 500
