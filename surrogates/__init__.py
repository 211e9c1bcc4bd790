"""Learned stand-ins for full simulation, conditioned on the geometry and differentiable in it.

`fit_surrogate` trains one on Geant4 showers, `validate` compares it with others, `load_surrogate` reads it back:

>>> surrogate = load_surrogate("runs/surrogate")  # doctest: +SKIP
>>> x = Incidence(energy=2.0, angle=0.0, absorber=jnp.full(30, 4.0), active=jnp.full(30, 5.0))  # doctest: +SKIP
>>> surrogate.sample(x, key=jr.key(0))  # doctest: +SKIP

Names are loaded when they are first used: the command line needs the settings before it needs JAX.
"""

from typing import TYPE_CHECKING

from diffhep.lazy import lazy_names

if TYPE_CHECKING:
    from diffhep.surrogates.autoregressive import AutoregressiveSurrogate as AutoregressiveSurrogate
    from diffhep.surrogates.card import is_voxels as is_voxels
    from diffhep.surrogates.card import load_surrogate as load_surrogate
    from diffhep.surrogates.card import load_voxels as load_voxels
    from diffhep.surrogates.card import save_surrogate as save_surrogate
    from diffhep.surrogates.card import settings_of as settings_of
    from diffhep.surrogates.card import shipped_photons as shipped_photons
    from diffhep.surrogates.card import shipped_surrogate as shipped_surrogate
    from diffhep.surrogates.card import shipped_voxels as shipped_voxels
    from diffhep.surrogates.classifier import OURS as OURS
    from diffhep.surrogates.classifier import PUBLISHED as PUBLISHED
    from diffhep.surrogates.classifier import ClassifierSettings as ClassifierSettings
    from diffhep.surrogates.classifier import classifier_auc as classifier_auc
    from diffhep.surrogates.config import SurrogateSettings as SurrogateSettings
    from diffhep.surrogates.domain import Domain as Domain
    from diffhep.surrogates.fitting import fit_surrogate as fit_surrogate
    from diffhep.surrogates.generator import AbstractDensity as AbstractDensity
    from diffhep.surrogates.generator import AbstractGenerator as AbstractGenerator
    from diffhep.surrogates.gflash import GflashSurrogate as GflashSurrogate
    from diffhep.surrogates.groups import grouped as grouped
    from diffhep.surrogates.groups import read_out_in_groups as read_out_in_groups
    from diffhep.surrogates.learned_showers import LearnedShowers as LearnedShowers
    from diffhep.surrogates.metrics import auc as auc
    from diffhep.surrogates.metrics import frechet_distance as frechet_distance
    from diffhep.surrogates.metrics import frechet_physics_distance as frechet_physics_distance
    from diffhep.surrogates.metrics import kernel_physics_distance as kernel_physics_distance
    from diffhep.surrogates.metrics import separation_power as separation_power
    from diffhep.surrogates.metrics import wasserstein as wasserstein
    from diffhep.surrogates.refining import around as around
    from diffhep.surrogates.refining import everywhere as everywhere
    from diffhep.surrogates.refining import started as started
    from diffhep.surrogates.refining import starting_point as starting_point
    from diffhep.surrogates.stack import Incidence as Incidence
    from diffhep.surrogates.stack import Stack as Stack
    from diffhep.surrogates.stack import incidence_of as incidence_of
    from diffhep.surrogates.stack import stack_of as stack_of
    from diffhep.surrogates.surrogate import AbstractSurrogate as AbstractSurrogate
    from diffhep.surrogates.surrogate import LayerSurrogate as LayerSurrogate
    from diffhep.surrogates.validation import response_gradient as response_gradient
    from diffhep.surrogates.validation import sample_like as sample_like
    from diffhep.surrogates.validation import validate as validate
    from diffhep.surrogates.voxel_fitting import fit_voxels as fit_voxels
    from diffhep.surrogates.voxel_validation import sample_voxels as sample_voxels
    from diffhep.surrogates.voxel_validation import validate_voxels as validate_voxels
    from diffhep.surrogates.voxels import VoxelSurrogate as VoxelSurrogate
    from diffhep.surrogates.whitened import WhitenedSurrogate as WhitenedSurrogate

HOMES = {
    "autoregressive": ("AutoregressiveSurrogate",),
    "card": (
        "is_voxels",
        "load_surrogate",
        "load_voxels",
        "save_surrogate",
        "settings_of",
        "shipped_photons",
        "shipped_surrogate",
        "shipped_voxels",
    ),
    "classifier": (
        "OURS",
        "PUBLISHED",
        "ClassifierSettings",
        "classifier_auc",
    ),
    "config": ("SurrogateSettings",),
    "domain": ("Domain",),
    "fitting": ("fit_surrogate",),
    "generator": (
        "AbstractDensity",
        "AbstractGenerator",
    ),
    "gflash": ("GflashSurrogate",),
    "groups": (
        "grouped",
        "read_out_in_groups",
    ),
    "learned_showers": ("LearnedShowers",),
    "metrics": (
        "auc",
        "frechet_distance",
        "frechet_physics_distance",
        "kernel_physics_distance",
        "separation_power",
        "wasserstein",
    ),
    "refining": (
        "around",
        "everywhere",
        "started",
        "starting_point",
    ),
    "stack": (
        "Incidence",
        "Stack",
        "incidence_of",
        "stack_of",
    ),
    "surrogate": (
        "AbstractSurrogate",
        "LayerSurrogate",
    ),
    "validation": (
        "response_gradient",
        "sample_like",
        "validate",
    ),
    "voxel_fitting": ("fit_voxels",),
    "voxel_validation": (
        "sample_voxels",
        "validate_voxels",
    ),
    "voxels": ("VoxelSurrogate",),
    "whitened": ("WhitenedSurrogate",),
}

__getattr__, __dir__ = lazy_names("diffhep.surrogates", HOMES)
