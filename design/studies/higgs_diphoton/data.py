"""Events of the study: ROOT samples read, weighted, and divided into a design sample and a held-out one."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from diffhep.design.config import HiggsDiphotonSettings
from diffhep.design.studies.higgs_diphoton.experiment import Data
from diffhep.detector import AbstractShowers, ShowerNoise, noise_shapes
from diffhep.events import Events
from diffhep.io import Sample, read_sample, shipped
from diffhep.units import invfb, luminosity_rate

# branches that a plain NanoAOD file lacks, and what is assumed then: one isolated photon and nothing near it
OPTIONAL = {
    "hoe": 0.0,
    "pfRelIso03_all": 0.0,
    "genPartFlav": 1.0,
    "emFrac1": 1.0,
    "emFrac2": 0.0,
    "emFrac3": 0.0,
    "emRms": 0.0,
}
PT_CLASSES = (30.0, 45.0)  # GeV; edges of the classes in which fake rates are averaged
SHIPPED = {"signal": "higgs-diphoton", "background": "diphoton", "jets": "jets"}


class Loaded(NamedTuple):
    """The design sample, the held-out sample, and where they came from."""

    design: Data
    held_out: Data
    samples: dict[str, Any]


def load(settings: HiggsDiphotonSettings, showers: AbstractShowers | None = None) -> Loaded:
    """Read the three samples and divide each at random, with the study's seed.

    Args:
        settings: of the study.
        showers: of the calorimeter, if they are simulated: they want random numbers of their own.

    Raises:
        ValueError: a file is missing or broken, or too small to be divided; the message names it.
    """
    s, t = settings.samples, settings.trigger
    files = {name: getattr(s, name) or shipped(SHIPPED[name]) for name in SHIPPED}
    samples = {
        name: read_sample(file, optional=OPTIONAL, cross_section=getattr(s, f"{name}_cross_section"), min_objects=2)
        for name, file in files.items()
    }
    per_second = luminosity_rate(t.instantaneous_luminosity)
    integrated = settings.analysis.luminosity * invfb
    scale = {"signal": integrated, "background": integrated, "jets": per_second}
    rng = np.random.default_rng(settings.search.seed)
    parts: tuple[dict[str, Events], dict[str, Events]] = ({}, {})
    for name, sample in samples.items():
        events = sample.expected(scale[name])
        if name != "jets":
            events = isolated_photons(events, settings.analysis.isolation)
        for part, events_of in zip(divide(events, s.design_events, s.held_out_events, sample, rng), parts, strict=True):
            events_of[name] = part
    exposure = integrated / per_second
    isolation_rate = isolated_share(samples["jets"].events, settings.analysis.isolation)
    numbers = partial(shower_noise, readouts=settings.calorimeter.readouts, showers=showers, rng=rng)
    design, held_out = (as_data(p, exposure, isolation_rate, numbers) for p in parts)
    return Loaded(design, held_out, {name: provenance(sample) for name, sample in samples.items()})


def divide(
    events: Events, design: int, held_out: int, sample: Sample, rng: np.random.Generator
) -> tuple[Events, Events]:
    """Two disjoint random subsets, each rescaled to stand for the whole sample."""
    size = events.size
    first = min(design, size // 2)
    if first < 100:
        msg = f"{sample.path}: {size} usable events are too few, at least 200 are wanted"
        raise ValueError(msg)
    order = rng.permutation(size)
    chosen = order[:first], order[first : first + held_out]
    kept, fresh = (events.take(rows).reweight(jnp.full(len(rows), size / len(rows))) for rows in chosen)
    return kept, fresh


def isolated_photons(events: Events, isolation: float) -> Events:
    """Events whose two candidates are both isolated."""
    return events.take(np.flatnonzero(np.all(np.asarray(events["pfRelIso03_all"]) < isolation, axis=1)))


def as_data(
    events: dict[str, Events],
    exposure: float,
    isolation_rate: np.ndarray,
    numbers: Callable[[Events], ShowerNoise],
) -> Data:
    """Detector-level inputs of one part, and the classes of the jets' candidates."""
    jets = events["jets"]
    group = candidate_class(jets)
    pairs = [photons_only(events[name]) for name in ("signal", "background")]
    samples = {"prompt": jax.tree.map(lambda *parts: jnp.concatenate(parts), *pairs), "jets": candidates(jets)}
    return Data(
        **samples,
        signal_events=pairs[0].size,
        exposure=jnp.asarray(exposure),
        group=jnp.asarray(group),
        isolation_rate=jnp.asarray(isolation_rate),
        tally=jnp.ones(jets.size),
        noise={name: numbers(sample) for name, sample in samples.items()},
    )


def redrawn(data: Data, readouts: int, showers: AbstractShowers | None, rng: np.random.Generator) -> Data:
    """The same events with other random numbers of the response."""
    samples = {"prompt": data.prompt, "jets": data.jets}
    noise = {name: shower_noise(sample, readouts, showers, rng) for name, sample in samples.items()}
    return eqx.tree_at(lambda d: d.noise, data, noise)


def shower_noise(
    events: Events, readouts: int, showers: AbstractShowers | None, rng: np.random.Generator
) -> ShowerNoise:
    """Random numbers of the response, drawn once with NumPy: compiling a generator for each shape would take longer."""
    shapes = noise_shapes(events, readouts, showers)
    kinds = {"conversion": rng.standard_exponential, "hadron": rng.standard_exponential}
    return ShowerNoise(**{name: jnp.asarray(kinds.get(name, rng.standard_normal)(s)) for name, s in shapes.items()})


def candidate_class(jets: Events) -> np.ndarray:
    """Class of every candidate: not prompt or prompt, times the class of its generated pt."""
    prompt = np.asarray(jets["genPartFlav"]) == 1
    return (len(PT_CLASSES) + 1) * prompt + np.digitize(np.asarray(jets["pt"]), PT_CLASSES)


def isolated_share(jets: Events, isolation: float) -> np.ndarray:
    """Share of isolated candidates in each class, by weight."""
    group, count = candidate_class(jets).ravel(), 2 * (len(PT_CLASSES) + 1)
    weight = np.broadcast_to(np.asarray(jets.weight)[:, None], jets.mask.shape).ravel()
    isolated = (np.asarray(jets["pfRelIso03_all"]) < isolation).ravel()
    total = np.bincount(group, weight, count)
    return np.bincount(group, weight * isolated, count) / np.where(total > 0, total, 1.0)


def photons_only(events: Events) -> Events:
    """Isolated photons: one shower each, nothing else."""
    return events.only("pt", "eta", "phi").with_fields({"em_rms": jnp.zeros_like(events["pt"])})


def candidates(events: Events) -> Events:
    """Candidates from jets: up to three electromagnetic constituents, and hadrons."""
    fractions = jnp.stack([events[f"emFrac{i}"] for i in (1, 2, 3)], axis=-1)
    fields = {"em_fraction": fractions, "em_rms": events["emRms"]}
    return events.only("pt", "eta", "phi", "hoe").with_fields(fields)


def provenance(sample: Sample) -> dict[str, Any]:
    """What the result and the model card say about a sample."""
    return {
        "file": sample.path.name,
        "process": sample.process,
        "seed": sample.seed,
        "cross_section_pb": sample.cross_section,
        "generated": sample.n_generated,
        "events": sample.events.size,
    }
