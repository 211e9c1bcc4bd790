"""Arrays behind the figures of the report, hard wherever a figure shows events."""

from typing import Any, Protocol

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from diffhep.design.studies.higgs_diphoton.experiment import (
    HARD,
    Data,
    Decisions,
    Experiment,
    Spectrum,
    Templates,
    measured,
    menu_with,
    templates,
)
from diffhep.kinematics import energy_of
from diffhep.parameters import resolve
from diffhep.trigger import turn_on


class DiphotonStudy(Protocol):
    """What the pictures need of the study."""

    spectrum: Spectrum
    fresh: Data

    def hard_version(self, design: Experiment) -> Experiment:
        """The design with its classifier in fixed point."""
        ...


REFERENCE_ENERGY = 60.0  # GeV
TURN_ON_EDGES = np.linspace(15.0, 80.0, 27)


@eqx.filter_jit
def hard_templates(design: Experiment, spectrum: Spectrum, data: Data, decisions: Decisions) -> Templates:
    """Templates of a resolved experiment, compiled once for all figures."""
    return templates(design, spectrum, data, decisions)


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
    hard = resolve(study.hard_version(design))
    t = hard_templates(hard, study.spectrum, study.fresh, HARD)
    return {
        "signal": np.asarray(t.signal),
        "background": np.asarray(t.background),
        "continuum": np.asarray(t.raw_background[0]),
        "fakes": np.asarray(t.raw_background[1]),
    }


def resolution_terms(design: Experiment) -> dict[str, Any]:
    """Relative resolution at 60 GeV and its terms against the absorber thickness, the rest of the design held."""
    calorimeter = resolve(design.calorimeter)
    thickness = np.linspace(0.5, 12.0, 60)
    rows: dict[str, list[float]] = {name: [] for name in ("total", "sampling", "photo-statistics", "leakage", "noise")}
    for value in thickness:
        c = eqx.tree_at(lambda x: x.absorber, calorimeter, jnp.asarray(value))
        mean, spread = c.leakage(REFERENCE_ENERGY)
        rows["total"].append(float(c.resolution(REFERENCE_ENERGY)))
        rows["sampling"].append(float(c.sampling_term()) / REFERENCE_ENERGY**0.5)
        rows["photo-statistics"].append(float(c.photo_term()) / REFERENCE_ENERGY**0.5)
        rows["leakage"].append(float(spread / (1 - mean)))
        rows["noise"].append(float(c.layers**0.5 * c.noise) / REFERENCE_ENERGY)
    return {
        "absorber": thickness,
        "terms": rows,
        "constant": float(calorimeter.constant_term),
        "energy": REFERENCE_ENERGY,
        "final": float(calorimeter.absorber),
    }


def turn_on_of(study: DiphotonStudy, design: Experiment) -> dict[str, Any]:
    """Efficiency of the hard trigger for signal against the subleading photon's generated pt."""
    hard = resolve(study.hard_version(design))
    signal, noise = study.fresh.signal()
    photons = measured(hard, study.spectrum, signal, noise)
    accepted = np.asarray(menu_with(hard, HARD)(photons).weight) / np.asarray(signal.weight)
    true_pt = np.asarray(signal["pt"])
    efficiency, error = turn_on(true_pt.min(axis=1), accepted, TURN_ON_EDGES)
    reconstructed = np.asarray(photons["energy"])
    truth = np.asarray(energy_of(signal["pt"], signal["eta"]))
    return {
        "efficiency": np.nan_to_num(efficiency),
        "error": np.nan_to_num(error),
        "filled": np.isfinite(efficiency),
        "energy_resolution": float(np.std(reconstructed / truth)),
    }


def rate_curve(study: DiphotonStudy, design: Experiment) -> dict[str, Any]:
    """Hard rate on held-out jets against a common shift of both thresholds, with its error."""
    hard = resolve(study.hard_version(design))
    jets = study.fresh.jets
    photons = measured(hard, study.spectrum, jets, study.fresh.noise["jets"])
    menu = menu_with(hard, HARD)
    objects = np.asarray(jnp.prod(menu.object_acceptance(photons), axis=1))
    pt = np.where(np.asarray(photons.mask), np.asarray(photons["pt"]), 0.0)
    shift = np.linspace(-8.0, 12.0, 41)
    high, low = pt.max(axis=1)[:, None], pt.min(axis=1)[:, None]
    passed = (high > float(menu.leading) + shift) & (low > float(menu.subleading) + shift)
    weight = np.asarray(jets.weight)[:, None] * objects[:, None] * passed
    return {"shift": shift, "rate": weight.sum(axis=0), "error": np.sqrt((weight**2).sum(axis=0))}
