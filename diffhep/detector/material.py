"""Materials: the constants of a stack of layers.

Values: Particle Data Group, Atomic and Nuclear Properties of Materials (2024). Lengths in mm, energies in GeV.
"""

import dataclasses

from diffhep.units import MeV

EV = 1e-9


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
        charge_over_mass: mean Z/A [mol/g].
        mean_excitation: I of the Bethe formula [GeV].
        atomic_number: Z, of a compound the mean by mass.
    """

    name: str
    radiation_length: float
    interaction_length: float
    critical_energy: float
    mip_loss: float
    density: float
    charge_over_mass: float
    mean_excitation: float
    atomic_number: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "name" and not value > 0:
                msg = f"material {self.name}: {field.name} must be positive, got {value}"
                raise ValueError(msg)


#                         X0 [mm]  lambda [mm]     Ec [MeV]     mip [MeV/mm]   rho      Z/A      I [eV]   Z
BERYLLIUM = Material("beryllium", 352.8, 421.0, 113.70 * MeV, 0.2947 * MeV, 1.848, 0.44384, 63.7 * EV, 4)
CARBON = Material("graphite", 193.2, 388.3, 81.74 * MeV, 0.3849 * MeV, 2.210, 0.49955, 78.0 * EV, 6)
ALUMINIUM = Material("aluminium", 88.97, 397.0, 42.70 * MeV, 0.4358 * MeV, 2.699, 0.48181, 166.0 * EV, 13)
SILICON = Material("silicon", 93.70, 465.2, 40.19 * MeV, 0.3876 * MeV, 2.329, 0.49848, 173.0 * EV, 14)
IRON = Material("iron", 17.57, 167.7, 21.68 * MeV, 1.143 * MeV, 7.874, 0.46557, 286.0 * EV, 26)
COPPER = Material("copper", 14.36, 153.2, 19.42 * MeV, 1.257 * MeV, 8.960, 0.45636, 322.0 * EV, 29)
TUNGSTEN = Material("tungsten", 3.504, 99.46, 7.97 * MeV, 2.210 * MeV, 19.30, 0.40252, 727.0 * EV, 74)
LEAD = Material("lead", 5.612, 175.9, 7.43 * MeV, 1.274 * MeV, 11.35, 0.39575, 823.0 * EV, 82)
URANIUM = Material("uranium", 3.166, 110.3, 6.65 * MeV, 2.048 * MeV, 18.95, 0.38651, 890.0 * EV, 92)
LIQUID_ARGON = Material("liquid argon", 140.0, 857.7, 32.84 * MeV, 0.2105 * MeV, 1.396, 0.45059, 188.0 * EV, 18)
POLYSTYRENE = Material("polystyrene", 413.1, 770.7, 93.11 * MeV, 0.2052 * MeV, 1.060, 0.53768, 68.7 * EV, 5.613)
WATER = Material("water", 360.8, 833.2, 78.33 * MeV, 0.1992 * MeV, 1.000, 0.55509, 79.7 * EV, 7.217)
AIR = Material("air", 303900.0, 747700.0, 87.92 * MeV, 2.187e-4 * MeV, 1.205e-3, 0.49919, 85.7 * EV, 7.371)
LEAD_TUNGSTATE = Material("lead tungstate", 8.904, 202.7, 9.64 * MeV, 1.020 * MeV, 8.300, 0.41315, 600.7 * EV, 68.36)

MATERIALS = {
    material.name: material
    for material in (
        BERYLLIUM,
        CARBON,
        ALUMINIUM,
        SILICON,
        IRON,
        COPPER,
        TUNGSTEN,
        LEAD,
        URANIUM,
        LIQUID_ARGON,
        POLYSTYRENE,
        WATER,
        AIR,
        LEAD_TUNGSTATE,
    )
}
