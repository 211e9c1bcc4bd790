"""How yosys is asked to count: chains that are the sums they stand for, and take what carry chains take."""

import shutil
import subprocess

import pytest

from diffhep.trigger.yosys import CHAIN, CHAINS, TABLES, cells_of, total

pytestmark = pytest.mark.needs("yosys")

SUM = """\
module top (input {0} [{1}:0] a, input {2} [{3}:0] b, output [{4}:0] y);
  assign y = a {5} b;
endmodule
"""


@pytest.mark.parametrize("operator", ["+", "-"])
@pytest.mark.parametrize("signs", [("signed", "signed"), ("", ""), ("signed", "")])
@pytest.mark.parametrize("widths", [(7, 7, 8), (2, 9, 11), (9, 2, 4), (0, 0, 1)])
def test_a_chain_is_the_sum_it_stands_for(tmp_path, operator, signs, widths):
    (tmp_path / CHAINS).write_text(CHAIN)
    (tmp_path / "top.v").write_text(SUM.format(signs[0], widths[0], signs[1], widths[1], widths[2], operator))
    # proved for all values, by yosys's own solver
    script = f"read_verilog -sv top.v; hierarchy -top top; proc; equiv_opt -assert techmap -map {CHAINS}"
    done = subprocess.run(
        [str(shutil.which("yosys")), "-q", "-p", f"{script}; design -load postopt; select -assert-none t:$add t:$sub"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_sum_of_sums_takes_a_table_a_bit_of_each(tmp_path):
    words = ", ".join(f"input [7:0] x{n}" for n in range(6))
    (tmp_path / "top.v").write_text(
        f"module top ({words}, output [10:0] y); assign y = x0 + x1 + x2 + x3 + x4 + x5; endmodule"
    )
    cells = cells_of(tmp_path, "read_verilog -sv top.v", "top", str(shutil.which("yosys")))
    # five chains of eight bits and the carries between them; carry-save adders took 75
    assert total(cells, TABLES) <= 5 * 11
