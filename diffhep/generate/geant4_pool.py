"""Child processes in which Geant4 runs, its data, and its dying words as one line.

Work is cut into parts of a few seconds; a part that is done is a file, so that a killed run goes on where it was. Every
shower has seeds of its own: the result depends neither on the number of processes nor on where it was cut.
"""

import importlib.resources
import importlib.util
import os
import queue
import re
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

# what Geant4 11.4 looks for in GEANT4_DATA_DIR, as far as its electromagnetic physics goes
DATA_SETS = ("G4EMLOW8.8", "G4ENSDFSTATE3.0", "PhotonEvaporation6.1.2")
PART_ENERGY = 500.0  # GeV, of the particles of one part: two to five seconds
PART_SHOWERS = 500  # of one part at most


def check_installed() -> None:
    """A ValueError that says what to install where Geant4 is missing."""
    if importlib.util.find_spec("geant4_pybind") is None:
        msg = "Geant4 is not installed; pip install 'diffhep[geant4]'"
        raise ValueError(msg)


def shipped_data() -> Path:
    """Folder of the data that come with the package.

    Raises:
        ValueError: it is not whole.
    """
    folder = Path(str(importlib.resources.files("diffhep").joinpath("generate", "geant4_data")))
    if lacking := _lacking(folder):
        msg = f"{folder}: Geant4's data are not whole, {lacking} is missing; install diffhep anew"
        raise ValueError(msg)
    return folder


def data_folder() -> tuple[Path, bool]:
    """Where Geant4 finds its data, and whether that is an installation of the user's own, which comes first."""
    if named := os.environ.get("GEANT4_DATA_DIR"):
        lacking = _lacking(Path(named))
        if lacking is None:
            return Path(named).resolve(), True
        warnings.warn(
            f"GEANT4_DATA_DIR={named}: {lacking} is missing there; the data that come with diffhep are used",
            stacklevel=2,
        )
    return shipped_data(), False


def environment(data: Path) -> dict[str, str]:
    """The environment of a worker, without `G4LEDATA` and its like: those of another Geant4 abort this one."""
    kept = {name: value for name, value in os.environ.items() if not re.fullmatch(r"G4\w*DATA", name)}
    return kept | {"GEANT4_DATA_DIR": str(data)}


def parts_of(energy: np.ndarray) -> np.ndarray:
    """First and last (excluded) shower of each part, (part, 2); it depends on the energies [GeV] alone."""
    size = int(np.clip(PART_ENERGY / np.mean(energy), 1, PART_SHOWERS))
    return np.array([(start, min(start + size, len(energy))) for start in range(0, len(energy), size)])


def part_file(folder: Path, number: int) -> Path:
    """Where the showers of a part are."""
    return folder / f"part-{number:06d}.npz"


def run_parts(
    folder: Path,
    parts: Sequence[tuple[int, int]],
    *,
    processes: int,
    data: Path,
    advance: Callable[[int], Any],
) -> None:
    """Simulate the parts that have no file yet.

    Args:
        folder: holds job.npz, and takes the parts.
        parts: first and last (excluded) shower of each.
        processes: how many work at once.
        data: Geant4's data.
        advance: told of showers done.

    Raises:
        ValueError: Geant4 gave up; its reason in one line.
    """
    waiting: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()
    for number, (start, stop) in enumerate(parts):
        if part_file(folder, number).is_file():
            advance(stop - start)
        else:
            waiting.put((number, start, stop))
    count = min(processes, waiting.qsize())
    if not count:
        return
    workers = [_Worker(folder, index, data) for index in range(count)]
    lock = threading.Lock()

    def told(done: int) -> None:
        with lock:
            advance(done)

    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(worker.work, waiting, told) for worker in workers]
        try:
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        finally:
            # a failure or an interrupt: the others need not go on
            if not all(job.done() and job.exception() is None for job in jobs):
                for worker in workers:
                    worker.kill()
        for job in done:
            job.result()


class _Worker:
    """One child process, driven by one thread."""

    def __init__(self, folder: Path, index: int, data: Path):
        self.log = folder / f"worker-{index}.log"
        script = Path(__file__).with_name("geant4_worker.py")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                # -P: the folder of the script is no place to import from
                [sys.executable, "-P", str(script), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(data),
                text=True,
                bufsize=1,
            )

    def work(self, waiting: "queue.SimpleQueue[tuple[int, int, int]]", advance: Callable[[int], None]) -> None:
        """Take parts until none is left."""
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        with process:
            while True:
                try:
                    number, start, stop = waiting.get_nowait()
                except queue.Empty:
                    break
                done = 0
                try:
                    process.stdin.write(f"{number} {start} {stop}\n")
                    process.stdin.flush()
                    while (answer := process.stdout.readline()) not in ("", "done\n"):
                        advance(int(answer) - done)
                        done = int(answer)
                except BrokenPipeError:
                    answer = ""
                if not answer:
                    self.fail()
                advance(stop - start - done)
        if process.returncode:
            self.fail()

    def fail(self) -> None:
        """Raise what Geant4 said last."""
        status = self.process.wait()
        # a shell adds 128 to the number of a signal
        status = 128 - status if status < 0 else status
        msg = f"Geant4 gave up (status {status}): {last_words(self.log.read_text(errors='replace'))}"
        raise ValueError(msg)

    def kill(self) -> None:
        """End the child, if it still runs."""
        self.process.kill()


def last_words(output: str) -> str:
    """The reason in what Geant4 printed before it aborted, in one line."""
    lines = [line.strip(" *-\t") for line in output.splitlines()]
    lines = [line for line in lines if line]
    starts = [i for i, line in enumerate(lines) if line.startswith(("G4Exception :", "diffhep:"))]
    if starts:
        tail = lines[starts[-1] :]
        ends = [i for i, line in enumerate(tail) if line.startswith("Fatal Exception")]
        tail = tail[: ends[0]] if ends else tail
    else:
        tail = lines[-3:]
    return " ".join(" ".join(tail).removeprefix("diffhep:").split())[:400] or "no reason given"


def check_processes(processes: Any) -> None:
    """A ValueError unless it is a whole number of at least 1."""
    if isinstance(processes, bool) or not isinstance(processes, int | np.integer) or processes < 1:
        msg = f"processes: wanted a whole number of at least 1, got {processes!r}"
        raise ValueError(msg)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a part, or of a job.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        # opened here: NumPy leaves a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        msg = f"{path}: is damaged; remove it, and go on with the run (resume=True, --resume)"
        raise ValueError(msg) from None


def _lacking(folder: Path) -> str | None:
    """The first data set that is not there."""
    missing = [name for name in DATA_SETS if not (folder / name).is_dir()]
    if not missing and not (folder / DATA_SETS[1] / "ENSDFSTATE.dat").is_file():
        return f"{DATA_SETS[1]}/ENSDFSTATE.dat"
    return missing[0] if missing else None
