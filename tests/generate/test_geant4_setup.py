"""What can be asked of Geant4, and what cannot; no Geant4 is needed here."""

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest

from diffhep import cli
from diffhep.generate import Beam, CartesianCells, PolarCells, SamplingCalorimeter, generate_showers, simulate_each
from diffhep.generate.geant4_pool import last_words, shipped_data
from diffhep.generate.geant4_setup import draw, draw_seeds

RANGES: dict[str, Any] = {"absorber_thickness": (1.0, 8.0), "active_thickness": (2.0, 5.0)}


@pytest.mark.parametrize("variation", ["same", "free", "mixed", "trend"])
def test_drawn_thicknesses(variation):
    stack = SamplingCalorimeter(20, **RANGES, variation=variation, spread=0.5)
    drawn = draw(stack, Beam(energy=(0.5, 5.0), angle=(0.1, 0.3)), 2000, seed=1)
    for name, (low, high) in RANGES.items():
        t = drawn[name]
        assert t.shape == (2000, 20)
        assert low <= t.min() < low + 0.1
        assert high - 0.1 < t.max() <= high
        # exact in single precision: a file loses nothing
        assert (t == t.astype(np.float32)).all()
        relative = np.ptp(t, axis=1) / t.mean(axis=1)
        spread = {"same": (0.0, 0.0), "free": (0.4, 2.2), "mixed": (0.0, 1.05), "trend": (0.0, 7.0)}[variation]
        assert spread[0] <= relative.min()
        assert relative.max() <= spread[1]
    if variation == "mixed":
        # spreads of every size, uniform in the base
        assert np.quantile(relative, 0.1) < 0.1
        assert np.quantile(relative, 0.9) > 0.4
    if variation == "trend":
        # without a spread: straight between layers 0, 19/3, 38/3 and 19, and one in seven at each end of the range
        smooth = draw(dataclasses.replace(stack, spread=0.0), Beam(), 2000, seed=1)["absorber_thickness"]
        assert np.abs(np.diff(smooth, 2, axis=1)[:, [0, 2, 4, 8, 10, 15, 17]]).max() < 0.005
        for end in RANGES["absorber_thickness"]:
            assert (smooth[:, 0] == end).mean() == pytest.approx(1 / 7, abs=0.03)
    assert np.corrcoef(drawn["absorber_thickness"][:, 0], drawn["active_thickness"][:, 0])[0, 1] == pytest.approx(
        0, abs=0.1
    )


def test_drawn_energies_and_angles():
    n = 20_000
    beam = Beam(energy=(0.5, 5.0), angle=(0.1, 0.3))
    drawn = draw(SamplingCalorimeter(1), beam, n, seed=1)
    log = np.log(drawn["energy"] / 0.5) / np.log(10)
    # a uniform variable has the standard deviation 12^(-1/2)
    assert log.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * n))
    assert drawn["angle"].mean() == pytest.approx(0.2, abs=4 * 0.2 / np.sqrt(12 * n))
    assert 0.5 <= drawn["energy"].min() < drawn["energy"].max() <= 5.0
    flat = draw(SamplingCalorimeter(1), Beam(energy=(0.5, 5.0), spectrum="uniform"), n, seed=1)["energy"]
    assert flat.mean() == pytest.approx(2.75, abs=4 * 4.5 / np.sqrt(12 * n))


