"""The HDF5 format of the CaloChallenge (arXiv:2410.21611): a voxel model's showers, in and out.

`incident_energies` (shower, 1) and `showers` (shower, voxel), both in MeV; of the voxels r runs fastest, then alpha,
then the layer. Here they are GeV and (shower, layer, alpha, r).
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from diffhep.io.paths import atomic, check_file, check_free
from diffhep.units import MeV

SHAPE = (45, 16, 9)  # layer, alpha, r of dataset 2
SUFFIXES = (".hdf5", ".h5")


class Voxels(NamedTuple):
    """Showers in voxels.

    Attributes:
        energy: of the particle [GeV], (shower,).
        cells: energy of each voxel [GeV], (shower, layer, alpha, r).
    """

    energy: np.ndarray
    cells: np.ndarray


def read_calochallenge(
    path: str | os.PathLike[str], *, shape: tuple[int, int, int] = SHAPE, stop: int | None = None
) -> Voxels:
    """Showers out of a file in the CaloChallenge's format.

    Args:
        path: of the HDF5 file.
        shape: layers, cells in alpha, cells in r; the default is that of dataset 2.
        stop: read only the showers before this one.

    Raises:
        ValueError: no such file, another layout or number of voxels, lengths that do not match, nan, a negative energy
            or one of a particle that is not positive; one line that names the file.

    >>> read_calochallenge("dataset_2_1.hdf5", stop=1000).cells.shape  # doctest: +SKIP
    (1000, 45, 16, 9)
    """
    path = Path(path)
    if stop is not None and stop < 1:
        msg = f"stop: wanted at least 1 shower, got {stop}"
        raise ValueError(msg)
    incident, showers = _datasets(path, stop)
    if incident.ndim == 1:
        incident = incident[:, np.newaxis]
    if incident.ndim != 2 or incident.shape[1] != 1:
        msg = f"{path}: incident_energies has the shape {incident.shape}, wanted (shower, 1)"
        raise ValueError(msg)
    if showers.ndim != 2 or showers.shape[1] != np.prod(shape):
        wanted = f"(shower, {np.prod(shape)}), that is {' x '.join(map(str, shape))} of layer, alpha, r"
        msg = f"{path}: showers has the shape {showers.shape}, wanted {wanted}"
        raise ValueError(msg)
    if len(incident) != len(showers):
        msg = f"{path}: {len(incident)} incident_energies, {len(showers)} showers"
        raise ValueError(msg)
    if not len(showers):
        msg = f"{path}: holds no shower"
        raise ValueError(msg)
    voxels = Voxels(incident[:, 0] * MeV, (showers * MeV).reshape(-1, *shape))
    try:
        _check(voxels)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None
    return voxels


def write_calochallenge(
    path: str | os.PathLike[str], energy: np.ndarray, cells: np.ndarray, *, overwrite: bool = False
) -> Path:
    """Write showers in the CaloChallenge's format; the file appears whole or not at all.

    Args:
        path: of the new file, `.hdf5` or `.h5`.
        energy: of the particle [GeV], (shower,).
        cells: energy of each voxel [GeV], (shower, layer, alpha, r), as `Showers.cells` holds it for `PolarCells`.
        overwrite: replace a file that is already there.

    Raises:
        ValueError: the file exists, or the arrays are such that `read_calochallenge` would refuse them.

    >>> write_calochallenge("showers.hdf5", showers.energy, showers.cells)  # doctest: +SKIP
    """
    path = check_free(path, overwrite=overwrite, suffixes=SUFFIXES)
    if np.ndim(energy) != 1 or np.ndim(cells) != 4 or len(energy) != len(cells) or not len(energy):
        msg = (
            f"wanted energy (shower,) and cells (shower, layer, alpha, r), got {np.shape(energy)} and {np.shape(cells)}"
        )
        raise ValueError(msg)
    _check(Voxels(energy, cells))
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("incident_energies", data=np.asarray(energy)[:, np.newaxis] / MeV)
        flat = (cells / MeV).reshape(len(cells), -1)
        file.create_dataset("showers", data=flat, compression="gzip", chunks=(1, flat.shape[1]))
    return path


def _datasets(path: Path, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    check_file(path, "an HDF5 file")
    if not h5py.is_hdf5(path):
        msg = f"{path}: is not an HDF5 file"
        raise ValueError(msg)
    names = ("incident_energies", "showers")
    try:
        with h5py.File(path, "r") as file:
            held = sorted(file.keys())
            found: list[Any] = [file.get(name) for name in names]
            arrays = [x[:stop] if isinstance(x, h5py.Dataset) and x.ndim else None for x in found]
    except (OSError, RuntimeError, KeyError) as error:
        msg = f"{path}: cannot be read as HDF5 ({str(error).splitlines()[0]})"
        raise ValueError(msg) from None
    for name, array in zip(names, arrays, strict=True):
        if array is None or array.dtype.kind not in "iuf":
            msg = f"{path}: has no numbers called {name!r}; it holds {', '.join(held) or 'nothing'}"
            raise ValueError(msg)
    return arrays[0], arrays[1]  # type: ignore[return-value]


def _check(voxels: Voxels) -> None:
    with np.errstate(invalid="ignore"):
        good = np.isfinite(voxels.energy) & (voxels.energy > 0)
        whole = np.isfinite(voxels.cells) & (voxels.cells >= 0)
    if not good.all():
        i = int(np.argmin(good))
        msg = f"the incident energy of shower {i} is {voxels.energy[i]} GeV, wanted a finite number above 0 GeV"
        raise ValueError(msg)
    if not whole.all():
        at = tuple(int(i) for i in np.argwhere(~whole)[0])
        msg = f"voxel {at[1:]} of shower {at[0]} is {voxels.cells[at]} GeV, wanted a finite number of at least 0 GeV"
        raise ValueError(msg)
