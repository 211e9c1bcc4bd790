"""Geant4: the reference of its own example, reproducibility, resuming, and how it dies."""

import json
import shutil
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep import cli
from diffhep.generate import (
    Beam,
    CartesianCells,
    PolarCells,
    SamplingCalorimeter,
    geant4_pool,
    generate_each,
    generate_showers,
    simulate,
    simulate_each,
)
from diffhep.generate.geant4 import unfinished
from diffhep.generate.geant4_setup import MATERIALS
from diffhep.io import read_showers

pytestmark = pytest.mark.needs("geant4_pybind")

SMALL = SamplingCalorimeter(6, absorber_thickness=(1.0, 8.0), active_thickness=(1.0, 8.0), variation="mixed")
SOFT = Beam(energy=(0.1, 0.3), angle=(0.0, 0.5))
CELLS = {"none": None, "cartesian": CartesianCells(8, 6, 20.0), "polar": PolarCells(8, 5, 20.0)}


def same(a, b):
    """Bit for bit."""
    assert a.arrays().keys() == b.arrays().keys()
    for name, array in a.arrays().items():
        assert_array_equal(array, b.arrays()[name], err_msg=name)


@pytest.fixture
def parts(monkeypatch):
    """Parts so small that a run has several."""
    monkeypatch.setattr(geant4_pool, "PART_SHOWERS", 10)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Data sets of one's own: a copy of those that come with the package."""
    folder = tmp_path_factory.mktemp("data") / "geant4"
    shutil.copytree(geant4_pool.shipped_data(), folder)
    return folder


def test_the_sampling_fraction_of_geant4s_own_example():
    # TestEm3: 215.16 +- 0.20 MeV in liquid argon, 0.990 deposited. 300 showers of 7.2 % have a standard error of 0.42 %
    stack = SamplingCalorimeter(50, absorber_thickness=2.3, active="G4_lAr", active_thickness=5.7, cut=1.0)
    showers = simulate(stack, Beam(energy=1.0), 300, seed=5, progress=False)
    visible = showers.active_energy.sum(axis=1) * 1e3
    assert visible.mean() == pytest.approx(215.16, rel=0.01)
    assert visible.std() / np.sqrt(300) < 0.005 * 215.16
    assert showers.absorber_energy is not None
    deposited = visible.mean() / 1e3 + showers.absorber_energy.sum(axis=1).mean()
    assert deposited == pytest.approx(0.990, abs=0.003)


@pytest.mark.parametrize("cells", CELLS)
def test_thicknesses_changed_in_place_are_those_of_a_new_geometry(cells):
    stack = SamplingCalorimeter(6, cells=CELLS[cells])
    thick = np.random.default_rng(1).uniform(1.0, 6.0, (2, 3, 6))
    # the worker builds the geometry of its first shower and changes it for the others
    changed, built = (
        simulate_each(
            stack,
            energy=[0.5] * 3,
            absorber_thickness=thick[0][rows],
            active_thickness=thick[1][rows],
            angle=0.2,
            seed=3,
            progress=False,
        )
        for rows in ([0, 1, 2], [2, 2, 2])
    )
    same(changed[2], built[2])
    assert not np.array_equal(changed.active_energy[0], built.active_energy[0])


def test_two_processes_make_the_showers_of_one(parts):
    one, two = (simulate(SMALL, SOFT, 45, seed=7, processes=n, progress=False) for n in (1, 2))
    same(one, two)
    assert len(np.unique(one.active_energy.sum(axis=1))) == 45
    # a longer run begins with the showers of a shorter one, and they are those of their own thicknesses
    short = simulate(SMALL, SOFT, 15, seed=7, progress=False)
    same(short, one[:15])
    given = {n: getattr(short, n) for n in ("energy", "angle", "absorber_thickness", "active_thickness")}
    same(simulate_each(SMALL, **given, seed=7, progress=False), short)
    assert not np.array_equal(simulate(SMALL, SOFT, 15, seed=8, progress=False).energy, short.energy)


def test_given_showers_are_written_and_a_stopped_run_goes_on(tmp_path, parts):
    given: dict[str, Any] = {
        "energy": np.full(35, 0.2),
        "absorber_thickness": np.linspace(1.0, 3.0, 6),
        "active_thickness": 2.0,
        "seed": 9,
    }
    path, told = tmp_path / "given.npz", []

    def stop(done: float) -> None:
        told.append(done)
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_each(SMALL, **given, path=path, progress=stop)
    assert unfinished(path)
    done = told[-1]
    generate_each(SMALL, **given, path=path, resume=True, progress=told.append)
    assert not unfinished(path)
    # parts that were there count at once
    assert told[-1] == 1.0
    assert told[told.index(done) + 1] > 0.25
    same(read_showers(path), simulate_each(SMALL, **given, progress=False))


