r"""Electromagnetic showers as GFLASH draws them: gamma profiles whose shape fluctuates from shower to shower.

Grindhammer and Peters, hep-ex/0001020 ("GP"), appendices A.1 (homogeneous) and A.2 (sampling). With t the depth in X0,
$dE/dt = E\,\beta(\beta t)^{\alpha-1}e^{-\beta t}/\Gamma(\alpha)$ and $T = (\alpha-1)/\beta$; $\ln T$ and
$\ln\alpha$ are correlated Gaussians whose means and widths depend on $\ln y$, $y = E/E_c$. The lateral profile is a
core and a tail, $f(r) = p\,2rR_C^2/(r^2+R_C^2)^2 + (1-p)\,2rR_T^2/(r^2+R_T^2)^2$, r in Moliere radii. Every draw is a
smooth function of random numbers that do not depend on the layout, so derivatives with respect to it are pathwise.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffhep.detector.material import Material
from diffhep.detector.shower import gamma_fractions
from diffhep.kinematics import safe_sqrt
from diffhep.units import MeV, cm

SCALE_ENERGY = 21.2 * MeV
LEAST = 2.2  # of ln y: below, the widths of the sampling constants have their pole


class EffectiveMedium(NamedTuple):
    r"""What a stack looks like from afar: the effective medium of GP, section 3.

    Attributes:
        atomic_number: mean Z, by mass.
        radiation_length: [mm].
        critical_energy: [GeV], $2.66\,(X_0 Z/A)^{1.1}$ MeV of each material, mean by path in radiation lengths.
        moliere_radius: [mm].
        sampling: $F_S$, periods of the stack a radiation length; 0 if it is homogeneous.
        electron_response: e/mip, $1/(1 + 0.007\,(Z_p - Z_a))$; 1 if it is homogeneous.
    """

    atomic_number: Float[Array, ""]
    radiation_length: Float[Array, ""]
    critical_energy: Float[Array, ""]
    moliere_radius: Float[Array, ""]
    sampling: Float[Array, ""]
    electron_response: Float[Array, ""]


class ShowerShape(NamedTuple):
    """Longitudinal shape of showers: maximum [X0] and alpha; beta follows."""

    maximum: Float[Array, "*shower"]
    alpha: Float[Array, "*shower"]

    @property
    def beta(self) -> Float[Array, "*shower"]:
        """Fall-off [1/X0]."""
        return (self.alpha - 1) / self.maximum


class Fluctuations(NamedTuple):
    """Means, widths and correlation of ln T and ln alpha."""

    log_maximum: Float[Array, "*shower"]
    log_alpha: Float[Array, "*shower"]
    width_maximum: Float[Array, "*shower"]
    width_alpha: Float[Array, "*shower"]
    correlation: Float[Array, "*shower"]


class LateralProfile(NamedTuple):
    """Lateral profile: radii of core and tail [Moliere radii], and the share of the core."""

    core: Float[Array, "*place"]
    tail: Float[Array, "*place"]
    share: Float[Array, "*place"]


def effective_medium(
    absorber: Material, active: Material, absorber_mm: Float[Array, ""], active_mm: Float[Array, ""]
) -> EffectiveMedium:
    """The effective medium of a sampling stack, differentiable in both thicknesses.

    Args:
        absorber: the passive material.
        active: the material that is read out.
        absorber_mm: thickness of absorber in one layer [mm].
        active_mm: thickness of active medium in one layer [mm].
    """
    thickness = jnp.stack([jnp.asarray(absorber_mm), jnp.asarray(active_mm)])
    mass = jnp.array([absorber.density, active.density]) * thickness / cm
    share = mass / jnp.sum(mass)
    z = jnp.array([absorber.atomic_number, active.atomic_number])
    # radiation lengths in g/cm^2
    length = jnp.array([m.radiation_length * m.density / cm for m in (absorber, active)])
    critical = jnp.array(
        [2.66 * MeV * (m.radiation_length * m.density / cm * m.charge_over_mass) ** 1.1 for m in (absorber, active)]
    )
    whole = 1 / jnp.sum(share / length)
    density = jnp.sum(mass) / jnp.sum(thickness / cm)
    energy_a_length = jnp.sum(share * critical / length)
    radiation_length = whole / density * cm
    return EffectiveMedium(
        jnp.sum(share * z),
        radiation_length,
        whole * energy_a_length,
        SCALE_ENERGY / energy_a_length / density * cm,
        radiation_length / jnp.sum(thickness),
        1 / (1 + 0.007 * (z[0] - z[1])),
    )


def homogeneous_medium(material: Material) -> EffectiveMedium:
    """One material throughout."""
    whole = effective_medium(material, material, jnp.ones(()), jnp.ones(()))
    return whole._replace(sampling=jnp.zeros(()))


def log_energy(medium: EffectiveMedium, energy: Float[Array, "*shower"]) -> Float[Array, "*shower"]:
    """ln(E/Ec) for energies in GeV; showers too small for the parametrisation count as the smallest it has."""
    return jnp.maximum(jnp.log(jnp.maximum(energy, 1e-6) / medium.critical_energy), LEAST)


def average_shape(medium: EffectiveMedium, energy: Float[Array, "*shower"]) -> ShowerShape:
    """Shape of the average profile of showers of some energy [GeV] (GP A.1.1, A.2.1)."""
    y, e, inverse = log_energy(medium, energy), medium.electron_response, inverse_sampling(medium)
    alpha = 0.21 + (0.492 + 2.38 / medium.atomic_number) * y - 0.444 * inverse
    return ShowerShape(y - 0.858 - 0.59 * inverse - 0.53 * (1 - e), alpha)


def fluctuations(medium: EffectiveMedium, energy: Float[Array, "*shower"]) -> Fluctuations:
    """How the shapes of single showers of some energy [GeV] are distributed (GP A.1.2, A.2.2)."""
    y, e, inverse = log_energy(medium, energy), medium.electron_response, inverse_sampling(medium)
    sampled = medium.sampling > 0
    maximum = y - 0.812 - 0.55 * inverse - 0.69 * (1 - e)
    alpha = 0.81 + (0.458 + 2.26 / medium.atomic_number) * y - 0.476 * inverse
    return Fluctuations(
        jnp.log(jnp.maximum(maximum, 0.1)),
        jnp.log(jnp.maximum(alpha, 1.1)),
        jnp.where(sampled, 1 / (-2.5 + 1.25 * y), 1 / (-1.4 + 1.26 * y)),
        jnp.where(sampled, 1 / (-0.82 + 0.79 * y), 1 / (-0.58 + 0.86 * y)),
        jnp.where(sampled, 0.784, 0.705) - 0.023 * y,
    )


def inverse_sampling(medium: EffectiveMedium) -> Float[Array, ""]:
    """1/F_S, and 0 for a homogeneous medium."""
    return jnp.where(medium.sampling > 0, 1 / jnp.where(medium.sampling > 0, medium.sampling, 1.0), 0.0)


def draw_shape(
    medium: EffectiveMedium, energy: Float[Array, "*shower"], noise: Float[Array, "*shower 2"]
) -> ShowerShape:
    """Shapes of single showers, for two unit normals each; zeros give the median shower.

    Args:
        medium: of the stack.
        energy: [GeV].
        noise: unit normals.
    """
    f = fluctuations(medium, energy)
    common, other = jnp.sqrt((1 + f.correlation) / 2) * noise[..., 0], jnp.sqrt((1 - f.correlation) / 2) * noise[..., 1]
    maximum = jnp.exp(f.log_maximum + f.width_maximum * (common + other))
    alpha = jnp.exp(f.log_alpha + f.width_alpha * (common - other))
    return ShowerShape(maximum, jnp.maximum(alpha, 1.05))


def energy_fractions(shape: ShowerShape, edges: Float[Array, "*shower edge"]) -> Float[Array, "*shower layer"]:
    """Fraction of a shower's energy between depths [X0] that are counted from where it starts; 0 before.

    By quadrature (`gamma_fractions`): layers of more than a few X0 want more edges.
    """
    depth = jnp.maximum(edges, 0.0) * shape.beta[..., None]
    return gamma_fractions(shape.alpha, depth)


def lateral_profile(
    medium: EffectiveMedium, energy: Float[Array, "*place"], tau: Float[Array, "*place"]
) -> LateralProfile:
    r"""Lateral profile at a depth (GP A.1.3, A.2.3).

    Args:
        medium: of the stack.
        energy: of the shower [GeV].
        tau: depth over that of the maximum; of a single shower $(t/\langle t\rangle)\,a/(a-1)$, a the median alpha.
    """
    z, e, inverse, log = medium.atomic_number, medium.electron_response, inverse_sampling(medium), jnp.log(energy)
    core = 0.0251 + 0.00319 * log + (0.1162 - 0.000381 * z) * tau
    rise = jnp.exp(-2.59 * (tau - 0.645)) + jnp.exp((0.3585 + 0.0421 * log) * (tau - 0.645))
    tail = (0.659 - 0.00309 * z) * rise
    x = (0.401 + 0.00187 * z - tau) / (1.313 - 0.0686 * log)
    share = (2.632 - 0.00094 * z) * jnp.exp(x - jnp.exp(x))
    near = jnp.exp(-tau) * inverse
    core = core - 0.0203 * (1 - e) + 0.0397 * near
    tail = tail - 0.14 * (1 - e) - 0.495 * near
    share = share + (1 - e) * (0.348 - 0.642 * jnp.exp(-((tau - 1) ** 2)) * inverse)
    return LateralProfile(jnp.maximum(core, 1e-3), jnp.maximum(tail, 1e-3), jnp.clip(share, 0.0, 1.0))


def contained(profile: LateralProfile, radius: Float[Array, "*place"]) -> Float[Array, "*place"]:
    """Fraction of the energy at a depth within a radius [Moliere radii]."""
    square = radius**2
    core, tail = square / (square + profile.core**2), square / (square + profile.tail**2)
    return profile.share * core + (1 - profile.share) * tail


def draw_radius(profile: LateralProfile, uniform: Float[Array, "*place"]) -> Float[Array, "*place"]:
    r"""Radii [Moliere radii] with that profile: the inverse of `contained`, a quadratic equation in $r^2$.

    So core and tail are not chosen by a coin, and the radius moves with the layout.

    Args:
        profile: at the depth of each spot.
        uniform: numbers in [0, 1).
    """
    core, tail, p = profile.core**2, profile.tail**2, profile.share
    linear = p * tail + (1 - p) * core - uniform * (core + tail)
    root = jnp.sqrt(linear**2 + 4 * (1 - uniform) * uniform * core * tail)
    # of the two forms of the root the one in which nothing cancels
    positive = 2 * uniform * core * tail / jnp.where(linear > 0, linear + root, 1.0)
    negative = (root - linear) / (2 * (1 - uniform))
    return safe_sqrt(jnp.where(linear > 0, positive, negative))
