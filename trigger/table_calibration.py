"""Calibration of the model of what tables take: random networks through da4ml and yosys, a fit, networks held out.

    python -m diffhep.trigger.table_calibration --networks 200 --held-out 100 --output table_model.json

makes the constants that `diffhep.trigger.table_resources` ships, from recorded seeds: fitted to the first networks,
judged on those after them. An interrupted calibration goes on where it stopped.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from diffhep.trigger.calibration import INPUT_FORMAT, held_out_columns, report, run
from diffhep.trigger.learned import Quantiser
from diffhep.trigger.learned_tables import KNOTS, MOST_BITS, LearnedTables, TableClassifier
from diffhep.trigger.table_resources import FILE, TableFeatures, TableModel, table_features

LARGEST = 20  # channels of a layer
REACH = 4.0  # of the words, either way
LEAST, LARGE = 30, 250  # lookup tables of a network that is looked at, and of one that counts as large


def random_tables(seed: int) -> TableClassifier:
    """A network of one to three layers with random sizes, functions, bits and sparsity, as training leaves them."""
    network, sizes = random_padded(seed)
    layers = []
    for layer, n, m in zip(network.layers, sizes[:-1], sizes[1:], strict=True):
        source = Quantiser(layer.source.i[:n], layer.source.f[:n], k=1)
        arrays = layer.heights[:n, :, :m], layer.f[:n, :m], source, layer.low[:n], layer.spacing[:n]
        layers.append(LearnedTables(*arrays))
    return TableClassifier(tuple(layers), (0,) * sizes[0], (0.0,) * sizes[0], INPUT_FORMAT)


def random_padded(seed: int) -> tuple[TableClassifier, tuple[int, ...]]:
    """The same in layers of one size, for which the programs are compiled once, and the numbers of channels."""
    rng = np.random.default_rng([2027, seed])
    depth = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2]))
    sizes = [int(rng.integers(6, LARGEST + 1)), *(int(n) for n in rng.integers(3, (16, 16, 10)[depth - 1] + 1, depth))]
    place, layers = np.linspace(-REACH, REACH, KNOTS)[:, None], []
    word_bits, result_f, kept = rng.uniform(2, 6.5), rng.uniform(1, 4), rng.uniform(0.2, 1)
    for n, m in itertools.pairwise(sizes):
        kinks, kind = rng.uniform(-2, 2, (2, n, 1, m)), rng.integers(0, 3, (n, 1, m))
        step, bump = np.tanh(2 * (place - kinks[0])), np.exp(-((place - kinks[1]) ** 2))
        shape = np.choose(kind, [np.broadcast_to(place, step.shape) / 2, step, bump])
        heights = rng.normal(size=(n, 1, m)) * np.exp(0.5 * rng.normal(size=(n, 1, m))) * shape / n**0.5
        heights *= rng.random((n, 1, m)) < kept
        bits = np.clip(np.round(word_bits + rng.normal(size=n)), 0, MOST_BITS)
        f = np.round(result_f + rng.normal(size=(n, m)))
        layers.append(padded_layer(heights, f, bits))
    return TableClassifier(tuple(layers), (0,) * LARGEST, (0.0,) * LARGEST, INPUT_FORMAT).frozen(), tuple(sizes)


def padded_layer(heights: np.ndarray, f: np.ndarray, bits: np.ndarray) -> LearnedTables:
    """Tables between words of so many bits from -4 to 4, and channels beside them that hold nothing."""
    wider = lambda x, *shape: jnp.asarray(np.pad(x, [(0, a - b) for a, b in zip(shape, x.shape, strict=True)]))
    ends = jnp.full(LARGEST, -REACH), jnp.full(LARGEST, 2 * REACH / (KNOTS - 1))
    source = Quantiser(jnp.full(LARGEST, 2.0), wider(bits, LARGEST) - 3, k=1)
    return LearnedTables(wider(heights, LARGEST, KNOTS, LARGEST), wider(f, LARGEST, LARGEST), source, *ends)


def fit(found: Sequence[TableFeatures], luts: np.ndarray, levels: np.ndarray) -> TableModel:
    """The constants, none of them negative, that come closest to counted tables in relative terms."""
    columns = np.array([[*np.cumsum(x.tables[::-1])[::-1], x.added] for x in found])
    # by the steps from one number of bits to the next, so that no table of more bits takes less
    *steps, added = scipy.optimize.nnls(columns / luts[:, None], np.ones(len(luts)))[0]
    slopes = np.linalg.lstsq(np.array([x.levels for x in found]), levels, rcond=None)[0]
    return TableModel(jnp.asarray(np.cumsum(steps)), jnp.asarray(added), jnp.asarray(slopes))


def calibrate(records: Sequence[dict[str, Any]], *, fitted: int) -> dict[str, Any]:
    """The fit to the networks of recorded seeds, and its errors on those held out.

    Args:
        records: `seed`, `luts`, `cost` and `levels` of each.
        fitted: seed of the first network that is held out.
    """
    # of fewer, every single one is some per cent
    records = [record for record in records if record["luts"] >= LEAST]
    compiled = eqx.filter_jit(table_features)
    found = [compiled(random_padded(record["seed"])[0]) for record in records]
    luts, levels, held = held_out_columns(records, fitted)
    model = fit([x for x, out in zip(found, held, strict=True) if not out], luts[~held], levels[~held])
    predicted = np.array([float(model.of_features(x)) for x in found])
    depth = np.array([float(x.levels @ model.levels) for x in found])
    return {"model": model.to_dict(), **report(predicted, depth, records, fitted, large=LARGE, laws={})}


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate the model of tables."""
    module = "diffhep.trigger.table_calibration"
    run(arguments, module, random_tables, calibrate, networks=200, held_out=100, file=FILE)


if __name__ == "__main__":
    main()
