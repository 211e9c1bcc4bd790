"""The figures of a report: one function each, axes in, axes out.

Every function draws into the axes it is given, labels them with units and returns them; the caller chooses size and
style. `png` renders a figure with the Agg backend through matplotlib's object-oriented interface, in mplhep's style
used as a context, so that nothing global changes.

The colours are those of Petroff (arXiv:2107.02270), which people with colour-vision deficiencies can tell apart; what a
colour says, a marker or a line style says as well.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import mplhep
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diffhep.result import (
    Compared,
    Front,
    Grid,
    RateCurve,
    Resolution,
    Spectra,
    Spectrum,
    Starts,
    TurnOn,
    Value,
)

BLUE, ORANGE, RED, PURPLE, GREY, VIOLET = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"
INITIAL, FINAL, SIGNAL, FAKES, CONTINUUM = ORANGE, BLUE, RED, PURPLE, "#d4d4d8"
DPI = 150
LEAST = 1e-16  # an exact agreement is drawn here on a logarithmic axis
MOST_ROWS = 40
STYLE: dict[Any, Any] = {
    **mplhep.style.ROOT,
    "font.size": 13,
    "axes.linewidth": 1.2,
    "axes.labelsize": 14,
    "axes.unicode_minus": True,
    "lines.linewidth": 1.8,
    "xtick.major.size": 7,
    "xtick.minor.size": 3.5,
    "ytick.major.size": 7,
    "ytick.minor.size": 3.5,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "hatch.linewidth": 0.8,
}


def png(draw: Callable[[Figure], object], *, width: float = 6.8, height: float = 4.8) -> bytes:
    """A figure as a PNG image.

    Args:
        draw: fills an empty figure.
        width: of the figure [inch].
        height: of the figure [inch].

    Returns:
        The file's content, the same for the same figure: it holds no date.

    >>> png(lambda figure: figure.add_subplot())[1:4]
    b'PNG'
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def single(draw: Callable[[Axes], Axes], *, columns: int = 2, height: float = 4.8) -> bytes:
    """A figure of one pair of axes with its legend below, where it covers nothing."""

    def fill(figure: Figure) -> None:
        legend_below(figure, draw(figure.add_subplot()), columns=columns)

    return png(fill, height=height)


