"""The verb of the trigger's firmware: trigger export, trigger verify."""

from pathlib import Path

import tyro

from diffhep.cli.options import choose, parse
from diffhep.cli.terminal import print_json, start_jax


def trigger(args: list[str]) -> int:
    """Export of the trigger to an FPGA project, and its proof."""
    action = choose(args[0] if args else "", ("export", "verify"), "trigger action")
    return {"export": trigger_export, "verify": trigger_verify}[action](args[1:])


def trigger_export(args: list[str]) -> int:
    """A run's trigger classifier as an hls4ml project."""
    options = parse(
        "diffhep trigger export",
        args,
        run=(Path, tyro.MISSING, "run folder", None),
        output=(Path, tyro.MISSING, "folder of the new project", ("-o",)),
        clock_period=(float, 5.0, "clock period [ns]", ()),
    )
    start_jax()
    from diffhep.design.firmware import export_run
    from diffhep.io import RunFolder

    card = export_run(RunFolder.open(options.run), options.output, clock_period_ns=options.clock_period)
    if options.json:
        print_json({"folder": str(options.output), "model_card": card})
    else:
        print(f"{options.output}: hls4ml project written; prove it with: diffhep trigger verify {options.output}")
    return 0


def trigger_verify(args: list[str]) -> int:
    """A project's C simulation against the integer emulation in JAX."""
    options = parse(
        "diffhep trigger verify",
        args,
        folder=(Path, tyro.MISSING, "folder of the project", None),
        n=(int, 100_000, "random inputs", ("-n",)),
        seed=(int, 0, "of the random inputs", ()),
    )
    start_jax()
    from diffhep.trigger import verify

    found = verify(options.folder, n=options.n, seed=options.seed)
    if options.json:
        print_json(found)
    else:
        print(f"{found['mismatches']} of {found['outputs']} outputs differ, for {found['inputs']} inputs")
    return 0 if found["mismatches"] == 0 else 1
