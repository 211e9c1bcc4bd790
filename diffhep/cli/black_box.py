"""The verb of simulators without gradients: black-box."""

from pathlib import Path
from typing import Any

import tyro

from diffhep.cli.options import parse
from diffhep.cli.terminal import print_json, progress_bar, start_jax


def black_box(args: list[str]) -> int:
    """Find the best design of a simulator that has no gradients, from its events alone."""
    options = parse(
        "diffhep black-box",
        args,
        file=(str, tyro.MISSING, "FILE.py[:NAME] that defines a BlackBox, or a function that makes one (box)", None),
        output=(Path, tyro.MISSING, "run folder", ("-o",)),
        events=(int, tyro.MISSING, "most that are simulated, in all", ()),
        radius=(float, 0.1, "first half width of the trust region, in raw leaves", ()),
        calls=(int, 1, "of the simulator at each point of an update", ()),
        significance=(float, 3.0, "standard deviations of a gradient below which no step is taken", ()),
        worth=(float, 0.001, "relative gain below which no more events are asked for", ()),
        seed=(int, 0, "of every random number", ()),
        resume=(bool, False, "go on with a killed run in the same folder: no event is simulated twice", ()),
    )
    name, _, attribute = options.file.partition(":")
    file = Path(name)
    asked = {key: getattr(options, key) for key in ("events", "radius", "calls", "significance", "worth", "seed")}
    start_jax()
    from diffhep.black_box_figures import draw_search
    from diffhep.design.black_box_run import hash_of, read_black_box, search_black_box
    from diffhep.io import RunFolder

    if not options.resume:
        RunFolder(options.output).check_free()
    box = read_black_box(file, attribute or "box")
    started = {"black_box": attribute or "box", "sha256": hash_of(file), "search": asked}
    if options.resume:
        run = RunFolder.open(options.output)
        check_same(run.config(), started, run.path, file)
    else:
        run = RunFolder.create(options.output, {"file": str(file), **started})
    with progress_bar() as progress:
        found = search_black_box(box, run, progress=progress, **asked)
    result = found.summary()
    run.write_bytes("figures/search.png", draw_search(result))
    if options.json:
        print_json(result)
    else:
        print_search(result, {c.name: (c.limit, c.unit) for c in box.constraints}, run.path)
    return 0


def check_same(stored: dict[str, Any], given: dict[str, Any], path: Path, file: Path) -> None:
    """A ValueError unless a run was started with this file and these options."""
    if stored.get("sha256") != given["sha256"]:
        msg = f"{path}: was started with another {file.name}; start in a new folder"
        raise ValueError(msg)
    for name, value in given["search"].items():
        before = stored.get("search", {}).get(name)
        if before != value:
            msg = f"{path}: was started with --{name} {before}, got {value}"
            raise ValueError(msg)


def print_search(result: dict[str, Any], limits: dict[str, tuple[float, str]], path: Path) -> None:
    """What a person wants to know after a search."""
    first = result["updates"][0]
    print(f"objective {first['value']:.5g} +- {first['value_error']:.2g} -> {result['objective']:.5g}", end=" ")
    print(f"+- {result['stderr']:.2g}, from {result['events']} events in {len(result['updates'])} updates")
    for name, value in result["parameters"].items():
        error = result["updates"][-1]["gradient_error"][name]
        slope = result["updates"][-1]["gradient"][name]
        print(f"  {name:24s} {first['design'][name]:10.4g} -> {value:10.4g}; slope there {slope:.2g} +- {error:.2g}")
    for name, value in result["used"].items():
        limit, unit = limits[name]
        print(f"  {name:24s} {value:10.4g} of {limit:.4g} {unit}")
    print(f"{result['verdict']}\n{path}: result.json, metrics.jsonl, figures/search.png")
