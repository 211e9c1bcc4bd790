"""Proof that the hls4ml project of a function computes what the JAX function computes, bit for bit.

As for Verilog (`diffhep.trigger.verify_rtl`), the project is written again from the function and every file compared
with the one found; g++ then compiles its C simulation, in a folder of its own.
"""

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.c_simulation import compile_simulation, simulate
from diffhep.trigger.comparison import Comparison, decode_words
from diffhep.trigger.hls import HLS_SCHEMA, HLS_VERSION, TOOLS, check_hls_settings, write_hls
from diffhep.trigger.lowering import Traced, formats_of, trace
from diffhep.trigger.project import compare_card, compare_files, read_card, read_words
from diffhep.trigger.proof import find_compiler, gxx_version, timed


def verify_hls(
    folder: str | Path,
    function: Callable[..., Any],
    *,
    n: int = 100_000,
    seed: int = 0,
    inputs: Sequence[np.ndarray] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the C simulation of an exported project with the function it was exported from.

    Args:
        folder: a project of `export_hls`.
        function: what was exported; of one event.
        n: number of random inputs, as for `verify`.
        seed: of the random inputs.
        inputs: events to be compared in addition: one array (event, *shape) for each argument, in its unit.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words that differ), `max_difference`,
        `comparisons` (by pair), `files` (generated files found unaltered), `seconds` (of each step) and `tools`
        (versions).

    Raises:
        ValueError: the folder is no such project or was altered, it belongs to another function, g++ is missing or
            fails, `inputs` do not fit, or JAX is not in 64-bit mode.

    >>> verify_hls("hls", jax.nn.relu)["mismatches"]  # doctest: +SKIP
    0
    """
    folder = Path(folder)
    words = read_words(folder, HLS_SCHEMA, HLS_VERSION)
    proof = Comparison(function, words, n=n, seed=seed, inputs=inputs, progress=progress)
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        simulation = CSimulation(folder, trace(function, *words), Path(name) / "project", proof.seconds, proof.say)
        simulation.build(compiler)
        report = proof.run(hls=simulation.run)
    tools = {package: version(package) for package in TOOLS} | {"g++": gxx_version(compiler)}
    return report | {"files": simulation.files, "tools": tools}


class CSimulation:
    """The C++ of a project, found unaltered: written again, compared, compiled and run in a folder of its own.

    Args:
        folder: the project.
        traced: the logic of the function it should belong to.
        build: a new folder.
        seconds: collects the time of each step.
        say: called with one line of text before each step.

    Raises:
        ValueError: a file, or the card, is not what the function gives.
    """

    def __init__(
        self, folder: Path, traced: Traced, build: Path, seconds: dict[str, float], say: Callable[[str], None]
    ):
        self.traced, self.folder, self.seconds, self.say = traced, build, seconds, say
        card = read_card(folder, HLS_SCHEMA, HLS_VERSION)
        settings = {key: card[key] for key in ("name", "clock_period_ns", "part")}
        self.name = settings["name"]
        say(f"writing {folder.name} again from the function")
        with timed(seconds, "write C++"):
            check_hls_settings(**settings)
            again = write_hls(build, traced, **settings)
            written_with = {tool: card.get("versions", {}).get(tool, "unknown") for tool in ("hls4ml", "da4ml")}
            self.files = compare_files(folder, build, code="firmware", source="the function", written_with=written_with)
        compare_card(folder, card, again)

    def build(self, compiler: str) -> None:
        """Compile the simulation."""
        sizes = [
            [int(np.prod(words.shape)) for words in self.traced.inputs],
            [int(np.prod(s)) for s in self.traced.shapes],
        ]
        self.say("compiling the C simulation (g++)")
        with timed(self.seconds, "compile C++"):
            self.program = compile_simulation(self.folder, compiler, self.name, *sizes)

    def run(
        self, values: Float[np.ndarray, "event in"], codes: Int[np.ndarray, "event in"]
    ) -> Float[np.ndarray, "event out"]:
        """The values of all output words, for all input words.

        An array of one format brings what is off its grid there itself, as the function's arguments are; the words of
        other arrays must arrive on their own grids.
        """
        formats = formats_of(self.traced.inputs)
        alone = [
            len(set(words.formats().ravel())) == 1 for words in self.traced.inputs for _ in words.formats().ravel()
        ]
        given = np.where(alone, values, decode_words(codes, formats))
        return simulate(self.program, given, len(self.traced.constants))
