r"""Samples: events that know how they were produced.

A sample is a file with the cross-section, the sum of weights before any filter, and the settings of the generator. With
these the weights become expected events at a luminosity, $w\,\sigma L / \sum w$.

A file has the tree `Events` (`nPhoton`, `Photon_pt`, ..., `genWeight`), the tree `Runs` (NanoAOD's `genEventCount`,
`genEventSumw`, `genEventSumw2`; ours: `crossSection`, `crossSectionError` in pb, `luminosity` in 1/pb) and the string
`metadata`, a JSON object. All but `Events` may be missing. The rows of `Runs` add up, as when files are merged.
"""

import dataclasses
import difflib
import importlib.resources
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import jax.numpy as jnp
import numpy as np
import uproot

from diffhep.events import Events
from diffhep.io.paths import atomic, check_free
from diffhep.io.root import open_root, read_table, readable

SHIPPED = ("higgs-diphoton", "diphoton", "jets")


@dataclasses.dataclass(frozen=True)
class Sample:
    r"""Events together with what turns their weights into expected events.

    Attributes:
        events: the events that were kept, with the generator's weights.
        cross_section: of everything generated, before the filter, in pb.
        sum_of_weights: of everything generated, before the filter.
        n_generated: number of events generated, before the filter.
        luminosity: equivalent luminosity of the sample, $(\sum w)^2 / (\sigma \sum w^2)$, in 1/pb.
        process: name of the process, or of the file.
        seed: of the generator, if known.
        path: of the file.
        metadata: everything else the file says about its production.
    """

    events: Events
    cross_section: float
    sum_of_weights: float
    n_generated: int
    luminosity: float
    process: str
    seed: int | None
    path: Path
    metadata: Mapping[str, Any]

    def expected(self, luminosity: float) -> Events:
        r"""The events weighted to the expected number at a luminosity in 1/pb: $w\,\sigma L/\sum w$.

        >>> events = sample.expected(139 * units.invfb)  # doctest: +SKIP
        """
        if not luminosity > 0:
            msg = f"{self.path}: luminosity must be positive, got {luminosity} 1/pb"
            raise ValueError(msg)
        factor = luminosity * self.cross_section / self.sum_of_weights
        return self.events.reweight(jnp.full(self.events.size, factor))


def read_sample(
    path: str | os.PathLike[str],
    *,
    cross_section: float | None = None,
    collection: str = "Photon",
    fields: Sequence[str] = ("pt", "eta", "phi"),
    optional: Mapping[str, float] | None = None,
    tree: str = "Events",
    max_objects: int = 2,
    min_objects: int = 0,
    weight: str | None = "genWeight",
    entry_stop: int | None = None,
) -> Sample:
    """A sample: the events of `read_events` with their cross-section and sum of weights.

    Without a tree `Runs` the sum of weights is that of all entries of the file, so the file is then taken to hold
    everything that was generated. With `entry_stop` the sum of weights, the number of events and the luminosity are
    those of the fraction of entries that was read, so that expected events stay the same on average.

    Args:
        path: a local ROOT file.
        cross_section: in pb; overrides what the file says and is needed where the file says nothing.
        collection: see `read_events`, as for the other arguments.
        fields: names without the prefix.
        optional: name -> value where the branch is missing.
        tree: name of the tree of events.
        max_objects: objects kept in an event.
        min_objects: objects that an event must have.
        weight: branch of the event weight.
        entry_stop: read only the entries before this one.

    Raises:
        ValueError: as `read_events`; or no positive cross-section or sum of weights is known.

    >>> sample = read_sample(shipped("higgs-diphoton"), entry_stop=100)
    >>> sample.process, sample.cross_section > 0
    ('higgs-diphoton', True)
    """
    path = Path(path)
    table = read_table(
        path,
        collection=collection,
        fields=fields,
        optional=optional or {},
        tree=tree,
        max_objects=max_objects,
        min_objects=min_objects,
        weight=weight,
        entry_stop=entry_stop,
    )
    runs, metadata = _read_production(path)

    sigma = cross_section if cross_section is not None else runs.get("crossSection")
    if sigma is None:
        msg = f"{path}: the file has no cross-section (Runs.crossSection); give cross_section=... in pb"
        raise ValueError(msg)
    if not (np.isfinite(sigma) and sigma > 0):
        msg = f"{path}: the cross-section must be positive, got {sigma} pb"
        raise ValueError(msg)

    fraction = table.n_read / table.n_entries
    sumw = runs["genEventSumw"] * fraction if "genEventSumw" in runs else table.sum_of_weights
    count = round(runs["genEventCount"] * fraction) if "genEventCount" in runs else table.n_read
    sumw2 = runs["genEventSumw2"] * fraction if "genEventSumw2" in runs else sumw**2 / max(count, 1)
    if not (np.isfinite(sumw) and sumw > 0):
        msg = f"{path}: the sum of weights of the generated events must be positive, got {sumw}"
        raise ValueError(msg)
    return Sample(
        events=table.events,
        cross_section=float(sigma),
        sum_of_weights=float(sumw),
        n_generated=int(count),
        luminosity=float(sumw**2 / sumw2 / sigma),
        process=str(metadata.get("process", path.stem)),
        seed=metadata.get("seed"),
        path=path,
        metadata=metadata,
    )


