r"""Impact parameters of charged particles: the perigee of the helix to the z axis, and what a tracker makes of it.

A particle of charge q and transverse momentum $p_T$ in a field B along z has the signed radius
$R = p_T/(0.299792458\cdot 10^{-3}\,qB)$ (GeV, T, mm). With the centre $(x + R\sin\phi, y - R\cos\phi)$ of its circle
at the distance $\rho$ from the axis, $d_0 = \mathrm{sign}(R)(|R| - \rho)$, and the perigee lies at
$(-d_0\sin\phi_p, d_0\cos\phi_p)$. Then $d_z = z - R\,\mathrm{wrap}(\phi_p - \phi)\,p_z/p_T$.
"""

import numpy as np

FIELD = 3.8  # T
# of the smearing: a constant [mm] and a part that grows as multiple scattering does [mm GeV]
D0_RESOLUTION = (0.010, 0.080)
DZ_RESOLUTION = (0.020, 0.120)
GEV_PER_T_MM = 0.299792458e-3


def perigee(
    momentum: np.ndarray, charge: np.ndarray, vertex: np.ndarray, *, field: float = FIELD
) -> tuple[np.ndarray, np.ndarray]:
    """True d0 and dz [mm], each (particle,); 0 for neutral particles.

    Args:
        momentum: px, py, pz and what follows [GeV], (particle, 3 or more).
        charge: [e], (particle,).
        vertex: x, y, z of where the particle was made [mm], (particle, 3).
        field: along z [T].

    >>> d0, dz = perigee(np.array([[10.0, 0.0, 10.0]]), np.ones(1), np.array([[5.0, 0.2, 7.0]]))
    >>> round(float(d0[0]), 2), round(float(dz[0]), 2)
    (0.2, 2.0)
    """
    px, py, pz = momentum[:, 0], momentum[:, 1], momentum[:, 2]
    charged = charge != 0
    pt, phi = np.hypot(px, py), np.arctan2(py, px)
    radius = pt / (GEV_PER_T_MM * np.where(charged, charge, 1.0) * field)
    x, y = vertex[:, 0] + radius * np.sin(phi), vertex[:, 1] - radius * np.cos(phi)
    sign = np.sign(radius)
    d0 = sign * (np.abs(radius) - np.hypot(x, y))
    turn = np.arctan2(sign * x, -sign * y) - phi
    dz = vertex[:, 2] - radius * (turn - 2 * np.pi * np.round(turn / (2 * np.pi))) * pz / pt
    return np.where(charged, d0, 0.0), np.where(charged, dz, 0.0)


def resolution(momentum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of d0 and dz [mm] of a silicon tracker, each (particle,).

    10 um and 80 um GeV/pT, 20 um and 120 um GeV cosh(eta)/pT, added in quadrature.
    """
    pt = np.hypot(momentum[:, 0], momentum[:, 1])
    cosh_eta = np.hypot(pt, momentum[:, 2]) / pt
    return np.hypot(D0_RESOLUTION[0], D0_RESOLUTION[1] / pt), np.hypot(
        DZ_RESOLUTION[0], DZ_RESOLUTION[1] * cosh_eta / pt
    )
