"""Training a surrogate on from the weights it has, with showers of the stacks where it was found wanting.

An optimiser finds the stacks for which a surrogate flatters most, so those are the ones to simulate: `around` draws
stacks near one of them. A share of every training step are earlier showers, or as general ones, so that the surrogate
keeps what it knows of all others.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from diffhep.generate.geant4 import Beam, SamplingCalorimeter
from diffhep.generate.geant4_setup import PARTICLES, Variation
from diffhep.surrogates.card import folder_of, load_surrogate, settings_of
from diffhep.surrogates.config import GroupSettings, NetworkSettings, SurrogateSettings
from diffhep.surrogates.surrogate import LayerSurrogate

KNOTS = 4  # of the smooth part of a variation
SMOOTH, ROUGH = 0.3, 0.15  # largest standard deviations of ln(thickness): along the stack, and layer by layer
ANGLED = 0.2  # share of the showers that are not along the normal


def started(settings: SurrogateSettings) -> SurrogateSettings:
    """The settings with network and groups of the surrogate that the training starts from, if it starts from one.

    Raises:
        ValueError: no surrogate there, one of cells, settings that ask for another network than it has, or a replay
            without a surrogate.
    """
    if settings.start_from is None:
        if settings.replay:
            msg = "replay: it keeps what a surrogate knows; name one with start_from"
            raise ValueError(msg)
        return settings
    trained = settings_of(folder_of(settings.start_from))
    if "voxels" in (settings.network.kind, trained.network.kind):
        msg = f"start_from: {settings.start_from}: a surrogate of cells is trained from random weights only"
        raise ValueError(msg)
    if settings.network not in (trained.network, NetworkSettings()):
        msg = f"start_from: {settings.start_from} brings its network; leave the settings of `network` out"
        raise ValueError(msg)
    groups = trained.groups if settings.groups == GroupSettings() else settings.groups
    return settings.model_copy(update={"network": trained.network, "threshold": trained.threshold, "groups": groups})


def starting_point(settings: SurrogateSettings) -> LayerSurrogate | None:
    """The surrogate that a training starts from, or None."""
    return load_surrogate(folder_of(settings.start_from)) if settings.start_from else None


def around(
    surrogate: LayerSurrogate,
    absorber: Float[NDArray, " layer"],
    active: Float[NDArray, " layer"],
    n: int,
    *,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Energies, angles and thicknesses of showers in stacks near one, within what the surrogate was trained on.

    Thicknesses are multiplied by a random smooth curve and by a random number of each layer, of another size for each
    shower: an optimiser that is told better moves on, and the next optimum should be among them.

    Args:
        surrogate: whose domain they keep to.
        absorber: thickness of the absorber of every layer [mm].
        active: thickness of the active slab of every layer [mm].
        n: number of showers.
        seed: of the random numbers.

    Returns:
        what `diffhep.generate.simulate_each` takes.
    """
    random = np.random.default_rng([seed, 13])
    low, high = (np.asarray(end, float) for end in (surrogate.domain.low, surrogate.domain.high))
    place, knots = np.linspace(0, 1, surrogate.stack.layers), np.linspace(0, 1, KNOTS)
    found = {
        "energy": np.exp(random.uniform(np.log(low[0]), np.log(high[0]), n)),
        "angle": np.where(random.uniform(size=n) < ANGLED, random.uniform(low[1], high[1], n), 0.0),
    }
    for i, (name, middle) in enumerate((("absorber_thickness", absorber), ("active_thickness", active))):
        curve = SMOOTH * random.uniform(size=(n, 1)) * random.normal(size=(n, KNOTS))
        layer = ROUGH * random.uniform(size=(n, 1)) * random.normal(size=(n, len(place)))
        trend = np.stack([np.interp(place, knots, row) for row in curve])
        found[name] = np.clip(middle * np.exp(trend + layer), low[2 + i], high[2 + i])
    return found


def everywhere(surrogate: LayerSurrogate, variation: Variation) -> tuple[SamplingCalorimeter, Beam]:
    """Stacks and particles all over what a surrogate was trained on, for `diffhep.generate.generate_showers`."""
    low, high = (np.asarray(end, float).tolist() for end in (surrogate.domain.low, surrogate.domain.high))
    stack = surrogate.stack
    calorimeter = SamplingCalorimeter(
        stack.layers,
        stack.absorber,
        stack.active,
        absorber_thickness=(low[2], high[2]),
        active_thickness=(low[3], high[3]),
        variation=variation,
        absorber_energy=False,
    )
    name = next(name for name, number in PARTICLES.items() if number == stack.pdg_id)
    return calorimeter, Beam(name, energy=(low[0], high[0]), angle=(low[1], high[1]))
