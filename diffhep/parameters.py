"""Parameters: leaves of one pytree that know their unit, bounds and role.

Every quantity to optimise - an absorber thickness, a trigger threshold, a nuisance, a network weight - is a leaf of the
same tree. A `Param` stores it unconstrained and of order one, so that one optimiser step size serves a radius of
300 mm and a weight of 0.1. `split` selects what is trained, `resolve` turns Params into arrays once, inside the loss.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

Role = Literal["geometry", "threshold", "nuisance", "weight", "bits"]


class Param(paramax.AbstractUnwrappable[Array]):
    """A physical quantity to optimise: an unconstrained leaf, and what it means.

    Args:
        value: the physical value, in `unit`; scalar or array.
        unit: unit of the value, "" for a pure number.
        role: geometry, threshold, nuisance, weight, or bits: numbers of bits of words, whose gradients are surrogates.
        bounds: open interval the value stays in; a start on or outside it is a ValueError.
        scale: typical size of an unbounded value.
        frozen: kept out of `split`'s trainable part.

    >>> float(Param(4.0, unit="mm", role="geometry", bounds=(0.3, 20.0)).unwrap())
    4.0
    """

    raw: Float[Array, "*shape"]
    unit: str = eqx.field(static=True)
    role: Role = eqx.field(static=True)
    bounds: tuple[float, float] | None = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    frozen: bool = eqx.field(static=True)

    def __init__(
        self,
        value: float | np.ndarray | Array,
        *,
        unit: str,
        role: Role,
        bounds: tuple[float, float] | None = None,
        scale: float = 1.0,
        frozen: bool = False,
    ):
        self.unit, self.role, self.bounds, self.scale, self.frozen = unit, role, bounds, scale, frozen
        if bounds is not None and not bounds[0] < bounds[1]:
            msg = f"bounds cross: ({bounds[0]}, {bounds[1]}) {unit}"
            raise ValueError(msg)
        self.raw = to_raw(jnp.asarray(value, dtype=float), bounds=bounds, scale=scale, unit=unit)

    def unwrap(self) -> Float[Array, "*shape"]:
        """The physical value, in `unit`."""
        if self.bounds is None:
            return self.raw * self.scale
        low, high = self.bounds
        return low + (high - low) * jax.nn.sigmoid(self.raw)

    def slope(self) -> Float[Array, "*shape"]:
        """d(value)/d(raw): turns a gradient with respect to the raw leaf into one per unit, by division."""
        if self.bounds is None:
            return jnp.full_like(self.raw, self.scale)
        s = jax.nn.sigmoid(self.raw)
        return (self.bounds[1] - self.bounds[0]) * s * (1 - s)

    def at(self, value: float | np.ndarray | Array) -> "Param":
        """The same parameter with another physical value; a ValueError if that lies outside the bounds."""
        return Param(value, unit=self.unit, role=self.role, bounds=self.bounds, scale=self.scale, frozen=self.frozen)

    def freeze(self, *, frozen: bool = True) -> "Param":
        """The same parameter, kept out of (or, with `frozen=False`, put back into) the trainable part.

        The raw leaf is taken over as it is: a value next to a bound, rounded onto it, would be refused.
        """
        middle = 0.0 if self.bounds is None else 0.5 * (self.bounds[0] + self.bounds[1])
        blank = Param(middle, unit=self.unit, role=self.role, bounds=self.bounds, scale=self.scale, frozen=frozen)
        return eqx.tree_at(lambda p: p.raw, blank, self.raw)


if TYPE_CHECKING:
    Scalar = Any
else:
    # a Param while a design is made and moved, an array inside the loss, where `resolve` has been called
    Scalar = Float[Array, ""] | Param | float


def to_raw(
    value: Float[Array, "*shape"], *, bounds: tuple[float, float] | None, scale: float = 1.0, unit: str = ""
) -> Float[Array, "*shape"]:
    """The unconstrained leaf of a physical value: inverse of `Param.unwrap`.

    Concrete values are checked against the bounds; traced ones cannot be.
    """
    if bounds is None:
        return value / scale
    low, high = bounds
    if not isinstance(value, Tracer) and not bool(jnp.all((low < value) & (value < high))):
        msg = f"value {np.asarray(value)} {unit} outside its bounds ({low}, {high}) {unit}".replace("  ", " ")
        raise ValueError(msg)
    fraction = (value - low) / (high - low)
    return jnp.log(fraction) - jnp.log1p(-fraction)


def is_param(x: object) -> bool:
    """Whether a node of a tree is a Param."""
    return isinstance(x, Param)


def resolve(tree: PyTree) -> PyTree:
    """The tree with every Param replaced by its physical value. Called once, inside the loss."""
    return paramax.unwrap(tree)


def split(tree: PyTree, where: Callable[[Param], bool] = lambda p: True) -> tuple[PyTree, PyTree]:
    """Partition into (trainable, rest); `equinox.combine` puts them back together.

    Trainable are the unfrozen Params that satisfy `where`, and all other inexact arrays (network weights) that are
    not wrapped in `paramax.NonTrainable`.
    """

    def mask(x: object) -> PyTree:
        if isinstance(x, paramax.NonTrainable):
            return jax.tree.map(lambda _: False, x)
        if isinstance(x, Param):
            return jax.tree.map(lambda _: not x.frozen and where(x), x)
        return eqx.is_inexact_array(x)

    def stop(x: object) -> bool:
        return isinstance(x, Param | paramax.NonTrainable)

    return eqx.partition(tree, jax.tree.map(mask, tree, is_leaf=stop))


def named_params(tree: PyTree) -> dict[str, Param]:
    """All Params of a tree by their path, for example `calorimeter.absorber`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_param)
    return {path_name(path): leaf for path, leaf in leaves if isinstance(leaf, Param)}


def path_name(path: tuple) -> str:
    """A readable name of a pytree path: attributes and dictionary keys joined by dots, indices in brackets."""
    name = ""
    for entry in path:
        if isinstance(entry, jax.tree_util.SequenceKey):
            name += f"[{entry.idx}]"
        else:
            name += "." + str(getattr(entry, "name", getattr(entry, "key", entry)))
    return name.lstrip(".")
