"""The verb that makes a trigger from events: trigger train."""

import time
from pathlib import Path
from typing import Any

from diffhep.cli.options import stored_settings, training_options
from diffhep.cli.terminal import print_json, progress_bar, start_jax


def trigger_train(args: list[str]) -> int:
    """A classifier with learned bit widths, from events to proved Verilog: trigger train [CONFIG.toml] -o DIR."""
    # loads JAX, for which the other verbs should not wait
    from diffhep.trigger.config import TriggerTraining

    options = training_options("diffhep trigger train", args, TriggerTraining)
    settings = options.settings
    start_jax()
    from diffhep.io import RunFolder
    from diffhep.trigger.labelled import five_classes, read_labelled
    from diffhep.trigger.learning import fit_formats
    from diffhep.trigger.netlist import require_da4ml
    from diffhep.trigger.trained import write_firmware

    require_da4ml()
    if options.resume:
        run = RunFolder.open(options.output)
        settings = stored_settings(run.config(), settings, run.path)
    else:
        RunFolder(options.output).check_free()
    given = settings.data
    if given.file is None:
        sample = five_classes(given.events, seed=settings.schedule.seed)
    else:
        sample = read_labelled(given.file, features=given.features, label=given.label, tree=given.tree)
    if not options.resume:
        run = RunFolder.create(options.output, {"settings": settings.model_dump(mode="json")})
    began = time.process_time()
    with progress_bar() as progress:
        front, data = fit_formats(settings, sample, run=run, progress=progress)
        steps = iter(range(1, 100))
        say = lambda line: progress(line[:40], 1.0 if next(steps) else 0.0)
        card = write_firmware(run, settings, sample, front, data, say=say)
    run.write_bytes("figures/front.png", draw_front(run.read_json("front.json")["front"], card))
    if options.json:
        print_json({"folder": str(run.path), "card": card})
    else:
        print_card(run.path, card, time.process_time() - began)
    return 0 if card["proof"]["mismatches"] == 0 else 1


def print_card(folder: Path, card: dict[str, Any], seconds: float) -> None:
    """What a person wants to know about a trained trigger."""
    took, proof = card["resources"], card["proof"]
    print(f"{folder}: accuracy {card['metrics']['accuracy']:.4f}, {seconds:.0f} s of CPU")
    counted = "yosys is missing" if took["luts"] is None else f"{took['luts']} LUTs, {took['flip_flops']} flip-flops"
    limit = "" if took["budget"] is None else f" (budget {took['budget']:g} LUTs)"
    products = "" if took["ebops"] is None else f"; EBOPs {took['ebops']:.0f}"
    print(f"  {counted}{limit}; by the model {took['luts_model']:.0f} LUTs{products}")
    print(f"  {took['latency_cycles']} clock cycles, {took['latency_ns']:g} ns")
    print(f"  {proof['mismatches']} of {proof['outputs']} outputs differ, for {proof['inputs']} inputs")
    print(f"prove it again with: diffhep trigger verify {folder}")


def draw_front(front: list[dict[str, Any]], card: dict[str, Any]) -> bytes:
    """Accuracy on events never met against lookup tables, and the exported network, as a PNG image."""
    from diffhep.figures import BLUE, ORANGE, single

    def fill(ax: Any) -> Any:
        ax.plot(
            [m["luts_model"] for m in front], [m["accuracy"] for m in front], "o-", color=BLUE, label="front (model)"
        )
        took, right = card["resources"], card["metrics"]["accuracy"]
        exported = took["luts"] if took["luts"] is not None else took["luts_model"]
        ax.plot(
            [exported], [right], "s", color=ORANGE, label="exported (yosys)" if took["luts"] else "exported (model)"
        )
        if took["budget"] is not None:
            ax.axvline(took["budget"], color="black", linestyle=":", label="budget")
        ax.set(xscale="log", xlabel="lookup tables", ylabel="accuracy")
        ax.legend()
        return ax

    return single(fill)
