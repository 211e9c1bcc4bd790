r"""Multiple Coulomb scattering that does not depend on the steps a path is divided into.

Highland's formula in the form of Lynch and Dahl (PDG Review, Passage of particles, eq. 34.16):
$\theta_0 = \frac{13.6\,\mathrm{MeV}}{\beta p}\sqrt{l}\,g(l)$ with $g = 1 + 0.038\ln l$, the width of the projected
angle behind a thickness l, in radiation lengths. It is not additive: cut into steps, the logarithm would be taken of
each step. So a step from $l_1$ to $l_2$, both counted from the entry, is given the difference
$(13.6\,\mathrm{MeV}/\beta p)^2\,[l_2 g(l_2)^2 - l_1 g(l_1)^2]$, which telescopes.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffhep.kinematics import safe_sqrt
from diffhep.units import HIGHLAND_ENERGY

LOGARITHM = 0.038
# below this the logarithm takes over and Highland's width would rise again: l g(l)^2 has its minimum, 0, near 4e-12
THINNEST = 1e-8


def scattering_variance(
    thickness: Float[Array, "*shape"], momentum: Float[Array, "*shape"], *, beta: Float[Array, "*shape"] | float = 1.0
) -> Float[Array, "*shape"]:
    r"""Variance of the projected scattering angle, $\theta_0^2$, behind a homogeneous thickness.

    Args:
        thickness: path in radiation lengths; 0 scatters nothing.
        momentum: [GeV].
        beta: velocity over that of light; the charge is 1.

    Returns:
        [rad^2]; the projections on two planes are independent.

    >>> import jax.numpy as jnp
    >>> float(jnp.sqrt(scattering_variance(jnp.array(1.0), jnp.array(1.0))).round(6))
    0.0136
    """
    seen = jnp.maximum(thickness, THINNEST)
    logarithmic = (1 + LOGARITHM * jnp.log(seen)) ** 2
    # proportional to the thickness below the thinnest, so that the derivative at 0 is finite
    return (HIGHLAND_ENERGY / (beta * momentum)) ** 2 * thickness * logarithmic


def scattering_angle(
    thickness: Float[Array, "*shape"], momentum: Float[Array, "*shape"], *, beta: Float[Array, "*shape"] | float = 1.0
) -> Float[Array, "*shape"]:
    """Width of the projected scattering angle [rad], the root of `scattering_variance`; gradient 0 at thickness 0."""
    return safe_sqrt(scattering_variance(thickness, momentum, beta=beta))


def step_variance(
    before: Float[Array, "*shape"],
    after: Float[Array, "*shape"],
    momentum: Float[Array, "*shape"],
    *,
    beta: Float[Array, "*shape"] | float = 1.0,
) -> Float[Array, "*shape"]:
    """Variance of the projected angle gained in a step; the sum over the steps of a path is that of the whole path.

    Args:
        before: radiation lengths from the entry to the begin of the step.
        after: the same to its end.
        momentum: [GeV]; it may change from step to step.
        beta: velocity over that of light.
    """
    whole = scattering_variance(after, momentum, beta=beta) - scattering_variance(before, momentum, beta=beta)
    return jnp.maximum(whole, 0.0)
