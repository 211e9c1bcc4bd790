r"""Proton collisions from Pythia 8.3 with the objects that a whole level-1 trigger looks at (extra `diffhep[jets]`).

Every event is kept, with

- `Jet`: anti-kT, R = 0.4 (arXiv:0802.1189), of all visible particles but muons with $|\eta| < 5$;
- `EG`: electromagnetic clusters, of electrons and photons alike (`diffhep.generate.candidates`), $|\eta| < 2.5$;
- `Muon`: $|\eta| < 2.4$;
- `MET_pt`, `MET_phi`, `MET_sumEt`: minus the vector sum, and the scalar sum, of what the jets are made of,

above `PT_MIN`. They are particles: what a trigger makes of them is its own business (`diffhep.trigger.level1`).

**Minimum bias** is one sample of all inelastic non-diffractive collisions. Those whose hardest scattering is below
20 GeV come from Pythia's soft process, the others from its hard one, biased towards large transverse momenta and
weighted back: so rates far below a millionth of all collisions can be told from some ten thousand events.

**Pile-up** is overlaid: a Poisson number of further minimum-bias collisions, none used twice.

The weight of an event is its share of the cross-section in pb, as in `diffhep.generate.pythia`.
"""

import dataclasses
import importlib.metadata
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import awkward as ak
import numpy as np

from diffhep.events import Events
from diffhep.generate.candidates import photon_candidates
from diffhep.generate.clustering import INVISIBLE, directions, flattened, load_fastjet, records
from diffhep.generate.processes import COLLISIONS, COMMON, SOFT, Run
from diffhep.generate.pythia_session import (
    captured,
    check_request,
    configured,
    counting_bar,
    initialise,
    load_pythia,
    run_seed,
    split,
)
from diffhep.io import write_sample
from diffhep.units import mb

RADIUS = 0.4
ETA_MAX = 5.0
MUON, MUON_ETA_MAX = 13, 2.4
STABLE_INVISIBLE = 1000022
PT_MIN = MappingProxyType({"Jet": 8.0, "EG": 2.0, "Muon": 2.0})  # GeV
MOST = 16  # objects of a kind that are kept
BATCH = 200  # events
PILE_UP_MAX = 200.0
PILE_UP_RUN = 5  # place of the pile-up among the seeds of the runs
TRIALS_PER_EVENT = 100

Kinematics = tuple[np.ndarray, np.ndarray]
"""Numbers of events, and pt, eta, phi of an object each, (object,) and (object, 3)."""


