"""One session of Pythia 8: the module or what to install, its settings, its errors in one line, a quiet terminal."""

import contextlib
import ctypes
import difflib
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SEED_MAX = 900_000_000
# of what Pythia prints, only the reason why it gives up
SILENT = (
    "Print:verbosity = 1",
    "Next:numberCount = 0",
    "Next:numberShowLHA = 0",
    "Next:numberShowInfo = 0",
    "Next:numberShowProcess = 0",
    "Next:numberShowEvent = 0",
)


def load_pythia(extra: str = "pythia") -> Any:
    """The module; a ValueError that names the extra of diffhep to install where there is none."""
    try:
        import pythia8mc
    except ImportError as error:
        msg = f"Pythia 8 is not installed; pip install 'diffhep[{extra}]'"
        raise ValueError(msg) from error
    return pythia8mc


def check_seed(seed: int) -> None:
    """A ValueError unless Pythia takes the seed."""
    if not 1 <= seed <= SEED_MAX:
        msg = f"the seed must be from 1 to {SEED_MAX}, got {seed}"
        raise ValueError(msg)


def check_request(
    process: str, n: int, seed: int, path: str | os.PathLike[str], *, among: Collection[str], overwrite: bool
) -> Path:
    """The path of the new sample; a ValueError unless the process is known and the numbers and the path will do."""
    path = Path(path)
    if process not in among:
        near = difflib.get_close_matches(process, among, n=1, cutoff=0.0)[0]
        msg = f"no process is called {process!r}; did you mean {near!r}? There are {', '.join(among)}"
        raise ValueError(msg)
    if n < 1:
        msg = f"the number of events must be at least 1, got {n}"
        raise ValueError(msg)
    check_seed(seed)
    if path.exists() and not overwrite:
        msg = f"{path}: the file exists already; give another name or overwrite=True"
        raise ValueError(msg)
    return path


@contextlib.contextmanager
def counting_bar(name: str, n: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar of n steps on standard error; yields what moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(name, total=n)
        yield lambda done: bar.advance(task, done)


def run_seed(seed: int, run: int) -> int:
    """Seed of one of the runs of a sample, which must not share random numbers."""
    return (seed - 1 + run * (SEED_MAX // 7)) % SEED_MAX + 1


def split(n: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of the shares that add up to n.

    >>> split(7, [1, 1, 1])
    [2, 3, 2]
    """
    edges = np.round(n * np.cumsum([0.0, *shares]) / sum(shares)).astype(int)
    return np.diff(edges).tolist()


def configured(module: Any, lines: Sequence[str], seed: int) -> Any:
    """A Pythia that has read the settings and waits for its `init`; within `captured`.

    Raises:
        ValueError: it does not know a setting.
    """
    pythia = module.Pythia("", False)
    for line in SILENT:
        pythia.readString(line)
    for line in (*lines, "Random:setSeed = on", f"Random:seed = {seed}"):
        if not pythia.readString(line, False):
            msg = f"Pythia does not know the setting {line!r}"
            raise ValueError(msg)
    return pythia


def initialise(pythia: Any, output: BinaryIO, what: str, lines: Sequence[str]) -> None:
    """Start it; a ValueError with its reason if it refuses."""
    if not pythia.init():
        msg = f"Pythia refuses the settings of {what} ({complaint(output)}): {'; '.join(lines)}"
        raise ValueError(msg)


@contextlib.contextmanager
def captured() -> Iterator[BinaryIO]:
    """What C++ prints goes into a file: standard output belongs to the caller, who may be printing JSON."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    saved = os.dup(1)
    with tempfile.TemporaryFile() as sink:
        try:
            os.dup2(sink.fileno(), 1)
            yield sink
        finally:
            flush(None)
            os.dup2(saved, 1)
            os.close(saved)


def complaint(sink: BinaryIO) -> str:
    """The last error that Pythia printed."""
    ctypes.CDLL(None).fflush(None)
    sink.seek(0)
    lines = [line.strip() for line in sink.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if "rror" in line or "bort" in line), "no reason given")
