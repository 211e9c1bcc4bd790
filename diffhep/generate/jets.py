"""Labelled large-radius jets from Pythia 8 and fastjet: gluon, quark (d to b), W, Z and top (extra `diffhep[jets]`).

Each jet has sixteen high-level features (`diffhep.generate.substructure`) and, where asked for, its constituents. The
file is NumPy's npz, nothing pickled:

- `features` (jet, 16) and `label` (jet,), the number of the class, as `diffhep trigger train --data.file` reads them;
- `pt`, `eta`, `phi`, `mass`, `energy` (jet,) [GeV, rad], of the jet before grooming;
- `weight` (jet,) [pb]: those of a class add up to its cross-section for such jets. The spectrum was flattened;
- `event` (jet,): jets of the same number are from the same collision;
- with constituents: `constituent_pt` and so on, (jet, 128), in descending pt, padded with 0 (see `CONSTITUENTS`);
- `config`: a JSON object with all that it takes to make the file again, names of classes and features among it.

The jets are in random order. The same seed, settings and versions give the same file, byte for byte.
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.generate import impact
from diffhep.generate.clustering import SELECTION, Jets, directions, find_jets, groom, load_fastjet
from diffhep.generate.jet_classes import CLASSES, RUNS, JetRun, classes_of
from diffhep.generate.pythia_session import (
    captured,
    check_seed,
    configured,
    counting_bar,
    initialise,
    load_pythia,
    run_seed,
    split,
)
from diffhep.generate.substructure import FEATURES, high_level_features
from diffhep.io.paths import atomic, check_free
from diffhep.units import mb

FORMAT = "diffhep jets 1"
PACKAGES = ("diffhep", "pythia8mc", "fastjet", "numpy", "awkward")  # that decide what is in a file
BATCH = 50  # events
TRIALS_PER_JET = 1000  # the default bound
LEADING = 128  # constituents kept
# columns of constituents -> unit; impact parameters of neutral particles are 0
CONSTITUENTS = {
    "pt": "GeV",
    "eta": "",
    "phi": "rad",
    "energy": "GeV",
    "charge": "e",
    "pdg_id": "",
    "d0_true": "mm",
    "dz_true": "mm",
    "d0": "mm",
    "dz": "mm",
    "d0_error": "mm",
    "dz_error": "mm",
}


def generate_jets(
    n: int,
    *,
    seed: int,
    path: str | os.PathLike[str],
    classes: Sequence[str] = tuple(CLASSES),
    settings: Sequence[str] = (),
    constituents: bool = False,
    max_trials: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Generate labelled jets with Pythia 8 and fastjet and write them as npz.

    Args:
        n: number of jets; those of the classes differ by one at most.
        seed: from 1 to 900000000.
        path: of the new file, `.npz`.
        classes: letters or names of `CLASSES`; a label is the place in this list.
        settings: further lines for Pythia, after those of the processes, such as `PartonLevel:MPI = off`.
        constituents: keep the 128 leading constituents of each jet: twelve arrays (jet, 128).
        max_trials: give up a run of Pythia after so many events; by default 1000 for each jet wanted of it.
        overwrite: replace a file that is already there.
        progress: show a bar on standard error.

    Raises:
        ValueError: an argument is bad, Pythia or fastjet is not installed, Pythia refuses its settings, or the trials
            are used up.

    >>> generate_jets(1000, seed=1, path="jets.npz")  # doctest: +SKIP
    """
    letters = classes_of(classes)
    if n < len(letters):
        msg = f"the number of jets must be at least that of the classes, {len(letters)}, got {n}"
        raise ValueError(msg)
    check_seed(seed)
    path = check_free(path, overwrite=overwrite, suffixes=(".npz",))
    load_pythia("jets")
    load_fastjet()

    wanted = dict(zip(letters, split(n, [1.0] * len(letters)), strict=True))
    results = []
    with counting_bar(path.name, n, show=progress) as advance:
        for number, run in enumerate(RUNS):
            quota = {letter: wanted[letter] for letter in run.labels if letter in wanted}
            if not quota:
                continue
            result = _run(
                run,
                quota,
                # that of a run does not depend on which others there are
                run_seed(seed, number),
                tuple(settings),
                constituents,
                TRIALS_PER_JET * sum(quota.values()) if max_trials is None else max_trials,
                advance,
            )
            results.append(result)
    return _write(path, letters, seed, settings, constituents, results)


@dataclasses.dataclass(frozen=True)
class _Result:
    """The jets of one run; `letter` of each, and weights in pb."""

    columns: dict[str, np.ndarray]
    letter: np.ndarray
    trials: int
    record: dict[str, Any]  # for the configuration of the file


