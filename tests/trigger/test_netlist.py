"""Logic word by word: every operation against arithmetic, over all values of its operands and every sign they can have.

da4ml keeps a wire together with a factor, minus one or a power of two, and numbers apart from wires: each combination
takes another way through it.
"""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.trigger import FixedPoint, Words, fixed_logic, netlist, quantise_kif
from diffhep.trigger.lowering import trace
from diffhep.trigger.modes import OVERFLOWS, ROUNDINGS
from diffhep.trigger.pipeline import cut

pytestmark = pytest.mark.needs("da4ml")
FACTORS = (1.0, -1.0, 0.5, -2.0)
NUMBERS = (0.5, -1.25, 0.0, 4.0)


def evaluate(build, *formats):
    """What logic makes of all combinations of its inputs' values; and those values."""
    wires = [netlist.wire(*format) for format in formats]
    out = build(*wires)
    grids = [np.arange(-k * 2 ** (i + f), 2 ** (i + f)) * 2.0**-f for k, i, f in formats]
    values = [grid.ravel() for grid in np.meshgrid(*grids)]
    if not netlist.is_wire(out):
        return np.full(values[0].shape, out), values
    return netlist.circuit(wires, [out]).evaluate(np.stack(values, axis=1))[:, 0], values


def fixed(cell, kif, rounding, overflow):
    k, i, f = kif
    return fixed_logic.fixed(cell, k, i, f, rounding, overflow)


BINARY = {
    "add": (netlist.add, np.add),
    "subtract": (netlist.subtract, np.subtract),
    "multiply": (netlist.multiply, np.multiply),
    "larger": (netlist.larger, np.maximum),
    "smaller": (netlist.smaller, np.minimum),
    "below": (netlist.below, np.less),
    "differs": (netlist.differs, np.not_equal),
    "select one": (lambda a, b: netlist.select(netlist.below(a, 1.0), a, b), lambda a, b: np.where(a < 1, a, b)),
    "select other": (lambda a, b: netlist.select(netlist.below(a, 1.0), b, a), lambda a, b: np.where(a < 1, b, a)),
}


@pytest.mark.parametrize("name", BINARY)
def test_operations_on_wires_of_any_sign(name):
    logic, arithmetic = BINARY[name]
    for s, t in itertools.product(FACTORS, repeat=2):
        build = lambda x, y, s=s, t=t: logic(netlist.multiply(x, s), netlist.multiply(y, t))
        got, (x, y) = evaluate(build, (1, 1, 2), (0, 2, 1))
        np.testing.assert_array_equal(got, arithmetic(s * x, t * y))


@pytest.mark.parametrize("name", BINARY)
def test_operations_on_a_wire_of_any_sign_and_a_number(name):
    logic, arithmetic = BINARY[name]
    for s, c in itertools.product(FACTORS, NUMBERS):
        for turned in (False, True):
            ordered = lambda a, b, turned=turned: (b, a) if turned else (a, b)
            got, (x,) = evaluate(lambda x, s=s, c=c: logic(*ordered(netlist.multiply(x, s), c)), (1, 1, 2))  # noqa: B023
            np.testing.assert_array_equal(got, arithmetic(*ordered(s * x, c)))


@pytest.mark.parametrize(("rounding", "overflow"), list(itertools.product(ROUNDINGS, OVERFLOWS)))
def test_every_mode_is_that_of_the_emulation(rounding, overflow):
    rng = np.random.default_rng([ROUNDINGS.index(rounding), OVERFLOWS.index(overflow)])
    for _ in range(3):
        k, tk, width, target = (int(bits) for bits in rng.integers([0, 0, 2, 2], [2, 2, 9, 9]))
        i, s = int(rng.integers(-3, 6)), FACTORS[rng.integers(4)]
        ti = i + int(rng.integers(-3, 4))
        kif = tk, ti, target - tk - ti
        build = lambda x, s=s, kif=kif: fixed(netlist.multiply(x, s), kif, rounding, overflow)
        got, (x,) = evaluate(build, (k, i, width - k - i))
        np.testing.assert_array_equal(got, quantise_kif(s * x, *kif, rounding=rounding, overflow=overflow))


SOURCES = ((1, 2, 0), (0, 3, 1), (1, -1, 4), (1, 4, -2), (0, 1, 3))
TARGETS = ((1, 1, 1), (0, 1, 2), (1, 0, 0), (0, -1, 3), (1, -2, 5), (0, 3, -1), (1, 2, -2))


@pytest.mark.parametrize("s", FACTORS)
def test_words_of_any_sign_and_grid_saturate(s):
    for source, kif in itertools.product(SOURCES, TARGETS):
        for shift in (0.0, -1.5):
            build = lambda x, kif=kif, shift=shift: fixed(netlist.add(netlist.multiply(x, s), shift), kif, "TRN", "SAT")
            got, (x,) = evaluate(build, source)
            want = quantise_kif(s * x + shift, *kif, rounding="TRN", overflow="SAT")
            np.testing.assert_array_equal(got, want, err_msg=f"{source} {kif} {shift}")


