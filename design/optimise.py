"""The main job: from a study to its best design, checked honestly.

The phases of a run, each stored in the run's folder when it ends, so that a killed run resumes where it was and ends
with the same result:

1. `initial`: the design to beat, every stage tuned alone;
2. `ascent`: many starts at once, everything moving together (`Ascent`), stored after every chunk;
3. `integers`: around the best start, each nearby integer layout is brought to its exact constrained optimum (`polish`);
4. `settle`: thresholds moved until the hard detector meets its budgets;
5. `judge`: initial and final design on held-out events, relaxed and hard;
6. `front`: the same ascent along a range of one budget, and a scan around the optimum.
"""

import dataclasses
import importlib.metadata
import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from diffhep.audit import unfrozen
from diffhep.design.ascent import Ascent, everything_mobile, lane, stack
from diffhep.design.baseline import cma_es
from diffhep.design.config import SearchSettings
from diffhep.design.design_file import write_design
from diffhep.design.exact import Certificate, Polished, Sensitivities, certify, polish
from diffhep.design.firmware import CLASSIFIER, check_tools, prove, store_classifier
from diffhep.design.flatness import tolerances
from diffhep.design.front import hypervolume
from diffhep.design.judged_front import judged_front
from diffhep.design.starts import Ascended, Starts, nearby_integers, with_fixed
from diffhep.design.study import AbstractStudy, Report
from diffhep.design.summary import Designs, summary
from diffhep.io import RunFolder
from diffhep.parameters import named_params, split

RESULT = "result.json"
VERSIONS = ("diffhep", "jax", "jaxlib", "equinox", "optax", "optimistix", "numpy", "scipy", "uproot", "hls4ml")
CHUNK = 10
FRONT_STEPS = 20
SEARCHING = 1e-6  # relative: enough to compare starts; what is built is brought to the solver's last digit
SETTLING = 1e-10
LAST_DIGIT = 1e-14  # where an evaluation takes no time


def optimise_study(
    study: AbstractStudy, folder: RunFolder, progress: Report, *, firmware: bool = True
) -> dict[str, Any]:
    """Run (or go on with) an optimisation; returns the result, which is also written to `result.json`.

    Args:
        study: the problem; its settings say how to search.
        folder: a new run, or a killed one.
        progress: called with the phase and the fraction done.
        firmware: also export the trigger's classifier into the run folder and prove it bit-exact.
    """
    study.get_ready(folder, progress)
    if firmware and study.traded:
        check_tools()
    run = Run(study, folder, study.settings.search, progress)
    result = run.execute()
    folder.write_json(RESULT, result)
    if firmware and folder.has(CLASSIFIER):
        progress("firmware", 0.0)
        began = time.perf_counter()
        proof = prove(folder)
        run.timing["firmware"] = time.perf_counter() - began
        result |= {"firmware": {key: proof[key] for key in ("inputs", "outputs", "mismatches")}, "timing": run.timing}
        folder.write_json(RESULT, result)
        progress("firmware", 1.0)
    return result


