"""Files of showers: the round trip in both formats, and everything that may be wrong with one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.generate.geant4_setup import draw
from diffhep.generate.shipped import BEAM, STACK
from diffhep.io import Showers, join, read_showers, shipped_showers, write_showers
from diffhep.io.showers import FORMAT

CONFIG = {"seed": 3, "calorimeter": {"absorber": "G4_Pb"}}


def make(n: int = 7, change: dict[str, Any] | None = None) -> Showers:
    layers, readouts = 6, 3
    rng = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "energy": rng.uniform(0.5, 5.0, n),
        "pdg_id": np.full(n, 22),
        "angle": rng.uniform(0.0, 0.5, n).astype(np.float32),
        "absorber_thickness": rng.uniform(1.0, 8.0, (n, layers)),
        "active_thickness": np.full((n, layers), 5.0),
        "active_energy": rng.exponential(0.01, (n, readouts)).astype(np.float32),
        "absorber_energy": rng.exponential(0.01, (n, readouts)).astype(np.float32),
        "cells": rng.exponential(0.001, (n, readouts, 4, 2)).astype(np.float32),
        "config": CONFIG,
    }
    return Showers(**arrays | (change or {}))


def same(a: Showers, b: Showers):
    assert a.arrays().keys() == b.arrays().keys()
    for name, array in a.arrays().items():
        assert_array_equal(array, b.arrays()[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".npz", ".root"])
@pytest.mark.parametrize("without", [(), ("cells",), ("cells", "absorber_energy")])
def test_the_round_trip_is_exact(tmp_path, suffix, without):
    showers = make(change=dict.fromkeys(without))
    path = write_showers(tmp_path / f"s{suffix}", showers)
    again = read_showers(path)
    same(again, showers)
    assert {k: again.config[k] for k in CONFIG} == CONFIG
    assert again.config["format"] == FORMAT
    assert [p.name for p in tmp_path.iterdir()] == [f"s{suffix}"]
    assert (again.size, again.layers, again.readouts) == (7, 6, 3)


def test_the_same_showers_are_the_same_bytes(tmp_path):
    first, second = (write_showers(tmp_path / f"{i}.npz", make()).read_bytes() for i in range(2))
    assert first == second


def test_single_precision_where_it_loses_nothing(tmp_path):
    with np.load(write_showers(tmp_path / "s.npz", make())) as file:
        types = {name: str(file[name].dtype) for name in file.files}
    assert types["energy"] == types["absorber_thickness"] == "float64"
    assert types["active_thickness"] == types["active_energy"] == types["angle"] == "float32"


def test_some_of_them_and_all_together():
    showers = make()
    assert showers[2:4].size == 2
    assert showers[3].size == 1
    assert_array_equal(showers[np.array([True] * 3 + [False] * 4)].energy, showers.energy[:3])
    same(join([showers[:3], showers[3:]]), showers)
    with pytest.raises(ValueError, match="nothing to join"):
        join([])
    with pytest.raises(ValueError, match="cannot join"):
        join([showers, dataclasses.replace(showers, cells=None)])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"energy": np.array([1.0, 0.0])}, "energy is 0.0 GeV in shower 1, wanted a finite number above 0 GeV"),
        ({"energy": np.array([1.0, np.nan])}, "energy is nan GeV in shower 1"),
        ({"energy": np.ones((2, 1))}, r"energy: wanted the shape \(shower,\), got \(2, 1\)"),
        ({"energy": [1.0, 2.0]}, "energy: wanted an array of numbers, got list"),
        ({"pdg_id": np.array(["e", "g"])}, "pdg_id: wanted an array of numbers"),
        ({"angle": np.array([0.1])}, "angle has 1 showers, energy has 2"),
        ({"angle": np.array([0.1, 1.6])}, "angle: wanted below pi/2, got 1.6 rad in shower 1"),
        ({"active_thickness": np.full((2, 6), -5.0)}, "active_thickness is -5.0 mm in shower 0, .* above 0 mm"),
        ({"active_thickness": np.ones((2, 5))}, "active_thickness has 5 layers, absorber_thickness has 6"),
        ({"active_energy": np.ones(2)}, r"active_energy: wanted the shape \(shower, layer\), got \(2,\)"),
        ({"active_energy": np.full((2, 3), np.inf)}, "active_energy is inf GeV in shower 0"),
        ({"absorber_energy": np.ones((2, 6))}, "absorber_energy has 6 layers, active_energy has 3"),
        ({"cells": np.ones((2, 3))}, "cells: wanted the shape .shower, layer, cell, ...., got .2, 3."),
        ({"cells": np.full((2, 3, 2), -1.0)}, "cells is -1.0 GeV in shower 0, wanted a finite number at least 0 GeV"),
        (
            {"active_energy": np.ones((2, 4)), "absorber_energy": None, "cells": None},
            "4 read-outs, which do not divide 6 layers",
        ),
    ],
)
@pytest.mark.parametrize("through", ["memory", "file"])
def test_columns_that_cannot_be(tmp_path, change, wanted, through):
    if through == "memory":
        with pytest.raises(ValueError, match=wanted) as caught:
            make(2, change)
    else:
        columns = make(2).arrays() | {k: np.asarray(v) for k, v in change.items() if v is not None}
        columns = {k: v for k, v in columns.items() if k not in change or change[k] is not None}
        if isinstance(change.get("energy"), list):
            return
        path = write_raw(tmp_path / "s.npz", columns)
        with pytest.raises(ValueError, match=wanted) as caught:
            read_showers(path)
        assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def write_raw(path: Path, columns: dict[str, Any], config: Any = None) -> Path:
    text = json.dumps({"format": FORMAT}) if config is None else config
    arrays: dict[str, Any] = {"config": np.array(text), **columns}
    np.savez(path, **arrays)
    return path


def test_files_of_another_layout(tmp_path):
    columns = make(2).arrays()
    refused = {
        "no such file": tmp_path / "none.npz",
        "is a folder, wanted a file of showers": tmp_path,
        "holds no column energy, active_energy; it holds absorber_energy": write_raw(
            tmp_path / "a.npz", {k: v for k, v in columns.items() if k not in ("energy", "active_energy")}
        ),
        "'config' says format 'other', wanted 'diffhep showers 1'": write_raw(
            tmp_path / "b.npz", columns, '{"format": "other"}'
        ),
        "'config' says format 'list'": write_raw(tmp_path / "c.npz", columns, "[]"),
        "'config' is not JSON": write_raw(tmp_path / "d.npz", columns, "{"),
        "holds no shower": write_raw(tmp_path / "e.npz", {k: v[:0] for k, v in columns.items()}),
    }
    bare: dict[str, Any] = dict(columns)
    np.savez(tmp_path / "f.npz", **bare)
    refused["holds no text 'config', so it is no file of showers; it holds absorber_energy"] = tmp_path / "f.npz"
    np.savez(tmp_path / "g.npz", config=np.array([{}], object), allow_pickle=True)
    refused["cannot be read as npz .*[Oo]bject arrays"] = tmp_path / "g.npz"
    (tmp_path / "h.npz").write_text("hello")
    refused["is neither an npz nor a ROOT file, or is cut off"] = tmp_path / "h.npz"
    for wanted, path in refused.items():
        with pytest.raises(ValueError, match=wanted) as caught:
            read_showers(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".root"])
def test_a_file_that_was_cut_off_or_damaged(tmp_path, suffix):
    whole = write_showers(tmp_path / f"s{suffix}", make(50)).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"cut{suffix}: "):
            read_showers(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    if suffix == ".npz":  # zip has a checksum
        with pytest.raises(ValueError, match="cannot be read as npz"):
            read_showers(path)


def test_root_files_of_another_kind(tmp_path):
    path = tmp_path / "s.root"
    with uproot.recreate(path) as file:
        file.mktree("Events", {"x": np.float32}).extend({"x": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="has no Showers and no config; it has Events"):
        read_showers(path)


def test_the_shipped_showers():
    showers = read_showers(shipped_showers())
    assert shipped_showers().stat().st_size < 3_000_000
    assert (showers.size, showers.layers, showers.cells) == (6000, 30, None)
    assert showers.absorber_energy is not None
    drawn = draw(STACK, BEAM, 6000, seed=showers.config["seed"])
    for name, array in drawn.items():
        assert_allclose(showers.arrays()[name], array, rtol=1e-6)
    kept = (showers.active_energy + showers.absorber_energy).sum(axis=1) / showers.energy
    # an electron deposits its kinetic energy at most, to single precision
    assert kept.max() < 1 + 1e-5
    # 30 layers of 1 mm of lead let much through, 30 of 8 mm hardly anything
    thick = showers.absorber_thickness.sum(axis=1)
    assert kept[thick > 180].mean() > 0.95 > 0.85 > kept[thick < 60].mean()
    # more scintillator sees more, more lead sees less
    share = showers.active_energy.sum(axis=1) / showers.energy
    for column, sign in ((showers.active_thickness, 1), (showers.absorber_thickness, -1)):
        assert sign * np.corrcoef(column.mean(axis=1), share)[0, 1] > 0.3


def test_what_cannot_be_written(tmp_path):
    showers = make()
    for name, wanted in {
        "s.txt": "must end in .npz or .root",
        "no/s.npz": "no does not exist",
    }.items():
        with pytest.raises(ValueError, match=wanted):
            write_showers(tmp_path / name, showers)
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        write_showers(tmp_path / "d.npz", showers)
    path = tmp_path / "s.npz"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        write_showers(path, showers)
    assert path.read_text() == "mine"
    same(read_showers(write_showers(path, showers, overwrite=True)), showers)
    with pytest.raises(ValueError, match="JSON"):
        write_showers(tmp_path / "nan.npz", dataclasses.replace(showers, config={"x": float("nan")}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.npz", "s.npz"]
