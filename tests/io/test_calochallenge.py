"""The CaloChallenge's HDF5 format: order of the voxels, units, and files of another layout."""

from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.io import read_calochallenge, write_calochallenge

SHAPE = (3, 4, 2)


@pytest.fixture
def voxels():
    rng = np.random.default_rng(1)
    return rng.uniform(1.0, 1000.0, 5), rng.exponential(0.01, (5, *SHAPE))


def test_the_round_trip(tmp_path, voxels):
    path = write_calochallenge(tmp_path / "s.hdf5", *voxels)
    energy, cells = read_calochallenge(path, shape=SHAPE)
    assert_allclose(energy, voxels[0], rtol=1e-15)
    assert_allclose(cells, voxels[1], rtol=1e-15)
    assert [p.name for p in tmp_path.iterdir()] == ["s.hdf5"]
    assert read_calochallenge(path, shape=SHAPE, stop=2).cells.shape == (2, *SHAPE)


def test_mev_and_r_fastest_in_the_file(tmp_path, voxels):
    path = write_calochallenge(tmp_path / "s.h5", *voxels)
    with h5py.File(path) as opened:
        file: Any = opened
        assert {name: file[name].shape for name in file} == {"incident_energies": (5, 1), "showers": (5, 24)}
        assert_allclose(file["incident_energies"][:, 0], voxels[0] * 1e3, rtol=1e-15)
        flat = file["showers"][0]
    # layer 1, alpha 2, r 1
    assert flat[(1 * 4 + 2) * 2 + 1] == pytest.approx(voxels[1][0, 1, 2, 1] * 1e3, rel=1e-15)


def test_the_default_is_dataset_2(tmp_path):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = np.full((2, 1), 5e3)
        file["showers"] = np.tile(np.arange(6480.0), (2, 1))
    energy, cells = read_calochallenge(path)
    assert_allclose(energy, 5.0, rtol=1e-15)
    assert cells.shape == (2, 45, 16, 9)
    assert_array_equal(np.round(cells[1, 1, 0] * 1e3), 144 + np.arange(9))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"showers": np.ones((2, 23))}, r"showers has the shape \(2, 23\), wanted \(shower, 24\), that is 3 x 4 x 2"),
        ({"showers": np.ones((3, 24))}, "2 incident_energies, 3 showers"),
        ({"incident_energies": np.ones((2, 2))}, r"incident_energies has the shape \(2, 2\), wanted \(shower, 1\)"),
        (
            {"incident_energies": np.array([[1.0], [0.0]])},
            "energy of shower 1 is 0.0 GeV, wanted .* above 0 GeV",
        ),
        ({"incident_energies": np.array([[1.0], [np.nan]])}, "incident energy of shower 1 is nan GeV"),
        ({"showers": np.full((2, 24), np.nan)}, r"voxel \(0, 0, 0\) of shower 0 is nan GeV"),
        ({"showers": np.full((2, 24), -1.0)}, "at least 0 GeV"),
        ({"showers": np.ones((0, 24)), "incident_energies": np.ones((0, 1))}, "holds no shower"),
        ({"showers": None}, "has no numbers called 'showers'; it holds incident_energies"),
        ({"showers": np.array([b"a", b"b"])}, "has no numbers called 'showers'"),
    ],
)
def test_files_of_another_layout(tmp_path, change, wanted):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in ({"incident_energies": np.ones((2, 1)), "showers": np.ones((2, 24))} | change).items():
            if array is not None:
                file[name] = array
    with pytest.raises(ValueError, match=wanted) as caught:
        read_calochallenge(path, shape=SHAPE)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_are_none(tmp_path, voxels):
    (tmp_path / "text.hdf5").write_text("hello")
    whole = write_calochallenge(tmp_path / "s.hdf5", *voxels).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    for name, wanted in {
        "none.hdf5": "no such file",
        ".": "is a folder",
        "text.hdf5": "is not an HDF5 file",
        "cut.hdf5": "cannot be read as HDF5",
    }.items():
        with pytest.raises(ValueError, match=wanted):
            read_calochallenge(tmp_path / name, shape=SHAPE)
    with pytest.raises(ValueError, match="stop: wanted at least 1 shower, got 0"):
        read_calochallenge(tmp_path / "s.hdf5", shape=SHAPE, stop=0)


def test_what_cannot_be_written(tmp_path, voxels):
    energy, cells = voxels
    for arguments, wanted in (
        (("s.txt", energy, cells), "must end in .hdf5 or .h5"),
        (("s.h5", energy[:2], cells), r"got \(2,\) and \(5, 3, 4, 2\)"),
        (("s.h5", energy, cells[0]), r"got \(5,\) and \(3, 4, 2\)"),
        (("s.h5", -energy, cells), "above 0 GeV"),
        (("s.h5", energy, -cells), "at least 0 GeV"),
    ):
        with pytest.raises(ValueError, match=wanted):
            write_calochallenge(tmp_path / arguments[0], *arguments[1:])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s.h5").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        write_calochallenge(tmp_path / "s.h5", energy, cells)
