"""Muon tomography against TomOpt: one scan of the hello-world volume with the gradient of all panels."""

import equinox as eqx
import jax
import numpy as np

from diffhep.design.studies.muon_tomography import layout_of, scan_error, scan_sample
from diffhep.parameters import resolve
from tests.benchmark.harness import Peer, Row, Timed

MUONS, THEIRS = 10_000, 250  # TomOpt's default batch; larger ones are slower per muon there
BOUNDS = {"x": (0, 1000), "y": (0, 1000), "span_x": (50, 3000), "span_y": (50, 3000)}
ROOMS = {"upper": (800, 1001), "lower": (-1, 200.1)}


def rows(tomopt: Peer) -> list[Row]:
    """All rows of this subject. Other muons in either program: nothing to compare but the time per muon."""
    stack = lambda heights: [[500, 500, z, 1000, 1000] for z in heights]
    layout = layout_of(stack([1000, 950, 900, 850]), stack([200, 150, 100, 50]), bounds={**BOUNDS, **ROOMS})
    sample = scan_sample(MUONS, seed=1)
    gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda design, muons: scan_error(resolve(design), muons)))

    def ours() -> float:
        jax.block_until_ready(gradient(layout, sample))
        return 0.0

    def theirs() -> Timed:
        return tomopt(f'hello world gradient {{"muons": {THEIRS}}}')._replace(value=np.zeros(()))

    task = f"volume scan with gradient, {MUONS} muons"
    return [Row(task, f"TomOpt ({THEIRS} of them)", ours, theirs, 0.0, 5, THEIRS / MUONS, goal=200)]
