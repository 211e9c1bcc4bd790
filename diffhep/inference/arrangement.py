"""Lays a checked specification out in tables and arrays.

Bin-by-bin factors are profiled analytically wherever the expectation of a bin is linear in them. Only where one sample
carries two of them (a staterror and a shapesys) does their product appear; then the second one is fitted explicitly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffhep.inference.specification import GAUSS, POISSON, GammaSet, Parameters, Structure, Table, at, check_channels

Cell = list[tuple[str, str, Any]]


def arrange(
    channels: Sequence[Mapping[str, Any]], config: Mapping[str, Mapping[str, Any]]
) -> tuple[Structure, dict[str, np.ndarray], tuple[str, ...]]:
    """Static structure, arrays, and the names of the parameters that are held fixed.

    Args:
        channels: the specification's channels, as in pyhf's JSON.
        config: the measurement's settings by parameter name.

    Raises:
        ValueError: a specification that makes no sense; one line that names the place.
    """
    check_channels(channels)
    cells: dict[tuple[int, int], Cell] = {
        (c, s): [(m["name"], m["type"], m.get("data")) for m in sample["modifiers"]]
        for c, channel in enumerate(channels)
        for s, sample in enumerate(channel["samples"])
    }
    bins = tuple(len(channel["samples"][0]["data"]) for channel in channels)
    groups, first = _groups(channels, cells, bins)
    slots, analytic = _slots(channels, groups)
    parameters = _require(channels, cells, bins, config, first)
    layout = _Layout(channels, cells, bins, groups, first, slots, analytic, parameters)
    return layout.structure(), layout.arrays(), layout.fixed()


def _groups(
    channels: Sequence, cells: dict[tuple[int, int], Cell], bins: tuple[int, ...]
) -> tuple[dict[tuple[int, str], list[int]], dict[tuple[int, str], int]]:
    """Samples of every bin-by-bin modifier in every channel, staterror first, and its first component there."""
    groups: dict[tuple[int, str], list[int]] = {}
    first: dict[tuple[int, str], int] = {}
    length: dict[str, int] = {}
    for wanted in ("staterror", "shapesys"):
        for (c, s), cell in cells.items():
            for name, kind, _ in cell:
                if kind != wanted:
                    continue
                if kind == "shapesys" and name in length:
                    place = at(channels[c]["name"], channels[c]["samples"][s]["name"], name)
                    msg = f"{place} (shapesys): the name is used twice, but its factors belong to one sample"
                    raise ValueError(msg)
                if (c, name) not in groups:
                    first[c, name] = length.get(name, 0)
                    length[name] = first[c, name] + bins[c]
                groups.setdefault((c, name), []).append(s)
    return groups, first


def _slots(channels: Sequence, groups: dict[tuple[int, str], list[int]]) -> tuple[np.ndarray, dict[str, bool]]:
    """Which analytic factor each sample has, -1 for none, and which names are analytic."""
    slots = np.full((len(channels), max(len(channel["samples"]) for channel in channels)), -1)
    taken: dict[tuple[int, int], str] = {}
    analytic: dict[str, bool] = {}
    for (c, name), samples in groups.items():
        free = not any((c, s) in taken for s in samples)
        analytic[name] = analytic.get(name, True) and free
        if free:
            taken |= {(c, s): name for s in samples}
    count = dict.fromkeys(range(len(channels)), 0)
    for (c, name), samples in groups.items():
        if analytic[name]:
            slots[c, samples] = count[c]
            count[c] += 1
    return slots, analytic


def _require(
    channels: Sequence,
    cells: dict[tuple[int, int], Cell],
    bins: tuple[int, ...],
    config: Mapping[str, Mapping[str, Any]],
    first: dict[tuple[int, str], int],
) -> Parameters:
    parameters = Parameters(config)
    size: dict[str, int] = {}
    for (c, name), start in first.items():
        size[name] = max(size.get(name, 0), start + bins[c])
    for (c, s), cell in cells.items():
        for name, kind, _ in cell:
            where = f"{at(channels[c]['name'], channels[c]['samples'][s]['name'], name)} ({kind})"
            components = size[name] if kind in ("staterror", "shapesys") else bins[c] if kind == "shapefactor" else 1
            parameters.require(name, kind, components, where)
    return parameters


class _Layout:
    """The tables and arrays of one specification."""

    def __init__(
        self,
        channels: Sequence,
        cells: dict[tuple[int, int], Cell],
        bins: tuple[int, ...],
        groups: dict[tuple[int, str], list[int]],
        first: dict[tuple[int, str], int],
        slots: np.ndarray,
        analytic: dict[str, bool],
        parameters: Parameters,
    ):
        self.channels, self.cells, self.bins = channels, cells, bins
        self.groups, self.first, self.slots, self.analytic = groups, first, slots, analytic
        self.sets = parameters.sets
        self.start: dict[str, int] = {}
        self.names: list[str] = []
        for name, p in self.sets.items():
            if not analytic.get(name, False):
                self.start[name] = len(self.names)
                single = p["kind"] not in ("shapefactor", "shapesys", "staterror")
                self.names += [name] if single else [f"{name}[{i}]" for i in range(p["size"])]
        width = max(bins)
        self.shape = (len(channels), slots.shape[1], width)
        self.tables: dict[str, np.ndarray] = {
            key: np.full((*self.shape[:2], self._depth(kinds)), -1) for key, kinds in KINDS.items()
        }
        self.tables["factors"] = np.full((*self.shape[:2], self._depth(BINWISE), width), -1)
        self.values = {
            "nominal": np.zeros(self.shape),
            "sys_lo": np.ones(self.tables["systematics"].shape),
            "sys_hi": np.ones(self.tables["systematics"].shape),
            "shape_lo": np.zeros((*self.tables["shapes"].shape, width)),
            "shape_hi": np.zeros((*self.tables["shapes"].shape, width)),
            "errors": np.zeros(self.shape),
            "factor_errors": np.zeros(self.tables["factors"].shape),
        }
        self.places: dict[tuple[int, int], list[tuple[str, str, int]]] = {}
        for (c, s), cell in cells.items():
            self._fill(c, s, cell)

    def _depth(self, kinds: tuple[str, ...]) -> int:
        """Most modifiers of these types on one sample; analytic ones do not count."""
        depth = lambda cell: sum(kind in kinds and not self.analytic.get(name, False) for name, kind, _ in cell)
        return max(map(depth, self.cells.values()))

    def _fill(self, c: int, s: int, cell: Cell) -> None:
        b = self.bins[c]
        nominal = np.asarray(self.channels[c]["samples"][s]["data"], dtype=float)
        self.values["nominal"][c, s, :b] = nominal
        used = dict.fromkeys(self.tables, 0)
        self.places[c, s] = []
        for name, kind, data in cell:
            if self.analytic.get(name, False):
                self.values["errors"][c, s, :b] = data
                self.places[c, s].append((name, kind, -1))
                continue
            key = "factors" if kind in BINWISE else next(k for k, kinds in KINDS.items() if kind in kinds)
            q = used[key]
            used[key] += 1
            self.places[c, s].append((name, kind, q))
            if key == "factors":
                begin = self.start[name] + self.first.get((c, name), 0)
                self.tables[key][c, s, q, :b] = begin + np.arange(b)
                if kind != "shapefactor":
                    self.values["factor_errors"][c, s, q, :b] = data
                continue
            self.tables[key][c, s, q] = self.start[name]
            if kind == "normsys":
                self.values["sys_lo"][c, s, q], self.values["sys_hi"][c, s, q] = data["lo"], data["hi"]
            elif kind == "histosys":
                self.values["shape_lo"][c, s, q, :b] = data["lo_data"]
                self.values["shape_hi"][c, s, q, :b] = data["hi_data"]

    def structure(self) -> Structure:
        """What is static."""
        count = 1 + int(self.slots.max())
        kind = {name: p["constraint"] for name, p in self.sets.items()}
        gammas = tuple(
            GammaSet(name, kind[name] == POISSON, c, int(self.slots[c, samples[0]]), self.first[c, name])
            for (c, name), samples in self.groups.items()
            if self.analytic[name]
        )
        kinds = [self.sets[name]["constraint"] for name in self.start for _ in range(self.sets[name]["size"])]
        each = [range(len(channel["samples"])) for channel in self.channels]
        return Structure(
            channels=tuple(channel["name"] for channel in self.channels),
            bins=self.bins,
            samples=tuple(tuple(sample["name"] for sample in channel["samples"]) for channel in self.channels),
            modifiers=tuple(tuple(tuple(self.places[c, s]) for s in samples) for c, samples in enumerate(each)),
            names=tuple(self.names),
            kinds=tuple(kinds),
            sets=tuple((name, begin, self.sets[name]["size"]) for name, begin in self.start.items()),
            gammas=gammas,
            slots=Table(self.slots),
            n_slots=count,
            **{key: Table(table) for key, table in self.tables.items()},
        )

    def _explicit_widths(self) -> tuple[np.ndarray, np.ndarray]:
        """Spread of the constraint of every component of explicit bin-by-bin factors, and whether it may move."""
        nominal, square = np.zeros(len(self.names)), np.zeros(len(self.names))
        table = self.tables["factors"]
        for (c, s), cell in self.places.items():
            for _, kind, q in cell:
                if kind in ("staterror", "shapesys") and q >= 0:
                    index = table[c, s, q, : self.bins[c]]
                    nominal[index] += self.values["nominal"][c, s, : self.bins[c]]
                    square[index] += self.values["factor_errors"][c, s, q, : self.bins[c]] ** 2
        valid = (nominal > 0) & (square > 0)
        ratio = np.where(valid, np.sqrt(square) / np.where(valid, nominal, 1.0), 1.0)
        return ratio, valid

    def arrays(self) -> dict[str, np.ndarray]:
        """What is a number."""
        n, (c_, _, w_), k_ = len(self.names), self.shape, 1 + int(self.slots.max())
        out = dict(self.values)
        out |= {key: np.zeros(n) for key in ("init", "lower", "upper", "center", "spread")}
        ratio, valid = self._explicit_widths()
        for name, begin in self.start.items():
            p, part = self.sets[name], slice(begin, begin + self.sets[name]["size"])
            out["init"][part], out["center"][part], out["spread"][part] = p["init"], p["auxdata"], p["sigmas"]
            out["lower"][part], out["upper"][part] = p["bounds"].T
            if p["kind"] == "shapesys":
                out["spread"][part] = ratio[part] ** -2
                out["center"][part] = p["auxdata"] if p["own_aux"] else np.where(valid[part], ratio[part] ** -2, 1.0)
            elif p["kind"] == "staterror" and not p["own_sigmas"]:
                out["spread"][part] = ratio[part]
        gamma = {
            "gamma_init": 1.0,
            "gamma_lower": 1.0,
            "gamma_upper": 1.0,
            "gamma_center": np.nan,
            "gamma_spread": np.nan,
        }
        out |= {key: np.full((k_, c_, w_), value) for key, value in gamma.items()}
        for (c, name), samples in self.groups.items():
            if not self.analytic[name]:
                continue
            p, where = self.sets[name], (self.slots[c, samples[0]], c, slice(0, self.bins[c]))
            part = slice(self.first[c, name], self.first[c, name] + self.bins[c])
            held = p["fixed"][part]
            out["gamma_init"][where] = p["init"][part]
            out["gamma_lower"][where] = np.where(held, p["init"][part], p["bounds"][part, 0])
            out["gamma_upper"][where] = np.where(held, p["init"][part], p["bounds"][part, 1])
            if p["own_aux"]:
                out["gamma_center"][where] = p["auxdata"][part]
            if p["own_sigmas"] and p["constraint"] == GAUSS:
                out["gamma_spread"][where] = p["sigmas"][part]
        return out

    def fixed(self) -> tuple[str, ...]:
        """Explicit parameters the measurement holds, and factors of bins that have no content or no error."""
        _, valid = self._explicit_widths()
        held = []
        for name, begin in self.start.items():
            p = self.sets[name]
            for i in range(p["size"]):
                if p["fixed"][i] or (p["kind"] in ("shapesys", "staterror") and not valid[begin + i]):
                    held.append(self.names[begin + i])
        return tuple(held)


KINDS = {"norms": ("normfactor", "lumi"), "systematics": ("normsys",), "shapes": ("histosys",)}
BINWISE = ("shapefactor", "shapesys", "staterror")
