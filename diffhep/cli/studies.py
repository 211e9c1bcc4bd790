"""The verbs of design studies: optimise, evaluate, audit, studies, report."""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from diffhep.cli.options import parse, study_options
from diffhep.cli.terminal import print_json, progress_bar, start_jax
from diffhep.design.config import STUDIES
from diffhep.settings import settings_from


def optimise(args: list[str]) -> int:
    """Find the best design of a study within its budget."""
    name, options, settings = study_options(
        "optimise",
        args,
        output=(Path | None, None, "run folder (default: runs/STUDY)", ("-o",)),
        resume=(bool, False, "go on with a killed run in the same folder", ()),
        firmware=(bool, True, "export the trigger's classifier and prove it bit-exact (needs g++)", ()),
    )
    start_jax()
    from diffhep.design.optimise import optimise_study
    from diffhep.design.studies import open_study
    from diffhep.io import RunFolder
    from diffhep.report import write_report

    path = options.output or Path("runs") / name
    content = {"study": name, "settings": settings.model_dump(mode="json")}
    if options.resume:
        run = RunFolder.open(path)
        settings = resumed(run.config(), content, name, path)
        study = open_study(name, settings)
    else:
        RunFolder(path).check_free()
        study = open_study(name, settings)
        study.check_feasible()
        run = RunFolder.create(path, content)
    with progress_bar() as progress:
        result = optimise_study(study, run, progress, firmware=options.firmware)
    page = write_report(run)
    if options.json:
        print_json(result)
    else:
        print_outcome(result, page)
    return 0


def evaluate(args: list[str]) -> int:
    """A design on held-out events, relaxed and hard."""
    name, options, settings = study_options(
        "evaluate", args, design=(Path, dataclasses.MISSING, "design.json, or the run folder that holds it", ())
    )
    start_jax()
    from diffhep.design.design_file import read_design
    from diffhep.design.studies import open_study

    study = open_study(name, settings)
    with progress_bar() as progress:
        design = read_design(options.design, study, progress=progress)
        judged = {kind: study.judge(design, relaxed=kind == "relaxed") for kind in ("relaxed", "hard")}
    out: dict[str, Any] = {
        "study": name,
        **{kind: measured["objective"].summary() for kind, measured in judged.items()},
        "constraints": {
            c.name: {**judged["hard"][c.name].summary(), "limit": c.limit, "unit": c.unit}
            for c in study.problem.constraints
        },
    }
    if options.json:
        print_json(out)
    else:
        for kind in ("relaxed", "hard"):
            print(f"{study.objective_name}, {kind}: {out[kind]['value']:.4f} +- {out[kind]['stderr']:.4f}")
        for label, c in out["constraints"].items():
            print(f"{label}: {c['value']:.4g} +- {c['stderr']:.2g} {c['unit']} (limit {c['limit']:g})")
    return 0


def audit(args: list[str]) -> int:
    """Every gradient of a study against central finite differences."""
    name, options, settings = study_options(
        "audit", args, design=(Path | None, None, "where to compare; the initial design if left out", ())
    )
    start_jax()
    from diffhep.audit import table
    from diffhep.design.design_file import read_design
    from diffhep.design.studies import open_study

    study = open_study(name, settings)
    with progress_bar() as progress:
        design = (
            read_design(options.design, study, progress=progress)
            if options.design
            else study.initial(progress=progress)
        )
        rows = study.audit(design, seed=settings.search.seed, progress=progress)
    passed = all(row.passed for row in rows)
    if options.json:
        print_json({"study": name, "passed": passed, "rows": [vars(row) for row in rows]})
    else:
        print(table(rows))
    return 0 if passed else 1


def studies(args: list[str]) -> int:
    """The shipped studies."""
    options = parse("diffhep studies", args)
    found = {name: (model.__doc__ or "").strip().splitlines()[0] for name, model in STUDIES.items()}
    if options.json:
        print_json({"studies": found})
    else:
        for name, summary in found.items():
            print(f"{name:20s} {summary}")
    return 0


def report(args: list[str]) -> int:
    """Write a run's report again."""
    options = parse("diffhep report", args, run=(Path, tyro.MISSING, "run folder", None))
    from diffhep.io import RunFolder
    from diffhep.report import write_report

    page = write_report(RunFolder.open(options.run))
    if options.json:
        print_json({"report": str(page)})
    else:
        print(page)
    return 0


def resumed(stored: dict[str, Any], given: dict[str, Any], name: str, path: Path) -> Any:
    """The settings a run was started with; a ValueError if the study differs or an override contradicts them."""
    if stored.get("study") != name:
        msg = f"{path}: holds a run of study {stored.get('study')!r}, not {name!r}"
        raise ValueError(msg)
    model = STUDIES[name]
    settings = settings_from(model, stored["settings"], source=f"{path}/config.toml")
    asked = given["settings"]
    if asked not in (settings.model_dump(mode="json"), model().model_dump(mode="json")):
        msg = f"{path}: the run was started with other settings; resume it without overrides"
        raise ValueError(msg)
    return settings


def print_outcome(result: dict[str, Any], page: Path) -> None:
    """What a person wants to know after an optimisation."""
    for name, row in result["data"].items():
        if "deviation" in row:
            says = f"{row['surrogate']:.4g} by the surrogate, {row['geant4']:.4g} +- {row['stderr']:.2g} by Geant4"
            print(f"{name}: {says} ({100 * row['deviation']:+.1f} %); {row['showers_so_far']} showers so far")
    for row in (result["confirmation"] or {"designs": []})["designs"]:
        ours, geant4, off = (
            "no fit" if (x := row[name]) is None else f"{scale * x['value']:.4g} +- {scale * x['stderr']:.2g}"
            for name, scale in (("surrogate", 1), ("geant4", 1), ("deviation", 100))
        )
        says = f"Z = {ours} by the surrogate's showers, {geant4} by {row['showers']} of Geant4 ({off} %)"
        print(f"{row['design']:8s} {says}")
    gain, symbol = result["improvement"], result["objective"].split(" [")[0]
    symbol = symbol.split()[-1] if symbol.endswith(" Z") else symbol
    for name in ("initial", "final"):
        hard, relaxed = result[name]["hard"], result[name]["relaxed"]
        print(f"{name:8s} {symbol} = {hard['value']:.5g} +- {hard['stderr']:.2g} (relaxed {relaxed['value']:.5g})")
    if gain["significance"] is None:
        print(f"improvement {gain['value']:.4g}, without statistical error")
    else:
        verdict = "" if gain["significance"] > 2 else " - not significant"
        size = f"{gain['significance']:.1f} standard errors{verdict}"
        print(f"improvement {gain['value']:.3f} +- {gain['stderr']:.3f}: {size}")
    for name, p in result["parameters"].items():
        if p["role"] in ("geometry", "threshold"):
            print(f"  {name:24s} {p['initial']:10.4g} -> {p['final']:10.4g} {p['unit']}")
    for name, c in result["constraints"].items():
        worth = f"one more is worth {c['multiplier']:.3g}"
        print(f"  {name:24s} {c['value']:10.4g} of {c['limit']:.4g} {c['unit']}; {worth}")
    print(f"report: {page}")
