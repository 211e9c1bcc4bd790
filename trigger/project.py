"""A folder of firmware, whatever is in it: written in one piece, with a card that says what it is."""

import contextlib
import hashlib
import json
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from diffhep.io import read_json
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.lowering import Traced, Words

DEFAULT_PART = "xcvu13p-flga2577-2-e"
CARD, README = "model_card.json", "README.md"
HLS, RTL = "hls", "rtl"  # folders of the two routes
# names the generated C++ and Verilog already use, and the keywords that look like names of a trigger
RESERVED = frozenset(
    """
    x main std nnet auto bool break case catch char class const continue default delete do double else enum
    export extern false float for friend goto if inline int long mutable namespace new not operator or private
    protected public register return short signed sizeof static struct switch template this throw true try
    typedef typename union unsigned using virtual void volatile while xor and asm concept requires
    always assign begin buf deassign disable edge end endcase endfunction endmodule endtask event force forever fork
    function generate initial inout input integer join localparam module nand nor output parameter posedge real reg
    release repeat signed supply0 supply1 table task time tri wait wand wire wor xnor logic byte bit packed
    shift_adder mux multiplier negative lookup_table binop clk model_inp model_out
    """.split()  # noqa: SIM905
)


def check_free(folder: Path) -> None:
    """A ValueError if the folder holds something."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        msg = f"export: {folder} exists and is not an empty folder; choose another or remove it"
        raise ValueError(msg)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which takes its place when the block ends well and leaves nothing behind otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # a sibling, so that the last step is a rename within one file system
    unfinished = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield unfinished
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_settings(name: str, clock_period_ns: float, part: str) -> None:
    """A ValueError that names the setting the generated C++, Verilog or Tcl could not take."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or name in RESERVED:
        msg = f"export: name must be a lower-case C++ identifier that is no keyword, got {name!r}"
        raise ValueError(msg)
    number = isinstance(clock_period_ns, int | float) and not isinstance(clock_period_ns, bool)
    if not number or not 0 < clock_period_ns <= 1000:
        msg = f"export: clock period must lie above 0 and at most at 1000 ns, got {clock_period_ns!r} ns"
        raise ValueError(msg)
    if not isinstance(part, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", part):
        msg = f"export: part must be a part number such as {DEFAULT_PART}, got {part!r}"
        raise ValueError(msg)


def check_card(card: dict[str, Any]) -> None:
    """A ValueError unless everything on a card can be written as JSON."""
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"export: metadata cannot be written as JSON: {error}"
        raise ValueError(msg) from error


def write_json(path: Path, data: dict[str, Any]) -> None:
    """A JSON file without NaN, for people to read too."""
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_part(folder: Path, file: str) -> Any:
    """The content of a JSON file of a project."""
    if not (folder / file).is_file():
        msg = f"{folder}: not an exported trigger project, it has no {file}"
        raise ValueError(msg)
    return read_json(folder / file)


def read_card(folder: Path, schema: str, number: int) -> dict[str, Any]:
    """The card of a project; a ValueError if it is another one or its settings are not usable."""
    card = read_part(folder, CARD)
    if not isinstance(card, dict) or (card.get("schema"), card.get("version")) != (schema, number):
        msg = f"{folder / CARD}: not a {schema.removeprefix('diffhep trigger ')} of version {number}"
        raise ValueError(msg)
    try:
        check_settings(card.get("name"), card.get("clock_period_ns"), card.get("part"))  # type: ignore[arg-type]
    except ValueError as error:
        msg = f"{folder}: {error}"
        raise ValueError(msg) from error
    return card


def tool_versions(tools: Sequence[str]) -> dict[str, str]:
    """Versions of the packages that made a project, and of Python."""
    return {package: version(package) for package in tools} | {"python": sys.version.split()[0]}


def compare_files(folder: Path, build: Path, *, code: str, source: str, written_with: dict[str, str]) -> int:
    """The number of generated files, all found unaltered in the project; else a ValueError that names the first.

    Files that synthesis adds elsewhere do not matter, but nothing may be added to the folder of the code, where a
    header would shadow another. The library of hls4ml's own compilation is let pass: it is not used.

    Args:
        folder: the project.
        build: the same project, generated again.
        code: name of the folder of the code.
        source: what the project was generated from, for the message.
        written_with: versions on the card of the tools that could explain a difference.
    """
    generated = sorted(path.relative_to(build) for path in build.rglob("*") if path.is_file())
    wrong = [
        f"{path} {'differs' if (folder / path).is_file() else 'is missing'}"
        for path in generated
        if not (folder / path).is_file() or (folder / path).read_bytes() != (build / path).read_bytes()
    ]
    present = (path.relative_to(folder) for path in (folder / code).rglob("*") if not path.is_dir())
    known = set(generated)
    wrong += sorted(f"{path} was added" for path in present if path not in known and path.suffix != ".so")
    if wrong:
        others = {tool: (was, version(tool)) for tool, was in written_with.items() if was != version(tool)}
        reason = "".join(f"; it was written with {tool} {was}, this is {now}" for tool, (was, now) in others.items())
        more = "" if len(wrong) == 1 else f" (and {len(wrong) - 1} more)"
        msg = f"{folder}: firmware is not that of {source}: {wrong[0]}{more}{reason}; export it again"
        raise ValueError(msg)
    return len(generated)


def compare_card(folder: Path, card: dict[str, Any], again: dict[str, Any]) -> None:
    """A ValueError unless a card says what the same project, generated again, says."""
    wrong = [key for key in again if key != "versions" and card.get(key) != again[key]]
    if wrong:
        msg = f"{folder / CARD}: {wrong[0]} is not that of the function; export it again"
        raise ValueError(msg)


def read_words(folder: Path, schema: str, number: int) -> tuple[Words, ...]:
    """The arguments of a project's function as its card gives them; a ValueError if it is none."""
    card = read_card(folder, schema, number)
    try:
        return tuple(
            Words(
                tuple(array["shape"]),
                np.array([FixedPoint.parse(word["type"]) for word in array["words"]], object).reshape(array["shape"]),  # type: ignore[arg-type]
            )
            for array in card["inputs"]
        )
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{folder / CARD}: inputs not understood: {error}"
        raise ValueError(msg) from error


def files_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def word_records(traced: Traced) -> dict[str, list[dict[str, Any]]]:
    """Shapes of all arrays of a function and formats of their words, for a card: `inputs` and `outputs`."""
    shapes = [words.shape for words in traced.inputs]
    formats = [[str(format) for format in words.formats().ravel()] for words in traced.inputs]
    inputs = zip(shapes, split(traced.circuit.inputs, shapes), formats, strict=True)
    kifs, values = split(traced.circuit.outputs, traced.shapes), split(traced.constants, traced.shapes)
    return {
        "inputs": [{"shape": list(shape), "words": word_list(kif, text)} for shape, kif, text in inputs],
        "outputs": [
            {"shape": list(shape), "words": word_list(kif, None, constants)}
            for shape, kif, constants in zip(traced.shapes, kifs, values, strict=True)
        ],
    }


def split(words: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """What belongs to each array, of one entry a word."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    return np.split(words, np.cumsum(sizes)[:-1])


def word_list(kif: np.ndarray, formats: Sequence[str] | None, values: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Format of each word; what is constant has its value in place of bits. Words follow each other from bit 0 on."""
    out = []
    for number, (k, i, f) in enumerate(kif.tolist()):
        if values is not None and not np.isnan(values[number]):
            out.append({"constant": float(values[number])})
        else:
            unsigned = "" if k else "u"
            text = f"ap_{unsigned}fixed<{k + i + f},{k + i}>" if formats is None else formats[number]
            out.append({"k": k, "i": i, "f": f, "type": text})
    return out
