"""H -> gamma gamma with the words of the trigger's classifier as part of the design, within a number of lookup tables.

Thicknesses, thresholds, weights and numbers of bits move together, by the gradient of the same significance: straight
through the rounding for what lies before it, surrogates for the bits themselves (`diffhep.trigger.primitive`).
"""

from collections.abc import Mapping
from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from diffhep.audit import AuditRow, audit, unfrozen
from diffhep.design.problem import Constraint
from diffhep.design.studies.higgs_diphoton.experiment import Experiment, Templates
from diffhep.design.studies.higgs_diphoton.logic import (
    FINEST,
    fractional,
    groups,
    in_formats,
    moved,
    quantised_after_training,
    trimmed,
    with_params,
)
from diffhep.design.studies.higgs_diphoton.study import INPUT_FORMAT, HiggsDiphoton
from diffhep.design.studies.higgs_diphoton.training import TRIGGER_EFFICIENCY
from diffhep.design.study import AUDIT_WEIGHTS, Report
from diffhep.parameters import resolve, split
from diffhep.trigger import LearnedClassifier, lut_model

LUTS = "luts"
LONG_STEPS = (0.05, 0.025, 0.0125, 0.006)  # of raw leaves
RICHER = 3.0  # bits more than fit, at most, with which a random start begins


class HiggsDiphotonLearned(HiggsDiphoton):
    """The study; see the module's text."""

    stepwise = (LUTS,)
    traded = LUTS
    # the classifier passes or rejects whole groups of candidates at once: further from where the ascent led, the exact
    # steps find designs that leave no background in this sample
    reach = 0.2
    # events that cross the edge of a word are small jumps, below which there is nothing to be solved
    solver_steps = 15
    # of derivatives through rounded words, whose difference quotients have a noise
    audit_tolerance = 0.05
    estimator = "soft cuts and rounded words, straight through, while optimising; hard cuts when judging"

    @property
    def luts(self) -> float:
        """Lookup tables that the classifier may take."""
        return cast("float", self.settings.budget.luts)

    def constraints(self) -> tuple[Constraint, ...]:
        """The budgets, that of the logic last."""
        return (*super().constraints(), Constraint(LUTS, self.luts, "LUT"))

    def used(self, resolved: Experiment, t: Templates) -> list[Array]:
        """Use of each constraint by an experiment whose Params are resolved."""
        classifier = cast("LearnedClassifier", resolved.menu.classifier)
        return [*super().used(resolved, t), lut_model().luts(classifier)]

    def least_use(self) -> np.ndarray:
        """As without learned words; a classifier may be pruned to nothing."""
        return np.append(super().least_use(), 0.0)

    def first_classifier(self) -> LearnedClassifier:
        """The trigger's classifier before any training, words alike and without ranges."""
        return with_params(in_formats(self.random_classifier(), FINEST, INPUT_FORMAT))

    def train(self, design: Experiment, *, progress: Report) -> Experiment:
        """Networks trained by cross-entropy, the classifier's words then chosen as fine as the logic allows."""
        where = lambda e: e.menu.classifier
        trained = super().train(eqx.tree_at(where, design, self.random_classifier()), progress=progress)
        jets, photons = self.classifier_inputs(trained)
        network = quantised_after_training(
            where(trained),
            jnp.concatenate([jets, photons]),
            photons,
            efficiency=TRIGGER_EFFICIENCY,
            luts=self.luts,
            input_format=INPUT_FORMAT,
        )
        return eqx.tree_at(where, trained, with_params(network))

    def start(self, initial: Experiment, *, key: PRNGKeyArray) -> Experiment:
        """A random start, with finer words than the logic pays for: which are worth it is for the ascent to find."""
        start = super().start(initial, key=key)
        finer = jr.uniform(jr.fold_in(key, 1), maxval=RICHER)
        bits = lambda e: tuple(p.raw for p in fractional(e.menu.classifier))
        return eqx.tree_at(bits, start, tuple(raw + finer for raw in bits(start)))

    def hardware(self, design: Experiment) -> LearnedClassifier:
        """The classifier with every number on its grid."""
        return resolve(design.menu.classifier).frozen()  # type: ignore[union-attr]

    def hard_version(self, design: Experiment) -> Experiment:
        """The same design with the words of the classifier as hardware has them."""
        return eqx.tree_at(lambda e: e.menu.classifier, design, self.hardware(design))

    def discretised(self, design: Experiment, limit: float | None = None) -> Experiment:
        """Learned numbers of bits as whole ones, so few that the classifier fits into the logic that there is."""
        slopes = lambda d: self.problem.value_and_grad(*split(unfrozen(d)), self.problem.context)[1]
        return trimmed(design, self.luts if limit is None else limit, slopes)

    def audit(self, design: Experiment, *, seed: int = 0, progress: Report | None = None) -> list[AuditRow]:
        """Gradients against finite differences, but for those of bits and weights of words, which are surrogates.

        What lies upstream moves the inputs of the classifier over the edges of their words: the difference quotient is
        good where many edges are crossed, and is taken over long steps.
        """
        return audit(
            self.problem.value,
            self.problem.value_and_grad,
            design,
            self.problem.context,
            weights=AUDIT_WEIGHTS,
            tolerance=self.audit_tolerance,
            steps=LONG_STEPS,
            leave_out=("menu.classifier",),
            seed=seed,
            progress=progress,
        )

    def logic(self, design: Experiment, *, progress: Report) -> Mapping[str, Any]:
        """What the classifier takes, and what a bit more or less in some of its words does, hard, on held-out events.

        Returns:
            `luts`; `weights` that are left; `words`, one row for each kind: `words` (their name), `bits` of all of them
            together, `fewer` and `more` (change of the objective with its error, and of the lookup tables, for one bit
            in each; None where nothing is left to fit).
        """
        network = cast("LearnedClassifier", resolve(design.menu.classifier))
        here, rows = self.judge(design, relaxed=False), []
        for count, words in enumerate(found := groups(network)):
            row: dict[str, Any] = {"words": words.name, "bits": int(jnp.sum(words.bits(network)))}
            for name, by in (("fewer", -1), ("more", 1)):
                # within the rate again: coarser words let other events pass
                judged = self.judge(self.filled(moved(design, words, by)), relaxed=False)
                gain = judged["objective"].minus(here["objective"])
                known = np.isfinite(gain.value) and np.isfinite(gain.stderr)
                change = {**gain.summary(), "luts": judged[LUTS].value - here[LUTS].value}
                row[name] = change if known else None
            rows.append(row)
            progress("worth of a bit", (count + 1) / len(found))
        weights = sum(int(jnp.sum(layer.quantised_weight() != 0)) for layer in network.layers)
        return {"luts": here[LUTS].value, "weights": weights, "words": rows}
