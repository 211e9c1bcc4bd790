r"""Binned likelihoods in deviance form, and what every model offers to the fits.

A model maps parameters $\theta$ to expected counts $\lambda(\theta)$. Its negative log-likelihood relative to the
saturated model is half the deviance, plus half a square for every constrained parameter:
$\mathrm{nll} = \sum_j [\lambda_j - n_j - n_j \ln(\lambda_j/n_j)] + \frac12\sum_k (\theta_k - a_k)^2$.
Written so, it loses nothing to cancellation: in the usual form, $n \ln n$ of one bin with 1e11 events leaves rounding
noise of 1e-3 on the sum. Constrained parameters are whitened, that is, in units of their uncertainty.
"""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

# below this fraction of the observed count the deviance is continued by its parabola
FLOOR = 1e-10


class Data(eqx.Module):
    """What was, or would be, observed.

    Attributes:
        counts: observed counts per bin, not necessarily integer.
        auxiliary: centre of the constraint of every parameter, in units of its uncertainty; without effect for free
            parameters.
    """

    counts: Float[Array, " bin"]
    auxiliary: Float[Array, " parameter"]


class AbstractModel(eqx.Module):
    """A likelihood as one pytree: every array in it can be differentiated with respect to.

    Attributes:
        names: names of the parameters, in the order of `theta`.
        init: start of every fit.
        lower: lower bounds, -inf for none.
        upper: upper bounds, inf for none.
        poi: index of the parameter of interest, the signal strength mu.
    """

    names: eqx.AbstractVar[tuple[str, ...]]
    init: eqx.AbstractVar[Float[Array, " parameter"]]
    lower: eqx.AbstractVar[Float[Array, " parameter"]]
    upper: eqx.AbstractVar[Float[Array, " parameter"]]
    poi: eqx.AbstractVar[int]

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parameters that every fit holds at their start."""
        return ()

    @abc.abstractmethod
    def nll(self, theta: Float[Array, " parameter"], data: PyTree) -> Float[Array, ""]:
        """Negative log-likelihood relative to the saturated model: half of what is distributed as chi-squared."""

    def derivatives(
        self, theta: Float[Array, " parameter"], data: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
        """`nll` with its gradient and Hessian; a model that knows its structure does better than this."""
        return second_order(lambda x, d: self.nll(x, d), theta, data)

    def gradient(self, theta: Float[Array, " parameter"], data: PyTree) -> Float[Array, " parameter"]:
        """The gradient of `nll` with respect to `theta`."""
        return jax.grad(self.nll)(theta, data)

    def possible(self, theta: Float[Array, " parameter"], data: PyTree) -> Bool[Array, ""]:
        """False where something was observed that the model never expects: `nll` is then not a likelihood's."""
        return jnp.asarray(True)

    @abc.abstractmethod
    def asimov(self, theta: Float[Array, " parameter"], data: PyTree | None = None) -> PyTree:
        """The data set whose best fit is `theta`, main and auxiliary measurements alike.

        Parameters that a model profiles analytically, and that are therefore not in `theta`, take their best value
        given `data`; without `data` they are at their nominal value.
        """

    @abc.abstractmethod
    def sample(self, theta: Float[Array, " parameter"], data: PyTree | None = None, *, key: PRNGKeyArray) -> PyTree:
        """A pseudo-experiment at `theta`: main and auxiliary data drawn; `data` as in `asimov`."""

    @abc.abstractmethod
    def constraint_of(self, data: PyTree) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter; both 0 for free parameters."""

    @abc.abstractmethod
    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Number of bins minus number of free parameters; a constrained parameter and its constraint cancel."""


