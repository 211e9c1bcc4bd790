"""The figures of a surrogate: the validation curve of its training, and how its showers compare with full simulation.

Functions take axes and numbers and return the axes, as in `diffhep.figures`, whose style and renderer they share.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffhep.figures import BLUE, ORANGE, png, single


def draw_training(records: Sequence[dict[str, Any]]) -> bytes:
    """The validation curve as a PNG image.

    Args:
        records: lines of the run's metrics: phase, step, loss, held_out.
    """
    phases = list(dict.fromkeys(record["phase"] for record in records))

    def fill(figure: Figure) -> None:
        for i, phase in enumerate(phases):
            training_curve(
                figure.add_subplot(1, len(phases), i + 1), phase, [r for r in records if r["phase"] == phase]
            )

    return png(fill, width=4.5 * len(phases), height=4.2)


def training_curve(ax: Axes, phase: str, records: Sequence[dict[str, Any]]) -> Axes:
    """Loss of one phase against steps, on the showers trained on and on those held out."""
    steps = [record["step"] for record in records]
    ax.plot(steps, [record["loss"] for record in records], color=BLUE, marker="o", label="trained on")
    ax.plot(steps, [record["held_out"] for record in records], color=ORANGE, marker="s", label="held out")
    ax.set(title=phase, xlabel="step", ylabel="loss")
    ax.legend()
    return ax


def draw_comparison(
    real: Float[np.ndarray, "shower layer"],
    made: Float[np.ndarray, "shower layer"],
    energy: Float[np.ndarray, " shower"],
) -> dict[str, bytes]:
    """Name -> PNG image: mean profile, and distribution of the visible share."""
    return {
        "profile": single(lambda ax: profile(ax, real, made)),
        "share": single(lambda ax: share(ax, real.sum(axis=1) / energy, made.sum(axis=1) / energy)),
    }


def profile(ax: Axes, real: Float[np.ndarray, "shower layer"], made: Float[np.ndarray, "shower layer"]) -> Axes:
    """Mean energy of every layer."""
    layer = np.arange(real.shape[1])
    error = real.std(axis=0) / np.sqrt(len(real))
    ax.errorbar(layer, 1e3 * real.mean(axis=0), 1e3 * error, fmt="o", color=BLUE, label="Geant4")
    ax.step(layer, 1e3 * made.mean(axis=0), where="mid", color=ORANGE, label="surrogate")
    ax.set(xlabel="layer", ylabel="mean energy in the active slab [MeV]")
    return ax


def share(ax: Axes, real: Float[np.ndarray, " shower"], made: Float[np.ndarray, " shower"]) -> Axes:
    """Distribution of the visible share of the energy."""
    edges = np.linspace(0, max(real.max(), made.max()), 61)
    ax.hist(real, edges, histtype="stepfilled", color=BLUE, alpha=0.4, label="Geant4")
    ax.hist(made, edges, histtype="step", color=ORANGE, linewidth=1.5, label="surrogate")
    ax.set(xlabel="visible share of the energy", ylabel="showers")
    return ax
