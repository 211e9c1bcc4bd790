"""The diphoton study against a closed form, with everything but the calorimeter switched off."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.design.studies.higgs_diphoton.experiment import (
    HARD,
    RELAXED,
    Data,
    Experiment,
    Nuisances,
    Spectrum,
    significance,
    templates,
)
from diffhep.detector import SamplingCalorimeter, ShowerNoise, noise_shapes
from diffhep.events import Events
from diffhep.tagging import PhotonTagger
from diffhep.trigger import TRIGGER_SUMS, DenseClassifier, DiphotonMenu

MASS, RANGE = 125.0, (25.0, 225.0)
SIGNAL, PER_GEV = 80.0, 2000.0  # events, and background events per GeV: a peak of 3 % of the background


def bare(absorber):
    """A calorimeter with nothing but sampling and photo-statistics; trigger and identification accept everything."""
    # 28 radiation lengths: next to nothing leaks out
    calorimeter = SamplingCalorimeter(
        jnp.asarray(absorber),
        jnp.array(1.0),
        jnp.asarray(160 / absorber),
        constant_term=0.0,
        noise=0.0,
        position_constant=0.0,
        readouts=4,
    )
    keep = DenseClassifier((jnp.zeros((1, TRIGGER_SUMS + 1)),), (jnp.ones(1) * 1e3,), (0,) * 5, (0.0,) * 5)
    tagger = PhotonTagger.init(4, depth=0, key=jr.key(0))
    return Experiment(calorimeter, tagger, DiphotonMenu(0.0, 0.0, keep), jnp.array(-1e3), Nuisances(0.0, 0.0))


def pairs(mass, weight):
    """Back-to-back photons in the transverse plane with a given mass [GeV]."""
    pt = np.stack([mass, mass], axis=1) / 2
    phi = np.broadcast_to([0.0, np.pi], pt.shape)
    fields = {"pt": pt, "eta": 0 * pt, "phi": phi, "em_rms": 0 * pt}
    return Events({k: jnp.asarray(v) for k, v in fields.items()}, jnp.ones(pt.shape, bool), jnp.asarray(weight))


def data(rng, n=20_000):
    signal = pairs(np.full(n, MASS), np.full(n, SIGNAL / n))
    # evenly spaced: the background is flat, and has no fluctuations of its own
    spread = np.linspace(RANGE[0] - 20, RANGE[1] + 20, n)
    flat = pairs(spread, np.full(n, PER_GEV * (spread[-1] - spread[0]) / n))
    prompt = Events(
        {k: jnp.concatenate([signal[k], flat[k]]) for k in signal.fields},
        jnp.concatenate([signal.mask, flat.mask]),
        jnp.concatenate([signal.weight, flat.weight]),
    )
    jets = pairs(np.full(100, 50.0), np.zeros(100))
    nothing = jnp.zeros(jets.mask.shape)
    jets = jets.with_fields({"hoe": nothing, "em_fraction": jnp.ones((*nothing.shape, 1))})
    noise = {name: numbers(rng, events) for name, events in (("prompt", prompt), ("jets", jets))}
    return Data(
        prompt, jets, jnp.array(1.0), jnp.zeros(jets.mask.shape, int), jnp.zeros(2), jnp.ones(jets.size), noise, n
    )


def numbers(rng, events):
    draw = {"conversion": rng.exponential, "hadron": rng.exponential}
    shapes = noise_shapes(events, 4)
    return ShowerNoise(**{name: jnp.asarray(draw.get(name, rng.normal)(size=s)) for name, s in shapes.items()})


@pytest.mark.parametrize(("absorber", "decisions"), [(1.0, HARD), (2.0, HARD), (2.0, RELAXED)])
def test_with_nothing_but_the_calorimeter_the_likelihood_gives_the_significance_of_a_peak_on_a_flat_background(
    absorber, decisions
):
    experiment = bare(absorber)
    edges = jnp.linspace(*RANGE, 801)
    # nothing is uncertain but the background; a range of 130 standard deviations fixes it, to 1.4 % of the information
    spectrum = Spectrum(edges, 1e-9, 0.0, 0.0)
    t = jax.jit(templates)(experiment, spectrum, data(np.random.default_rng(1)), decisions)
    sigma = MASS * float(experiment.calorimeter.resolution(jnp.array(MASS / 2))) / np.sqrt(2)
    sigma = np.hypot(sigma, decisions.bandwidth or 0.0)
    density = SIGNAL / (np.sqrt(2 * np.pi) * sigma)
    assert density < 0.07 * PER_GEV
    assert_allclose(t.signal.sum(), SIGNAL, rtol=1e-6)
    formula = SIGNAL / np.sqrt(2 * np.sqrt(np.pi) * sigma * PER_GEV)
    assert_allclose(significance(spectrum, t), formula, rtol=0.01)
