"""What every proof of firmware needs: inputs that leave nothing out, a compiler, a count of what differs."""

import itertools
import shutil
import subprocess
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.fixed_point import FixedPoint

COMPILER = "install the package g++ (Debian) or gcc-c++ (Fedora)"  # how to get it
BATCH = 100_000  # events simulated at once: bounds the memory


class Tally:
    """Counts the output words on which several ways to compute them do not agree.

    Attributes:
        outputs: words compared.
        mismatches: words on which not all ways agree.
        largest: largest difference of two ways.
        comparisons: words that differ, for each two ways.
    """

    def __init__(self):
        self.outputs = self.mismatches = 0
        self.largest = 0.0
        self.comparisons: dict[str, int] = {}

    def add(self, **ways: Float[np.ndarray, "event out"]) -> None:
        """Compare a batch of values; NaN, which no fixed-point word is, differs from everything."""
        anywhere = np.zeros(next(iter(ways.values())).shape, bool)
        for (first, a), (second, b) in itertools.combinations(ways.items(), 2):
            different, name = a != b, f"{first}, {second}"
            self.comparisons[name] = self.comparisons.get(name, 0) + int(np.count_nonzero(different))
            self.largest = max(self.largest, float(np.max(np.abs(a - b), initial=0.0)))
            anywhere |= different
        self.outputs += anywhere.size
        self.mismatches += int(np.count_nonzero(anywhere))


def check_number(n: int, given: bool) -> None:
    """A ValueError unless there is something to compare."""
    if not isinstance(n, int) or n < 0 or (n == 0 and not given):
        msg = f"verify: the number of random inputs must be a positive integer, got {n!r}"
        raise ValueError(msg)


def find_compiler() -> str:
    """The C++ compiler; a ValueError that names the package to install."""
    compiler = shutil.which("g++")
    if compiler is None:
        msg = f"verify: g++ not found, it compiles the simulations: {COMPILER}"
        raise ValueError(msg)
    return compiler


def gxx_version(compiler: str) -> str:
    """The version number of the compiler."""
    return subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def random_inputs(
    rng: np.random.Generator, events: int, formats: Sequence[FixedPoint]
) -> Float[np.ndarray, "event word"]:
    """Values over the whole range of the format of each word, and beyond its ends and between its codes."""
    low, high = (np.array(ends) for ends in zip(*(format.codes for format in formats), strict=True))
    shape = (events, len(formats))
    codes: Int[np.ndarray, "event word"] = rng.integers(low, high, shape, endpoint=True)
    words = codes.astype(np.float64)
    kind = rng.random(events)
    corner = kind < 0.1  # every input at one end of its range: the largest sums
    words[corner] = np.where(rng.random(shape)[corner] < 0.5, low, high)
    sparse = (kind >= 0.1) & (kind < 0.2)  # most inputs zero, as in a quiet detector
    words[sparse] *= rng.random((int(sparse.sum()), shape[1])) < 0.2
    between = (kind >= 0.2) & (kind < 0.4)  # ties and their neighbourhood
    words[between] += rng.choice([-0.5, -0.25, 0.25, 0.5], (int(between.sum()), shape[1]))
    outside = (kind >= 0.4) & (kind < 0.45)
    words[outside] *= 4
    for event, value in enumerate((np.zeros(shape[1]), low, high)[:events]):
        words[event] = value
    return np.ldexp(words, [-format.f for format in formats])


class timed:
    """Adds the wall-clock seconds of a block to an entry of a dictionary."""

    def __init__(self, seconds: dict[str, float], step: str):
        self.seconds, self.step = seconds, step

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.step] = self.seconds.get(self.step, 0.0) + time.perf_counter() - self.start
