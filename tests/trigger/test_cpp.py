"""Logic as C++: every operation with every sign its operands can have, over all values, in one C simulation.

`tests/trigger/test_netlist.py` compares the same operations with arithmetic; the oracle here is da4ml's interpreter.
"""

import itertools

import numpy as np
import pytest

from diffhep.trigger import FixedPoint, Words, fixed_logic, netlist
from diffhep.trigger.c_simulation import compile_simulation, simulate
from diffhep.trigger.hls import write_hls
from diffhep.trigger.lowering import Traced
from diffhep.trigger.modes import OVERFLOWS, ROUNDINGS
from tests.trigger.test_netlist import AFTER, BINARY, FACTORS, NUMBERS

FORMATS = (1, 1, 2), (0, 2, 1)


def cells(x, y):
    """What all operations make of two wires."""
    xs, ys = ([netlist.multiply(wire, factor) for factor in FACTORS] for wire in (x, y))
    for logic, _ in BINARY.values():
        for a, b, number in zip(xs, ys[1:] + ys[:1], NUMBERS, strict=True):
            yield from (logic(a, b), logic(a, number), logic(number, b))
    for wire in xs + ys:
        yield netlist.magnitude(wire)
        for kind in ("any", "all"):
            bit = netlist.settled(wire.unary_bit_op(kind))
            yield from (bit, netlist.inverse(bit))
        low, high, step = netlist.span(wire)
        yield netlist.table(wire, np.round(8 * np.sin(np.arange(round((high - low) / step) + 1))) / 4)
    for wire, rounding, overflow in zip(xs + ys, ROUNDINGS, 2 * OVERFLOWS, strict=False):
        word = fixed_logic.fixed(wire, 1, 0, 1, rounding, overflow)
        yield from (logic(word) for logic, _ in AFTER.values())
    bits = [netlist.below(wire, 0.5) for wire in xs]
    for kind, (a, b) in itertools.product(("and", "or", "xor"), itertools.combinations(bits, 2)):
        yield netlist.gate(kind, a, netlist.inverse(b))


@pytest.mark.needs("da4ml", "g++")
def test_every_operation_on_wires_of_any_sign(tmp_path):
    wires = [netlist.wire(*format) for format in FORMATS]
    results = [cell for cell in cells(*wires) if netlist.is_wire(cell)]
    assert len(results) > 150
    circuit = netlist.circuit(wires, results)
    words = tuple(Words((1,), FixedPoint(*format)) for format in FORMATS)
    traced = Traced(lambda x, y: x, words, circuit, [(len(results),)], np.full(len(results), np.nan))
    write_hls(tmp_path / "p", traced, name="all_operations", clock_period_ns=5.0, part="xc7")
    program = compile_simulation(tmp_path / "p", "g++", "all_operations", [1, 1], [len(results)])
    values = np.array(
        list(itertools.product(*(np.arange(-k * 2 ** (i + f), 2 ** (i + f)) * 2.0**-f for k, i, f in FORMATS)))
    )
    wrong = (simulate(program, values, len(results)) != circuit.evaluate(values)).any(axis=0)
    assert np.flatnonzero(wrong).tolist() == []
