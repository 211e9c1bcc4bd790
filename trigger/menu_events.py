"""Events as a menu sees them: from the files that its settings name to the quantities of every seed."""

import dataclasses
import itertools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffhep.io import SHIPPED, read_branch, read_sample, shipped
from diffhep.kinematics import diphoton_mass
from diffhep.trigger.menu_config import (
    AnalysisSettings,
    CrossSeed,
    DoubleSeed,
    MassSeed,
    MenuSettings,
    ObjectSeed,
    ObjectSettings,
    ScoreSeed,
    SeedSettings,
    Threshold,
)
from diffhep.trigger.seeds import Cut, Menu, SeedValues
from diffhep.units import luminosity_rate

MOST = 16  # objects of an event that an analysis looks at
Objects = Mapping[str, np.ndarray]
"""Quantities of the objects of one kind, (event, object), hardest first, and their `mask`."""


class MenuEvents(eqx.Module):
    """Events, and what every seed of a menu looks at.

    Attributes:
        seeds: in the order of the menu.
        weight: in Hz for a background, the generator's for a signal.
        leading: pt of the hardest object of each kind before the trigger's resolution [GeV], 0 where there is none.
        selected: what the analysis makes of them, if there is one.
    """

    seeds: tuple[SeedValues, ...]
    weight: Float[Array, " event"]
    leading: dict[str, Float[Array, " event"]]
    selected: "Selected | None" = None

    @property
    def size(self) -> int:
        """Number of events."""
        return len(self.weight)

    def take(self, rows: Int[np.ndarray, " row"]) -> "MenuEvents":
        """Some of the events, weighted to stand for all of them."""
        leading = {name: pt[rows] for name, pt in self.leading.items()}
        factor = self.size / max(len(rows), 1)
        part = self.selected and Selected(self.selected.bin[rows], self.selected.expected[rows] * factor)
        return MenuEvents(tuple(seed.take(rows) for seed in self.seeds), self.weight[rows] * factor, leading, part)


class Selected(eqx.Module):
    """Events in the histogram of an analysis.

    Attributes:
        bin: of each event; any where it is not selected.
        expected: number of events that each stands for, 0 where it is not selected.
    """

    bin: Int[np.ndarray, " event"]
    expected: Float[np.ndarray, " event"]


@dataclasses.dataclass(frozen=True)
class Written:
    """A cut of a seed as its settings have it."""

    label: str
    threshold: Threshold
    unit: str
    step: str
    below: bool = False


def cuts_of(seed: SeedSettings) -> list[Written]:
    """All cuts of a seed, fixed and adjustable."""
    found = []
    pt: Any = getattr(seed, "pt", None)
    if isinstance(pt, Threshold):
        found.append(Written("pt", pt, "GeV", "pt"))
    elif pt is not None:
        found += [Written(f"pt[{i}]", one, "GeV", "pt") for i, one in enumerate(pt)]
    if isinstance(seed, MassSeed):
        found.append(Written("mass", seed.mass, "GeV", "mass"))
    if isinstance(seed, ObjectSeed) and seed.isolation is not None:
        found.append(Written("isolation", seed.isolation, "", "isolation", below=True))
    if isinstance(seed, ScoreSeed):
        found.append(Written("score", seed.score, "", "score", below=seed.below))
    return found


def menu_of(settings: MenuSettings) -> Menu:
    """The menu that the settings describe, without events."""
    cuts: list[Cut] = []
    of_seed = []
    for name, seed in settings.seeds.items():
        indices = []
        for cut in cuts_of(seed):
            t = cut.threshold
            if t.low is None or t.high is None:
                continue
            indices.append(len(cuts))
            step = t.step or getattr(settings.hardware, cut.step)
            width = t.width or settings.search.width * (t.high - t.low)
            cuts.append(Cut(f"{name}.{cut.label}", cut.unit, t.start, (t.low, t.high), step, width, cut.below))
        of_seed.append(tuple(indices))
    prescales = tuple(seed.prescale for seed in settings.seeds.values())
    return Menu(tuple(settings.seeds), prescales, tuple(cuts), tuple(of_seed))


def kinds_of(seed: SeedSettings) -> tuple[str, ...]:
    """Kinds of objects that a seed looks at."""
    if isinstance(seed, CrossSeed):
        return seed.objects
    if isinstance(seed, ObjectSeed):
        return (seed.object,)
    return (seed.object,) if isinstance(seed, ScoreSeed) and seed.object else ()


