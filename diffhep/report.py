"""What a run shows to people: `report.html`, one file that needs no other, and its figures as PNG files.

Everything is read, checked and drawn before the first file is written, and every file is renamed into place: a broken
run leaves the folder as it was.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool

from diffhep import figures
from diffhep.checked import Value, read
from diffhep.io import RunFolder
from diffhep.logic_figures import logic_front
from diffhep.result import FPGA, RESULT, Budget, Compared, Grid, Parameter, Proof, Result, Starts
from diffhep.typeset import MISSING, count, number, percent, pm, seconds, shown, signed

PAGE = "report.html"
FOLDER = "figures"
NAMES = ("ascent", "spectrum", "resolution", "front", "logic", "scan", "audit", "turn_on", "rate")
CARDS = ("firmware/model_card.json", "classifier.json")
WITHIN = ("first_chunk",)  # timed inside another phase
SIGNIFICANT = 2.0  # standard errors
PROVENANCE = {"cross_section_pb": "cross-section [pb]", "generated": "events generated", "events": "events kept"}


def write_report(run: RunFolder) -> Path:
    """Write `report.html` and `figures/*.png` into a run folder.

    What the run lacks (a front, a scan, the proof of the firmware) is left out, with a sentence that says which command
    adds it.

    Args:
        run: a run with `result.json` and, if the firmware was proved, `fpga.json`.

    Returns:
        The page.

    Raises:
        ValueError: a file is missing or broken; one line that names it and the key. Nothing is written then.

    >>> write_report(RunFolder.open("runs/demo"))  # doctest: +SKIP
    PosixPath('runs/demo/report.html')
    """
    result = read(run, RESULT, Result)
    proof = read(run, FPGA, Proof) if run.has(FPGA) else None
    images = draw(result)
    text = page(result, proof, fixed_point_formats(run), images)
    for name in NAMES:
        if name in images:
            run.write_bytes(f"{FOLDER}/{name}.png", images[name])
        else:
            # of an earlier report
            (run.path / FOLDER / f"{name}.png").unlink(missing_ok=True)
    with run.replacing(PAGE) as file:
        file.write_text(text, encoding="utf-8")
    return run.path / PAGE


def draw(result: Result) -> dict[str, bytes]:
    """The figures of a result as PNG images, by name; those it has nothing for are left out."""
    pictures, symbol = result.pictures, symbol_of(result)[1]
    hard = result.initial.hard, result.final.hard
    images = {"ascent": figures.single(lambda ax: figures.ascent(ax, result.starts, *hard, symbol=symbol))}
    if (spectra := pictures.spectrum) is not None:
        images["spectrum"] = figures.png(lambda figure: figures.spectra(figure, spectra), width=12.5, height=6.4)
    if (resolution := pictures.resolution) is not None:
        images["resolution"] = figures.single(lambda ax: figures.resolution_terms(ax, resolution), columns=3)
    if (front := result.front) is not None:
        index = list(result.constraints).index(front.constraint)
        budget = result.constraints[front.constraint]
        designs = (
            ("initial", budget.initial, result.initial.relaxed, hard[0]),
            ("final", budget.value, result.final.relaxed, hard[1]),
        )
        settings = {"objective": result.objective, "unit": budget.unit}
        images["front"] = figures.single(
            lambda ax: figures.pareto_front(ax, front, index, designs, **settings), columns=3
        )
    if (logic := result.logic) is not None and logic.front is not None:
        found = logic.front
        budget = result.constraints[found.constraint]
        points = ("initial", budget.initial, hard[0]), ("final", budget.value, hard[1])
        images["logic"] = figures.single(lambda ax: logic_front(ax, found, points, symbol=symbol, unit=budget.unit))
    if (grid := result.grid) is not None:
        over = over_budget(grid, result.constraints)
        best, final = best_cell(grid, over), final_point(grid, result.parameters)
        images["scan"] = figures.single(
            lambda ax: figures.thickness_scan(ax, grid, over, best, final, symbol=symbol), columns=3, height=5.4
        )
    if result.audit:
        height = 2.0 + 0.24 * min(len(result.audit), figures.MOST_ROWS)
        images["audit"] = figures.single(
            lambda ax: figures.gradient_audit(ax, result.audit, result.audit_tolerance), columns=3, height=height
        )
    if (content := pictures.turn_on) is not None:
        images["turn_on"] = figures.single(lambda ax: figures.turn_on(ax, content))
    if (rates := pictures.rate) is not None:
        limit = result.constraints["rate"].limit if "rate" in result.constraints else None
        images["rate"] = figures.single(
            lambda ax: figures.rate_curve(ax, rates.initial, rates.final, budget=limit), columns=3
        )
    return images


def page(result: Result, proof: Proof | None, formats: dict[str, Any] | None, images: dict[str, bytes]) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "pm": pm, "count": count, "seconds": seconds}
    template = environment.from_string(files("diffhep").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    symbol = symbol_of(result)[0]
    sources = {name: "data:image/png;base64," + base64.b64encode(image).decode() for name, image in images.items()}
    return template.render(
        r=result,
        symbol=symbol,
        total=sum(t for phase, t in result.timing.items() if phase not in WITHIN),
        images=sources,
        proof=proof,
        formats=formats,
        verdict=verdict(result),
        warnings=warnings(result, proof),
        parameters=parameter_rows(result.parameters),
        constraints=[(name, b, met(b), worth(b, symbol)) for name, b in result.constraints.items()],
        doubtful=result.improvement.significance is not None and result.improvement.significance < SIGNIFICANT,
        best_start=max(result.starts.objectives),
        agreement=agreement(result.starts),
        audit=audited(result.audit, result.audit_tolerance),
        scan=scanned(result),
        provenance=provenance(result.data),
    )


# --- findings in words -----------------------------------------------------------------------------------------------


def symbol_of(result: Result) -> tuple[str, str]:
    """The symbol of the objective in text and in a figure: the last letter of its name if it ends with one."""
    last = result.objective.split()[-1:] or [""]
    return (last[0], f"${last[0]}$") if len(last[0]) == 1 and last[0].isalpha() else ("objective", "Objective")


def verdict(result: Result) -> str:
    """Whether the improvement is more than chance, in plain words."""
    gain, before = result.improvement, result.initial.hard.value
    share = f" ({signed(100 * gain.value / before, 2)} %)" if before else ""
    if gain.significance is None:
        return f"The objective changes by {signed(gain.value, 3)}{share}; it is exact, without statistical error."
    size = f"{abs(gain.significance):.1f}" if abs(gain.significance) < 1000 else "more than 1000"
    if gain.significance >= SIGNIFICANT:
        return f"The improvement is {pm(gain)}{share}: {size} standard errors, on the same held-out events."
    if gain.significance <= -SIGNIFICANT:
        return f"This is NOT a significant improvement but a loss: {pm(gain)}{share}, {size} standard errors below."
    return (
        f"The improvement of {pm(gain)}{share} is NOT significant: it is {size} standard errors, and less than "
        f"{SIGNIFICANT:g} may well be chance."
    )


def warnings(result: Result, proof: Proof | None) -> list[str]:
    """What a reader must know before believing the first sentence."""
    said = [f"The final design does not meet the budget of {name}: {met(b)}." for name, b in exceeded(result)]
    failed = sum(not row.passed for row in result.audit)
    if failed:
        said.append(f"{failed} of {len(result.audit)} gradients disagree with finite differences.")
    if not any(result.starts.within_budget):
        said.append("No start of the ascent ended within the budgets.")
    if proof is not None and proof.mismatches:
        said.append(f"The FPGA firmware is not bit-exact: {count(proof.mismatches)} outputs differ.")
    return said


def exceeded(result: Result) -> Iterable[tuple[str, Budget]]:
    """The constraints whose limit is exceeded by more than the statistical error explains."""
    return ((name, b) for name, b in result.constraints.items() if b.value - b.limit > allowance(b))


def allowance(budget: Budget) -> float:
    """How far above its limit a use still counts as met: rounding, and `SIGNIFICANT` standard errors."""
    return max(1e-9 * abs(budget.limit), SIGNIFICANT * budget.stderr)


def met(budget: Budget) -> str:
    """Whether a limit is met."""
    above = budget.value - budget.limit
    if above <= 1e-9 * abs(budget.limit):
        return "met"
    if budget.stderr == 0:
        return f"EXCEEDED by {number(above)} {budget.unit}".rstrip()
    far = f"{above / budget.stderr:.1f} standard errors"
    return f"{far} above" if above <= allowance(budget) else f"EXCEEDED by {far}"


def worth(budget: Budget, symbol: str) -> str:
    """A multiplier in words."""
    if not budget.active:
        return "does not bind: more is worth nothing"
    unit = f"{budget.unit} " if budget.unit else ""
    return f"one more {unit}is worth {number(budget.multiplier, 2)} in {symbol}"


def agreement(starts: Starts) -> str:
    """How many starts found the same optimum, and what that says."""
    if starts.count < 2:
        return "There was one start only, so nothing is known about other optima: give --search.starts a larger number."
    within = np.array(starts.within_budget)
    if not within.any():
        return f"None of {starts.count} starts ended within the budgets: give --search.steps a larger number."
    near = f"within {100 * starts.tolerance:g} % of the best, {number(float(starts.objectives[within].max()))}"
    said = f"{starts.agree} of {starts.count} starts end within the budgets and {near}"
    if 2 * starts.agree > starts.count:
        return f"{said}: no sign of a better optimum elsewhere."
    return f"{said}. Most end elsewhere, so the optimum may be a local one: give --search.steps a larger number."


def audited(rows: Sequence[Compared], tolerance: float) -> str:
    """How many gradients agree with finite differences."""
    passed = sum(row.passed for row in rows)
    worst = max((row.relative for row in rows), default=0.0)
    said = f"{passed} of {len(rows)} derivatives agree with central finite differences; the largest relative deviation"
    small = [row.name for row in rows if row.passed and row.relative > tolerance]
    more = f" (too small to be compared relatively, so compared absolutely: {', '.join(small)})" if small else ""
    return f"{said} is {number(worst, 2)}{more}."


# --- the thickness scan ----------------------------------------------------------------------------------------------


def over_budget(grid: Grid, constraints: dict[str, Budget]) -> Bool[np.ndarray, "first second"]:
    """Cells that exceed a limit by more than `allowance` or have no objective."""
    out = np.isnan(grid.values("objective"))
    for name, budget in constraints.items():
        out |= grid.values(name) - budget.limit > allowance(budget)  # nan, a use that is not known, compares as false
    return out


def best_cell(grid: Grid, over: Bool[np.ndarray, "first second"]) -> tuple[int, int] | None:
    """The cell of the largest objective within the budgets."""
    if over.all():
        return None
    value = np.where(over, -np.inf, grid.values("objective"))
    first, second = np.unravel_index(int(np.argmax(value)), value.shape)
    return int(first), int(second)


def final_point(grid: Grid, parameters: dict[str, Parameter]) -> tuple[float, float] | None:
    """The final design in the plane of the scan: the parameters whose names end like the axes'."""
    found = {name.rsplit(".", 1)[-1]: p.final for name, p in parameters.items()}
    first, second = grid.names
    return (found[first], found[second]) if first in found and second in found else None


