"""The figure of the objective against the trigger's logic."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from diffhep.checked import Value
from diffhep.figures import FINAL, INITIAL, marked, with_unit
from diffhep.result import JudgedFront


def logic_front(
    ax: Axes, front: JudgedFront, designs: Sequence[tuple[str, float, Value]], *, symbol: str, unit: str
) -> Axes:
    """Hard objective on held-out events against what the logic takes.

    Args:
        ax: where to draw.
        front: the designs, each optimised within a limit of its own.
        designs: "initial" or "final", use of the budget, objective.
        symbol: of the objective.
        unit: of the budget.
    """
    used, value, error = (np.array([getattr(p, name) for p in front.points]) for name in ("used", "value", "stderr"))
    order = np.argsort(used)
    ax.errorbar(
        used[order], value[order], error[order], fmt="-o", color="black", ms=5, lw=1.2, capsize=3, label="front, hard"
    )
    for name, use, hard in designs:
        colour, shape = (FINAL, "s") if name == "final" else (INITIAL, "D")
        ax.errorbar(use, hard.value, hard.stderr, fmt=shape, ms=8, color=colour, capsize=3, label=f"{name}, hard")
    ax.set_xlabel(with_unit("Logic of the trigger's classifier", unit))
    ax.set_ylabel(symbol)
    return marked(ax)
