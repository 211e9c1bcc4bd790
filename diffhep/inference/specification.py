"""From the words of a HistFactory specification to arrays of fixed shape.

The specification is pyhf's JSON: channels hold samples, samples hold yields and modifiers. Everything is laid out as
(channel, sample, bin), padded to the longest; padding is masked. What has a shape or a name is static (`Structure`,
hashed by content, so that a model rebuilt with other numbers is not compiled again); what is a number is a leaf.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffhep.inference.gammas import GAMMA_BOUNDS

FREE, GAUSS, POISSON = 0, 1, 2
TYPES = ("normfactor", "normsys", "histosys", "shapesys", "shapefactor", "staterror", "lumi")
BOUNDS = {"normfactor": (0.0, 10.0), "shapefactor": (0.0, 10.0), "normsys": (-5.0, 5.0), "histosys": (-5.0, 5.0)}


class Table:
    """A static integer array: hashable, compared by content."""

    def __init__(self, values: np.ndarray):
        self.values = np.ascontiguousarray(values, dtype=np.int32)
        self.key = (self.values.shape, self.values.tobytes())

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.key == other.key

    def __repr__(self) -> str:
        return f"Table{self.values.shape}"


@dataclasses.dataclass(frozen=True)
class GammaSet:
    """One bin-by-bin modifier of one channel whose factors are profiled analytically."""

    name: str
    poisson: bool
    channel: int
    slot: int
    first: int  # bin of the channel within the parameter, for a name that several channels share


@dataclasses.dataclass(frozen=True)
class Structure:
    """Everything about a model that is not a number.

    Tables hold parameter indices, -1 for none: `norms` (channel, sample, .) of normfactor and lumi, `systematics` of
    normsys, `shapes` of histosys, `factors` (channel, sample, ., bin) of bin-by-bin factors that are fitted explicitly;
    `slots` (channel, sample) is the number of the analytic factor of the sample. `modifiers` has for every sample the
    name and type of its modifiers in the order of the specification, and the place of each in its table. `sets` are the
    parameters by the names of the specification: (name, first component in theta, number of components).
    """

    channels: tuple[str, ...]
    bins: tuple[int, ...]
    samples: tuple[tuple[str, ...], ...]
    modifiers: tuple[tuple[tuple[tuple[str, str, int], ...], ...], ...]
    names: tuple[str, ...]
    kinds: tuple[int, ...]
    sets: tuple[tuple[str, int, int], ...]
    gammas: tuple[GammaSet, ...]
    norms: Table
    systematics: Table
    shapes: Table
    factors: Table
    slots: Table
    n_slots: int

    @property
    def width(self) -> int:
        """Bins of the longest channel."""
        return max(self.bins)

    def flat(self) -> np.ndarray:
        """Positions of the real bins in the padded (channel, bin) layout."""
        return np.concatenate([c * self.width + np.arange(b) for c, b in enumerate(self.bins)])


def at(*where: object) -> str:
    """The place of an error: channel 'SR', sample 'sig'."""
    words = ("channel", "sample", "modifier")
    return ", ".join(f"{word} {name!r}" for word, name in zip(words, where, strict=False))


def numbers(values: object, length: int | None, where: str, *, positive: bool = False) -> np.ndarray:
    """A list of finite numbers of the wanted length, or one line that says where it is not."""
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        msg = f"{where}: a list of {length if length is not None else ''} numbers is wanted, got {values!r:.60}"
        raise ValueError(msg)
    for i, x in enumerate(values):
        if isinstance(x, bool) or not isinstance(x, int | float | np.number) or not math.isfinite(x):
            msg = f"{where}: bin {i} is {x!r:.60}, wanted a finite number"
            raise ValueError(msg)
        if positive and x < 0:
            msg = f"{where}: bin {i} is {x!r}, wanted a number that is not negative"
            raise ValueError(msg)
    if length is not None and len(values) != length:
        msg = f"{where}: {len(values)} bins, wanted {length}"
        raise ValueError(msg)
    return np.asarray(values, dtype=float)


def _is_list(thing: object) -> bool:
    return isinstance(thing, Sequence | np.ndarray) and not isinstance(thing, str)


def _is_interval(thing: Any) -> bool:
    """Whether it is a pair of numbers in increasing order."""
    number = lambda x: isinstance(x, int | float | np.number) and not isinstance(x, bool)
    return _is_list(thing) and len(thing) == 2 and all(map(number, thing)) and bool(thing[0] <= thing[1])


def member(thing: object, key: str, where: str, kind: type | tuple[type, ...]) -> Any:
    """A required entry of a JSON object."""
    if not isinstance(thing, Mapping) or key not in thing:
        msg = f"{where}: {key!r} is missing"
        raise ValueError(msg)
    if not isinstance(thing[key], kind):
        msg = f"{where}: {key!r} has the wrong type, {type(thing[key]).__name__}"
        raise ValueError(msg)
    return thing[key]


def check_channels(channels: object) -> None:
    """Names unique, lengths equal, yields finite, modifiers known: one line for the first thing that is wrong."""
    if not isinstance(channels, Sequence) or not channels:
        msg = "channels: a list of at least one channel is wanted"
        raise ValueError(msg)
    seen: set[str] = set()
    for i, channel in enumerate(channels):
        name = member(channel, "name", f"channels[{i}]", str)
        if name in seen:
            msg = f"{at(name)}: the name is used twice"
            raise ValueError(msg)
        seen.add(name)
        samples = member(channel, "samples", at(name), Sequence)
        if not samples:
            msg = f"{at(name)}: at least one sample is wanted"
            raise ValueError(msg)
        length, known = None, set()
        for j, sample in enumerate(samples):
            label = member(sample, "name", f"{at(name)}, samples[{j}]", str)
            if label in known:
                msg = f"{at(name, label)}: the name is used twice"
                raise ValueError(msg)
            known.add(label)
            data = numbers(member(sample, "data", at(name, label), Sequence), length, at(name, label), positive=True)
            length = len(data)
            if not length:
                msg = f"{at(name, label)}: no bins"
                raise ValueError(msg)
            _check_modifiers(member(sample, "modifiers", at(name, label), Sequence), length, name, label)


def _check_modifiers(modifiers: Sequence, length: int, channel: str, sample: str) -> None:
    seen: set[tuple[str, str]] = set()
    for k, modifier in enumerate(modifiers):
        name = member(modifier, "name", f"{at(channel, sample)}, modifiers[{k}]", str)
        kind = member(modifier, "type", at(channel, sample, name), str)
        where = f"{at(channel, sample, name)} ({kind})"
        if kind not in TYPES:
            msg = f"{at(channel, sample, name)}: unknown type {kind!r}; known are {', '.join(TYPES)}"
            raise ValueError(msg)
        if (name, kind) in seen:
            msg = f"{where}: listed twice"
            raise ValueError(msg)
        seen.add((name, kind))
        data = modifier.get("data")
        if kind == "normsys":
            for side in ("hi", "lo"):
                factor = member(data, side, where, (int, float))
                if not (math.isfinite(factor) and factor > 0):
                    msg = f"{where}: {side!r} is {factor!r}, wanted a positive factor"
                    raise ValueError(msg)
        elif kind == "histosys":
            for side in ("hi_data", "lo_data"):
                numbers(member(data, side, where, Sequence), length, f"{where} {side}")
        elif kind in ("shapesys", "staterror"):
            numbers(data, length, where, positive=True)


class Parameters:
    """Parameter sets as they are met: name -> type, number of components, start, bounds, constraint."""

    def __init__(self, config: Mapping[str, Mapping[str, Any]]):
        self.config = config
        self.sets: dict[str, dict[str, Any]] = {}

    def require(self, name: str, kind: str, size: int, where: str) -> dict[str, Any]:
        """The set a modifier needs; two modifiers of one name must agree on what it is."""
        constraint = FREE if kind in ("normfactor", "shapefactor") else POISSON if kind == "shapesys" else GAUSS
        known = self.sets.get(name)
        if known is not None:
            # an up-down pair may act on shape and rate at once; anything else under one name is two different things
            same = known["size"] == size and known["constraint"] == constraint
            if not same or (kind == "lumi") != (known["kind"] == "lumi"):
                msg = f"{where}: {name!r} is already a {known['kind']} of {known['size']} component(s)"
                raise ValueError(msg)
            return known
        config = self.config.get(name, {})
        bounds = GAMMA_BOUNDS if kind in ("shapesys", "staterror") else BOUNDS.get(kind)
        center = 0.0 if kind in ("normsys", "histosys") else 1.0
        start = np.full(size, 0.0 if kind in ("normsys", "histosys") else 1.0)
        new = {"kind": kind, "size": size, "constraint": constraint}
        if kind == "lumi":
            for key in ("auxdata", "sigmas"):
                if key not in config:
                    msg = f"{where}: the measurement must give {key!r} of {name!r}"
                    raise ValueError(msg)
            center = float(numbers(config["auxdata"], 1, f"measurement, parameter {name!r}, auxdata")[0])
            start, bounds = np.array([center]), (0.0, 10.0 * center)
        place = f"measurement, parameter {name!r}"
        new["init"] = numbers(config.get("inits", start), size, f"{place}, inits")
        pairs = config.get("bounds", [bounds] * size)
        if not _is_list(pairs) or len(pairs) != size or not all(map(_is_interval, pairs)):
            msg = f"{place}, bounds: {size} increasing pair(s) wanted, got {pairs!r:.80}"
            raise ValueError(msg)
        new["bounds"] = np.array(pairs, dtype=float).reshape(size, 2)
        new["auxdata"] = numbers(config.get("auxdata", np.full(size, center)), size, f"{place}, auxdata")
        new["sigmas"] = numbers(config.get("sigmas", np.ones(size)), size, f"{place}, sigmas")
        if not np.all(new["sigmas"] > 0):
            msg = f"{place}, sigmas: positive numbers are wanted, got {config['sigmas']!r:.80}"
            raise ValueError(msg)
        new["own_aux"], new["own_sigmas"] = "auxdata" in config, "sigmas" in config
        fixed = config.get("fixed", False)
        new["fixed"] = np.broadcast_to(np.asarray(fixed, dtype=bool), (size,)).copy()
        outside = (new["init"] < new["bounds"][:, 0]) | (new["init"] > new["bounds"][:, 1])
        if outside.any():
            i = int(np.argmax(outside))
            msg = f"{place}: start {new['init'][i]} outside its bounds ({pairs[i][0]}, {pairs[i][1]})"
            raise ValueError(msg)
        self.sets[name] = new
        return new