class BinnedModel(AbstractModel):
    """Any differentiable function from parameters to expected counts, with unit-normal constraints.

    Args:
        expected: expected counts, `expected(theta, templates) -> (bin,)`; must not capture arrays that are to be
            differentiated, those go into `templates`.
        templates: any pytree of arrays.
        names: parameter names.
        init: start values; for a constrained parameter in units of its uncertainty.
        constrained: names of the parameters with a unit-normal constraint.
        poi: name of the parameter of interest.
        bounds: name -> (lower, upper).

    Raises:
        ValueError: a name that is not among `names`, lengths that differ, an init outside its bounds.

    >>> def expected(theta, t):
    ...     return theta[0] * t["signal"] + t["background"] * (1 + 0.1 * theta[1])
    >>> templates = {"signal": jnp.array([5.0]), "background": jnp.array([50.0])}
    >>> model = BinnedModel(expected, templates, names=("mu", "norm"), init=(1.0, 0.0), constrained=("norm",), poi="mu")
    >>> model.asimov(model.init).counts.tolist()
    [55.0]
    """

    templates: PyTree
    init: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    expected_counts: Callable[[Array, PyTree], Array] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    constrained: tuple[bool, ...] = eqx.field(static=True)
    poi: int = eqx.field(static=True)

    def __init__(
        self,
        expected: Callable[[Array, PyTree], Array],
        templates: PyTree,
        *,
        names: Sequence[str],
        init: Sequence[float],
        constrained: Sequence[str],
        poi: str,
        bounds: dict[str, tuple[float, float]] | None = None,
    ):
        bounds = bounds or {}
        for name in (*constrained, poi, *bounds):
            if name not in names:
                msg = f"no parameter {name!r}; the model has {', '.join(names)}"
                raise ValueError(msg)
        if len(init) != len(names):
            msg = f"{len(names)} parameters want {len(names)} start values, got {len(init)}"
            raise ValueError(msg)
        limits = np.array([bounds.get(name, (-np.inf, np.inf)) for name in names], dtype=float).reshape(-1, 2)
        for name, start, (low, high) in zip(names, init, limits, strict=True):
            if not low <= start <= high:
                msg = f"start value {start} of {name!r} outside its bounds ({low}, {high})"
                raise ValueError(msg)
        self.templates, self.expected_counts = templates, expected
        self.names, self.poi = tuple(names), list(names).index(poi)
        self.init, self.lower, self.upper = (jnp.asarray(v, dtype=float) for v in (init, limits[:, 0], limits[:, 1]))
        self.constrained = tuple(name in constrained for name in names)

    def expected(self, theta: Float[Array, " parameter"]) -> Float[Array, " bin"]:
        """Expected counts per bin."""
        return self.expected_counts(theta, self.templates)

    def nll(self, theta: Float[Array, " parameter"], data: Data) -> Float[Array, ""]:
        """Half the deviance of the counts plus half the squared pulls."""
        return binned_nll(self.expected(theta), theta, self.constrained, data)

    def derivatives(
        self, theta: Float[Array, " parameter"], data: Data
    ) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
        """`nll` with its gradient and Hessian."""
        return binned_derivatives(self.expected, theta, self.constrained, data)

    def possible(self, theta: Float[Array, " parameter"], data: Data) -> Bool[Array, ""]:
        """Whether something is expected in every bin that has counts."""
        return expects(data.counts, self.expected(theta))

    def asimov(self, theta: Float[Array, " parameter"], data: Data | None = None) -> Data:
        """Expected counts and constraint centres at `theta`."""
        del data
        return Data(self.expected(theta), theta)

    def sample(self, theta: Float[Array, " parameter"], data: Data | None = None, *, key: PRNGKeyArray) -> Data:
        """Poisson counts, and constraint centres scattered by one."""
        del data
        return binned_sample(self.expected(theta), theta, self.constrained, key)

    def constraint_of(self, data: Data) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter; both 0 for free parameters."""
        return binned_constraint(self.constrained, data)

    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Number of bins minus number of free parameters."""
        return jnp.asarray(float(self.expected(self.init).size - self.constrained.count(False)))


def binned_nll(
    expected: Float[Array, " bin"], theta: Float[Array, " parameter"], constrained: tuple[bool, ...], data: Data
) -> Float[Array, ""]:
    """Half the deviance of the counts plus half the squared pulls of the constrained parameters."""
    pulls = jnp.where(np.array(constrained), theta - data.auxiliary, 0.0)
    return 0.5 * jnp.sum(poisson_deviance(data.counts, expected)) + 0.5 * jnp.sum(pulls**2)


