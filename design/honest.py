r"""The honest check: an objective on fresh events, with its statistical error.

An objective made of weighted counts is a smooth function of the event weights, even with hard cuts. Its standard error
follows from one reverse pass (infinitesimal jackknife; Jaeckel 1972): event i has the influence
$I_i = \partial Z/\partial r_i$ at $r = 1$, where r multiplies its weight, and $\sigma_Z^2 = \sum_i I_i^2$. The error
of the difference of two designs on the same events is $\sqrt{\sum_i (I_i - I'_i)^2}$: their correlation helps.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number with its statistical error.

    Attributes:
        value: the estimate.
        influence: of every event, all samples in a row.
    """

    value: float
    influence: Float[np.ndarray, " event"]

    @property
    def stderr(self) -> float:
        """Standard error from the size of the samples."""
        return float(np.sqrt(np.sum(self.influence**2)))

    def minus(self, other: "Measured") -> "Measured":
        """The difference of two numbers measured on the same events."""
        return Measured(self.value - other.value, self.influence - other.influence)

    def summary(self) -> dict[str, float]:
        """`value` and `stderr`."""
        return {"value": self.value, "stderr": self.stderr}


def measure_with_error(
    function: Callable[[PyTree, Mapping[str, Array], PyTree], Mapping[str, PyTree]],
) -> Callable[[PyTree, Mapping[str, int], PyTree], dict[str, Any]]:
    """Compile a function of (design, event factors, context) into one that returns its values with errors.

    Args:
        function: takes a design, for each sample an array of factors that multiply the event weights, and a context
            (events, keys); returns named numbers. Entries that are not scalars, such as histograms, have no error and
            come back as they are.

    Returns:
        A function of (design, number of events of each sample, context): name -> `Measured`.
    """
    once = jax.jit(function)  # traced once, for the values and for every gradient

    @jax.jit
    def values_and_influence(design: PyTree, factors: Mapping[str, Array], context: PyTree) -> tuple[dict, dict]:
        values = dict(once(design, factors, context))
        # one gradient each: what does not depend on the events then costs nothing
        slope = lambda name: jax.grad(lambda f: once(design, f, context)[name])(dict(factors))
        return values, {name: slope(name) for name, value in values.items() if is_scalar(value)}

    def run(design: PyTree, sizes: Mapping[str, int], context: PyTree) -> dict[str, Any]:
        values, influence = values_and_influence(design, {name: jnp.ones(n) for name, n in sizes.items()}, context)
        in_a_row = {name: np.concatenate([np.asarray(x) for x in parts.values()]) for name, parts in influence.items()}
        measured = {name: Measured(float(values[name]), row) for name, row in in_a_row.items()}
        return {**values, **measured}

    return run


def is_scalar(value: PyTree) -> bool:
    """Whether an entry is a single number."""
    return eqx.is_array(value) and value.ndim == 0