def test_a_longer_run_begins_with_a_shorter_one():
    stack, beam = SamplingCalorimeter(3, **RANGES, variation="mixed"), Beam(energy=(1.0, 2.0), angle=(0.0, 0.1))
    short, long = (draw(stack, beam, n, seed=4) for n in (5, 9))
    assert all(np.array_equal(short[name], long[name][:5]) for name in short)
    assert np.array_equal(draw_seeds(5, 4), draw_seeds(9, 4)[:5])
    # another kind of particle or another range leaves the other numbers alone
    other = draw(stack, Beam(energy=(3.0, 4.0), angle=(0.0, 0.1)), 5, seed=4)
    assert np.array_equal(other["absorber_thickness"], short["absorber_thickness"])
    assert not np.array_equal(draw_seeds(5, 4), draw_seeds(5, 5))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: SamplingCalorimeter(0), "layers: wanted a whole number of at least 1, got 0"),
        (lambda: SamplingCalorimeter(2.5), "layers: wanted a whole number"),  # type: ignore[arg-type]
        (lambda: SamplingCalorimeter(2, absorber_thickness=-1.0), "absorber_thickness: .* above 0 mm, .* got -1.0 mm"),
        (lambda: SamplingCalorimeter(2, active_thickness=0.0), "active_thickness: .* got 0.0 mm"),
        (lambda: SamplingCalorimeter(2, active_thickness=(3.0, 2.0)), r"increasing order, got \(3.0, 2.0\) mm"),
        (lambda: SamplingCalorimeter(2, active_thickness=float("nan")), "got nan mm"),
        (lambda: SamplingCalorimeter(2, active_thickness=(1.0, 2.0, 3.0)), "got .1.0, 2.0, 3.0. mm"),  # type: ignore[arg-type]
        (lambda: SamplingCalorimeter(2, absorber=""), "absorber: wanted the NIST name"),
        (lambda: SamplingCalorimeter(2, variation="wild"), "variation: wanted same, free, mixed, trend"),  # type: ignore[arg-type]
        (lambda: SamplingCalorimeter(2, spread=1.5), "spread: .* from 0 to 1, got 1.5"),
        (lambda: SamplingCalorimeter(2, width=1e5), "width: wanted at most 8000 mm"),
        (lambda: SamplingCalorimeter(2, cut=0.0), "cut: wanted a number above 0 mm"),
        (lambda: SamplingCalorimeter(9, merge=2), "merge: 2 does not divide 9 layers"),
        (lambda: SamplingCalorimeter(2, cells=PolarCells(16, 9, 40.0)), "they reach over 720 mm, the slabs are 400 mm"),
        (lambda: CartesianCells(0, 3), "cells.x: .* at least 1, got 0"),
        (lambda: CartesianCells(3, 3, -5.0), "cells.pitch: .* got -5.0 mm"),
        (lambda: PolarCells(1, 3), "cells.alpha: .* at least 2, got 1"),
        (
            lambda: Beam("pi+"),
            "'pi+' cannot be simulated, the physics is electromagnetic only .no hadrons.; wanted one of e-",
        ),
        (lambda: Beam(energy=0.0), "energy: wanted a number above 0 and at most 100000 GeV, .* got 0.0 GeV"),
        (lambda: Beam(energy=(-1.0, 2.0)), r"got \(-1.0, 2.0\) GeV"),
        (lambda: Beam(energy=1e6), "at most 100000 GeV"),
        (lambda: Beam(angle=1.6), "angle: wanted a number of at least 0 and below 1.5708 rad"),
        (lambda: Beam(angle=-0.1), "got -0.1 rad"),
        (lambda: Beam(spectrum="flat"), "spectrum: wanted log-uniform or uniform"),  # type: ignore[arg-type]
        (lambda: draw(SamplingCalorimeter(2), Beam(), 0, seed=1), "n: wanted a whole number of at least 1, got 0"),
        (lambda: draw(SamplingCalorimeter(2), Beam(), 1, seed=-1), "seed: wanted a whole number of at least 0, got -1"),
    ],
)
def test_bad_settings_are_one_line(make, wanted):
    with pytest.raises(ValueError, match=wanted.replace("pi+", r"pi\+")) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.needs("geant4_pybind")
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"energy": [1.0, -2.0]}, "energy is -2.0 GeV in shower 1, wanted a finite number above 0 GeV"),
        ({"energy": [1.0, np.nan]}, "energy is nan GeV in shower 1"),
        ({"energy": [1.0, 1e6]}, "energy: wanted at most 100000 GeV, got 1e.06 GeV"),
        ({"energy": []}, "energy: wanted at least one shower"),
        ({"energy": [[1.0], [2.0]]}, "energy: wanted the shape"),
        ({"absorber_thickness": [1.0, 2.0]}, r"absorber_thickness: wanted the shape \(2, 3\) .* got \(2,\)"),
        (
            {"active_thickness": [[1.0, 0.0, 1.0]]},
            "active_thickness is 0.0 mm in shower 0, wanted a finite number above 0",
        ),
        ({"absorber_thickness": 3000.0}, "the stack is 9015 mm deep, wanted at most 8000 mm"),
        ({"angle": 1.6}, "angle: wanted below pi/2, got 1.6 rad"),
        ({"particle": [11, 211]}, "PDG number 211 cannot be simulated"),
        ({"particle": "proton"}, "'proton' cannot be simulated"),
        ({"processes": 0}, "processes: wanted a whole number of at least 1, got 0"),
        ({"seed": 1.5}, "seed: wanted a whole number"),
    ],
)
def test_bad_arrays_are_one_line(change, wanted):
    given = {"energy": [1.0, 2.0], "absorber_thickness": 2.0, "active_thickness": 5.0, "seed": 1} | change
    with pytest.raises(ValueError, match=wanted) as caught:
        simulate_each(SamplingCalorimeter(3), **given, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.needs("geant4_pybind")
def test_a_material_without_data_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("GEANT4_DATA_DIR", raising=False)
    with pytest.raises(
        ValueError, match="absorber: the data that come with diffhep do not cover 'G4_PB'; did you mean G4_Pb"
    ):
        generate_showers(SamplingCalorimeter(3, "G4_PB"), Beam(), 1, seed=1, path=tmp_path / "s.npz")
    with pytest.raises(ValueError, match=r"active: .* 'G4_BGO'.* GEANT4_DATA_DIR"):
        generate_showers(SamplingCalorimeter(3, active="G4_BGO"), Beam(), 1, seed=1, path=tmp_path / "s.npz")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "s.npz").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        generate_showers(SamplingCalorimeter(3), Beam(), 1, seed=1, path=tmp_path / "s.npz")
    assert (tmp_path / "s.npz").read_text() == "mine"


