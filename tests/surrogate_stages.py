"""The contract's list for surrogates and for calorimeters with their showers: part of `tests.stages`."""

from collections.abc import Callable

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from diffhep.detector import FrozenShowers, Layout, SamplingCalorimeter
from diffhep.parameters import resolve
from diffhep.surrogates import (
    AutoregressiveSurrogate,
    GflashSurrogate,
    Incidence,
    LearnedShowers,
    Stack,
    SurrogateSettings,
)
from diffhep.surrogates.coordinates import log_jacobian, to_coordinates, to_energies
from diffhep.surrogates.kinds import empty_surrogate, empty_voxels
from diffhep.surrogates.learned_showers import Bounds
from diffhep.surrogates.splits import Tree
from tests.cases import Case, lead_stack, on_function, on_stage, spread
from tests.strategies import photons


def electron() -> Incidence:
    """An electron of 60 GeV that meets four layers; below 10 GeV the quadrature of a profile is good to 1e-5 only."""
    return Incidence(jnp.array(60.0), jnp.array(0.2), spread(4, 3, 7), spread(4, 2, 6))


def learned_showers(kind: str = "autoregressive") -> Case:
    """A surrogate with untrained networks, in double precision, for given random numbers."""
    settings = SurrogateSettings.model_validate(
        {"network": {"kind": kind, "width": 6, "depth": 1, "moments": 5, "memory": 5}}
    )
    surrogate = empty_surrogate(settings, Stack(4)).in_double()
    noise = jr.normal(jr.key(7), (2, surrogate.noise_size))
    return Case(lambda s, x: 1e3 * s.from_noise(x, noise, hard=False), surrogate, electron())


def untrained_in_groups(groups: int) -> AutoregressiveSurrogate:
    """A surrogate of layers in groups, with untrained networks, in double precision."""
    settings = SurrogateSettings.model_validate({"network": {"width": 6, "depth": 1, "memory": 5}})
    surrogate = empty_surrogate(settings, Stack(groups, pdg_id=22, merged=True)).in_double()
    assert isinstance(surrogate, AutoregressiveSurrogate)
    return surrogate


def grouped_showers() -> Case:
    """A surrogate of layers in groups, two and a half in each."""
    surrogate, x = untrained_in_groups(4), electron()
    noise = jr.normal(jr.key(7), (2, surrogate.noise_size))
    x = Incidence(x.energy, x.angle, 2.5 * x.absorber, 2.5 * x.active, jnp.array(2.5))
    return Case(lambda s, x: 1e3 * s.from_noise(x, noise, hard=False), surrogate, x)


def learned_response() -> SamplingCalorimeter:
    """A calorimeter with the showers of an untrained surrogate."""
    bounds = Bounds((0.5, 400.0), (1.0, 9.0), (1.0, 9.0), (8.0, 60.0))
    return lead_stack(readouts=4, showers=LearnedShowers(untrained_in_groups(4), bounds))


def library() -> FrozenShowers:
    """Showers that are gamma distributed, in four groups of layers, from 1 to 100 GeV."""
    random = np.random.default_rng(4)
    energy = np.geomspace(1.0, 100.0, 400)
    return FrozenShowers.of(energy, 0.02 * energy[:, None] * random.gamma(20.0, 0.05, (400, 4)), 0.1)


def layout_of_four() -> Layout:
    """Layers read out in four groups."""
    return resolve(lead_stack(readouts=4)).layout()


def learned_cells() -> Case:
    """An untrained surrogate of cells, in double precision, for given random numbers."""
    settings = SurrogateSettings.model_validate({"network": {"width": 6, "depth": 1, "memory": 5, "splitter": 6}})
    surrogate = empty_voxels(settings, Stack(4), Tree(2, 2)).in_double()
    # some splits give all to one child; none is next to the point where that begins, about 0.8 here, where the
    # logarithm in the quantile function leaves difference quotients no room
    noise = jr.uniform(jr.key(9), (2, surrogate.noise_size), minval=-0.5, maxval=0.5)
    noise = jnp.where(jnp.arange(surrogate.noise_size) % 7 == 3, 1.5 * jnp.sign(noise), noise)
    x = electron()
    x = Incidence(x.energy, jnp.array(0.0), x.absorber, x.active)
    return Case(lambda s, x: 1e3 * s.from_noise(x, noise, hard=False)[1], surrogate, x)


def gflash_showers() -> Case:
    """The parametrisation, which has nothing to learn."""
    surrogate = GflashSurrogate(Stack(4))
    noise = jr.normal(jr.key(8), (2, surrogate.noise_size))
    return Case(lambda s, x: 1e3 * s.from_noise(x, noise, hard=False), surrogate, electron())


SURROGATES: dict[str, Callable[[], Case]] = {
    "AutoregressiveSurrogate.from_noise": learned_showers,
    "AutoregressiveSurrogate.from_noise, groups": grouped_showers,
    "SamplingCalorimeter, learned showers": lambda: on_stage(learned_response(), photons(), jr.key(0)),
    "SamplingCalorimeter.leakage_curve, learned showers": lambda: Case(
        lambda t, x: t.leakage_curve()(x), learned_response(), spread(5, 2, 300)
    ),
    "FrozenShowers.calibration": lambda: Case(
        lambda t, x: t.calibration(layout_of_four())(x), library(), spread(5, 2, 90)
    ),
    "WhitenedSurrogate.from_noise": lambda: learned_showers("one-step"),
    "VoxelSurrogate.from_noise": learned_cells,
    "GflashSurrogate.from_noise": gflash_showers,
    "to_coordinates": lambda: on_function(to_coordinates, spread(5, 0.1, 0.4), 3.0),
    "to_energies": lambda: on_function(to_energies, spread(5, -2, 2), 3.0),
    "log_jacobian": lambda: on_function(log_jacobian, spread(5, 0.1, 0.4), 3.0),
}

STEPPED_SURROGATES: dict[str, Callable[[], Case]] = {
    # a particle gets another shower where its energy crosses one of the library's
    "FrozenShowers.deposits": lambda: Case(
        lambda t, x: library().deposits(layout_of_four(), x, spread(5, -2, 2)[:, None]), (), spread(5, 2, 90)
    ),
}
