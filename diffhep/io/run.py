"""One run is one folder: configuration, checkpoints, metrics, figures, result and report.

Every file is written under a temporary name and renamed, so that a killed run leaves only whole files behind. Arrays
are stored with `equinox.tree_serialise_leaves` (NumPy's format, exact), never pickled.
"""

import contextlib
import json
import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import tomli_w
from jaxtyping import PyTree

from diffhep.io.text import read_json

CONFIG, RESULT, METRICS = "config.toml", "result.json", "metrics.jsonl"


class RunFolder:
    """The folder of one run.

    Use `RunFolder.create` for a new run (a ValueError if the folder already holds one) and `RunFolder.open` for an
    existing one (a ValueError if it holds none).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @staticmethod
    def create(path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Start a run in a new or empty folder."""
        run = RunFolder(path)
        run.check_free()
        text = tomli_w.dumps(without_none(config))
        run.path.mkdir(parents=True, exist_ok=True)
        with run.replacing(CONFIG) as file:
            file.write_text(text)
        return run

    def check_free(self) -> None:
        """A ValueError unless a new run can start here."""
        if self.path.exists() and not self.path.is_dir():
            msg = f"{self.path}: is a file; a run needs a folder of its own"
            raise ValueError(msg)
        if self.path.exists() and any(self.path.iterdir()):
            what = "already holds a run" if (self.path / CONFIG).exists() else "is not empty"
            msg = f"{self.path}: {what}; choose another folder, or --resume"
            raise ValueError(msg)

    @staticmethod
    def open(path: str | Path) -> "RunFolder":
        """An existing run."""
        run = RunFolder(path)
        if not (run.path / CONFIG).is_file():
            msg = f"{run.path}: holds no run ({CONFIG} is missing)"
            raise ValueError(msg)
        return run

    def config(self) -> dict[str, Any]:
        """The configuration the run was started with; a ValueError that names the file if it is broken."""
        try:
            return tomllib.loads((self.path / CONFIG).read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            msg = f"{self.path / CONFIG}: not valid TOML ({error})"
            raise ValueError(msg) from None

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes `name` if the block ends well, and is removed if it does not."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).is_file()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file; NumPy numbers and arrays are converted, nan and inf are refused."""
        with self.replacing(name) as file:
            file.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file, an image for example."""
        with self.replacing(name) as file:
            file.write_bytes(content)

    def read_json(self, name: str) -> Any:
        """Read a JSON file; a ValueError that names it if it is missing or broken."""
        file = self.path / name
        if not file.is_file():
            msg = f"{file}: missing; the run has not come that far"
            raise ValueError(msg)
        return read_json(file)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        line = json.dumps(plain({"time": round(time.time(), 3), **record}))
        with (self.path / METRICS).open("a") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of the metrics so far; a line that a kill cut short is left out."""
        if not self.has(METRICS):
            return []
        found = []
        for line in (self.path / METRICS).read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def save_tree(self, name: str, tree: PyTree) -> None:
        """Store the arrays of a pytree, exactly; arrays of objects, which NumPy would pickle, are refused."""
        if any(isinstance(x, np.ndarray) and x.dtype.hasobject for x in jax.tree.leaves(tree)):
            msg = f"{self.path / name}: arrays of objects cannot be stored"
            raise ValueError(msg)
        with self.replacing(name) as file, file.open("wb") as stream:
            eqx.tree_serialise_leaves(stream, tree)

    def load_tree(self, name: str, like: PyTree) -> PyTree:
        """Read arrays back into a pytree of the same structure; a ValueError that names the file if it is broken."""
        file = self.path / name
        try:
            with file.open("rb") as stream:
                tree = eqx.tree_deserialise_leaves(stream, like)
                if stream.read(1):
                    msg = "it holds more arrays than are asked for"
                    raise ValueError(msg)
                return tree
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            msg = f"{file}: cannot be read back ({reason})"
            raise ValueError(msg) from None


def plain(content: Any, name: str = "") -> Any:
    """The same content in JSON's types.

    Raises:
        ValueError: a number is nan or infinite, which JSON cannot say; the message names where it stands.
    """
    if isinstance(content, Mapping):
        return {str(key): plain(value, f"{name}.{key}".lstrip(".")) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value, f"{name}[{i}]") for i, value in enumerate(content)]
    if isinstance(content, str | bool | int) or content is None:
        return content
    if isinstance(content, Path):
        return str(content)
    if np.asarray(content).dtype.kind not in "biuf":
        msg = f"{name}: a number, a text or a collection of them is wanted, got {type(content).__name__}"
        raise ValueError(msg)
    if not np.all(np.isfinite(np.asarray(content, dtype=float))):
        msg = f"{name}: {np.asarray(content)} is not finite"
        raise ValueError(msg)
    return np.asarray(content).tolist()


def without_none(config: Mapping[str, Any]) -> dict[str, Any]:
    """TOML knows no null: leave such keys out."""

    def kept(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {key: kept(value) for key, value in node.items() if value is not None}

    return plain(kept(config))
