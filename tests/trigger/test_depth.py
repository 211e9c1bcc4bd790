"""The longest path of a netlist: through registers, carry chains and multiplexers, and what is refused."""

import pytest

from diffhep.trigger.depth import CARRY, DELAYS, SUM, WIRE, longest_path


def cell(kind, inputs, outputs):
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {"type": kind, "port_directions": directions, "connections": {**inputs, **outputs}}


def module(cells, *, inputs=(1,), outputs=()):
    ports = {
        "a": {"direction": "input", "bits": list(inputs)},
        "y": {"direction": "output", "bits": list(outputs)},
    }
    return {"ports": ports, "cells": dict(enumerate(cells))}


def test_a_path_through_a_carry_chain_between_two_registers():
    first = cell("FDRE", {"D": [1], "C": [0]}, {"Q": [2]})
    lut = cell("LUT2", {"I0": [2], "I1": [1]}, {"O": [3]})
    low = cell("CARRY4", {"S": [3, 3, 3, "0"], "DI": [2, 2, 2, 2], "CI": ["0"]}, {"CO": [4, 5, 6, 7], "O": [8]})
    high = cell("CARRY4", {"S": [2, 2, 2, 2], "CI": [7]}, {"O": [9]})
    last = cell("FDRE", {"D": [9], "C": [0]}, {"Q": [10]})
    found = longest_path(module([first, lut, low, high, last], outputs=[10]))
    into = DELAYS["FD"] + WIRE + DELAYS["LUT2"] + WIRE + DELAYS["CARRY4"]
    # the second block also begins a path, which is shorter; the last wire leads to the register
    assert found.ns == pytest.approx(into + CARRY + SUM + WIRE)
    assert found.cells == 4
    # a sum that logic goes on with has come through its gate
    after = cell("LUT1", {"I0": [9]}, {"O": [11]})
    again = longest_path(module([first, lut, low, high, after], outputs=[11]))
    assert again.ns == pytest.approx(into + CARRY + SUM + WIRE + DELAYS["LUT1"] + WIRE)


def test_logic_without_registers_and_multiplexers_without_wires():
    lut = cell("LUT6", {"I0": [1]}, {"O": [2]})
    mux = cell("MUXF7", {"I0": [2], "S": [1]}, {"O": [3]})
    found = longest_path(module([lut, mux], outputs=[3]))
    assert found.ns == pytest.approx(DELAYS["LUT6"] + DELAYS["MUXF7"] + WIRE)
    assert longest_path(module([], outputs=[1])).cells == 0


def test_inputs_come_from_registers_where_there_are_any():
    lut = cell("LUT6", {"I0": [1]}, {"O": [2]})
    last = cell("FDRE", {"D": [2], "C": [0]}, {"Q": [3]})
    found = longest_path(module([lut, last], outputs=[3]))
    assert found.ns == pytest.approx(DELAYS["FD"] + WIRE + DELAYS["LUT6"] + WIRE)
    assert found.cells == 2


def test_unknown_cells_and_loops_are_refused():
    with pytest.raises(ValueError, match="nothing is known of cells RAMB36E1"):
        longest_path(module([cell("RAMB36E1", {"A": [1]}, {"Q": [2]})]))
    ring = [cell("LUT1", {"I0": [2]}, {"O": [3]}), cell("LUT1", {"I0": [3]}, {"O": [2]})]
    with pytest.raises(ValueError, match="the logic has a loop"):
        longest_path(module(ring))
