"""Calibration of the model of lookup tables: random networks through da4ml and yosys, a fit, networks held out.

    python -m diffhep.trigger.calibration --networks 500 --held-out 201 --output lut_model.json

makes the constants that `diffhep.trigger.resources` ships, from recorded seeds: fitted to the first networks, judged on
those after them. An interrupted calibration goes on where it stopped.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from diffhep.trigger.exported import logits_of
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.learned import LearnedLinear, Quantiser
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.project import tool_versions
from diffhep.trigger.resources import FILE, Features, LutModel, ebops, features_of
from diffhep.trigger.synthesis import synthesised

INPUT_FORMAT = FixedPoint(1, 3, 8)
LEVELS_PER_STAGE = 5
DEPTH, LARGEST = 3, 33  # maps of a network, channels of a map
START = LutModel(
    widths=jnp.array([0.5, 0.2]),
    powers=jnp.zeros(5),
    parts=jnp.array([0.4, 0.4, 0.4, 0.4, 0.4, 0.4, -0.2]),
    levels=jnp.ones(3),
)
PRIOR = 0.02  # weight of the start against one network known to 100 %
LARGE = 1000  # lookup tables of a network that counts as large
ROBUST = 0.1  # relative error beyond which a network pulls less


def random_classifier(seed: int) -> LearnedClassifier:
    """A network of one to three layers with random sizes, bits and sparsity, as training leaves them."""
    network, sizes = random_padded(seed)
    return cut(network, sizes)


def random_padded(seed: int) -> tuple[LearnedClassifier, tuple[int, ...]]:
    """The same in maps of one size, for which the programs are compiled once, and the numbers of channels."""
    rng = np.random.default_rng([2026, seed])
    depth = int(rng.integers(1, DEPTH + 1))
    largest = (32, 24, 16)[depth - 1]
    sizes = rng.integers(3, largest + 1, depth + 1)
    wrap = rng.choice(["WRAP", "SAT"], p=[0.7, 0.3]) == "WRAP"
    words = np.floor(np.ldexp(np.clip(rng.normal(size=(2000, sizes[0])), -7, 7), 8)) / 256
    fine = rng.uniform(-1, 5)
    f = lambda mean, shape: np.round(mean + rng.normal(size=shape))
    source, layers = Quantiser(*(np.zeros(sizes[0]), f(fine, sizes[0])), k=1), []
    for n in range(depth):
        m, fan_in = int(sizes[n + 1]), int(sizes[n])
        # heavier tails than normal: training leaves few large weights and many small ones
        weight = rng.normal(size=(m, fan_in)) * np.exp(rng.uniform(0, 1.2) * rng.normal(size=(m, fan_in)))
        weight *= np.sqrt(2 / fan_in) / weight.std()
        weight *= rng.random((m, fan_in)) > rng.choice([0.0, rng.uniform(0, 0.9)])
        bias = 0.3 * rng.normal(size=m)
        last = n == depth - 1
        output = Quantiser(*(np.zeros(m), f(rng.uniform(0, 5), m)), k=int(last))
        layers.append(LearnedLinear(weight, bias, f(rng.uniform(1, 6), (m, fan_in)), f(4.0, m), output, not last))  # type: ignore[arg-type]
    made = padded(LearnedClassifier(source, tuple(layers), (0,) * int(sizes[0]), INPUT_FORMAT))
    made = calibrated(made, jnp.asarray(np.pad(words, [(0, 0), (0, LARGEST - sizes[0])])))
    return (made.wrapping() if wrap else made).frozen(), tuple(sizes.tolist())


@eqx.filter_jit
def calibrated(network: LearnedClassifier, words: jax.Array) -> LearnedClassifier:
    """The network with the ranges of a sample."""
    return network.calibrated(words)


def resized(network: LearnedClassifier, sizes: Sequence[int], change: Callable[..., Any]) -> LearnedClassifier:
    """The network in maps of other sizes; `change(array, shape, filling)` makes one array."""

    def quantiser(q: Quantiser, n: int) -> Quantiser:
        return Quantiser(change(q.i, (n,), -q.k), change(q.f, (n,), 0.0), q.k, q.rounding, q.overflow)

    layers = []
    for layer, n, m in zip(network.layers, sizes[:-1], sizes[1:], strict=True):
        weight_f = np.broadcast_to(layer.weight_f, layer.weight.shape)
        arrays = [change(x, (m, n), 0.0) for x in (layer.weight, weight_f)]
        arrays += [change(x, (m,), 0.0) for x in (layer.bias, np.broadcast_to(layer.bias_f, layer.bias.shape))]
        output = quantiser(layer.output, m)
        layers.append(LearnedLinear(arrays[0], arrays[2], arrays[1], arrays[3], output, layer.relu))
    return LearnedClassifier(quantiser(network.input, sizes[0]), tuple(layers), (0,) * sizes[0], network.input_format)


def padded(network: LearnedClassifier, size: int = LARGEST) -> LearnedClassifier:
    """The same logic in maps of one size: channels that are added have no bits and no weight."""
    wider = lambda x, shape, value: jnp.asarray(
        np.pad(x, [(0, n - m) for m, n in zip(np.shape(x), shape, strict=True)], constant_values=value)
    )
    return resized(network, (size,) * (len(network.layers) + 1), wider)


def cut(network: LearnedClassifier, sizes: Sequence[int]) -> LearnedClassifier:
    """The first channels of every map."""
    return resized(network, sizes, lambda x, shape, _: jnp.asarray(np.asarray(x)[tuple(map(slice, shape))]))


def feature_table(networks: Sequence[LearnedClassifier]) -> Features:
    """The features of all networks, in maps of one size, as arrays (network, map): zero where there is no such map."""
    compiled = eqx.filter_jit(features_of)
    rows = []
    for network in networks:
        found = [np.array(jax.tree.leaves(x), float) for x in compiled(network)]
        rows.append(np.pad(np.stack(found), [(0, DEPTH - len(found)), (0, 0)]))
    return Features(*np.moveaxis(np.stack(rows), 2, 0))


def fit(table: Features, luts: Float[np.ndarray, " network"], levels: Float[np.ndarray, " network"]) -> LutModel:
    """The constants that come closest to counted tables, in relative terms, and to counted levels."""
    start, unravel = ravel_pytree(START)
    fixed = len(START.levels)  # the last ones: a linear problem of their own
    complete = lambda v: unravel(jnp.concatenate([v, jnp.asarray(start[-fixed:])]))
    # factors are not negative but that of what is cut off, exponents may be
    free = lambda x: jnp.full(x.shape, -jnp.inf)
    floor = LutModel(jnp.zeros(2), free(START.powers), jnp.zeros(len(START.parts)).at[-1].set(-jnp.inf), START.levels)
    floor = ravel_pytree(floor)[0]

    @jax.jit
    def residual(v: jax.Array) -> jax.Array:
        found = complete(v).luts_of(table).sum(axis=1)
        return jnp.concatenate([jnp.log(jnp.maximum(found, 1.0) / luts), PRIOR * (v - start[:-fixed])])

    jacobian = jax.jit(jax.jacfwd(residual))
    solved = scipy.optimize.least_squares(
        lambda v: np.asarray(residual(v)),
        np.asarray(start[:-fixed]),
        jac=lambda v: np.asarray(jacobian(v)),  # type: ignore[arg-type]
        bounds=(np.asarray(floor[:-fixed]), np.inf),
        loss="soft_l1",
        f_scale=ROBUST,
    )
    there = (table.outputs > 0).astype(float)
    columns = np.stack([there.sum(1), (there * table.depth).sum(1), (there * table.saturates).sum(1)], axis=1)
    slopes = np.linalg.lstsq(columns, levels, rcond=None)[0]
    return eqx.tree_at(lambda m: m.levels, complete(jnp.asarray(solved.x)), jnp.asarray(slopes))


def errors(predicted: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Median, 95th percentile and largest relative error."""
    off = np.abs(predicted / counted - 1)
    return {"median": float(np.median(off)), "p95": float(np.quantile(off, 0.95)), "largest": float(off.max())}