def legend_below(figure: Figure, ax: Axes, *, columns: int) -> None:
    """One legend under the figure for what the axes show."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)))


def marked(ax: Axes, note: str = "") -> Axes:
    """The axes with "Simulation" above on the left and a note on the right."""
    ax.set_title("Simulation", loc="left", fontsize=13, fontstyle="italic", fontweight="bold")
    ax.set_title(note, loc="right", fontsize=12)
    return ax


def literal(text: str) -> str:
    """A name as it is, even with a dollar sign, which would begin a formula."""
    return text.replace("$", r"\$")


def with_unit(name: str, unit: str) -> str:
    """An axis label."""
    return literal(f"{name} [{unit}]" if unit else name)


def ascent(ax: Axes, starts: Starts, initial: Value, final: Value, *, symbol: str) -> Axes:
    """Relaxed objective against steps for every start, and the hard values of both designs with their errors.

    Args:
        ax: where to draw.
        starts: all lanes of the ascent.
        initial: hard objective on held-out events.
        final: the same of the final design.
        symbol: of the objective.
    """
    steps = np.arange(starts.history.shape[0])
    seen = set()
    for lane, within in enumerate(starts.within_budget):
        kind = "start, ends within the budgets" if within else "start, ends over a budget"
        colour, line = ("#555555", "-") if within else (VIOLET, ":")
        label = None if kind in seen else kind
        ax.plot(steps, starts.history[:, lane], color=colour, linestyle=line, lw=1.4, label=label)
        seen.add(kind)
    for value, colour, line, name in ((final, FINAL, "-", "final"), (initial, INITIAL, "--", "initial")):
        ax.axhspan(value.value - value.stderr, value.value + value.stderr, color=colour, alpha=0.25, lw=0)
        ax.axhline(value.value, color=colour, linestyle=line, label=f"{name} design, hard $\\pm$ 1 std. error")
    ax.set_xlim(0, max(steps[-1], 1))
    ax.set_xlabel("Step of the gradient ascent")
    ax.set_ylabel(f"{symbol}, relaxed")
    return marked(ax, f"{starts.count} start{'s' if starts.count != 1 else ''}")


def mass_spectrum(ax: Axes, edges: Float[np.ndarray, " edge"], spectrum: Spectrum) -> Axes:
    """Expected events per bin, signal stacked on the background."""
    background, signal = spectrum.background, spectrum.signal
    ax.stairs(background, edges, fill=True, color=CONTINUUM, label="background")
    if spectrum.fakes is not None:
        ax.stairs(spectrum.fakes, edges, fill=True, color=FAKES, alpha=0.7, label="of which jets taken for photons")
    ax.stairs(background + signal, edges, baseline=background, fill=True, color=SIGNAL, label="signal")
    ax.stairs(background + signal, edges, color="black", lw=1.0)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, None)
    ax.set_ylabel(per_bin(edges))
    return ax


def background_subtracted(ax: Axes, edges: Float[np.ndarray, " edge"], spectrum: Spectrum) -> Axes:
    """Expected signal per bin and the statistical error that data would have in the bin, sqrt(S + B)."""
    signal = spectrum.signal
    error = np.sqrt(np.maximum(signal + spectrum.background, 0.0))
    band = {"fill": True, "fc": "none", "ec": GREY, "hatch": "////", "lw": 0.8}
    ax.stairs(error, edges, baseline=-error, label="statistical error of data in a bin", **band)
    ax.stairs(signal, edges, fill=True, color=SIGNAL, label="signal")
    ax.axhline(0.0, color="black", lw=0.8)
    ax.text(0.97, 0.93, f"signal: {np.sum(signal):.4g} events", ha="right", va="top", transform=ax.transAxes)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel(r"$m_{\gamma\gamma}$ [GeV]")
    return ax


def spectra(figure: Figure, content: Spectra) -> Figure:
    """Both designs beside each other: mass spectra above, without their background below, on common scales."""
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(2, 1.2))
    for column, (name, spectrum) in enumerate((("initial", content.initial), ("final", content.final))):
        above, below = grid[:, column]
        marked(mass_spectrum(above, content.edges, spectrum), f"{name} design, hard, held-out events")
        background_subtracted(below, content.edges, spectrum)
    for row in grid:
        row[1].set_ylabel("")
    top = max(np.max(part.background + part.signal) for part in (content.initial, content.final))
    grid[0, 0].set_ylim(0, 1.08 * top)
    grid[1, 0].set_ylabel("Without background")
    shown = {}
    for ax in grid[:, 0]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            shown[label] = handle
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown))
    return figure


def per_bin(edges: Float[np.ndarray, " edge"]) -> str:
    """What a histogram's vertical axis counts."""
    widths = np.diff(edges)
    return f"Events / {widths[0]:.3g} GeV" if np.allclose(widths, widths[0]) else "Events / bin"


def resolution_terms(ax: Axes, resolution: Resolution) -> Axes:
    """Terms of the relative energy resolution against the absorber thickness, with the final design marked."""
    lines = [(BLUE, "--"), (RED, "-."), (PURPLE, ":"), (ORANGE, (0, (5, 1, 1, 1, 1, 1))), (VIOLET, (0, (1, 1)))]
    others = [name for name in resolution.terms if name != "total"]
    if "total" in resolution.terms:
        ax.plot(resolution.absorber, 100 * resolution.terms["total"], color="black", lw=2.4, label="total")
    for i, name in enumerate(others):
        colour, line = lines[i % len(lines)]
        ax.plot(resolution.absorber, 100 * resolution.terms[name], color=colour, linestyle=line, label=literal(name))
    if resolution.constant is not None:
        ax.axhline(100 * resolution.constant, color=GREY, lw=1.2, label="constant")
    chosen = f"final design: {resolution.final:.3g} mm"
    ax.axvline(resolution.final, color="black", linestyle=(0, (2, 2)), lw=1.2, label=chosen)
    ax.set_xlim(resolution.absorber[0], resolution.absorber[-1])
    # leakage out of a thin calorimeter is a hundred times what matters at the optimum
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    largest = np.max([100 * term for term in resolution.terms.values()], axis=0)
    if np.all(largest > 0):
        ax.set_ylim(largest.min() / 80, 1.5 * largest.max())
    ax.set_xlabel("Absorber thickness of a layer [mm]")
    ax.set_ylabel(r"$\sigma_E/E$ [%]")
    return marked(ax, f"photons, $E$ = {resolution.energy:g} GeV")


