"""Maximum-likelihood fits of a model, with parameters free or fixed."""

from collections.abc import Mapping
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from diffhep.inference.likelihood import AbstractModel, require_float64
from diffhep.inference.newton import (
    CONVERGED,
    IMPOSSIBLE,
    REASONS,
    Minimum,
    Problem,
    attach,
    attach_theta,
    attach_value,
    constant,
    search,
    solve_free,
)


class Fit(eqx.Module):
    """Result of a fit; check `converged` before using it.

    Attributes:
        theta: all parameters in the order of the model's `names`, the fixed ones included.
        nll: negative log-likelihood relative to the saturated model.
        gradient_norm: largest gradient, in units of the parameters' own uncertainties.
        converged: whether it is below the tolerance.
        steps: evaluations spent.
        status: 0 converged; `reason` has it in words.
        at_bound: parameters held by a bound.
        names: parameter names.
    """

    theta: Float[Array, " parameter"]
    nll: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    at_bound: Bool[Array, " parameter"]
    names: tuple[str, ...] = eqx.field(static=True)

    def __getitem__(self, name: str) -> Float[Array, "*fit"]:
        """The fitted value of one parameter, one for each fit."""
        return self.theta[..., index_of(self.names, name)]

    @property
    def reason(self) -> str:
        """The status in words; for a concrete, single fit."""
        return REASONS[int(self.status)]


