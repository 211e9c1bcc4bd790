r"""Densities of one observable on a range, for unbinned likelihoods.

A density is the logarithm of a shape, with its integral over the range in closed form where there is one and by
Gauss-Legendre quadrature otherwise. Each of its arguments is either the name of a parameter of the model or a number,
which is then a leaf that can be differentiated with respect to.
"""

import math
from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import log_ndtr, logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

PANELS, ORDER = 128, 8

Argument = str | ArrayLike


class Density(eqx.Module):
    """A normalised density; build it with `gaussian`, `exponential`, `crystal_ball` or `density`.

    Attributes:
        constants: values of the arguments that are numbers, 0 for the others.
        arguments: names of the arguments that are parameters, None for the others.
        log_shape: logarithm of the density up to a factor, `log_shape(x, *arguments)`.
        log_integral: logarithm of its integral, `log_integral(low, high, *arguments)`; None is by quadrature.
    """

    constants: Float[Array, " argument"]
    arguments: tuple[str | None, ...] = eqx.field(static=True)
    log_shape: Callable[..., Array] = eqx.field(static=True)
    log_integral: Callable[..., Array] | None = eqx.field(static=True)

    def log_density(
        self, x: Float[Array, " event"], low: Float[Array, ""], high: Float[Array, ""], values: Mapping[str, Array]
    ) -> Float[Array, " event"]:
        """Logarithm of the density, normalised on the range, in the inverse unit of x.

        Args:
            x: observable, inside the range.
            low: lower end of the range.
            high: upper end.
            values: value of every parameter by name.
        """
        named = [
            self.constants[i] if name is None else jnp.asarray(values[name]) for i, name in enumerate(self.arguments)
        ]
        if self.log_integral is not None:
            return self.log_shape(x, *named) - self.log_integral(low, high, *named)
        nodes, weights = quadrature(low, high)
        return self.log_shape(x, *named) - logsumexp(self.log_shape(nodes, *named), b=weights)


def gaussian(mean: Argument, sigma: Argument) -> Density:
    r"""Normal density truncated to the range, $e^{-(x-m)^2/2\sigma^2}$.

    Args:
        mean: in the unit of the observable.
        sigma: standard deviation before truncation, positive, in the same unit.

    Raises:
        ValueError: a sigma that is not positive.

    >>> peak = gaussian("mass", 1.0)
    >>> inside = peak.log_density(jnp.array([0.0]), jnp.array(-9.0), jnp.array(9.0), {"mass": jnp.array(0.0)})
    >>> round(float(jnp.exp(inside[0])), 6)
    0.398942
    """
    _positive("sigma", sigma)
    return _density(_gaussian_shape, _gaussian_integral, mean, sigma)


def exponential(slope: Argument) -> Density:
    r"""$e^{s x}$ with a slope s in the inverse unit of the observable, negative for a falling density; 0 is uniform.

    >>> flat = exponential("slope")
    >>> float(flat.log_density(jnp.array([0.3]), jnp.array(0.0), jnp.array(2.0), {"slope": jnp.array(0.0)})[0])
    -0.6931471805599453
    """
    return _density(_exponential_shape, _exponential_integral, slope)


def crystal_ball(mean: Argument, sigma: Argument, alpha: Argument, power: Argument) -> Density:
    r"""Gaussian core with a power-law tail to the left (T. Skwarnicki, DESY F31-86-02, 1986, app. E).

    $e^{-t^2/2}$ for $t = (x - m)/\sigma > -\alpha$, and
    $e^{-\alpha^2/2}\,[1 - \frac{\alpha}{p}(t + \alpha)]^{-p}$ below: value and slope are continuous.

    Args:
        mean: of the core, in the unit of the observable.
        sigma: of the core, positive, in the same unit.
        alpha: start of the tail, in units of sigma below the mean, positive.
        power: p, positive.

    Raises:
        ValueError: a number that is not positive where it must be.
    """
    for name, value in (("sigma", sigma), ("alpha", alpha), ("power", power)):
        _positive(name, value)
    return _density(_crystal_ball_shape, _crystal_ball_integral, mean, sigma, alpha, power)


def density(log_shape: Callable[..., Array], *arguments: Argument) -> Density:
    """Any density, normalised by quadrature: 8 points in each of 128 equal parts of the range.

    Structures must not be much narrower than one part; for a Gaussian the integral is good to 1e-10 when its sigma is
    as wide as a part and to 1e-6 when it is half as wide.

    Args:
        log_shape: logarithm of the density up to a factor, `log_shape(x, *arguments) -> (event,)`; differentiable, and
            without captured arrays that are to be differentiated: those go into the arguments.
        arguments: names of parameters, or numbers.

    >>> wave = density(lambda x, a: jnp.log1p(a * jnp.cos(x)), "a")
    >>> out = wave.log_density(jnp.zeros(1), jnp.array(-np.pi), jnp.array(np.pi), {"a": jnp.array(0.5)})
    >>> round(float(jnp.exp(out[0]) * 2 * np.pi), 12)
    1.5
    """
    return _density(log_shape, None, *arguments)


