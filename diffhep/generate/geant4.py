r"""Full simulation of electromagnetic showers in a sampling calorimeter, with Geant4 (extra `diffhep[geant4]`).

Geant4 11.4 with its standard electromagnetic physics: electrons, positrons, photons and muons; no hadrons, optical
photons, photo-nuclear reactions or field. Energies are deposits, without threshold, Birks' law or light yield. Every
shower may have its own thicknesses, which cost nothing: they change in place.

The same seed, data and release of Geant4 give the same showers bit for bit, whatever the number of processes.
"""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffhep.generate.geant4_pool import (
    check_installed,
    check_processes,
    data_folder,
    part_file,
    parts_of,
    read_arrays,
    run_parts,
)
from diffhep.generate.geant4_setup import (
    DEEPEST,
    HIGHEST,
    PARTICLES,
    draw,
    draw_seeds,
    pdg_id_of,
)
from diffhep.generate.geant4_setup import Beam as Beam
from diffhep.generate.geant4_setup import CartesianCells as CartesianCells
from diffhep.generate.geant4_setup import PolarCells as PolarCells
from diffhep.generate.geant4_setup import SamplingCalorimeter as SamplingCalorimeter
from diffhep.io.paths import atomic, check_free
from diffhep.io.showers import SUFFIXES, Showers, write_showers

JOB = "job.npz"
GIVEN = ("energy", "pdg_id", "angle", "absorber_thickness", "active_thickness")
# of a calorimeter, what says nothing where thicknesses are given
DRAWN = ("absorber_thickness", "active_thickness", "variation", "spread")

Shown = bool | Callable[[float], None]
"""Whether a bar is shown on standard error, or who is told the fraction done instead."""


def simulate(
    calorimeter: SamplingCalorimeter,
    beam: Beam,
    n: int,
    *,
    seed: int,
    processes: int = 1,
    progress: Shown = True,
) -> Showers:
    """Simulate showers, with energies, angles and thicknesses drawn from the ranges of the set-up.

    Args:
        calorimeter: the stack.
        beam: the particles.
        n: number of showers.
        seed: of every random number, at least 0.
        processes: how many child processes work at once; the showers do not depend on it.
        progress: show a bar on standard error, or tell a function the fraction done.

    Raises:
        ValueError: a bad argument, Geant4 is not installed, or it gave up (its reason in one line).

    >>> stack = SamplingCalorimeter(50, absorber_thickness=2.3, active="G4_lAr", active_thickness=5.7)
    >>> simulate(stack, Beam(energy=1.0), 100, seed=1).active_energy.sum(axis=1).mean()  # doctest: +SKIP
    0.215
    """
    return _in_memory(_drawn(calorimeter, beam, n, seed), processes, progress)


def simulate_each(
    calorimeter: SamplingCalorimeter,
    *,
    energy: ArrayLike,
    absorber_thickness: ArrayLike,
    active_thickness: ArrayLike,
    angle: ArrayLike = 0.0,
    particle: str | ArrayLike = "e-",
    seed: int,
    processes: int = 1,
    progress: Shown = True,
) -> Showers:
    """Simulate showers whose energies, angles and thicknesses are given one by one.

    Args:
        calorimeter: the stack; its own thicknesses are not used.
        energy: kinetic energies [GeV], (shower,); the array that says how many showers.
        absorber_thickness: [mm], broadcast to (shower, layer).
        active_thickness: [mm], broadcast to (shower, layer).
        angle: from the normal, leaning in x [rad], broadcast to (shower,).
        particle: a name for all, or PDG numbers (shower,).
        seed: of Geant4's random numbers, at least 0; shower i has the same in every run of the seed.
        processes: how many child processes work at once.
        progress: show a bar on standard error, or tell a function the fraction done.

    Raises:
        ValueError: as `simulate`, or arrays that do not fit together.

    >>> simulate_each(stack, energy=[1.0, 2.0], absorber_thickness=2.0, active_thickness=5.0, seed=1)  # doctest: +SKIP
    """
    job = _given(calorimeter, energy, angle, absorber_thickness, active_thickness, particle, seed)
    return _in_memory(job, processes, progress)


