"""H -> gamma gamma: the calorimeter, trigger and networks that find the Higgs boson best, within a budget.

Events are Pythia 8 pp collisions at 13 TeV. The parameters are the thickness of absorber and scintillator, the number
of layers, two trigger thresholds, the photon-identification cut and two networks; the objective is the expected
discovery significance of the diphoton mass spectrum; the budgets are cost, depth and trigger rate.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import paramax
from jaxtyping import Array, PRNGKeyArray

from diffhep.design.config import HiggsDiphotonSettings
from diffhep.design.honest import Measured, measure_with_error
from diffhep.design.problem import Constraint, Outcome, Problem
from diffhep.design.studies.higgs_diphoton.data import load, redrawn
from diffhep.design.studies.higgs_diphoton.experiment import (
    HARD,
    RELAXED,
    Data,
    Decisions,
    Experiment,
    Nuisances,
    Spectrum,
    Templates,
    measured,
    menu_with,
    significance,
    templates,
)
from diffhep.design.studies.higgs_diphoton.full_simulation import confirmation
from diffhep.design.studies.higgs_diphoton.pictures import pictures
from diffhep.design.studies.higgs_diphoton.response import bounds, inside, learned_showers
from diffhep.design.studies.higgs_diphoton.training import stagewise
from diffhep.design.study import AbstractStudy, Report
from diffhep.detector import SamplingCalorimeter
from diffhep.generate.geant4_pool import check_installed
from diffhep.io import RunFolder
from diffhep.parameters import Param, resolve
from diffhep.tagging import PhotonTagger
from diffhep.trigger import TRIGGER_SUMS, DenseClassifier, DiphotonMenu, FixedPoint, quantised, trigger_features

Context = tuple[Spectrum, Data]
LAYERS = "calorimeter.layers"
REACH, SOLVER_STEPS = 0.2, 15  # of the exact steps, with simulated showers
WANTED = 0.95  # of the rate's budget: relaxed and hard rate are this close
INPUT_FORMAT = FixedPoint(k=0, i=2, f=8)


class HiggsDiphoton(AbstractStudy):
    """The study; see the module's text."""

    settings: HiggsDiphotonSettings
    name = "higgs-diphoton"
    objective_name = "expected discovery significance Z"
    integers = (LAYERS,)
    scanned = ("calorimeter.absorber", "calorimeter.active")
    adjustable = (
        "calorimeter.absorber",
        "calorimeter.active",
        "menu.leading",
        "menu.subleading",
        "photon_cut",
    )

    def __init__(self, settings: HiggsDiphotonSettings):
        self.settings = settings
        self.showers = learned_showers(settings) if settings.response == "surrogate" else None
        if self.showers is not None:
            # simulated showers fluctuate in shape, and single events sway more; see `AbstractStudy.reach`
            self.reach, self.solver_steps = REACH, SOLVER_STEPS
        self.bounds = bounds(self.showers)
        loaded = load(settings, self.showers)
        self.data, self.fresh, self.samples = loaded.design, loaded.held_out, loaded.samples
        a = settings.analysis
        if not a.mass_low < a.mass_high:
            msg = f"analysis.mass_low: must be below mass_high, got {a.mass_low} and {a.mass_high} GeV"
            raise ValueError(msg)
        self.spectrum = Spectrum(
            jnp.linspace(a.mass_low, a.mass_high, a.bins + 1), a.energy_scale, a.leading_ratio, a.subleading_ratio
        )
        self.network_key = jr.key(settings.search.seed)
        self.problem = Problem(self.evaluate, (self.spectrum, self.data), self.constraints())
        self.judges = {relaxed: measure_with_error(self.judged(relaxed=relaxed)) for relaxed in (True, False)}

    def get_ready(self, folder: RunFolder, progress: Report) -> None:
        """Refuse before the search what would fail after it."""
        if self.settings.simulation.geant4:
            check_installed()

    def constraints(self) -> tuple[Constraint, ...]:
        """The budgets."""
        b = self.settings.budget
        return (
            Constraint("cost", b.cost, "cost unit"),
            Constraint("depth", b.depth, "mm"),
            Constraint("rate", b.rate, "Hz"),
        )

    def untrained(self) -> Experiment:
        """The initial layout with random networks."""
        c, t = self.settings.calorimeter, self.settings.trigger
        calorimeter = SamplingCalorimeter(
            Param(c.absorber, unit="mm", role="geometry", bounds=self.bounds.absorber),
            Param(c.active, unit="mm", role="geometry", bounds=self.bounds.active),
            Param(self.affordable_layers(), unit="", role="geometry", bounds=self.bounds.layers),
            photoelectrons=c.photoelectrons,
            constant_term=c.constant_term,
            noise=c.noise,
            inner_radius=c.inner_radius,
            position_constant=c.position_constant,
            width_constant=c.width_constant,
            hadron_response=c.hadron_response,
            readouts=c.readouts,
            showers=paramax.non_trainable(self.showers),
        )
        menu = DiphotonMenu(
            Param(t.leading, unit="GeV", role="threshold", bounds=(18.0, 100.0)),
            Param(t.subleading, unit="GeV", role="threshold", bounds=(14.0, 80.0)),
            self.first_classifier(),
        )
        key = jr.split(self.network_key)[0]
        return Experiment(
            calorimeter,
            PhotonTagger.init(c.readouts, width=self.settings.analysis.tagger_width, key=key),
            menu,
            Param(0.0, unit="logit", role="threshold"),
            Nuisances(*(Param(0.0, unit="sigma", role="nuisance", frozen=True) for _ in range(2))),
        )

    def first_classifier(self) -> Any:
        """The trigger's classifier before any training."""
        return self.random_classifier()

    def random_classifier(self) -> DenseClassifier:
        """A network of random weights in floating point."""
        return DenseClassifier.init(
            (TRIGGER_SUMS + 1, self.settings.trigger.hidden, 1),
            key=jr.split(self.network_key)[1],
            # constants, so that every design has the same: fractions spread by about 1/2 around 1/4, pt around 48 GeV
            exponents=(-1,) * TRIGGER_SUMS + (0,),
            offsets=(0.5,) * TRIGGER_SUMS + (0.75,),
        )

    def affordable_layers(self) -> float:
        """The configured number of layers, or the most that the budget pays for."""
        c, b = self.settings.calorimeter, self.settings.budget
        each = b.layer_cost(c.absorber, c.active)
        affordable = min(c.layers, np.floor(b.cost / each), np.floor(b.depth / (c.absorber + c.active)))
        return max(affordable, np.floor(self.bounds.layers[0]) + 1)

    def geometry_use(self, calorimeter: SamplingCalorimeter) -> tuple[Array, Array]:
        """Cost and depth [mm] of a calorimeter whose Params are resolved."""
        b = self.settings.budget
        return calorimeter.layers * b.layer_cost(calorimeter.absorber, calorimeter.active), calorimeter.depth()

    def outcome(self, design: Experiment, context: Context, decisions: Decisions) -> tuple[Outcome, Templates]:
        """Objective and used budgets of a design, and the templates behind them."""
        spectrum, data = context
        resolved = resolve(design)
        t = templates(resolved, spectrum, data, decisions)
        return Outcome(significance(spectrum, t), jnp.stack(self.used(resolved, t))), t

    def used(self, resolved: Experiment, t: Templates) -> list[Array]:
        """Use of each constraint by an experiment whose Params are resolved."""
        return [*self.geometry_use(resolved.calorimeter), t.rate]

    def evaluate(self, design: Experiment, context: Context) -> Outcome:
        """Relaxed, with common random numbers."""
        return self.outcome(design, context, RELAXED)[0]

    def initial(self, *, progress: Report) -> Experiment:
        """Networks trained by cross-entropy at the initial layout, cuts at fixed efficiency, thresholds at the rate."""
        return self.filled(self.train(self.untrained(), progress=progress))

    def train(self, design: Experiment, *, progress: Report) -> Experiment:
        """Networks trained by cross-entropy at the design's layout, each cut at a fixed photon efficiency."""
        return stagewise(design, self.spectrum, self.data, steps=self.settings.search.warmup, progress=progress)

    def start(self, initial: Experiment, *, key: PRNGKeyArray) -> Experiment:
        """Random thicknesses and thresholds; as many layers as a random share of the budget pays for."""
        u = np.asarray(jr.uniform(key, (5,)))
        absorber, active = 1.5 * 5.0 ** u[0], 1.0 * 5.0 ** u[1]
        b = self.settings.budget
        each = b.layer_cost(absorber, active)
        layers = (0.6 + 0.4 * u[2]) * min(b.cost / each, b.depth / (absorber + active))
        leading, subleading = (float(p.unwrap()) for p in (initial.menu.leading, initial.menu.subleading))
        values = (
            inside(absorber, self.bounds.absorber),
            inside(active, self.bounds.active),
            inside(layers, self.bounds.layers),
            np.clip(leading + 6 * (u[3] - 0.5), 18.5, 99.0),
            np.clip(subleading + 6 * (u[4] - 0.5), 14.5, 79.0),
        )
        where = lambda e: (e.calorimeter.absorber, e.calorimeter.active, e.calorimeter.layers, *thresholds(e))
        return eqx.tree_at(where, initial, tuple(p.at(v) for p, v in zip(where(initial), values, strict=True)))

    def rescaled(self, design: Experiment, factor: float) -> Experiment:
        """The same layers, more or fewer of them, so that the cost is `factor` of its budget."""
        cost, _ = self.geometry_use(resolve(design.calorimeter))
        layers = design.calorimeter.layers
        count = float(layers.unwrap()) * factor * self.settings.budget.cost / float(cost)
        return eqx.tree_at(lambda e: e.calorimeter.layers, design, layers.at(inside(count, self.bounds.layers)))

    def scan(self, design: Experiment, points: int, progress: Callable[[float], None]) -> Mapping[str, Any]:
        """Hard objective on held-out events over absorber and active thickness; None where there is no fit."""
        c = design.calorimeter
        ends = [
            [inside(float(p.unwrap()) * factor, within) for factor in (0.85, 1.18)]
            for p, within in ((c.absorber, self.bounds.absorber), (c.active, self.bounds.active))
        ]
        axes = [np.geomspace(low, high, points) for low, high in ends]
        rows = []
        for i, absorber in enumerate(axes[0]):
            row = []
            for active in axes[1]:
                moved = eqx.tree_at(
                    lambda e: (e.calorimeter.absorber, e.calorimeter.active),
                    design,
                    (c.absorber.at(absorber), c.active.at(active)),
                )
                judged = self.judge(moved, relaxed=False)
                z = judged["objective"]
                # networks that were trained at the optimum may reject everything far from it: then there is no fit
                known = bool(np.isfinite(z.value) and np.isfinite(z.stderr))
                row.append(
                    {
                        "objective": z.value if known else None,
                        "stderr": z.stderr if known else None,
                        **{k.name: judged[k.name].value for k in self.problem.constraints},
                    }
                )
            rows.append(row)
            progress((i + 1) / points)
        return {"names": ["absorber", "active"], "unit": "mm", "axes": axes, "rows": rows}

    def hard_version(self, design: Experiment) -> Experiment:
        """The same design with the trigger classifier in fixed point."""
        return eqx.tree_at(lambda e: e.menu.classifier, design, self.hardware(design).emulator())

    def hardware(self, design: Experiment) -> Any:
        """The classifier in fixed point, with formats that cover its inputs and activations on the design sample."""
        t = self.settings.trigger
        return quantised(
            cast("DenseClassifier", design.menu.classifier),
            input_format=INPUT_FORMAT,
            weight_bits=t.weight_bits,
            activation_bits=t.activation_bits,
            calibration_inputs=jnp.concatenate(self.classifier_inputs(design)),
        )

    def classifier_inputs(self, design: Experiment) -> list[Array]:
        """What the classifier sees of the jets, and of the signal, of the design sample."""
        resolved = resolve(design)
        inputs = []
        for events, noise in ((self.data.jets, self.data.noise["jets"]), self.data.signal()):
            photons = measured(resolved, self.spectrum, events, noise)
            inputs.append(trigger_features(photons).reshape(-1, TRIGGER_SUMS + 1))
        return inputs

    def settle(self, design: Experiment) -> Experiment:
        """Both thresholds raised together, as little as possible, until the hard rate is within its budget.

        They are lowered to what the budget allows only if the relaxed design wants all of it: where the optimum leaves
        some over, more rate is more background.
        """
        rate = [c.name for c in self.problem.constraints].index("rate")
        wanted = float(self.problem.outcome(design, self.problem.context).used[rate])
        return self.filled(design, lowest=-np.inf if wanted > WANTED * self.settings.budget.rate else 0.0)

    def filled(self, design: Experiment, *, lowest: float = -np.inf) -> Experiment:
        """Both thresholds moved together, by no less than this, to the largest hard rate within its budget."""
        hard = resolve(self.hard_version(design))
        pt, weight = jet_acceptance(hard, self.spectrum, self.data)
        high, low = np.max(pt, axis=1), np.min(pt, axis=1)
        leading, subleading = (float(p.unwrap()) for p in thresholds(design))
        # an event is kept up to this common shift of both thresholds; the rate is a falling step function of the shift
        last = np.minimum(high - leading, low - subleading)
        order = np.argsort(-last)
        within = np.cumsum(weight[order]) <= self.settings.budget.rate
        kept = int(np.sum(within))
        shift = last[order][kept] if kept < len(order) else last.min()
        # inside the bounds of both thresholds; just above the first event that must not pass
        shift = float(np.clip(shift + 1e-9, max(18.0 - leading + 1e-3, 14.0 - subleading + 1e-3, lowest), None))
        moved = tuple(p.at(v + shift) for p, v in zip(thresholds(design), (leading, subleading), strict=True))
        return eqx.tree_at(thresholds, design, moved)

    def judged(self, *, relaxed: bool) -> Any:
        """The function of a design and event factors that `judge` compiles."""

        def function(design: Experiment, factors: Mapping[str, Array], context: Context) -> dict[str, Any]:
            spectrum, data = context
            out, t = self.outcome(design, (spectrum, reweighted(data, factors)), RELAXED if relaxed else HARD)
            used = {c.name: out.used[i] for i, c in enumerate(self.problem.constraints)}
            return {"objective": out.objective, **used, "templates": t}

        return function

    def judge(self, design: Experiment, *, relaxed: bool) -> Mapping[str, Measured]:
        """On held-out events: relaxed, or with steps, counts and the integer classifier."""
        found = self.with_templates(design, relaxed=relaxed)
        return {name: value for name, value in found.items() if isinstance(value, Measured)}

    def with_templates(self, design: Experiment, *, relaxed: bool) -> Mapping[str, Any]:
        """What `judge` returns, and `templates`."""
        sizes = {name: getattr(self.fresh, name).size for name in ("prompt", "jets")}
        context = self.spectrum, self.fresh
        return self.judges[relaxed](design if relaxed else self.hard_version(design), sizes, context)

    def least_use(self) -> np.ndarray:
        """Cost and depth at the thinnest, fewest layers; rate with both thresholds at their upper bound."""
        smallest = eqx.tree_at(
            lambda e: (e.calorimeter.absorber, e.calorimeter.active, e.calorimeter.layers),
            resolve(self.untrained()),
            tuple(jnp.array(low) for low, _ in (self.bounds.absorber, self.bounds.active, self.bounds.layers)),
        )
        cost, depth = self.geometry_use(smallest.calorimeter)
        pt = np.asarray(self.data.jets["pt"])
        above = (pt.max(axis=1) > 100.0) & (pt.min(axis=1) > 80.0)
        return np.array([float(cost), float(depth), float(np.sum(np.asarray(self.data.jets.weight)[above]))])

    def confirm(
        self, initial: Experiment, final: Experiment, folder: RunFolder, *, progress: Report
    ) -> Mapping[str, Any] | None:
        """Both designs judged with showers of Geant4, if the surrogate's made them and that is asked for."""
        s = self.settings
        if self.showers is None or not s.simulation.geant4:
            return None
        hard = {name: resolve(self.hard_version(d)) for name, d in (("initial", initial), ("final", final))}
        designs = {name: (one.calorimeter, partial(self.rejudged, one)) for name, one in hard.items()}
        return confirmation(designs, s.simulation, s.search.seed, folder, progress)

    def rejudged(self, hard: Experiment, calorimeter: SamplingCalorimeter, number: int) -> dict[str, float]:
        """Hard objective and rate (Params resolved) with another calorimeter and, for each number, other showers."""
        rng = np.random.default_rng([self.settings.search.seed, 19, number])
        fresh = redrawn(self.fresh, self.settings.calorimeter.readouts, self.showers, rng)
        nothing_changed = {"prompt": jnp.ones(fresh.prompt.size), "jets": jnp.ones(fresh.jets.size)}
        other = eqx.tree_at(lambda e: e.calorimeter, hard, calorimeter)
        found = self.hard_values(other, nothing_changed, (self.spectrum, fresh))
        return {name: float(found[name]) for name in ("objective", "rate")}

    @cached_property
    def hard_values(self) -> Any:
        """`judged` with hard decisions, compiled, without errors."""
        return jax.jit(self.judged(relaxed=False))

    def pictures(self, initial: Experiment, final: Experiment) -> Mapping[str, Any]:
        """Spectra, resolution terms, turn-on and rate curves."""
        return pictures(self, initial, final)

    def provenance(self) -> Mapping[str, Any]:
        """Files, processes, cross-sections and seeds of the samples, and the surrogate if there is one."""
        if self.showers is None:
            return self.samples
        return {**self.samples, "showers": {"surrogate": str(self.settings.simulation.surrogate or "shipped")}}


def thresholds(experiment: Experiment) -> tuple[Param, Param]:
    """Leading and subleading threshold."""
    return experiment.menu.leading, experiment.menu.subleading


def reweighted(data: Data, factors: Mapping[str, Array]) -> Data:
    """Data with the events of both samples, `prompt` and `jets`, multiplied by factors."""
    return eqx.tree_at(
        lambda d: (d.prompt, d.jets, d.tally),
        data,
        (data.prompt.reweight(factors["prompt"]), data.jets.reweight(factors["jets"]), data.tally * factors["jets"]),
    )


def jet_acceptance(experiment: Experiment, spectrum: Spectrum, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Measured pt of the jets' candidates [GeV] and the rate [Hz] each event adds if both thresholds pass it."""
    photons = measured(experiment, spectrum, data.jets, data.noise["jets"])
    objects = menu_with(experiment, HARD).object_acceptance(photons)
    pt = jnp.where(photons.mask, photons["pt"], 0.0)
    return np.asarray(pt), np.asarray(data.jets.weight * objects[:, 0] * objects[:, 1])
