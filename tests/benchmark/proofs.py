"""Seven kinds of network by three ways, a million random inputs each, none different: `make trigger-proofs`.

Every output word is computed by JAX, by the C simulation of the hls4ml project and by the simulated Verilog.

The networks are made of the pieces that are trained (`LearnedLinear`, `Quantiser`), with random weights and formats; in
the large ones three weights of four are 0 and the others have a digit or two, as training leaves them. Ranges come
from random inputs and words wrap, so that many of the proof's inputs lie beyond them: hardware must be wrong in the
same way.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from diffhep.trigger import FixedPoint, TableClassifier, Words, export_function, quantise_kif, verify_function
from diffhep.trigger.learned import LearnedLinear, Quantiser

jax.config.update("jax_enable_x64", True)

INPUT = FixedPoint(1, 2, 5)
Proved = tuple[Callable[[Array], Array], tuple[int, ...]]


class Maker:
    """Makes linear maps with random weights, whose words have the ranges of what passes through."""

    def __init__(self, seed: int):
        self.key = jr.key(seed)

    def draw(self, *shape: int) -> Array:
        """Standard normal numbers."""
        self.key, key = jr.split(self.key)
        return jr.normal(key, shape)

    def linear(self, x: Array, outputs: int, *, relu: bool = True, density: float = 1.0) -> LearnedLinear:
        """A map calibrated on a sample x (event, ..., n), with about two fractional bits for every weight and word.

        Args:
            x: the sample.
            outputs: how many.
            relu: as of `LearnedLinear`.
            density: share of the weights that are not 0.
        """
        n = x.shape[-1]
        self.key, key = jr.split(self.key)
        weight = self.draw(outputs, n) / np.sqrt(n * density) * jr.bernoulli(key, density, (outputs, n))
        made = LearnedLinear.of(weight, 0.2 * self.draw(outputs), relu=relu)
        scatter = lambda f: jnp.round(2.0 + self.draw(*f.shape))
        output = Quantiser(made.output.i, scatter(made.output.f), made.output.k)
        made = LearnedLinear(made.weight, made.bias, scatter(made.weight_f), scatter(made.bias_f), output, made.relu)
        output = output.calibrated(made.sums(x).reshape(-1, outputs)).wrapping()
        return LearnedLinear(made.weight, made.bias, made.weight_f, made.bias_f, output, made.relu).frozen()

    def words(self, x: Array, *, k: int, f: float = 4.0) -> Quantiser:
        """What brings a sample (event, ..., n) back to few bits."""
        flat = x.reshape(-1, x.shape[-1])
        given = Quantiser(jnp.zeros(flat.shape[1]), jnp.full(flat.shape[1], f), k)
        return given.calibrated(flat).wrapping().frozen()


def sample(maker: Maker, *shape: int) -> Array:
    """Random inputs on the grid of `INPUT`."""
    return quantise_kif(maker.draw(200, *shape), INPUT.k, INPUT.i, INPUT.f, "RND", "SAT")


def dense(maker: Maker, sizes: tuple[int, ...] = (16, 64, 32, 32, 5)) -> Proved:
    """A classifier."""
    x = sample(maker, sizes[0])
    layers: list[LearnedLinear] = []
    for width in sizes[1:]:
        layers.append(maker.linear(x, width, relu=width != sizes[-1], density=0.25))
        x = layers[-1](x)

    def function(u: Array) -> Array:
        for layer in layers:
            u = layer(u)
        return u

    return function, (sizes[0],)


def convolution(maker: Maker) -> Proved:
    """Two convolutions of 2 x 2 on an image of 6 x 6, the largest of each channel, and a map to three classes."""
    patches = lambda u: jnp.stack([u[..., a : a + 5, b : b + 5] for a in (0, 1) for b in (0, 1)], axis=-1)
    again = lambda u: jnp.concatenate([u[..., a : a + 4, b : b + 4, :] for a in (0, 1) for b in (0, 1)], axis=-1)
    x = sample(maker, 6, 6)
    first = maker.linear(patches(x), 3)
    second = maker.linear(again(first(patches(x))), 4)
    pooled = lambda u: jnp.max(second(again(first(patches(u)))), axis=(-3, -2))
    last = maker.linear(pooled(x), 3, relu=False)
    return lambda u: last(pooled(u)), (6, 6)


def sets(maker: Maker) -> Proved:
    """DeepSets: one map for each of eight particles, their sum, and a map of that."""
    x = sample(maker, 8, 3)
    phi = maker.linear(x, 6)
    pool = maker.words(jnp.sum(phi(x), axis=-2), k=0)
    mean = lambda u: pool(jnp.sum(phi(u), axis=-2))
    hidden = maker.linear(mean(x), 8)
    last = maker.linear(hidden(mean(x)), 2, relu=False)
    return lambda u: last(hidden(mean(u))), (8, 3)


def edges(maker: Maker) -> Proved:
    """An edge convolution of five nodes, each with every other one."""
    x = sample(maker, 5, 3)

    def pairs(u: Array) -> Array:
        own = jnp.broadcast_to(u[..., :, None, :], (*u.shape[:-1], 5, 3))
        return jnp.concatenate([own, u[..., None, :, :] - own], axis=-1)

    edge = maker.linear(pairs(x), 4)
    nodes = lambda u: jnp.max(edge(pairs(u)), axis=-2)
    last = maker.linear(nodes(x).reshape(200, -1), 3, relu=False)
    return lambda u: last(nodes(u).reshape(-1)), (5, 3)


def attention(maker: Maker) -> Proved:
    """One head over four particles: products of words, and a softmax of tables."""
    x = sample(maker, 4, 3)
    query, key, value = (maker.linear(x, 2, relu=False) for _ in range(3))

    def attend(u: Array) -> Array:
        scores = quantise_kif(query(u) @ jnp.swapaxes(key(u), -1, -2), 1, 2, 3, "RND", "SAT")
        weights = quantise_kif(jnp.exp(scores), 0, 4, 4, "RND", "SAT")
        total = quantise_kif(jnp.sum(weights, axis=-1, keepdims=True), 0, 5, 2, "RND", "SAT")
        share = quantise_kif(1 / jnp.maximum(total, 0.25), 0, 1, 6, "RND", "SAT")
        return quantise_kif((weights @ value(u)) * share, 1, 3, 4, "RND", "SAT")

    flat = lambda u: attend(u).reshape(*u.shape[:-2], -1)
    last = maker.linear(flat(x), 2, relu=False)
    return lambda u: last(flat(u)), (4, 3)


def anomaly(maker: Maker) -> Proved:
    """The encoder of a variational autoencoder on 57 inputs, 28-15-8, and the square of its latent words as score."""
    encoder, shape = dense(maker, (57, 28, 15, 8))
    return lambda u: jnp.sum(quantise_kif(encoder(u), 1, 3, 2, "RND", "SAT") ** 2), shape


def tables(maker: Maker) -> Proved:
    """A classifier of lookup tables, whose words saturate."""
    x = sample(maker, 16)
    maker.key, key = jr.split(maker.key)
    network = TableClassifier.init(x, (8, 5), exponents=(0,) * 16, input_format=INPUT, key=key)
    scattered = [jnp.round(1.0 + 1.5 * maker.draw(*layer.f.shape)) for layer in network.layers]
    return eqx.tree_at(lambda t: [layer.f for layer in t.layers], network, scattered).frozen().logits, (16,)


NETWORKS: Mapping[str, Callable[[Maker], Proved]] = {
    "dense 16-64-32-32-5": dense,
    "convolution 6x6": convolution,
    "DeepSets 8x3": sets,
    "edge convolution 5x3": edges,
    "attention 4x3": attention,
    "anomaly score 57-28-15-8": anomaly,
    "tables 16-8-5": tables,
}


def main() -> int:
    """Prove every network; the exit status says whether all words agreed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each network")
    parser.add_argument("--dense-inputs", type=int, help="of the first network, if not as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    columns = "".join(f" {column:>6s}" for column in ("hls", "rtl", "LUT", "cycles", "CPU-s"))
    print(f"{'network':26s} {'inputs':>10s} {'words':>11s}{columns}")
    rows = []
    for number, (name, make) in enumerate(NETWORKS.items()):
        function, shape = make(Maker(options.seed + number))
        began = sum(os.times()[:4])
        with tempfile.TemporaryDirectory(prefix="diffhep-proof-") as folder:
            cards = export_function(function, Path(folder) / "both", inputs=Words(shape, INPUT))
            count = (options.dense_inputs if number == 0 else None) or options.inputs
            found = verify_function(Path(folder) / "both", function, n=count, seed=options.seed)
        if found["missing"].keys() & {"g++", "verilator"}:
            print(f"proofs: missing: {found['missing']}", file=sys.stderr)
            return 1
        row = {"network": name, "inputs": count, "words": found["outputs"], "different": found["mismatches"]}
        row |= {"comparisons": found["comparisons"], "seconds": found["seconds"]}
        row |= {"luts": (found["synthesis"] or {}).get("luts"), "cycles": cards["rtl"]["latency_cycles"]}
        rows.append(row)
        hls, rtl = (row["comparisons"][f"jax, {way}"] for way in ("hls", "rtl"))
        print(
            f"{name:26s} {count:10d} {row['words']:11d} {hls:6d} {rtl:6d} {row['luts']!s:>6s} {row['cycles']:6d}"
            f" {sum(os.times()[:4]) - began:6.0f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["different"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
