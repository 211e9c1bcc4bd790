"""A small network as firmware: what the tests of export and of proof share."""

import json

import jax
import numpy as np
import pytest

from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.quantised import quantised

needs_compiler = pytest.mark.needs("g++")


def make(sizes, *, bits, seed=0):
    """A network with the ranges of a trained one: standardised features, activations of order 1."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(500, sizes[0])) + rng.normal(size=sizes[0])) * np.ldexp(1.0, rng.integers(-3, 6, sizes[0]))
    classifier = DenseClassifier.init(sizes, key=jax.random.key(seed)).standardised_to(x)
    formats = {"input_format": FixedPoint(1, 3, bits - 4), "weight_bits": bits, "activation_bits": bits}
    return quantised(classifier, calibration_inputs=x, **formats), x


def card(folder):
    return json.loads((folder / "model_card.json").read_text())


def generated(folder):
    ours = {"classifier.json", "model_card.json", "README.md"}
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ours]
