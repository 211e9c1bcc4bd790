"""Showers of a sampling calorimeter: what was shot, at which stack, and what every layer saw.

A file is NumPy's npz (the default) or ROOT (suffix `.root`, tree `Showers`): one column for each array of `Showers`,
with the same names, and the configuration as a JSON object, `config`. Energies in GeV, lengths in mm, angles in rad.
Nothing is pickled.
"""

import dataclasses
import importlib.resources
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from diffhep.io.paths import atomic, check_file, check_free
from diffhep.io.root import open_root, readable

FORMAT = "diffhep showers 1"
TREE = "Showers"
SUFFIXES = (".npz", ".root")
# name -> unit, number of axes (None: three or more), least value and whether it is allowed itself
COLUMNS: Mapping[str, tuple[str, int | None, float, bool]] = {
    "energy": ("GeV", 1, 0.0, False),
    "pdg_id": ("", 1, -np.inf, True),
    "angle": ("rad", 1, 0.0, True),
    "absorber_thickness": ("mm", 2, 0.0, False),
    "active_thickness": ("mm", 2, 0.0, False),
    "active_energy": ("GeV", 2, 0.0, True),
    "absorber_energy": ("GeV", 2, 0.0, True),
    "cells": ("GeV", None, 0.0, True),
    "merged": ("", 1, 0.0, False),
}
SHIPPED_SHOWERS = "showers.npz"
OPTIONAL = ("absorber_energy", "cells", "merged")
# name -> the array that has as many layers
BESIDE = {"active_thickness": "absorber_thickness", "absorber_energy": "active_energy", "cells": "active_energy"}


@dataclasses.dataclass(frozen=True)
class Showers:
    """Showers in a sampling calorimeter of planar layers, each an absorber slab and then an active one.

    A read-out may add up neighbouring layers: their number divides the number of layers.

    Attributes:
        energy: of the particle [GeV], (shower,), positive.
        pdg_id: of the particle, (shower,).
        angle: between the particle and the normal of the layers [rad], (shower,), from 0 to below pi/2.
        absorber_thickness: [mm], (shower, layer), positive.
        active_thickness: [mm], (shower, layer), positive.
        active_energy: deposited in the active slabs [GeV], (shower, readout).
        absorber_energy: deposited in the absorber slabs [GeV], (shower, readout), or None.
        cells: deposited in the cells of the active slabs [GeV], (shower, readout, x, y) or (shower, readout, alpha, r),
            or None. What misses the cells counts in `active_energy` all the same.
        merged: layers of the detector that each of these layers stands for, (shower,), a whole number or not, or None
            for one; the thicknesses are those of all of them together.
        config: how they were made, what JSON can hold.

    Raises:
        ValueError: an array has another shape than the others, holds nan, or a value that cannot be.

    >>> one = np.ones((1, 2))
    >>> showers = Showers(np.ones(1), np.array([22]), np.zeros(1), one, one, 0.1 * one)
    >>> showers.size, showers.layers, showers.readouts
    (1, 2, 2)
    """

    energy: np.ndarray
    pdg_id: np.ndarray
    angle: np.ndarray
    absorber_thickness: np.ndarray
    active_thickness: np.ndarray
    active_energy: np.ndarray
    absorber_energy: np.ndarray | None = None
    cells: np.ndarray | None = None
    merged: np.ndarray | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        arrays = self.arrays()
        for name, array in arrays.items():
            _check_column(name, array, np.size(self.energy))
        if (self.angle >= np.pi / 2).any():
            msg = f"angle: wanted below pi/2, got {self.angle.max()} rad in shower {int(np.argmax(self.angle))}"
            raise ValueError(msg)
        for name, beside in BESIDE.items():
            if name in arrays and arrays[name].shape[1] != arrays[beside].shape[1]:
                msg = f"{name} has {arrays[name].shape[1]} layers, {beside} has {arrays[beside].shape[1]}"
                raise ValueError(msg)
        if self.readouts == 0 or self.layers % self.readouts:
            msg = f"active_energy has {self.readouts} read-outs, which do not divide {self.layers} layers"
            raise ValueError(msg)

    @property
    def size(self) -> int:
        """Number of showers."""
        return len(self.energy)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.absorber_thickness.shape[1]

    @property
    def readouts(self) -> int:
        """Number of layers that are read out: that of layers, or a divisor of it."""
        return self.active_energy.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        found = {name: getattr(self, name) for name in COLUMNS}
        return {name: array for name, array in found.items() if array is not None}

    def __getitem__(self, index: Any) -> "Showers":
        """Some of the showers: a slice, a mask or an array of numbers.

        >>> showers[:100].size  # doctest: +SKIP
        100
        """
        if isinstance(index, int | np.integer):
            index = [index]
        return dataclasses.replace(self, **{name: array[index] for name, array in self.arrays().items()})


def join(parts: Sequence[Showers]) -> Showers:
    """Showers one after the other, with the configuration of the first.

    Raises:
        ValueError: nothing to join, or arrays that do not fit together.
    """
    if not parts:
        msg = "showers: nothing to join"
        raise ValueError(msg)
    shapes = [{name: array.shape[1:] for name, array in part.arrays().items()} for part in parts]
    if unlike := [shape for shape in shapes if shape != shapes[0]]:
        msg = f"showers: cannot join {unlike[0]} to {shapes[0]}"
        raise ValueError(msg)
    columns = {name: np.concatenate([part.arrays()[name] for part in parts]) for name in shapes[0]}
    return dataclasses.replace(parts[0], **columns)


