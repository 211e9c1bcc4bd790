r"""What networks of tables take, as a differentiable function of their bits: lookup tables and levels.

A bit of a result that is a function of a word of B bits takes $t_B$ lookup tables: about one up to six bits, of which
part hides in the adder that follows, and twice as much for every further bit. Adding takes a lookup table a bit of
every result but one of a sum; what saturates takes some for every bit of its words, and of the sums they come from. The
constants, none of them negative, were fitted to yosys on random networks (`diffhep.trigger.table_calibration`). Only
what reaches an output counts.
"""

import importlib.resources
import json
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffhep.trigger.learned_tables import MOST_BITS, LearnedTables, TableClassifier

FILE = "table_model.json"
FIELDS = ("tables", "parts", "levels")


class TableFeatures(NamedTuple):
    """What the model looks at, summed over what is alive of one layer.

    Attributes:
        tables: bits of results that are functions of words of 1, 2, ... `MOST_BITS` bits.
        parts: bits that are added, sums' terms but one each, bits of words that arrive, bits of words that were sums,
            bits of those sums.
        levels: 1 if there is anything, and log2 of the most terms of a sum.
    """

    tables: Float[Array, " bits"]
    parts: Float[Array, "5"]
    levels: Float[Array, "2"]


def live_tables(network: TableClassifier) -> list[Bool[Array, "n m"]]:
    """The tables of each layer whose result varies and reaches an output."""
    varies = [jax.lax.stop_gradient(layer.bits()) > 0 for layer in network.layers]
    # a sum of nothing is constant, and so is every table of it
    for n in range(1, len(varies)):
        varies[n] = varies[n] & varies[n - 1].any(axis=0)[:, None]
    for n in range(len(varies) - 2, -1, -1):
        varies[n] = varies[n] & varies[n + 1].any(axis=1)
    return varies


def features(layer: LearnedTables, live: Bool[Array, "n m"], *, first: bool) -> TableFeatures:
    """The features of one layer, given its tables that count; `first` if its words arrive from outside."""
    result = jnp.where(live, layer.bits(), 0.0)
    word = layer.word.bits()
    size, moved = jax.lax.stop_gradient(word), word - jax.lax.stop_gradient(word)
    of = lambda size: (size[:, None] == jnp.arange(1, MOST_BITS + 1)).astype(word.dtype)
    # the slope is what a bit less would save
    share = of(size) + moved[:, None] * (of(size) - of(size - 1))
    rows = jnp.sum(result, axis=1)
    terms, added = jnp.sum(live, axis=0), jnp.sum(result, axis=0)
    widest = jnp.max(result, axis=0, initial=0.0)
    read = live.any(axis=1)
    words = jnp.sum(jnp.where(read, word, 0.0))
    nothing = jnp.zeros((), word.dtype)
    parts = (
        jnp.sum(added - widest),
        jnp.sum(jnp.maximum(terms - 1, 0)).astype(word.dtype),
        words if first else nothing,
        nothing if first else words,
        jnp.sum(jnp.where(terms > 0, widest + jnp.log2(jnp.maximum(terms, 1)), 0.0)),
    )
    depth = jnp.log2(jnp.maximum(jnp.max(terms, initial=0), 1)).astype(word.dtype)
    return TableFeatures(
        jnp.sum(share * rows[:, None], axis=0),
        jnp.stack(parts),
        jnp.stack([live.any().astype(word.dtype), depth]),
    )


def table_features(network: TableClassifier) -> TableFeatures:
    """The features of a network: the sum of those of its layers. The last sums saturate nowhere."""
    found = [
        features(layer, live, first=n == 0)
        for n, (layer, live) in enumerate(zip(network.layers, live_tables(network), strict=True))
    ]
    last = found[-1].parts.at[4].set(0.0)
    found[-1] = found[-1]._replace(parts=last)
    return jax.tree.map(lambda *x: sum(x), *found)


class TableModel(eqx.Module):
    """The fitted constants.

    Attributes:
        tables: lookup tables a bit of a result, for words of 1, 2, ... bits.
        parts: lookup tables of each of `TableFeatures.parts`.
        levels: of adders, for each of `TableFeatures.levels`.
    """

    tables: Float[Array, " bits"]
    parts: Float[Array, "5"]
    levels: Float[Array, "2"]

    def luts(self, network: TableClassifier) -> Float[Array, ""]:
        """Lookup tables, as `LutModel.luts`."""
        found = table_features(network)
        return found.tables @ self.tables + found.parts @ self.parts

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
