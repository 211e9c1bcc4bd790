"""A search over a black box as a run that can be killed: every call of the simulator is kept, and resumed from there.

A search is a function of its seed, so that with the same answers it asks the same questions: the calls on disk are
answered from there, and the first one that is not goes to the simulator.
"""

import dataclasses
import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from diffhep.design.black_box import BlackBox, checked_events
from diffhep.design.trust_region import BlackBoxResult, BlackBoxUpdate, optimise_black_box
from diffhep.io import RunFolder

CALLS = "calls"


def read_black_box(file: Path, name: str = "box") -> BlackBox:
    """The BlackBox that a Python file defines: an object of that name, or a function without arguments that makes one.

    Raises:
        ValueError: the file cannot be read or run, or holds no such thing.
    """
    if not file.is_file():
        msg = f"{file}: cannot be read (no such file)"
        raise ValueError(msg)
    spec = importlib.util.spec_from_file_location(f"black_box_{file.stem}", file)
    if spec is None or spec.loader is None:
        msg = f"{file}: is no Python file (its name must end with .py)"
        raise ValueError(msg)
    module = importlib.util.module_from_spec(spec)
    # what a module defines may look its module up, dataclasses for example
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        msg = f"{file}: cannot be run ({type(error).__name__}: {error})"
        raise ValueError(msg) from error
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if isinstance(value, BlackBox)]
        msg = f"{file}: defines no {name!r}" + (f"; there is {', '.join(there)}" if there else "")
        raise ValueError(msg)
    found = getattr(module, name)
    box = found if isinstance(found, BlackBox) or not callable(found) else found()
    if not isinstance(box, BlackBox):
        msg = f"{file}: {name} is a {type(box).__name__}, wanted a BlackBox or a function that makes one"
        raise ValueError(msg)
    return box


def hash_of(file: Path) -> str:
    """SHA-256 of a file: a run goes on only with the simulator it was started with."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Recorded:
    """A box's simulator that keeps what it returned in a run folder, and returns it again.

    Args:
        box: the simulator.
        run: where its calls are kept: `calls/00000.npz` holds the first.
    """

    def __init__(self, box: BlackBox, run: RunFolder):
        self.box, self.run, self.count = box, run, 0

    def __call__(self, design: Any, key: PRNGKeyArray) -> Float[np.ndarray, "event observable"]:
        """Events of the next call.

        Raises:
            ValueError: the call on disk was made at another design, or cannot be read back.
        """
        name, self.count = f"{CALLS}/{self.count:05d}.npz", self.count + 1
        leaves = np.concatenate([np.ravel(x) for x in jax.tree.leaves(design)])
        if self.run.has(name):
            return self.stored(name, leaves)
        events = checked_events(self.box.simulate(design, key), None, at="the present design")
        with self.run.replacing(name) as file, file.open("wb") as stream:
            np.savez(stream, design=leaves, events=events)
        return events

    def stored(self, name: str, design: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, "event observable"]:
        """Events of a call on disk."""
        file = self.run.path / name
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                before, events = kept["design"], kept["events"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            msg = f"{file}: cannot be read back ({str(error).splitlines()[0]}); remove it, and what comes after it"
            raise ValueError(msg) from None
        if not np.array_equal(before, design):
            msg = f"{file}: was made at another design than the search asks for now; start in a new folder"
            raise ValueError(msg)
        return events


def search_black_box(box: BlackBox, run: RunFolder, **options: Any) -> BlackBoxResult:
    """`optimise_black_box` in a run folder: goes on where a killed one stopped, and writes `result.json`.

    Args:
        box: the simulator.
        run: the folder; each update is a line of its metrics.
        options: of `optimise_black_box`.
    """
    done = len(run.metrics())
    count = 0

    def log(update: BlackBoxUpdate) -> None:
        nonlocal count
        count += 1
        if count > done:
            run.log(dataclasses.asdict(update))

    found = optimise_black_box(dataclasses.replace(box, simulate=Recorded(box, run)), on_update=log, **options)
    run.write_json("result.json", {"kind": "black box", **found.summary()})
    return found