def fit(
    model: AbstractModel,
    data: PyTree,
    *,
    fixed: Mapping[str, ArrayLike] | None = None,
    start: Float[Array, " parameter"] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> Fit:
    """Maximum of the likelihood; differentiable through its optimum with respect to everything in model and data.

    Args:
        model: the model; float64.
        data: what was observed, for a `BinnedModel` a `Data`.
        fixed: name -> value of parameters to hold. Names are static, values may be traced.
        start: start values of all parameters, default the model's.
        tolerance: on the gradient in units of each parameter's uncertainty.
        max_steps: evaluations allowed.

    Raises:
        ValueError: single precision, an unknown parameter name.

    >>> from diffhep.inference import resonance_search
    >>> flat = jnp.full(3, 100.0)
    >>> model = resonance_search(jnp.array([0.0, 9.0, 0.0]), flat, jnp.arange(3.0))
    >>> found = fit(model, model.asimov(model.init), fixed={"mu": 1.0})
    >>> bool(found.converged), round(float(found["norm"]), 9)
    (True, 1.0)
    """
    base = model.init if start is None else jnp.asarray(start)
    fixed = {name: base[index_of(model.names, name)] for name in model.fixed} | dict(fixed or {})
    require_float64(base)
    for name in fixed:
        index_of(model.names, name)
    values = jnp.stack([jnp.asarray(v, base.dtype) for v in fixed.values()]) if fixed else jnp.zeros(0, base.dtype)
    return _fit(model, data, values, base, tuple(fixed), tolerance, max_steps)


def fit_many(
    model: AbstractModel,
    data: PyTree,
    *,
    fixed: Mapping[str, ArrayLike] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 200,
    chunk: int | None = None,
) -> Fit:
    """`fit` to many data sets of one model: toys, pseudo-data, weeks of data taking.

    On a CPU faster than `jax.vmap(fit)` for models that are not small, with 200 bins twice: a chunk of fits stays
    within the cache, and ends with its own slowest fit instead of the slowest of all.

    Args:
        model: the model; float64.
        data: data sets with one more axis in front.
        fixed: as in `fit`, the same for all.
        tolerance: as in `fit`.
        max_steps: as in `fit`.
        chunk: fits at a time; default `chunk_size`.

    Returns:
        A `Fit` whose arrays have one more axis in front.

    Raises:
        ValueError: as in `fit`; a chunk that is not positive.
    """
    chunk = chunk_size(model, jax.tree.map(lambda leaf: leaf[0], data)) if chunk is None else chunk
    if chunk < 1:
        msg = f"chunk: at least one fit at a time is wanted, got {chunk}"
        raise ValueError(msg)
    one = lambda x: fit(model, x, fixed=fixed, tolerance=tolerance, max_steps=max_steps)
    return jax.lax.map(one, data, batch_size=min(chunk, jax.tree.leaves(data)[0].shape[0]))


def chunk_size(model: AbstractModel, data: PyTree) -> int:
    """How many fits to data sets like this one are best done at a time: on a CPU as many as its cache holds.

    A fit works on the derivatives of every bin to every parameter, in some twenty arrays of that size; at 5000 numbers
    each, 200 bins and one parameter are fastest in chunks of 20 to 50, and 200 bins and 65 parameters one by one.
    """
    bins = max(jnp.size(leaf) for leaf in jax.tree.leaves(data))
    wanted = 5000 if jax.default_backend() == "cpu" else 50_000_000
    return max(1, wanted // (bins * max(1, len(model.names))))


@eqx.filter_jit  # called outside jit, it would compile hundreds of small programs
def _fit(
    model: AbstractModel,
    data: PyTree,
    values: Array,
    base: Array,
    fixed: tuple[str, ...],
    tolerance: float,
    max_steps: int,
) -> Fit:
    """`fit` with parameters called `fixed` held at `values`, from the start `base`."""
    held = np.array([index_of(model.names, name) for name in fixed], dtype=int)
    free = np.setdiff1d(np.arange(len(model.names)), held)
    place, insert = np.eye(len(model.names))[free], np.eye(len(model.names))[held]

    def fill(x: Array, values: Array) -> Array:
        return x @ place + values @ insert

    def objective(x: Array, args: PyTree) -> Array:
        model, data, values = args
        return model.nll(fill(x, values), data)

    def slope(x: Array, args: PyTree) -> Array:
        model, data, values = args
        return place @ model.gradient(fill(x, values), data)

    def derivatives(x: Array, args: PyTree) -> tuple[Array, Array, Array]:
        model, data, values = args
        value, gradient, hessian = model.derivatives(fill(x, values), data)
        return value, place @ gradient, place @ hessian @ place.T

    problem, args = Problem(objective, derivatives, tolerance, max_steps, slope), (model, data, values)
    found = attach(problem, search(problem, base[free], args, model.lower[free], model.upper[free]), args)
    theta = fill(found.theta, values)
    found = judged(found, model, theta, data)
    return Fit(
        theta=theta,
        nll=found.value,
        gradient_norm=found.gradient_norm,
        converged=found.converged,
        steps=found.steps,
        status=found.status,
        at_bound=jnp.zeros(len(model.names), bool).at[free].set(found.at_bound),
        names=model.names,
    )


def index_of(names: tuple[str, ...], name: str) -> int:
    """Position of a parameter."""
    if name not in names:
        msg = f"no parameter {name!r}; the model has {', '.join(names)}"
        raise ValueError(msg)
    return names.index(name)


def information(model: AbstractModel, theta: Float[Array, " parameter"], data: PyTree) -> Float[Array, "par par"]:
    """Observed Fisher information: the Hessian of the negative log-likelihood."""
    require_float64(theta)
    return model.derivatives(theta, data)[2]


def variance_of(hessian: Float[Array, "par par"], index: int) -> Float[Array, ""]:
    """One diagonal element of the inverse; inf where the likelihood does not depend on the parameter."""
    others = np.array([i for i in range(hessian.shape[0]) if i != index], dtype=int)
    precision = hessian[index, index]
    if others.size:
        cross = hessian[index, others]
        block = hessian[np.ix_(others, others)]
        precision = precision - cross @ solve_free(block, cross, jnp.ones(others.size, bool))
    # what is left after a complete cancellation is rounding
    known = precision > 1e-12 * hessian[index, index]
    return jnp.where(known, 1 / jnp.where(known, precision, 1.0), jnp.inf)


def fit_each(
    model: AbstractModel,
    data: PyTree,
    values: Float[Array, "fit parameter"],
    held: Bool[Array, "fit parameter"] | Bool[np.ndarray, "fit parameter"],
    *,
    start: Float[Array, "fit parameter"] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> Fit:
    """Several fits of one model in one loop: row by row, each with its own data and its own parameters held.

    This is what tests, scans, impacts and limits are made of: XLA compiles one loop instead of one for every fit.

    Args:
        model: the model, the same for all.
        data: data with one more axis in front.
        values: values of the parameters that are held; those of the others are not used.
        held: which are held.
        start: start values, default the model's.
        tolerance: as in `fit`.
        max_steps: as in `fit`.

    Returns:
        A `Fit` whose arrays have one more axis in front.
    """
    found = search_each(model, data, values, held, start=start, tolerance=tolerance, max_steps=max_steps)
    return attach_each(model, data, values, held, found)


def search_each(
    model: AbstractModel,
    data: PyTree,
    values: Float[Array, "fit parameter"],
    held: Bool[Array, "fit parameter"] | Bool[np.ndarray, "fit parameter"],
    *,
    start: Float[Array, "fit parameter"] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 200,
) -> Minimum:
    """The fits of `fit_each` as constants, without derivatives; arrays with one more axis in front."""
    require_float64(model.init)
    held, values = _always(model, held, values)
    start = jnp.broadcast_to(model.init, values.shape) if start is None else start
    problem = _HELD._replace(tolerance=tolerance, max_steps=max_steps)

    def one(data: PyTree, values: Array, held: Array, start: Array) -> Minimum:
        lower, upper = jnp.where(held, -jnp.inf, model.lower), jnp.where(held, jnp.inf, model.upper)
        found = search(problem, start, (model, data, values, held), lower, upper)
        return eqx.tree_at(lambda m: m.theta, found, jnp.where(held, values, found.theta))

    return jax.vmap(one)(constant(data), constant(values), held, constant(start))


def attach_each(
    model: AbstractModel,
    data: PyTree,
    values: Float[Array, "fit parameter"],
    held: Bool[Array, "fit parameter"] | Bool[np.ndarray, "fit parameter"],
    found: Minimum,
) -> Fit:
    """Fits from `search_each` with their derivatives with respect to model, data and the values held."""
    theta = theta_each(model, data, values, held, found)
    nll = nll_each(model, data, values, held, found)
    return as_fit(model, eqx.tree_at(lambda m: (m.theta, m.value), found, (theta, nll)))


def judged(found: Minimum, model: AbstractModel, theta: Float[Array, " parameter"], data: PyTree) -> Minimum:
    """A minimum that says so if what was observed cannot have come from the model."""
    fails = (found.status == CONVERGED) & ~model.possible(theta, data)
    return eqx.tree_at(lambda m: m.status, found, jnp.where(fails, IMPOSSIBLE, found.status))


def theta_each(
    model: AbstractModel,
    data: PyTree,
    values: Float[Array, "fit parameter"],
    held: Bool[Array, "fit parameter"] | Bool[np.ndarray, "fit parameter"],
    found: Minimum,
) -> Float[Array, "fit parameter"]:
    """Parameters of fits from `search_each` with their derivatives."""
    held, values = _always(model, held, values)

    def one(data: PyTree, values: Array, held: Array, found: Minimum) -> Array:
        return jnp.where(held, values, attach_theta(_HELD, found, (model, data, values, held)))

    return jax.vmap(one)(data, values, held, found)


def nll_each(
    model: AbstractModel,
    data: PyTree,
    values: Float[Array, "fit parameter"],
    held: Bool[Array, "fit parameter"] | Bool[np.ndarray, "fit parameter"],
    found: Minimum,
) -> Float[Array, " fit"]:
    """Negative log-likelihoods of fits from `search_each` with their derivatives."""
    held, values = _always(model, held, values)

    def one(data: PyTree, values: Array, held: Array, found: Minimum) -> Array:
        return attach_value(_HELD, found, (model, data, values, held))

    return jax.vmap(one)(data, values, held, found)


def as_fit(model: AbstractModel, found: Minimum) -> Fit:
    """The `Fit` of all parameters that a minimum of `search_each` describes."""
    return Fit(
        theta=found.theta,
        nll=found.value,
        gradient_norm=found.gradient_norm,
        converged=found.converged,
        steps=found.steps,
        status=found.status,
        at_bound=found.at_bound,
        names=model.names,
    )


def _always(model: AbstractModel, held: ArrayLike, values: Array) -> tuple[Array, Array]:
    """Also holds what the model holds in every fit."""
    always = np.isin(np.array(model.names), model.fixed)
    return jnp.asarray(held) | always, jnp.where(always, model.init, values)


def _held_nll(x: Array, args: PyTree) -> Array:
    model, data, values, held = cast(tuple, args)
    return model.nll(jnp.where(held, values, x), data)


def _held_derivatives(x: Array, args: PyTree) -> tuple[Array, Array, Array]:
    model, data, values, held = cast(tuple, args)
    value, gradient, hessian = model.derivatives(jnp.where(held, values, x), data)
    gradient = jnp.where(held, 0.0, gradient)
    return value, gradient, jnp.where(held | held[:, None], 0.0, hessian) + jnp.diag(jnp.where(held, 1.0, 0.0))


def _held_gradient(x: Array, args: PyTree) -> Array:
    model, data, values, held = cast(tuple, args)
    return jnp.where(held, 0.0, model.gradient(jnp.where(held, values, x), data))


_HELD = Problem(_held_nll, _held_derivatives, gradient=_held_gradient)


def stack(*trees: PyTree) -> PyTree:
    """Data sets of one shape, with one more axis in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def repeat(tree: PyTree, count: int) -> PyTree:
    """One data set, `count` times."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), tree)


def poi_of(model: AbstractModel) -> int:
    """Index of the parameter of interest, or one line that says there is none."""
    if model.poi < 0:
        msg = f"the model has no parameter of interest; its parameters are {', '.join(model.names)}"
        raise ValueError(msg)
    return model.poi
