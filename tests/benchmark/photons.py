"""The shipped surrogate of photons: Geant4 showers that judge it, in stacks of their own number of layers.

`python -m tests.benchmark.photons held.npz` makes them, for `diffhep surrogate validate`: stacks at random in the
trained domain, each with photons of a few energies. The surrogate was trained on the front parts of long stacks; these
end where they end. `judge held.npz` says how far response and resolution are off, in deep stacks and in shallow ones;
`speed` measures the time of a shower on one pinned thread beside Geant4.
"""

import json
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from diffhep.detector import LEAD, POLYSTYRENE
from diffhep.detector import SamplingCalorimeter as Calorimeter
from diffhep.generate.geant4 import SamplingCalorimeter, simulate_each
from diffhep.io import read_showers, write_showers
from diffhep.io.showers import join
from diffhep.surrogates import LearnedShowers, read_out_in_groups, sample_like, shipped_photons

ENERGIES = (8.0, 40.0, 120.0)  # GeV
STACKS, EACH = 12, 200
SEED = 301
DEEP, COPIES = 20.0, 4  # radiation lengths; showers of the surrogate for each of Geant4


def held_out(path: str) -> None:
    """Photons of every energy in random stacks."""
    random = np.random.default_rng(SEED)
    parts = []
    for number in range(STACKS):
        absorber, active = random.uniform(1.5, 7.0), random.uniform(1.0, 5.5)
        layers = int(random.integers(18, 63))
        showers = simulate_each(
            SamplingCalorimeter(layers, absorber_energy=False),
            energy=np.repeat(ENERGIES, EACH),
            absorber_thickness=absorber,
            active_thickness=active,
            particle="gamma",
            seed=SEED + number,
            processes=2,
        )
        parts.append(read_out_in_groups(showers, 8, layers))
    write_showers(path, join(parts))


def judge(path: str) -> dict[str, dict[str, float]]:
    """Deviations of response and resolution [%] from Geant4's: of stacks shallower than `DEEP`, and of the others.

    Means with their errors, and what single ones scatter by; `expected` is that from statistics alone.
    """
    showers, surrogate = read_showers(path), shipped_photons()
    made = [sample_like(surrogate, showers, jr.key(k)).sum(axis=1) for k in range(COPIES)]
    depth = showers.absorber_thickness.sum(axis=1) / LEAD.radiation_length
    depth += showers.active_thickness.sum(axis=1) / POLYSTYRENE.radiation_length
    rows = []
    for energy, stack in np.unique(np.stack([showers.energy, depth]), axis=1).T:
        here = (showers.energy == energy) & (depth == stack)
        geant4, ours = showers.active_energy[here].sum(axis=1), np.concatenate([part[here] for part in made])
        widths, more = [x.std() / x.mean() for x in (geant4, ours)], np.sqrt(1 + 1 / COPIES)
        error = more * widths[0] / np.sqrt(here.sum()), more / np.sqrt(2 * here.sum())
        rows.append((stack, ours.mean() / geant4.mean() - 1, error[0], widths[1] / widths[0] - 1, error[1]))
    table = np.array(rows)
    out = {}
    for name, some in (("shallow", table[:, 0] < DEEP), ("deep", table[:, 0] >= DEEP)):
        found: dict[str, float] = {"count": int(some.sum())}
        for quantity, column in (("response", 1), ("resolution", 3)):
            off, error = 100 * table[some, column], 100 * table[some, column + 1]
            weight = error**-2 / np.sum(error**-2)
            found |= {quantity: weight @ off, f"{quantity}_stderr": np.sum(error**-2) ** -0.5}
            found |= {f"{quantity}_rms": np.sqrt(np.mean(off**2)), f"{quantity}_expected": np.sqrt(np.mean(error**2))}
        out[name] = found
    return out


def speed(energy: float = 60.0, batch: int = 4096) -> dict[str, float]:
    """Milliseconds of CPU a shower of 60 GeV in 52 layers: the surrogate's in a batch, its gradient, and Geant4's."""
    showers = LearnedShowers.of(shipped_photons())
    calorimeter = Calorimeter(jnp.array(3.2), jnp.array(1.5), jnp.array(52.0), showers=showers)
    layout, energies = calorimeter.layout(), jnp.full(batch, energy)
    noise = jr.normal(jr.key(0), (batch, showers.noise_size))

    def total(absorber: jax.Array) -> jax.Array:
        return jnp.sum(showers.deposits(layout._replace(absorber=absorber), energies, noise))

    out = {}
    for name, function in (("surrogate", jax.jit(total)), ("gradient", jax.jit(jax.grad(total)))):
        jax.block_until_ready(function(layout.absorber))
        times = []
        for _ in range(9):
            began = time.process_time()
            jax.block_until_ready(function(layout.absorber))
            times.append(1e3 * (time.process_time() - began) / batch)
        out[name] = float(np.median(times))
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    simulate_each(
        SamplingCalorimeter(52, absorber_energy=False),
        energy=np.full(100, energy),
        absorber_thickness=3.2,
        active_thickness=1.5,
        particle="gamma",
        seed=1,
    )
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    out["geant4"] = 1e3 * (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) / 100
    return out


def main() -> None:
    if sys.argv[1:2] == ["judge"]:
        print(json.dumps(judge(sys.argv[2]), indent=1, default=float))
    elif sys.argv[1:] == ["speed"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(speed(), indent=1))
    else:
        held_out(sys.argv[1])


if __name__ == "__main__":
    main()
