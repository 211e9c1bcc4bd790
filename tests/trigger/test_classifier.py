"""The classifier: floating point, fixed point and integers agree; files read back; bad input is refused."""

import itertools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from diffhep.parameters import split
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.fixed_point import FixedPoint, decode
from diffhep.trigger.quantised import LayerFormat, QuantisedClassifier, quantised

INPUT = FixedPoint(1, 3, 6)


def sample(inputs, events=400, seed=0):
    """Correlated features of very different spreads, with offsets of about one spread."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(events, inputs)) @ (np.eye(inputs) + 0.3 * rng.normal(size=(inputs, inputs)))
    return (mixed + rng.normal(size=inputs)) * np.ldexp(1.0, rng.integers(-3, 6, inputs))


def make(sizes=(4, 6, 1), seed=0, bits=8, **options):
    x = sample(sizes[0], seed=seed)
    classifier = DenseClassifier.init(sizes, key=jax.random.key(seed)).standardised_to(x)
    settings = {"input_format": INPUT, "weight_bits": bits, "activation_bits": bits} | options
    return classifier, quantised(classifier, calibration_inputs=x, **settings), x


# floating point -------------------------------------------------------------------------------------------------------


def test_the_network_is_affine_layers_with_relu_between():
    weights = (jnp.array([[1.0, -2.0], [0.5, 0.25]]), jnp.array([[2.0, -4.0]]))
    biases = (jnp.array([0.0, -1.0]), jnp.array([0.125]))
    classifier = DenseClassifier(weights, biases, (1, -2), (0.5, 1.0))
    # u = (x0 / 2 - 0.5, 4 x1 - 1) = (2.5, 1); hidden (0.5, 1.5 - 1); logit 1 - 2 + 0.125
    assert classifier(jnp.array([6.0, 0.5])).tolist() == [-0.875]


def test_any_leading_shape_gives_the_same_logits():
    classifier, model, x = make()
    shaped = x[:24].reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(model(shaped), model(x[:24]).reshape(2, 3, 4, 1))
    np.testing.assert_array_equal(model(x[0]), model(x[:24])[0])
    np.testing.assert_array_equal(model.integers(shaped), model.integers(x[:24]).reshape(2, 3, 4, 1))
    # floating-point sums of 4 and 6 products of order 1, in another order
    np.testing.assert_allclose(classifier(shaped), classifier(x[:24]).reshape(2, 3, 4, 1), atol=1e-13)


def test_standardisation_brings_every_spread_near_one_and_every_mean_to_zero():
    x = sample(7, seed=3)
    classifier = DenseClassifier.init((7, 1), key=jax.random.key(0)).standardised_to(x)
    u = np.ldexp(x, -np.array(classifier.exponents)) - np.array(classifier.offsets)
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=1e-12)
    assert (u.std(axis=0) >= 2**-0.5 - 1e-9).all()
    assert (u.std(axis=0) <= 2**0.5 + 1e-9).all()


def test_a_constant_feature_keeps_its_scale():
    classifier = DenseClassifier.init((2, 1), key=jax.random.key(0)).standardised_to(np.array([[3.0, 1.0], [3.0, 5.0]]))
    assert classifier.exponents == (0, 1)
    assert classifier.offsets == (3.0, 1.5)


def test_offsets_fold_into_the_first_bias():
    classifier, _, x = make()
    folded = DenseClassifier(classifier.weights, classifier.folded_biases(), classifier.exponents, (0.0,) * 4)
    # sums of 4 products of order 10 in float64
    np.testing.assert_allclose(folded(x), classifier(x), atol=1e-12)


def test_initial_weights_have_the_variance_of_he():
    weights = DenseClassifier.init((100, 400, 1), key=jax.random.key(1)).weights[0]
    # relative standard error of a variance of 40,000 normal numbers: sqrt(2 / 40000) = 0.007
    assert float(weights.var()) == pytest.approx(2 / 100, rel=5 * 0.0071)


# fixed point ----------------------------------------------------------------------------------------------------------


@st.composite
def models(draw):
    """Random networks with random formats of every mode, not only those that `quantised` makes."""
    sizes = (4, 4, 4)  # few shapes of arrays: each is compiled once for each mode
    modes = list(itertools.product(("RND", "TRN"), ("SAT", "WRAP")))

    def format(k):
        width = draw(st.integers(2, 14))
        i = draw(st.integers(-3, 6))
        return FixedPoint(k, i, width - k - i, *draw(st.sampled_from(modes)))

    formats = tuple(LayerFormat(format(1), format(1), format(draw(st.integers(0, 1)))) for _ in sizes[1:])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = list(itertools.pairwise(sizes))
    weights = tuple(jnp.asarray(rng.normal(size=(out, n)) * 2) for n, out in shapes)
    biases = tuple(jnp.asarray(rng.normal(size=out)) for _, out in shapes)
    exponents = tuple(rng.integers(-4, 5, sizes[0]).tolist())
    x = np.ldexp(rng.normal(size=(64, sizes[0])) * 4, np.array(exponents))
    return QuantisedClassifier(weights, biases, exponents, format(draw(st.integers(0, 1))), formats), x


@settings(deadline=None, max_examples=40)
@given(models())
def test_integers_equal_the_float64_evaluation_exactly(example):
    model, x = example
    np.testing.assert_array_equal(decode(model.integers(x), model.output_format), model(x))


@settings(deadline=None, max_examples=15)
@given(models())
def test_files_read_back_to_the_same_outputs(example):
    model, x = example
    again = QuantisedClassifier.from_dict(json.loads(json.dumps(model.to_dict())))
    np.testing.assert_array_equal(again.integers(x), model.integers(x))
    assert again.to_dict() == model.to_dict()
    np.testing.assert_array_equal(model.frozen()(x), model(x))


@pytest.mark.parametrize("bits", [4, 6, 8, 12, 16])
def test_quantised_networks_agree_with_their_integers(bits):
    _, model, x = make(seed=bits, bits=bits)
    np.testing.assert_array_equal(decode(model.integers(4 * x), model.output_format), model(4 * x))


def test_integers_are_integers_from_the_codes_on():
    _, model, x = make()
    jaxpr = jax.make_jaxpr(model.propagate)(model.encode_inputs(x))
    kinds = {v.aval.dtype.kind for v in every_variable(jaxpr.jaxpr)}
    assert "i" in kinds
    assert kinds <= {"i", "b"}


def every_variable(jaxpr):
    """All variables of a jaxpr and of those inside its equations."""
    for eqn in jaxpr.eqns:
        yield from (*eqn.invars, *eqn.outvars)
        for inner in jaxprs_in_params(eqn.params):
            yield from every_variable(inner)


def test_integers_by_hand():
    formats = (LayerFormat(FixedPoint(1, 1, 1), FixedPoint(1, 3, 2), FixedPoint(0, 3, 1)),)
    formats += (LayerFormat(FixedPoint(1, 1, 2), FixedPoint(1, 1, 0), FixedPoint(1, 2, 2)),)
    weights = (jnp.array([[0.5, -1.0]]), jnp.array([[-0.75]]))
    biases = (jnp.array([0.25]), jnp.array([1.0]))
    model = QuantisedClassifier(weights, biases, (0, 1), FixedPoint(1, 3, 1), formats)
    # x1 / 2 = -1.625 -> -1.5 (tie upwards); sum 1.5 + 1.5 + 0.25 = 3.25 -> 3.5; logit 1 - 2.625 = -1.625 -> -1.5 on 1/4
    assert model.integers(jnp.array([3.0, -3.25])).tolist() == [-6]


def test_more_bits_come_nearer_to_floating_point():
    errors = []
    for bits in (6, 9, 12, 15):
        classifier, model, x = make(bits=bits, input_format=FixedPoint(1, 3, bits - 1))
        errors.append(float(jnp.sqrt(jnp.mean((model(x) - classifier(x)) ** 2))))
    ratios = np.array(errors[:-1]) / errors[1:]
    # three bits divide every rounding error by 8; ranges chosen by powers of two may cost a factor 2 either way
    assert (ratios > 4).all()
    assert (ratios < 16).all()


def test_calibration_events_do_not_saturate():
    classifier, model, x = make(bits=10)
    u = jnp.asarray(np.ldexp(x, -np.array(classifier.exponents)))
    frozen = model.frozen()
    codes = model.integers(x)
    low, high = model.output_format.codes
    assert low <= int(codes.min())
    assert int(codes.max()) <= high
    hidden = jax.nn.relu(jnp.round(u * 64).clip(-512, 511) / 64 @ frozen.weights[0].T + frozen.biases[0])
    assert float(hidden.max()) <= model.formats[0].output.maximum + model.formats[0].output.lsb / 2
    # and no integer bit is wasted
    assert float(hidden.max()) > model.formats[0].output.maximum / 2 - model.formats[0].output.lsb


def test_biases_lie_on_the_grid_of_the_sums():
    _, model, _ = make(bits=10)
    for number, layer in enumerate(model.formats):
        assert layer.bias.f == model.accumulator(number).f
        assert layer.weight.width == 10
        assert layer.output.width == 10
        assert layer.output.k == (1 if number == 1 else 0)


def test_feature_formats_move_the_binary_point_only():
    _, model, x = make((3, 1))
    for j, format in enumerate(model.feature_formats()):
        assert format.width == INPUT.width
        codes = np.asarray(model.encode_inputs(x))[:, j]
        error = np.asarray(decode(codes, format)) - np.clip(x[:, j], format.minimum, format.maximum)
        assert np.abs(error).max() <= format.lsb / 2


def test_gradients_pass_straight_through_and_training_lowers_the_loss():
    _, model, x = make()
    target = jnp.asarray(np.sign(x[:, :1] - x[:, :1].mean()))
    trainable, rest = split(model)
    assert {leaf.shape for leaf in jax.tree.leaves(trainable)} == {(6, 4), (6,), (1, 6), (1,)}

    @eqx.filter_jit
    def step(trainable):
        loss = lambda t: jnp.mean((eqx.combine(t, rest)(x) - target) ** 2)
        value, gradient = eqx.filter_value_and_grad(loss)(trainable)
        return value, jax.tree.map(lambda p, g: p - 0.02 * g, trainable, gradient)

    losses = []
    for _ in range(60):
        value, trainable = step(trainable)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    trained = eqx.combine(trainable, rest)
    np.testing.assert_array_equal(decode(trained.integers(x), trained.output_format), trained(x))


def test_gradient_equals_that_of_the_network_without_rounding():
    # all weights and inputs on their grids and nothing clipped: then the surrogate slope is the slope itself
    formats = (LayerFormat(FixedPoint(1, 2, 20), FixedPoint(1, 2, 20), FixedPoint(0, 8, 20)),)
    formats += (LayerFormat(FixedPoint(1, 2, 4), FixedPoint(1, 2, 20), FixedPoint(1, 8, 20)),)
    rng = np.random.default_rng(2)
    on_grid = lambda *shape: jnp.asarray(rng.integers(-32, 32, shape) / 16.0)
    weights, biases = (on_grid(3, 2), on_grid(1, 3)), (on_grid(3), on_grid(1))
    model = QuantisedClassifier(weights, biases, (0, 0), FixedPoint(1, 3, 4), formats)
    plain = DenseClassifier(weights, biases, (0, 0), (0.0, 0.0))
    x = jnp.asarray(rng.integers(-30, 30, (20, 2)) / 16.0)
    np.testing.assert_array_equal(model(x), plain(x))
    slope = lambda net: jax.grad(lambda w: jnp.sum(eqx.tree_at(lambda n: n.weights, net, w)(x) ** 2))(weights)
    for ours, theirs in zip(slope(model), slope(plain), strict=True):
        # sums of 20 products, float64
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_jit_changes_no_bit():
    _, model, x = make(bits=7)
    np.testing.assert_array_equal(eqx.filter_jit(model)(x), model(x))
    np.testing.assert_array_equal(eqx.filter_jit(model.integers)(jnp.asarray(x)), model.integers(x))


# bad input ------------------------------------------------------------------------------------------------------------

GOOD = {"exponents": (0, 0), "offsets": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DenseClassifier.init((3,), key=jax.random.key(0)), "at least two positive integers"),
        (lambda: DenseClassifier.init((3, 0), key=jax.random.key(0)), "at least two positive integers"),
        (lambda: DenseClassifier((jnp.ones((2, 2)),), (jnp.ones(3),), **GOOD), "layer 0: weights and biases of shapes"),
        (
            lambda: DenseClassifier((jnp.ones((3, 2)), jnp.ones((1, 2))), (jnp.ones(3), jnp.ones(1)), **GOOD),
            r"layer 1: .* wanted \(out, 3\)",
        ),
        (lambda: DenseClassifier((), (), **GOOD), "at least one"),
        (
            lambda: DenseClassifier((jnp.array([[1.0, jnp.nan]]),), (jnp.ones(1),), **GOOD),
            "layer 0: weights are not finite",
        ),
        (
            lambda: DenseClassifier((jnp.ones((1, 2)),), (jnp.array([jnp.inf]),), **GOOD),
            "layer 0: biases are not finite",
        ),
        (lambda: DenseClassifier((jnp.ones((1, 2)),), (jnp.ones(1),), (0,), (0.0, 0.0)), "2 integer exponents"),
        (lambda: DenseClassifier((jnp.ones((1, 2)),), (jnp.ones(1),), (0, 1.5), (0.0, 0.0)), "2 integer exponents"),  # type: ignore[arg-type]
        (lambda: DenseClassifier((jnp.ones((1, 2)),), (jnp.ones(1),), (0, 0), (0.0,)), "2 finite offsets"),
        (lambda: make()[0](jnp.ones((5, 3))), r"4 features wanted on the last axis, got an array of shape \(5, 3\)"),
        (lambda: make()[1].integers(np.full((1, 4), np.nan)), "not finite"),
        (lambda: make(weight_bits=1), "weight_bits must be an integer from 2 to 32, got 1"),
        (lambda: make(activation_bits=33), "activation_bits must be an integer from 1 to 32, got 33"),
        (lambda: make(output_bits=8.0), "output_bits must be an integer from 2 to 32, got 8.0"),
        (lambda: make(input_format=FixedPoint(1, 3, 40)), "input format .* too wide"),
        (lambda: make(weight_bits=32, activation_bits=32), "layer 1: sums may need .* at most 53 are exact"),
        (lambda: make(input_format=FixedPoint(1, -5, 12)), "% of feature . lie outside its input range"),
    ],
)
def test_bad_classifiers_are_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones((5, 3)), r"calibration sample: an array of shape \(events, 4\) wanted, got \(5, 3\)"),
        (np.ones((0, 4)), r"got \(0, 4\)"),
        (np.where(np.eye(4) > 0, np.inf, 0), "feature 0 of event 0 is not finite"),
    ],
)
def test_bad_calibration_samples_are_refused(inputs, message):
    classifier, _, _ = make()
    with pytest.raises(ValueError, match=message):
        quantised(classifier, input_format=INPUT, weight_bits=8, activation_bits=8, calibration_inputs=inputs)


def with_change(path, value):
    """A good file with one entry replaced, or removed if the value is `...`."""
    data = make((2, 2, 1))[1].to_dict()
    node = data
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], "other", "schema 'diffhep trigger classifier' version 1 wanted, got 'other'"),
        (["version"], 2, "version 2"),
        (["layers"], ..., r"missing keys \['layers'\]"),
        (["colour"], "red", r"unknown keys \['colour'\]"),
        (["layers"], {}, "exponents and layers must be lists"),
        (["layers"], [], "at least one"),
        (["layers", 0], 7, "layer 0: a dictionary wanted, got int"),
        (["layers", 1, "activation"], "tanh", r"layer 1: .*unknown keys \['activation'\]"),
        (["layers", 0, "weight_format"], "float", "'float' not understood"),
        (["layers", 0, "weight_format"], "ap_fixed<33,3,AP_RND,AP_SAT>", "layer 0: weight format .* too wide"),
        (["layers", 0, "output_format"], "ap_fixed<4,40>", "layer 0: output format .* too wide"),
        (["input_format"], None, "None not understood"),
        (["layers", 0, "weight_codes"], [[1, 2], [3]], "rows of equal length"),
        (["layers", 0, "weight_codes"], [1, 2], "rows of equal length"),
        (["layers", 0, "weight_codes"], [], "rows of equal length"),
        (["layers", 0, "weight_codes", 0, 0], 128, "integers from -128 to 127 wanted .* got 128"),
        (["layers", 0, "weight_codes", 0, 0], 1.0, "got 1.0"),
        (["layers", 0, "weight_codes", 0, 0], float("nan"), "got nan"),
        (["layers", 0, "weight_codes", 0, 0], True, "got True"),
        (["layers", 0, "bias_codes"], 3, "a list wanted"),
        (["layers", 0, "bias_codes"], [1], "layer 0: weights and biases of shapes"),
        (["layers", 1, "weight_codes"], [[1, 2, 3]], r"layer 1: .* wanted \(out, 2\)"),
        (["exponents"], [0], "2 integer exponents"),
        (["exponents"], [0, "1"], "2 integer exponents"),
    ],
)
def test_bad_files_are_refused_in_one_line(path, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        QuantisedClassifier.from_dict(with_change(path, value))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_dictionary_is_refused():
    with pytest.raises(ValueError, match="a dictionary wanted, got list"):
        QuantisedClassifier.from_dict([])


def test_fixed_point_needs_64_bits():
    classifier, model, x = make()
    options = {"input_format": INPUT, "weight_bits": 8, "activation_bits": 8, "calibration_inputs": x}
    with jax.enable_x64(False):
        for call in (lambda: model(x), lambda: model.integers(x), lambda: quantised(classifier, **options)):
            with pytest.raises(ValueError, match="jax_enable_x64"):
                call()


# formats as numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "input_format",
    [INPUT, FixedPoint(1, 4, 8), FixedPoint(1, 2, 5, "TRN", "WRAP"), FixedPoint(1, 1, 6, "RND", "WRAP")],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_emulator_is_the_same_function(input_format, seed):
    _, model, x = make(seed=seed, input_format=input_format, bits=6)
    np.testing.assert_array_equal(model.emulator()(x), model(x))
    slope = lambda network: jax.grad(lambda x: jnp.sum(jnp.sin(network(x))))(jnp.asarray(x))
    np.testing.assert_allclose(slope(model.emulator()), slope(model), rtol=1e-12)


def test_one_program_emulates_every_format():
    traces = []

    @jax.jit
    def logits(network, x):
        traces.append(1)
        return network(x)

    for seed, bits in itertools.product(range(3), (4, 8)):
        _, model, x = make(seed=seed, bits=bits)
        exponents = (0, 0, 0, 0)
        model = QuantisedClassifier(model.weights, model.biases, exponents, model.input_format, model.formats)
        np.testing.assert_array_equal(logits(model.emulator(), x), model(x))
    assert len(traces) == 1