def _run(
    run: JetRun,
    quota: dict[str, int],
    seed: int,
    settings: tuple[str, ...],
    constituents: bool,
    max_trials: int,
    advance: Callable[[int], None],
) -> _Result:
    """Events until each class has its jets; what comes after that of a class is dropped."""
    lines = (*run.lines, *settings)
    module = load_pythia("jets")
    random = np.random.default_rng(seed)
    left = dict(quota)
    # sum of the weights of all events up to the one that filled a class
    asked, trials, sumw, sums = 0, 0, 0.0, dict.fromkeys(quota, 0.0)
    parts = []
    with captured() as output:
        pythia = configured(module, lines, seed)
        initialise(pythia, output, run.name, lines)
        charges: dict[int, float] = {}
        while any(left.values()):
            if asked >= max_trials:
                got = sum(quota.values()) - sum(left.values())
                msg = f"{run.name}: {got} of {sum(quota.values())} jets after {asked} events, all of max_trials"
                raise ValueError(msg)
            # those that fail are left out
            batch = pythia.nextBatch(BATCH)
            asked += BATCH
            if not len(batch):
                continue
            weights = np.asarray(batch.info.weights[:, 0])
            jets = find_jets(batch, run)
            keep = np.zeros(len(jets.label), bool)
            for letter in quota:
                rows = np.flatnonzero(jets.label == letter)[: left[letter]]
                keep[rows] = True
                if not left[letter]:
                    continue
                left[letter] -= len(rows)
                last = jets.event[rows[-1]] + 1 if not left[letter] else len(weights)
                sums[letter] = sumw + weights[:last].sum()
            jets = jets[keep]
            if keep.any():
                columns = _columns(jets, pythia, charges, random if constituents else None)
                columns |= {"letter": jets.label, "weight": weights[jets.event], "event": jets.event + trials}
                parts.append(columns)
            trials += len(weights)
            sumw += weights.sum()
            advance(int(keep.sum()))
        info = pythia.infoPython()
        cross_section, error = info.sigmaGen() * mb, info.sigmaErr() * mb
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    letter = columns.pop("letter")
    columns["weight"] *= cross_section / np.array([sums[name] for name in letter.tolist()])
    return _Result(
        columns=columns,
        letter=letter,
        trials=trials,
        record={
            "name": run.name,
            "settings": list(lines),
            "seed": seed,
            "trials": trials,
            "cross_section": cross_section,
            "cross_section_error": error,
            "sum_of_weights": {CLASSES[name]: float(total) for name, total in sums.items()},
            "kept": {CLASSES[name]: count for name, count in quota.items()},
        },
    )


def _columns(
    jets: Jets, pythia: Any, charges: dict[int, float], random: np.random.Generator | None
) -> dict[str, np.ndarray]:
    """What is kept of some jets; their constituents if there are random numbers to smear them with."""
    pt, eta, phi = directions(jets.momentum)
    energy = jets.momentum[:, 3]
    mass2 = energy**2 - (jets.momentum[:, :3] ** 2).sum(axis=1)
    found = {
        "features": high_level_features(jets.constituents, jets.counts, *groom(jets)),
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "mass": np.sqrt(np.maximum(mass2, 0.0)),
        "energy": energy,
    }
    if random is None:
        return _single(found)
    for number in np.unique(jets.pdg_id).tolist():
        if number not in charges:
            charges[number] = pythia.particleData.charge(number)
    charge = np.array([charges[number] for number in jets.pdg_id.tolist()])
    pt, eta, phi = directions(jets.constituents)
    d0, dz = impact.perigee(jets.constituents, charge, jets.vertex)
    d0_error, dz_error = (np.where(charge != 0, error, 0.0) for error in impact.resolution(jets.constituents))
    columns = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "energy": jets.constituents[:, 3],
        "charge": charge,
        "pdg_id": jets.pdg_id,
        "d0_true": d0,
        "dz_true": dz,
        "d0": d0 + d0_error * random.standard_normal(len(d0)),
        "dz": dz + dz_error * random.standard_normal(len(dz)),
        "d0_error": d0_error,
        "dz_error": dz_error,
    }
    rank = np.arange(len(pt)) - np.repeat(np.cumsum(jets.counts) - jets.counts, jets.counts)
    leading = rank < LEADING
    row = np.repeat(np.arange(len(jets.counts)), jets.counts)[leading]
    for name, values in columns.items():
        padded = np.zeros((len(jets.counts), LEADING), values.dtype)
        padded[row, rank[leading]] = values[leading]
        found[f"constituent_{name}"] = padded
    return _single(found)


def _single(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x.astype(np.float32) if x.dtype == np.float64 else x for name, x in columns.items()}


def _write(
    path: Path, letters: tuple[str, ...], seed: int, settings: Sequence[str], constituents: bool, results: list[_Result]
) -> Path:
    columns: dict[str, Any] = {
        name: np.concatenate([result.columns[name] for result in results]) for name in results[0].columns
    }
    # numbers of events go on from run to run
    first = np.repeat(np.cumsum([0, *(result.trials for result in results[:-1])]), [len(r.letter) for r in results])
    columns["event"] = (columns["event"] + first).astype(np.int64)
    columns["weight"] = columns["weight"].astype(np.float32)
    place = {letter: k for k, letter in enumerate(letters)}
    letter = np.concatenate([result.letter for result in results])
    columns["label"] = np.array([place[name] for name in letter.tolist()], np.int64)
    order = np.random.default_rng([seed, 1]).permutation(len(letter))
    config = {
        "format": FORMAT,
        "classes": [CLASSES[name] for name in letters],
        "features": list(FEATURES),
        "jets": len(letter),
        "seed": seed,
        "settings": list(settings),
        "selection": SELECTION,
        "constituents": {"leading": LEADING, "field_T": impact.FIELD, "units": CONSTITUENTS} if constituents else None,
        "weight_unit": "pb",
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "runs": [result.record for result in results],
    }
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    for name in columns:
        columns[name] = columns[name][order]
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, config=np.array(text), **columns)
    return path
