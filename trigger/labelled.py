r"""Events with a class: read from a file, or the synthetic five-class sample that tests and examples train on.

The synthetic sample stands in for jets of five kinds with sixteen high-level features, and needs no download: eight
latent variables z, normal (0.75) around three centres a class, whose coordinates are unit normal; features
$2\tanh(1.5\,z W_1) W_2$ with $W_1$ (8, 32) and $W_2$ (32, 16) scaled by fan-in, plus normal noise of 0.25, all of them
standardised.
"""

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from diffhep.io.paths import check_file
from diffhep.io.root import open_root

CLASSES, LATENT, CENTRES, HIDDEN, FEATURES = 5, 8, 3, 32, 16


@dataclass(frozen=True)
class Labelled:
    """Events with a class each.

    Attributes:
        features: one row an event, in the units of the file.
        labels: the class of each event, 0 to `classes` - 1.
        names: of the features.
        source: where they came from.
    """

    features: Float[np.ndarray, "event feature"]
    labels: Int[np.ndarray, " event"]
    names: tuple[str, ...]
    source: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    def sha256(self) -> str:
        """Of all numbers."""
        total = hashlib.sha256(np.ascontiguousarray(self.features, "<f8").tobytes())
        total.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        return total.hexdigest()


def five_classes(events: int, *, seed: int) -> Labelled:
    """The synthetic sample of the module.

    >>> sample = five_classes(1000, seed=0)
    >>> sample.features.shape, sample.classes
    ((1000, 16), 5)
    """
    # the classes are those of seed 0, whatever the events: samples of two seeds go together
    model, rng = np.random.default_rng(20260), np.random.default_rng([seed, 1])
    centres = model.normal(size=(CLASSES, CENTRES, LATENT))
    first = model.normal(size=(LATENT, HIDDEN)) / np.sqrt(LATENT)
    second = model.normal(size=(HIDDEN, FEATURES)) / np.sqrt(HIDDEN)
    labels = rng.integers(0, CLASSES, events)
    z = centres[labels, rng.integers(0, CENTRES, events)] + 0.75 * rng.normal(size=(events, LATENT))
    x = 2 * np.tanh(1.5 * z @ first) @ second + 0.25 * rng.normal(size=(events, FEATURES))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    names = tuple(f"feature{j}" for j in range(FEATURES))
    return Labelled(x, labels, names, f"five_classes(events={events}, seed={seed})")


def read_labelled(path: str | Path, *, features: str, label: str, tree: str = "Events") -> Labelled:
    """The events of a .npz file (arrays) or a .root file (one number a branch and event).

    Args:
        path: of the file.
        features: name of the array (event, feature), or what the names of the branches begin with; x2 comes before x10.
        label: name of the array or branch of the classes: whole numbers from 0 on.
        tree: of a .root file.

    Raises:
        ValueError: the file cannot be read, something is missing in it, shapes do not fit, a feature is not finite, or
            a class is no whole number, below 0 or without events.
    """
    path = Path(path)
    arrays, names = (read_root if path.suffix == ".root" else read_npz)(path, features, label, tree)
    x, y = np.asarray(arrays[0], np.float64), np.asarray(arrays[1])
    if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
        msg = f"{path}: features (event, feature) and labels (event,) wanted, got shapes {x.shape} and {y.shape}"
        raise ValueError(msg)
    if not np.isfinite(x).all():
        event, feature = np.argwhere(~np.isfinite(x))[0].tolist()
        msg = f"{path}: feature {names[feature]} of event {event} is not finite"
        raise ValueError(msg)
    if y.dtype.kind not in "biu" and not (y == np.floor(y)).all():
        msg = f"{path}: {label} must be whole numbers, the classes from 0 on"
        raise ValueError(msg)
    y = y.astype(np.int64)
    if y.min() < 0 or (np.bincount(np.maximum(y, 0)) == 0).any() or y.max() == 0:
        msg = f"{path}: {label} must number at least two classes from 0 on, got {np.unique(y)[:8].tolist()}"
        raise ValueError(msg)
    return Labelled(x, y, names, path.name)


def read_npz(path: Path, features: str, label: str, tree: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Features, labels and names of the features of a .npz file."""
    check_file(path, "a .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in (features, label)}
            present = ", ".join(file.files)
    except (OSError, EOFError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{path}: no .npz file can be read ({' '.join(str(error).split())})"
        raise ValueError(msg) from None
    if missing := [name for name in (features, label) if name not in arrays]:
        msg = f"{path}: no array {missing[0]!r}; there are {present}"
        raise ValueError(msg)
    x, y = arrays[features], arrays[label]
    return (x, y), tuple(f"{features}[{j}]" for j in range(x.shape[-1] if x.ndim else 0))


def read_root(
    path: Path, features: str, label: str, tree: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Features, labels and names of the features of a .root file."""
    with open_root(path) as file:
        if tree not in file:
            msg = f"{path}: no tree {tree!r}"
            raise ValueError(msg)
        source = file[tree]
        present = source.keys(recursive=False)
        # x2 before x10; files written from a dictionary need not keep its order
        number = lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        names = tuple(sorted((name for name in present if name.startswith(features) and name != label), key=number))
        if not names or label not in present:
            msg = f"{path}: tree {tree!r} wants branches {features}* and {label}"
            raise ValueError(msg)
        arrays = source.arrays([*names, label], library="np")
    if wrong := [name for name in (*names, label) if arrays[name].dtype.kind not in "biuf"]:
        msg = f"{path}: branch {wrong[0]} must hold one number an event"
        raise ValueError(msg)
    return (np.stack([arrays[name] for name in names], axis=1), arrays[label]), names
