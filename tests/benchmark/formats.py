"""Learned bit widths against HGQ2, accuracy against lookup tables and steps a second: `make trigger-benchmark`.

Both train the same network on the same words, batches of one size and as many steps under a rising price; networks of
either front become Verilog through da4ml with the same pipeline, and yosys counts them. Fronts are compared where they
overlap in accuracy: the mean, over accuracy, of the logarithm of the ratio of lookup tables that reach it, which is the
difference of the hypervolumes in (accuracy, log LUT).

Step times are medians of chunks, one pinned thread, without compilation and without judging.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from diffhep.trigger.config import TriggerTraining
from diffhep.trigger.exported import logits_of
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.format_training import FormatTraining
from diffhep.trigger.labelled import Labelled, five_classes, read_labelled
from diffhep.trigger.learning import Split, first_network, fit_formats, measured, split_events
from diffhep.trigger.netlist import Circuit
from diffhep.trigger.project import DEFAULT_PART
from diffhep.trigger.synthesis import synthesised
from diffhep.trigger.yosys import synthesise
from tests.benchmark.hgq_peer import EVENTS, FRONT, TASK, Task, spaced

jax.config.update("jax_enable_x64", True)

PEER = Path(".venv-hgq") / "bin/python"
# of ours that are synthesised: what HGQ2's networks within its `EBOPS` take
LUTS = {"dense": (300.0, 8000.0), "tables": (150.0, 8000.0)}
# the best for HGQ2 of those tried (rates 1e-3 to 8e-3, last prices 5e-5 to 4e-4, constant, falling and in cosines)
THEIRS = {
    "dense": {"first_price": 1e-6, "last_price": 1e-4, "rate": 8e-3, "fall": 1.0},
    "tables": {"first_price": 1e-5, "last_price": 2e-3, "rate": 8e-3, "fall": 1.0},
}


def settings_of(seed: int, steps: int, path: Path | None, batch: int = 1024, kind: str = "dense") -> TriggerTraining:
    """Ours: the defaults, without a budget."""
    given: dict[str, Any] = {"schedule": {"seed": seed, "ramp": steps, "batch": batch}, "network": {"kind": kind}}
    if path is not None:
        given["data"] = {"file": path}
    return TriggerTraining.model_validate(given)


def ours(settings: TriggerTraining, sample: Labelled, members: int) -> tuple[list[dict[str, Any]], float]:
    """Our front, counted by yosys, and seconds a step."""
    seconds: list[float] = []
    advance = FormatTraining.advance

    def timed(*given: Any) -> Any:
        began = time.perf_counter()
        advanced = advance(*given)
        seconds.append(time.perf_counter() - began)
        return advanced

    with mock.patch.object(FormatTraining, "advance", timed):
        front, data = fit_formats(settings, sample)
    rows = [{"cost": member.cost, "member": member} for member in front]
    out = []
    for row in spaced(rows, members, LUTS[settings.network.kind]):
        network = row["member"].network
        logits = logits_of(network)
        luts = synthesised(logits.function, logits.words, levels_per_stage=settings.firmware.levels)["luts"]
        out.append({"accuracy": measured(network, *data.judge)["accuracy"], "luts": luts})
    return out, float(np.median(seconds)) / settings.schedule.checkpoint


def theirs(settings: TriggerTraining, data: Split, members: int, **given: float) -> tuple[list[dict[str, Any]], float]:
    """HGQ2's front, counted by yosys, and seconds a step."""
    s = settings.schedule
    per_epoch = len(data.train[1]) // s.batch
    form = first_form(settings)
    task = Task(
        kind=settings.network.kind,
        hidden=settings.network.widths,
        outputs=int(data.train[1].max()) + 1,
        seed=s.seed,
        batch=s.batch,
        warm_up=round(s.warm_up / per_epoch),
        ramp=round(s.ramp / per_epoch),
        members=members,
        inputs=form,
        **given,
    )
    with tempfile.TemporaryDirectory(prefix="diffhep-hgq-") as name:
        folder = Path(name)
        (folder / TASK).write_text(json.dumps(task._asdict()))
        save_events(folder / EVENTS, data)
        command = [str(PEER), "-W", "ignore", "-m", "tests.benchmark.hgq_peer", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "KERAS_BACKEND": "jax"})
        found = json.loads((folder / FRONT).read_text())
        levels = settings.firmware.levels
        luts = [counted(folder / f"{number}.json", levels) for number in range(len(found["front"]))]
    rows = [{**row, "luts": count} for row, count in zip(found["front"], luts, strict=True)]
    return rows, found["seconds_per_step"]


