"""Events out of ROOT files, with the branch names of NanoAOD.

Ragged data ends here: what leaves `read_events` has a fixed shape and a mask. Whatever is wrong with a file is said in
one line that names the file.
"""

import contextlib
import dataclasses
import difflib
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import jax.numpy as jnp
import numpy as np
import uproot

from diffhep.events import Events

NON_NEGATIVE = ("pt", "energy")  # GeV


def read_events(
    path: str | os.PathLike[str],
    *,
    collection: str = "Photon",
    fields: Sequence[str] = ("pt", "eta", "phi"),
    optional: Mapping[str, float] | None = None,
    tree: str = "Events",
    max_objects: int = 2,
    min_objects: int = 0,
    weight: str | None = "genWeight",
    entry_stop: int | None = None,
) -> Events:
    """Events of a ROOT file: objects in descending pt, padded with 0 to (event, max_objects).

    Args:
        path: a local ROOT file.
        collection: prefix of the branches, `Photon` for `Photon_pt`; the empty string for bare names. A branch may be
            jagged (NanoAOD), an array of fixed length, or one number per event, which is then its only object.
        fields: names without the prefix; `pt` (GeV) must be among them, because it orders the objects.
        optional: name -> value for every object where the file has no such branch.
        tree: name of the tree.
        max_objects: objects beyond this number are dropped, softest first.
        min_objects: events with fewer objects are dropped.
        weight: branch of the event weight; weights are 1 where the file has no such branch.
        entry_stop: read only the entries before this one.

    Raises:
        ValueError: the file, the tree or a branch is missing or empty, a value is not finite or negative where it
            cannot be, or no event is left.

    >>> read_events(shipped("higgs-diphoton"), min_objects=2, entry_stop=10)["pt"].shape[1]
    2
    """
    table = read_table(
        Path(path),
        collection=collection,
        fields=fields,
        optional=optional or {},
        tree=tree,
        max_objects=max_objects,
        min_objects=min_objects,
        weight=weight,
        entry_stop=entry_stop,
    )
    return table.events


@dataclasses.dataclass(frozen=True)
class Table:
    """What a tree of events holds, and how much of it was read."""

    events: Events
    n_entries: int  # in the file
    n_read: int  # before min_objects
    sum_of_weights: float  # of the entries read


def read_table(
    path: Path,
    *,
    collection: str,
    fields: Sequence[str],
    optional: Mapping[str, float],
    tree: str,
    max_objects: int,
    min_objects: int,
    weight: str | None,
    entry_stop: int | None,
) -> Table:
    """The work of `read_events`, with what a sample needs to know besides."""
    if "pt" not in fields:
        msg = f"{path}: fields must contain 'pt', which orders the objects; got {', '.join(fields) or 'none'}"
        raise ValueError(msg)
    if max_objects < 1 or not 0 <= min_objects <= max_objects:
        msg = f"{path}: wanted 0 <= min_objects <= max_objects and max_objects >= 1, got {min_objects}, {max_objects}"
        raise ValueError(msg)
    if entry_stop is not None and entry_stop < 1:
        msg = f"{path}: entry_stop must be at least 1, got {entry_stop}"
        raise ValueError(msg)

    prefix = f"{collection}_" if collection else ""
    with open_root(path) as file:
        source = _tree(path, file, tree)
        present = set(source.keys(recursive=False))
        if missing := [prefix + name for name in fields if prefix + name not in present]:
            near = sorted({n for name in missing for n in difflib.get_close_matches(name, present, n=3, cutoff=0.5)})
            hint = f"nearest: {', '.join(near)}" if near else f"there are {_some(sorted(present))}"
            msg = f"{path}: tree {tree!r} has no branch {', '.join(missing)}; {hint}"
            raise ValueError(msg)
        if source.num_entries == 0:
            msg = f"{path}: tree {tree!r} is empty, wanted at least one entry"
            raise ValueError(msg)
        wanted = [*fields, *(name for name in optional if name not in fields and prefix + name in present)]
        ragged = {name: _branch(path, source, prefix + name, entry_stop) for name in wanted}
        n_entries, n_read = int(source.num_entries), len(ragged["pt"])
        weights = np.ones(n_read)
        if weight is not None and weight in present:
            weights = ak.to_numpy(_branch(path, source, weight, entry_stop)).astype(np.float64)

    if weights.ndim != 1:
        msg = f"{path}: branch {weight} has shape {weights.shape}, wanted one number per event"
        raise ValueError(msg)
    if not np.isfinite(weights).all():
        entry = int(np.argmin(np.isfinite(weights)))
        msg = f"{path}: branch {weight} is {weights[entry]} in entry {entry}, wanted a finite weight"
        raise ValueError(msg)
    ragged = {name: array if array.ndim > 1 else array[:, np.newaxis] for name, array in ragged.items()}
    counts = ak.to_numpy(ak.num(ragged["pt"]))
    for name, array in ragged.items():
        _check_values(path, prefix + name, name, array, counts, prefix + "pt")

    keep = np.flatnonzero(counts >= min_objects)
    if keep.size == 0:
        msg = (
            f"{path}: none of {n_read} events has {min_objects} objects in {prefix}pt, they have {counts.max()} at most"
        )
        raise ValueError(msg)
    padded, mask = _pad(ragged, counts, max_objects)
    padded |= {name: np.where(mask, default, 0.0) for name, default in optional.items() if name not in padded}
    events = Events(
        {name: jnp.asarray(array[keep]) for name, array in padded.items()},
        jnp.asarray(mask[keep]),
        jnp.asarray(weights[keep]),
    )
    return Table(events, n_entries, n_read, float(weights.sum()))


