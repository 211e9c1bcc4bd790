"""TomOpt, in a process and an environment of its own (`tomopt.txt`): the muon-tomography peer.

Started with the Python of that environment as `python -m tests.benchmark.tomopt_peer`. Reads a task a line, does it
once on one thread, and answers with one line of JSON: seconds, and what was computed. A task is a name, and for some a
JSON object after it:

- `hello world gradient {"muons": 250}`: one scan of the voxel volume and the gradient of the voxel loss with respect to
  all panel parameters; value: the number of muons and the loss [m^2];
- `ladle furnace {"upper": [[x, y, z, span x, span y], ...], "lower": [...], "volumes": 96, "seed": 0}`, lengths in m:
  fill heights inferred by TomOpt itself, in its own simulation, with hard panels; value: mean squared error [m^2], its
  standard error, mean absolute bias [m], cost, and the muons used per volume.

The furnace is evaluated as TomOpt's own benchmark does it: eight fill heights with one layer of slag on top, 1000 muons
that hit the furnace, a linear correction fitted on the same sample; but against the true heights. (Its notebook rounds
them in single precision, which turns 1.3 m into 1.2 m.)
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from tomopt.benchmarks.ladle_furnace import LadleFurnacePassiveGenerator, PocaZLadleFurnaceFillLevelInferrer
from tomopt.core import X0
from tomopt.inference import PanelX0Inferrer, ScatterBatch
from tomopt.muon import MuonBatch, MuonGenerator2016
from tomopt.optimisation import MuonResampler, VoxelX0Loss
from tomopt.volume import DetectorPanel, PanelDetectorLayer, PassiveLayer, Volume

HEIGHTS = tuple(round(0.6 + 0.1 * i, 1) for i in range(8))  # m
FIELDS = ("x", "y", "z", "span x", "span y")


def panel_layer(pos: str, z: float, size: float, panels: list[list[float]], efficiency: float = 0.9) -> Any:
    """A detector layer of some panels, each x, y, z, span x, span y [m]."""
    made = []
    for panel in panels:
        if len(panel) != len(FIELDS):
            msg = f"{pos}: a panel is {', '.join(FIELDS)} [m], got {panel}"
            raise ValueError(msg)
        x, y, height, *span = (float(v) for v in panel)
        made.append(DetectorPanel(res=1e4, eff=efficiency, init_xyz=(x, y, height), init_xy_span=tuple(span)))
    return PanelDetectorLayer(pos=pos, lw=torch.tensor([1.0, 1.0]), z=z, size=size, panels=made)


def volume_of(upper: list, lower: list, top: float, depth: float, gap: float) -> Volume:
    """Panels above and below a passive block of 10 cm voxels between `gap` and `gap + depth` [m]."""
    lw, size = torch.tensor([1.0, 1.0]), 0.1
    layers = [panel_layer("above", top, top - gap - depth, upper)]
    layers += [PassiveLayer(lw=lw, z=round(gap + depth - size * i, 2), size=size) for i in range(round(depth / size))]
    layers += [panel_layer("below", gap, gap, lower)]
    return Volume(torch.nn.ModuleList(layers))


def muon_batch(volume: Volume, muons: int) -> MuonBatch:
    """Muons of 5 GeV that hit the passive volume."""
    generator = MuonGenerator2016.from_volume(volume)
    kept = MuonResampler.resample(generator(muons), volume=volume, gen=generator)
    return MuonBatch(kept, init_z=volume.h)


def hello_world(muons: int = 250, seed: int = 0) -> list[float]:
    """One volume scan of the hello-world scene, forward and backward."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002, its generators know no other
    stack = [[[0.5, 0.5, z - 0.05 * i, 1.0, 1.0] for i in range(4)] for z in (1.0, 0.2)]
    volume = volume_of(*stack, 1.0, 0.6, 0.2)

    def radiation_length(*, z: torch.Tensor, lw: torch.Tensor, size: float) -> torch.Tensor:
        return torch.full((10, 10), X0["beryllium"] if float(z) < 0.55 else X0["lead"])

    volume.load_rad_length(radiation_length)
    volume.train()
    mu = muon_batch(volume, muons)
    volume(mu)
    inferrer = PanelX0Inferrer(volume=volume)
    inferrer.add_scatters(ScatterBatch(mu=mu, volume=volume))
    loss = VoxelX0Loss(target_budget=None, cost_coef=0.0)(pred=inferrer.get_prediction(), volume=volume)
    loss.backward()
    return [float(muons), float(loss)]


def ladle_furnace(upper: list, lower: list, volumes: int = 96, seed: int = 0, muons: int = 1000) -> list[float]:
    """Error of the fill heights that a layout gives, evaluated with hard panels."""
    if volumes < 2 * len(HEIGHTS) or volumes % len(HEIGHTS):
        msg = f"volumes: a multiple of {len(HEIGHTS)}, at least {2 * len(HEIGHTS)}, got {volumes}"
        raise ValueError(msg)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    volume = volume_of(upper, lower, 1.8, 1.0, 0.4)
    volume.eval()
    furnace = LadleFurnacePassiveGenerator(volume)
    predicted, used = [], []
    truth = np.tile(HEIGHTS, volumes // len(HEIGHTS))
    for height in truth:
        # the one way to choose the height; the public `generate` draws it
        passive, _ = furnace._generate(fixed_mat_z=float(height), fixed_slag_z=float(height) + 0.1)
        volume.load_rad_length(passive)
        mu = muon_batch(volume, muons)
        volume(mu)
        scatters = ScatterBatch(mu=mu, volume=volume)
        inferrer = PocaZLadleFurnaceFillLevelInferrer(volume=volume, smooth=1.0)
        inferrer.add_scatters(scatters)
        predicted.append(float(inferrer.get_prediction()))
        used.append(len(scatters))
    slope, offset = np.polyfit(predicted, truth, 1)
    error = slope * np.array(predicted) + offset - truth
    bias = np.mean([abs(np.mean(error[truth == h])) for h in HEIGHTS])
    squared = error**2
    stderr = squared.std(ddof=1) / np.sqrt(volumes)
    return [float(v) for v in (squared.mean(), stderr, np.abs(error).mean(), volume.get_cost(), np.mean(used), bias)]


TASKS: dict[str, Callable[..., list[float]]] = {"hello world gradient": hello_world, "ladle furnace": ladle_furnace}


def answer(line: str) -> dict[str, Any]:
    """Does the task of one line."""
    name, brace, rest = line.strip().partition("{")
    options = json.loads(brace + rest) if brace else {}
    work = partial(TASKS[name.strip()], **options)
    began = time.process_time()
    value = work()
    return {"seconds": time.process_time() - began, "value": value}


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps(sorted(TASKS)), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main()
