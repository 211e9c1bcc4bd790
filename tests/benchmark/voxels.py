"""The shipped voxel surrogate beside Geant4 on the same stack: time per shower, and of its gradient to all thicknesses.

`make surrogate-benchmark` runs it on one pinned thread and keeps the numbers beside the card.
`python -m tests.benchmark.voxels judge FILE` judges it with classifiers of the published width (minutes).
"""

import json
import resource
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from diffhep.generate.geant4 import SamplingCalorimeter, simulate_each
from diffhep.generate.geant4_setup import PolarCells
from diffhep.io import read_showers
from diffhep.surrogates import Incidence, VoxelSurrogate, shipped_voxels
from diffhep.surrogates.card import SHIPPED
from diffhep.surrogates.classifier import PUBLISHED
from diffhep.surrogates.voxel_validation import validate_voxels
from tests.benchmark.surrogate import timed

jax.config.update("jax_enable_x64", True)

ABSORBER, ACTIVE = 2.8, 0.6  # mm
ENERGIES = (1.0, 3.0, 10.0, 30.0, 90.0)  # GeV
SHOWERS = 200
DRAWS = 10  # showers whose times are averaged


def geant4(surrogate: VoxelSurrogate, energy: float, n: int) -> float:
    """CPU milliseconds a shower in full simulation, the start of the program taken out."""
    stack, tree = surrogate.layers.stack, surrogate.tree
    cells = PolarCells(tree.alphas, tree.rings)
    calorimeter = SamplingCalorimeter(stack.layers, stack.absorber, stack.active, cells=cells, absorber_energy=False)

    def spent(count: int) -> float:
        began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        simulate_each(
            calorimeter,
            energy=np.full(count, energy),
            absorber_thickness=ABSORBER,
            active_thickness=ACTIVE,
            seed=1,
            progress=False,
        )
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began

    return 1e3 * (spent(n + 2) - spent(2)) / n


def speed(surrogate: VoxelSurrogate, energy: float) -> dict[str, float]:
    """Milliseconds a shower: Geant4, the surrogate one by one and a hundred at once, and its gradient."""
    arrays, rest = eqx.partition(surrogate, eqx.is_array)
    count = surrogate.layers.stack.layers

    def sample(arrays: Any, x: Incidence, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        return eqx.combine(arrays, rest).from_noise(x, noise)

    def width(thickness: tuple, arrays: Any, x: Incidence, noise: jax.Array) -> jax.Array:
        cells = sample(arrays, Incidence(x.energy, x.angle, *thickness), noise)[1]
        return jnp.sum(cells * np.arange(cells.shape[-1])) / jnp.sum(cells)

    full = lambda value, *shape: jnp.full(shape, value, jnp.float32)
    one = Incidence(full(energy), full(0.0), full(ABSORBER, count), full(ACTIVE, count))
    many = jax.tree.map(lambda v: jnp.broadcast_to(v, (100, *v.shape)), one)
    noise = jr.normal(jr.key(0), (100, surrogate.noise_size), jnp.float32)
    run, slope = jax.jit(sample), jax.jit(jax.grad(width))
    # the time depends on the cells that are hit
    mean = lambda timing: float(np.mean([timing(drawn) for drawn in noise[:DRAWS]]))
    found = {
        "energy_gev": energy,
        "geant4": geant4(surrogate, energy, max(20, int(SHOWERS / energy))),
        "surrogate_batch_1": mean(lambda drawn: timed(run, arrays, one, drawn, repeat=100)),
        "surrogate_batch_100": timed(run, arrays, many, noise, repeat=5) / 100,
        "gradient_batch_1": mean(lambda drawn: timed(slope, (one.absorber, one.active), arrays, one, drawn, repeat=50)),
    }
    found["ratio_batch_1"] = found["geant4"] / found["surrogate_batch_1"]
    found["gradient_over_sample"] = found["gradient_batch_1"] / found["surrogate_batch_1"]
    return found


def judge(file: str) -> None:
    """Areas under the curves of classifiers as wide as the CaloChallenge's, for showers of Geant4."""
    found = validate_voxels(shipped_voxels(), read_showers(file), key=jr.key(0), classifier=PUBLISHED)
    print(json.dumps(found["auc"], indent=1))


def main() -> None:
    if sys.argv[1:2] == ["judge"]:
        judge(sys.argv[2])
        return
    surrogate = shipped_voxels()
    found = {"milliseconds_per_shower": [speed(surrogate, energy) for energy in ENERGIES]}
    (SHIPPED / "voxels" / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
