"""Designs that a surrogate found, judged once more with showers of Geant4.

Of the initial and the final layout a library of photon showers is simulated, log-uniform in energy. Every photon of the
held-out events gets one of about its energy out of it, in place of one of the surrogate's; everything behind the
calorimeter is the same. Both are judged several times, with other showers of the same events: the spread is the error
of their comparison.
"""

import hashlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpy.typing import NDArray

from diffhep.design.config import SimulationSettings
from diffhep.detector import FrozenShowers, Layout
from diffhep.detector import SamplingCalorimeter as Calorimeter
from diffhep.detector.showers import E_OVER_MIP
from diffhep.generate.geant4 import SamplingCalorimeter, generate_each, unfinished
from diffhep.io import RunFolder, read_showers
from diffhep.surrogates import LearnedShowers, read_out_in_groups

PARTS = 4  # of a library, each of which judges once
BINS = 4  # of energy, in which response and resolution are compared
SHARE_OF_BAR = 0.9  # of the time is Geant4's

Judge = Callable[[Calorimeter, int], Mapping[str, float]]
"""Hard `objective` and `rate` of a design with another calorimeter: held-out events with the n-th random numbers."""


class Library(NamedTuple):
    """Simulated showers in one layout: energies of particles, and in groups of layers [GeV]."""

    energy: NDArray
    visible: NDArray

    def part(self, number: int) -> "Library":
        """Every so manieth shower, as many in each part."""
        last = len(self.energy) // PARTS * PARTS
        return Library(self.energy[number:last:PARTS], self.visible[number:last:PARTS])


def confirmation(
    designs: Mapping[str, tuple[Calorimeter, Judge]],
    settings: SimulationSettings,
    seed: int,
    folder: RunFolder,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """What Geant4 says of designs that a surrogate judged.

    Args:
        designs: by name, the calorimeter with learned showers (Params resolved), and what judges the design.
        settings: of the simulation.
        seed: of the run.
        folder: of the run; showers are kept there, and a killed simulation goes on.
        progress: called with a phase and the fraction done.

    Returns:
        `designs`, a row for each: objective by surrogate and by Geant4 (means over sets of showers, with their standard
        errors), the deviation of the one from the other, and both trigger rates; `energies`, rows for the last design:
        response of the surrogate over Geant4's, and both resolutions. None for what is not a number.
    """
    rows, energies = [], []
    for name, (calorimeter, judge) in designs.items():
        told = lambda done, name=name: progress(f"Geant4, {name}", SHARE_OF_BAR * done)
        library = simulate(calorimeter, settings, seed, folder.path / "geant4", told)
        layout = calorimeter.layout()
        learned = cast("LearnedShowers", calorimeter.showers)
        found: dict[str, list[Mapping[str, float]]] = {"surrogate": [], "geant4": []}
        for part in range(PARTS):
            frozen = FrozenShowers.of(*library.part(part), float(layout.fraction), learned.bounds.energy)
            found["surrogate"].append(judge(calorimeter, part))
            found["geant4"].append(judge(with_showers(calorimeter, frozen), part))
        rows.append({"design": name, "showers": len(library.energy), **compared(found)})
        energies = by_energy(learned, layout, library, seed)
        progress(f"Geant4, {name}", 1.0)
    return {"designs": rows, "energies": energies}


def with_showers(calorimeter: Calorimeter, showers: FrozenShowers) -> Calorimeter:
    """The calorimeter with other showers."""
    return eqx.tree_at(lambda c: c.showers, calorimeter, showers)


def compared(found: Mapping[str, list[Mapping[str, float]]]) -> dict[str, dict[str, float] | None]:
    """Means with standard errors, and the relative deviation of the surrogate's objective from Geant4's."""
    out, parts = {}, {}
    for name, judged in found.items():
        for quantity, column in (("objective", name), ("rate", f"{name}_rate")):
            values = np.array([one[quantity] for one in judged])
            parts[column] = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
            out[column] = with_error(*parts[column])
    with np.errstate(divide="ignore", invalid="ignore"):
        (ours, error), (geant4, other) = (np.array(parts[name]) for name in ("surrogate", "geant4"))
        out["deviation"] = with_error(ours / geant4 - 1, np.hypot(error / ours, other / geant4))
    return out


def with_error(value: float | np.floating, stderr: float | np.floating) -> dict[str, float] | None:
    """A number with its standard error, as JSON has them; None where there is none: a design may reject everything."""
    known = np.isfinite(value) and np.isfinite(stderr)
    return {"value": float(value), "stderr": float(stderr)} if known else None


def simulate(
    calorimeter: Calorimeter, settings: SimulationSettings, seed: int, folder: Path, told: Callable[[float], None]
) -> Library:
    """Geant4's photons in a layout, from its file if there is one."""
    learned = cast("LearnedShowers", calorimeter.showers)
    stack, layout = learned.surrogate.stack, calorimeter.layout()
    absorber, active, layers = (float(value) for value in layout[:3])
    digest = hashlib.sha256(np.array([absorber, active, layers]).tobytes()).hexdigest()[:12]
    path = folder / f"photons-{digest}.npz"
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        numbers = np.random.default_rng([seed, 17])
        generate_each(
            SamplingCalorimeter(int(np.ceil(layers)), stack.absorber, stack.active, absorber_energy=False),
            energy=np.exp(numbers.uniform(*np.log(learned.bounds.energy), settings.geant4)),
            absorber_thickness=absorber,
            active_thickness=active,
            particle=np.array(stack.pdg_id),
            seed=int(numbers.integers(2**31)),
            processes=settings.processes,
            path=path,
            resume=unfinished(path),
            progress=told,
        )
    showers = read_out_in_groups(read_showers(path), layout.readouts, layers)
    return Library(showers.energy.astype(float), showers.active_energy.astype(float))


def by_energy(learned: LearnedShowers, layout: Layout, library: Library, seed: int) -> list[dict[str, Any]]:
    """Mean and width of the visible energy in bins of energy: the surrogate's beside Geant4's."""
    energy, visible = library
    noise = jr.normal(jr.key(seed), (len(energy), learned.noise_size))
    made = eqx.filter_jit(learned.deposits)(layout, jnp.asarray(energy), noise)
    both = np.stack([visible / (float(layout.fraction) * E_OVER_MIP), np.asarray(made)]).sum(axis=-1)
    # the trend within a bin is taken out by the surrogate's own mean response
    share = both / (energy * (1 - np.asarray(learned.lost(layout)(jnp.asarray(energy)))))
    rows = []
    for low, high in pairwise(np.geomspace(energy.min(), energy.max() * (1 + 1e-9), BINS + 1)):
        geant4, ours = share[:, (energy >= low) & (energy < high)]
        widths, n = [x.std() / x.mean() for x in (ours, geant4)], len(ours)
        row = {
            name: with_error(width, width / np.sqrt(2 * n))
            for name, width in zip(("surrogate", "geant4"), widths, strict=True)
        }
        ratio = with_error(ours.mean() / geant4.mean(), np.hypot(*widths) / np.sqrt(n))
        rows.append({"low": float(low), "high": float(high), "response": ratio, **row})
    return rows