def power_law(x: np.ndarray, counted: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The best a x^b for the counts of the training networks: what a single number can say."""
    slope, offset = np.polyfit(np.log(x[train]), np.log(counted[train]), 1)
    return np.exp(offset + slope * np.log(x))


def calibrate(records: Sequence[dict[str, Any]], *, fitted: int) -> dict[str, Any]:
    """The fit to the networks of recorded seeds, and its errors on those held out.

    Args:
        records: `seed`, `luts`, `cost` and `levels` of each.
        fitted: seed of the first network that is held out.
    """
    networks = [random_padded(record["seed"])[0] for record in records]
    table = feature_table(networks)
    luts, levels, held = held_out_columns(records, fitted)
    model = fit(Features(*(x[~held] for x in table)), luts[~held], levels[~held])
    predicted, depth = np.asarray(model.luts_of(table).sum(axis=1)), np.asarray(model.levels_of(table).sum(axis=1))
    compiled = eqx.filter_jit(ebops)
    laws = {"ebops": np.array([float(compiled(network)) for network in networks])}
    return {"model": model.to_dict(), **report(predicted, depth, records, fitted, large=LARGE, laws=laws)}


def report(
    predicted: np.ndarray,
    depth: np.ndarray,
    records: Sequence[dict[str, Any]],
    fitted: int,
    *,
    large: int,
    laws: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """How far a model is off, and what single numbers can say.

    Args:
        predicted: lookup tables of each network.
        depth: its levels.
        records: what was counted.
        fitted: seed of the first network that is held out.
        large: lookup tables of a network that counts as large.
        laws: numbers of each network, by name, beside da4ml's cost.
    """
    luts, levels, held = held_out_columns(records, fitted)
    off = np.abs(np.round(depth) - levels)
    big = held & (luts >= large)
    by = {**laws, "da4ml_cost": np.array([record["cost"] for record in records], float)}
    return {
        "networks": {"fitted": int((~held).sum()), "held_out": int(held.sum()), "first_held_out": fitted},
        "held_out": {
            "luts": errors(predicted[held], luts[held]),
            f"luts_from_{large}": errors(predicted[big], luts[big]),
            **{f"luts_by_{name}": errors(power_law(x, luts, ~held)[held], luts[held]) for name, x in by.items()},
            "levels_within_1": float((off[held] <= 1).mean()),
            "levels_within_3": float((off[held] <= 3).mean()),
        },
        "fitted": {"luts": errors(predicted[~held], luts[~held])},
    }


def records_of(output: Path, seeds: Sequence[int], random_network: Callable[[int], Any]) -> list[dict[str, Any]]:
    """What yosys counts for the networks of some seeds, kept beside the output from network to network."""
    kept = output.with_suffix(".records")
    records = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    done = {record["seed"] for record in records}
    for seed in seeds:
        if seed in done:
            continue
        try:
            logits = logits_of(random_network(seed))
            found = synthesised(logits.function, logits.words, levels_per_stage=LEVELS_PER_STAGE)
        except ValueError as error:
            # nothing of it is left: there is no logic to count
            print(f"{seed}: {error}", file=sys.stderr)
            continue
        records.append({"seed": seed} | found)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(records[-1]) + "\n")
        print(f"{seed}: {found['luts']} LUTs", file=sys.stderr)
    return records


def held_out_columns(records: Sequence[dict[str, Any]], fitted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counted lookup tables and levels of each network, and whether it is held out."""
    column = lambda name: np.array([record[name] for record in records], float)
    return column("luts"), column("levels"), column("seed") >= fitted


def write_record(output: Path, found: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """Write a calibration: what was found, with which tools, and what was counted; shows what the held-out ones say."""
    result = {
        **found,
        "tool": records[0]["tool"],
        "levels_per_stage": LEVELS_PER_STAGE,
        "versions": tool_versions(("diffhep", "da4ml", "jax", "numpy")),
        "counted": [{name: record[name] for name in ("seed", "luts", "levels", "cost")} for record in records],
    }
    text = json.dumps(result, indent=1)
    # one network a line
    text = re.sub(r"\{\s+\"seed\"[^}]*\}", lambda found: " ".join(found[0].split()), text)
    output.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(result["held_out"], indent=1))


def run(
    arguments: Sequence[str] | None,
    module: str,
    made: Callable[[int], Any],
    calibrate: Callable[..., dict[str, Any]],
    *,
    networks: int,
    held_out: int,
    file: str,
) -> None:
    """A command that calibrates: synthesise, fit, write; what was synthesised already is kept in FILE.records.

    Args:
        arguments: of the command.
        module: that is run.
        made: the random network of a seed.
        calibrate: what is found from records, and the seed of the first network that is held out.
        networks: random networks to fit to, if the command does not say.
        held_out: networks to judge by, likewise.
        file: where to, likewise.
    """
    parser = argparse.ArgumentParser(description="Synthesise, fit, write; what was synthesised is kept in FILE.records")
    parser.add_argument("--networks", type=int, default=networks, help="random networks to fit to, of seeds from 0 on")
    parser.add_argument("--held-out", type=int, default=held_out, help="networks to judge by, of the seeds after them")
    parser.add_argument("--output", type=Path, default=Path(file), help="the new file")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    records = records_of(options.output, range(options.networks + options.held_out), made)
    command = f"python -m {module} --networks {options.networks} --held-out {options.held_out}"
    write_record(options.output, {"command": command, **calibrate(records, fitted=options.networks)}, records)


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate the model of dense layers."""
    module = "diffhep.trigger.calibration"
    run(arguments, module, random_classifier, calibrate, networks=500, held_out=201, file=FILE)


if __name__ == "__main__":
    main()
