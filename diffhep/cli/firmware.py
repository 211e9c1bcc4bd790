"""The verb of triggers: trigger menu, train, anomaly, export, verify."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from diffhep.cli.options import one_of, parse
from diffhep.cli.terminal import print_json, start_jax
from diffhep.cli.trigger_anomaly import trigger_anomaly
from diffhep.cli.trigger_menu import trigger_menu
from diffhep.cli.trigger_training import trigger_train


def trigger(args: list[str]) -> int:
    """Triggers: menus and their rates; firmware trained, exported, proved."""
    verbs = {
        "menu": trigger_menu,
        "train": trigger_train,
        "anomaly": trigger_anomaly,
        "export": trigger_export,
        "verify": trigger_verify,
    }
    return one_of(verbs, args, "diffhep trigger", "trigger action")


def trigger_export(args: list[str]) -> int:
    """A run's trigger classifier, or a trained trigger for another clock, as an hls4ml project and as Verilog."""
    options = parse(
        "diffhep trigger export",
        args,
        run=(Path, tyro.MISSING, "run folder, also of trigger train or trigger anomaly", None),
        output=(Path, tyro.MISSING, "folder of the new project", ("-o",)),
        clock_period=(float | None, None, "clock period [ns]; that of the run, or 5", ()),
        verilog=(bool, True, "also write Verilog, where da4ml is installed", ()),
        levels=(
            int | None,
            None,
            "adders between two registers of the Verilog, 0 for logic without a clock; those of the run, or 5",
            (),
        ),
        input_register=(bool | None, None, "begin a trained trigger's Verilog with a register; as the run, or yes", ()),
    )
    start_jax()
    from diffhep.design.firmware import export_run
    from diffhep.io import RunFolder
    from diffhep.trigger.trained import export_training, is_training
    from diffhep.trigger.verify_rtl import INSTALL

    missing = {"da4ml": INSTALL["da4ml"]} if options.verilog and find_spec("da4ml") is None else {}
    if is_training(options.run):
        if not options.verilog:
            msg = f"--no-verilog: both routes of {options.run} are written from one logic; leave the option out"
            raise ValueError(msg)
        timing = {name: getattr(options, name) for name in ("clock_period", "levels", "input_register")}
        card = export_training(options.run, options.output, **timing)
    else:
        run = RunFolder.open(options.run)
        if options.input_register is not None:
            msg = f"--input-register: {options.run} is a run of a study, whose Verilog always begins with a register"
            raise ValueError(msg)
        levels = 5 if options.levels is None else options.levels
        period = 5.0 if options.clock_period is None else options.clock_period
        timing = {"clock_period_ns": period, "levels_per_stage": levels or None}
        card = export_run(run, options.output, **timing, verilog=options.verilog and not missing)
    say_missing(missing)
    if options.json:
        print_json({"folder": str(options.output), "model_card": card, "missing": missing})
    else:
        both = "rtl" in card or is_training(options.output)
        written = "hls4ml project and Verilog" if both else "hls4ml project"
        print(f"{options.output}: {written} written; prove it with: diffhep trigger verify {options.output}")
    return 0


def trigger_verify(args: list[str]) -> int:
    """A project's C simulation and Verilog against the integer emulation in JAX."""
    options = parse(
        "diffhep trigger verify",
        args,
        folder=(Path, tyro.MISSING, "folder of the project", None),
        n=(int, 100_000, "random inputs", ("-n",)),
        seed=(int, 0, "of the random inputs", ()),
        events=(Path | None, None, "NumPy file (.npy) of real events to compare as well, (event, feature)", ()),
        synthesis=(bool, True, "count LUTs and flip-flops of the Verilog, where yosys is installed", ()),
        timing=(bool, False, "place and route the Verilog for its clock, where nextpnr is installed (minutes)", ()),
    )
    start_jax()
    from diffhep.trigger import verify
    from diffhep.trigger.trained import is_training, verify_training

    events = None if options.events is None else read_rows(options.events)
    also = {"synthesis": options.synthesis, "timing": options.timing}
    if is_training(options.folder):
        found = verify_training(options.folder, n=options.n, seed=options.seed, features=events, **also)
    else:
        found = verify(options.folder, n=options.n, seed=options.seed, inputs=events, **also)
    say_missing(found["missing"])
    if options.json:
        print_json(found)
    else:
        print(f"{found['mismatches']} of {found['outputs']} outputs differ, for {found['inputs']} inputs")
        for pair, count in found["comparisons"].items():
            print(f"  {pair:10s} {count}")
        if taken := found["synthesis"]:
            print(f"  {taken['luts']} LUTs, {taken['flip_flops']} flip-flops ({taken['tool']})")
        if (reached := found["timing"]) and reached["frequency_mhz"] is not None:
            print(f"  {reached['frequency_mhz']:.1f} MHz, {reached['clock_ns']:.2f} ns ({reached['device']})")
    return 0 if found["mismatches"] == 0 else 1


def read_rows(file: Path) -> Any:
    """The array of a NumPy file; a ValueError of one line if there is none."""
    import numpy as np

    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        msg = f"{file}: no NumPy array can be read ({' '.join(str(error).split())})"
        raise ValueError(msg) from None


def say_missing(missing: dict[str, str]) -> None:
    """One line on standard error for each program that was not there."""
    for program, how in missing.items():
        print(f"diffhep: {program} is missing, what needs it was left out: {how}", file=sys.stderr)
