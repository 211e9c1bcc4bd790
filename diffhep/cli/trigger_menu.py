"""The verb of trigger menus: trigger menu."""

import time
from pathlib import Path
from typing import Any

import tyro

from diffhep.cli.options import parse
from diffhep.cli.terminal import print_json, progress_bar, start_jax


def trigger_menu(args: list[str]) -> int:
    """Rates, efficiencies and best thresholds of a menu: trigger menu CONFIG.toml -o DIR."""
    options = parse(
        "diffhep trigger menu",
        args,
        config=(Path, tyro.MISSING, "TOML file: budget, background, signals, seeds", None),
        output=(Path, tyro.MISSING, "folder of the result", ("-o",)),
        rate_budget=(str | None, None, "in place of the file's, with its unit, as in '30 kHz' [Hz]", ()),
    )
    start_jax()
    from diffhep.cli.menu_figures import draw_menu
    from diffhep.design.menu_run import run_menu
    from diffhep.io import RunFolder
    from diffhep.io.run import plain
    from diffhep.trigger.menu_config import read_menu

    changed = {} if options.rate_budget is None else {"rate": options.rate_budget}
    settings, words = read_menu(options.config, budget=changed)
    RunFolder(options.output).check_free()
    began = time.process_time()
    with progress_bar() as progress:
        result = plain(run_menu(settings, progress=progress))
    figures = draw_menu(result)
    # nothing is written before everything is there
    run = RunFolder.create(options.output, words)
    for name, image in figures.items():
        run.write_bytes(f"figures/{name}.png", image)
    run.write_json("result.json", result)
    if options.json:
        print_json({"folder": str(run.path), **result})
    else:
        print_menu(run.path, result, time.process_time() - began)
    return 0


def print_menu(folder: Path, result: dict[str, Any], seconds: float) -> None:
    """What a person wants to know about a menu; rates and efficiencies are those of the events kept back."""
    from rich.console import Console
    from rich.table import Table

    stages = list(result["stages"])
    last = result["stages"][stages[-1]]["held_out"]
    thresholds = Table(title="thresholds", title_justify="left")
    thresholds.add_column("cut")
    for stage in stages:
        thresholds.add_column(stage, justify="right")
    for row in result["thresholds"]:
        unit = f" {row['unit']}" if row["unit"] else ""
        note = " (fixed)" if row["fixed"] else ""
        thresholds.add_row(row["name"] + note, *(f"{row[stage]:.4g}{unit}" for stage in stages))
    seeds = Table(title=f"{stages[-1]} menu, held-out events", title_justify="left")
    signals = list(last["efficiency"])
    for name in ("seed", "prescale", "rate [Hz]", "pure [Hz]", *(f"eff. {name}" for name in signals)):
        seeds.add_column(name, justify="left" if name == "seed" else "right")
    for name, prescale in zip(result["seeds"], result["prescales"], strict=True):
        found = last["seeds"][name]
        kept = (with_error(last["efficiency"][s]["seeds"][name]) for s in signals)
        seeds.add_row(name, str(prescale), with_error(found["rate"]), with_error(found["pure"]), *kept)
    total = (with_error(last["efficiency"][s]) for s in signals)
    seeds.add_row("OR", "", with_error(last["rate"]), "", *total, style="bold")
    console = Console()
    console.print(thresholds, seeds)
    budget = result["budget"]
    print(f"{folder}: {with_error(last['rate'])} Hz of {budget['limit']:g} Hz ({budget['binding']}), {seconds:.0f} s")
    if last["bandwidth"] is not None:
        print(f"  {with_error(last['bandwidth'])} MB/s of {budget['bandwidth'] or float('nan'):g} MB/s")
    for stage in stages:
        found = result["stages"][stage]
        print(f"  {stage:8s} {result['objective']} {with_error(found['held_out']['objective'])}, ", end="")
        print(f"rate {found['design']['rate']['value']:.4g} Hz on the events of the optimisation")
    if "selected" in last:
        print(f"  significance of everything that the analysis selects {last['without_trigger']:.4g}; kept: ", end="")
        parts = last["selected"].items()
        print(", ".join(f"{name} {x['kept']['value']:.4g} of {x['all']['value']:.4g}" for name, x in parts))
    if search := result["search"]:
        print(f"  {search['agree']} of {search['starts']} starts agree; one more Hz buys {search['gain_per_hz']:.3g}")
    if not budget["held"]:
        over = with_error(budget["excess"])
        print(f"  the rate of the events kept back is above its budget by {over} Hz: more events are needed")


def with_error(found: dict[str, float]) -> str:
    """A number and its standard error, to the second digit of the error."""
    from math import floor, log10

    value, error = found["value"], found["stderr"]
    digits = 3 if error <= 0 else max(0, 1 - floor(log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
