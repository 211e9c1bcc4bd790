"""Names of files: whether one may be read or written there, and files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def check_file(path: Path, wanted: str) -> None:
    """A ValueError of one line unless there is a file of that name."""
    if not path.is_file():
        msg = f"{path}: {f'is a folder, wanted {wanted}' if path.is_dir() else 'no such file'}"
        raise ValueError(msg)


def check_free(path: str | os.PathLike[str], *, overwrite: bool = False, suffixes: Sequence[str] = ()) -> Path:
    """The path, if a file can be written there; a ValueError of one line otherwise.

    Args:
        path: of the new file.
        overwrite: replace a file that is already there.
        suffixes: what its name may end in; anything if there are none.
    """
    path = Path(path)
    if suffixes and path.suffix not in suffixes:
        msg = f"{path}: the name must end in {' or '.join(suffixes)}"
        raise ValueError(msg)
    if path.is_dir():
        msg = f"{path}: is a folder, wanted the name of a file"
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"{path}: the file exists already; give another name or overwrite=True"
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: the folder {path.parent} does not exist"
        raise ValueError(msg)
    return path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside the target, renamed on success and removed otherwise."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
