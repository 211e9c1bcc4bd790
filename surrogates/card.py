"""A trained surrogate in its run folder: the weights, and a card that says what it is, from what and how good."""

import dataclasses
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffhep.io.run import RunFolder
from diffhep.io.showers import Showers
from diffhep.settings import settings_from
from diffhep.surrogates.config import SurrogateSettings
from diffhep.surrogates.kinds import empty_surrogate, empty_voxels
from diffhep.surrogates.splits import Tree
from diffhep.surrogates.stack import Stack
from diffhep.surrogates.surrogate import LayerSurrogate
from diffhep.surrogates.voxels import VoxelSurrogate

WEIGHTS, CARD = "surrogate.eqx", "card.json"
SHIPPED = Path(__file__).parent / "shipped"
PACKAGES = ("diffhep", "jax", "equinox", "optax", "diffrax", "flowjax")


def save_surrogate(
    run: RunFolder, surrogate: LayerSurrogate | VoxelSurrogate, settings: SurrogateSettings, samples: Sequence[Showers]
) -> dict[str, Any]:
    """Write weights and card; returns the card. The samples are those of `settings.data`, then of `settings.replay`."""
    run.save_tree(WEIGHTS, surrogate)
    layers = surrogate.layers if isinstance(surrogate, VoxelSurrogate) else surrogate
    domain, stack = layers.domain, layers.stack
    what = "energies in the active layers of a sampling calorimeter, conditioned on energy, angle and thicknesses"
    if isinstance(surrogate, VoxelSurrogate):
        what = what.replace("layers", "layers, and their cells,")
    names = [file.name for file in settings.data] or ["shipped"]
    names += [file.name for file in settings.replay]
    card = {
        "what": what,
        "settings": settings.model_dump(mode="json"),
        "stack": {field.name: getattr(stack, field.name) for field in dataclasses.fields(stack)},
        "cells": dataclasses.asdict(surrogate.tree) if isinstance(surrogate, VoxelSurrogate) else None,
        "domain": {
            name: {"low": float(low), "high": float(high), "unit": unit}
            for name, unit, low, high in zip(
                ("energy", "angle", "absorber", "active", "merged"),
                ("GeV", "rad", "mm", "mm", "layers"),
                domain.low,
                domain.high,
                strict=False,
            )
        },
        "data": [
            {"file": name, "showers": part.size, "sha256": digest(part), "made_by": dict(part.config)}
            for name, part in zip(names, samples, strict=True)
        ],
        "started_from": settings.start_from and weights_of(folder_of(settings.start_from)),
        "weights": weights_of(run.path),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
    }
    run.write_json(CARD, card)
    return card


def folder_of(start: Path) -> Path:
    """The folder that a `start_from` names."""
    return SHIPPED if start == Path("shipped") else start


def weights_of(folder: Path) -> dict[str, str]:
    """A hash of the weights in a folder."""
    return {"sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}


def settings_of(folder: str | Path) -> SurrogateSettings:
    """The settings that a surrogate was trained with.

    Raises:
        ValueError: no surrogate in the folder, or not the card of one.
    """
    run = RunFolder(folder)
    card = _card(run)
    if "settings" not in card:
        msg = f"{run.path / CARD}: not the card of a surrogate ('settings')"
        raise ValueError(msg)
    return settings_from(SurrogateSettings, card["settings"], source=str(run.path / CARD))


def load_surrogate(folder: str | Path) -> LayerSurrogate:
    """A trained surrogate of layer energies; of a voxel surrogate, the one of its layers.

    Raises:
        ValueError: no surrogate in the folder, or weights that are not those of its card.

    >>> load_surrogate("runs/surrogate").stack.layers  # doctest: +SKIP
    30
    """
    found = _load(folder)
    return found.layers if isinstance(found, VoxelSurrogate) else found


def load_voxels(folder: str | Path) -> VoxelSurrogate:
    """A trained surrogate of voxels.

    Raises:
        ValueError: as `load_surrogate`, or a surrogate of layers only.
    """
    found = _load(folder)
    if not isinstance(found, VoxelSurrogate):
        msg = f"{folder}: a surrogate of layer energies, which has no cells"
        raise ValueError(msg)
    return found


def is_voxels(folder: str | Path) -> bool:
    """Whether a folder holds a surrogate of voxels."""
    run = RunFolder(folder)
    return run.has(CARD) and run.read_json(CARD).get("cells") is not None


def _card(run: RunFolder) -> dict[str, Any]:
    if not run.has(CARD):
        msg = f"{run.path}: holds no surrogate ({CARD} is missing)"
        raise ValueError(msg)
    return run.read_json(CARD)


def _load(folder: str | Path) -> LayerSurrogate | VoxelSurrogate:
    run = RunFolder(folder)
    card, settings = _card(run), settings_of(folder)
    try:
        stack = Stack(**card["stack"])
        tree = Tree(**card["cells"]) if card.get("cells") else None
        digest = card["weights"]["sha256"]
    except (KeyError, TypeError) as error:
        msg = f"{run.path / CARD}: not the card of a surrogate ({error})"
        raise ValueError(msg) from None
    weights = run.path / WEIGHTS
    if not weights.is_file():
        msg = f"{weights}: missing"
        raise ValueError(msg)
    if weights_of(run.path)["sha256"] != digest:
        msg = f"{weights}: not the weights that {CARD} describes (truncated or replaced)"
        raise ValueError(msg)
    return run.load_tree(WEIGHTS, empty_voxels(settings, stack, tree) if tree else empty_surrogate(settings, stack))


def shipped_surrogate() -> LayerSurrogate:
    """The surrogate that comes with the package: electrons in 30 layers of lead and scintillator."""
    return load_surrogate(SHIPPED)


def shipped_photons() -> LayerSurrogate:
    """The one of photons: lead and scintillator, any number of layers from 16 to 64, read out in eight groups."""
    return load_surrogate(SHIPPED / "photons")


def shipped_voxels() -> VoxelSurrogate:
    """The voxel surrogate that comes with the package: electrons in 45 layers of tungsten and silicon, 16 x 9 cells."""
    return load_voxels(SHIPPED / "voxels")


def digest(showers: Showers) -> str:
    """A hash of the numbers of showers, whatever file they are in."""
    found = hashlib.sha256()
    for name, array in sorted(showers.arrays().items()):
        found.update(name.encode())
        found.update(array.astype("<f8").tobytes())
    return found.hexdigest()