def pareto_front(
    ax: Axes,
    front: Front,
    index: int,
    designs: Sequence[tuple[str, float, Value, Value]],
    *,
    objective: str,
    unit: str,
) -> Axes:
    """Best relaxed objective against one budget, with the designs of the run.

    Args:
        ax: where to draw.
        front: the optima.
        index: which of a point's used budgets is the front's.
        designs: "initial" or "final", use of the budget, objective relaxed and hard.
        objective: its name.
        unit: of the budget.
    """
    used = np.array([point.used[index] for point in front.points])
    value = np.array([point.objective for point in front.points])
    order = np.argsort(used)
    used, value = used[order], value[order]
    # a point that costs more and finds less is dominated
    best = value >= np.maximum.accumulate(value)
    ax.plot(used[best], value[best], "-o", color="black", ms=5, lw=1.4, label="front, relaxed")
    if not best.all():
        ax.plot(used[~best], value[~best], "x", color=GREY, ms=6, label="dominated")
    for name, use, relaxed, hard in designs:
        colour, shape = (FINAL, "s") if name == "final" else (INITIAL, "D")
        kinds = ((relaxed, "relaxed", colour), (hard, "hard", "white"))
        for number, kind, face in kinds:
            ax.errorbar(
                use,
                number.value,
                number.stderr,
                fmt=shape,
                ms=8,
                color=colour,
                mfc=face,
                mew=1.8,
                capsize=3,
                label=f"{name}, {kind}",
            )
    ax.set_xlabel(with_unit(front.constraint.capitalize(), unit))
    ax.set_ylabel(literal(objective[:1].upper() + objective[1:]))
    return marked(ax)


def thickness_scan(
    ax: Axes,
    grid: Grid,
    infeasible: Bool[np.ndarray, "first second"],
    best: tuple[int, int] | None,
    final: tuple[float, float] | None,
    *,
    symbol: str,
) -> Axes:
    """Hard objective over two geometry parameters; hatched where a budget is exceeded.

    Args:
        ax: where to draw.
        grid: the scan.
        infeasible: where a budget is exceeded.
        best: cell of the largest objective among the others.
        final: the two parameters of the final design.
        symbol: of the objective.
    """
    across, up = grid.axes
    value = grid.values("objective")
    edges = [midpoints(axis) for axis in (across, up)]
    widths = [np.diff(axis) for axis in edges]
    image = ax.pcolormesh(edges[0], edges[1], value.T, cmap="cividis")
    ax.figure.colorbar(image, ax=ax, pad=0.02).set_label(f"{symbol}, hard")
    middle, few = (np.nanmin(value) + np.nanmax(value)) / 2, value.size <= 81
    label = "over a budget"
    for i, j in np.ndindex(value.shape):
        hatched, objective = bool(infeasible[i, j]), float(value[i, j])
        left, low, width, height = (float(x) for x in (edges[0][i], edges[1][j], widths[0][i], widths[1][j]))
        if hatched:
            style = {"fc": "#ffffff66", "ec": "#333333", "hatch": "///", "lw": 0}
            ax.add_patch(Rectangle((left, low), width, height, label=label, **style))
            label = ""
        if few and np.isfinite(objective):
            colour = "black" if hatched or objective > middle else "white"
            box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.8} if hatched else None
            # in the lower part of the cell: the markers have the rest
            place = {"ha": "center", "va": "center", "size": 9}
            ax.text(float(across[i]), low + 0.17 * height, f"{objective:.2f}", color=colour, bbox=box, **place)
    if best is not None:
        raised = edges[1][best[1]] + 0.78 * widths[1][best[1]]
        ax.plot(across[best[0]], raised, "*", ms=14, color=RED, mec="white", ls="", label="best within the budgets")
    if final is not None:
        ax.plot(*final, "s", ms=8, color=FINAL, mec="white", mew=1.5, ls="", label="final design")
    ax.set_xlim(edges[0][0], edges[0][-1])
    ax.set_ylim(edges[1][0], edges[1][-1])
    ax.minorticks_off()
    ax.set_xlabel(with_unit(grid.names[0].capitalize(), grid.unit))
    ax.set_ylabel(with_unit(grid.names[1].capitalize(), grid.unit))
    return marked(ax, "held-out events")


