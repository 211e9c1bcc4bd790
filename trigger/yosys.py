"""What logic takes, counted by yosys, an optional program of the system."""

import json
import os
import re
from pathlib import Path
from typing import Any

from diffhep.trigger.depth import UnknownCellError, longest_path
from diffhep.trigger.simulation import run_tool

COUNTS, NETLIST = "stat.txt", "netlist.json"
TABLES = "LUT[1-6]|INV"  # an inverter takes a lookup table too

# Yosys would merge sums of sums into trees of carry-save adders, two lookup tables a bit where a carry chain takes one;
# which words are added to which was settled before, and every adder becomes a chain of its own.
CHAINS, CHAIN = (
    "carry_chain.techmap",
    """\
(* techmap_celltype = "$add $sub" *)
module carry_chain (A, B, Y);
  parameter _TECHMAP_CELLTYPE_ = "";
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  localparam SUBTRACT = _TECHMAP_CELLTYPE_ == "$sub";
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_SIGNED != B_SIGNED || A_WIDTH == 0 || B_WIDTH == 0;
  wire [Y_WIDTH-1:0] propagate, carry;
  \\$alu #(.A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .A_WIDTH(A_WIDTH), .B_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH))
    chain (.A(A), .B(B), .CI(SUBTRACT), .BI(SUBTRACT), .X(propagate), .Y(Y), .CO(carry));
endmodule
""",
)


def cells_of(folder: Path, reading: str, top: str, yosys: str) -> dict[str, int]:
    """How many cells of each kind some logic takes on a Xilinx UltraScale+ device, without DSP and block memory.

    Args:
        folder: where yosys runs, and leaves the netlist and what it counted.
        reading: yosys's commands that read the logic.
        top: its outermost module.
        yosys: the program.
    """
    # -nowidelut: for a little less depth, functions of nine bits would take eight tables where two would do
    device = f"synth_xilinx -family xcup -top {top} -flatten -noiopad -nodsp -nobram -noclkbuf -nowidelut"
    chains = f"wreduce; opt_clean; techmap -map {CHAINS}; opt_clean"
    writing = f"tee -o {COUNTS} stat; write_json {NETLIST}"
    (folder / CHAINS).write_text(CHAIN, encoding="utf-8")
    script = "; ".join([reading, f"{device} -run begin:coarse", chains, f"{device} -run coarse:", writing])
    run_tool([yosys, "-q", "-p", script], folder, "yosys")
    cells: dict[str, int] = {}
    for line in (folder / COUNTS).read_text(encoding="utf-8").splitlines():
        # name and count stand in this order in yosys 0.23, in the other one in later releases
        row = re.fullmatch(r"\s*(?:([A-Z]\w*)\s+(\d+)|(\d+)\s+(?:\S+\s+)?([A-Z]\w*))\s*", line)
        if row is not None:
            cells[row[1] or row[4]] = int(row[2] or row[3])
    return cells


def total(cells: dict[str, int], pattern: str) -> int:
    """How many cells there are of the kinds of a pattern."""
    return sum(count for kind, count in cells.items() if re.fullmatch(pattern, kind))


def synthesise(folder: Path, name: str, yosys: str) -> dict[str, Any]:
    """What the logic takes on a Xilinx UltraScale+ device, by yosys, without DSP and block memory.

    Returns:
        `luts` (cells LUT1 to LUT6 and INV, since an inverter takes a table; Vivado packs pairs of small ones, so never
        compare with its tables), `flip_flops`, `carries`, `dsps`, `cells` (of each kind), `tool`, and `longest_ns`,
        `longest_cells`: the longest path between two registers, or through logic without any, as
        `diffhep.trigger.depth` estimates it; None where there are cells that it knows nothing of.
    """
    memory = folder / "src" / "memfiles"
    sources = " ".join(sorted(os.path.relpath(path, memory) for path in (folder / "src").rglob("*.v")))
    # a table may not become block memory, nor may its style ask for anything else
    reading = f"read_verilog -sv -defer {sources}; hierarchy -top {name}; setattr -unset rom_style */m:*"
    cells = cells_of(memory, reading, name, yosys)
    netlist = json.loads((memory / NETLIST).read_text(encoding="utf-8"))
    try:
        longest = longest_path(netlist["modules"][name])
    except UnknownCellError:
        longest = None
    version = run_tool([yosys, "-V"], folder, "yosys").split(" (")[0].strip()
    return {
        "luts": total(cells, TABLES),
        "flip_flops": total(cells, r"FD\w+"),
        "carries": total(cells, "CARRY[48]"),
        "dsps": total(cells, r"DSP\w+"),
        "longest_ns": longest and longest.ns,
        "longest_cells": longest and longest.cells,
        "cells": dict(sorted(cells.items())),
        "tool": f"{version}, xcup",
    }
