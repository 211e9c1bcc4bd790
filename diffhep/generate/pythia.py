r"""Proton collisions from Pythia 8.3 (arXiv:2203.11601), as an electromagnetic trigger sees them.

Events with two photon candidates (see `diffhep.generate.candidates`) above `PT_MIN` are kept. The weight of an event is
its share of the cross-section in pb, $w\,\sigma/\sum w$ with the sum over *all* trials of its run, so the kept weights
add up to the cross-section after the selection, in a biased run as well.

Hadrons live on where $c\tau$ > 10 mm, as in the usual definition of a stable particle.
"""

import dataclasses
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.events import Events
from diffhep.generate.candidates import Candidate
from diffhep.generate.hadronisation import Histories, pairs_of
from diffhep.generate.processes import COMMON, HIDDEN, PROCESSES, Run
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

# GeV, leading and subleading: thresholds from 20 and 15 GeV upwards see no edge of the sample up to a resolution of 5 %
PT_MIN = (16.0, 12.0)
TRIALS_PER_EVENT = 10_000  # the default bound


def generate(
    process: str,
    n: int,
    *,
    seed: int,
    path: str | os.PathLike[str],
    settings: Sequence[str] = (),
    pt_min: tuple[float, float] = PT_MIN,
    max_trials: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Generate a sample with Pythia 8 and write it as `diffhep.io.read_sample` reads it.

    The same seed, settings and version of Pythia give the same events.

    Args:
        process: a name of `PROCESSES`.
        n: number of events to keep.
        seed: from 1 to 900000000.
        path: of the new ROOT file.
        settings: further lines for Pythia, after those of the process, such as `PartonLevel:MPI = off`.
        pt_min: least pt of the leading and of the subleading candidate in GeV.
        max_trials: give up after so many trials; by default 10000 for each event wanted.
        overwrite: replace a file that is already there.
        progress: show a bar on standard error.

    Raises:
        ValueError: an argument is bad, Pythia is not installed or refuses its settings, or the trials are used up.

    >>> generate("diphoton", 1000, seed=1, path="diphoton.root")  # doctest: +SKIP
    """
    path = check_request(process, n, seed, path, among=PROCESSES, overwrite=overwrite)
    if not pt_min[0] >= pt_min[1] > 0:
        msg = f"pt_min wants leading >= subleading > 0 GeV, got {pt_min[0]} and {pt_min[1]} GeV"
        raise ValueError(msg)

    runs = PROCESSES[process]
    wanted = split(n, [run.share for run in runs])
    limit = TRIALS_PER_EVENT * n if max_trials is None else max_trials
    results = []
    with counting_bar(process, n, show=progress) as advance:
        for k, (run, count) in enumerate(zip(runs, wanted, strict=True)):
            lines = (*COMMON, *run.settings, *settings)
            results.append(
                _run(run, lines, count, run_seed(seed, k), pt_min, limit, process, advance) if count else None
            )
            limit -= results[-1].trials if results[-1] else 0
    return _write(path, process, seed, pt_min, [r for r in results if r is not None], overwrite)


@dataclasses.dataclass(frozen=True)
class _Result:
    """What one run of Pythia produced; cross-sections in pb."""

    settings: tuple[str, ...]
    seed: int
    candidates: list[tuple[Candidate, Candidate]]
    prompt: list[tuple[bool, bool]]
    weights: np.ndarray  # of the kept events
    hadronisations: int
    trials: int
    sum_of_weights: float
    sum_of_squared_weights: float
    cross_section: float
    cross_section_error: float


def _run(
    run: Run,
    lines: Sequence[str],
    n: int,
    seed: int,
    pt_min: tuple[float, float],
    max_trials: int,
    process: str,
    advance: Callable[[int], None],
) -> _Result:
    module = load_pythia()
    with captured() as output:
        pythia = configured(module, lines, seed)
        if run.hadronisations > 1:
            pythia.readString("HadronLevel:all = off")
        for pdg_id in HIDDEN:
            pythia.readString(f"{pdg_id}:isVisible = off")
        initialise(pythia, output, process, lines)

        random = np.random.default_rng(seed)
        histories = Histories(module, pythia, run.hadronisations, pt_min)
        pairs, prompt, weights = [], [], []
        trials, sumw, sumw2 = 0, 0.0, 0.0
        while len(pairs) < n:
            if trials >= max_trials:
                msg = (
                    f"{process}: {len(pairs)} of {n} events after {trials} trials; raise max_trials or lower "
                    f"pt_min, now {pt_min[0]} and {pt_min[1]} GeV"
                )
                raise ValueError(msg)
            if not pythia.next():
                continue
            weight = pythia.infoPython().weight()
            trials += 1
            sumw += weight
            sumw2 += weight**2
            found, chances = pairs_of(histories.candidates(), run.hadronisations, pt_min)
            if not found:
                continue
            # one pair for each event, in proportion to its chance: what is written are independent events
            pick = found[random.choice(len(found), p=chances / chances.sum())] if len(found) > 1 else found[0]
            pairs.append(tuple(candidate for candidate, _ in pick))
            prompt.append(tuple(is_prompt for _, is_prompt in pick))
            weights.append(weight * chances.sum())
            advance(1)
        info = pythia.infoPython()
    return _Result(
        settings=tuple(lines),
        seed=seed,
        candidates=pairs,
        prompt=prompt,
        weights=np.array(weights),
        hadronisations=run.hadronisations,
        trials=trials,
        sum_of_weights=sumw,
        sum_of_squared_weights=sumw2,
        cross_section=info.sigmaGen() * mb,
        cross_section_error=info.sigmaErr() * mb,
    )


def _write(
    path: Path, process: str, seed: int, pt_min: tuple[float, float], results: Sequence[_Result], overwrite: bool
) -> Path:
    pairs = [pair for result in results for pair in result.candidates]
    prompt = [pair for result in results for pair in result.prompt]
    # from weights of a run to picobarn: the runs of a process add up
    scale = [result.cross_section / result.sum_of_weights for result in results]
    weights = np.concatenate([result.weights * s for result, s in zip(results, scale, strict=True)])

    def column(name: str) -> np.ndarray:
        return np.array([[getattr(c, name) for c in pair] for pair in pairs])

    # multiples of 2^-14 add up to exactly 1 in single precision, and compress well
    fractions = np.round(column("fractions") * 2**14) / 2**14
    first = fractions[..., 0]
    second = np.minimum(fractions[..., 1], 1.0 - first)
    fields: dict[str, Any] = {
        "pt": column("pt"),
        "eta": column("eta"),
        "phi": column("phi"),
        "mass": column("mass"),
        "hoe": column("hoe"),
        "pfRelIso03_all": column("isolation"),
        "genPartFlav": np.array(prompt, np.uint8),
        "emFrac1": first,
        "emFrac2": second,
        "emFrac3": 1.0 - first - second,
        "emRms": column("rms"),
        "event": np.arange(1, len(pairs) + 1),
    }
    total = sum(result.cross_section for result in results)
    return write_sample(
        path,
        Events(fields, np.ones(first.shape, bool), weights),  # type: ignore[arg-type]
        cross_section=total,
        cross_section_error=float(np.sqrt(sum(result.cross_section_error**2 for result in results))),
        sum_of_weights=total,
        sum_of_squared_weights=sum(
            result.sum_of_squared_weights * s**2 for result, s in zip(results, scale, strict=True)
        ),
        n_generated=sum(result.trials for result in results),
        metadata={
            "process": process,
            "seed": seed,
            "generator": f"Pythia {importlib.metadata.version('pythia8mc')}",
            "selection": {"pt_min": list(pt_min), "unit": "GeV"},
            "runs": [
                {
                    "settings": list(result.settings),
                    "seed": result.seed,
                    "cross_section": result.cross_section,
                    "cross_section_error": result.cross_section_error,
                    "trials": result.trials,
                    "kept": len(result.candidates),
                    "sum_of_weights": result.sum_of_weights,
                    "hadronisations": result.hadronisations,
                }
                for result in results
            ],
        },
        overwrite=overwrite,
    )
