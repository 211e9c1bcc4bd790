"""The figures of an analysed workspace: pulls, impacts, likelihood scans, Brazil band, yields before and after the fit.

Functions take axes and numbers and return the axes, as in `diffhep.figures`, whose style and renderer they share.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffhep.figures import BLUE, CONTINUUM, GREY, MOST_ROWS, ORANGE, RED, legend_below, literal, png, single
from diffhep.inference import Analysis, HypothesisTest, Yields

# the field's own colours for one and two standard deviations, in the shades that colour-blind readers tell apart
ONE_SIGMA, TWO_SIGMA = "#607641", "#F5BB54"
SAMPLES = (BLUE, ORANGE, "#964a8b", "#9c9ca1", "#7a21dd", "#a96b59", "#92dadd", "#717581")
POINTS = 32  # of the Brazil band: four batches of fits


def draw(analysis: Analysis, result: Mapping[str, Any], scans: Mapping[str, Any]) -> dict[str, bytes]:
    """Name -> PNG image of everything that can be shown; what did not converge is left out.

    Args:
        analysis: the analysed workspace.
        result: what `diffhep infer` prints.
        scans: parameter -> its likelihood scan.
    """
    images: dict[str, bytes] = {}
    fitted = result["fit"]["converged"]
    if fitted:
        rows = [(name, p) for name, p in result["fit"]["parameters"].items() if p.get("constraint") is not None]
        if rows:
            images["pulls"] = single(lambda ax: pulls(ax, rows), height=rows_high(len(rows)))
        for name, scan in scans.items():
            key = "scan" if name == analysis.poi else f"scan_{file_name(name)}"
            images[key] = single(lambda ax, scan=scan: likelihood_scan(ax, scan))
        for c, channel in enumerate(analysis.model.structure.channels):
            images[f"yields_{file_name(channel)}"] = png(
                lambda figure, c=c: yields(figure, analysis, c), width=11.5, height=5.6
            )
        ranked = [row for row in result.get("impacts") or () if row["converged"]]
        if ranked:
            images["impacts"] = png(
                lambda figure: ranking(figure, ranked, poi=analysis.poi), width=8.6, height=rows_high(len(ranked))
            )
    if result["limit"]["converged"]:
        limit = result["limit"]
        strengths = np.linspace(0.0, 1.25 * max(limit["observed"], limit["expected"][-1]), POINTS)
        test = analysis.test(strengths)
        images["brazil_band"] = single(lambda ax: brazil_band(ax, test, limit, poi=analysis.poi))
    return images


def file_name(name: str) -> str:
    """A name as a file can have it."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def rows_high(count: int) -> float:
    """Height of a figure with one row for each parameter [inch]."""
    return 1.8 + 0.28 * min(count, MOST_ROWS)


def titled(ax: Axes, text: str) -> Axes:
    """The axes with a title on the right."""
    ax.set_title(text, loc="right", fontsize=12)
    return ax


