"""The figures of a trigger menu, from what `result.json` holds."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffhep.figures import BLUE, GREY, ORANGE, PURPLE, RED, VIOLET, literal, marked, png, single

COLOURS = (BLUE, ORANGE, RED, PURPLE, VIOLET, "#717581", "#b9ac70", "#a96b59", "#e76300", "#92dadd")
LINES = ("-", "--", "-.", ":")
MOST_CURVES = 12


def draw_menu(result: dict[str, Any]) -> dict[str, bytes]:
    """Name -> PNG image: rates, overlap, one turn-on a signal and kind of object, and the front if there is one."""
    stage = list(result["stages"])[-1]
    last = result["stages"][stage]["held_out"]
    images = {
        "rates": png(lambda figure: rates(figure.add_subplot(), result, last), height=tall(result)),
        "overlap": png(lambda figure: overlap(figure, result["seeds"], last), width=8.0, height=1.6 + tall(result)),
    }
    for signal, kinds in result["turn_on"].items():
        for kind, content in kinds.items():
            # a name of a file may hold none of the characters that a key of a TOML file may
            name = "".join(c if c.isalnum() or c in "-_" else "_" for c in f"turn_on_{signal}_{kind}")
            images[name] = single(lambda ax, c=content, s=signal, k=kind: turn_on(ax, c, s, k), columns=3, height=5.6)
    if result["front"]:
        images["front"] = single(lambda ax: front(ax, result))
    return images


def tall(result: dict[str, Any]) -> float:
    """Height of a figure with one row a seed [inch]."""
    return max(3.6, 1.6 + 0.34 * len(result["seeds"]))


def rates(ax: Axes, result: dict[str, Any], found: dict[str, Any]) -> Axes:
    """Rate of every seed with the part that only it takes, and the OR beside its budget."""
    names, places = result["seeds"], np.arange(len(result["seeds"]) + 1)
    seed = [found["seeds"][name]["rate"] for name in names] + [found["rate"]]
    pure = [found["seeds"][name]["pure"]["value"] for name in names]
    value, error = ([r[key] for r in seed] for key in ("value", "stderr"))
    ax.barh(places, value, xerr=error, color=[BLUE] * len(names) + [GREY], alpha=0.55, label="rate")
    ax.barh(places[:-1], pure, color=ORANGE, height=0.4, label="pure")
    ax.axvline(result["budget"]["limit"], color="black", linestyle="--", lw=1.3, label="budget")
    ax.set_yticks(places, [literal(name) for name in names] + ["OR"], fontsize=10)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_ylim(len(names) + 0.6, -0.6)
    ax.set_xlim(left=0.0)
    ax.set_xlabel("Rate [Hz]")
    ax.legend(loc="upper right")
    return marked(ax, "hard cuts, held-out events")


def overlap(figure: Figure, names: list[str], found: dict[str, Any]) -> Figure:
    """What share of the row's rate the column's seed keeps as well."""
    both = np.array(found["overlap"]["value"])
    own = np.diag(both)[:, None]
    share = np.where(own > 0, both / np.where(own > 0, own, 1.0), np.nan)
    ax = figure.add_subplot()
    image = ax.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(share):
        if np.isfinite(value):
            dark = "white" if value > 0.6 else "black"
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=dark)
    labels = [literal(name) for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=45, ha="right", fontsize=10)
    ax.set_yticks(range(len(names)), labels, fontsize=10)
    ax.tick_params(which="both", length=0)
    figure.colorbar(image, ax=ax, label="Share of the row's rate that the column keeps")
    marked(ax, "in per cent")
    return figure


def turn_on(ax: Axes, content: dict[str, Any], signal: str, kind: str) -> Axes:
    """Efficiency of the menu and of its seeds against the hardest object's pt before the trigger's resolution."""
    edges = np.array(content["edges"])
    centres = (edges[1:] + edges[:-1]) / 2
    for i, (name, curve) in enumerate(list(content["curves"].items())[:MOST_CURVES]):
        value, error = (np.array(curve[key], dtype=float) for key in ("value", "stderr"))
        colour = "black" if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
        line = LINES[((i - 1) // len(COLOURS) + i) % len(LINES)] if i else "-"
        ax.errorbar(centres, value, error, color=colour, ls=line, lw=2.4 if i == 0 else 1.4, label=literal(name))
    ax.axhline(1.0, color=GREY, lw=0.8)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0.0, 1.1))
    ax.set_xlabel(f"$p_T$ of the hardest {literal(kind)} [GeV]")
    ax.set_ylabel("Trigger efficiency")
    return marked(ax, f"{literal(signal)}, held-out events")


def front(ax: Axes, result: dict[str, Any]) -> Axes:
    """The objective against the rate, on the events of the optimisation, with the menu at each stage."""
    points = sorted(result["front"], key=lambda point: point["rate"])
    rate, objective = ([p[key] for p in points] for key in ("rate", "objective"))
    ax.plot(rate, objective, "o-", color=BLUE, label="best thresholds")
    for (name, stage), shape, colour in zip(result["stages"].items(), "Ds^", (ORANGE, RED, PURPLE), strict=False):
        found = stage["design"]
        ax.plot([found["rate"]["value"]], [found["objective"]["value"]], shape, color=colour, label=name)
    ax.axvline(result["budget"]["limit"], color="black", linestyle="--", lw=1.3, label="budget")
    ax.set(xscale="log", xlabel="Rate [Hz]", ylabel=result["objective"].capitalize())
    return marked(ax, "hard cuts, events of the optimisation")
