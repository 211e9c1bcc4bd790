"""Calibration of the model of what tables take: random networks through da4ml and yosys, a fit, networks held out.

    python -m diffhep.trigger.table_calibration --networks 200 --held-out 100 --output table_model.json

makes the constants that `diffhep.trigger.table_resources` ships, from recorded seeds: fitted to the first networks,
judged on those after them. An interrupted calibration goes on where it stopped.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from diffhep.trigger.calibration import INPUT_FORMAT, errors, held_out_columns, records_of, write_record
from diffhep.trigger.learned import Quantiser
from diffhep.trigger.learned_tables import KNOTS, MOST_BITS, LearnedTables, TableClassifier
from diffhep.trigger.table_resources import FILE, TableModel, table_features

LARGEST = 20  # channels of a network's input
REACH = 4.0  # of the words, either way


def random_tables(seed: int) -> TableClassifier:
    """A network of one to three layers with random sizes, functions, bits and sparsity, as training leaves them."""
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
        source = Quantiser(*(jnp.asarray(x) for x in (np.full(n, 2.0), bits - 3)), k=1)
        f = jnp.asarray(np.round(result_f + rng.normal(size=(n, m))))
        ends = jnp.full(n, -REACH), jnp.full(n, 2 * REACH / (KNOTS - 1))
        layers.append(LearnedTables(jnp.asarray(heights), f, source, *ends))
    return TableClassifier(tuple(layers), (0,) * sizes[0], INPUT_FORMAT).frozen()


def fit(columns: np.ndarray, luts: np.ndarray, depths: np.ndarray, levels: np.ndarray) -> TableModel:
    """The constants, none of them negative, that come closest to counted tables in relative terms."""
    found = scipy.optimize.nnls(columns / luts[:, None], np.ones(len(luts)))[0]
    slopes = np.linalg.lstsq(depths, levels, rcond=None)[0]
    return TableModel(*(jnp.asarray(x) for x in (found[:MOST_BITS], found[MOST_BITS:], slopes)))


def calibrate(records: Sequence[dict[str, Any]], *, fitted: int) -> dict[str, Any]:
    """The fit to the networks of recorded seeds, and its errors on those held out.

    Args:
        records: `seed`, `luts` and `levels` of each.
        fitted: seed of the first network that is held out.
    """
    found = [table_features(random_tables(record["seed"])) for record in records]
    columns = np.array([np.concatenate([x.tables, x.parts]) for x in found])
    depths = np.array([x.levels for x in found])
    luts, levels, held = held_out_columns(records, fitted)
    model = fit(columns[~held], luts[~held], depths[~held], levels[~held])
    predicted = columns @ np.concatenate([model.tables, model.parts])
    off = np.abs(np.round(depths @ np.asarray(model.levels)) - levels)
    return {
        "model": model.to_dict(),
        "networks": {"fitted": int((~held).sum()), "held_out": int(held.sum()), "first_held_out": fitted},
        "held_out": {
            "luts": errors(predicted[held], luts[held]),
            "levels_within_1": float((off[held] <= 1).mean()),
        },
        "fitted": {"luts": errors(predicted[~held], luts[~held])},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Synthesise, fit, write; what was synthesised already is kept in FILE.records."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--networks", type=int, default=200, help="random networks to fit to, of seeds from 0 on")
    parser.add_argument("--held-out", type=int, default=100, help="networks to judge by, of the seeds after them")
    parser.add_argument("--output", type=Path, default=Path(FILE), help="the new file")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    records = records_of(options.output, range(options.networks + options.held_out), random_tables)
    command = f"python -m diffhep.trigger.table_calibration --networks {options.networks}"
    found = {"command": f"{command} --held-out {options.held_out}", **calibrate(records, fitted=options.networks)}
    write_record(options.output, found, records)


if __name__ == "__main__":
    main()
