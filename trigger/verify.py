"""Proof that an exported project computes what the classifier computes, bit for bit.

`verify` reads `classifier.json` of a project, generates the project again and compares every file with the one found: a
project that was altered, or that belongs to other weights, is refused before any of its code runs. Then it compiles the
C simulation with g++, in a folder of its own, and compares its outputs with integer arithmetic in JAX. Where there is
Verilog in the project, that runs too (`diffhep.trigger.verify_rtl`), on the same inputs: three ways to the same words.
"""

import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffhep.trigger.c_simulation import compile_simulation, simulate
from diffhep.trigger.checks import check_inputs
from diffhep.trigger.comparison import Comparison, Run
from diffhep.trigger.export import (
    CARD_SCHEMA,
    CARD_VERSION,
    CLASSIFIER,
    classifier_logic,
    weights_hash,
    write_project,
)
from diffhep.trigger.fixed_point import decode, encode
from diffhep.trigger.hls import HLS_SCHEMA
from diffhep.trigger.lowering import Words
from diffhep.trigger.project import CARD, RTL, compare_files, read_card, read_part
from diffhep.trigger.proof import find_compiler, gxx_version, timed
from diffhep.trigger.quantised import QuantisedClassifier
from diffhep.trigger.rtl import RTL_SCHEMA
from diffhep.trigger.verify_rtl import INSTALL, Logic

FUNCTIONS = {RTL_SCHEMA: ("Verilog", "verify_rtl"), HLS_SCHEMA: ("hls4ml project", "verify_hls")}
"""Projects of a function, which only the function itself proves, by the schemas of their cards."""


def verify(
    folder: str | Path,
    *,
    n: int = 100_000,
    seed: int = 0,
    inputs: Float[np.ndarray, "event in"] | None = None,
    synthesis: bool = True,
    timing: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Compare the C simulation of an exported project, and its Verilog if it has any, with integer arithmetic.

    The random inputs cover the whole input range: all codes with equal probability, corners where every input is at an
    end of its range, words off the grid (ties among them) and words outside the range.

    Args:
        folder: an exported project.
        n: number of random inputs.
        seed: of the random inputs.
        inputs: events to be compared in addition, features in their units.
        synthesis: also count the lookup tables and flip-flops of the Verilog with yosys, where it is installed.
        timing: also place and route the Verilog with nextpnr, where it is installed; a minute or two.
        progress: called with one line of text before each step.

    Returns:
        `inputs` (events compared), `outputs` (words compared), `mismatches` (words on which not all ways agree),
        `max_difference` (largest difference of two ways, in units of the logit), `comparisons` (words that differ, for
        each two of jax, hls and rtl), `files` (generated files found unaltered), `synthesis` and `timing` (of the
        Verilog, or None), `missing` (programs that are not there, and how to get them: what needs them was left out),
        `seconds` (of each step) and `tools` (versions).

    Raises:
        ValueError: the folder is no exported project or was altered, g++ is missing or fails, `inputs` do not fit, or
            JAX is not in 64-bit mode.

    >>> verify("firmware")["mismatches"]  # doctest: +SKIP
    0
    """
    folder = Path(folder)
    model, card = read_project(folder)
    extra = None if inputs is None else check_inputs(inputs, model.inputs, "verify: inputs")
    proof = Comparison(
        lambda x: decode(model.propagate(encode(x, model.input_format)), model.output_format),
        [Words((model.inputs,), model.input_format)],
        n=n,
        seed=seed,
        inputs=None if extra is None else [np.ldexp(extra, -np.asarray(model.exponents))],
        progress=progress,
    )
    compiler = find_compiler()

    logic, missing = None, {}
    with tempfile.TemporaryDirectory(prefix="diffhep-verify-") as name:
        build = Path(name) / "project"
        proof.say(f"generating {folder.name} again from classifier.json")
        with timed(proof.seconds, "generate"):
            write_project(model, build, name=card["name"], clock_period_ns=card["clock_period_ns"], part=card["part"])
            written_with = {"hls4ml": card.get("versions", {}).get("hls4ml", "unknown")}
            files = compare_files(folder, build, code="firmware", source="classifier.json", written_with=written_with)
        if RTL in card and find_spec("da4ml") is None:
            missing["da4ml"] = INSTALL["da4ml"]
        elif RTL in card:
            logic = Logic(folder / RTL, classifier_logic(model), Path(name) / RTL, proof.seconds, proof.say)
            files += logic.files
        proof.say("compiling the C simulation (g++)")
        with timed(proof.seconds, "compile C++"):
            program = compile_simulation(build, compiler, card["name"], [model.inputs], [model.outputs])
        ways: dict[str, Run] = {"hls": lambda values, codes: simulate(program, values, model.outputs)}
        if logic is not None:
            missing |= logic.build(compiler, synthesis=synthesis, timing=timing)
            if logic.program is not None:
                ways["rtl"] = logic.run
        report = proof.run(**ways)
    tools = ("hls4ml", "jax", "numpy") if logic is None else ("hls4ml", "da4ml", "jax", "numpy")
    return report | {
        "files": files,
        "synthesis": None if logic is None else logic.synthesis,
        "timing": None if logic is None else logic.timing,
        "missing": missing,
        "tools": {package: version(package) for package in tools} | {"g++": gxx_version(compiler)},
    }


def read_project(folder: Path) -> tuple[QuantisedClassifier, dict[str, Any]]:
    """The classifier and the model card of an exported project; a ValueError if it is none."""
    if not (folder / CLASSIFIER).is_file() and (folder / CARD).is_file():
        card = read_part(folder, CARD)
        what, prover = FUNCTIONS.get(card.get("schema") if isinstance(card, dict) else None, (None, None))
        if what is not None:
            msg = f"{folder}: the {what} of a function; prove it with diffhep.trigger.{prover}(folder, function)"
            raise ValueError(msg)
    classifier, card = read_part(folder, CLASSIFIER), read_card(folder, CARD_SCHEMA, CARD_VERSION)
    try:
        model = QuantisedClassifier.from_dict(classifier)
    except ValueError as error:
        msg = f"{folder}: {error}"
        raise ValueError(msg) from error
    if card.get("sha256") != weights_hash(model):
        msg = f"{folder}: classifier.json does not have the SHA-256 that model_card.json gives; export it again"
        raise ValueError(msg)
    return model, card
