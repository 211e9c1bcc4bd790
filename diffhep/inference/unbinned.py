r"""Extended unbinned likelihoods, and several likelihoods with common parameters.

The rate $\lambda(x) = \sum_k \nu_k f_k(x)$ is a sum of densities on a range, each with the number of events expected
from it. With event weights w and a reference rate r,
$\mathrm{nll} = \sum_k \nu_k - \sum_i w_i - \sum_i w_i \ln[\lambda(x_i)/r(x_i)] + \frac12\sum (\theta - a)^2/\sigma^2$
(R. J. Barlow, NIM A 297 (1990) 496). The reference, the uniform rate of the observed events, only sets the zero. The
Asimov data set is the rate itself, on the nodes of a quadrature, with the rate as its reference: then the minimum of
the nll is zero, as it is for binned data, and `expected_discovery`, `hypothesis_test`, `upper_limit` work unchanged.

With weights that are not one the estimates are right, but the Hessian is not their inverse covariance.
"""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffhep.inference.densities import Argument, Density, quadrature
from diffhep.inference.likelihood import AbstractModel, expects, poisson_deviance, require_finite, require_float64
from diffhep.kinematics import safe_div

# cells of the inverse cumulative distribution that pseudo-experiments are drawn from
CELLS = 4096


class UnbinnedData(eqx.Module):
    """Events, or an Asimov data set; build it with `UnbinnedModel.data`.

    Attributes:
        x: observable; events that do not count have weight 0.
        weight: event weights.
        reference: rate at each event that the likelihood is relative to.
        auxiliary: centre of the constraint of every parameter; without effect for free parameters.
    """

    x: Float[Array, " event"]
    weight: Float[Array, " event"]
    reference: Float[Array, " event"]
    auxiliary: Float[Array, " parameter"]


