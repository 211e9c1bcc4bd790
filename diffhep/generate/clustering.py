"""From events of Pythia to labelled jets, with fastjet (extra `diffhep[jets]`; arXiv:1111.6097).

Jets are anti-kT with R = 0.8 (arXiv:0802.1189), of the final particles that a detector sees. A jet takes the label of
the nearest particle that can label one. Groomed with the modified mass drop (arXiv:1307.0007): declustered with
Cambridge/Aachen along the harder branch until the softer one carries z > 0.1 of the transverse momentum, which is soft
drop with beta = 0 (arXiv:1402.2657). A jet in which that never happens is groomed down to one particle.
"""

import dataclasses
from typing import Any

import awkward as ak
import numpy as np

from diffhep.generate.jet_classes import RESONANCE, JetRun

RADIUS = 0.8
PT_RANGE = (500.0, 1000.0)  # GeV
ETA_MAX = 2.0
PARTICLE_PT_MIN = 0.1  # GeV
PARTICLE_ETA_MAX = 3.0
Z_CUT = 0.1
MATCHING = 0.8  # a jet further away from every label particle is dropped
INVISIBLE = (12, 14, 16)
SELECTION = {
    "algorithm": "anti-kT",
    "radius": RADIUS,
    "pt_range_GeV": list(PT_RANGE),
    "eta_max": ETA_MAX,
    "particle_pt_min_GeV": PARTICLE_PT_MIN,
    "particle_eta_max": PARTICLE_ETA_MAX,
    "invisible": list(INVISIBLE),
    "matching_delta_r": MATCHING,
    "grooming": f"modified mass drop, z > {Z_CUT}, Cambridge/Aachen",
}


@dataclasses.dataclass(frozen=True)
class Jets:
    """Labelled jets, and their constituents one jet after the other, in descending pt.

    Attributes:
        label: letter of the class, (jet,).
        event: number of the event among those they come from, (jet,).
        momentum: px, py, pz, E [GeV], (jet, 4).
        counts: number of constituents, (jet,).
        constituents: px, py, pz, E [GeV], (particle, 4).
        pdg_id: of the constituents, (particle,).
        vertex: x, y, z where they were made [mm], (particle, 3).
    """

    label: np.ndarray
    event: np.ndarray
    momentum: np.ndarray
    counts: np.ndarray
    constituents: np.ndarray
    pdg_id: np.ndarray
    vertex: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> "Jets":
        """Those jets where a mask is true."""
        particles = np.repeat(keep, self.counts)
        return Jets(
            *(getattr(self, name)[keep] for name in ("label", "event", "momentum", "counts")),
            *(getattr(self, name)[particles] for name in ("constituents", "pdg_id", "vertex")),
        )


def load_fastjet() -> Any:
    """The module; a ValueError that says what to install where there is none."""
    try:
        import fastjet
    except ImportError as error:
        msg = "fastjet is not installed; pip install 'diffhep[jets]'"
        raise ValueError(msg) from error
    return fastjet