def generate_collisions(
    process: str,
    n: int,
    *,
    seed: int,
    path: str | os.PathLike[str],
    settings: Sequence[str] = (),
    pile_up: float = 0.0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Generate collisions with Pythia 8 and write their objects as `diffhep.io.read_sample` reads them.

    The same seed, settings and versions give the same events.

    Args:
        process: a name of `COLLISIONS`.
        n: number of events.
        seed: from 1 to 900000000.
        path: of the new ROOT file.
        settings: further lines for Pythia, after those of the process; they hold for the pile-up as well.
        pile_up: mean number of minimum-bias collisions on top of each event; each costs about 4 ms.
        overwrite: replace a file that is already there.
        progress: show a bar on standard error.

    Raises:
        ValueError: an argument is bad, Pythia or fastjet is not installed, or Pythia refuses its settings.

    >>> generate_collisions("minimum-bias", 1000, seed=1, path="minimum_bias.root")  # doctest: +SKIP
    """
    path = check_request(process, n, seed, path, among=COLLISIONS, overwrite=overwrite)
    if not 0 <= pile_up <= PILE_UP_MAX:
        msg = f"pile_up wants a mean number of collisions from 0 to {PILE_UP_MAX:g}, got {pile_up}"
        raise ValueError(msg)
    load_pythia("jets")
    load_fastjet()
    runs, results = COLLISIONS[process], []
    with counting_bar(process, n, show=progress) as advance:
        for k, (run, count) in enumerate(zip(runs, split(n, [run.share for run in runs]), strict=True)):
            if count:
                seeds = run_seed(seed, k), run_seed(seed, PILE_UP_RUN + k)
                results.append(_run(process, run, tuple(settings), count, seeds, pile_up, advance))
    return _write(path, process, seed, pile_up, results, overwrite)


@dataclasses.dataclass(frozen=True)
class _Result:
    """What one run of Pythia produced; cross-section in pb, of what was kept."""

    objects: dict[str, np.ndarray]  # (event, MOST, 3), NaN where there is none
    missing: np.ndarray  # pt, phi, sum of pt, (event, 3)
    weights: np.ndarray
    cross_section: float
    cross_section_error: float
    record: dict[str, Any]


def _run(
    process: str,
    run: Run,
    settings: tuple[str, ...],
    n: int,
    seeds: tuple[int, int],
    pile_up: float,
    advance: Callable[[int], None],
) -> _Result:
    """Events of one run, with their pile-up."""
    module, lines = load_pythia("jets"), (*COMMON, *run.settings, *settings)
    random = np.random.default_rng(seeds[1])
    parts: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    kept, weights, kept_sum, total, trials = 0, [], 0.0, 0.0, 0
    with captured() as output:
        pythia = configured(module, lines, seeds[0])
        initialise(pythia, output, process, lines)
        overlay = None
        if pile_up:
            overlay = configured(module, (*COMMON, SOFT, *settings), seeds[1])
            initialise(overlay, output, "the pile-up", (SOFT, *settings))
        while kept < n:
            if trials >= TRIALS_PER_EVENT * n + BATCH:
                msg = f"{process}: {kept} of {n} events after {trials} trials"
                raise ValueError(msg)
            asked = min(BATCH, n - kept + 10)
            batch = pythia.nextBatch(asked)
            trials += asked
            if not len(batch):
                continue
            weight = np.asarray(batch.info.weights[:, 0])
            inside = np.sqrt(np.asarray(batch.info.pT2Hat)) < run.hardest
            kept_sum, total = kept_sum + float(weight[inside].sum()), total + float(weight.sum())
            rows = np.flatnonzero(inside)[: n - kept]
            particles = flattened(batch.prt[rows])
            if overlay is not None:
                particles = with_pile_up(particles, len(rows), overlay, pile_up, random)
            parts.append(objects_of(particles, len(rows)))
            weights.append(weight[rows])
            kept += len(rows)
            advance(len(rows))
        info = pythia.infoPython()
        # of what was kept: the rest is another run's
        share = kept_sum / total * mb
        cross_section, error = info.sigmaGen() * share, info.sigmaErr() * share
    return _Result(
        objects={name: np.concatenate([found[name] for found, _ in parts]) for name in PT_MIN},
        missing=np.concatenate([missing for _, missing in parts]),
        weights=np.concatenate(weights),
        cross_section=cross_section,
        cross_section_error=error,
        record={
            "settings": list(lines),
            "seed": seeds[0],
            "cross_section": cross_section,
            "cross_section_error": error,
            "trials": trials,
            "kept": n,
            "hardest_GeV": run.hardest if math.isfinite(run.hardest) else None,
        },
    )


Particles = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Event, PDG number, status and px, py, pz, E [GeV] of particles one after the other."""


def with_pile_up(
    particles: Particles, events: int, overlay: Any, mean: float, random: np.random.Generator
) -> Particles:
    """The particles of events and of a Poisson number of further collisions on top of each, in the order of the events.

    Args:
        particles: of the events.
        events: their number.
        overlay: a Pythia that makes the collisions.
        mean: number of collisions on top of an event.
        random: draws their numbers.
    """
    home = np.repeat(np.arange(events), random.poisson(mean, events))
    parts, done = [particles], 0
    while done < len(home):
        batch = overlay.nextBatch(min(BATCH, len(home) - done))
        event, *rest = flattened(batch.prt)
        parts.append((home[done + event], rest[0], rest[1], rest[2]))
        done += len(batch)
    event, pdg_id, status, momentum = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(event, kind="stable")
    return event[order], pdg_id[order], status[order], momentum[order]


def objects_of(particles: Particles, events: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Jets, electromagnetic clusters and muons of some events, and their missing momentum.

    Args:
        particles: of the events, in their order.
        events: their number.

    Returns:
        pt [GeV], eta and phi [rad] of the objects of each kind, hardest first, (event, MOST, 3) with NaN where there is
        none; and pt [GeV] and phi [rad] of the missing momentum with the scalar sum of pt [GeV], (event, 3).
    """
    event, pdg_id, status, momentum = particles
    pt, eta, phi = directions(momentum)
    kind = np.abs(pdg_id)
    final = (status > 0) & ~np.isin(kind, (*INVISIBLE, STABLE_INVISIBLE)) & (np.abs(eta) < ETA_MAX)
    seen = np.flatnonzero(final & (kind != MUON))
    muon = np.flatnonzero(final & (kind == MUON) & (np.abs(eta) < MUON_ETA_MAX))
    total = np.stack([np.bincount(event[seen], x[seen], events) for x in (*momentum.T[:2], pt)])
    missing = np.stack([np.hypot(total[0], total[1]), np.arctan2(-total[1], -total[0]), total[2]], axis=1)
    counts = np.bincount(event[seen], minlength=events)
    found = {
        "Jet": jets_of(momentum[seen], counts),
        "EG": clusters_of(pdg_id[seen], momentum[seen], counts),
        "Muon": (event[muon], np.stack([pt[muon], eta[muon], phi[muon]], axis=1)),
    }
    return {name: padded(*given, events, PT_MIN[name]) for name, given in found.items()}, missing


def jets_of(momentum: np.ndarray, counts: np.ndarray) -> Kinematics:
    """The jets of particles one event after the other, (particle, 4) and (event,)."""
    fastjet = load_fastjet()
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    clusters = fastjet.ClusterSequence(ak.unflatten(records(momentum), counts), definition)
    jets: Any = clusters.inclusive_jets(min_pt=PT_MIN["Jet"])
    flat: Any = ak.flatten(jets)
    jet = np.stack([ak.to_numpy(flat[name]) for name in ("px", "py", "pz", "E")], axis=1)
    return np.repeat(np.arange(len(counts)), ak.to_numpy(ak.num(jets))), np.stack(directions(jet), axis=1)


def clusters_of(pdg_id: np.ndarray, momentum: np.ndarray, counts: np.ndarray) -> Kinematics:
    """The electromagnetic clusters of particles one event after the other."""
    ends = np.cumsum(counts)
    rows = [
        (number, found.pt, found.eta, found.phi)
        for number, (first, last) in enumerate(zip(ends - counts, ends, strict=True))
        for found in photon_candidates(pdg_id[first:last], momentum[first:last])
    ]
    table = np.array(rows, float).reshape(-1, 4)
    return table[:, 0].astype(int), table[:, 1:]


def padded(event: np.ndarray, objects: np.ndarray, events: int, pt_min: float) -> np.ndarray:
    """The hardest objects of each event, (event, MOST, 3), NaN where there are fewer."""
    keep = objects[:, 0] > pt_min
    event, objects = event[keep], objects[keep]
    order = np.lexsort((-objects[:, 0], event))
    event, objects = event[order], objects[order]
    counts = np.bincount(event, minlength=events)
    rank = np.arange(len(event)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.full((events, MOST, 3), np.nan)
    out[event[rank < MOST], rank[rank < MOST]] = objects[rank < MOST]
    return out


def _write(path: Path, process: str, seed: int, pile_up: float, results: Sequence[_Result], overwrite: bool) -> Path:
    """One file of all runs, their events in random order."""
    weights = np.concatenate([r.weights * (r.cross_section / r.weights.sum()) for r in results])
    order = np.random.default_rng([seed, 1]).permutation(len(weights))
    missing = np.concatenate([result.missing for result in results])[order]
    collections = {}
    for name in PT_MIN:
        objects = np.concatenate([result.objects[name] for result in results])[order]
        mask = np.isfinite(objects[..., 0])
        fields: dict[str, Any] = dict(
            zip(("pt", "eta", "phi"), np.moveaxis(np.nan_to_num(objects), -1, 0), strict=True)
        )
        collections[name] = Events(fields, mask, weights[order])  # type: ignore[arg-type]
    met = dict(zip(("MET_pt", "MET_phi", "MET_sumEt"), missing.T, strict=True))
    total = sum(result.cross_section for result in results)
    return write_sample(
        path,
        collections.pop("Jet").with_fields(met),  # type: ignore[arg-type]
        collection="Jet",
        others=collections,
        cross_section=total,
        cross_section_error=math.hypot(*(result.cross_section_error for result in results)),
        sum_of_weights=total,
        sum_of_squared_weights=float((weights**2).sum()),
        n_generated=len(weights),
        metadata={
            "process": process,
            "seed": seed,
            "pile_up": pile_up,
            "generator": f"Pythia {importlib.metadata.version('pythia8mc')}",
            "selection": {"pt_min": dict(PT_MIN), "unit": "GeV", "jet_radius": RADIUS},
            "runs": [result.record for result in results],
        },
        overwrite=overwrite,
    )
