"""The shipped surrogate beside Geant4 on the same stacks: time per shower, and slopes against finite differences.

`make surrogate-benchmark` runs it on one pinned thread and keeps the numbers beside the model card; with the word
`speed` only the times are measured again. With the name of a file, `python -m tests.benchmark.surrogate held.npz`, it
makes the showers that `diffhep surrogate validate` was given. `python -m tests.benchmark.surrogate search RUN` compares
a run of `ecal-layers` whose surrogate was refined with a random search: how many random designs reach what it found.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from diffhep.design.reference_config import EcalLayersSettings
from diffhep.design.studies.ecal_layers import EcalLayers, Groups
from diffhep.generate.geant4 import Beam, SamplingCalorimeter, simulate_each
from diffhep.generate.geant4_setup import draw
from diffhep.io import RunFolder, join, read_showers, write_showers
from diffhep.surrogates import Incidence, LayerSurrogate, load_surrogate, response_gradient, shipped_surrogate
from diffhep.surrogates.card import SHIPPED

jax.config.update("jax_enable_x64", True)

STACKS = ((4.0, 5.0, 2.0), (3.0, 4.0, 1.0), (5.0, 3.0, 1.5))  # absorber [mm], active [mm], energy [GeV]
STEP = 0.5  # mm, up and down
SHOWERS = 1500  # of Geant4 at each point
FILE = SHIPPED / "benchmark.json"
DESIGNS, SIEVE, FINALISTS, CONFIRMED = 5000, 48, 40, 2  # of the random search: designs, showers of each, the best ones
NEAR = 0.97  # of the figure that the run reached


def particle(surrogate: LayerSurrogate, absorber: float, active: float, energy: float) -> Incidence:
    """One electron at normal incidence on layers that are all alike."""
    layers = surrogate.stack.layers
    return Incidence(jnp.array(energy), jnp.array(0.0), jnp.full(layers, absorber), jnp.full(layers, active))


def geant4(surrogate: LayerSurrogate, absorber: float, active: float, energy: float, n: int, seed: int) -> np.ndarray:
    """Visible energies [GeV] of showers in full simulation."""
    stack = SamplingCalorimeter(surrogate.stack.layers, absorber_energy=False)
    made = simulate_each(
        stack,
        energy=np.full(n, energy),
        absorber_thickness=absorber,
        active_thickness=active,
        seed=seed,
        progress=False,
    )
    return made.active_energy.sum(axis=1)


def timed(function: Any, *args: Any, repeat: int) -> float:
    """Median wall time of a call on its one thread [ms]."""
    jax.block_until_ready(function(*args))
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        took.append(time.perf_counter() - began)
    return 1e3 * float(np.median(took))


def speed(surrogate: LayerSurrogate) -> dict[str, float]:
    """Milliseconds a shower: Geant4, the surrogate one by one and many at once, and its gradient to all thicknesses."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    geant4(surrogate, *STACKS[0], 20, 1)
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    geant4(surrogate, *STACKS[0], 320, 1)
    end = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    arrays, rest = eqx.partition(surrogate, eqx.is_array)

    def sample(arrays: Any, x: Incidence, noise: jax.Array) -> jax.Array:
        return eqx.combine(arrays, rest).from_noise(x, noise)

    def visible(thickness: tuple, arrays: Any, x: Incidence, noise: jax.Array) -> jax.Array:
        return jnp.sum(sample(arrays, Incidence(x.energy, x.angle, *thickness), noise))

    single = jax.tree.map(lambda v: v.astype(jnp.float32), particle(surrogate, *STACKS[0]))
    many = jax.tree.map(lambda v: jnp.broadcast_to(v, (1024, *v.shape)), single)
    one, lot = (jr.normal(jr.key(0), (*shape, surrogate.noise_size), jnp.float32) for shape in ((), (1024,)))
    run, slope = jax.jit(sample), jax.jit(jax.grad(visible))
    found = {
        "geant4": 1e3 * ((end - start) - (start - began)) / 300,
        "surrogate_batch_1": timed(run, arrays, single, one, repeat=2000),
        "surrogate_batch_1024": timed(run, arrays, many, lot, repeat=50) / 1024,
        "gradient_batch_1": timed(slope, (single.absorber, single.active), arrays, single, one, repeat=1000),
    }
    found["ratio_batch_1"] = found["geant4"] / found["surrogate_batch_1"]
    found["gradient_over_sample"] = found["gradient_batch_1"] / found["surrogate_batch_1"]
    return found


def slopes(surrogate: LayerSurrogate, absorber: float, active: float, energy: float) -> dict[str, Any]:
    """Derivatives of mean visible energy [MeV/mm] and resolution [%/mm], of the surrogate and of Geant4."""
    ours = response_gradient(surrogate, particle(surrogate, absorber, active, energy), key=jr.key(1))
    out: dict[str, Any] = {"absorber_mm": absorber, "active_mm": active, "energy_gev": energy}
    for i, name in enumerate(("absorber", "active")):
        ends = []
        for k, sign in enumerate((1, -1)):
            lead, scintillator = (x + sign * STEP * (i == j) for j, x in enumerate((absorber, active)))
            seen = geant4(surrogate, lead, scintillator, energy, SHOWERS, 10 + 2 * i + k)
            width = seen.std(ddof=1) / seen.mean()
            ends.append((seen.mean(), seen.std() / np.sqrt(SHOWERS), width, width / np.sqrt(2 * SHOWERS)))
        (mean1, error1, width1, spread1), (mean2, error2, width2, spread2) = ends
        out[f"energy_to_{name}"] = {
            "surrogate": 1e3 * float(jnp.sum(ours[f"energy_to_{name}"])),
            "geant4": 1e3 * (mean1 - mean2) / (2 * STEP),
            "stderr": 1e3 * float(np.hypot(error1, error2)) / (2 * STEP),
        }
        out[f"resolution_to_{name}"] = {
            "surrogate": 100 * float(jnp.sum(ours[f"resolution_to_{name}"])),
            "geant4": 100 * (width1 - width2) / (2 * STEP),
            "stderr": 100 * float(np.hypot(spread1, spread2)) / (2 * STEP),
        }
    return out


