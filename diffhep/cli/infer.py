"""The verb that analyses a pyhf workspace: infer.

A number whose fits did not converge is never printed: `null` and a reason stand in its place, and the exit status is 1.
"""

import importlib.metadata
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tyro

from diffhep.cli.options import choose, parse
from diffhep.cli.terminal import print_json, start_jax

if TYPE_CHECKING:
    from diffhep.inference import Analysis, Workspace

VERSIONS = ("diffhep", "jax", "jaxlib", "equinox", "numpy", "scipy")
LEVEL = 0.95  # confidence level of the limits
POINTS = 31  # of a scan; with two batches of fits
T = TypeVar("T")


def infer(args: list[str]) -> int:
    """Fit, CLs, significance and upper limit of a pyhf workspace."""
    options = parse(
        "diffhep infer",
        args,
        workspace=(Path, tyro.MISSING, "pyhf workspace (JSON)", None),
        patch=(str | None, None, "JSON patch, or patch set as FILE:NAME", ()),
        measurement=(str | None, None, "measurement (default: the first)", ()),
        poi=(str | None, None, "parameter of interest (default: the measurement's)", ()),
        mu=(float, 1.0, "signal strength to test, positive", ()),
        toys=(int, 0, "pseudo-experiments for each hypothesis (default: asymptotic formulas only)", ()),
        seed=(int, 0, "of the pseudo-experiments", ()),
        impacts=(bool, False, "rank the parameters by their impact on the parameter of interest", ()),
        scan=(str | None, None, "likelihood scan of this parameter", ()),
        output=(Path | None, None, "run folder for result.json and figures (default: none)", ("-o",)),
    )
    check(options)
    start_jax()
    from diffhep.inference import Analysis

    began = time.perf_counter()
    workspace = opened(options)
    try:
        model, data = workspace.build(measurement=options.measurement, poi=options.poi)
        if model.poi < 0:
            msg = "the measurement names no parameter of interest; choose one with --poi"
            raise ValueError(msg)
        analysis = Analysis(model, data)
        if options.scan is not None:
            check_scan(analysis, options.scan)
    except ValueError as error:
        msg = f"{options.workspace}: {error}"
        raise ValueError(msg) from None
    timing = {"read_s": time.perf_counter() - began}
    result, scans = analysed(analysis, options, timing)
    result = {
        "workspace": str(options.workspace),
        "patch": options.patch,
        "measurement": options.measurement or workspace.measurements[0],
        "poi": analysis.poi,
        **result,
        "timing": timing,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    if options.output is not None:
        write(options, workspace, analysis, result, scans)
    if options.json:
        print_json(result)
    else:
        print_summary(result, options.output)
    return 0 if result["converged"] else 1


# --- bad input -------------------------------------------------------------------------------------------------------


def check(options: Any) -> None:
    """Refuses options that make no sense, and an output folder that is in use or cannot be made."""
    if not (np.isfinite(options.mu) and options.mu > 0):
        msg = f"--mu: a positive number is wanted, got {options.mu:g}"
        raise ValueError(msg)
    for name in ("toys", "seed"):
        if not 0 <= getattr(options, name) < 2**31:
            msg = f"--{name}: a number from 0 to {2**31 - 1} is wanted, got {getattr(options, name)}"
            raise ValueError(msg)
    if options.output is None:
        return
    folder: Path = options.output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        msg = f"{folder}: {what}; -o wants a new or an empty folder"
        raise ValueError(msg)
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        msg = f"{folder}: cannot be made, because {parent} cannot be written to"
        raise ValueError(msg)


def opened(options: Any) -> "Workspace":
    """The workspace, patched, with its channels sorted by name: components are then numbered as pyhf does."""
    from diffhep.inference import Workspace, read_workspace

    workspace = read_workspace(options.workspace)
    if options.patch is not None:
        patch = read_patch(options.patch)
        try:
            workspace = workspace.patched(patch)
        except ValueError as error:
            msg = f"{options.patch}: {error}"
            raise ValueError(msg) from None
    channels = sorted(workspace.spec["channels"], key=lambda channel: channel["name"])
    return Workspace({**workspace.spec, "channels": channels})


def read_patch(word: str) -> Any:
    """The operations of a JSON patch file, or of one member of a patch set, given as FILE or FILE:NAME."""
    from diffhep.inference import read_patchset
    from diffhep.io import read_json

    file, _, name = (word, "", "") if Path(word).exists() or ":" not in word else word.rpartition(":")
    content = read_json(file)
    if isinstance(content, list):
        if name:
            msg = f"{file}: is a patch, not a patch set, and has no {name!r}"
            raise ValueError(msg)
        return content
    patches = read_patchset(file)
    if not name and len(patches.names) != 1:
        msg = f"{file}: a patch set of {len(patches.names)}; choose one with --patch {file}:NAME"
        raise ValueError(msg)
    try:
        return patches[name or patches.names[0]]
    except ValueError as error:
        msg = f"{file}: {error}"
        raise ValueError(msg) from None


def check_scan(analysis: "Analysis", name: str) -> None:
    """Refuses the scan of a parameter that does not exist or cannot move."""
    from diffhep.inference import component_names

    names = analysis.model.names
    if name not in names and name in component_names(analysis.model):
        msg = f"--scan: {name!r} is profiled analytically, bin by bin, and cannot be scanned"
        raise ValueError(msg)
    choose(name, names, "parameter of --scan")
    if name in analysis.model.fixed:
        msg = f"--scan: the measurement holds {name!r} fixed"
        raise ValueError(msg)


# --- numbers ---------------------------------------------------------------------------------------------------------


def analysed(analysis: "Analysis", options: Any, timing: dict[str, float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the verb prints, and the scans that its figures show."""

    def timed(name: str, function: Callable[[], T]) -> T:
        began = time.perf_counter()
        out = function()
        timing[f"{name}_s"] = time.perf_counter() - began
        return out

    # on a twin, so that what is timed below is the run alone
    timed("compile", type(analysis)(analysis.model, analysis.data).compile)
    lost = analysis.impossible(np.asarray(analysis.data.counts), analysis.best.theta)
    out: dict[str, Any] = {"converged": True, "fit": timed("fit", lambda: fit_summary(analysis, lost))}
    out["cls"] = timed("cls", lambda: cls_summary(analysis, options.mu, lost))
    out["discovery"] = timed("discovery", lambda: discovery_summary(analysis, lost))
    out["limit"] = timed("limit", lambda: limit_summary(analysis, lost))
    fitted = out["fit"]["converged"]
    if options.impacts:
        out["impacts"] = timed("impacts", lambda: impact_ranking(analysis)) if fitted else None
    if options.toys:
        out["toys"] = timed("toys", lambda: toy_summary(analysis, options)) if fitted else None
    scans: dict[str, Any] = {}
    if fitted and options.output is not None:
        scans[analysis.poi] = timed("poi_scan", lambda: scan_summary(analysis, analysis.poi, out["limit"]))
    if options.scan is not None:
        scan = timed("scan", lambda: scan_summary(analysis, options.scan, out["limit"])) if fitted else None
        out["scan"] = scan
        scans |= {options.scan: scan} if scan is not None else {}
    parts = [out[name] for name in ("fit", "cls", "discovery", "limit", "toys") if out.get(name) is not None]
    out["converged"] = all(part["converged"] for part in parts)
    return out, scans


def number(x: Any) -> Any:
    """A number or a list of them for JSON; None for what is not finite."""
    x = np.asarray(x, dtype=float)
    return [number(part) for part in x] if x.ndim else (float(x) if np.isfinite(x) else None)


def verdict(good: Any, reason: str, **numbers: Any) -> dict[str, Any]:
    """The numbers if the fits behind them converged; none of them, and the reason, if not."""
    content = {name: number(x) for name, x in numbers.items()}
    flat = [x for part in content.values() for x in (part if isinstance(part, list) else [part])]
    if bool(good) and None not in flat:
        return {"converged": True, "reason": "converged", **content}
    nothing = {name: [None] * len(x) if isinstance(x, list) else None for name, x in content.items()}
    return {"converged": False, "reason": reason, **nothing}


def not_converged(gradient_norm: Any) -> str:
    """The reason when one of several fits failed."""
    size = float(np.max(gradient_norm))
    return f"a fit did not converge (gradient {size:.1e} uncertainties)" if np.isfinite(size) else "a fit is not finite"


def fit_summary(analysis: "Analysis", lost: str | None) -> dict[str, Any]:
    """Every parameter, twice the negative log-likelihood, goodness of fit."""
    best = analysis.best
    if lost or not best.converged:
        values = dict.fromkeys(("twice_nll", "parameters", "goodness_of_fit"))
        return {"converged": False, "reason": lost or best.reason, "steps": int(best.steps), **values}
    e, quality = analysis.after.estimates, analysis.goodness_of_fit()
    parameters = {}
    for i, name in enumerate(e.names):
        known = not (e.at_bound[i] or (e.uncertainty[i] == 0 and not e.held[i]))
        one = {"value": number(e.value[i]), "uncertainty": number(e.uncertainty[i]) if known else None}
        if e.width[i] > 0 and not e.held[i]:
            one["pull"] = number((e.value[i] - e.center[i]) / e.width[i])
            one["constraint"] = number(e.uncertainty[i] / e.width[i]) if known else None
        parameters[name] = {**one, "fixed": bool(e.held[i]), "at_bound": bool(e.at_bound[i])}
    return {
        "converged": True,
        "reason": best.reason,
        "gradient_norm": number(best.gradient_norm),
        "steps": int(best.steps),
        "twice_nll": number(analysis.after.twice_nll),
        "parameters": parameters,
        "goodness_of_fit": {name: number(getattr(quality, name)) for name in ("statistic", "ndf", "p_value")},
    }


def cls_summary(analysis: "Analysis", mu: float, lost: str | None) -> dict[str, Any]:
    """CLs of one strength with its bands."""
    found = analysis.test([mu])
    numbers = {name: getattr(found, name)[0] for name in ("observed", "cl_sb", "cl_b", "q", "q_asimov")}
    numbers["expected"] = found.expected[:, 0]
    good, reason = found.converged[0] and not lost, lost or not_converged(found.gradient_norm)
    return {"mu": mu, **verdict(good, reason, **numbers)}


def discovery_summary(analysis: "Analysis", lost: str | None) -> dict[str, Any]:
    """Observed and expected significance; none where data are impossible without signal, and Z infinite."""
    found, (_, without, nominal) = analysis.discovery(), analysis.base.theta
    observed, expected = np.asarray(analysis.data.counts), np.asarray(analysis.asimov(nominal).counts)
    alone = analysis.impossible(observed, without) or analysis.impossible(expected, without)
    lost = lost or (f"without signal: {alone}" if alone else None)
    numbers = {name: getattr(found, name) for name in ("observed", "expected", "p_value", "q0")}
    return verdict(found.converged and not lost, lost or not_converged(found.gradient_norm), **numbers)


def limit_summary(analysis: "Analysis", lost: str | None) -> dict[str, Any]:
    """Upper limits with their bands."""
    found = analysis.limit(LEVEL)
    reason = lost or f"CLs does not fall to {1 - LEVEL:.2g}, or a fit did not converge on the way"
    good = found.converged and not lost
    return {"level": LEVEL, **verdict(good, reason, observed=found.observed, expected=found.expected)}


def impact_ranking(analysis: "Analysis") -> list[dict[str, Any]]:
    """Impacts of all parameters but the one of interest, largest first."""
    e, found = analysis.after.estimates, analysis.impacts()
    poi, rows = e.names.index(analysis.poi), []
    determined = e.uncertainty[poi] > 0 or e.at_bound[poi]
    for i, name in enumerate(e.names):
        if name != analysis.poi and not e.held[i]:
            known = e.uncertainty[i] > 0 and determined
            good = found.converged[i] and known
            reason = "a fit did not converge" if known else "no uncertainty: on a bound, or undetermined"
            numbers = {key: getattr(found, key)[i] for key in ("up", "down", "linear")}
            row = {"name": name, **verdict(good, reason, **numbers)}
            if e.width[i] > 0:
                row |= {"pull": number(found.pull[i]), "constraint": number(found.constraint[i])}
            rows.append(row)
    return sorted(rows, key=lambda row: -max(abs(row["up"] or 0.0), abs(row["down"] or 0.0)))


def toy_summary(analysis: "Analysis", options: Any) -> dict[str, Any]:
    """CLs from pseudo-experiments."""
    found = analysis.toys(options.mu, toys=options.toys, seed=options.seed)
    reason = f"too few pseudo-experiments beyond the data to form a ratio, or too many failed ({int(found.failed)})"
    numbers = {name: getattr(found, name) for name in ("observed", "expected", "cl_sb", "cl_b")}
    out = verdict(True, reason, **numbers)
    # no toy beyond the data: the error is not known, which is no failure
    out["error"] = number(found.error) if out["converged"] else None
    return {"mu": options.mu, "toys": options.toys, "seed": options.seed, "failed": int(found.failed), **out}


def scan_summary(analysis: "Analysis", name: str, limit: dict[str, Any]) -> dict[str, Any]:
    """Twice the rise of the profiled likelihood within three uncertainties of the best fit."""
    e = analysis.after.estimates
    i = e.names.index(name)
    reach = 3 * float(e.uncertainty[i])
    if not reach:
        # on a bound: as far as the limit for the strength, three widths or part of the range for another
        strength = limit["observed"] if name == analysis.poi else None
        reach = strength or 3 * float(e.width[i]) or 0.1 * float(e.upper[i] - e.lower[i])
    low, high = max(e.value[i] - reach, e.lower[i]), min(e.value[i] + reach, e.upper[i])
    values = np.linspace(low, high, POINTS)
    fits = analysis.scan(name, values)
    rise = np.where(fits.converged, np.maximum(2 * (fits.nll - analysis.best.nll), 0.0), np.nan)
    return {"parameter": name, "values": number(values), "twice_delta_nll": number(rise)}


# --- people ----------------------------------------------------------------------------------------------------------


def write(options: Any, workspace: "Workspace", analysis: "Analysis", result: dict, scans: dict[str, Any]) -> None:
    """The run folder: configuration, the patched workspace, result and figures; everything is drawn before."""
    from diffhep.inference_figures import draw
    from diffhep.io import RunFolder

    began = time.perf_counter()
    images = draw(analysis, result, scans)
    result["timing"]["figures_s"] = time.perf_counter() - began
    result["figures"] = [f"figures/{name}.png" for name in images]
    config = {name: value for name, value in vars(options).items() if name not in ("json", "output")}
    run = RunFolder.create(options.output, {"verb": "infer", **config})
    workspace.write(run.path / "workspace.json")
    for name, image in images.items():
        run.write_bytes(f"figures/{name}.png", image)
    run.write_json("result.json", result)


def print_summary(result: dict[str, Any], folder: Path | None) -> None:
    """What a person wants to know."""
    fit, poi = result["fit"], result["poi"]
    if not fit["converged"]:
        print(f"fit FAILED: {fit['reason']}")
    else:
        quality = fit["goodness_of_fit"]
        p_value = "" if quality["p_value"] is None else f", p = {quality['p_value']:.3f}"
        print(f"fit: 2 NLL = {fit['twice_nll']:.6f}, goodness {quality['statistic']:.2f}/{quality['ndf']:g}{p_value}")
        for name, p in fit["parameters"].items():
            note = " fixed" if p["fixed"] else " on its bound" if p["at_bound"] else ""
            error = f"+- {p['uncertainty']:<10.4g}" if p["uncertainty"] is not None else "+- unknown   "
            print(f"  {name:28s} {p['value']:11.5g} {error}{note}".rstrip())
    for key, title in (("cls", f"CLs at {poi} = {result['cls']['mu']:g}"), ("limit", f"{LEVEL:.0%} limit on {poi}")):
        part = result[key]
        if part["converged"]:
            bands = ", ".join(f"{x:.4g}" for x in part["expected"])
            print(f"{title}: observed {part['observed']:.4g}; expected at -2 ... +2 sigma {bands}")
        else:
            print(f"{title}: FAILED: {part['reason']}")
    part = result["discovery"]
    if part["converged"]:
        print(f"discovery: Z = {part['observed']:.3f} (p = {part['p_value']:.3g}), expected {part['expected']:.3f}")
    else:
        print(f"discovery: FAILED: {part['reason']}")
    if part := result.get("toys"):
        error = "" if part["error"] is None else f" +- {part['error']:.2g}"
        done = f"{part['observed']:.4g}{error}" if part["converged"] else f"FAILED: {part['reason']}"
        print(f"CLs from {part['toys']} pseudo-experiments: {done} ({part['failed']} failed fits)")
    for row in (result.get("impacts") or [])[:20]:
        moved = f"{row['up']:+.4f} {row['down']:+.4f}" if row["converged"] else row["reason"]
        print(f"  impact of {row['name']:28s} {moved}")
    if folder is not None:
        print(f"run folder: {folder}")