def save_events(path: Path, data: Split) -> None:
    """Words and labels of the events to train on, to choose by and to judge by, for a peer."""
    arrays = {
        f"{part}_{what}": np.asarray(array)
        for part in ("train", "choose", "judge")
        for what, array in zip(("words", "labels"), getattr(data, part), strict=True)
    }
    np.savez(path, allow_pickle=False, **arrays)


def first_form(settings: TriggerTraining) -> tuple[int, int, int]:
    """Signed, integer and fractional bits of the words that arrive."""
    given = FixedPoint.parse(settings.network.input_format)
    return given.k, given.i, given.f


def counted(path: Path, levels: int) -> int:
    """Lookup tables of logic that was saved, in a pipeline like ours."""
    from da4ml.types import CombLogic

    yosys = shutil.which("yosys")
    assert yosys is not None
    nothing = np.zeros((0, 3), int)
    with tempfile.TemporaryDirectory(prefix="diffhep-hgq-") as name:
        folder = Path(name) / "project"
        logic = Circuit(CombLogic.load(path), nothing, nothing)
        logic.write(folder, name="trigger", part=DEFAULT_PART, clock_period_ns=5.0, levels_per_stage=levels)
        return synthesise(folder, "trigger", yosys)["luts"]


def log_ratio(mine: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Mean logarithm of our LUTs over theirs at equal accuracy, and the accuracies between which it was taken."""
    low = max(min(row["accuracy"] for row in rows) for rows in (mine, other))
    high = min(max(row["accuracy"] for row in rows) for rows in (mine, other))
    if not low < high:
        msg = f"the fronts share no accuracy: {mine}, {other}"
        raise RuntimeError(msg)
    at = np.linspace(low, high, 1001)[1:]
    smallest = lambda rows: np.array([min(row["luts"] for row in rows if row["accuracy"] >= a) for a in at])
    return float(np.mean(np.log(smallest(mine) / smallest(other)))), low, high


def main() -> int:
    """Train both for every seed, count, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, help="labelled events, .npz; the synthetic sample if none")
    parser.add_argument("--kind", choices=list(THEIRS), default="dense", help="dense layers or tables")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=9600, help="of the ramp")
    parser.add_argument("--batch", type=int, default=1024, help="events a step")
    parser.add_argument("--members", type=int, default=10, help="networks of each front that are synthesised")
    parser.add_argument("--rates", type=float, nargs="*", help="step sizes of HGQ2, its best if none is given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        settings = settings_of(seed, options.steps, options.data, options.batch, options.kind)
        given = settings.data
        sample = (
            five_classes(given.events, seed=seed)
            if options.data is None
            else read_labelled(options.data, features=given.features, label=given.label)
        )
        words = first_network(settings, sample).words(sample.features)
        labels = jnp.asarray(sample.labels, jnp.int32)
        data = split_events(words, labels, held_out=given.held_out, seed=seed)
        mine, my_step = ours(settings, sample, options.members)
        best = THEIRS[options.kind]
        for rate in options.rates or [best["rate"]]:
            other, other_step = theirs(settings, data, options.members, **{**best, "rate": rate})
            ratio, low, high = log_ratio(mine, other)
            records.append({"seed": seed, "rate": rate, "ours": mine, "hgq2": other, "log_ratio": ratio})
            records[-1] |= {"seconds_per_step": my_step, "hgq2_seconds_per_step": other_step}
            show = lambda rows: " ".join(f"{r['accuracy']:.4f}:{r['luts']}" for r in rows)
            print(f"seed {seed}  ours  {show(mine)}", flush=True)
            print(f"        HGQ2  {show(other)}  (rate {rate:g})", flush=True)
            print(f"        LUT ratio {np.exp(ratio):.3f} between accuracies {low:.4f} and {high:.4f}", flush=True)
            print(f"        ms a step {1e3 * my_step:.2f} and {1e3 * other_step:.2f}", flush=True)
    ratios = [record["log_ratio"] for record in records]
    speed = np.median([r["hgq2_seconds_per_step"] / r["seconds_per_step"] for r in records])
    print(f"LUTs at equal accuracy {np.exp(np.mean(ratios)):.3f} of HGQ2's (goal 0.85)")
    print(f"steps a second {speed:.2f} times HGQ2's (goal 3)")
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
