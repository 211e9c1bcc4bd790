"""A stage is one differentiable step of an experiment; a pipeline is any Python function of stages.

A stage is an immutable `equinox.Module` whose call is a pure, jit-safe function of its input and a key. `key=None` asks
for the mean response, so that every stage also works without random numbers.
"""

import abc
import zlib
from collections import OrderedDict
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree


def fold_name(key: PRNGKeyArray | None, name: str) -> PRNGKeyArray | None:
    """The key of a named stage: inserting a stage changes nobody else's random numbers.

    None stays None (mean response). Old-style integer keys are refused, because they would silently broadcast.
    """
    if key is None:
        return None
    if not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        msg = f"a typed key is wanted (jax.random.key(seed)), got an array of {key.dtype}"
        raise TypeError(msg)
    return jr.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


class AbstractStage(eqx.Module):
    """One differentiable step: `stage(x, *, key=None)`, pure and jit-safe."""

    @abc.abstractmethod
    def __call__(self, x: PyTree, *, key: PRNGKeyArray | None = None) -> PyTree:
        """The output for one input; `key=None` means the mean response."""


class Chain(AbstractStage):
    """Stages called in order, each with a key folded with its own name.

    >>> chain = Chain({"smear": smear, "calibrate": calibrate})  # doctest: +SKIP
    >>> events = chain(events, key=jax.random.key(0))  # doctest: +SKIP
    """

    # ordered, because JAX sorts the keys of a plain dict whenever it rebuilds a tree
    stages: Mapping[str, AbstractStage] = eqx.field(converter=OrderedDict)

    def __call__(self, x: PyTree, *, key: PRNGKeyArray | None = None) -> PyTree:
        """Apply every stage in order."""
        for name, stage in self.stages.items():
            with jax.named_scope(name):
                x = stage(x, key=fold_name(key, name))
        return x

    def __getitem__(self, name: str) -> AbstractStage:
        return self.stages[name]


def total(tree: PyTree) -> Array:
    """Sum of all inexact leaves: the scalar that contract tests differentiate."""
    leaves = [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]
    return sum((x.sum() for x in leaves), start=jax.numpy.zeros(()))
