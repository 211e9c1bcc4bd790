"""The learned response of the calorimeter, and where in the space of designs it may be believed."""

from typing import NamedTuple

import numpy as np

from diffhep.design.config import HiggsDiphotonSettings
from diffhep.surrogates import LearnedShowers, load_surrogate, shipped_photons

NEAR = 1e-3  # of an interval: how far from its ends a start is kept


class Bounds(NamedTuple):
    """Open intervals of absorber and active thickness [mm], and of the number of layers."""

    absorber: tuple[float, float] = (0.3, 20.0)
    active: tuple[float, float] = (0.3, 20.0)
    layers: tuple[float, float] = (4.0, 160.0)


def bounds(showers: LearnedShowers | None) -> Bounds:
    """What a design may be: anything sensible, or what a surrogate was trained on."""
    if showers is None:
        return Bounds()
    known = showers.bounds
    return Bounds(known.absorber, known.active, known.layers)


def inside(value: float, ends: tuple[float, float]) -> float:
    """The value, or one just inside the nearer end."""
    margin = NEAR * (ends[1] - ends[0])
    return float(np.clip(value, ends[0] + margin, ends[1] - margin))


def learned_showers(settings: HiggsDiphotonSettings) -> LearnedShowers:
    """The surrogate that the settings name, for this calorimeter.

    Raises:
        ValueError: a surrogate of another kind, of electrons, or of other materials or groups of layers; an initial
            layout that it was not trained on.
    """
    folder, c = settings.simulation.surrogate, settings.calorimeter
    showers = LearnedShowers.of(load_surrogate(folder) if folder else shipped_photons())
    stack = showers.surrogate.stack
    wanted = {"pdg_id": 22, "absorber": "G4_Pb", "active": "G4_PLASTIC_SC_VINYLTOLUENE", "layers": c.readouts}
    for name, value in wanted.items():
        if (got := getattr(stack, name)) != value:
            what = "groups of layers (calorimeter.readouts)" if name == "layers" else name
            msg = f"simulation.surrogate: {what}: the surrogate is of {got}, the study of {value}"
            raise ValueError(msg)
    for name in ("absorber", "active", "layers"):
        (low, high), value = getattr(showers.bounds, name), getattr(c, name)
        if not low < value < high:
            msg = f"calorimeter.{name}: wanted between {low:.6g} and {high:.6g}, what the surrogate was trained on, "
            msg += f"got {value:g}"
            raise ValueError(msg)
    return showers
