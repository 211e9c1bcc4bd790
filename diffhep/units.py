"""Units and constants: GeV, mm, ns, T and rad inside; everything else is converted at the border (`io`, `generate`).

A quantity in another unit is *multiplied* by its unit on the way in and *divided* by it on the way out:
`5.0 * MeV` is 0.005, and `luminosity / invfb` is a luminosity in inverse femtobarn. Values: PDG Review 2024.
"""

GeV = 1.0
MeV = 1e-3
keV = 1e-6
TeV = 1e3

mm = 1.0
um = 1e-3
cm = 10.0
m = 1000.0

ns = 1.0
ps = 1e-3
second = 1e9

tesla = 1.0
rad = 1.0
mrad = 1e-3

pb = 1.0  # cross-sections in picobarn, integrated luminosities in inverse picobarn
fb = 1e-3
mb = 1e9
invpb = 1.0
invfb = 1e3

SPEED_OF_LIGHT = 299.792458  # mm/ns
HIGHLAND_ENERGY = 13.6 * MeV  # of multiple scattering, in the form of Lynch and Dahl
HIGGS_MASS = 125.20  # GeV
PHOTON_PDG_ID = 22


def luminosity_rate(instantaneous: float) -> float:
    """Events per second and picobarn at an instantaneous luminosity in 1/(cm^2 s): 1 pb = 1e-36 cm^2.

    >>> luminosity_rate(2e34)
    0.02
    """
    return instantaneous * 1e-36
