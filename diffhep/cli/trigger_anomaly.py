"""The verb of anomaly triggers: trigger anomaly."""

import time
from pathlib import Path
from typing import Any

from diffhep.cli.options import stored_settings, training_options
from diffhep.cli.terminal import print_json, progress_bar, start_jax
from diffhep.cli.trigger_menu import with_error


def trigger_anomaly(args: list[str]) -> int:
    """An autoencoder's anomaly score within a rate, from minimum bias to proved Verilog: trigger anomaly -o DIR."""
    # loads JAX, for which the other verbs should not wait
    from diffhep.trigger.anomaly_config import AnomalyTraining

    options = training_options("diffhep trigger anomaly", args, AnomalyTraining)
    settings = options.settings
    start_jax()
    from diffhep.io import RunFolder
    from diffhep.trigger.anomaly_training import RESULT, fit_anomaly, read_events, write_anomaly
    from diffhep.trigger.netlist import require_da4ml

    require_da4ml()
    if options.resume:
        run = RunFolder.open(options.output)
        settings = stored_settings(run.config(), settings, run.path)
    else:
        RunFolder(options.output).check_free()
    background, signals = read_events(settings)
    if not options.resume:
        run = RunFolder.create(options.output, {"settings": settings.model_dump(mode="json")})
    began = time.process_time()
    with progress_bar() as progress:
        front, data = fit_anomaly(settings, background, run=run, progress=progress)
        say = lambda line: progress(line[:40], 1.0)
        card = write_anomaly(run, settings, background, signals, front, data, say=say)
    result = run.read_json(RESULT)
    if signals:
        run.write_bytes("figures/efficiency.png", draw_curves(result))
    if options.json:
        print_json({"folder": str(run.path), "card": card, "result": result})
    else:
        print_anomaly(run.path, card, result, time.process_time() - began)
    return 0 if card["proof"]["mismatches"] == 0 else 1


def print_anomaly(folder: Path, card: dict[str, Any], result: dict[str, Any], seconds: float) -> None:
    """What a person wants to know about an anomaly trigger."""
    from rich.console import Console
    from rich.table import Table

    signals = list(result["alone"])
    table = Table(title=f"each at {result['budget']:g} Hz", title_justify="left")
    for name in ("trigger", "threshold", "rate [Hz], kept back", *(f"eff. {name}" for name in signals)):
        table.add_column(name, justify="left" if name == "trigger" else "right")
    for name, found in result["seeds"].items():
        cut = f"{found['threshold']:g} {found['unit']}".strip()
        kept = (with_error(found["efficiency"][signal]) for signal in signals)
        table.add_row(name, cut, with_error(found["rate"]["held_out"]), *kept)
    table.add_row("anomaly alone", "", "", *(with_error(result["alone"][signal]) for signal in signals), style="bold")
    Console().print(table)
    if result["heaviest"] > result["budget"] / 10:
        print(f"one event of minimum bias stands for up to {result['heaviest']:.3g} Hz: more of them are needed")
    took, proof = card["resources"], card["proof"]
    counted = "yosys is missing" if took["luts"] is None else f"{took['luts']} LUTs, {took['flip_flops']} flip-flops"
    print(f"{folder}: {counted}, no DSP; by the model {took['luts_model']:.0f} LUTs; {seconds:.0f} s of CPU")
    print(f"  {took['latency_cycles']} clock cycles, {took['latency_ns']:g} ns at the clock that was asked for")
    if timing := took["timing"]:
        print(
            f"  deepest stage by {timing['tool']}: {timing['longest_ns']:.2f} ns, at best {timing['latency_ns']:.1f} ns"
            f" in all ({'within' if timing['within'] else 'beyond'} {timing['deadline_ns']:g} ns)"
        )
    print(f"  {proof['mismatches']} of {proof['outputs']} outputs differ, for {proof['inputs']} inputs")
    print(f"prove it again with: diffhep trigger verify {folder}")


def draw_curves(result: dict[str, Any]) -> bytes:
    """Efficiency of each signal against the rate: the anomaly trigger, and the best cut-based seed, as a PNG image."""
    import numpy as np

    from diffhep.cli.menu_figures import COLOURS
    from diffhep.figures import literal, marked, single

    def fill(ax: Any) -> Any:
        rate = result["curves"]["rate"]
        for colour, (signal, curves) in zip(COLOURS * 9, result["curves"]["signals"].items(), strict=False):
            best = np.max([curve for name, curve in curves.items() if name != "anomaly"], axis=0)
            ax.plot(rate, curves["anomaly"], color=colour, label=literal(f"{signal}, anomaly"))
            ax.plot(rate, best, "--", color=colour, label=literal(f"{signal}, best seed"))
        ax.axvline(result["budget"], color="black", lw=1.0, linestyle=":")
        ax.set(xscale="log", ylim=(0, 1.02), xlabel="Rate of the trigger, or of the seed [Hz]", ylabel="Efficiency")
        return marked(ax)

    return single(fill, height=6.4)
