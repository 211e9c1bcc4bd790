"""Learned bit widths against boosted trees by conifer, accuracy against lookup tables: `make trees-benchmark`.

Both see the same words of the same jets. conifer's VHDL is pipelined; GHDL simulates it for the accuracy and turns it
into Verilog, and yosys counts that as it counts ours. Registers that yosys makes into shift registers take lookup
tables too (`SRL`): they are told apart.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hls4ml
import jax
import jax.numpy as jnp

from diffhep.trigger.labelled import read_labelled
from diffhep.trigger.learning import Split, first_network, split_events
from diffhep.trigger.simulation import run_tool
from diffhep.trigger.yosys import TABLES, cells_of, total
from tests.benchmark import conifer_peer
from tests.benchmark.conifer_peer import EVENTS, FRONT, TASK, VHDL
from tests.benchmark.formats import ours, save_events, settings_of

jax.config.update("jax_enable_x64", True)

PEER = Path(".venv-conifer") / "bin/python"
HEADERS = Path(hls4ml.__file__).parent / "templates" / "vivado" / "ap_types"
FORESTS = tuple({"trees": n, "depth": d} for n, d in ((3, 3), (5, 3), (10, 3), (10, 4)))
TASK_OF_TREES = {"format": "ap_fixed<12,4>", "rate": 0.3, "forests": FORESTS}
STEPS = 9600  # of the ramp
KINDS = ("dense", "tables")  # of our networks
PARTS = ("Constants", "Types", "Split", "AddReduce", "Tree", "BDT")  # of conifer's VHDL, each before who needs it


def theirs(data: Split, seed: int) -> list[dict[str, Any]]:
    """Forests by conifer: accuracies, lookup tables, shift registers and flip-flops."""
    with tempfile.TemporaryDirectory(prefix="diffhep-trees-") as name:
        folder = Path(name)
        classes = int(data.train[1].max()) + 1
        (folder / TASK).write_text(json.dumps({**TASK_OF_TREES, "seed": seed, "classes": classes}))
        save_events(folder / EVENTS, data)
        # conifer compiles with the Python that it finds first
        path = f"{PEER.parent.resolve()}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            # by its path: something that conifer needs brings a package `tests` of its own
            [str(PEER.absolute()), "-W", "ignore", str(Path(conifer_peer.__file__).absolute()), str(folder)],
            # where conifer leaves what it has compiled
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PATH": path, "XILINX_AP_INCLUDE": str(HEADERS)},
        )
        rows = json.loads((folder / FRONT).read_text())
        return [row | counted(folder / str(number) / VHDL, classes) for number, row in enumerate(rows)]


def counted(folder: Path, classes: int) -> dict[str, int]:
    """What conifer's VHDL takes, by GHDL and yosys with the options that count ours."""
    program = {name: shutil.which(name) for name in ("ghdl", "yosys")}
    missing = [name for name, path in program.items() if path is None]
    if missing:
        msg = f"{missing[0]} not found: package {missing[0]} (Debian)"
        raise RuntimeError(msg)
    options = ["--std=08", "-frelaxed", "--work=BDT"]
    for part in (*PARTS, *(f"Arrays{n}" for n in range(classes)), "BDTTop"):
        run_tool([str(program["ghdl"]), "-a", *options, f"{part}.vhd"], folder, "ghdl")
    verilog = run_tool([str(program["ghdl"]), "--synth", *options, "--out=verilog", "BDTTop"], folder, "ghdl")
    (folder / "top.v").write_text(verilog)
    cells = cells_of(folder, "read_verilog -sv top.v; hierarchy -top BDTTop", "BDTTop", str(program["yosys"]))
    kinds = {"luts": TABLES, "shift_registers": "SRL[0-9A-Z]+", "flip_flops": "FD[A-Z]+"}
    return {name: total(cells, kind) for name, kind in kinds.items()}


def main() -> int:
    """Train both, count, and print both fronts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="labelled events, .npz, as of diffhep generate jets")
    parser.add_argument("--members", type=int, default=7, help="networks of our front that are synthesised")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = settings_of(options.seed, STEPS, options.data)
    given = settings.data
    sample = read_labelled(options.data, features=given.features, label=given.label)
    words = first_network(settings, sample).words(sample.features)
    data = split_events(words, jnp.asarray(sample.labels, jnp.int32), held_out=given.held_out, seed=options.seed)
    forests = theirs(data, options.seed)
    for row in forests:
        print(
            f"conifer {row['trees']:3d} trees of depth {row['depth']}: accuracy {row['accuracy']:.4f} (xgboost "
            f"{row['xgboost']:.4f}), {row['luts']} LUTs, {row['shift_registers']} more as shift registers",
            flush=True,
        )
    mine = {}
    for kind in KINDS:
        mine[kind], _ = ours(settings_of(options.seed, STEPS, options.data, kind=kind), sample, options.members)
        for row in mine[kind]:
            print(f"diffhep, {kind}: accuracy {row['accuracy']:.4f}, {row['luts']} LUTs", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"conifer": forests, "diffhep": mine}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