def find_jets(batch: ak.Array, run: JetRun) -> Jets:
    """The labelled jets of some events.

    Args:
        batch: events as `Pythia.nextBatch` returns them.
        run: that they come from: which particle stands for which class.
    """
    fastjet = load_fastjet()
    particles: Any = batch.prt
    flat = ak.flatten(particles)
    event, pdg_id, status, momentum = flattened(particles)
    vertex = np.stack([ak.to_numpy(ak.fill_none(flat.vProd[name], 0.0)) for name in ("px", "py", "pz")], axis=1)

    pt, eta, _ = directions(momentum)
    seen = (status > 0) & ~np.isin(np.abs(pdg_id), INVISIBLE)
    seen &= (pt > PARTICLE_PT_MIN) & (np.abs(eta) < PARTICLE_ETA_MAX)
    # in descending pt, event by event
    rows = np.flatnonzero(seen)
    rows = rows[np.lexsort((-pt[rows], event[rows]))]
    per_event = np.bincount(event[rows], minlength=len(particles))
    inputs = ak.unflatten(records(momentum[rows]), per_event)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    index = fastjet.ClusterSequence(inputs, definition).constituent_index(min_pt=PT_RANGE[0])
    index = ak.sort(index, axis=-1) + (np.cumsum(per_event) - per_event)
    jet_event = np.repeat(np.arange(len(particles)), ak.num(index))
    members = ak.flatten(index)
    counts = ak.to_numpy(ak.num(members))
    rows = rows[ak.to_numpy(ak.flatten(members))]
    jets = Jets(
        label=np.full(len(counts), ""),
        event=jet_event,
        momentum=np.add.reduceat(momentum[rows], np.cumsum(counts) - counts) if len(counts) else np.zeros((0, 4)),
        counts=counts,
        constituents=momentum[rows],
        pdg_id=pdg_id[rows],
        vertex=vertex[rows],
    )
    stands = np.abs(status) == run.status
    if run.status == RESONANCE:
        # the W of a top decay is one as well
        stands &= np.isin(np.abs(pdg_id), [number for numbers in run.labels.values() for number in numbers])
    labels = np.flatnonzero(stands)
    label = nearest_labels(jets, momentum[labels], event[labels], np.abs(pdg_id[labels]), run)
    jets = dataclasses.replace(jets, label=label)
    jet_pt, jet_eta, _ = directions(jets.momentum)
    inside = (jet_pt > PT_RANGE[0]) & (jet_pt < PT_RANGE[1]) & (np.abs(jet_eta) < ETA_MAX)
    return jets[inside & (label != "")]


def flattened(particles: ak.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The particles of all events one after the other: event, PDG number, status and px, py, pz, E [GeV]."""
    event = np.repeat(np.arange(len(particles)), ak.num(particles))
    flat: Any = ak.flatten(particles)
    momentum = np.stack([ak.to_numpy(flat.p[name]) for name in ("px", "py", "pz", "e")], axis=1)
    return event, ak.to_numpy(flat.id), ak.to_numpy(flat.status), momentum


def nearest_labels(jets: Jets, momentum: np.ndarray, event: np.ndarray, kind: np.ndarray, run: JetRun) -> np.ndarray:
    """The class of the nearest particle that can label a jet, or an empty string if it is too far away, (jet,).

    Args:
        jets: the jets.
        momentum: px, py, pz, E of the particles [GeV], (particle, 4).
        event: that they belong to, (particle,).
        kind: PDG numbers without sign, (particle,).
        run: which of them stands for which class.
    """
    if not len(event) or not len(jets.event):
        return np.full(len(jets.event), "")
    _, eta, phi = directions(momentum)
    _, jet_eta, jet_phi = directions(jets.momentum)
    dphi = np.abs(jet_phi[:, None] - phi)
    distance = np.hypot(jet_eta[:, None] - eta, np.minimum(dphi, 2 * np.pi - dphi))
    distance[jets.event[:, None] != event] = np.inf
    letters = {number: letter for letter, numbers in run.labels.items() for number in numbers}
    nearest = distance.argmin(axis=1)
    close = distance[np.arange(len(nearest)), nearest] < MATCHING
    return np.where(close, np.array([letters.get(number, "") for number in kind[nearest].tolist()]), "")


def groom(jets: Jets) -> tuple[np.ndarray, np.ndarray]:
    """What the modified mass drop leaves of jets: px, py, pz, E [GeV], (particle, 4), and their numbers, (jet,)."""
    fastjet = load_fastjet()
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, fastjet.JetDefinition.max_allowable_R)
    clusters = fastjet.ClusterSequence(ak.unflatten(records(jets.constituents), jets.counts), definition)
    left = clusters.exclusive_jets_softdrop_grooming(1, beta=0.0, symmetry_cut=Z_CUT, R0=RADIUS).constituents
    flat = ak.flatten(left)
    return np.stack([ak.to_numpy(flat[name]) for name in ("px", "py", "pz", "E")], axis=1), ak.to_numpy(ak.num(left))


def records(momentum: np.ndarray) -> ak.Array:
    """Momenta as fastjet reads them."""
    return ak.zip({name: momentum[:, k] for k, name in enumerate(("px", "py", "pz", "E"))})


def directions(momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transverse momentum [GeV], pseudorapidity and azimuth [rad], each (particle,)."""
    px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
    pt = np.hypot(px, py)
    # the beams have none
    return pt, np.arcsinh(pz / np.maximum(pt, 1e-12)), np.arctan2(py, px)
