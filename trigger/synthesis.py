"""What a network takes on a device, counted: Verilog in a folder of its own, and yosys on it."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffhep.trigger.lowering import Words, trace
from diffhep.trigger.project import DEFAULT_PART
from diffhep.trigger.rtl import write_rtl
from diffhep.trigger.verify_rtl import INSTALL
from diffhep.trigger.yosys import synthesise


def synthesised(
    function: Callable[..., Any], inputs: Words, *, levels_per_stage: int | None, input_register: bool = True
) -> dict[str, Any]:
    """What a function takes, as `diffhep.trigger.yosys.synthesise`, and da4ml's `cost`, `levels` and `cycles`.

    Args:
        function: of one event, such as the logits of a frozen network.
        inputs: shape and format of its words.
        levels_per_stage: adders between two registers; None for logic without a clock.
        input_register: whether a pipeline begins with a register.

    Raises:
        ValueError: yosys or da4ml is missing, or the function cannot be exported.
    """
    yosys = shutil.which("yosys")
    if yosys is None:
        msg = f"synthesis: yosys not found: {INSTALL['yosys']}"
        raise ValueError(msg)
    traced = trace(function, inputs)
    settings: dict[str, Any] = {"name": "trigger", "clock_period_ns": 5.0, "part": DEFAULT_PART}
    settings |= {"levels_per_stage": levels_per_stage, "input_register": input_register}
    with tempfile.TemporaryDirectory(prefix="diffhep-synthesis-") as name:
        folder = Path(name) / "project"
        card = write_rtl(folder, traced, **settings)
        found = synthesise(folder, "trigger", yosys)
    kept = ("luts", "flip_flops", "dsps", "longest_ns", "longest_cells", "tool")
    taken = {name: found[name] for name in kept}
    return taken | {"cost": card["estimated_luts"], "levels": card["levels"], "cycles": card["latency_cycles"]}