def scanned(result: Result) -> str:
    """What the scan found."""
    if result.grid is None:
        return ""
    grid, symbol = result.grid, symbol_of(result)[0]
    outside = over_budget(grid, result.constraints)
    best = best_cell(grid, outside)
    share = f"{int(outside.sum())} of {outside.size} cells exceed a budget"
    if best is None:
        return f"{share}: none is left to compare with the final design."
    cell = grid.rows[best[0]][best[1]]
    found = Value(value=cell["objective"] or 0.0, stderr=cell.get("stderr") or 0.0)
    place = ", ".join(
        f"{name} {number(float(axis[i]), 3)} {grid.unit}".rstrip()
        for name, axis, i in zip(grid.names, grid.axes, best, strict=True)
    )
    return (
        f"{share}. The best of the others ({place}) has {symbol} = {pm(found)}, the final design "
        f"{pm(result.final.hard)}; all cells share the same held-out events."
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def parameter_rows(parameters: dict[str, Parameter]) -> list[tuple[str, Parameter, str]]:
    """Name, parameter and a remark; network weights are left out."""
    rows = []
    for name, p in parameters.items():
        if p.role == "weight":
            continue
        low, high = p.bounds or (-math.inf, math.inf)
        near = 1e-3 * (high - low) if p.bounds else 0.0
        end = "lower" if p.final - low <= near else "upper" if high - p.final <= near else ""
        rows.append((name, p, f"at its {end} bound, {number(low if end == 'lower' else high)}" if end else ""))
    return rows


def provenance(data: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Where the samples came from, as columns and rows."""
    keys = list(dict.fromkeys(key for sample in data.values() for key in sample))
    rows = [[name, *(shown(sample.get(key)) for key in keys)] for name, sample in data.items()]
    return {"columns": ["sample", *(PROVENANCE.get(key, key.replace("_", " ")) for key in keys)], "rows": rows}


def fixed_point_formats(run: RunFolder) -> dict[str, Any] | None:
    """Formats of the trigger's classifier from its model card, or from the classifier itself; None without either.

    Anything that is not understood is left out: both files have a schema and checks of their own, in `diffhep.trigger`.
    """
    for name in CARDS:
        card = run.read_json(name) if run.has(name) else None
        layers = card.get("layers") if isinstance(card, dict) else None
        if not isinstance(card, dict) or not isinstance(layers, list):
            continue
        if any(isinstance(layer, dict) and isinstance(layer.get("weight"), list) for layer in layers):
            continue  # learned, each word for itself: section "What a bit is worth"
        rows = [
            [str(layer.get(key, layer.get(f"{key}_format", MISSING))) for key in ("weight", "bias", "output")]
            for layer in layers
            if isinstance(layer, dict)
        ]
        period = card.get("clock_period_ns")
        clock = f"{number(period)} ns" if isinstance(period, int | float) else None
        settings = {"part": card.get("part"), "clock period": clock}
        known = {key: str(value) for key, value in settings.items() if value is not None}
        return {"input": str(card.get("input_format", MISSING)), "layers": rows, "settings": known}
    return None