def midpoints(axis: Float[np.ndarray, " point"]) -> Float[np.ndarray, " edge"]:
    """Edges of the cells around the points of an axis."""
    if len(axis) == 1:
        half = max(abs(axis[0]), 1.0) / 10
        return np.array([axis[0] - half, axis[0] + half])
    inner = (axis[1:] + axis[:-1]) / 2
    return np.concatenate([[2 * axis[0] - inner[0]], inner, [2 * axis[-1] - inner[-1]]])


def gradient_audit(ax: Axes, rows: Sequence[Compared], tolerance: float) -> Axes:
    """Relative deviation of every automatic derivative from its difference quotient, largest on top.

    More than `MOST_ROWS` rows are cut at the smallest deviations.
    """
    ranked = sorted(rows, key=lambda row: (row.passed, -row.relative))[:MOST_ROWS]
    kinds = (("agrees", True, "o", FINAL), ("FAILED", False, "X", RED))
    for name, passed, shape, colour in kinds:
        places = [i for i, row in enumerate(ranked) if row.passed is passed]
        if places:
            deviation = [max(ranked[i].relative, LEAST) for i in places]
            ax.hlines(places, LEAST, deviation, color=colour, lw=1.2, alpha=0.5)
            ax.plot(deviation, places, shape, color=colour, ms=7, ls="", label=name)
    ax.axvline(tolerance, color="black", linestyle="--", lw=1.3, label=f"tolerance {tolerance:g}")
    ax.set_xscale("log")
    ax.set_xlim(LEAST, max(10 * tolerance, 10 * max(row.relative for row in ranked)))
    ax.set_ylim(len(ranked) - 0.5, -0.5)
    ax.set_yticks(range(len(ranked)), [literal(row.name) for row in ranked], fontsize=10)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_xlabel("|automatic $-$ difference quotient| / scale")
    return marked(ax, f"{len(rows)} derivatives" if len(rows) <= MOST_ROWS else f"worst {MOST_ROWS} of {len(rows)}")


def turn_on(ax: Axes, content: TurnOn) -> Axes:
    """Trigger efficiency of both designs against the transverse momentum of the softer photon."""
    centres = (content.edges[1:] + content.edges[:-1]) / 2
    half = np.diff(content.edges) / 2
    kinds = ((content.initial, INITIAL, "D", "white", "initial"), (content.final, FINAL, "s", FINAL, "final"))
    for part, colour, shape, face, name in kinds:
        kept = np.array(part.filled)
        ax.errorbar(
            centres[kept],
            part.efficiency[kept],
            part.error[kept],
            half[kept],
            fmt=shape,
            ms=5,
            lw=1.2,
            color=colour,
            mfc=face,
            label=f"{name} design",
        )
    ax.axhline(1.0, color=GREY, lw=0.8)
    ax.set_xlim(content.edges[0], content.edges[-1])
    ax.set_ylim(0.0, 1.1)
    ax.set_xlabel(r"Generated $p_T$ of the subleading photon [GeV]")
    ax.set_ylabel("Trigger efficiency")
    return marked(ax, "hard trigger, held-out signal")


def rate_curve(ax: Axes, initial: RateCurve, final: RateCurve, *, budget: float | None) -> Axes:
    """Trigger rate of both designs against a common shift of the thresholds, with the budget."""
    for curve, colour, line, name in ((initial, INITIAL, "--", "initial design"), (final, FINAL, "-", "final design")):
        seen = curve.rate > 0
        shift, rate, error = curve.shift[seen], curve.rate[seen], curve.error[seen]
        # one event has an error of its own size: the band must end above zero on a logarithmic axis
        ax.fill_between(shift, np.maximum(rate - error, rate / 10), rate + error, color=colour, alpha=0.25, lw=0)
        ax.plot(shift, rate, color=colour, linestyle=line, label=name)
    if budget is not None:
        ax.axhline(budget, color="black", linestyle=(0, (4, 2)), lw=1.3, label=f"budget {budget:g} Hz")
    ax.axvline(0.0, color=GREY, lw=1.0)
    if np.any(initial.rate > 0) or np.any(final.rate > 0):
        ax.set_yscale("log")
    ax.set_xlim(min(initial.shift[0], final.shift[0]), max(initial.shift[-1], final.shift[-1]))
    ax.set_xlabel("Common shift of both thresholds [GeV]")
    ax.set_ylabel("Trigger rate [Hz]")
    return marked(ax, "hard trigger, held-out jets")