BEFORE = {
    "as it is": lambda x: x,
    "without negatives": lambda x: netlist.larger(x, 0.0),
    "turned": lambda x: netlist.negative(netlist.larger(x, 0.0)),
    "moved": lambda x: netlist.add(x, 0.5),
}
AFTER = {
    "magnitude": (netlist.magnitude, np.abs),
    "sign": (lambda z: netlist.below(z, 0.0), lambda z: z < 0),
    "relu": (lambda z: netlist.larger(z, 0.0), lambda z: np.maximum(z, 0)),
    "limit": (lambda z: netlist.smaller(z, 0.25), lambda z: np.minimum(z, 0.25)),
    "choice": (lambda z: netlist.select(netlist.below(z, 0.0), 1.0, z), lambda z: np.where(z < 0, 1, z)),
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
def test_decisions_look_at_the_word_that_wrapping_left(before, after):
    logic, arithmetic = AFTER[after]
    for source, kif, s in itertools.product([(1, 1, 2), (0, 2, 1)], [(1, 0, 2), (1, 1, 1), (0, 1, 2)], FACTORS):
        wrap = lambda x, s=s, kif=kif: fixed(BEFORE[before](netlist.multiply(x, s)), kif, "TRN", "WRAP")
        word, _ = evaluate(wrap, source)
        got, _ = evaluate(lambda x, wrap=wrap: logic(wrap(x)), source)
        np.testing.assert_array_equal(got, arithmetic(word))


@pytest.mark.parametrize("kind", ["and", "or", "xor"])
def test_gates_of_bits_and_numbers(kind):
    arithmetic = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[kind]
    bit = lambda x: netlist.below(x, 0.5)
    for build, want in (
        (lambda x, y: netlist.gate(kind, bit(x), bit(y)), lambda x, y: arithmetic(x < 0.5, y < 0.5)),
        (lambda x, y: netlist.gate(kind, bit(x), 1.0), lambda x, y: arithmetic(x < 0.5, True)),
        (lambda x, y: netlist.gate(kind, 0.0, netlist.inverse(bit(x))), lambda x, y: arithmetic(False, x >= 0.5)),
    ):
        got, values = evaluate(build, (1, 1, 1), (0, 1, 1))
        np.testing.assert_array_equal(got, want(*values))


def test_matrix_products_share_adders_and_take_numbers_among_the_wires():
    rng = np.random.default_rng(0)
    matrix = rng.integers(-7, 8, (4, 5)) / 4.0
    matrix[2], matrix[:, 3] = 0.0, 0.0
    wires = [netlist.wire(1, 1, 1), 0.75, netlist.wire(1, 1, 1), netlist.negative(netlist.wire(0, 1, 2))]
    sums = netlist.matrix_product(wires, matrix)
    assert sums[3] == 0.0
    cells = [wires[0], netlist.negative(wires[3])]
    found = netlist.circuit(cells, sums)
    x = np.array(list(itertools.product(np.arange(-4, 4) / 2, np.arange(8) / 4)))
    got = found.evaluate(x)
    inputs = np.stack([x[:, 0], np.full(len(x), 0.75), np.zeros(len(x)), -x[:, 1]], axis=1)
    np.testing.assert_array_equal(got, (inputs @ matrix)[:, [0, 1, 2, 4]])
    # a multiplier of 3 bits by 3 bits and an adder of 6 bits for each product would take 10 times 15
    assert found.cost < 150


def test_the_earliest_operands_are_joined_first():
    late = netlist.multiply(netlist.wire(1, 2, 2), netlist.wire(1, 2, 2))
    early = [netlist.wire(1, 2, 2) for _ in range(4)]
    total = netlist.tree(netlist.add, [late, *early])
    assert netlist.latency(total) == netlist.latency(late) + 1


@pytest.mark.parametrize("number", [0.1, 2.0**31, 2.0**-32, float("nan"), float("inf")])
def test_numbers_that_logic_cannot_hold_are_refused(number):
    with pytest.raises(netlist.RefusedError, match=r"lies on no grid|is not finite"):
        netlist.add(netlist.wire(1, 2, 2), number)


def test_a_word_of_no_bits_is_zero_and_a_table_of_one_value_a_number():
    assert netlist.wire(1, 2, -3) == 0.0
    assert netlist.table(netlist.wire(1, 1, 1), np.full(8, 0.5)) == 0.5
    assert netlist.subtract(x := netlist.wire(1, 1, 1), x) == 0.0


@given(st.integers(1, 12))
def test_a_pipeline_computes_the_same_and_keeps_inputs_that_nothing_depends_on(levels):
    weights = np.random.default_rng(4).integers(-9, 9, (2, 7, 7)) / 4
    # the third input is dead, and its place in the port is not
    weights[0, :, 2] = 0

    def network(x):
        for matrix in weights:
            x = jax.nn.relu(matrix @ x)
        return x

    words = Words((7,), FixedPoint(1, 3, 2))
    logic = trace(network, words).circuit.logic
    pipe = cut(logic, levels)
    assert pipe.solutions[0].inp_qint == logic.inp_qint
    depths = np.diff([0.0, *(s.latency[1] for s in pipe.solutions)])
    assert depths.max() <= levels
    x = np.random.default_rng(5).integers(-32, 32, (200, 7)) / 4
    y = x
    for stage in pipe.solutions:
        y = stage.predict(np.ascontiguousarray(y))
    np.testing.assert_array_equal(y, logic.predict(x))