def generate_showers(
    calorimeter: SamplingCalorimeter,
    beam: Beam,
    n: int,
    *,
    seed: int,
    path: str | os.PathLike[str],
    processes: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Shown = True,
) -> Path:
    """Simulate showers as `simulate` does and write them as `diffhep.io.read_showers` reads them.

    Parts that are done wait beside the file, in the folder `.NAME.parts`, until all are there. A run that was killed
    goes on with `resume=True`, and the file is then the same as that of an uninterrupted run.

    Args:
        calorimeter: the stack.
        beam: the particles.
        n: number of showers.
        seed: of every random number, at least 0.
        path: of the new file, `.npz` or `.root`.
        processes: how many child processes work at once.
        resume: go on with a run of the same arguments that was killed.
        overwrite: replace a file that is already there.
        progress: show a bar on standard error, or tell a function the fraction done.

    Raises:
        ValueError: as `simulate`; the file exists; an unfinished run lies there, or none to resume, or one with other
            arguments.

    >>> generate_showers(SamplingCalorimeter(40), Beam(), 1000, seed=1, path="showers.npz")  # doctest: +SKIP
    """
    return _to_file(path, lambda: _drawn(calorimeter, beam, n, seed), processes, resume, overwrite, progress)


def generate_each(
    calorimeter: SamplingCalorimeter,
    *,
    energy: ArrayLike,
    absorber_thickness: ArrayLike,
    active_thickness: ArrayLike,
    angle: ArrayLike = 0.0,
    particle: str | ArrayLike = "e-",
    seed: int,
    path: str | os.PathLike[str],
    processes: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Shown = True,
) -> Path:
    """Simulate showers as `simulate_each` does and write them as `generate_showers` does; for arguments, see there.

    Raises:
        ValueError: as either of them.

    >>> generate_each(stack, energy=[1.0], absorber_thickness=2.0, active_thickness=5.0, seed=1, path="1.npz")
    ... # doctest: +SKIP
    """
    job = lambda: _given(calorimeter, energy, angle, absorber_thickness, active_thickness, particle, seed)
    return _to_file(path, job, processes, resume, overwrite, progress)


def unfinished(path: str | os.PathLike[str]) -> bool:
    """Whether a run that was to write this file was killed, and can be gone on with."""
    return (_parts_folder(Path(path)) / JOB).is_file()


def _to_file(
    path: str | os.PathLike[str],
    work: Callable[[], dict[str, np.ndarray]],
    processes: int,
    resume: bool,
    overwrite: bool,
    progress: Shown,
) -> Path:
    """Do a job, a new one or one that was killed, and write its showers."""
    path = check_free(path, overwrite=overwrite, suffixes=SUFFIXES)
    check_processes(processes)
    job = work()
    folder = _parts_folder(path)
    if resume:
        _check_resumable(folder, job, path)
    elif (folder / JOB).is_file():
        msg = f"{folder}: holds an unfinished run; go on with it (resume=True, --resume), or remove the folder"
        raise ValueError(msg)
    else:
        # without a job it was killed before it began, or while it was removed
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _write_job(folder, job)
    try:
        showers = _run(folder, job, processes, progress, path.name)
    except ValueError:
        # worth keeping only if there is something to go on with
        if not any(folder.glob("part-*.npz")):
            _remove(folder)
        raise
    write_showers(path, showers, overwrite=overwrite)
    _remove(folder)
    return path


def _parts_folder(path: Path) -> Path:
    """Where the parts of a file wait until all are there."""
    return path.with_name(f".{path.name}.parts")


def _given(
    calorimeter: SamplingCalorimeter,
    energy: ArrayLike,
    angle: ArrayLike,
    absorber_thickness: ArrayLike,
    active_thickness: ArrayLike,
    particle: str | ArrayLike,
    seed: int,
) -> dict[str, np.ndarray]:
    arrays = {
        "energy": np.atleast_1d(np.asarray(energy, float)),
        "angle": np.asarray(angle, float),
        "absorber_thickness": np.asarray(absorber_thickness, float),
        "active_thickness": np.asarray(active_thickness, float),
        "pdg_id": np.asarray(pdg_id_of(particle) if isinstance(particle, str) else particle),
    }
    return _job(calorimeter, arrays, seed)


def _drawn(calorimeter: SamplingCalorimeter, beam: Beam, n: int, seed: int) -> dict[str, np.ndarray]:
    arrays = draw(calorimeter, beam, n, seed=seed) | {"pdg_id": np.asarray(pdg_id_of(beam.particle))}
    return _job(calorimeter, arrays, seed, beam)


