"""From particles to jets: matching to truth, the selection, and grooming against fastjet's own history."""

from typing import Any

import awkward as ak
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.generate.clustering import Jets, find_jets, groom
from diffhep.generate.jet_classes import RUNS
from diffhep.generate.pythia_session import captured

pytestmark = pytest.mark.needs("fastjet")


def event_of(particles):
    """One event in Pythia's layout: (pdg id, status, px, py, pz, e)."""
    columns = list(zip(*particles, strict=True))
    momentum = ak.zip(dict(zip(("px", "py", "pz", "e"), (np.array(c, float) for c in columns[2:]), strict=True)))
    record = ak.zip(
        {
            "id": np.array(columns[0]),
            "status": np.array(columns[1]),
            "p": momentum,
            "vProd": ak.mask(momentum, np.zeros(len(particles), bool)),
        },
        depth_limit=1,
    )
    return ak.zip({"prt": ak.unflatten(record, [len(particles)])}, depth_limit=1)


def along(pt, eta, phi):
    return pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)


TWO_PRONGS = [
    (211, 91, *along(400.0, 0.5, 1.0)),
    (-211, 91, *along(300.0, 0.7, 1.2)),
]


@pytest.mark.parametrize(
    ("others", "run", "label"),
    [
        ([(24, -22, *along(700.0, 0.6, 1.1))], RUNS[1], ["w"]),
        ([(-24, -22, *along(700.0, 0.6, 1.1 + 0.7))], RUNS[1], ["w"]),
        ([(24, -22, *along(700.0, 0.6, 1.1 + 0.9))], RUNS[1], []),
        ([(24, -44, *along(700.0, 0.6, 1.1))], RUNS[1], []),
        ([(23, -22, *along(700.0, 0.6, 1.1))], RUNS[1], []),
        ([(6, -22, *along(700.0, 0.6, 1.4)), (24, -22, *along(700.0, 0.6, 1.1))], RUNS[3], ["t"]),
        ([(21, -23, *along(700.0, 0.6, 1.4)), (1, -23, *along(700.0, 0.6, 1.2))], RUNS[0], ["q"]),
        ([(21, -23, *along(700.0, 0.6, 1.2)), (1, -23, *along(700.0, 0.6, 1.4))], RUNS[0], ["g"]),
        ([(22, -23, *along(700.0, 0.6, 1.2)), (1, -23, *along(700.0, 0.6, 1.4))], RUNS[0], []),
        ([], RUNS[0], []),
        # what is not seen makes no jet
        ([(24, -22, *along(700.0, 0.6, 1.1)), (12, 91, *along(600.0, 0.6, 1.1))], RUNS[1], ["w"]),
    ],
    ids=[
        "near",
        "within 0.8",
        "beyond",
        "a copy",
        "another",
        "top, not its W",
        "q",
        "g",
        "neither",
        "none",
        "neutrino",
    ],
)
def test_matching(others, run, label):
    with captured():
        found = find_jets(event_of([*others, *TWO_PRONGS]), run)
    assert found.label.tolist() == label
    if label:
        assert found.counts.tolist() == [2]
        assert_allclose(found.momentum[0], np.sum([p[2:] for p in TWO_PRONGS], axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    "particle",
    [along(450.0, 0.5, 1.0), along(1050.0, 0.5, 1.0), along(700.0, 2.1, 1.0)],
    ids=["too soft", "too hard", "too far forward"],
)
def test_jets_outside_the_selection_are_dropped(particle):
    with captured():
        found = find_jets(event_of([(24, -22, *particle), (211, 91, *particle), (22, 91, *along(5, 0.5, -2))]), RUNS[1])
    assert len(found.label) == 0
    assert found.constituents.shape == (0, 4)


def declustered(momentum, z_cut=0.1):
    """The modified mass drop by following fastjet's own history of one jet."""
    import fastjet

    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0)
    clusters: Any = fastjet.ClusterSequence([fastjet.PseudoJet(*p.tolist()) for p in momentum], definition)
    (jet,) = clusters.inclusive_jets()
    first, second = fastjet.PseudoJet(), fastjet.PseudoJet()
    while jet.has_parents(first, second):
        hard, soft = (first, second) if first.pt() >= second.pt() else (second, first)
        if soft.pt() > z_cut * (soft.pt() + hard.pt()):
            break
        jet, first, second = hard, fastjet.PseudoJet(), fastjet.PseudoJet()
    return jet.m(), len(jet.constituents())


def test_grooming_is_the_modified_mass_drop():
    rng = np.random.default_rng(1)
    counts = [1, 2, 5, 30, 60, 60, 60]
    pt, eta, phi = rng.pareto(1.5, sum(counts)) + 0.1, rng.normal(0, 0.3, sum(counts)), rng.normal(0, 0.3, sum(counts))
    momentum = np.stack(along(pt, eta, phi), axis=1)
    none = np.zeros(0)  # of what grooming does not look at
    whole = Jets(none, none, none, np.array(counts), momentum, none, none)
    with captured():
        left, numbers = groom(whole)
        wanted = [declustered(part) for part in np.split(momentum, np.cumsum(counts)[:-1])]
    assert numbers.tolist() == [number for _, number in wanted]
    assert numbers.sum() < len(pt)
    sums = np.add.reduceat(left, np.cumsum(numbers) - numbers)
    # masses from sums in another order: 1e-6 of GeV numbers of order 10
    assert_allclose(
        np.sqrt(np.maximum(sums[:, 3] ** 2 - (sums[:, :3] ** 2).sum(axis=1), 0)), [m for m, _ in wanted], atol=1e-5
    )
