r"""What networks of tables take, as a differentiable function of their bits: lookup tables and levels.

A bit of a result that is a function of a word of B bits takes $t_B$ lookup tables: none of its own where the adder that
follows has room for it, about one up to five bits, and more beyond. Adding takes some for every bit of every result but
one of a sum; saturation, which is little beside them, is not counted. A word that comes from few results has fewer
values than its format, and B is the logarithm of their number. The constants were fitted to yosys on random networks
(`diffhep.trigger.table_calibration`); $t_B$ does not fall with B. Only what reaches an output counts.
"""

import importlib.resources
import json
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffhep.trigger.learned import rounded_bits
from diffhep.trigger.learned_tables import MOST_BITS, LearnedTables, TableClassifier
from diffhep.trigger.modes import power_of_two
from diffhep.trigger.primitive import whole

FILE = "table_model.json"
FIELDS = ("tables", "added", "levels")


class TableFeatures(NamedTuple):
    """What the model looks at, summed over what is alive of a network.

    Attributes:
        tables: bits of results that are functions of words of 1, 2, ... `MOST_BITS` bits.
        added: bits that are added, but one result of each sum.
        levels: layers, and log2 of the most terms of a sum of each.
    """

    tables: Float[Array, " bits"]
    added: Float[Array, ""]
    levels: Float[Array, "2"]


class Sums(NamedTuple):
    """What the sums of a layer can be: the distance of their ends, and their fractional bits."""

    reach: Float[Array, " m"]
    f: Float[Array, " m"]


def live_tables(network: TableClassifier) -> list[Bool[Array, "n m"]]:
    """The tables of each layer whose result varies and reaches an output."""
    varies = [jax.lax.stop_gradient(layer.bits()) > 0 for layer in network.layers]
    # a sum of nothing is constant, and so is every table of it
    for n in range(1, len(varies)):
        varies[n] = varies[n] & varies[n - 1].any(axis=0)[:, None]
    for n in range(len(varies) - 2, -1, -1):
        varies[n] = varies[n] & varies[n + 1].any(axis=1)
    return varies


def features(layer: LearnedTables, live: Bool[Array, "n m"], source: Sums | None) -> tuple[TableFeatures, Sums]:
    """The features of one layer, given its tables that count and the sums its words come from; and its sums."""
    fixed, dtype = jax.lax.stop_gradient, layer.f.dtype
    result, word = jnp.where(live, layer.bits(), 0.0), layer.word
    size = word.bits()
    if source is not None:
        reach = jnp.minimum(source.reach, power_of_two(word.k + whole(word.i), dtype))
        steps = jnp.exp2(jnp.minimum(rounded_bits(word.f), source.f))
        size = jnp.minimum(size, jnp.log2(1 + reach * steps))
    # between this many bits and one less: the slope is what a bit less would save
    upper = jnp.ceil(fixed(size))
    of = lambda size: (size[:, None] == jnp.arange(1, MOST_BITS + 1)).astype(dtype)
    share = of(upper) + (size - upper)[:, None] * (of(upper) - of(upper - 1))
    terms, added = jnp.sum(live, axis=0), jnp.sum(result, axis=0)
    depth = jnp.log2(jnp.maximum(jnp.max(terms, initial=0), 1)).astype(dtype)
    found = TableFeatures(
        jnp.sum(share * jnp.sum(result, axis=1)[:, None], axis=0),
        jnp.sum(added - jnp.max(result, axis=0, initial=0.0)),
        jnp.stack([live.any().astype(dtype), depth]),
    )
    table = fixed(layer.results())
    spread = jnp.where(live, table.max(axis=1) - table.min(axis=1), 0.0)
    finest = jnp.max(jnp.where(live, fixed(rounded_bits(layer.f)), -99.0), axis=0, initial=-99.0)
    return found, Sums(jnp.sum(spread, axis=0), finest)


def table_features(network: TableClassifier) -> TableFeatures:
    """The features of a network: the sum of those of its layers."""
    total, sums = None, None
    for layer, live in zip(network.layers, live_tables(network), strict=True):
        found, sums = features(layer, live, sums)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    assert total is not None
    return total


class TableModel(eqx.Module):
    """The fitted constants.

    Attributes:
        tables: lookup tables a bit of a result, for words of 1, 2, ... bits.
        added: lookup tables a bit that is added.
        levels: of adders, for each of `TableFeatures.levels`.
    """

    tables: Float[Array, " bits"]
    added: Float[Array, ""]
    levels: Float[Array, "2"]

    def luts(self, network: TableClassifier) -> Float[Array, ""]:
        """Lookup tables, as `LutModel.luts`."""
        return self.of_features(table_features(network))

    def of_features(self, found: TableFeatures) -> Float[Array, ""]:
        """The same of the features."""
        return found.tables @ self.tables + found.added * self.added

    def depth(self, network: TableClassifier) -> Float[Array, ""]:
        """Levels of adders between input and output."""
        return table_features(network).levels @ self.levels

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in FIELDS}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "TableModel":
        """What `to_dict` wrote."""
        return TableModel(*(jnp.asarray(data[name], float) for name in FIELDS))


def record() -> dict[str, Any]:
    """The shipped fit: constants, the networks they were fitted to, and how well they do on others."""
    return json.loads(importlib.resources.files("diffhep.trigger").joinpath(FILE).read_text(encoding="utf-8"))


def table_model() -> TableModel:
    """The model with its shipped constants."""
    return TableModel.from_dict(record()["model"])
