r"""Photon candidates from stable particles: what an electromagnetic calorimeter offers to a trigger.

The electromagnetic particles are photons and electrons. A candidate is built around the hardest one that is left, from
all that are left within $\Delta R < 0.1$ of it; a $\pi^0 \to \gamma\gamma$ at trigger momenta is always one candidate.
How many particles share its energy, and how far apart they are, is what tells a jet from a prompt photon.
"""

import dataclasses

import numpy as np

CONE = 0.1  # of a candidate and of the hadronic energy behind it
ISOLATION_CONE = 0.3
ETA_MAX = 2.5
HOE_MAX = 0.3
SEED_PT_MIN = 1.0  # GeV: no candidate of 10 GeV is made of softer particles only

_ELECTROMAGNETIC = (11, 22)
_NOT_HADRONIC = (11, 12, 13, 14, 15, 16, 22)
_INVISIBLE = (12, 14, 16, 1000022)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One photon candidate; momenta in GeV, angles in rad.

    Attributes:
        pt, eta, phi, mass: of the summed momentum of its electromagnetic particles.
        hoe: energy of the hadrons within 0.1 over the electromagnetic energy.
        isolation: scalar sum of pt of all other visible particles within 0.3, over pt.
        fractions: of its energy carried by the most energetic particle, the next and all others.
        rms: energy-weighted root mean square distance of its particles from its direction.
        leader: row of its hardest particle.
    """

    pt: float
    eta: float
    phi: float
    mass: float
    hoe: float
    isolation: float
    fractions: tuple[float, float, float]
    rms: float
    leader: int


def photon_candidates(pdg_id: np.ndarray, momentum: np.ndarray) -> list[Candidate]:
    """Candidates with hoe below 0.3 and pseudorapidity within 2.5, in descending pt.

    Args:
        pdg_id: (particle,) of the stable particles of one event.
        momentum: (particle, 4) px, py, pz, E in GeV.

    >>> len(photon_candidates(np.array([22, 211]), np.array([[30.0, 0, 0, 30], [-30.0, 0, 0, 30]])))
    1
    """
    kind = np.abs(pdg_id)
    px, py, pz, energy = momentum.T
    pt = np.hypot(px, py)
    eta = np.arcsinh(pz / np.maximum(pt, 1e-12))
    phi = np.arctan2(py, px)
    free = np.isin(kind, _ELECTROMAGNETIC)
    hadron = ~np.isin(kind, _NOT_HADRONIC)
    visible = ~np.isin(kind, _INVISIBLE)

    def distance(eta0: float, phi0: float) -> np.ndarray:
        dphi = np.abs(phi - phi0)
        return np.hypot(eta - eta0, np.minimum(dphi, 2 * np.pi - dphi))

    found = []
    for seed in np.argsort(-pt, kind="stable"):
        if pt[seed] < SEED_PT_MIN:
            break
        if not free[seed] or abs(eta[seed]) > ETA_MAX:
            continue
        inside = free & (distance(eta[seed], phi[seed]) < CONE)
        free &= ~inside
        total = momentum[inside].sum(axis=0)
        total_pt = float(np.hypot(total[0], total[1]))
        axis_eta, axis_phi = float(np.arcsinh(total[2] / total_pt)), float(np.arctan2(total[1], total[0]))
        away = distance(axis_eta, axis_phi)
        hoe = float(energy[hadron & (away < CONE)].sum() / total[3])
        if hoe > HOE_MAX or abs(axis_eta) > ETA_MAX:
            continue
        shares = np.sort(energy[inside])[::-1] / total[3]
        found.append(
            Candidate(
                pt=total_pt,
                eta=axis_eta,
                phi=axis_phi,
                mass=float(np.sqrt(max(total[3] ** 2 - total[:3] @ total[:3], 0.0))),
                hoe=hoe,
                isolation=float(pt[visible & ~inside & (away < ISOLATION_CONE)].sum() / total_pt),
                fractions=(float(shares[0]), float(shares[1:2].sum()), float(shares[2:].sum())),
                rms=float(np.sqrt((energy[inside] * away[inside] ** 2).sum() / total[3])),
                leader=int(seed),
            )
        )
    return sorted(found, key=lambda c: -c.pt)