def test_killed_and_resumed_is_the_same_file(tmp_path, parts):
    path, whole = tmp_path / "killed.npz", tmp_path / "whole.npz"
    code = f"""
import os, signal
from diffhep.generate import geant4, geant4_pool
from tests.generate import test_geant4 as t
geant4_pool.PART_SHOWERS = 10
work = geant4.run_parts

def killing(folder, parts, *, advance, **options):
    def told(done):
        if geant4_pool.part_file(folder, 1).is_file():
            os.kill(os.getpid(), signal.SIGKILL)
    work(folder, parts, advance=told, **options)

geant4.run_parts = killing
geant4.generate_showers(t.SMALL, t.SOFT, 45, seed=7, path={str(path)!r}, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / ".killed.npz.parts"
    assert not path.exists()
    assert 2 <= len(list(folder.glob("part-*.npz"))) < 5

    make: dict[str, Any] = {"n": 45, "seed": 7, "path": path, "progress": False}
    with pytest.raises(ValueError, match=r"holds an unfinished run; go on with it \(resume=True, --resume\)"):
        generate_showers(SMALL, SOFT, **make)
    with pytest.raises(ValueError, match="unfinished run with other arguments"):
        generate_showers(SMALL, SOFT, n=45, seed=8, path=path, resume=True)
    part = folder / "part-000000.npz"
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"part-000000.npz: is damaged; remove it, and go on with the run"):
        generate_showers(SMALL, SOFT, **make, resume=True)
    part.unlink()
    generate_showers(SMALL, SOFT, **make, resume=True)
    make["path"] = whole
    generate_showers(SMALL, SOFT, **make)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.npz", "whole.npz"]
    with pytest.raises(ValueError, match="no unfinished run to go on with"):
        generate_showers(SMALL, SOFT, n=1, seed=1, path=tmp_path / "new.npz", resume=True)


def test_cells_are_where_the_energy_goes():
    beam = Beam("gamma", 1.0, angle=0.4)
    stack: dict[str, Any] = {
        "layers": 20,
        "absorber": "G4_W",
        "absorber_thickness": 1.4,
        "active": "G4_Si",
        "active_thickness": 0.5,
    }
    polar = simulate(
        SamplingCalorimeter(**stack, cells=PolarCells(8, 6, 10.0), merge=2), beam, 20, seed=1, progress=False
    )
    assert polar.cells is not None
    assert polar.cells.shape == (20, 10, 8, 6)
    assert polar.absorber_thickness.shape == (20, 20)
    inside = polar.cells.sum(axis=(2, 3))
    # cells and slabs are rounded to single precision one by one
    assert (inside <= polar.active_energy * (1 + 1e-6)).all()
    assert inside.sum() > 0.95 * polar.active_energy.sum()
    by_angle = polar.cells.sum(axis=(0, 1, 3))
    # it leans along x, where alpha begins and ends
    assert by_angle[[0, 7]].sum() > 0.8 * by_angle.sum()

    square = simulate(
        SamplingCalorimeter(**stack, cells=CartesianCells(20, 10, 5.0), absorber_energy=False),
        beam,
        20,
        seed=1,
        progress=False,
    )
    assert square.absorber_energy is None
    assert square.cells is not None
    energy = square.cells.sum(axis=0)
    x = (energy.sum(axis=2) @ ((np.arange(20) - 9.5) * 5.0)) / energy.sum(axis=(1, 2))
    slope = np.polyfit((np.arange(20)[3:15] + 0.5) * 1.9, x[3:15], 1)[0]
    # the centroid of a layer of cells 5 mm wide, over 23 mm of depth: a tenth of a cell is 0.02 of slope
    assert slope == pytest.approx(np.tan(0.4), abs=0.06)


def test_every_particle():
    showers = simulate_each(
        SamplingCalorimeter(30),
        energy=np.full(25, 1.0),
        absorber_thickness=4.0,
        active_thickness=5.0,
        particle=np.tile([11, -11, 22, 13, -13], 5),
        seed=2,
        progress=False,
    )
    assert showers.absorber_energy is not None
    kept = (showers.active_energy + showers.absorber_energy).sum(axis=1).reshape(5, 5).mean(axis=0)
    # electromagnetic showers stay inside; a muon loses some 1.5 GeV/m in lead, 0.2 in scintillator
    assert (kept[:3] > 0.9).all()
    assert (kept[3:] < 0.35).all()
    assert (kept[3:] > 0.15).all()


def test_the_file_says_how_it_was_made(tmp_path, capfd):
    base = ["-n", "5", "--layers", "4", "--energy", "0.1", "0.2", "--active-thickness", "1", "8", "--seed", "3"]
    paths = [tmp_path / name for name in ("s.npz", "s.root")]
    printed = []
    for path in paths:
        assert cli.main(["generate", "geant4", *base, "-o", str(path), "--json"]) == 0
        captured = capfd.readouterr()
        assert "5/5" in captured.err
        printed.append(json.loads(captured.out))
    showers, again = (read_showers(path) for path in paths)
    same(showers, again)
    assert showers.config == again.config
    assert showers.config["calorimeter"]["active_thickness"] == [1.0, 8.0]
    assert showers.config["beam"]["energy"] == [0.1, 0.2]
    assert showers.config["seed"] == 3
    assert showers.config["data"] == "shipped"
    assert "11.4.1" in showers.config["generator"]
    fraction = showers.active_energy.sum(axis=1) / showers.energy
    assert_allclose([p["active_fraction"] for p in printed], fraction.mean(), rtol=1e-6)
    assert printed[0]["showers"] == 5
    assert cli.main(["generate", "geant4", *base, "-o", str(paths[0])]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "exists already" in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.npz", "s.root"]


def test_data_of_ones_own_come_first_and_their_faults_are_one_line(tmp_path, monkeypatch, pack):
    monkeypatch.setenv("GEANT4_DATA_DIR", str(pack))
    thin: dict[str, Any] = {"n": 2, "seed": 1, "progress": False, "path": tmp_path / "s.npz"}
    generate_showers(SamplingCalorimeter(2), Beam(energy=0.01), **thin)
    assert read_showers(tmp_path / "s.npz").config["data"] == "user"
    thin |= {"path": tmp_path / "t.npz"}
    with pytest.raises(ValueError, match=r"^Geant4 gave up \(status 134\): [^\n]*br92[^\n]*$"):
        generate_showers(SamplingCalorimeter(2, "G4_U"), Beam(energy=0.01), **thin)
    with pytest.raises(ValueError, match=r"^Geant4 gave up \(status 1\): there is no material 'G4_Unobtainium'$"):
        generate_showers(SamplingCalorimeter(2, "G4_Unobtainium"), Beam(energy=0.01), **thin)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_variables_of_another_geant4_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("G4LEDATA", str(tmp_path / "old"))
    monkeypatch.setenv("G4ENSDFSTATEDATA", str(tmp_path / "old"))
    monkeypatch.setenv("GEANT4_DATA_DIR", str(tmp_path))
    with pytest.warns(UserWarning, match=r"G4EMLOW8\.8 is missing there; the data that come with diffhep are used"):
        showers = simulate(SamplingCalorimeter(2), Beam(energy=0.01), 1, seed=1, progress=False)
    assert showers.config["data"] == "shipped"


def test_there_are_data_for_every_element_of_every_material():
    code = f"""
