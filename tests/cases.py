"""What an entry of the contract's list is, and inputs for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from diffhep.detector import SamplingCalorimeter
from diffhep.parameters import Param


class Case(NamedTuple):
    """One entry: `call(tree, x)` is differentiable in the inexact leaves of both."""

    call: Callable[[Any, Any], Any]
    tree: Any
    x: Any


def lead_stack(absorber: float = 5.6, active: float = 4.0, layers: float = 25.0, **options: Any) -> SamplingCalorimeter:
    """A calorimeter whose three design parameters are Params, as in the shipped study."""
    return SamplingCalorimeter(
        Param(absorber, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        Param(active, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        Param(layers, unit="", role="geometry", bounds=(4.0, 160.0)),
        **options,
    )


def on_stage(stage: Any, x: Any, key: Any = None) -> Case:
    """A stage called on its input."""
    return Case(lambda tree, x: tree(x, key=key), stage, x)


def on_function(function: Callable[..., Any], *arrays: Any) -> Case:
    """A function of arrays, without parameters of its own."""
    return Case(lambda tree, x: function(*x), (), tuple(jnp.asarray(a, dtype=float) for a in arrays))


def spread(n: int, low: float, high: float, seed: int = 0) -> jax.Array:
    """n numbers between two limits, in no order."""
    return jr.uniform(jr.key(seed), (n,), minval=low, maxval=high)