def binned_sample(
    expected: Float[Array, " bin"], theta: Float[Array, " parameter"], constrained: tuple[bool, ...], key: PRNGKeyArray
) -> Data:
    """Poisson counts, and constraint centres scattered by one."""
    main, auxiliary = jr.split(key)
    counts = jr.poisson(main, jnp.maximum(expected, 0.0), dtype=jnp.int64).astype(expected.dtype)
    scatter = jr.normal(auxiliary, theta.shape, theta.dtype)
    return Data(counts, jnp.where(np.array(constrained), theta + scatter, theta))


def binned_constraint(constrained: tuple[bool, ...], data: Data) -> tuple[Array, Array]:
    """Centre and width of unit-normal constraints; both 0 for free parameters."""
    active = np.array(constrained, dtype=float)
    return jnp.asarray(active) * data.auxiliary, jnp.asarray(active)


def binned_derivatives(
    expected: Callable[[Array], Array], theta: Float[Array, " parameter"], constrained: tuple[bool, ...], data: Data
) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
    """`binned_nll` with its gradient and Hessian, from forward-mode derivatives of the expected counts.

    For a few parameters this runs and compiles several times faster than the Hessian of the sum: the second derivative
    of a Poisson term is that of the expectation times something per bin, which leaves matrix products.
    """

    def along(direction: Array) -> tuple[Array, Array]:
        first = lambda x: jax.jvp(expected, (x,), (direction,))[1]
        return first(theta), jax.vmap(lambda other: jax.jvp(first, (theta,), (other,))[1])(basis)

    basis = jnp.eye(theta.size, dtype=theta.dtype)
    first, second = jax.vmap(along)(basis)
    # without the barrier XLA computes the expectation anew in every kernel that uses it
    lam, first, second = jax.lax.optimization_barrier((expected(theta), first, second))
    residual, curvature = jax.lax.optimization_barrier(poisson_slopes(data.counts, lam))
    active = np.array(constrained, dtype=float)
    hessian = (first * curvature) @ first.T + second @ residual + np.diag(active)
    pulls = active * (theta - data.auxiliary)
    value = 0.5 * poisson_deviance(data.counts, lam) @ jnp.ones_like(lam) + 0.5 * pulls @ pulls
    return value, first @ residual + pulls, hessian


def second_order(
    objective: Callable[[Array, PyTree], Array], theta: Float[Array, " parameter"], args: PyTree
) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
    """Value, gradient and Hessian of `objective(theta, args)` by automatic differentiation."""
    (value, gradient), push = jax.linearize(jax.value_and_grad(lambda x: objective(x, args)), theta)
    hessian = jax.vmap(lambda v: push(v)[1])(jnp.eye(theta.size, dtype=theta.dtype))
    return value, gradient, 0.5 * (hessian + hessian.T)


def require_float64(x: Array) -> None:
    """Refuses single precision: a likelihood there has noise of the size of the effect that is looked for."""
    if x.dtype != jnp.float64:
        msg = (
            f"fits need float64, got {x.dtype}: set JAX_ENABLE_X64=1, or call "
            "jax.config.update('jax_enable_x64', True) before the first array is made"
        )
        raise ValueError(msg)


def require_finite(what: str, values: Float[Array, " event"]) -> None:
    """Refuses numbers of events that are not finite and names the first; traced values cannot be checked."""
    if not isinstance(values, Tracer) and not np.all(np.isfinite(values)):
        i = int(np.argmin(np.isfinite(np.asarray(values))))
        msg = f"{what} of event {i} is {float(values[i])}, wanted a finite number"
        raise ValueError(msg)


