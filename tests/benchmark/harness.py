"""How two programs are timed beside each other: rows, medians, and peers that need an environment of their own."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tests.benchmark.answers import block


class Timed(NamedTuple):
    """A result that was timed where it was made: seconds of one warm call."""

    seconds: float
    value: Any


class Row(NamedTuple):
    """What is compared.

    Attributes:
        task: in words.
        peer: in words.
        ours: one warm call; returns what was computed, to be compared.
        theirs: the same of the peer.
        agree: largest difference allowed between the two results.
        repeats: blocks of warm calls of each.
        share: how much of our call the peer's call does, if it is too slow to do all of it.
        goal: ratio that is wanted.
        begin: called before the row, to choose a backend.
    """

    task: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: float
    repeats: int = 9
    share: float = 1.0
    goal: float | None = None
    begin: Callable[[], None] = lambda: None


class Peer:
    """A process that does tasks by name, started when it is first asked.

    Args:
        python: of its environment.
        module: run there; answers every line with a line of JSON, the first with what it knows.
    """

    def __init__(self, python: Path, module: str):
        self.command = [str(python), "-W", "ignore", "-m", module]
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, task: str) -> Timed:
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._answer()
        assert self.process.stdin
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return Timed(answer["seconds"], answer["value"])

    def _answer(self) -> Any:
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            msg = f"{' '.join(self.command)} ended with status {self.process.wait()}: what it said stands above"
            raise RuntimeError(msg)
        return json.loads(line)


def timed(work: Callable[[], Any]) -> Timed:
    """Time of a call, from a block of them, and the result; a peer in a process of its own times its blocks itself."""
    seconds, out = block(lambda: jax.block_until_ready(work()))
    return out if isinstance(out, Timed) else Timed(seconds, out)


def measure(row: Row) -> dict[str, Any]:
    """Medians, first calls and the ratio of a row; refuses to compare two different numbers."""
    row.begin()
    first_ours, ours = timed(row.ours)
    first_theirs, theirs = timed(row.theirs)
    worst = float(np.max(np.abs(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))))
    if not worst <= row.agree:
        msg = f"{row.task}: {row.peer} finds {np.asarray(theirs)}, diffhep {np.asarray(ours)}"
        raise RuntimeError(msg)
    pairs = [(timed(row.ours).seconds, timed(row.theirs).seconds) for _ in range(row.repeats)]
    mine, other = np.median(pairs, axis=0) * [1.0, 1 / row.share]
    return {
        "task": row.task,
        "peer": row.peer,
        "ours_ms": 1e3 * mine,
        "theirs_ms": 1e3 * other,
        "ratio": other / mine,
        "goal": row.goal,
        "ours_first_s": first_ours,
        "theirs_first_s": first_theirs,
        "difference": worst,
    }