def held_out(path: str, stacks: int = 100, each: int = 400, block: int = 20) -> None:
    """Geant4 showers of stacks inside the trained domain, many of each; every block of stacks has its own seed."""
    ranges: dict[str, Any] = {
        "absorber_thickness": (1.8, 7.0),
        "active_thickness": (1.8, 7.0),
        "variation": "mixed",
        "spread": 1.0,
    }
    setup = SamplingCalorimeter(30, absorber_energy=False, **ranges)
    drawn = draw(setup, Beam("e-", energy=(0.7, 4.0), angle=(0.0, 0.5)), stacks, seed=101)
    parts = []
    for k in range(0, stacks, block):
        columns: dict[str, Any] = {
            name: np.repeat(values[k : k + block], each, axis=0) for name, values in drawn.items()
        }
        parts.append(simulate_each(setup, **columns, seed=1000 + k // block, processes=2))
    write_showers(path, join(parts))


def random_search(path: str) -> dict[str, Any]:
    """Random designs within the budgets, judged by the refined surrogate of a run, the best of them by Geant4.

    All are seen with few showers and the same random numbers, the best again with as many as Geant4's.
    """
    run = RunFolder.open(path)
    settings = EcalLayersSettings.model_validate(run.config()["settings"])
    reached = run.read_json("result.json")["final"]["hard"]["value"]
    study = EcalLayers(settings)
    surrogate = load_surrogate(Path(path) / "surrogate")
    study.exchange(surrogate)
    weights, groups = eqx.filter(surrogate, eqx.is_array), settings.calorimeter.groups

    @jax.jit
    def figure(design: Groups, noise: jax.Array) -> jax.Array:
        energies = study.simulated(design, weights, noise)
        return 1 / study.term(energies, jnp.ones_like(energies))

    use, limits = jax.jit(study.used), study.problem.limits
    random = np.random.default_rng(11)
    low, high = (np.repeat([bounds[end] for bounds in study.bounds], groups) for end in (0, 1))
    designs, drawn = [], 0
    while len(designs) < DESIGNS:
        drawn += 1
        thick = random.uniform(low, high).tolist()
        design = Groups(tuple(thick[:groups]), tuple(thick[groups:]))
        if np.all(np.asarray(use(design)) <= limits):
            designs.append(design)
    sieve, fine = (
        study.draw(jr.key(k), n).astype(jnp.float32) for k, n in ((1, SIEVE), (2, settings.calorimeter.geant4))
    )
    first = np.array([figure(design, sieve) for design in designs])
    finalists = [designs[i] for i in np.argsort(-first)[:FINALISTS]]
    second = np.array([figure(design, fine) for design in finalists])
    confirmed = []
    for number, i in enumerate(np.argsort(-second)[:CONFIRMED]):
        energies = study.full_simulation(finalists[i], number=1000 + number)
        geant4 = study.judged(finalists[i], {"showers": energies.size}, energies)["objective"]
        confirmed.append({"surrogate": second[i], "geant4": geant4.value, "stderr": geant4.stderr})
    # refined elsewhere, the surrogate may be off for these
    off = float(np.mean([row["surrogate"] for row in confirmed]) / np.mean([row["geant4"] for row in confirmed]))
    good = int(np.sum(second >= NEAR * reached * off))
    # without a success, fewer than 3 are expected at 95 % confidence
    wanted = DESIGNS / (good or 3)
    each = settings.calorimeter.geant4 * len(settings.calorimeter.energies)
    spent = sum(read_showers(file).size for file in (Path(path) / "geant4").glob("*.npz"))
    return {
        "reached_by_the_run": reached,
        "designs": DESIGNS,
        "feasible_share": DESIGNS / drawn,
        "quantiles": {str(q): float(np.quantile(first, q)) for q in (0.5, 0.9, 0.99, 1.0)},
        "best_of_them": float(second.max()),
        "confirmed": confirmed,
        "surrogate_over_geant4": off,
        "within_3_percent": good,
        "designs_for_one": {"at_least" if not good else "about": wanted},
        "geant4_showers": {"of_the_run": spent, "of_each_random_design": each, "of_the_search": wanted * each},
        "ratio": wanted * each / spent,
    }


def main() -> None:
    if sys.argv[1:2] == ["search"]:
        print(json.dumps(random_search(sys.argv[2]), indent=1, default=float))
        return
    only_speed = sys.argv[1:] == ["speed"]
    if len(sys.argv) > 1 and not only_speed:
        held_out(sys.argv[1], each=int(sys.argv[2]) if len(sys.argv) > 2 else 400)
        return
    # before JAX starts the threads that it hands every call to: a gradient takes a quarter longer across two cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    surrogate = shipped_surrogate()
    found = json.loads(FILE.read_text()) if only_speed else {}
    found["milliseconds_per_shower"] = speed(surrogate)
    if not only_speed:
        found["slopes"] = [slopes(surrogate, *stack) for stack in STACKS]
    FILE.write_text(json.dumps(found, indent=1, default=float) + "\n")
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