def read_showers(path: str | os.PathLike[str]) -> Showers:
    """Showers out of an npz or ROOT file that `write_showers` wrote.

    Raises:
        ValueError: no such file, another layout, columns that do not fit together, nan, or an energy or a thickness
            that is not positive; one line that names the file.

    >>> read_showers("showers.npz").active_energy.sum(axis=1)  # doctest: +SKIP
    """
    path = Path(path)
    columns, text = _read_root(path) if _is_root(path) else _read_npz(path)
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{path}: 'config' is not JSON ({error})"
        raise ValueError(msg) from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        msg = f"{path}: 'config' says format {found!r}, wanted {FORMAT!r}"
        raise ValueError(msg)
    if absent := [name for name in COLUMNS if name not in columns and name not in OPTIONAL]:
        msg = f"{path}: holds no column {', '.join(absent)}; it holds {', '.join(sorted(columns)) or 'none'}"
        raise ValueError(msg)
    if not len(columns["energy"]):
        msg = f"{path}: holds no shower"
        raise ValueError(msg)
    try:
        return Showers(**{name: columns[name] for name in COLUMNS if name in columns}, config=config)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None


def shipped_showers() -> Path:
    """Path of the showers that come with the package: electrons on lead and scintillator of many geometries, by Geant4.

    >>> showers = read_showers(shipped_showers())
    >>> showers.layers, bool(showers.energy.min() >= 0.5)
    (30, True)
    """
    path = Path(str(importlib.resources.files("diffhep").joinpath("samples", SHIPPED_SHOWERS)))
    if not path.is_file():
        msg = f"{path}: the shipped showers are missing here; make them with python -m diffhep.generate.shipped showers"
        raise ValueError(msg)
    return path


def write_showers(path: str | os.PathLike[str], showers: Showers, *, overwrite: bool = False) -> Path:
    """Write showers as npz, or as ROOT if the name ends in `.root`; the file appears whole or not at all.

    Numbers that single precision holds exactly are stored so: nothing is lost. The same showers give the same bytes in
    npz; ROOT adds the time and an identifier of its own.

    Raises:
        ValueError: the file exists, its folder does not, or the name ends in neither.

    >>> write_showers("showers.npz", showers)  # doctest: +SKIP
    """
    path = check_free(path, overwrite=overwrite, suffixes=SUFFIXES)
    columns: dict[str, Any] = {name: narrowed(array) for name, array in showers.arrays().items()}
    text = json.dumps({**showers.config, "format": FORMAT}, sort_keys=True, allow_nan=False)
    with atomic(path) as temporary:
        if path.suffix == ".root":
            with uproot.recreate(temporary, compression=uproot.LZMA(5)) as file:
                types = {name: np.dtype((array.dtype, array.shape[1:])) for name, array in columns.items()}
                file.mktree(TREE, types).extend(columns)
                file["config"] = text
        else:
            with temporary.open("wb") as stream:
                np.savez_compressed(stream, config=np.array(text), **columns)
    return path


def narrowed(array: np.ndarray) -> np.ndarray:
    """The same numbers in single precision, where that is exact."""
    if array.dtype != np.float64:
        return array
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), array) else array


def _is_root(path: Path) -> bool:
    if not path.is_file():
        return path.suffix == ".root"
    with path.open("rb") as raw:
        return raw.read(4) == b"root"


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    check_file(path, "a file of showers")
    if not zipfile.is_zipfile(path):
        msg = f"{path}: is neither an npz nor a ROOT file, or is cut off"
        raise ValueError(msg)
    try:
        # opened here: NumPy leaves a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except Exception as error:
        # a damaged file shows by a dozen exceptions of zipfile, zlib and NumPy
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{path}: cannot be read as npz ({reason})"
        raise ValueError(msg) from None
    text = columns.pop("config", None)
    if text is None or text.dtype.kind != "U" or text.ndim:
        held = ", ".join(sorted(columns)) or "nothing"
        msg = f"{path}: holds no text 'config', so it is no file of showers; it holds {held}"
        raise ValueError(msg)
    return columns, str(text)


def _read_root(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with open_root(path) as file:
        with readable(path):
            names = set(file.keys(cycle=False))
        if absent := {TREE, "config"} - names:
            msg = f"{path}: has no {' and no '.join(sorted(absent))}; it has {', '.join(sorted(names)) or 'nothing'}"
            raise ValueError(msg)
        with readable(path):
            tree = file[TREE]
            columns = {name: tree[name].array(library="np") for name in COLUMNS if name in tree}
            return columns, str(file["config"])


def _check_column(name: str, array: Any, size: int) -> None:
    """Refuse a column of another shape or type, nan, and values that cannot be."""
    unit, axes, least, allowed = COLUMNS[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        msg = f"{name}: wanted an array of numbers, got {kind}"
        raise ValueError(msg)
    if (array.ndim < 3) if axes is None else (array.ndim != axes):
        wanted = {1: "(shower,)", 2: "(shower, layer)", None: "(shower, layer, cell, ...)"}[axes]
        msg = f"{name}: wanted the shape {wanted}, got {array.shape}"
        raise ValueError(msg)
    if len(array) != size:
        msg = f"{name} has {len(array)} showers, energy has {size}"
        raise ValueError(msg)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(array) & ((array >= least) if allowed else (array > least))
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        bound = "" if least == -np.inf else f" {'at least' if allowed else 'above'} {least:g} {unit}"
        msg = f"{name} is {array[at]} {unit} in shower {at[0]}, wanted a finite number{bound}"
        raise ValueError(" ".join(msg.split()))
