"""Arrays behind the figures of the report, hard wherever a figure shows events."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffhep.design.studies.higgs_diphoton.experiment import (
    HARD,
    Data,
    Experiment,
    Spectrum,
    measure,
    menu_with,
)
from diffhep.detector import ShowerNoise
from diffhep.detector.showers import E_OVER_MIP
from diffhep.events import Events
from diffhep.kinematics import energy_of
from diffhep.parameters import resolve
from diffhep.surrogates import LearnedShowers
from diffhep.trigger import turn_on


class DiphotonStudy(Protocol):
    """What the pictures need of the study."""

    spectrum: Spectrum
    fresh: Data

    def with_templates(self, design: Experiment, *, relaxed: bool) -> Mapping[str, Any]:
        """Values and templates of a design on held-out events."""
        ...

    def hard_version(self, design: Experiment) -> Experiment:
        """The design with its classifier in fixed point."""
        ...


REFERENCE_ENERGY = 60.0  # GeV
QUANTILES = 1024  # of simulated showers, whose width is drawn
TURN_ON_EDGES = np.linspace(15.0, 80.0, 27)


def pictures(study: DiphotonStudy, initial: Experiment, final: Experiment) -> dict[str, Any]:
    """`spectrum`, `resolution`, `turn_on` and `rate` for the initial and the final design."""
    return {
        "spectrum": {
            "edges": np.asarray(study.spectrum.edges),
            "initial": spectrum_of(study, initial),
            "final": spectrum_of(study, final),
        },
        "resolution": resolution_terms(final),
        "turn_on": {
            "edges": TURN_ON_EDGES,
            "initial": turn_on_of(study, initial),
            "final": turn_on_of(study, final),
        },
        "rate": {"initial": rate_curve(study, initial), "final": rate_curve(study, final)},
    }


def spectrum_of(study: DiphotonStudy, design: Experiment) -> dict[str, np.ndarray]:
    """Signal, continuum and fakes per bin, held-out events, hard."""
    t = study.with_templates(design, relaxed=False)["templates"]
    return {
        "signal": np.asarray(t.signal),
        "background": np.asarray(t.background),
        "continuum": np.asarray(t.raw_background[0]),
        "fakes": np.asarray(t.raw_background[1]),
    }


def resolution_terms(design: Experiment) -> dict[str, Any]:
    """Relative resolution at 60 GeV and its terms against the absorber thickness, the rest of the design held."""
    calorimeter = resolve(design.calorimeter)
    showers = calorimeter.showers
    low, high = showers.bounds.absorber if isinstance(showers, LearnedShowers) else (0.5, 12.0)
    thickness = np.linspace(low, high, 60)

    @jax.jit
    @jax.vmap
    def terms(absorber: Array) -> dict[str, Array]:
        c = eqx.tree_at(lambda x: x.absorber, calorimeter, absorber)
        others = {
            "photo-statistics": c.photo_term() / REFERENCE_ENERGY**0.5,
            "noise": jnp.sqrt(c.layers) * c.noise / REFERENCE_ENERGY,
        }
        if isinstance(showers, LearnedShowers):
            others["photo-statistics"] = others["photo-statistics"] / E_OVER_MIP**0.5
            visible = showers.quantiles(c.layout(), jnp.array(REFERENCE_ENERGY), QUANTILES)
            others["sampling and leakage"] = jnp.std(visible) / jnp.mean(visible)
            squares = [x**2 for x in others.values()]
            return {"total": jnp.sqrt(sum(squares) + c.constant_term**2), **others}
        mean, spread = c.leakage(REFERENCE_ENERGY)
        sampling = c.sampling_term() / REFERENCE_ENERGY**0.5
        total = c.resolution(REFERENCE_ENERGY)
        return {"total": total, "sampling": sampling, "leakage": spread / (1 - mean), **others}

    return {
        "absorber": thickness,
        "terms": {name: np.asarray(x) for name, x in terms(jnp.asarray(thickness)).items()},
        "constant": float(calorimeter.constant_term),
        "energy": REFERENCE_ENERGY,
        "final": float(calorimeter.absorber),
    }


class Seen(NamedTuple):
    """What the hard trigger sees of a sample: measured energy and pt [GeV], acceptance of objects and of events."""

    energy: Float[Array, "event object"]
    pt: Float[Array, "event object"]
    objects: Float[Array, " event"]
    events: Float[Array, " event"]


@jax.jit
def seen(hard: Experiment, spectrum: Spectrum, events: Events, noise: ShowerNoise) -> Seen:
    """A sample through the hard trigger."""
    photons, menu = measure(hard, spectrum, events, noise), menu_with(hard, HARD)
    objects = jnp.prod(menu.object_acceptance(photons), axis=1)
    pt = jnp.where(photons.mask, photons["pt"], 0.0)
    return Seen(photons["energy"], pt, objects, menu.energy_acceptance(photons) * objects)


def turn_on_of(study: DiphotonStudy, design: Experiment) -> dict[str, Any]:
    """Efficiency of the hard trigger for signal against the subleading photon's generated pt."""
    signal, noise = study.fresh.signal()
    found = seen(resolve(study.hard_version(design)), study.spectrum, signal, noise)
    efficiency, error = turn_on(np.asarray(signal["pt"]).min(axis=1), np.asarray(found.events), TURN_ON_EDGES)
    truth = np.asarray(energy_of(signal["pt"], signal["eta"]))
    return {
        "efficiency": np.nan_to_num(efficiency),
        "error": np.nan_to_num(error),
        "filled": np.isfinite(efficiency),
        "energy_resolution": float(np.std(np.asarray(found.energy) / truth)),
    }


def rate_curve(study: DiphotonStudy, design: Experiment) -> dict[str, Any]:
    """Hard rate on held-out jets against a common shift of both thresholds, with its error."""
    hard, jets = resolve(study.hard_version(design)), study.fresh.jets
    found = seen(hard, study.spectrum, jets, study.fresh.noise["jets"])
    pt, shift = np.asarray(found.pt), np.linspace(-8.0, 12.0, 41)
    high, low = pt.max(axis=1)[:, None], pt.min(axis=1)[:, None]
    passed = (high > float(hard.menu.leading) + shift) & (low > float(hard.menu.subleading) + shift)
    weight = (np.asarray(jets.weight) * np.asarray(found.objects))[:, None] * passed
    return {"shift": shift, "rate": weight.sum(axis=0), "error": np.sqrt((weight**2).sum(axis=0))}
