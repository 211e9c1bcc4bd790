"""The figure of a search over a black box: objective and parameters against the events spent.

Functions take axes and numbers and return the axes, as in `diffhep.figures`, whose style and renderer they share.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffhep.figures import BLUE, GREY, ORANGE, RED, png

# what an update did -> marker and colour
ACTIONS = {
    "step": ("o", BLUE),
    "rejected": ("x", RED),
    "more events": ("s", ORANGE),
    "narrower": ("v", ORANGE),
    "refused": ("D", GREY),
    "stop": ("D", GREY),
}


def draw_search(result: dict[str, Any]) -> bytes:
    """A search as a PNG image: the objective, and every parameter.

    Args:
        result: of `BlackBoxResult.summary`.
    """

    def fill(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        objective(left, result)
        parameters(right, result)

    return png(fill, width=12.0)


def objective(ax: Axes, result: dict[str, Any]) -> Axes:
    """Objective at the centre of every update, with the surrogate's error; at the end from events of its own."""
    for action, (marker, colour) in ACTIONS.items():
        seen = [u for u in result["updates"] if u["action"] == action]
        if seen:
            ax.errorbar(
                [u["events"] for u in seen],
                [u["value"] for u in seen],
                [u["value_error"] for u in seen],
                fmt=marker,
                color=colour,
                label=action,
            )
    ax.errorbar([result["events"]], [result["objective"]], [result["stderr"]], fmt="*", color="black", label="measured")
    ax.set(xlabel="events simulated", ylabel="objective")
    ax.legend()
    return ax


def parameters(ax: Axes, result: dict[str, Any]) -> Axes:
    """Every parameter relative to where it ends; where it ends at zero, the difference."""
    events = [u["events"] for u in result["updates"]] + [result["events"]]
    for name, end in result["parameters"].items():
        values = [u["design"][name] for u in result["updates"]] + [end]
        ax.step(events, [v / end if end else v for v in values], where="post", marker=".", label=name)
    ax.set(xlabel="events simulated", ylabel="value / final value")
    ax.legend()
    return ax