def read_branch(
    path: str | os.PathLike[str], name: str, *, tree: str = "Events", entry_stop: int | None = None
) -> np.ndarray:
    """One number for each entry of a tree, such as a score.

    Args:
        path: a local ROOT file.
        name: of the branch.
        tree: name of the tree.
        entry_stop: read only the entries before this one.

    Raises:
        ValueError: the file, the tree or the branch is missing, or it does not hold one finite number an entry.

    >>> read_branch(shipped("jets"), "genWeight", entry_stop=3).shape
    (3,)
    """
    path = Path(path)
    with open_root(path) as file:
        source = _tree(path, file, tree)
        if name not in (present := source.keys(recursive=False)):
            near = difflib.get_close_matches(name, present, n=3, cutoff=0.5)
            hint = f"nearest: {', '.join(near)}" if near else f"there are {_some(sorted(present))}"
            msg = f"{path}: tree {tree!r} has no branch {name}; {hint}"
            raise ValueError(msg)
        array = _branch(path, source, name, entry_stop)
    if array.ndim != 1:
        msg = f"{path}: branch {name} holds a list for each event, wanted one number"
        raise ValueError(msg)
    values = ak.to_numpy(array).astype(np.float64)
    if not np.isfinite(values).all():
        entry = int(np.argmin(np.isfinite(values)))
        msg = f"{path}: branch {name} is {values[entry]} in entry {entry}, wanted a finite number"
        raise ValueError(msg)
    return values


def _pad(ragged: Mapping[str, Any], counts: np.ndarray, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rectangular arrays in descending pt, and their mask."""
    order = ak.argsort(ragged["pt"], axis=1, ascending=False, stable=True)
    mask = np.arange(width) < counts[:, np.newaxis]
    padded = {}
    for name, array in ragged.items():
        first = ak.pad_none(array[order], width, axis=1, clip=True)
        padded[name] = ak.to_numpy(ak.fill_none(first, 0.0)).astype(np.float64)
    return padded, mask


def _check_values(path: Path, branch: str, name: str, array: Any, counts: np.ndarray, reference: str) -> None:
    """Refuse branches of different lengths, values that are not finite, and negative momenta."""
    lengths = ak.to_numpy(ak.num(array))
    if (lengths != counts).any():
        entry = int(np.argmax(lengths != counts))
        msg = f"{path}: {branch} has {lengths[entry]} objects in entry {entry}, {reference} has {counts[entry]}"
        raise ValueError(msg)
    flat = ak.to_numpy(ak.flatten(array)).astype(np.float64)
    bad, wanted = ~np.isfinite(flat), "a finite number"
    if not bad.any() and name in NON_NEGATIVE:
        bad, wanted = flat < 0, "at least 0 GeV"
    if bad.any():
        at = int(np.argmax(bad))
        entry = int(np.searchsorted(np.cumsum(counts), at, side="right"))
        unit = " GeV" if name in (*NON_NEGATIVE, "mass") else ""
        msg = f"{path}: branch {branch} is {flat[at]}{unit} in entry {entry}, wanted {wanted}"
        raise ValueError(msg)


@contextlib.contextmanager
def open_root(path: Path) -> Iterator[Any]:
    """An open ROOT file; a path that is none of that is refused in one line."""
    if path.is_dir():
        msg = f"{path}: is a folder, wanted a ROOT file"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise ValueError(msg)
    with path.open("rb") as raw:
        head = raw.read(20)
    if head[:4] != b"root" or len(head) < 20:
        msg = f"{path}: is not a ROOT file (it starts with {head[:4]!r}, wanted b'root')"
        raise ValueError(msg)
    # the header (ROOT's class TFile): magic, version, begin of the first record, end of the last in 32 or 64 bits
    (version,) = struct.unpack(">i", head[4:8])
    (end,) = struct.unpack(">q", head[12:20]) if version >= 1_000_000 else struct.unpack(">i", head[12:16])
    if path.stat().st_size < end:
        msg = f"{path}: is cut off, it has {path.stat().st_size} bytes of {end}"
        raise ValueError(msg)
    with readable(path):
        file: Any = uproot.open(path)
    with file:
        yield file


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """One line instead of the dozen exceptions of uproot and the decompressors by which a damaged file shows."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{path}: cannot be read as a ROOT file ({type(error).__name__}: {reason})"
        raise ValueError(msg) from error


def _tree(path: Path, file: Any, name: str) -> Any:
    with readable(path):
        classes = file.classnames(cycle=False)
    trees = [key for key, kind in classes.items() if kind in ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple")]
    if name not in trees:
        msg = f"{path}: has no tree {name!r}; it has {_some(trees) or 'no tree at all'}"
        raise ValueError(msg)
    with readable(path):
        return file[name]


def _branch(path: Path, source: Any, name: str, entry_stop: int | None) -> Any:
    with readable(path):
        array = source[name].array(entry_stop=entry_stop, library="ak")
    flat: Any = ak.flatten(array, axis=None)  # type: ignore[arg-type]
    numeric = isinstance(flat.type.content, ak.types.NumpyType)
    if array.ndim > 2 or not (numeric or len(flat) == 0):
        msg = f"{path}: branch {name} holds {array.type}, wanted numbers, one or a list for each event"
        raise ValueError(msg)
    return array


def _some(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
