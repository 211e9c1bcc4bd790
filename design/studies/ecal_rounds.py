"""Rounds in which the surrogate of `ecal-layers` is trained on where its own optimum is.

A round finds the optimum with the present surrogate and lets Geant4 judge it. If the two agree, the rounds are over; if
not, Geant4 simulates stacks around the optimum, and the surrogate is trained on with all showers of this and earlier
rounds, and with showers of all stacks, so that it keeps what it knows. Every judgement has showers of its own, which no
training has seen before. Everything is kept in the run's folder: showers in `geant4/`, what a round found and trained
in `rounds/1/`, ..., the surrogate that is used at last in `surrogate/`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from diffhep.design.exact import Polished, Sensitivities, polish
from diffhep.design.study import Report
from diffhep.generate.geant4 import SamplingCalorimeter, generate_each, generate_showers, unfinished
from diffhep.generate.geant4_setup import Variation
from diffhep.io import RunFolder, join, read_showers
from diffhep.surrogates import (
    SurrogateSettings,
    around,
    everywhere,
    fit_surrogate,
    load_surrogate,
    save_surrogate,
    started,
    starting_point,
)
from diffhep.surrogates.card import CARD, WEIGHTS

if TYPE_CHECKING:
    from diffhep.design.studies.ecal_layers import EcalLayers

SEARCHING = 1e-5  # of ln(objective), from which on an optimum is good enough to simulate around
NEAR, GENERAL = 10_002, 10_003  # purposes of seeds; judgements have their numbers
VARIATIONS: tuple[Variation, ...] = ("mixed", "trend")  # of general stacks
CHECKPOINT = 250
OPTIMUM, FOUND = "optimum.eqx", "found.json"


class Rounds:
    """The rounds of one run; call `run`.

    Args:
        study: whose surrogate is trained on.
        folder: of the run, a new one or one to go on with.
        progress: called with the phase and the fraction done.
    """

    def __init__(self, study: "EcalLayers", folder: RunFolder, progress: Report):
        self.study, self.folder, self.progress = study, folder, progress
        self.settings = study.settings.refinement
        # what the surrogate comes from, and the files that it is trained on next
        self.trained = study.settings.calorimeter.surrogate or Path("shipped")
        self.showers: list[Path] = []

    def run(self) -> Mapping[str, Any]:
        """All rounds; the study has the last surrogate afterwards. Returns a row for each, by name."""
        rows: dict[str, Any] = {}
        design = None
        for number in range(1, self.settings.rounds + 1):
            round_folder = RunFolder(self.folder.path / "rounds" / str(number))
            optimum = self.optimum(number, round_folder, design)
            row = self.judge(number, round_folder, optimum)
            rows[f"round {number}"] = row
            if abs(row["deviation"]) + row["deviation_stderr"] <= self.settings.tolerance:
                break
            design = optimum
            self.train_on(number, round_folder, optimum)
        self.keep()
        return rows

    def optimum(self, number: int, folder: RunFolder, before: PyTree | None) -> PyTree:
        """The best exact optimum of the present surrogate, from the search's starts and from the optimum before."""
        study, layout, search = self.study, self.study.layout(), self.study.settings.search
        if folder.has(OPTIMUM):
            return folder.load_tree(OPTIMUM, layout)
        keys = jr.split(jr.key(search.seed + 1), max(search.starts - 1, 1))[: search.starts - 1]
        starts = [layout, *(study.start(layout, key=key) for key in keys)]
        starts += [before] if before is not None else []
        sensitivities = Sensitivities(study.problem, study.adjustable)
        found: list[Polished] = []
        for start in starts:
            found.append(polish(sensitivities, start, straight=True, tolerance=SEARCHING, max_steps=study.solver_steps))
            self.progress(f"round {number}: optimum", len(found) / len(starts))
        within = [p for p in found if np.all(p.used <= study.problem.limits)]
        best = max(within or found, key=lambda p: p.objective).design
        folder.save_tree(OPTIMUM, best)
        return best

    def judge(self, number: int, folder: RunFolder, design: PyTree) -> dict[str, Any]:
        """What the surrogate and Geant4 say of the optimum."""
        if folder.has(FOUND):
            return folder.read_json(FOUND)
        study = self.study
        ours = study.judge(design, relaxed=True)["objective"]
        energies = study.full_simulation(design, number=number, progress=self.told(number, "judgement"))
        geant4 = study.judged(design, {"showers": energies.size}, energies)["objective"]
        row = {
            "surrogate": ours.value,
            "geant4": geant4.value,
            "stderr": geant4.stderr,
            "deviation": ours.value / geant4.value - 1,
            "deviation_stderr": float(np.hypot(ours.stderr / ours.value, geant4.stderr / geant4.value)),
            "showers_so_far": number * energies.size + self.trained_on(number - 1),
        }
        folder.write_json(FOUND, row)
        self.folder.log({"phase": "refinement", "round": number, **row})
        return row

    def trained_on(self, rounds: int) -> int:
        """Showers simulated in so many rounds to train with, besides those that judged."""
        general = 0 if self.settings.replay else len(VARIATIONS) * (self.settings.showers // len(VARIATIONS))
        return rounds * self.settings.showers + general if rounds else 0

    def train_on(self, number: int, folder: RunFolder, design: PyTree) -> None:
        """Simulate stacks around the optimum, and train on with them."""
        replay = self.settings.replay or self.general(number)
        # what judged this round tells most about this optimum; the next one is judged by others
        self.showers += [self.study.judged_file(self.folder, design, number), self.near(number, design)]
        settings = self.training(replay)
        if not folder.has(CARD):
            near, general = ([read_showers(file) for file in files] for files in (settings.data, settings.replay))
            start, told = starting_point(settings), self.told(number, "training")
            trained = fit_surrogate(
                settings,
                join(near),
                start=start,
                replay=join(general),
                run=folder,
                progress=lambda phase, done: told(done),
            )
            save_surrogate(folder, trained, settings, near + general)
        self.trained = folder.path
        self.study.exchange(load_surrogate(folder.path))

    def near(self, number: int, design: PyTree) -> Path:
        """Showers in stacks around a design."""
        path, seed = self.file(f"around-{number}.npz"), self.study.geant4_seed(NEAR, number)
        if not path.is_file():
            absorber, active = (np.asarray(t) for t in self.study.thicknesses(design))
            stack = self.study.surrogate.stack
            drawn: dict[str, Any] = around(self.study.surrogate, absorber, active, self.settings.showers, seed=seed)
            generate_each(
                SamplingCalorimeter(stack.layers, stack.absorber, stack.active, absorber_energy=False),
                **drawn,
                particle=np.array(stack.pdg_id),
                seed=seed,
                path=path,
                processes=self.study.settings.calorimeter.processes,
                resume=unfinished(path),
                progress=self.told(number, "showers"),
            )
        return path

    def general(self, number: int) -> Sequence[Path]:
        """Showers in stacks of all kinds: half of them vary layer by layer, half along the stack as well."""
        paths = []
        for purpose, variation in enumerate(VARIATIONS, start=GENERAL):
            path = self.file(f"general-{variation}.npz")
            if not path.is_file():
                generate_showers(
                    *everywhere(self.study.surrogate, variation),
                    self.settings.showers // len(VARIATIONS),
                    seed=self.study.geant4_seed(purpose),
                    path=path,
                    processes=self.study.settings.calorimeter.processes,
                    resume=unfinished(path),
                    progress=self.told(number, f"{variation} stacks"),
                )
            paths.append(path)
        return paths

    def training(self, replay: Sequence[Path]) -> SurrogateSettings:
        """How the surrogate is trained on."""
        steps = self.settings.steps
        schedule: dict[str, Any] = dict.fromkeys(("moments", "generator", "student", "splits"), steps)
        schedule |= {"checkpoint": math.gcd(steps, CHECKPOINT), "seed": self.study.settings.search.seed}
        return started(
            SurrogateSettings.model_validate(
                {
                    "data": tuple(self.showers),
                    "replay": tuple(replay),
                    "start_from": self.trained,
                    "schedule": schedule | {"rate": self.settings.rate},
                }
            )
        )

    def keep(self) -> None:
        """The surrogate of the last round, where it is easily found."""
        if self.showers:
            place = RunFolder(self.folder.path / "surrogate")
            for name in (WEIGHTS, CARD):
                place.write_bytes(name, (self.trained / name).read_bytes())

    def file(self, name: str) -> Path:
        """Where showers are kept."""
        path = self.folder.path / "geant4" / name
        path.parent.mkdir(exist_ok=True)
        return path

    def told(self, number: int, what: str) -> Callable[[float], None]:
        """Passes the fraction done on, with a name."""
        return lambda done: self.progress(f"round {number}: {what}", done)