def _job(
    calorimeter: SamplingCalorimeter, arrays: Mapping[str, np.ndarray], seed: int, beam: Beam | None = None
) -> dict[str, np.ndarray]:
    """Everything a worker needs, checked: the arrays, the seeds of each shower, and the configuration as JSON."""
    check_installed()
    _, full = data_folder()
    if not full:
        calorimeter.check_materials()
    n = arrays["energy"].size
    if n == 0:
        msg = "energy: wanted at least one shower"
        raise ValueError(msg)
    shapes = {
        "energy": (n,),
        "angle": (n,),
        "pdg_id": (n,),
        "absorber_thickness": (n, calorimeter.layers),
        "active_thickness": (n, calorimeter.layers),
    }
    job = {}
    for name, shape in shapes.items():
        try:
            job[name] = np.broadcast_to(arrays[name], shape)
        except ValueError:
            msg = f"{name}: wanted the shape {shape} or what broadcasts to it, got {arrays[name].shape}"
            raise ValueError(msg) from None
    readouts = np.zeros((n, calorimeter.readouts))
    # what can be shot at is what a file may hold
    Showers(**job, active_energy=readouts)
    depth = (job["absorber_thickness"] + job["active_thickness"]).sum(axis=1).max()
    if depth > DEEPEST:
        msg = f"the stack is {depth:g} mm deep, wanted at most {DEEPEST:g} mm"
        raise ValueError(msg)
    if job["energy"].max() > HIGHEST:
        msg = f"energy: wanted at most {HIGHEST:g} GeV, got {job['energy'].max():g} GeV"
        raise ValueError(msg)
    if unknown := sorted(set(job["pdg_id"].tolist()) - set(PARTICLES.values())):
        msg = f"particle: PDG number {unknown[0]} cannot be simulated, wanted one of {sorted(PARTICLES.values())}"
        raise ValueError(msg)
    config = {
        "generator": f"Geant4 11.4.1 (geant4-pybind {importlib.metadata.version('geant4-pybind')})",
        "physics": "G4EmStandardPhysics",
        "data": "user" if full else "shipped",
        "seed": int(seed),
        "showers": n,
        "calorimeter": {name: value for name, value in calorimeter.to_dict().items() if beam or name not in DRAWN},
        "beam": beam and beam.to_dict(),
    }
    return job | {
        "seeds": draw_seeds(n, seed),
        "parts": parts_of(job["energy"]),
        "config": np.array(json.dumps(config, sort_keys=True)),
    }


def _in_memory(job: Mapping[str, np.ndarray], processes: int, progress: Shown) -> Showers:
    check_processes(processes)
    with tempfile.TemporaryDirectory(prefix="diffhep-geant4-") as name:
        _write_job(Path(name), job)
        return _run(Path(name), job, processes, progress, "showers")


def _run(folder: Path, job: Mapping[str, np.ndarray], processes: int, progress: Shown, title: str) -> Showers:
    """Simulate what is missing, and put the parts together."""
    parts, total, ready = job["parts"].tolist(), len(job["energy"]), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=progress is not True) as bar:
        task = bar.add_task(title, total=total)

        def advance(done: int) -> None:
            nonlocal ready
            ready += done
            bar.advance(task, done)
            if callable(progress):
                progress(ready / total)

        run_parts(folder, parts, processes=processes, data=data_folder()[0], advance=advance)
    found = [read_arrays(part_file(folder, number)) for number in range(len(parts))]
    deposits = {kind: np.concatenate([part[kind] for part in found]) for kind in found[0]}
    return Showers(
        **{name: np.array(job[name]) for name in GIVEN},
        active_energy=deposits["active"],
        absorber_energy=deposits.get("absorber"),
        cells=deposits.get("cell"),
        config=json.loads(str(job["config"])),
    )


def _write_job(folder: Path, job: Mapping[str, np.ndarray]) -> None:
    with atomic(folder / JOB) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = dict(job)
        np.savez(stream, **arrays)


def _remove(folder: Path) -> None:
    """Remove an unfinished run; the job first, so that what is left of it is none."""
    (folder / JOB).unlink()
    # a worker of a killed run may still be writing its last part
    shutil.rmtree(folder, ignore_errors=True)


def _check_resumable(folder: Path, job: Mapping[str, np.ndarray], path: Path) -> None:
    """A ValueError unless the folder holds an unfinished run of the same arguments."""
    if not (folder / JOB).is_file():
        msg = f"{path}: there is no unfinished run to go on with"
        raise ValueError(msg)
    stored = read_arrays(folder / JOB)
    if stored.keys() != job.keys() or not all(np.array_equal(stored[name], job[name]) for name in job):
        msg = f"{folder}: holds an unfinished run with other arguments; give the same ones, or remove the folder"
        raise ValueError(msg)
