"""Several likelihoods fitted together: binned, unbinned, HistFactory, whatever is an `AbstractModel`."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from diffhep.inference.likelihood import AbstractModel


class HybridModel(AbstractModel):
    """The product of independent likelihoods; parameters of the same name are one parameter.

    Its data are a tuple, one entry per model. Bounds are the tightest of all models.

    Args:
        models: the likelihoods.
        poi: parameter of interest, default that of the first model that has one.

    Raises:
        ValueError: no model, start values of one parameter that differ, a parameter that two models constrain (its
            constraint would count twice), bounds without common ground, an unknown parameter of interest.

    >>> from diffhep.inference import BinnedModel, fit
    >>> channel = lambda b: BinnedModel(
    ...     lambda t, p: t[0] * 5.0 + p, jnp.array([b]), names=("mu",), init=(1.0,), constrained=(), poi="mu"
    ... )
    >>> both = HybridModel(channel(20.0), channel(50.0))
    >>> found = fit(both, both.asimov(jnp.array([1.7])))
    >>> both.names, round(float(found["mu"]), 9)
    (('mu',), 1.7)
    """

    models: tuple[AbstractModel, ...]
    init: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    names: tuple[str, ...] = eqx.field(static=True)
    places: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    poi: int = eqx.field(static=True)

    def __init__(self, *models: AbstractModel, poi: str | None = None):
        if not models:
            msg = "at least one model is wanted, got none"
            raise ValueError(msg)
        names = tuple(dict.fromkeys(name for m in models for name in m.names))
        self.models, self.names = tuple(models), names
        self.places = tuple(tuple(names.index(name) for name in m.names) for m in models)
        starts: dict[str, Array] = {}
        lower = dict.fromkeys(names, jnp.array(-jnp.inf))
        upper = dict.fromkeys(names, jnp.array(jnp.inf))
        for m in models:
            for i, name in enumerate(m.names):
                _agree(name, starts.setdefault(name, m.init[i]), m.init[i])
                lower[name] = jnp.maximum(lower[name], m.lower[i])
                upper[name] = jnp.minimum(upper[name], m.upper[i])
        _check_constraints(models)
        self.init, self.lower, self.upper = (jnp.stack([x[name] for name in names]) for x in (starts, lower, upper))
        for name, low, start, high in zip(names, self.lower, self.init, self.upper, strict=True):
            if not isinstance(start, Tracer) and not isinstance(low, Tracer) and not low <= start <= high:
                msg = f"start value {start} of {name!r} outside the common bounds ({low}, {high})"
                raise ValueError(msg)
        if poi is None:
            own = [m.names[m.poi] for m in models if m.poi >= 0]
            poi = own[0] if own else None
        elif poi not in names:
            msg = f"no parameter {poi!r}; the models have {', '.join(names)}"
            raise ValueError(msg)
        self.poi = -1 if poi is None else names.index(poi)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parameters that any of the models holds."""
        return tuple(dict.fromkeys(name for m in self.models for name in m.fixed))

    def _each(self, theta: Array) -> list[Array]:
        return [theta[np.array(place, dtype=int)] for place in self.places]

    def nll(self, theta: Float[Array, " parameter"], data: Sequence[PyTree]) -> Float[Array, ""]:
        """Sum of the models'."""
        terms = [m.nll(t, d) for m, t, d in zip(self.models, self._each(theta), data, strict=True)]
        return jnp.sum(jnp.stack(terms))

    def derivatives(
        self, theta: Float[Array, " parameter"], data: Sequence[PyTree]
    ) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
        """`nll` with its gradient and Hessian, each model in its own way."""
        n = theta.size
        value, gradient, hessian = jnp.zeros(()), jnp.zeros(n), jnp.zeros((n, n))
        for m, t, d, place in zip(self.models, self._each(theta), data, self.places, strict=True):
            f, g, h = m.derivatives(t, d)
            at = np.array(place, dtype=int)
            value, gradient, hessian = value + f, gradient.at[at].add(g), hessian.at[np.ix_(at, at)].add(h)
        return value, gradient, hessian

    def possible(self, theta: Float[Array, " parameter"], data: Sequence[PyTree]) -> Bool[Array, ""]:
        """Whether it is so in every model."""
        each = [m.possible(t, d) for m, t, d in zip(self.models, self._each(theta), data, strict=True)]
        return jnp.all(jnp.stack(each))

    def asimov(self, theta: Float[Array, " parameter"], data: Sequence[PyTree] | None = None) -> tuple[PyTree, ...]:
        """Those of the models."""
        given = [None] * len(self.models) if data is None else data
        return tuple(m.asimov(t, d) for m, t, d in zip(self.models, self._each(theta), given, strict=True))

    def sample(
        self, theta: Float[Array, " parameter"], data: Sequence[PyTree] | None = None, *, key: PRNGKeyArray
    ) -> tuple[PyTree, ...]:
        """Those of the models, drawn independently."""
        given = [None] * len(self.models) if data is None else data
        keys = jr.split(key, len(self.models))
        rows = zip(self.models, self._each(theta), given, keys, strict=True)
        return tuple(m.sample(t, d, key=k) for m, t, d, k in rows)

    def constraint_of(self, data: Sequence[PyTree]) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter; both 0 for free parameters."""
        center, width = jnp.zeros(len(self.names)), jnp.zeros(len(self.names))
        for m, d, place in zip(self.models, data, self.places, strict=True):
            c, w = m.constraint_of(d)
            at = np.array(place, dtype=int)
            center, width = center.at[at].add(jnp.where(w > 0, c, 0.0)), width.at[at].add(w)
        return center, width

    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Of all bins, with a shared free parameter counted once; NaN with an unbinned model among them."""
        total, shared = jnp.zeros(()), jnp.zeros(len(self.names))
        for m, place in zip(self.models, self.places, strict=True):
            free = (_widths(m) == 0) & ~np.isin(np.array(m.names), self.fixed)
            total = total + m.degrees_of_freedom() + jnp.sum(free)
            shared = shared.at[np.array(place, dtype=int)].max(free.astype(float))
        return total - jnp.sum(shared)


def _widths(model: AbstractModel) -> Float[Array, " parameter"]:
    """Widths of the constraints, 0 for free parameters."""
    return model.constraint_of(model.asimov(model.init))[1]


def _constrained(model: AbstractModel) -> set[str]:
    """Names of the parameters with a constraint; none where its width is not known while tracing."""
    width = _widths(model)
    if isinstance(width, Tracer):
        return set()
    return {name for name, w in zip(model.names, np.asarray(width), strict=True) if w > 0}


def _agree(name: str, one: Array, other: Array) -> None:
    if not isinstance(one, Tracer) and not isinstance(other, Tracer) and float(one) != float(other):
        msg = f"parameter {name!r}: the models start it at {float(one)} and at {float(other)}"
        raise ValueError(msg)


def _check_constraints(models: Sequence[AbstractModel]) -> None:
    seen: set[str] = set()
    for m in models:
        names = _constrained(m)
        for name in sorted(seen & names):
            msg = f"parameter {name!r}: two models constrain it; leave the constraint to one of them"
            raise ValueError(msg)
        seen |= names