@jax.custom_jvp
def poisson_deviance(n: Float[ArrayLike, "*bin"], expected: Float[ArrayLike, "*bin"]) -> Float[Array, "*bin"]:
    r"""Twice the log of the likelihood ratio to the saturated model: $2[\lambda - n - n\ln(\lambda/n)]$.

    At n = 0 that is $2\lambda$.
    Relative precision is kept for $\lambda \to n$. Where $\lambda < 10^{-10} n$ (or below 1e-10 for n = 0), negative
    values included, the function is continued by a parabola that rises towards negative expectations: the fit is
    pushed back instead of meeting NaN. Derivatives of every order are exact; the one with respect to an n of zero,
    which diverges, is set to zero.

    Args:
        n: observed counts, not negative, not necessarily integer.
        expected: expected counts.

    >>> poisson_deviance(jnp.array([0.0, 3.0]), jnp.array([2.0, 3.0])).tolist()
    [4.0, 0.0]
    """
    n, expected = jnp.asarray(n), jnp.asarray(expected)
    some, floor, above = _branches(n, expected)
    lam = jnp.where(above, expected, floor)
    value = jnp.where(n > 0, 2 * some * _x_minus_log1p((lam - some) / some), 2 * lam)
    slope, curvature = _floor_slope(n, some, floor)
    below = jnp.where(above, 0.0, expected - floor)
    return value + below * (slope + 0.5 * curvature * below)


def _poisson_deviance_jvp(primals: tuple, tangents: tuple) -> tuple:
    n, expected = map(jnp.asarray, primals)
    n_dot, expected_dot = tangents
    some, floor, above = _branches(n, expected)
    lam = jnp.where(above, expected, floor)
    below = jnp.where(above, 0.0, expected - floor)
    out = jnp.zeros(jnp.broadcast_shapes(n.shape, expected.shape), lam.dtype)
    if not isinstance(expected_dot, SymbolicZero):
        _, curvature = _floor_slope(n, some, floor)
        out = out + (2 * (lam - n) / lam + curvature * below) * expected_dot
    if not isinstance(n_dot, SymbolicZero):
        out = out + jnp.where(n > 0, -2 * jnp.log1p((lam - some) / some) - 2 * below / floor, 0.0) * n_dot
    return poisson_deviance(n, expected), out


poisson_deviance.defjvp(_poisson_deviance_jvp, symbolic_zeros=True)


def expects(n: Float[Array, "*bin"], expected: Float[Array, "*bin"]) -> Bool[Array, ""]:
    """Whether more is expected wherever n is positive than `poisson_deviance` continues from."""
    _, _, above = _branches(n, expected)
    return jnp.all(above | (n <= 0))


def poisson_slopes(n: Array, expected: Array) -> tuple[Array, Array]:
    """First and second derivative of half the deviance with respect to the expectation: 1 - n/lambda, n/lambda^2.

    Below the floor those of its parabola. Written out, because two nested derivatives of `poisson_deviance` would carry
    its value along twice, and the compiler with it.
    """
    some, floor, above = _branches(n, expected)
    lam = jnp.where(above, expected, floor)
    _, curvature = _floor_slope(n, some, floor)
    r = (lam - n) / lam + jnp.where(above, 0.0, 0.5 * curvature * (expected - floor))
    return r, jnp.where(above, n / lam / lam, 0.5 * curvature)


def _branches(n: Array, expected: Array) -> tuple[Array, Array, Array]:
    """A positive stand-in for n, the floor of the expectation, and where the expectation is above it."""
    some = jnp.where(n > 0, n, 1.0)
    floor = jnp.maximum(FLOOR * some, 1e-290)
    return some, floor, expected > floor


def _floor_slope(n: Array, some: Array, floor: Array) -> tuple[Array, Array]:
    """First and second derivative of the deviance at the floor; for n = 0 a parabola with its minimum at zero."""
    slope = jnp.where(n > 0, 2 * (floor - some) / floor, 2.0)
    curvature = jnp.where(n > 0, 2 * (some / floor) / floor, 2 / floor)
    return slope, curvature


def _x_minus_log1p(x: Array) -> Array:
    """The difference x - log(1 + x) as x r - 2 r^3 (1/3 + r^2/5 + r^4/7 + ...), r = x/(2 + x): nothing cancels."""
    small = jnp.abs(x) < 0.1
    s = jnp.where(small, x, 0.0)
    r = s / (2 + s)
    r2 = r * r
    series = jnp.polyval(jnp.array([1 / (2 * k + 3) for k in range(7, -1, -1)], x.dtype), r2)
    big = jnp.where(small, 1.0, x)
    return jnp.where(small, s * r - 2 * r * r2 * series, big - jnp.log1p(big))