class Run:
    """One optimisation of a study in a run folder; call `execute`.

    Args:
        study: the problem.
        folder: a new run, or a killed one to go on with.
        search: how to look for the optimum.
        progress: called with the phase and the fraction done.
    """

    def __init__(self, study: AbstractStudy, folder: RunFolder, search: SearchSettings, progress: Report):
        self.study, self.folder, self.search, self.progress = study, folder, search, progress
        self.timing: dict[str, float] = {}
        self.sensitivities = Sensitivities(study.problem, study.adjustable + study.integers + study.categorical)
        self.searching, self.settling = (LAST_DIGIT, LAST_DIGIT) if study.exact else (SEARCHING, SETTLING)

    def execute(self) -> dict[str, Any]:
        """All phases; returns the result, which is also written to `result.json`."""
        initial = self.stored("initial", self.initial_design, like=None)
        with ThreadPoolExecutor(max_workers=1) as beside:
            # most of a run is spent in the compiler, which leaves half a machine idle
            prepared = beside.submit(self.prepare, initial)
            ascended = self.timed("ascent", lambda: self.ascend(initial))
            before = self.timed("prepare", prepared.result)
        relaxed = self.timed("polish", lambda: self.polish_starts(ascended, initial))
        best = self.stored("integers", lambda: self.settle_integers(relaxed), like=initial)
        final = self.stored("final", lambda: self.study.settle(best), like=initial)
        judged = before | self.timed("judge", lambda: self.judge("final", final))
        confirmed = self.timed("full simulation", lambda: self.confirm(initial, final))
        front = self.timed("front", lambda: self.front(final, ascended))
        logic = self.timed("logic", lambda: self.logic(final, ascended))
        grid = self.timed("grid", lambda: self.grid(final))
        rows = self.timed("audit", lambda: self.study.audit(final, seed=self.search.seed, progress=self.progress))
        cost = self.timed("cost", lambda: gradient_cost(self.study, final))
        certificate = certify(self.sensitivities, best, held=self.study.integers + self.study.categorical)
        certificate = self.with_traded(certificate, best, ascended, relaxed.best)
        write_design(self.folder, self.study, final)
        if (classifier := self.study.hardware(final)) is not None:
            store_classifier(self.folder, classifier)
        baseline = self.timed("baseline", lambda: self.baseline(initial)) if self.study.compared else None
        free = self.study.adjustable
        widths = tolerances(self.study.problem, best, free, certificate) if self.study.compared else None
        pictures = self.timed("pictures", lambda: self.study.pictures(initial, final))
        return {
            **summary(self.study, Designs(initial, best, final), judged, certificate, rows),
            "starts": relaxed.summary(ascended),
            "confirmation": confirmed,
            "front": front,
            "logic": logic,
            "grid": grid,
            "baseline": baseline,
            "tolerances": widths,
            "gradient_cost_ratio": cost,
            "compilations": {"ascent": ascended.climb.traces, **self.study.problem.traces},
            "pictures": pictures,
            "seed": self.search.seed,
            "timing": self.timing,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        }

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work and remember how long it took."""
        began = time.perf_counter()
        out = work()
        self.timing[name] = time.perf_counter() - began
        return out

    def stored(self, name: str, work: Callable[[], PyTree], *, like: PyTree | None) -> PyTree:
        """The design of a phase: read back if the phase had ended, made and stored if not."""
        file = f"checkpoints/{name}.eqx"
        if self.folder.has(file):
            return self.folder.load_tree(file, self.study.untrained() if like is None else like)
        design = self.timed(name, work)
        self.folder.save_tree(file, design)
        return design

    def initial_design(self) -> PyTree:
        """The design to beat."""
        return self.study.initial(progress=self.progress)

    def starts(self, initial: PyTree) -> list[PyTree]:
        """The initial design and random ones."""
        keys = jr.split(jr.key(self.search.seed + 1), max(self.search.starts - 1, 1))
        return [initial] + [self.study.start(initial, key=key) for key in keys[: self.search.starts - 1]]

    def ascend(self, initial: PyTree) -> Ascended:
        """Gradient ascent from all starts, resumed from the last stored chunk."""
        parts = [split(design) for design in self.starts(initial)]
        rest = parts[0][1]
        steps = -(-self.search.steps // CHUNK) * CHUNK
        climb = Ascent(self.study.problem, rest, steps=steps, chunk=CHUNK, method=self.search.method)
        state = climb.start(stack([trainable for trainable, _ in parts]), constraints=len(self.study.problem.limits))
        lanes = len(parts)
        limits = jnp.tile(jnp.asarray(self.study.problem.limits), (lanes, 1))
        mobile = everything_mobile(state.trainable)
        history = np.zeros((steps, lanes, 1 + limits.shape[1]))
        file = "checkpoints/ascent.eqx"
        if self.folder.has(file):
            state, history = self.folder.load_tree(file, (state, history))
        for done in range(int(state.step[0]), steps, CHUNK):
            began = time.perf_counter()
            state, outcome = climb.advance(state, limits, mobile)
            # a start may lose all of its events: it counts for nothing, and the others go on
            history[done : done + CHUNK, :, 0] = np.nan_to_num(np.asarray(outcome.objective), nan=0.0)
            history[done : done + CHUNK, :, 1:] = np.asarray(outcome.used)
            self.timing.setdefault("first_chunk", time.perf_counter() - began)
            self.folder.save_tree(file, (state, history))
            self.folder.log({"phase": "ascent", "step": done + CHUNK, "objective": history[done + CHUNK - 1, :, 0]})
            self.progress("gradient ascent", (done + CHUNK) / steps)
        return Ascended(climb, state, history)

    def polish_starts(self, ascended: Ascended, like: PyTree) -> Starts:
        """Every start brought to its exact constrained optimum; integers are still relaxed."""
        lanes, designs, objectives, used = ascended.state.step.shape[0], [], [], []
        for index in range(lanes):
            name = f"checkpoints/start{index}.eqx"
            blank = (like, np.zeros(()), np.zeros(len(self.study.problem.limits)))
            if self.folder.has(name):
                design, objective, use = self.folder.load_tree(name, blank)
            else:
                p = self.polish_start(ascended.design(index))
                design, objective, use = p.design, np.array(p.objective), p.used
                self.folder.save_tree(name, (design, objective, use))
            designs.append(design)
            objectives.append(float(objective))
            used.append(use)
            self.progress("exact optima", (index + 1) / lanes)
        return Starts(designs, np.array(objectives), np.array(used) / self.study.problem.limits - 1)

    def polish_start(self, design: PyTree) -> Polished:
        """One of them; a design without an objective stays what it is, and outside of every budget."""
        if not np.isfinite(float(self.study.problem.outcome(design, self.study.problem.context).objective)):
            nothing = np.full(len(self.study.problem.limits), np.inf)
            return Polished(design, 0.0, nothing, False, "no objective")
        return self.polish(self.study.discretised(design), tolerance=self.searching)

    def settle_integers(self, starts: Starts) -> PyTree:
        """The best exact optimum over integer values next to the relaxed ones."""
        relaxed = starts.designs[starts.best]
        params = named_params(relaxed)
        choices = [nearby_integers(params[name]) for name in self.study.integers]
        counts_of = lambda values: dict(zip(self.study.integers, values, strict=True))
        integers = [counts_of(values) for values in sorted(set(itertools.product(*choices)))]
        layouts = [{**pure, **counts} for pure in self.study.alternatives() for counts in integers]
        held = self.study.integers + self.study.categorical
        found: list[Polished] = []
        for count, values in enumerate(layouts):
            found.append(self.polish(with_fixed(relaxed, values), held=held, tolerance=self.settling))
            self.progress("integer layouts", (count + 1) / len(layouts))
        met = [p for p in found if np.all(p.used <= self.study.problem.limits)]
        if not met:
            msg = f"{self.study.name}: no integer layout meets the budgets: {found[-1].message}"
            raise ValueError(msg)
        best = max(met, key=lambda p: p.objective)
        for values, p in zip(layouts, found, strict=True):
            self.folder.log({"phase": "integers", "values": values, "objective": p.objective, "converged": p.converged})
        return best.design

    def polish(self, design: PyTree, **options: Any) -> Polished:
        """`polish` as this study wants it."""
        study = self.study
        if not study.solver_steps:
            settled = study.settle(design)
            outcome = study.problem.outcome(settled, study.problem.context)
            return Polished(settled, float(outcome.objective), np.asarray(outcome.used), True, "no exact solver wanted")
        return polish(
            self.sensitivities,
            design,
            reach=study.reach,
            straight=study.exact,
            max_steps=study.solver_steps,
            **options,
        )

    def prepare(self, initial: PyTree) -> dict[str, Any]:
        """Judge the initial design, and compile what the later phases need, while the ascent is under way."""
        judged = self.judge("initial", initial)
        self.sensitivities(self.sensitivities.raw(initial), initial)
        self.study.problem.value(*split(unfrozen(initial)), self.study.problem.context)
        return judged

    def judge(self, name: str, design: PyTree) -> dict[str, Any]:
        """A design on held-out events, relaxed and hard."""
        out = {}
        for kind in ("relaxed", "hard"):
            out[f"{name} {kind}"] = self.study.judge(design, relaxed=kind == "relaxed")
            self.progress(f"held-out, {name}", 0.5 if kind == "relaxed" else 1.0)
        return out

    def confirm(self, initial: PyTree, final: PyTree) -> Mapping[str, Any] | None:
        """What full simulation says of both designs."""
        file = "checkpoints/confirmation.json"
        if not self.folder.has(file):
            found = self.study.confirm(initial, final, self.folder, progress=self.progress)
            if found is None:
                return None
            self.folder.write_json(file, found)
        return self.folder.read_json(file)

    def front(self, final: PyTree, ascended: Ascended) -> dict[str, Any] | None:
        """Objective against the first budget: the compiled ascent of the starts, with other limits.

        The relaxed optimum, on the design sample; the layouts are not rounded to integers.
        """
        count, lanes = self.search.pareto, ascended.state.step.shape[0]
        limits = self.study.problem.limits
        if not count or not len(limits):
            return None
        factors = np.geomspace(0.4, 1.6, count)
        file, points = "checkpoints/front.json", []
        if self.folder.has(file):
            return self.folder.read_json(file)
        for begin in range(0, count, lanes):
            chosen = factors[begin : begin + lanes]
            # a short batch is filled up with its last point, so that nothing is compiled again
            padded = np.concatenate([chosen, np.repeat(chosen[-1:], lanes - len(chosen))])
            moved = [split(self.study.rescaled(final, float(f)))[0] for f in padded]
            lane_limits = np.tile(limits, (lanes, 1))
            lane_limits[:, 0] *= padded
            state, outcome = ascended.climb.continue_from(stack(moved), jnp.asarray(lane_limits), FRONT_STEPS)
            used, value = np.array(outcome.used[-1]), np.array(outcome.objective[-1])
            if self.study.exact:
                for i in range(len(chosen)):
                    near = eqx.combine(lane(state.trainable, i), ascended.climb.rest)
                    p = self.polish(near, limits=lane_limits[i], tolerance=self.searching)
                    used[i], value[i] = p.used, p.objective
            # far below the budget there may be no detector, and no fit, any more
            there = [i for i in range(len(chosen)) if np.isfinite(value[i]) and np.all(np.isfinite(used[i]))]
            points += [{"limit": lane_limits[i, 0], "used": used[i], "objective": value[i]} for i in there]
            self.progress("Pareto front", min(1.0, (begin + lanes) / count))
        if not points:
            return None
        most = max(point["limit"] for point in points)
        spent, reached = (
            np.array([take(p) for p in points]) for take in (lambda p: p["used"][0], lambda p: p["objective"])
        )
        area = hypervolume(spent, reached, (most, 0.0))
        out = {
            "constraint": self.study.problem.constraints[0].name,
            "points": points,
            "hypervolume": area,
            "reference": most,
        }
        self.folder.write_json(file, out)
        return self.folder.read_json(file)

    def logic(self, final: PyTree, ascended: Ascended) -> dict[str, Any] | None:
        """What the words of the trigger are worth, and the front of the objective against its logic."""
        file = "checkpoints/logic.json"
        if not self.study.traded:
            return None
        if not self.folder.has(file):
            found = self.study.logic(final, progress=self.progress)
            points, polish = self.search.pareto, partial(self.polish, tolerance=self.searching)
            front = judged_front(self.study, final, ascended, polish, points=points, progress=self.progress)
            self.folder.write_json(file, {**(found or {}), "front": front if front["points"] else None})
        return self.folder.read_json(file)

    def with_traded(self, certificate: Certificate, design: PyTree, ascended: Ascended, start: int) -> Certificate:
        """The certificate with the ascent's own multipliers for constraints that no adjustable parameter moves."""
        study = self.study
        objective = float(study.problem.outcome(design, study.problem.context).objective)
        multipliers, active = certificate.multipliers.copy(), certificate.active.copy()
        for index, constraint in enumerate(study.problem.constraints):
            if constraint.name in study.stepwise:
                # of ln(objective) against the relative excess
                multipliers[index] = float(ascended.state.multipliers[start, index]) * objective / constraint.limit
                active[index] = multipliers[index] > 0
        return dataclasses.replace(certificate, multipliers=multipliers, active=active)

    def baseline(self, initial: PyTree) -> dict[str, Any]:
        """CMA-ES from the initial design, with as many evaluations as the ascent took from all starts."""
        file = "checkpoints/baseline.json"
        if not self.folder.has(file):
            found = cma_es(
                self.study.problem,
                initial,
                self.sensitivities.names,
                evaluations=self.search.starts * self.search.steps,
                seed=self.search.seed,
                progress=lambda f: self.progress("CMA-ES", f),
            )
            self.folder.write_json(file, found)
        return self.folder.read_json(file)

    def grid(self, final: PyTree) -> dict[str, Any] | None:
        """Hard objective on held-out events over a grid of the two geometry parameters around the optimum."""
        if not self.search.grid or not self.study.scanned:
            return None
        file = "checkpoints/grid.json"
        if not self.folder.has(file):
            scanned = self.study.scan(final, self.search.grid, lambda f: self.progress("thickness scan", f))
            self.folder.write_json(file, scanned)
        return self.folder.read_json(file)


def gradient_cost(study: AbstractStudy, design: PyTree, *, repeats: int = 11) -> float:
    """Time of the gradient with respect to all parameters, value included, over the time of the value alone.

    Both compiled and warm; the median of alternating pairs.
    """
    problem = study.problem
    parts = split(unfrozen(design))
    both = [problem.value, problem.value_and_grad]
    for function in both:
        jax.block_until_ready(function(*parts, problem.context))
    ratios = []
    for _ in range(repeats):
        seconds = []
        for function in both:
            began = time.perf_counter()
            jax.block_until_ready(function(*parts, problem.context))
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
    return float(np.median(ratios))
