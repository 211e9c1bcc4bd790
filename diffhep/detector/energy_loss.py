r"""Ionisation loss of heavy charged particles: the mean of Bethe and the most probable value of Landau.

$-\langle\frac{dE}{dx}\rangle = K z^2\frac{Z}{A}\frac{1}{\beta^2}[\frac12\ln\frac{2m_ec^2\beta^2\gamma^2W_{max}}{I^2}
- \beta^2 - \frac\delta2]$ (PDG Review, Passage of particles through matter, eq. 34.5), and for a layer the most
probable loss $\xi[\ln\frac{2m_ec^2\beta^2\gamma^2}{I} + \ln\frac\xi I + 0.200 - \beta^2 - \delta]$ with
$\xi = \frac K2\frac ZA\frac{z^2}{\beta^2}x$ (eq. 34.12). The density effect $\delta$ has Sternheimer's form with the
general parameters of R. M. Sternheimer and R. F. Peierls, Phys. Rev. B 3 (1971) 3681, which need nothing but density,
Z/A and I of the material. Shell corrections are left out: 1 % at $\beta\gamma$ = 0.3.
"""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffhep.detector.material import EV, Material
from diffhep.units import MeV, cm

ELECTRON_MASS = 0.51099895 * MeV
BETHE = 0.307075 * MeV  # K [GeV cm^2/mol]
LANDAU = 0.200  # j
# below this the atomic electrons are no longer slow, and the formula has no meaning
SLOWEST = 0.05
GAS = 0.01  # g/cm^3
# Sternheimer and Peierls: an upper limit of C, then x0 and x1
GASES = ((10.0, 1.6, 4.0), (10.5, 1.7, 4.0), (11.0, 1.8, 4.0), (11.5, 1.9, 4.0), (12.25, 2.0, 4.0), (13.804, 2.0, 5.0))


def density_effect(material: Material, beta_gamma: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Density correction $\delta$: 0 below $x_0$, $2\ln(10)\,x - C$ above $x_1$, with $x = \log_{10}\beta\gamma$.

    $C = 2\ln(I/\hbar\omega_p) + 1$ and $\hbar\omega_p = 28.816\,\mathrm{eV}\sqrt{\rho Z/A}$; a cubic joins both.
    """
    plasma = 28.816 * EV * np.sqrt(material.density * material.charge_over_mass)
    c = 2 * np.log(material.mean_excitation / plasma) + 1
    if material.density < GAS:
        start, end = next(((x0, x1) for limit, x0, x1 in GASES if c < limit), (0.326 * c - 2.5, 5.0))
    else:
        end, bend, offset = (2.0, 3.681, 1.0) if material.mean_excitation < 100 * EV else (3.0, 5.215, 1.5)
        start = 0.2 if c < bend else 0.326 * c - offset
    slope = 2 * np.log(10)
    cubic = (c - slope * start) / (end - start) ** 3
    x = jnp.log10(jnp.maximum(jnp.asarray(beta_gamma, float), SLOWEST))
    return jnp.where(x < start, 0.0, slope * x - c + cubic * jnp.maximum(end - x, 0.0) ** 3)


def velocity(momentum: ArrayLike, mass: ArrayLike) -> tuple[Array, Array]:
    """Squared beta, and beta gamma with its lower limit."""
    slow = jnp.maximum(jnp.asarray(momentum, float) / jnp.asarray(mass, float), SLOWEST)
    return slow**2 / (1 + slow**2), slow


def mean_energy_loss(
    material: Material,
    momentum: Float[ArrayLike, "*shape"],
    mass: Float[ArrayLike, "*shape"],
    *,
    charge: float = 1.0,
) -> Float[Array, "*shape"]:
    r"""Mean ionisation loss a length, -dE/dx [GeV/mm].

    Args:
        material: of the layer.
        momentum: [GeV]; $\beta\gamma$ below 0.05 counts as 0.05.
        mass: [GeV], much larger than that of the electron.
        charge: in units of e.

    Raises:
        ValueError: a mass that is not positive.

    >>> from diffhep.detector.material import SILICON
    >>> round(float(mean_energy_loss(SILICON, 0.5, 0.13957)) / MeV, 2)  # a pion at its minimum, MeV/mm
    0.39
    """
    check_mass(mass)
    square, slow = velocity(momentum, mass)
    gamma, ratio = jnp.sqrt(1 + slow**2), ELECTRON_MASS / jnp.asarray(mass, float)
    largest = 2 * ELECTRON_MASS * slow**2 / (1 + 2 * gamma * ratio + ratio**2)
    logarithm = 0.5 * jnp.log(2 * ELECTRON_MASS * slow**2 * largest / material.mean_excitation**2)
    stopping = BETHE * charge**2 * material.charge_over_mass / square
    return stopping * (logarithm - square - 0.5 * density_effect(material, slow)) * material.density / cm


def most_probable_loss(
    material: Material,
    momentum: Float[ArrayLike, "*shape"],
    mass: Float[ArrayLike, "*shape"],
    thickness: Float[ArrayLike, "*shape"],
    *,
    charge: float = 1.0,
) -> Float[Array, "*shape"]:
    """Most probable energy loss in a layer [GeV] (Landau and Vavilov); it grows faster than the thickness.

    Args:
        material: of the layer.
        momentum: [GeV].
        mass: [GeV].
        thickness: [mm], thin enough for the momentum to stay, thick enough for many ionisations; 0 loses nothing.
        charge: in units of e.

    Raises:
        ValueError: a mass that is not positive.
    """
    check_mass(mass)
    square, slow = velocity(momentum, mass)
    width = landau_width(material, momentum, mass, thickness, charge=charge)
    some = width > 0
    ratio = jnp.where(some, width, 1.0) / material.mean_excitation
    # a layer of less than a few ionisations has no most probable value: never below 0
    logarithm = jnp.log(2 * ELECTRON_MASS * slow**2 / material.mean_excitation) + jnp.log(ratio)
    loss = width * (logarithm + LANDAU - square - density_effect(material, slow))
    return jnp.where(some, jnp.maximum(loss, 0.0), 0.0)


def landau_width(
    material: Material,
    momentum: Float[ArrayLike, "*shape"],
    mass: Float[ArrayLike, "*shape"],
    thickness: Float[ArrayLike, "*shape"],
    *,
    charge: float = 1.0,
) -> Float[Array, "*shape"]:
    r"""$\xi$, the width of Landau's distribution [GeV]; its full width at half maximum is 4.02 $\xi$."""
    square, _ = velocity(momentum, mass)
    area = jnp.asarray(thickness, float) * material.density / cm
    return 0.5 * BETHE * charge**2 * material.charge_over_mass * area / square


def check_mass(mass: ArrayLike) -> None:
    """Refuse concrete masses that are not positive."""
    if not isinstance(mass, Tracer) and not np.all(np.asarray(mass) > 0):
        msg = f"mass must be above 0 GeV, got {mass}"
        raise ValueError(msg)
