r"""Kinematics of massless and massive particles, and the safe elementary functions everything else is written with.

Axes: `phi` in (-pi, pi], pseudorapidity `eta`. All functions broadcast. The `safe_*` functions apply the double-where
idiom: the branch that is not taken is given a harmless argument first, so that its derivative cannot be NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def safe_sqrt(x: Float[Array, "*shape"], *, floor: float = 0.0) -> Float[Array, "*shape"]:
    r"""Square root with value and gradient 0 where $x \le$ `floor`.

    >>> float(safe_sqrt(jnp.array(-1.0))), float(safe_sqrt(jnp.array(4.0)))
    (0.0, 2.0)
    """
    positive = x > floor
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_div(
    numerator: Float[Array, "*shape"], denominator: Float[Array, "*shape"], *, otherwise: float = 0.0
) -> Float[Array, "*shape"]:
    """Quotient, and `otherwise` (with gradient 0) where the denominator is 0.

    >>> float(safe_div(jnp.array(1.0), jnp.array(0.0)))
    0.0
    """
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1.0), otherwise)


def safe_norm(x: Float[Array, "*shape n"], *, axis: int = -1) -> Float[Array, "*shape"]:
    """Euclidean norm along an axis, with gradient 0 at the null vector.

    >>> float(safe_norm(jnp.array([3.0, 4.0])))
    5.0
    """
    return safe_sqrt(jnp.sum(x**2, axis=axis))


def safe_log(x: Float[Array, "*shape"], *, floor: float = 1e-300) -> Float[Array, "*shape"]:
    """Natural logarithm of `max(x, floor)`, with gradient 0 below the floor."""
    above = x > floor
    return jnp.where(above, jnp.log(jnp.where(above, x, 1.0)), jnp.log(floor))


def wrap_phi(phi: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Azimuth brought into (-pi, pi], in rad; derivative 1 everywhere.

    >>> round(float(wrap_phi(jnp.array(4.0))), 6)
    -2.283185
    """
    wrapped = phi - 2 * jnp.pi * jnp.ceil((phi - jnp.pi) / (2 * jnp.pi))
    # the quotient is rounded, so that an angle within a few roundings of an odd multiple of pi may come out just beyond
    wrapped = jnp.where(wrapped > jnp.pi, wrapped - 2 * jnp.pi, wrapped)
    return jnp.where(wrapped <= -jnp.pi, wrapped + 2 * jnp.pi, wrapped)


def delta_r(
    eta1: Float[Array, "*shape"],
    phi1: Float[Array, "*shape"],
    eta2: Float[Array, "*shape"],
    phi2: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    r"""Distance $\Delta R = \sqrt{\Delta\eta^2 + \Delta\phi^2}$ (dimensionless)."""
    return safe_sqrt((eta1 - eta2) ** 2 + wrap_phi(phi1 - phi2) ** 2)


def energy_of(
    pt: Float[Array, "*shape"], eta: Float[Array, "*shape"], mass: Float[Array, "*shape"] | float = 0.0
) -> Float[Array, "*shape"]:
    r"""Energy $\sqrt{p_T^2\cosh^2\eta + m^2}$ in GeV."""
    return safe_sqrt((pt * jnp.cosh(eta)) ** 2 + jnp.asarray(mass) ** 2)


def diphoton_mass(
    pt1: Float[Array, "*shape"],  # GeV
    eta1: Float[Array, "*shape"],
    phi1: Float[Array, "*shape"],  # rad
    pt2: Float[Array, "*shape"],
    eta2: Float[Array, "*shape"],
    phi2: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    r"""Invariant mass of two massless particles in GeV.

    $m^2 = 2\,p_{T1}\,p_{T2}\,(\cosh\Delta\eta - \cos\Delta\phi)$ (PDG Review, Kinematics), written as
    $4\,p_{T1}\,p_{T2}\,(\sinh^2\frac{\Delta\eta}{2} + \sin^2\frac{\Delta\phi}{2})$, which does not cancel for collinear
    particles. Value and gradient are 0 where both directions coincide.

    >>> float(diphoton_mass(*map(jnp.array, (50.0, 0.0, 0.0)), *map(jnp.array, (50.0, 0.0, jnp.pi))))
    100.0
    """
    return 2 * safe_sqrt(pt1 * pt2 * (jnp.sinh((eta1 - eta2) / 2) ** 2 + jnp.sin((phi1 - phi2) / 2) ** 2))