def seed_values(seed: SeedSettings, objects: Mapping[str, Objects], event_scores: Objects) -> SeedValues:
    """What the adjustable cuts of a seed look at, and the combinations that pass the fixed ones.

    Args:
        seed: its settings.
        objects: of every kind.
        event_scores: branch -> one number for each event.
    """
    kinds = kinds_of(seed)
    if not kinds and isinstance(seed, ScoreSeed):
        quantities, allowed = {"score": event_scores[seed.branch][:, None]}, np.ones((1, 1), bool)
    else:
        quantities, allowed = combinations(seed, [objects[kind] for kind in kinds])
    moving = []
    for cut in cuts_of(seed):
        x, t = quantities[cut.label], cut.threshold
        if not t.fixed:
            moving.append(x)
        else:
            allowed = allowed & (x < t.start if cut.below else x > t.start)
    shape = next(iter(quantities.values())).shape[::-1]
    values = np.stack([x.T for x in moving]) if moving else np.zeros((0, *shape))
    return SeedValues(values, np.broadcast_to(allowed.T, shape))  # type: ignore[arg-type]


def combinations(seed: SeedSettings, kinds: list[Objects]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Quantities of one object or of a pair, (event, combination), and which combinations there are."""
    width = kinds[0]["mask"].shape[1]
    if len(kinds) == 2:
        places = list(itertools.product(range(width), range(kinds[1]["mask"].shape[1])))
        legs = [(kinds[i], np.array([p[i] for p in places])) for i in range(2)]
    elif isinstance(seed, DoubleSeed | MassSeed):
        # objects are in descending pt: the first of a pair is the harder one
        places = list(itertools.combinations(range(width), 2))
        legs = [(kinds[0], np.array([p[i] for p in places])) for i in range(2)]
    else:
        legs = [(kinds[0], np.arange(width))]
    of = lambda name: [objects[name][:, index] for objects, index in legs]
    allowed = np.logical_and.reduce(of("mask"))
    if seed.eta is not None:
        allowed &= np.logical_and.reduce([np.abs(eta) < seed.eta for eta in of("eta")])
    quantities = {"pt": of("pt")[0]} if len(legs) == 1 else {f"pt[{i}]": pt for i, pt in enumerate(of("pt"))}
    if isinstance(seed, MassSeed):
        (pt1, pt2), (eta1, eta2), (phi1, phi2) = (map(jnp.asarray, of(name)) for name in ("pt", "eta", "phi"))
        quantities["mass"] = np.asarray(diphoton_mass(pt1, eta1, phi1, pt2, eta2, phi2))
    if isinstance(seed, ObjectSeed) and seed.isolation is not None:
        # the less isolated of a pair decides
        quantities["isolation"] = np.maximum.reduce(of("isolation"))
    if isinstance(seed, ScoreSeed):
        quantities["score"] = of(seed.branch)[0]
    return quantities, allowed


def read_menu_events(settings: MenuSettings, file: str, scale: Mapping[str, float | None] | None = None) -> MenuEvents:
    """The events of a file as the seeds of a menu see them.

    Args:
        settings: of the menu.
        file: a ROOT file as `diffhep.io.read_sample` reads it, or the name of a shipped sample.
        scale: `cross_section` [pb] and `rate` [Hz] of a background, either may be None; weights are then in Hz. Without
            it they are the generator's.

    Raises:
        ValueError: the file cannot be read, lacks a branch that a seed needs, or has no cross-section where one is
            needed.
    """
    path = shipped(file) if file in SHIPPED else Path(file)
    cross_section, rate = (scale.get(key) for key in ("cross_section", "rate")) if scale else (None, None)
    objects, weight = {}, None
    for kind in sorted({kind for seed in settings.seeds.values() for kind in kinds_of(seed)}):
        given = settings.objects.get(kind, ObjectSettings())
        wanted = branches(settings, kind, given)
        sample = read_sample(
            path,
            # where a rate is given, or none is asked for, the cross-section does not matter
            cross_section=1.0 if rate or not scale else cross_section,
            collection=kind,
            fields=tuple(wanted.values()),
            max_objects=given.most,
        )
        per_second = rate or luminosity_rate(settings.luminosity)
        weight = np.asarray((sample.expected(per_second) if scale else sample.events).weight)
        columns = {name: np.asarray(sample.events[branch]) for name, branch in wanted.items()}
        mask = np.asarray(sample.events.mask)
        objects[kind] = measured(
            {**columns, "mask": mask},
            stochastic=given.stochastic,
            constant=given.constant,
            seed=[settings.search.seed, zlib.crc32(kind.encode())],
        )
    if weight is None:
        msg = "seeds: at least one must look at objects; a menu of event scores alone has no weights"
        raise ValueError(msg)
    per_event = {seed.branch for seed in settings.seeds.values() if isinstance(seed, ScoreSeed) and not seed.object}
    scores = {branch: read_branch(path, branch) for branch in sorted(per_event)}
    values = tuple(seed_values(seed, objects, scores) for seed in settings.seeds.values())
    return MenuEvents(values, weight, {kind: found["offline"] for kind, found in objects.items()})  # type: ignore[arg-type]


def select(analysis: AnalysisSettings, file: str, cross_section: float | None) -> Selected:
    """The events of a file in the histogram of an analysis.

    Args:
        analysis: its settings.
        file: as for `read_menu_events`, whose order of events is kept.
        cross_section: in place of the file's [pb].

    Raises:
        ValueError: the file cannot be read, lacks a branch, or has no cross-section.
    """
    massive = analysis.observable == "mass"
    fields = ["pt", *["eta"] * (massive or analysis.eta is not None), *["phi"] * massive]
    sample = read_sample(
        shipped(file) if file in SHIPPED else Path(file),
        cross_section=cross_section,
        collection=analysis.object,
        fields=fields,
        max_objects=MOST,
    )
    events = sample.events
    mask = np.asarray(events.mask)
    order = np.argsort(np.where(mask, -np.asarray(events["pt"]), np.inf), axis=1, kind="stable")[:, : analysis.objects]
    there = np.take_along_axis(mask, order, axis=1)
    of = {name: np.take_along_axis(np.asarray(events[name]), order, axis=1) for name in fields}
    if there.shape[1] < analysis.objects:
        msg = f"{sample.path}: no event has {analysis.objects} objects of {analysis.object}"
        raise ValueError(msg)
    kept = there.all(axis=1)
    for number, least in enumerate(analysis.pt):
        kept &= of["pt"][:, number] > least
    if analysis.eta is not None:
        kept &= (np.abs(of["eta"]) < analysis.eta).all(axis=1)
    value = of["pt"][:, 0]
    if massive:
        legs = [jnp.asarray(np.where(there, of[name], 1.0)) for name in fields]
        value = np.asarray(diphoton_mass(*(leg[:, 0] for leg in legs), *(leg[:, 1] for leg in legs)))
    place = np.floor((value - analysis.low) / (analysis.high - analysis.low) * analysis.bins)
    kept &= (place >= 0) & (place < analysis.bins)
    weight = np.asarray(sample.expected(analysis.luminosity).weight)
    return Selected(np.where(kept, place, 0).astype(int), np.where(kept, weight, 0.0))


def branches(settings: MenuSettings, kind: str, given: ObjectSettings) -> dict[str, str]:
    """Quantities that the seeds need of objects of one kind: name -> branch without the prefix."""
    wanted = {"pt": "pt"}
    for seed in settings.seeds.values():
        if kind not in kinds_of(seed):
            continue
        if seed.eta is not None or isinstance(seed, MassSeed):
            wanted["eta"] = "eta"
        if isinstance(seed, MassSeed):
            wanted["phi"] = "phi"
        if isinstance(seed, ObjectSeed) and seed.isolation is not None:
            wanted["isolation"] = given.isolation
        if isinstance(seed, ScoreSeed):
            wanted[seed.branch] = seed.branch
    return wanted


def measured(objects: Objects, *, stochastic: float, constant: float, seed: list[int]) -> Objects:
    """The objects with the trigger's resolution, in descending pt again; `offline` is the hardest pt before it.

    Args:
        objects: as they are.
        stochastic: of pt (1 + sqrt(stochastic^2/pt + constant^2) z), z normal [GeV^(1/2)].
        constant: likewise.
        seed: of z.
    """
    pt, mask = objects["pt"], objects["mask"]
    offline = np.max(np.where(mask, pt, 0.0), axis=1)
    spread = np.sqrt(stochastic**2 / np.maximum(pt, 1e-3) + constant**2)
    seen = np.where(mask, np.maximum(pt * (1 + spread * np.random.default_rng(seed).normal(size=pt.shape)), 0.0), 0.0)
    order = np.argsort(np.where(mask, -seen, np.inf), axis=1, kind="stable")
    sorted_ = {k: np.take_along_axis(v, order, axis=1) for k, v in {**objects, "pt": seen}.items()}
    return {**sorted_, "offline": offline}
