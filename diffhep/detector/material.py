"""Materials: the constants of a stack of layers.

Values: Particle Data Group, Atomic and Nuclear Properties of Materials (2024). Lengths in mm, energies in GeV.
"""

import dataclasses

from diffhep.units import MeV


@dataclasses.dataclass(frozen=True)
class Material:
    """One material.

    Attributes:
        name: name in the PDG table.
        radiation_length: X0 [mm].
        interaction_length: nuclear interaction length [mm].
        critical_energy: of electrons [GeV].
        mip_loss: dE/dx of a minimum-ionising particle [GeV/mm].
        density: [g/cm^3].
    """

    name: str
    radiation_length: float
    interaction_length: float
    critical_energy: float
    mip_loss: float
    density: float


LEAD = Material("lead", 5.612, 175.9, 7.43 * MeV, 1.274 * MeV, 11.35)
POLYSTYRENE = Material("polystyrene", 413.1, 770.7, 93.11 * MeV, 0.2052 * MeV, 1.060)
