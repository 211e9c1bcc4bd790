r"""Lifetime tags: efficiencies of a cut on the impact parameter, and of a decay volume.

A track from a long-lived hadron has the impact parameter $d_0 \sim \mathrm{Exp}(\lambda) + N(0, s)$, one from the
collision $N(0, s)$. A cut at k resolutions, $d_0 > k s$, keeps

$\varepsilon_l = \frac12\mathrm{erfc}\frac{k}{\sqrt2}$ and $\varepsilon_b = \varepsilon_l +
\frac12 e^{s^2/2\lambda^2 - ks/\lambda}\,\mathrm{erfc}\frac{s/\lambda - k}{\sqrt2}$.

Above $s/\lambda \approx 37$ the exponential overflows while erfc underflows. With $z = (s/\lambda - k)/\sqrt2$ their
product is $e^{-k^2/2}\,\mathrm{erfcx}(z)$, which is used for positive z; for negative z the exponent is negative.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import erfc
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffhep.kinematics import safe_sqrt

# from here on the continued fraction; below, exp(z^2) loses at most 25 roundings
FAR = 5.0
FRACTIONS = 24
# exp(-700) is the smallest exponential that is no subnormal number
DEEPEST = 700.0


def erfcx(z: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Scaled complementary error function $e^{z^2}\mathrm{erfc}(z)$, to 1e-14, with its derivative.

    From z = 5 on by 24 terms of Laplace's continued fraction $\frac{1}{\sqrt\pi}\,\frac{1}{z+}\,\frac{1/2}{z+}\,
    \frac{1}{z+}\,\frac{3/2}{z+}\cdots$ (Abramowitz and Stegun, 7.1.14). Overflows below z = -26.6, as it must.

    >>> round(float(erfcx(1e10)) * 1e10, 9)
    0.564189584
    """
    z = jnp.asarray(z, float)
    far = z > FAR
    near, large = jnp.where(far, 0.0, z), jnp.where(far, z, FAR)
    tail = large
    for n in range(FRACTIONS, 0, -1):
        tail = large + 0.5 * n / tail
    return jnp.where(far, 1 / (np.sqrt(np.pi) * tail), jnp.exp(near**2) * erfc(near))


def prompt_efficiency(cut: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Share of tracks from the collision that pass a one-sided cut, in units of the resolution.

    >>> float(prompt_efficiency(0.0))
    0.5
    """
    return 0.5 * erfc(jnp.asarray(cut, float) / np.sqrt(2.0))


def displaced_efficiency(
    cut: Float[ArrayLike, "*shape"], resolution: Float[ArrayLike, "*shape"], displacement: Float[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    """Share of tracks from long-lived hadrons that pass a one-sided cut; see the module's text.

    Args:
        cut: k, in units of the resolution.
        resolution: s, of the impact parameter; 0 or more.
        displacement: lambda, mean impact parameter of the decay tracks, above 0, in the unit of the resolution.

    Raises:
        ValueError: a displacement that is not positive, a negative resolution.

    >>> round(float(displaced_efficiency(2.2360, 0.010, 0.150)), 4)
    0.8631
    """
    check("displacement", displacement, "above 0", lambda x: x > 0)
    check("resolution", resolution, "0 or more", lambda x: x >= 0)
    cut, ratio = jnp.asarray(cut, float), jnp.asarray(resolution, float) / jnp.asarray(displacement, float)
    z = (ratio - cut) / np.sqrt(2.0)
    before = z > 0
    scaled = jnp.exp(-0.5 * jnp.where(before, cut, 0.0) ** 2) * erfcx(jnp.where(before, z, 0.0))
    # ratio < cut here, so that the exponent is negative and erfc between 1 and 2
    low = jnp.where(before, 0.0, ratio)
    direct = jnp.exp(low * (0.5 * low - jnp.where(before, 0.0, cut))) * erfc(jnp.where(before, 0.0, z))
    return prompt_efficiency(cut) + 0.5 * jnp.where(before, scaled, direct)


def decay_probability(
    decay_length: Float[ArrayLike, "*shape"], near: Float[ArrayLike, "*shape"], far: Float[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""Chance to decay between two distances, $e^{-L_1/l} - e^{-L_2/l}$ with $l = \beta\gamma c\tau$.

    Largest at $l = (L_2 - L_1)/\ln(L_2/L_1)$, which is L for a thin volume at L. Accurate for thin volumes and for long
    lifetimes; a decay length of 0 is 0 beyond a gap, and 1 without one.

    Args:
        decay_length: l, 0 or more.
        near: L1, in the same unit.
        far: L2.

    Raises:
        ValueError: a far end that is not beyond the near one.

    >>> round(float(decay_probability(1000.0, 900.0, 1100.0)), 6)
    0.073699
    """
    if not isinstance(near, Tracer) and not isinstance(far, Tracer) and not np.all(np.asarray(near) < np.asarray(far)):
        msg = f"decay volume: the far end must be beyond the near one, got {near} to {far}"
        raise ValueError(msg)
    near, far = jnp.asarray(near, float), jnp.asarray(far, float)
    length = jnp.maximum(jnp.asarray(decay_length, float), jnp.where(near > 0, near, far) / DEEPEST)
    return -jnp.exp(-near / length) * jnp.expm1(-(far - near) / length)


def impact_resolution(
    constant: Float[ArrayLike, "*shape"],
    scattering: Float[ArrayLike, "*shape"],
    momentum: Float[ArrayLike, "*shape"],
    *,
    eta: Float[ArrayLike, "*shape"] | float = 0.0,
) -> Float[Array, "*shape"]:
    r"""Parametrised impact-parameter resolution $a \oplus b/(p\sin^{3/2}\theta)$.

    Args:
        constant: a [mm].
        scattering: b [mm GeV].
        momentum: p [GeV].
        eta: pseudorapidity; $\sin\theta = 1/\cosh\eta$.
    """
    steep = jnp.cosh(jnp.asarray(eta, float)) ** 1.5
    return safe_sqrt(jnp.asarray(constant) ** 2 + (jnp.asarray(scattering) * steep / jnp.asarray(momentum)) ** 2)


def check(name: str, value: ArrayLike, wanted: str, good: Callable[[np.ndarray], np.ndarray]) -> None:
    """Refuse concrete values out of range; traced ones cannot be checked."""
    if not isinstance(value, Tracer) and not np.all(good(np.asarray(value))):
        msg = f"{name} must be {wanted}, got {value}"
        raise ValueError(msg)