def test_without_geant4_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "geant4_pybind", None)
    with pytest.raises(ValueError, match=r"pip install 'diffhep\[geant4\]'"):
        generate_showers(SamplingCalorimeter(3), Beam(), 1, seed=1, path=tmp_path / "s.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--particle", "pi+"], "'pi+' cannot be simulated"),
        (["--absorber-thickness", "-1"], "got -1.0 mm"),
        (["--energy", "0"], "got 0.0 GeV"),
        (["--angle", "2"], "got 2.0 rad"),
        (["--cells-pitch", "3"], "--cells-pitch: wanted together with --cells"),
        (["--cells", "polar", "--cells-pitch", "-3"], "cells.pitch: wanted a number above 0 mm"),
        (["--variation", "wild"], "wild"),
        (["--layer", "3"], "layer"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, options, wanted):
    assert cli.main(["generate", "geant4", "-n", "1", "-o", str(tmp_path / "s.npz"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("diffhep: error: ")
    assert len(captured.err.splitlines()) == 1
    assert wanted in captured.err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_option_with_its_unit(capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "geant4", "--help"])
    text = capsys.readouterr().out
    for word in ("--absorber-thickness", "--variation", "--cells", "--merge", "--processes", "--resume", "--seed"):
        assert word in text
    for unit in ("[mm]", "[GeV]", "[rad]"):
        assert unit in text
    assert cli.main(["generate", "--help"]) == 0
    assert "geant4" in capsys.readouterr().out


def test_the_data_that_come_with_the_package_are_whole():
    data = shipped_data()
    assert (data / "G4ENSDFSTATE3.0" / "ENSDFSTATE.dat").stat().st_size == 0
    assert len(list((data / "G4EMLOW8.8" / "brem_SB").iterdir())) == 20
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < 1_000_000


def test_last_words():
    output = """
Geant4 version
-------- EEEE ------- G4Exception-START -------- EEEE -------
*** G4Exception : em0003
      issued by : G4SeltzerBergerModel::ReadData()
data file <br92> not found
*** Fatal Exception *** core dump ***
 **** Track information is not available at this moment
-------- EEEE -------- G4Exception-END --------- EEEE -------

*** G4Exception: Aborting execution ***
"""
    assert last_words(output) == (
        "G4Exception : em0003 issued by : G4SeltzerBergerModel::ReadData() data file <br92> not found"
    )
    assert last_words("one\n\ntwo\n") == "one two"
    assert last_words("") == "no reason given"
