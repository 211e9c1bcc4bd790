"""pyhf JSON workspaces and patch sets, in and out.

A workspace holds channels, observations and measurements; it is kept word for word, so that what is written is what was
read. A patch set is a list of named JSON patches (RFC 6902) that turn a background-only workspace into one signal
hypothesis each.
"""

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import numpy as np

from diffhep.inference.model import HistFactory, Observation, histfactory
from diffhep.inference.specification import check_channels, member, numbers
from diffhep.io import read_json


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A pyhf workspace.

    Build it with `read_workspace` or from the JSON object; `spec` is never changed.

    Raises:
        ValueError: anything that does not follow the schema, in one line that names the place.

    >>> sample = {"name": "b", "data": [50.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    >>> spec = {
    ...     "channels": [{"name": "SR", "samples": [sample]}],
    ...     "observations": [{"name": "SR", "data": [52.0]}],
    ...     "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
    ...     "version": "1.0.0",
    ... }
    >>> model, data = Workspace(spec).build()
    >>> model.names, data.counts.tolist()
    (('mu',), [52.0])
    """

    spec: Mapping[str, Any]

    def __post_init__(self):
        spec = self.spec
        if not isinstance(spec, Mapping):
            msg = f"workspace: a JSON object is wanted, got {type(spec).__name__}"
            raise ValueError(msg)
        for key in ("channels", "observations", "measurements"):
            member(spec, key, "workspace", Sequence)
        if member(spec, "version", "workspace", str) != "1.0.0":
            msg = f"workspace: version 1.0.0 is wanted, got {spec['version']!r}"
            raise ValueError(msg)
        check_channels(spec["channels"])
        observed = {member(o, "name", f"observations[{i}]", str): o for i, o in enumerate(spec["observations"])}
        for channel in spec["channels"]:
            name, length = channel["name"], len(channel["samples"][0]["data"])
            if name not in observed:
                msg = f"observations: channel {name!r} is missing"
                raise ValueError(msg)
            where = f"observations, channel {name!r}"
            numbers(member(observed[name], "data", where, Sequence), length, where, positive=True)
        for i, measurement in enumerate(spec["measurements"]):
            name = member(measurement, "name", f"measurements[{i}]", str)
            config = member(measurement, "config", f"measurement {name!r}", Mapping)
            member(config, "poi", f"measurement {name!r}, config", str)
            for p in member(config, "parameters", f"measurement {name!r}, config", Sequence):
                member(p, "name", f"measurement {name!r}, parameters", str)

    @property
    def measurements(self) -> tuple[str, ...]:
        """Names of the measurements."""
        return tuple(m["name"] for m in self.spec["measurements"])

    def measurement(self, name: str | None = None) -> Mapping[str, Any]:
        """A measurement by name, by default the first."""
        if not self.measurements:
            msg = "workspace: it has no measurement"
            raise ValueError(msg)
        if name is None:
            return self.spec["measurements"][0]
        if name not in self.measurements:
            msg = f"no measurement {name!r}; the workspace has {', '.join(self.measurements)}"
            raise ValueError(msg)
        return self.spec["measurements"][self.measurements.index(name)]

    def build(
        self,
        *,
        measurement: str | None = None,
        poi: str | None = None,
        normsys_code: Literal["code1", "code4"] = "code4",
        histosys_code: Literal["code0", "code2", "code4p"] = "code4p",
    ) -> tuple[HistFactory, Observation]:
        """The model of a measurement and the observed data.

        Args:
            measurement: its name, by default the first.
            poi: parameter of interest, by default the measurement's.
            normsys_code: interpolation of normsys.
            histosys_code: interpolation of histosys.
        """
        config = self.measurement(measurement)["config"]
        chosen = config["poi"] if poi is None else poi
        model = histfactory(
            self.spec["channels"],
            poi=chosen or None,
            parameters=config["parameters"],
            normsys_code=normsys_code,
            histosys_code=histosys_code,
        )
        observed = {o["name"]: o["data"] for o in self.spec["observations"]}
        return model, model.data(np.concatenate([np.asarray(observed[c], float) for c in model.structure.channels]))

    def patched(self, patch: Sequence[Mapping[str, Any]]) -> "Workspace":
        """The workspace with a JSON patch applied."""
        return Workspace(apply_patch(self.spec, patch))

    def write(self, path: str | os.PathLike) -> None:
        """Writes JSON; nothing half-written is left behind."""
        write_json(self.spec, path)


@dataclasses.dataclass(frozen=True)
class PatchSet:
    """Signal hypotheses as patches of one background-only workspace.

    Attributes:
        spec: the JSON object, `{"metadata", "patches": [{"metadata": {"name", "values"}, "patch"}], "version"}`.
    """

    spec: Mapping[str, Any]

    def __post_init__(self):
        patches = member(self.spec, "patches", "patch set", Sequence)
        for i, patch in enumerate(patches):
            metadata = member(patch, "metadata", f"patches[{i}]", Mapping)
            member(metadata, "name", f"patches[{i}], metadata", str)
            member(patch, "patch", f"patch {metadata['name']!r}", Sequence)
        if len(set(self.names)) < len(patches):
            msg = "patch set: a patch name is used twice"
            raise ValueError(msg)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the patches."""
        return tuple(p["metadata"]["name"] for p in self.spec["patches"])

    def __getitem__(self, name: str) -> Sequence[Mapping[str, Any]]:
        """The JSON patch of one hypothesis."""
        if name not in self.names:
            msg = f"no patch {name!r}; the patch set has {len(self.names)}: {', '.join(self.names[:5])}..."
            raise ValueError(msg)
        return self.spec["patches"][self.names.index(name)]["patch"]

    def apply(self, workspace: Workspace, name: str) -> Workspace:
        """The workspace of one hypothesis."""
        return workspace.patched(self[name])


def read_workspace(path: str | os.PathLike) -> Workspace:
    """A workspace from a JSON file; errors name the file."""
    return made_of(path, Workspace)


def read_patchset(path: str | os.PathLike) -> PatchSet:
    """A patch set from a JSON file; errors name the file."""
    return made_of(path, PatchSet)


def made_of(path: str | os.PathLike, kind: Callable[[Any], Any]) -> Any:
    """What `kind` makes of a JSON file; its errors then name the file, too."""
    content = read_json(path)
    try:
        return kind(content)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None


def write_json(thing: object, path: str | os.PathLike) -> None:
    """Writes JSON to a temporary name and renames it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(thing, indent=4, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """A JSON document with a JSON patch (RFC 6902) applied; the document itself is left alone.

    Raises:
        ValueError: an operation that cannot be done, with its number and path.

    >>> apply_patch({"a": [1, 2]}, [{"op": "add", "path": "/a/1", "value": 9}, {"op": "remove", "path": "/a/0"}])
    {'a': [9, 2]}
    """
    document = copy.deepcopy(document)
    for i, operation in enumerate(patch):
        where = f"patch operation {i}"
        op, path = member(operation, "op", where, str), member(operation, "path", where, str)
        try:
            document = _operate(document, op, path, operation)
        except (KeyError, IndexError, TypeError, AttributeError):
            msg = f"{where}: cannot {op} at {path!r}"
            raise ValueError(msg) from None
    return document


def _operate(document: Any, op: str, path: str, operation: Mapping[str, Any]) -> Any:
    if op == "add":
        return _put(document, path, copy.deepcopy(operation["value"]), replace=False)
    if op == "replace":
        return _put(document, path, copy.deepcopy(operation["value"]), replace=True)
    if op == "remove":
        return _drop(document, path)
    if op == "test":
        if _look(document, path) != operation["value"]:
            raise KeyError(path)
        return document
    if op in ("copy", "move"):
        value = copy.deepcopy(_look(document, operation["from"]))
        if op == "move":
            document = _drop(document, operation["from"])
        return _put(document, path, value, replace=False)
    raise KeyError(op)


def _keys(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise KeyError(path)
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _step(here: Any, key: str) -> Any:
    return here[_index(key)] if isinstance(here, list) else here[key]


def _index(key: str) -> int:
    if not key.isdigit() or (len(key) > 1 and key[0] == "0"):
        raise IndexError(key)
    return int(key)


def _look(document: Any, path: str) -> Any:
    for key in _keys(path):
        document = _step(document, key)
    return document


def _put(document: Any, path: str, value: Any, *, replace: bool) -> Any:
    if not path:
        return value
    *parents, last = _keys(path)
    here = document
    for key in parents:
        here = _step(here, key)
    if replace:
        _step(here, last)
    if isinstance(here, list):
        position = len(here) if last == "-" else _index(last)
        if position > len(here):
            raise IndexError(last)
        if replace:
            here[position] = value
        else:
            here.insert(position, value)
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise TypeError(last)
    return document


def _drop(document: Any, path: str) -> Any:
    *parents, last = _keys(path)
    here = document
    for key in parents:
        here = _step(here, key)
    if isinstance(here, list):
        del here[_index(last)]
    else:
        del here[last]
    return document


def specification(model: HistFactory) -> list[dict[str, Any]]:
    """The channels of a model in pyhf's form, from its present leaves: the inverse of `histfactory`."""
    t, out = model.structure, []
    leaves = {k: np.asarray(getattr(model, k)) for k in ("nominal", "sys_lo", "sys_hi", "shape_lo", "shape_hi")}
    errors, others = np.asarray(model.errors), np.asarray(model.factor_errors)
    for c, (channel, bins) in enumerate(zip(t.channels, t.bins, strict=True)):
        samples = []
        for s, sample in enumerate(t.samples[c]):
            modifiers = []
            for name, kind, q in t.modifiers[c][s]:
                data: Any = None
                if kind == "normsys":
                    data = {"hi": float(leaves["sys_hi"][c, s, q]), "lo": float(leaves["sys_lo"][c, s, q])}
                elif kind == "histosys":
                    hi, lo = leaves["shape_hi"][c, s, q, :bins], leaves["shape_lo"][c, s, q, :bins]
                    data = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
                elif kind in ("shapesys", "staterror"):
                    data = (errors[c, s] if q < 0 else others[c, s, q])[:bins].tolist()
                modifiers.append({"name": name, "type": kind, "data": data})
            samples.append({"name": sample, "data": leaves["nominal"][c, s, :bins].tolist(), "modifiers": modifiers})
        out.append({"name": channel, "samples": samples})
    return out


def mask_bins(model: HistFactory, channel: str, bins: Sequence[int] | None = None) -> HistFactory:
    """The model without some bins of a channel, or without all of it; shapes stay, nothing is compiled again.

    Raises:
        ValueError: a channel or a bin the model does not have.
    """
    t = model.structure
    if channel not in t.channels:
        msg = f"no channel {channel!r}; the model has {', '.join(t.channels)}"
        raise ValueError(msg)
    c = t.channels.index(channel)
    chosen = range(t.bins[c]) if bins is None else bins
    for b in chosen:
        if not 0 <= b < t.bins[c]:
            msg = f"channel {channel!r} has bins 0 to {t.bins[c] - 1}, got {b}"
            raise ValueError(msg)
    return eqx.tree_at(lambda m: m.mask, model, model.mask.at[c, np.array(list(chosen), dtype=int)].set(0.0))