import json, geant4_pybind as g4
manager = g4.G4NistManager.Instance()
found = [manager.FindOrBuildMaterial(name) for name in {MATERIALS}]
print("ELEMENTS", json.dumps([[m.GetElement(i).GetZasInt() for i in range(m.GetNumberOfElements())] for m in found]))
"""
    data = geant4_pool.shipped_data()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=geant4_pool.environment(data),
        timeout=60,
        check=True,
    )
    numbers = json.loads(done.stdout.split("ELEMENTS")[-1])
    assert len(numbers) == len(MATERIALS)
    for z in {z for element in numbers for z in element}:
        low = data / "G4EMLOW8.8"
        wanted = [low / "brem_SB" / f"br{z}", low / "epics2017" / "rayl" / f"re-cs-{z}.dat"]
        wanted += [low / "epics2017" / "phot" / f"pe-{part}-{z}.dat" for part in ("cs", "low", "high")]
        assert [path for path in wanted if not path.is_file()] == []


def test_no_worker_outlives_a_failure(tmp_path, monkeypatch, parts):
    began = []
    popen = subprocess.Popen

    def counted(*args, **options):
        began.append(popen(*args, **options))
        return began[-1]

    def fails(done):
        msg = "the bar broke"
        raise RuntimeError(msg)

    monkeypatch.setattr(subprocess, "Popen", counted)
    monkeypatch.setattr("rich.progress.Progress.advance", lambda *_: fails(0))
    with pytest.raises(RuntimeError, match="the bar broke"):
        simulate(SMALL, SOFT, 40, seed=1, processes=2, progress=False)
    assert len(began) == 2
    assert all(process.poll() is not None for process in began)