def quadrature(low: Float[ArrayLike, ""], high: Float[ArrayLike, ""]) -> tuple[Array, Array]:
    """Nodes and weights of the composite Gauss-Legendre rule on a range."""
    nodes, weights = np.polynomial.legendre.leggauss(ORDER)
    places = ((np.arange(PANELS)[:, None] + 0.5 * (nodes + 1)) / PANELS).ravel()
    length = jnp.asarray(high) - low
    return jnp.asarray(low) + length * places, length * np.tile(weights, PANELS) / (2 * PANELS)


def _density(shape: Callable[..., Array], integral: Callable[..., Array] | None, *arguments: Argument) -> Density:
    names = tuple(a if isinstance(a, str) else None for a in arguments)
    constants = [jnp.zeros(()) if isinstance(a, str) else jnp.asarray(a, dtype=float) for a in arguments]
    return Density(jnp.stack(constants) if constants else jnp.zeros(0), names, shape, integral)


def _positive(name: str, value: Argument) -> None:
    if not isinstance(value, str | Tracer) and not np.all(np.asarray(value) > 0):
        msg = f"{name}: a positive number or the name of a parameter is wanted, got {value}"
        raise ValueError(msg)


def _gaussian_shape(x: Array, mean: Array, sigma: Array) -> Array:
    return -0.5 * ((x - mean) / sigma) ** 2


def _log_normal_between(low: Array, high: Array) -> Array:
    """Logarithm of the unit normal's integral, precise in both tails."""
    # the tail that is the smaller one: both limits are mirrored when they lie above zero
    mirror = low + high > 0
    a, b = jnp.where(mirror, -high, low), jnp.where(mirror, -low, high)
    upper, lower = log_ndtr(b), log_ndtr(a)
    return upper + jnp.log1p(-jnp.exp(lower - upper))


def _gaussian_integral(low: Array, high: Array, mean: Array, sigma: Array) -> Array:
    between = _log_normal_between((low - mean) / sigma, (high - mean) / sigma)
    return between + jnp.log(sigma) + 0.5 * np.log(2 * np.pi)


def _exponential_shape(x: Array, slope: Array) -> Array:
    return slope * x


def _exponential_integral(low: Array, high: Array, slope: Array) -> Array:
    length, middle = high - low, 0.5 * (low + high)
    # integral = length exp(s middle) sinh(y)/y with y = s length/2, even in y
    y = 0.5 * slope * length
    small = jnp.abs(y) < 0.05
    even = jnp.abs(jnp.where(small, 1.0, y))
    far = even + jnp.log1p(-jnp.exp(-2 * even)) - jnp.log(2 * even)
    y2 = jnp.where(small, y, 0.0) ** 2
    # ln(sinh(y)/y) = y^2/6 - y^4/180 + y^6/2835 - ..., the next term is below 1e-15
    near = y2 / 6 - y2**2 / 180 + y2**3 / 2835 - y2**4 / 37800
    return slope * middle + jnp.log(length) + jnp.where(small, near, far)


def _crystal_ball_shape(x: Array, mean: Array, sigma: Array, alpha: Array, power: Array) -> Array:
    t = (x - mean) / sigma
    tail = t < -alpha
    below = jnp.where(tail, t + alpha, 0.0)
    slow = -0.5 * alpha**2 - power * jnp.log1p(-alpha * below / power)
    return jnp.where(tail, slow, -0.5 * jnp.where(tail, 0.0, t) ** 2)


def _crystal_ball_integral(low: Array, high: Array, mean: Array, sigma: Array, alpha: Array, power: Array) -> Array:
    a, b = (low - mean) / sigma, (high - mean) / sigma
    core = b > -alpha
    start = jnp.where(core, jnp.maximum(a, -alpha), 0.0)
    gauss = jnp.exp(_log_normal_between(start, jnp.where(core, b, 1.0))) * np.sqrt(2 * np.pi)
    # tail, with u = 1 - alpha (t + alpha)/p >= 1: p/alpha times the integral of u^-p between both ends
    tail = a < -alpha
    end = lambda t: 1 - alpha * (t + alpha) / power
    far = jnp.log(end(jnp.where(tail, a, -alpha)))
    near = jnp.log(end(jnp.where(tail, jnp.minimum(b, -alpha), -alpha)))
    # (near^(1-p) - far^(1-p))/(p - 1) with the logarithms of both ends; for p = 1 it is their difference
    law = far * _relative_exp((1 - power) * far) - near * _relative_exp((1 - power) * near)
    power_law = power / alpha * jnp.exp(-0.5 * alpha**2) * law
    return jnp.log(sigma) + jnp.log(jnp.where(core, gauss, 0.0) + jnp.where(tail, power_law, 0.0))


def _relative_exp(z: Array) -> Array:
    """The quotient (exp(z) - 1)/z, 1 at z = 0, with derivatives that lose nothing there."""
    small = jnp.abs(z) < 0.3
    some, near = jnp.where(small, 1.0, z), jnp.where(small, z, 0.0)
    # sum of z^k/(k + 1)!, the first term left out is 0.3^13/14! = 2e-18
    series = jnp.polyval(jnp.array([1 / math.factorial(k + 1) for k in range(12, -1, -1)]), near)
    return jnp.where(small, series, jnp.expm1(some) / some)
