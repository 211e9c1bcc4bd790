"""Where the panels of a muon telescope go, and how large they are, within a budget (reference problem R8).

Two scenes, after TomOpt's: the fill height of a ladle furnace (`diffhep.design.studies.muon_tomography.furnace`) and
the radiation lengths of a block of voxels (`...scan`). Muons are simulated once: panels do not scatter, so the paths
above and below the volume are the same for every layout, and layouts are compared on the same muons.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from diffhep.design.exact import with_values
from diffhep.design.honest import Measured
from diffhep.design.parametric import EXACT, ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.studies.muon_tomography import furnace, scan
from diffhep.design.studies.muon_tomography.layout import Layout, layout_of, numbers_of
from diffhep.design.tomography_config import MuonTomographySettings
from diffhep.generate.cosmic import Spectrum
from diffhep.parameters import named_params, resolve

SPREAD = 0.2  # of a random start's raw leaves around the initial layout's
OBJECTIVES = {
    "ladle-furnace": "inverse mean squared error of the fill height [1/m^2]",
    "hello-world": "inverse mean squared logarithm of the radiation length",
}
NEARLY = 0.05  # a design that spends this much less than its budget, in width, does so on purpose
NEAR = 0.001  # heights may come this close to the volume and to the ends of the room beside it [mm]


class MuonTomography(ParametricStudy):
    """The study; see the module's text."""

    settings: MuonTomographySettings
    name = "muon-tomography"
    # an evaluation takes a tenth of a second, and in the noise of the muons an exact optimum means nothing
    exact = compared = False
    solver_steps = 0
    # a fill height is a weighted quantile of voxels, smooth in pieces: where a derivative is small beside the others,
    # the difference quotient, which steps across the joints, is good to some 1e-5 of it
    audit_tolerance = 1e-4
    estimator = "jittered muons: hard panel edges, averaged over a small sideways shift of every muon"

    def __init__(self, settings: MuonTomographySettings):
        m, self.settings = settings.muons, settings
        if m.held_out < 2 * m.per_volume:
            msg = f"muons: held_out must be at least twice per_volume, got {m.held_out} and {m.per_volume}"
            raise ValueError(msg)
        self.objective_name = OBJECTIVES[settings.scene]
        self.layout()
        limit = Constraint("cost", settings.budget.cost, "cost unit")
        super().__init__(settings, (limit,), self.sample(m.design, settings.search.seed))
        self.held_out: Any = None

    @property
    def in_furnace(self) -> bool:
        """Whether the scene is the ladle furnace."""
        return self.settings.scene == "ladle-furnace"

    def sample(self, muons: int, seed: int) -> furnace.FurnaceSample | scan.ScanSample:
        """Simulated muons."""
        m, panels = self.settings.muons, len(self.settings.panels.upper)
        momentum = Spectrum() if m.spectrum else m.momentum
        if self.in_furnace:
            return furnace.furnace_sample(muons, seed=seed, panels=panels, momentum=momentum, steps=m.steps)
        chunk = min(scan.CHUNK, muons)
        volume = scan.scan_volume(steps=m.steps)
        return scan.scan_sample(muons // chunk * chunk, seed=seed, volume=volume, momentum=momentum, chunk=chunk)

    def layout(self) -> Layout:
        """The initial panels."""
        p, scene = self.settings.panels, furnace if self.in_furnace else scan
        if len(p.upper) != len(p.lower):
            msg = f"panels: as many above as below are wanted, got {len(p.upper)} and {len(p.lower)}"
            raise ValueError(msg)
        side, spans = (0.0, scene.SIDE), (p.narrowest, p.widest)
        rooms = {"upper": (self.top - NEAR, scene.CEILING + NEAR), "lower": (-NEAR, scene.BOTTOM + NEAR)}
        bounds = {"x": side, "y": side, "span_x": spans, "span_y": spans, **rooms}
        return layout_of(p.upper, p.lower, bounds=bounds, held=p.held, resolution=p.resolution, efficiency=p.efficiency)

    @property
    def top(self) -> float:
        """Height of the volume's upper face [mm]."""
        return furnace.TOP if self.in_furnace else scan.scan_volume().top

    def error(self, design: Layout, sample: Any, jitter: float | None) -> jax.Array:
        """Mean squared error of either scene."""
        if self.in_furnace:
            return furnace.fill_height_error(
                resolve(design), sample, muons=self.settings.muons.per_volume, jitter=jitter
            )
        return scan.scan_error(resolve(design), sample, jitter=jitter)

    def evaluate(self, design: Layout, context: Any) -> Outcome:
        """Inverse mean squared error; cost."""
        cost = resolve(design).cost(self.settings.budget.price)
        return Outcome(1 / self.error(design, context, self.settings.muons.jitter), cost[None])

    def start(self, initial: Layout, *, key: PRNGKeyArray) -> Layout:
        """Panels some way from the initial ones: muons have to cross all of them."""
        params = named_params(initial)
        raw = np.array([float(params[name].raw) for name in self.adjustable])
        return with_values(initial, self.adjustable, raw + SPREAD * np.asarray(jax.random.normal(key, raw.shape)))

    def settle(self, design: Layout) -> Layout:
        """All widths scaled alike, so that a design that spends nearly all of the budget spends exactly all of it."""
        budget = self.settings.budget
        factor = float(np.sqrt(budget.cost / resolve(design).cost(budget.price)))
        spans = {n: p for n, p in named_params(design).items() if n.rsplit(".", 1)[-1].startswith("span")}
        if abs(factor - 1) > NEARLY or any(p.frozen for p in spans.values()):
            return design
        raw = [float(p.at(float(p.unwrap()) * factor).raw) for p in spans.values()]
        return with_values(design, tuple(spans), np.array(raw))

    def judge(self, design: Layout, *, relaxed: bool) -> Mapping[str, Measured]:
        """On other muons: relaxed by the jittered expectation, hard by whole volumes scanned with hard panels."""
        if self.held_out is None:
            self.held_out = self.sample(self.settings.muons.held_out, self.settings.search.seed + 1000)
        cost = float(resolve(design).cost(self.settings.budget.price))
        used = {"cost": Measured(cost, EXACT)}
        if relaxed:
            value = self.problem.outcome(design, self.held_out).objective
            return {"objective": Measured(float(value), EXACT), **used}
        if not self.in_furnace:
            return {"objective": Measured(1 / float(self.error(design, self.held_out, None)), EXACT), **used}
        predicted = furnace.predicted_heights(resolve(design), self.held_out, muons=self.settings.muons.per_volume)
        errors = furnace.squared_errors(np.asarray(predicted))
        mean = errors.mean()
        return {"objective": Measured(float(1 / mean), -(errors - mean) / errors.size / mean**2), **used}

    def pictures(self, initial: Layout, final: Layout) -> Mapping[str, Any]:
        """Both layouts, as numbers in metres."""
        return {"layouts": {"initial": numbers_of(initial), "final": numbers_of(final)}}

    def least_use(self) -> np.ndarray:
        """Every panel as narrow as it may be."""
        p = self.settings.panels
        area = (len(p.upper) + len(p.lower)) * (p.narrowest / 1000) ** 2
        return np.array([area * self.settings.budget.price])
