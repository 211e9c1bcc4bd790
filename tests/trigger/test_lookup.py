"""Tables of numbers at indices that are wires: the logic holds what the compiled function looks up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from diffhep.trigger import FixedPoint, Words, netlist, quantise_kif, trace
from tests.trigger.test_lowering import differences

pytestmark = pytest.mark.needs("da4ml")
FORMAT = FixedPoint(1, 2, 0)
TABLES = jnp.asarray(np.random.default_rng(0).integers(-8, 8, (3, 8, 2)) / 4)


def whole(x):
    return x.astype(jnp.int32)


def unsigned(x, i, f):
    """The bits of signed words (1, i, f), read as an index."""
    return whole(quantise_kif(x, 0, i + 1, f, "TRN", "WRAP") * 2.0**f)


def check(function, *words):
    """The circuit, which gives what the compiled function gives."""
    wrong, compared = differences(function, *words)
    assert compared >= 500
    assert wrong == 0
    return trace(function, *words).circuit


@st.composite
def lookups(draw):
    """A function of words that looks something up, and the words."""
    n, length, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tables = rng.integers(-50, 50, (n, length, width)) * 2.0 ** rng.integers(-4, 5)
    tables = jnp.asarray(tables, draw(st.sampled_from([jnp.float64, jnp.float32, jnp.int32, jnp.int8])))
    words = Words(
        (n,), [FixedPoint(*draw(st.sampled_from([(1, 2, 1), (0, 3, 0), (1, 4, 0), (0, 5, -1)]))) for _ in range(n)]
    )
    # without a number to fill in, a floating-point table gives NaN
    filled = {} if jnp.issubdtype(tables.dtype, jnp.integer) else {"fill_value": 0.5}
    mode = draw(st.sampled_from(["clip", "promise_in_bounds", "fill"]))
    settings = {"mode": mode, **(filled if mode == "fill" else {})}
    order = rng.integers(0, n, n)
    keep = draw(st.booleans())
    index = lambda x: whole(x if keep else x[order])  # the same wire in several rows
    function = draw(
        st.sampled_from(
            [
                lambda x: tables.at[jnp.arange(n), index(x)].get(**settings),
                lambda x: jnp.take_along_axis(tables, index(x)[:, None, None], axis=1, **settings),
                lambda x: tables.at[:, index(x)].get(**settings),
                lambda x: jnp.take(tables, index(x), axis=1, mode="wrap"),
                lambda x: tables.at[0, index(x), width - 1].get(**settings),
                lambda x: jax.vmap(lambda table, i: table.at[i].get(**settings))(tables, index(x)),
                lambda x: tables.at[:, index(x)[0], jnp.arange(width)].get(**settings),
                lambda x: lax.dynamic_slice(tables[0], (index(x)[0], jnp.int32(0)), (1, width)),
                lambda x: tables[0][index(x)[0]],
            ]
        )
    )
    return lambda x: (function(x), x), words  # which holds a wire, even if what is looked up does not


@settings(deadline=None, max_examples=60)
@given(lookups())
def test_random_lookups_are_exact(drawn):
    function, words = drawn
    check(function, words)


def test_rows_may_differ_in_their_wires_and_their_constants():
    place = lambda x: jnp.stack([jnp.zeros(3, jnp.int32), whole(x), jnp.array([0, 1, 0], jnp.int32)], axis=1)
    check(lambda x: jnp.take(TABLES.ravel(), whole(x).at[1].set(5)), Words((3,), FixedPoint(0, 2, 0)))
    check(lambda x: TABLES[tuple(place(x).T)], Words((3,), FORMAT))
    check(lambda x: TABLES[0, whole(x)[0] // 2, whole(x)[0] & 0], Words((1,), FORMAT))


def test_bits_of_a_word_are_an_index_without_an_adder():
    found = check(lambda x: TABLES[jnp.arange(3), unsigned(x, 1, 1)], Words((3,), FixedPoint(1, 1, 1)))
    given = check(lambda x: TABLES[jnp.arange(3), whole(x)], Words((3,), FixedPoint(0, 3, 0)))
    columns = np.asarray(TABLES).transpose(0, 2, 1).reshape(-1, 8)
    word = netlist.wire(0, 3, 0)
    alone = sum(netlist.circuit([word], [netlist.table(word, column)]).cost for column in columns)
    assert found.cost == given.cost == pytest.approx(alone)
    assert found.levels == given.levels


def test_what_is_looked_up_twice_is_one_table():
    once = trace(lambda x: TABLES[0, :, 0][whole(x)], Words((1,), FORMAT)).circuit
    twice = trace(lambda x: TABLES[0, :, 0][whole(x)[jnp.zeros(9, int)]], Words((1,), FORMAT)).circuit
    assert twice.cost == once.cost


def test_integers_outside_are_filled_with_the_smallest():
    numbers = jnp.array([3, -1, 7, 5], jnp.int32)
    circuit = check(lambda x: jnp.take(numbers, whole(x)), Words((1,), FixedPoint(0, 3, 0)))
    assert circuit.evaluate(np.array([[7.0]])).item() == -(2.0**31)


# refusals -------------------------------------------------------------------------------------------------------------


REFUSED = {
    "two wires": (lambda x: TABLES[whole(x)[0], whole(x)[1]], "2 indices of one element are wires, at most one may be"),
    "both": (lambda x: x[whole(x)], "gather cannot be exported: the indices of an array of wires must be constants"),
    "slice": (lambda x: lax.dynamic_slice(x, (whole(x)[0],), (2,)), "the indices of an array of wires must be"),
    "outside": (lambda x: jnp.take(TABLES, whole(x) + 6, axis=1), "it is not finite at 8, which its input can be"),
    "infinite": (lambda x: jnp.log(jnp.arange(8.0))[whole(x) & 7], "it is not finite at 0"),
    "long": (
        lambda x: TABLES[0, :, 0][(whole(x)[0] << 17) + whole(x)[1]],
        "a table of .* entries, at most",
    ),
    "off grid": (
        lambda x: (TABLES[0, :, 0] / 10)[whole(x)],
        "a table of values from .* too wide: quantise them to les",
    ),
    "int64": (lambda x: jnp.take(jnp.arange(3), whole(x)), r"values from -9.22337e\+18 to 2 in steps of 1 is too wide"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_looked_up_is_named_in_one_line(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        trace(function, Words((2,), FORMAT))
    assert str(caught.value).startswith("export: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0.1, 1 + 2.0**-30, 2.0**32, -(2.0**32), 2.0**31, 2.0**80])
def test_a_number_that_da4ml_would_round_is_refused(number):
    with pytest.raises(netlist.RefusedError, match="too wide: quantise them to less"):
        netlist.table(netlist.wire(0, 1, 0), np.array([number, 3.0]))


@pytest.mark.parametrize("number", [0.0, 2.0**31 - 1, -(2.0**31), 2.0**-29, 3 + 2.0**-20])
def test_numbers_of_32_bits_are_looked_up_exactly(number):
    wire, values = netlist.wire(0, 1, 0), np.array([number, 3.0])
    found = netlist.circuit([wire], [netlist.table(wire, values)]).evaluate(np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(found[:, 0], values)