def pulls(ax: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Axes:
    """Pulls of the constrained parameters and their uncertainties, in units of those before the fit, largest on top.

    More than `MOST_ROWS` rows are cut at the smallest pulls.
    """
    shown = sorted(rows, key=lambda row: -abs(row[1]["pull"]))[:MOST_ROWS]
    places = np.arange(len(shown))
    ax.axvspan(-2, 2, color=TWO_SIGMA, alpha=0.5, lw=0, label=r"$\pm 2\sigma$ before the fit")
    ax.axvspan(-1, 1, color=ONE_SIGMA, alpha=0.5, lw=0, label=r"$\pm 1\sigma$ before the fit")
    ax.axvline(0.0, color=GREY, lw=1.0)
    pull, error = (np.array([p[key] for _, p in shown]) for key in ("pull", "constraint"))
    ax.errorbar(pull, places, xerr=error, fmt="o", color="black", ms=5, lw=1.4, capsize=2, label="after the fit")
    reach = max(2.5, 1.1 * float(np.max(np.abs(pull) + error)))
    ax.set_xlim(-reach, reach)
    name_rows(ax, [name for name, _ in shown])
    ax.set_xlabel(r"$(\hat\theta - \theta_0)/\Delta\theta$")
    return titled(ax, f"{len(rows)} constrained parameters" + (f", {MOST_ROWS} shown" if len(rows) > MOST_ROWS else ""))


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row for every name, the first on top."""
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=10)
    ax.tick_params(axis="y", which="both", length=0)


def ranking(figure: Figure, rows: Sequence[Mapping[str, Any]], *, poi: str) -> Figure:
    """Pulls beside the impacts on the parameter of interest, largest impact on top.

    More than `MOST_ROWS` rows are cut at the smallest impacts.
    """
    shown = rows[:MOST_ROWS]
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.4))
    places = np.arange(len(shown))
    for key, colour, hatch, label in (("up", BLUE, "", r"$+1\sigma$"), ("down", ORANGE, "///", r"$-1\sigma$")):
        width = [row[key] for row in shown]
        right.barh(places, width, height=0.7, color=colour, alpha=0.75, hatch=hatch, ec="white", lw=0, label=label)
    linear = [row["linear"] for row in shown]
    right.plot(linear, places, "|", color="black", ms=9, mew=1.4, ls="", label="first order")
    right.axvline(0.0, color=GREY, lw=1.0)
    reach = 1.15 * max(max(abs(row[key]) for key in ("up", "down", "linear")) for row in shown)
    right.set_xlim(-(reach or 1.0), reach or 1.0)
    right.set_xlabel(literal(f"Impact on {poi}"))
    known = [(i, row) for i, row in enumerate(shown) if row.get("constraint") is not None]
    left.axvspan(-1, 1, color=ONE_SIGMA, alpha=0.4, lw=0)
    if known:
        at, pull, error = zip(*((i, row["pull"], row["constraint"]) for i, row in known), strict=True)
        left.errorbar(pull, at, xerr=error, fmt="o", color="black", ms=5, lw=1.4, capsize=2, label="pull")
        widest = max(abs(x) + s for x, s in zip(pull, error, strict=True))
        left.set_xlim(-max(2.0, 1.1 * widest), max(2.0, 1.1 * widest))
    left.set_xlabel(r"$(\hat\theta - \theta_0)/\Delta\theta$")
    name_rows(left, [row["name"] for row in shown])
    right.tick_params(axis="y", which="both", length=0)
    titled(right, f"{len(rows)} parameters" + (f", {MOST_ROWS} shown" if len(rows) > MOST_ROWS else ""))
    legend_below(figure, right, columns=3)
    return figure


def likelihood_scan(ax: Axes, scan: Mapping[str, Any]) -> Axes:
    """Twice the rise of the profiled likelihood above its minimum, with the levels of one and two sigma."""
    rise = np.array(scan["twice_delta_nll"], dtype=float)
    ax.plot(scan["values"], rise, color=BLUE)
    top = max(1.2, float(np.nanmax(rise))) if np.any(np.isfinite(rise)) else 1.2
    for level, line, label in ((1.0, "--", "68.3 %"), (3.841459, ":", "95 %")):
        if level < 1.1 * top:
            ax.axhline(level, color="black", linestyle=line, lw=1.2, label=label)
    ax.set_xlim(scan["values"][0], scan["values"][-1])
    ax.set_ylim(0.0, 1.05 * top)
    ax.set_xlabel(literal(scan["parameter"]))
    ax.set_ylabel(r"$2\,\Delta\,$NLL")
    return titled(ax, "all other parameters profiled")


def brazil_band(ax: Axes, test: HypothesisTest, limit: Mapping[str, Any], *, poi: str) -> Axes:
    """CLs against the signal strength: observed, expected with its bands, and the limit where it crosses."""
    mu, expected, level = np.asarray(test.mu), np.asarray(test.expected), 1 - limit["level"]
    ax.fill_between(mu, expected[0], expected[4], color=TWO_SIGMA, lw=0, label=r"expected $\pm 2\sigma$")
    ax.fill_between(mu, expected[1], expected[3], color=ONE_SIGMA, lw=0, label=r"expected $\pm 1\sigma$")
    ax.plot(mu, expected[2], color="black", linestyle="--", lw=1.4, label="expected")
    ax.plot(mu, test.observed, color="black", marker="o", ms=3, lw=1.4, label="observed")
    ax.axhline(level, color=RED, lw=1.3, label=f"CLs = {level:.2g}")
    ax.axvline(limit["observed"], color=RED, linestyle=":", lw=1.3, label=f"limit {limit['observed']:.3g}")
    ax.set_xlim(mu[0], mu[-1])
    ax.set_ylim(0.0, 1.0)
    ax.set_xlabel(literal(poi))
    ax.set_ylabel("CLs")
    return titled(ax, f"{limit['level']:.0%} confidence level")


def yields(figure: Figure, analysis: Analysis, channel: int) -> Figure:
    """Stacked samples of one channel with the data, before and after the fit, and data over expectation below."""
    t, after = analysis.model.structure, analysis.after
    bins = t.bins[channel]
    grid = np.asarray(analysis.model.grid(analysis.data.counts))
    mask = np.asarray(analysis.model.mask)[channel, :bins] > 0
    data = np.where(mask, grid[channel, :bins], np.nan)
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(2.4, 1))
    for column, (title, part) in enumerate((("before the fit", after.before), ("after the fit", after.after))):
        stacked(axes[0, column], part, channel, t.samples[channel], data)
        titled(axes[0, column], literal(f"{t.channels[channel]}, {title}"))
        ratio(
            axes[1, column], np.asarray(part.total)[channel, :bins], np.asarray(part.uncertainty)[channel, :bins], data
        )
    axes[0, 0].set_ylabel("Events / bin")
    axes[1, 0].set_ylabel("Data / expected")
    for ax in axes[1]:
        ax.set_xlabel("Bin")
    legend_below(figure, axes[0, 0], columns=6)
    return figure


def stacked(ax: Axes, part: Yields, channel: int, names: Sequence[str], data: Float[np.ndarray, " bin"]) -> Axes:
    """Samples on top of each other, with the uncertainty of their sum and the data with their Poisson errors."""
    bins = data.size
    edges, base = np.arange(bins + 1), np.zeros(bins)
    for s, name in enumerate(names):
        top = base + np.asarray(part.samples)[channel, s, :bins]
        colour = SAMPLES[s % len(SAMPLES)] if s < len(SAMPLES) else CONTINUUM
        ax.stairs(top, edges, baseline=base, fill=True, color=colour, alpha=0.85, label=literal(name))
        base = top
    total, error = (np.asarray(x)[channel, :bins] for x in (part.total, part.uncertainty))
    ax.stairs(total, edges, color="black", lw=1.0)
    band = {"fill": True, "fc": "none", "ec": "#444444", "hatch": "////", "lw": 0.0}
    ax.stairs(total + error, edges, baseline=total - error, label="uncertainty", **band)
    ax.errorbar(edges[:-1] + 0.5, data, np.sqrt(data), fmt="o", color="black", ms=5, lw=1.3, label="data")
    ax.set_xlim(0, bins)
    ax.set_ylim(0.0, None)
    return ax


def ratio(
    ax: Axes, total: Float[np.ndarray, " bin"], error: Float[np.ndarray, " bin"], data: Float[np.ndarray, " bin"]
) -> Axes:
    """Data over expectation, with the relative uncertainty of the expectation around one."""
    safe = np.where(total > 0, total, np.nan)
    edges = np.arange(data.size + 1)
    relative = np.nan_to_num(error / safe)
    band = {"fill": True, "fc": "none", "ec": "#444444", "hatch": "////", "lw": 0.0}
    ax.stairs(1 + relative, edges, baseline=1 - relative, **band)
    ax.axhline(1.0, color=GREY, lw=1.0)
    ax.errorbar(edges[:-1] + 0.5, data / safe, np.sqrt(data) / safe, fmt="o", color="black", ms=5, lw=1.3)
    return ax
