"""Any JAX function as logic: the logic computes what the compiled function computes, and says what it cannot."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from diffhep.trigger import FixedPoint, Words, quantise_kif, trace
from diffhep.trigger.comparison import compiled, encode_words
from diffhep.trigger.lowering import PRIMITIVES
from tests.trigger.programs import program

pytestmark = pytest.mark.needs("da4ml")
FORMAT = FixedPoint(1, 2, 4)
EVENTS = 500


def q(x, i=2, f=4, k=1):
    return quantise_kif(x, k, i, f)


def differences(function, *words, events=EVENTS, seed=0):
    """How many outputs of the logic, by da4ml's interpreter, differ from the compiled function's; and of how many."""
    traced = trace(function, *words)
    formats = [format for w in words for format in w.formats().ravel()]
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(f.codes[0], f.codes[1] + 1, events) for f in formats], axis=1)
    want = compiled(function, words)(codes)
    got = np.tile(traced.constants, (events, 1))
    values = np.ldexp(codes.astype(float), [-f.f for f in formats])
    got[:, np.isnan(traced.constants)] = traced.circuit.evaluate(values)
    assert (encode_words(values, formats) == codes).all()
    return int((got != want).sum()), want.size


def check_program(seed, steps):
    function, words = program(seed, steps)
    # the first step may be a word of no bits: the input itself keeps one output dependent on it
    wrong, compared = differences(function, words, events=200, seed=seed)
    assert compared == 200 * 4 * (steps + 1)
    assert wrong == 0


NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # a seed is no smaller than another one


@settings(deadline=None, max_examples=12, phases=NO_SHRINKING)
@given(st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_random_functions_are_exact(seed, steps):
    check_program(seed, steps)


@pytest.mark.long
@settings(deadline=None, max_examples=500, phases=NO_SHRINKING)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_five_hundred_random_functions_are_exact(seed, steps):
    check_program(seed, steps)


class Perceptron(eqx.Module):
    """An Equinox network with formats of its own."""

    layers: tuple

    def __call__(self, x):
        for number, layer in enumerate(self.layers):
            sums = q(layer.weight, 1, 4) @ x + q(layer.bias, 1, 6)
            x = q(jax.nn.relu(sums), 3, 3, 0) if number < len(self.layers) - 1 else q(sums, 4, 4)
        return x


class Sets(linen.Module):
    """Deep sets in Flax linen: a network of each object, their sum, a network of it."""

    @linen.compact
    def __call__(self, x):
        weight = q(self.param("inner", linen.initializers.normal(1.0), (3, 5), jnp.float64), 1, 3)
        latent = q(jnp.sum(q(linen.relu(x @ weight), 3, 2, 0), axis=0), 5, 2, 0)
        return q(latent @ q(self.param("outer", linen.initializers.normal(1.0), (5, 2), jnp.float64), 1, 3), 5, 3)


def equinox_network():
    keys = jax.random.split(jax.random.key(0), 2)
    sizes = ((6, 8), (8, 3))
    return Perceptron(
        tuple(eqx.nn.Linear(n, m, key=k, dtype=jnp.float64) for (n, m), k in zip(sizes, keys, strict=True))
    )


def linen_network():
    parameters = Sets().init(jax.random.key(1), jnp.zeros((4, 3)))
    return lambda x: Sets().apply(parameters, x)


def nnx_network():
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0), param_dtype=jnp.float64, dtype=jnp.float64)
    layer.kernel[...] = q(layer.kernel[...], 1, 5)
    return lambda x: q(jax.nn.tanh(q(layer(x), 2, 3)), 0, 7)


def image_network():
    convolution = eqx.nn.Conv2d(1, 2, 3, stride=2, padding=1, key=jax.random.key(2), dtype=jnp.float64)
    parts = lambda c: (c.weight, c.bias)
    convolution = eqx.tree_at(parts, convolution, tuple(q(part, 1, 4) for part in parts(convolution)))
    return lambda x: eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(convolution(x[None])))


def softmax(x):
    weights = q(jnp.exp(x - jnp.max(x)), 0, 8, 0)
    return q(weights * q(1 / (jnp.sum(weights) + 2.0**-8), 8, 4, 0), 2, 8, 0)


def edges(x):
    """EdgeConv: of each pair of nodes, the largest, then the sum."""
    pair = jnp.concatenate(
        [jnp.broadcast_to(x[:, None], (3, 3, 2)), jnp.broadcast_to(x, (3, 3, 2)) - x[:, None]], axis=-1
    )
    weight = np.array([[1, -0.5], [0.25, 1], [-1, 0.5], [0.75, -0.25]])
    return jnp.sum(jnp.max(q(jax.nn.relu(pair @ weight), 3, 2, 0), axis=1), axis=0)


NETWORKS = {
    "equinox perceptron": (equinox_network, (6,)),
    "flax linen deep sets": (linen_network, (4, 3)),
    "flax nnx layer": (nnx_network, (4,)),
    "equinox convolution": (image_network, (6, 6)),
    "edge convolution": (lambda: edges, (3, 2)),
    "softmax": (lambda: softmax, (3,)),
    "latent score and its bit": (lambda: lambda x: (jnp.sum(x**2), jnp.sum(x**2) >= 20.0), (4,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_library_are_exact(name):
    make, shape = NETWORKS[name]
    wrong, compared = differences(make(), Words(shape, FORMAT))
    assert compared >= EVENTS
    assert wrong == 0


FUNCTIONS = {
    "arithmetic": lambda x: (x + x[::-1], 1 - x, x * 0.75, x / 4, -x, abs(x), x**3, jnp.sign(x)),
    "products": lambda x: (x * x[0], x @ x, jnp.outer(x, x), jnp.prod(x[:2])),
    "rounding": lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), jnp.trunc(x), x.astype(jnp.int32)),
    "comparisons": lambda x: (x < 1, x > x[0], x <= 1, x >= x[0], x == 1, x != x[0], jnp.isfinite(x)),
    "logic": lambda x: ((x > 0) & (x < 1), (x > 0) | (x[0] < 1), (x > 0) ^ (x[0] < 1), ~(x > 0), jnp.any(x > 3)),
    "reductions": lambda x: (x.sum(), x.max(), x.min(), x.mean() * 4, (x > 0).all(), jnp.argmax(x), jnp.argmin(x)),
    "parity": lambda x: lax.reduce_xor(x > 0, axes=(0,)),
    "running": lambda x: (jnp.cumsum(x), lax.cummax(x), lax.cummin(x), lax.cumsum(x, reverse=True), lax.cumprod(x[:3])),
    "order": lambda x: (jnp.sort(x), jnp.argsort(x), lax.top_k(x, 2), lax.sort((x, x[::-1]), num_keys=2)),
    "wiring": lambda x: (x[::-1], x.at[1].set(0.5), jnp.pad(x, 1), jnp.split(x, 2), jnp.roll(x, 1), jnp.tile(x, 2)),
    "indices": lambda x: (x[np.array([3, 0, 0])], lax.dynamic_slice(x, (1,), (2,)), jnp.stack([x, x]).T, x[None]),
    "selection": lambda x: (jnp.where(x > 0, x, 2 * x), jnp.select([x > 1, x > 0], [x, -x]), jnp.clip(x, -1, x[0])),
    "branches": lambda x: lax.switch(jnp.floor(x[0]).astype(int), [lambda v: v + 1, lambda v: -v, jnp.abs], x),
    "loops": lambda x: (
        lax.scan(lambda c, v: (q(c / 2 + v), c), jnp.zeros(()), x),
        lax.fori_loop(0, 3, lambda n, v: q(v + n), x),
    ),
    "windows": lambda x: lax.reduce_window(x, 0.0, lax.add, (3,), (2,), ((1, 1),)),
    "integers": lambda x: ((n := (4 * x).astype(jnp.int32)) // 3, n % 5, n << 1, n >> 2, n & 6, n * n, -n),
    "tables": lambda x: (q(jnp.tanh(x)), q(jnp.exp(x), 5), q(x / 7), jnp.log(abs(x) + 1) > 0.5, q(jax.nn.gelu(x))),
    "types": lambda x: (
        x.astype(jnp.float32) + 1,
        (x > 0).astype(jnp.float64) * x,
        lax.stop_gradient(x),
        x.astype(bool),
    ),
    "calls": lambda x: (jax.jit(jnp.abs)(x), jax.checkpoint(lambda v: v * 2)(x), jax.nn.relu6(x)),
    "einsum": lambda x: jnp.einsum("ij,kj->ik", x.reshape(2, 2), np.array([[1.0, 2.0], [-0.5, 4.0], [0, 1]])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_primitives_are_exact(name):
    wrong, compared = differences(FUNCTIONS[name], Words((4,), FORMAT))
    assert compared >= EVENTS
    assert wrong == 0


def test_every_element_may_have_a_format_and_inputs_may_be_several():
    formats = [[FixedPoint(1, 2, 4), FixedPoint(0, 3, 1)], [FixedPoint(1, 0, 2), FixedPoint(1, 5, -2)]]
    bits = np.array([[1, 3], [2, 0]])
    function = lambda a, b: (quantise_kif(a @ b, 1, 6, bits), b - a)
    wrong, compared = differences(function, Words((2, 2), formats), Words((2, 2), FORMAT))
    assert (wrong, compared) == (0, EVENTS * 8)


def test_division_by_a_constant_is_that_of_the_compiled_function():
    # XLA multiplies by the reciprocal, which rounds differently; here one value in a hundred moves to another code
    function = lambda x: quantise_kif(x.astype(jnp.float32) / 7.0, 1, 4, 3)
    assert differences(function, Words((1,), FixedPoint(1, 5, 6)), events=4000)[0] == 0


def test_a_broadcast_value_is_computed_once():
    once = trace(lambda x: x[0] * x[1], Words((2,), FORMAT)).circuit.cost
    many = trace(lambda x: jnp.broadcast_to(x[0], (9,)) * x[1], Words((2,), FORMAT)).circuit.cost
    assert many == once


def test_constants_cost_nothing():
    weights = jax.random.normal(jax.random.key(0), (50, 50))
    plain = trace(lambda x: x + 1.0, Words((1,), FORMAT)).circuit.cost
    assert (
        trace(lambda x: x + jnp.floor(jnp.tanh(weights @ weights).sum() * 0) + 1.0, Words((1,), FORMAT)).circuit.cost
        == plain
    )


def test_at_least_45_primitives_have_a_rule():
    assert len(PRIMITIVES) >= 100
    # the names are those of JAX: each of these is in a jaxpr of FUNCTIONS
    used = set()
    for function in FUNCTIONS.values():
        collect(jax.make_jaxpr(function)(jnp.zeros(4)).jaxpr, used)
    assert used <= PRIMITIVES | {"iota", "pjit"}
    assert len(used) >= 65


def collect(jaxpr, names):
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                collect(getattr(inner, "jaxpr", inner), names)


# refusals -------------------------------------------------------------------------------------------------------------


def spectrum(x):
    return jnp.abs(jnp.fft.rfft(x))


def bare(x):
    return jnp.tanh(x) * x[0]


def wide(x):
    return x**15


def nothing(x):
    return x + np.nan


REFUSED = {
    "no rule": (spectrum, r"fft cannot be exported: it has no rule in logic \(test_lowering.py:\d+, in spectrum\)"),
    "not quantised": (
        bare,
        r"mul cannot be exported: the result of tanh \(test_lowering.py:\d+, in bare\) lies on no grid: quantise",
    ),
    "last": (jnp.tanh, "an output is the result of tanh .*, which lies on no grid"),
    "too wide": (wide, r"an output is the result of integer_pow \(test_lowering.py:\d+, in wide\), which lies on no"),
    "weights": (lambda x: x @ np.array([[1.0], [np.inf], [0], [0]]), r"the weight inf at \(1, 0\) is not finite"),
    "constant": (nothing, r"add cannot be exported: .*nan is not finite \(test_lowering.py:\d+, in nothing\)"),
    "grid": (lambda x: x @ np.full((4, 1), 0.1), "sums may need 60 bits, float64 holds 53 exactly: quantise first"),
    "float32": (lambda x: (x.astype(jnp.float32) ** 2 * x[0].astype(jnp.float32) ** 2).sum(), "float32"),
    "sums": (
        lambda x: (x.astype(jnp.float32) * 4.0 ** np.arange(-8.0, 8.0, 4.0).astype(np.float32)).sum(),
        "float32 holds 24 exactly",
    ),
    "formats": (lambda x: quantise_kif(x, 1, 2, x.astype(jnp.int32)), "formats must be constants"),
    "indices": (lambda x: x[x[0].astype(int)], "must be constants"),
    "turns": (lambda x: lax.while_loop(lambda v: v[0] < 1, lambda v: v + 1, x), "turns must not depend on the inputs"),
    "long": (lambda x: lax.fori_loop(0, 10**6, lambda n, v: q(v + 1), x), "too long to unroll"),
    "singular": (lambda x: q(jnp.log(x)), r"log \(.*\) is not finite at -4"),
    "table": (lambda x: q(jnp.tanh(x * x[0] * x[1])), r"tanh \(.*\) needs a table of .* entries, at most 65536"),
    "constant function": (lambda x: jnp.ones(3), "no output depends on an input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_named_in_one_line(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        trace(function, Words((4,), FORMAT))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("export: ")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Words((0,), FORMAT), r"an array of shape \(0,\) holds none"),
        (lambda: Words((3,), [FORMAT, FORMAT]), r"formats of shape \(2,\) do not broadcast to \(3,\)"),
        (lambda: Words((3,), "ap_fixed<8,4>"), "a FixedPoint or a sequence of them wanted"),
        (
            lambda: trace(jnp.abs, Words((3,), FixedPoint(1, 20, 20))),
            "the input format .* is too wide: at most 32 bits",
        ),
        (lambda: trace(jnp.abs, Words((3,), FixedPoint(1, 40, -36))), "too wide"),
    ],
)
def test_bad_words_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_64_bits_are_needed():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        trace(jnp.abs, Words((3,), FORMAT))