class Component(eqx.Module):
    """A density and the number of events expected from it, a product of parameters and numbers.

    Args:
        density: its shape.
        factors: names of parameters, or numbers; a number is a leaf.

    >>> from diffhep.inference.densities import gaussian
    >>> Component(gaussian(125.0, "resolution"), "mu", 60.0).names
    ('mu', 'resolution')
    """

    density: Density
    constant: Float[Array, ""]
    factors: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, density: Density, *factors: Argument):
        self.density = density
        self.factors = tuple(f for f in factors if isinstance(f, str))
        self.constant = jnp.asarray(1.0, dtype=float)
        for f in factors:
            if not isinstance(f, str):
                self.constant = self.constant * jnp.asarray(f, dtype=float)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters it depends on."""
        return tuple(dict.fromkeys((*self.factors, *(a for a in self.density.arguments if a is not None))))

    def expected(self, values: Mapping[str, Array]) -> Float[Array, ""]:
        """Expected number of events in the range."""
        out = self.constant
        for name in self.factors:
            out = out * values[name]
        return out


class UnbinnedModel(AbstractModel):
    """An extended unbinned likelihood of one observable.

    Args:
        components: name -> component.
        low: lower end of the range, in the unit of the observable.
        high: upper end.
        init: parameter -> start value; their order is that of `theta`.
        poi: parameter of interest; None for none.
        constraints: parameter -> (centre, standard deviation) of a normal constraint.
        bounds: parameter -> (lower, upper).
        capacity: most events in a pseudo-experiment, default six standard deviations above the expectation at `init`;
            an experiment with more has weights that are NaN, and its fit says that it failed.

    Raises:
        ValueError: a parameter without start value or that nothing depends on, a range or a constraint that makes no
            sense, a start outside its bounds, single precision.

    >>> from diffhep.inference import fit
    >>> from diffhep.inference.densities import exponential, gaussian
    >>> parts = {"peak": Component(gaussian(0.0, 1.0), "mu", 50.0), "flat": Component(exponential(0.0), "background")}
    >>> model = UnbinnedModel(parts, low=-5.0, high=5.0, init={"mu": 1.0, "background": 200.0}, poi="mu")
    >>> found = fit(model, model.asimov(jnp.array([2.0, 150.0])))
    >>> [round(float(x), 6) for x in found.theta], bool(found.converged)
    ([2.0, 150.0], True)
    """

    components: dict[str, Component]
    low: Float[Array, ""]
    high: Float[Array, ""]
    init: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    center: Float[Array, " parameter"]
    spread: Float[Array, " parameter"]
    names: tuple[str, ...] = eqx.field(static=True)
    constrained: tuple[bool, ...] = eqx.field(static=True)
    poi: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)

    def __init__(
        self,
        components: Mapping[str, Component],
        *,
        low: Float[ArrayLike, ""],
        high: Float[ArrayLike, ""],
        init: Mapping[str, ArrayLike],
        poi: str | None = None,
        constraints: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        capacity: int | None = None,
    ):
        constraints, bounds, names = dict(constraints or {}), dict(bounds or {}), tuple(init)
        _check_names(components, names, (*([] if poi is None else [poi]), *constraints, *bounds))
        _check_numbers(low, high, init, constraints, bounds)
        free = (0.0, 1.0)
        array = lambda values: jnp.stack([jnp.asarray(v, dtype=float) for v in values]) if names else jnp.zeros(0)
        self.components = dict(components)
        self.low, self.high = jnp.asarray(low, dtype=float), jnp.asarray(high, dtype=float)
        self.init = array(init.values())
        require_float64(self.init)
        self.lower = array([bounds.get(name, (-np.inf, np.inf))[0] for name in names])
        self.upper = array([bounds.get(name, (-np.inf, np.inf))[1] for name in names])
        self.center = array([constraints.get(name, free)[0] for name in names])
        self.spread = array([constraints.get(name, free)[1] for name in names])
        self.names, self.constrained = names, tuple(name in constraints for name in names)
        self.poi = -1 if poi is None else names.index(poi)
        if capacity is None:
            total = sum(c.expected(self._values(self.init)) for c in components.values())
            if isinstance(total, Tracer):
                msg = "capacity: wanted, because the expected number of events is not known while tracing"
                raise ValueError(msg)
            capacity = int(np.ceil(float(total) + 6 * np.sqrt(abs(float(total))) + 10))
        self.capacity = capacity

    def data(self, x: Float[ArrayLike, " event"], weight: Float[ArrayLike, " event"] | None = None) -> UnbinnedData:
        """Observed events; those outside the range do not count, and constraints are centred where they were put.

        Args:
            x: observable.
            weight: event weights, default 1.

        Raises:
            ValueError: lengths that differ, numbers that are not finite.
        """
        x = jnp.asarray(x, dtype=float)
        weight = jnp.ones_like(x) if weight is None else jnp.asarray(weight, dtype=float)
        if x.ndim != 1 or x.shape != weight.shape:
            msg = f"x and weight must be two lists of one length, got shapes {x.shape} and {weight.shape}"
            raise ValueError(msg)
        require_finite("x", x)
        require_finite("weight", weight)
        inside = (x >= self.low) & (x <= self.high)
        weight = jnp.where(inside, weight, 0.0)
        rate = jnp.maximum(jnp.sum(weight), 1.0) / (self.high - self.low)
        x = jnp.where(inside, x, 0.5 * (self.low + self.high))
        return UnbinnedData(x, weight, jnp.broadcast_to(jax.lax.stop_gradient(rate), x.shape), self.center)

    def _values(self, theta: Array) -> dict[str, Array]:
        return {name: theta[i] for i, name in enumerate(self.names)}

    def expected_events(self, theta: Float[Array, " parameter"]) -> dict[str, Float[Array, ""]]:
        """Expected number of events of each component."""
        return {name: part.expected(self._values(theta)) for name, part in self.components.items()}

    def rate(self, theta: Float[Array, " parameter"], x: Float[Array, " event"]) -> Float[Array, " event"]:
        """Expected events per unit of the observable."""
        values = self._values(theta)
        out = jnp.zeros_like(x)
        for part in self.components.values():
            out = out + part.expected(values) * jnp.exp(part.density.log_density(x, self.low, self.high, values))
        return out

    def nll(self, theta: Float[Array, " parameter"], data: UnbinnedData) -> Float[Array, ""]:
        """Negative log-likelihood relative to the data's reference rate."""
        total = sum(self.expected_events(theta).values(), jnp.zeros(()))
        ratio = self.rate(theta, data.x) / data.reference
        # -ln r as (r - 1 - ln r) - (r - 1): the first is the deviance, continued where the rate is not positive
        minus_log = 0.5 * poisson_deviance(jnp.ones_like(ratio), ratio) - (ratio - 1)
        # events without weight must not bring a NaN of theirs along
        terms = jnp.where(data.weight != 0, data.weight * minus_log, 0.0)
        pulls = jnp.where(np.array(self.constrained, dtype=bool), (theta - data.auxiliary) / self.spread, 0.0)
        return total - jnp.sum(data.weight) + jnp.sum(terms) + 0.5 * jnp.sum(pulls**2)

    def possible(self, theta: Float[Array, " parameter"], data: UnbinnedData) -> Bool[Array, ""]:
        """Whether the rate is positive, and more than rounding, at every event that counts."""
        counted = jnp.where(data.weight != 0, 1.0, 0.0)
        return expects(counted, self.rate(theta, data.x) / data.reference)

    def asimov(self, theta: Float[Array, " parameter"], data: UnbinnedData | None = None) -> UnbinnedData:
        """The rate at `theta` on the nodes of a quadrature, with `theta` for the centres of the constraints."""
        del data
        nodes, weights = quadrature(self.low, self.high)
        rate = self.rate(theta, nodes)
        total = sum(self.expected_events(theta).values(), jnp.zeros(()))
        # with the sum exact the minimum is zero exactly, whatever the error of the quadrature
        content = weights * rate
        return UnbinnedData(nodes, content * safe_div(total, jnp.sum(content)), rate, theta)

    def sample(
        self, theta: Float[Array, " parameter"], data: UnbinnedData | None = None, *, key: PRNGKeyArray
    ) -> UnbinnedData:
        """A Poisson number of events from the rate, padded to `capacity`, and constraint centres scattered."""
        del data
        number, place, side = jr.split(key, 3)
        grid = self.low + (self.high - self.low) * jnp.arange(CELLS + 1) / CELLS
        rate = jnp.maximum(self.rate(theta, grid), 0.0)
        cumulative = jnp.concatenate([jnp.zeros(1), jnp.cumsum(0.5 * (rate[1:] + rate[:-1]))])
        x = jnp.interp(jr.uniform(place, (self.capacity,), grid.dtype) * cumulative[-1], cumulative, grid)
        total = jnp.maximum(sum(self.expected_events(theta).values(), jnp.zeros(())), 0.0)
        count = jr.poisson(number, total, dtype=jnp.int64)
        weight = jnp.where(jnp.arange(self.capacity) < count, 1.0, 0.0)
        weight = jnp.where(count > self.capacity, jnp.nan, weight)
        reference = jnp.broadcast_to(jnp.maximum(total, 1.0) / (self.high - self.low), x.shape)
        scatter = self.spread * jr.normal(side, theta.shape, theta.dtype)
        auxiliary = jnp.where(np.array(self.constrained, dtype=bool), theta + scatter, theta)
        return UnbinnedData(x, weight, reference, auxiliary)

    def constraint_of(self, data: UnbinnedData) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter; both 0 for free parameters."""
        active = np.array(self.constrained, dtype=float)
        return jnp.asarray(active) * data.auxiliary, jnp.asarray(active) * self.spread

    def degrees_of_freedom(self) -> Float[Array, ""]:
        """NaN: events without bins have no saturated model, and the minimum says nothing about the quality of a fit."""
        return jnp.array(jnp.nan)


def _check_names(components: Mapping[str, Component], names: Sequence[str], mentioned: Sequence[str]) -> None:
    if not components:
        msg = "components: at least one is wanted, got none"
        raise ValueError(msg)
    used = [(part, name) for part, c in components.items() for name in c.names]
    for part, name in used:
        if name not in names:
            msg = f"component {part!r}: parameter {name!r} has no start value; init has {', '.join(names) or 'none'}"
            raise ValueError(msg)
    for name in names:
        if name not in [n for _, n in used]:
            msg = f"init: no component depends on parameter {name!r}"
            raise ValueError(msg)
    for name in mentioned:
        if name not in names:
            msg = f"no parameter {name!r}; the model has {', '.join(names)}"
            raise ValueError(msg)


def _check_numbers(low: ArrayLike, high: ArrayLike, init: Mapping, constraints: Mapping, bounds: Mapping) -> None:
    known = lambda *values: not any(isinstance(v, Tracer) for v in values)
    ends = np.array([low, high], dtype=float) if known(low, high) else np.array([0.0, 1.0])
    if not -np.inf < ends[0] < ends[1] < np.inf:
        msg = f"range: two finite, increasing numbers are wanted, got {low} and {high}"
        raise ValueError(msg)
    for name, value in init.items():
        a, b = bounds.get(name, (-np.inf, np.inf))
        if known(value) and not a <= value <= b:
            msg = f"start value {value} of {name!r} outside its bounds ({a}, {b})"
            raise ValueError(msg)
    for name, (center, spread) in constraints.items():
        if known(center, spread) and not (np.isfinite(center) and 0 < spread < np.inf):
            msg = (
                f"constraint of {name!r}: a centre and a positive standard deviation are wanted, got {center}, {spread}"
            )
            raise ValueError(msg)