def write_sample(
    path: str | os.PathLike[str],
    events: Events,
    *,
    cross_section: float,
    sum_of_weights: float,
    n_generated: int,
    sum_of_squared_weights: float | None = None,
    cross_section_error: float = 0.0,
    metadata: Mapping[str, Any] | None = None,
    collection: str = "Photon",
    others: Mapping[str, Events] | None = None,
    dtype: Any = np.float32,
    overwrite: bool = False,
) -> Path:
    """Write events as NanoAOD-like `Events`, `Runs` and `metadata`; the file appears whole or not at all.

    Args:
        path: of the new file; its folder must exist.
        events: fields (event, object) become jagged branches of the collection, fields (event,) branches of the event.
        cross_section: of everything generated, in pb.
        sum_of_weights: of everything generated, before the filter.
        n_generated: number of events generated.
        sum_of_squared_weights: of everything generated; by default that of equal weights.
        cross_section_error: in pb.
        metadata: what JSON can hold; `process` and `seed` are read back by `read_sample`.
        collection: prefix of the branches.
        others: further collections of the same events, by their prefixes; their weights do not count.
        dtype: of the floating-point branches; integers keep their type.
        overwrite: replace a file that is already there.

    Raises:
        ValueError: the file exists, its folder does not, or a number makes no sense.

    >>> write_sample("new.root", events, cross_section=1.0, sum_of_weights=10, n_generated=10)  # doctest: +SKIP
    """
    path = check_free(path, overwrite=overwrite)
    if not (np.isfinite(cross_section) and cross_section > 0):
        msg = f"{path}: the cross-section must be positive, got {cross_section} pb"
        raise ValueError(msg)
    if not (np.isfinite(sum_of_weights) and sum_of_weights > 0):
        msg = f"{path}: the sum of weights must be positive, got {sum_of_weights}"
        raise ValueError(msg)
    if events.size == 0:
        msg = f"{path}: there are no events to write"
        raise ValueError(msg)

    branches, collections = {}, {}
    for prefix, part in {collection: events, **(others or {})}.items():
        single, objects = _branches(path, part, dtype)
        branches |= single
        if objects:
            collections[prefix] = ak.zip(objects)
    branches |= {"genWeight": _narrow(events.weight, dtype), **collections}

    squared = sum_of_weights**2 / n_generated if sum_of_squared_weights is None else sum_of_squared_weights
    runs = {
        "genEventCount": np.array([n_generated], np.int64),
        "genEventSumw": np.array([sum_of_weights], np.float64),
        "genEventSumw2": np.array([squared], np.float64),
        "crossSection": np.array([cross_section], np.float64),
        "crossSectionError": np.array([cross_section_error], np.float64),
        "luminosity": np.array([sum_of_weights**2 / squared / cross_section], np.float64),
    }
    with atomic(path) as temporary, uproot.recreate(temporary, compression=uproot.LZMA(9)) as file:
        file.mktree("Events", {name: _branch_type(array) for name, array in branches.items()}).extend(branches)
        file.mktree("Runs", {name: array.dtype for name, array in runs.items()}).extend(runs)
        file["metadata"] = json.dumps(dict(metadata or {}), sort_keys=True)
    return path


def shipped(name: str) -> Path:
    """Path of a sample that comes with the package: `higgs-diphoton`, `diphoton` or `jets`.

    >>> shipped("jets").name
    'jets.root'
    """
    if name not in SHIPPED:
        near = difflib.get_close_matches(name, SHIPPED, n=1, cutoff=0.0)[0]
        msg = f"no shipped sample is called {name!r}; did you mean {near!r}? There are {', '.join(SHIPPED)}"
        raise ValueError(msg)
    path = Path(str(importlib.resources.files("diffhep").joinpath("samples", f"{name}.root")))
    if not path.is_file():
        msg = f"{path}: the shipped sample is missing here; make it with python -m diffhep.generate.shipped"
        raise ValueError(msg)
    return path


def _read_production(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Sums over `Runs`, whose rows add up when files are merged, and the metadata."""
    with open_root(path) as file:
        with readable(path):
            names = set(file.keys(cycle=False))
            columns: dict[str, np.ndarray] = {}
            if "Runs" in names:
                wanted = ("genEventCount", "genEventSumw", "genEventSumw2", "crossSection")
                tree = file["Runs"]
                columns = {k: tree[k].array(library="np") for k in wanted if k in tree and tree.num_entries}
            text = str(file["metadata"]) if "metadata" in names else "{}"
        runs = {name: float(np.sum(column)) for name, column in columns.items()}
        if "crossSection" in columns:
            # merged files are runs of one process: the better estimate is the mean over all generated weights
            shares = columns.get("genEventSumw", np.ones_like(columns["crossSection"]))
            total = float(np.sum(shares))
            runs["crossSection"] = float(np.sum(columns["crossSection"] * shares) / total) if total else np.nan
    try:
        metadata = json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{path}: the object 'metadata' is not JSON ({error})"
        raise ValueError(msg) from error
    if not isinstance(metadata, dict):
        msg = f"{path}: the object 'metadata' is {type(metadata).__name__}, wanted a JSON object"
        raise ValueError(msg)
    return runs, metadata


def _branches(path: Path, events: Events, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is one number an event, and the jagged quantities of the objects."""
    mask = np.asarray(events.mask)
    counts = mask.sum(axis=1)
    objects, branches = {}, {}
    for name, value in events.fields.items():
        array = _narrow(value, dtype)
        if array.ndim == 1:
            branches[name] = array
        elif array.shape == mask.shape:
            objects[name] = ak.unflatten(array[mask], counts)
        else:
            msg = f"{path}: field {name!r} has shape {array.shape}, wanted {mask.shape} or {mask.shape[:1]}"
            raise ValueError(msg)
    return branches, objects


def _narrow(value: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array


def _branch_type(array: Any) -> Any:
    return array.dtype if isinstance(array, np.ndarray) else array.type.content
