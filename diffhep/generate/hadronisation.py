r"""The candidates of one event of partons, in one or several hadronisations.

A jet fakes a photon about once in a hundred times, a pair of jets once in ten thousand: one by one, each such pair
takes seconds. So the same partons are hadronised $K$ times, and a pair may take its candidates from different
hadronisations where they lie further apart than `MIXING_DISTANCE`: once the partons are given, two distant jets
fragment independently. There are $K^2$ such combinations, so each pair has the chance $1/K^2$; pairs closer together
come from one hadronisation, with the chance $1/K$. The expected number of pairs is the sum of the chances. An event
with three candidates counts as all its pairs here, a correction of the order of the fake rate.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffhep.generate.candidates import CONE, HOE_MAX, Candidate, photon_candidates

PREFILTER = 0.7  # of the threshold
MIXING_DISTANCE = 1.0

Found = tuple[Candidate, bool]  # and whether it is a prompt photon


class Histories:
    """The candidates of one event in each of its hadronisations, each with whether it is a prompt photon."""

    def __init__(self, module: Any, pythia: Any, count: int, pt_min: tuple[float, float]):
        self.module, self.pythia, self.count, self.pt_min = module, pythia, count, pt_min
        threshold = PREFILTER * pt_min[1]
        # anti-kt jets (power -1) of the particles that are visible, or of all, with Pythia's own clustering
        self.clusters = module.SlowJet(-1, 0.1, threshold, 2.7, 2)
        self.jets = module.SlowJet(-1, 0.2, threshold, 2.9, 1)
        self.partons = module.SlowJet(-1, 0.5, pt_min[1], 2.8, 1)

    def candidates(self) -> list[list[Found]]:
        """Candidates above the lower threshold, in descending pt, for each hadronisation."""
        event = self.pythia.event
        if self.count == 1:
            return [self._found()] if self._may_have(2) else []
        # two candidates come from two jets of partons
        self.partons.analyze(event)
        if self.partons.sizeJet() < 2 or self.partons.pT(0) < self.pt_min[0]:
            return []
        partons = self.module.Event(event)
        histories = []
        for _ in range(self.count):
            self.pythia.event = partons
            if self.pythia.forceHadronLevel() and self._may_have(1):
                histories.append(self._found())
        return histories

    def _may_have(self, count: int) -> bool:
        """A quick no where there cannot be so many candidates.

        Copying an event particle by particle takes longer than generating it. The clusters contain all photons and
        electrons, so at PREFILTER of the threshold no candidate is lost. The hadrons counted here are some of those
        within 0.1, so a cluster with too many of them fails the cut on hoe; 20 % allow for a cone that holds more than
        the cluster.
        """
        event = self.pythia.event
        self.clusters.analyze(event)
        left = self.clusters.sizeJet()
        if left < count:
            return False
        self.jets.analyze(event)
        for i in range(self.clusters.sizeJet()):
            axis = self.clusters.p(i)
            hadrons = 0.0
            for j in range(self.jets.sizeJet()):
                if distance(axis, self.jets.p(j)) < 0.3:
                    near = (event[row] for row in self.jets.constituents(j))
                    hadrons += sum(q.e() for q in near if q.isHadron() and distance(axis, q) < 0.8 * CONE)
            left -= hadrons > 1.2 * HOE_MAX * axis.e()
        return left >= count

    def _found(self) -> list[Found]:
        event = self.pythia.event
        rows, pdg_id, momentum = stable_particles(event)
        candidates = [c for c in photon_candidates(pdg_id, momentum) if c.pt > self.pt_min[1]]
        return [(c, is_prompt_photon(event[rows[c.leader]], event)) for c in candidates]


def pairs_of(
    histories: list[list[Found]], count: int, pt_min: tuple[float, float]
) -> tuple[list[tuple[Found, Found]], np.ndarray]:
    """The pairs of candidates above pt_min that an event may have, and the chance of each.

    Args:
        histories: candidates in descending pt, for every hadronisation that has some.
        count: number of hadronisations.
        pt_min: of the leading and of the subleading candidate in GeV.
    """

    def apart(a: Candidate, b: Candidate) -> bool:
        return math.hypot(a.eta - b.eta, math.remainder(a.phi - b.phi, 2 * math.pi)) > MIXING_DISTANCE

    pairs, chances = [], []
    for found in histories:
        if len(found) > 1 and found[0][0].pt > pt_min[0] and (count == 1 or not apart(found[0][0], found[1][0])):
            pairs.append((found[0], found[1]))
            chances.append(1 / count)
    if count > 1:
        everything = sorted((item for found in histories for item in found), key=lambda item: -item[0].pt)
        for k, first in enumerate(everything):
            if first[0].pt < pt_min[0]:
                break
            far = [(first, second) for second in everything[k + 1 :] if apart(first[0], second[0])]
            pairs += far
            chances += [1 / count**2] * len(far)
    return pairs, np.array(chances)


def distance(a: Any, b: Any) -> float:
    """Distance in pseudorapidity and azimuth of two of Pythia's momenta."""
    return math.hypot(a.eta() - b.eta(), math.remainder(a.phi() - b.phi(), 2 * math.pi))


def stable_particles(event: Any) -> tuple[Sequence[int], np.ndarray, np.ndarray]:
    """Rows, pdg ids and momenta (GeV) of the final particles."""
    final = [(row, particle) for row, particle in enumerate(event) if particle.isFinal()]
    rows, particles = zip(*final, strict=True)
    pdg_id = np.array([p.id() for p in particles])
    momentum = np.array(
        [
            [p.px() for p in particles],
            [p.py() for p in particles],
            [p.pz() for p in particles],
            [p.e() for p in particles],
        ]
    )
    return rows, pdg_id, momentum.T


def is_prompt_photon(particle: Any, event: Any) -> bool:
    """Whether a particle is a photon of the hard process or of a Higgs boson: its first copy has status 23.

    A photon that became an electron pair in the shower, one in fifty, does not count: its leader is an electron.
    """
    return particle.id() == 22 and event[particle.iTopCopyId()].statusAbs() == 23
