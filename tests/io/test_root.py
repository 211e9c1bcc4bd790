"""ROOT files in: layouts, order, padding, and every bad input that can be thought of."""

from typing import Any

import awkward as ak
import jax.numpy as jnp
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.io import read_events

opened: Any = uproot.open  # its return type is too wide to be of use
PT = [[20.0, 50.0, 30.0], [], [10.0], [40.0, 45.0]]
ETA = [[0.2, 0.5, 0.3], [], [0.1], [0.4, 0.45]]
PHI = [[-0.2, -0.5, -0.3], [], [-0.1], [-0.4, -0.45]]


def nanoaod(path, *, pt=PT, eta=ETA, phi=PHI, event=None, tree="Events"):
    """A file as NanoAOD writes it: a counter and jagged branches."""
    branches = {"Photon": ak.zip({"pt": ak.Array(pt), "eta": ak.Array(eta), "phi": ak.Array(phi)})} | (event or {})
    types = {k: v.dtype if isinstance(v, np.ndarray) else ak.type(v).content for k, v in branches.items()}
    with uproot.recreate(path) as file:
        file.mktree(tree, types).extend(branches)
    return path


def plain(path, **branches):
    """A file with arrays of fixed length."""
    with uproot.recreate(path) as file:
        file.mktree("Events", {k: (v.dtype, v.shape[1:]) for k, v in branches.items()}).extend(branches)
    return path


@pytest.fixture
def good(tmp_path):
    return nanoaod(tmp_path / "good.root", event={"genWeight": np.array([1.0, -2.0, 3.0, 4.0])})


def test_jagged_branches_are_sorted_and_padded(good):
    events = read_events(good)
    assert_array_equal(events["pt"], [[50.0, 30.0], [0.0, 0.0], [10.0, 0.0], [45.0, 40.0]])
    assert_array_equal(events["eta"], [[0.5, 0.3], [0.0, 0.0], [0.1, 0.0], [0.45, 0.4]])
    assert_array_equal(events["phi"], [[-0.5, -0.3], [0.0, 0.0], [-0.1, 0.0], [-0.45, -0.4]])
    assert_array_equal(events.mask, [[True, True], [False, False], [True, False], [True, True]])
    assert_array_equal(events.weight, [1.0, -2.0, 3.0, 4.0])
    assert all(isinstance(x, jnp.ndarray) for x in events.fields.values())


def test_events_with_too_few_objects_go(good):
    events = read_events(good, min_objects=1, max_objects=3)
    assert_array_equal(events["pt"], [[50.0, 30.0, 20.0], [10.0, 0.0, 0.0], [45.0, 40.0, 0.0]])
    assert_array_equal(events.weight, [1.0, 3.0, 4.0])


def test_entry_stop(good):
    assert_array_equal(read_events(good, entry_stop=3).weight, [1.0, -2.0, 3.0])


def test_optional_branches_have_their_default_and_padding_stays_zero(good):
    events = read_events(good, optional={"hoe": 0.25, "eta": 9.0})
    assert_array_equal(events["hoe"], [[0.25, 0.25], [0.0, 0.0], [0.25, 0.0], [0.25, 0.25]])
    assert_array_equal(events["eta"][0], [0.5, 0.3])


def test_optional_branches_that_are_there_are_read(tmp_path):
    path = plain(tmp_path / "f.root", Photon_pt=np.array([[20.0, 30.0]]), Photon_hoe=np.array([[0.2, 0.3]]))
    assert_array_equal(read_events(path, fields=("pt",), optional={"hoe": 1.0})["hoe"], [[0.3, 0.2]])


def test_arrays_of_fixed_length(tmp_path):
    path = plain(tmp_path / "f.root", Photon_pt=np.array([[20.0, 30.0, 10.0], [5.0, 4.0, 3.0]]))
    events = read_events(path, fields=("pt",))
    assert_array_equal(events["pt"], [[30.0, 20.0], [5.0, 4.0]])
    assert events.mask.all()
    assert_array_equal(events.weight, [1.0, 1.0])


def test_one_number_for_each_event_is_its_only_object(tmp_path):
    path = plain(tmp_path / "f.root", pt=np.array([20.0, 30.0]), eta=np.array([1.0, 2.0]))
    events = read_events(path, collection="", fields=("pt", "eta"))
    assert_array_equal(events["pt"], [[20.0, 0.0], [30.0, 0.0]])
    assert_array_equal(events.mask, [[True, False], [True, False]])


def test_integers_and_other_names(tmp_path):
    path = plain(tmp_path / "f.root", Jet_pt=np.array([[3, 7]], np.int32), w=np.array([2], np.int16))
    events = read_events(path, collection="Jet", fields=("pt",), weight="w")
    assert_array_equal(events["pt"], [[7.0, 3.0]])
    assert_array_equal(events.weight, [2.0])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.floats(0, 1e4, width=32), max_size=6), min_size=1, max_size=8),
    st.integers(1, 7),
)
def test_padding_is_that_of_a_loop(tmp_path, pt, width):
    tag = [[float(10 * i + j) for j in range(len(row))] for i, row in enumerate(pt)]
    jagged = [ak.values_astype(ak.Array([*x, [0.0]])[:-1], np.float64) for x in (pt, tag)]
    path = nanoaod(tmp_path / "h.root", pt=jagged[0], eta=jagged[1], phi=jagged[1])
    events = read_events(path, max_objects=width)
    for row, values, tags in zip(range(len(pt)), pt, tag, strict=True):
        order = sorted(range(len(values)), key=lambda j: -values[j])[:width]
        padding = [0.0] * (width - len(order))
        assert_array_equal(events["pt"][row], [values[j] for j in order] + padding)
        assert_array_equal(events["eta"][row], [tags[j] for j in order] + padding)
        assert int(events.mask[row].sum()) == len(order)


def message(path, **options):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        read_events(path, **options)
    text = str(error.value)
    assert path.name in text
    return text


def test_a_missing_file(tmp_path):
    assert "no such file" in message(tmp_path / "none.root")


def test_a_folder(tmp_path):
    assert "is a folder" in message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"ro", b"PK\x03\x04" + bytes(100), b"pt,eta\n1,2\n"])
def test_something_else(tmp_path, content):
    path = tmp_path / "other.root"
    path.write_bytes(content)
    assert "not a ROOT file" in message(path)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_file_cut_off(good, part):
    content = good.read_bytes()
    good.write_bytes(content[: int(len(content) * part)])
    assert "cut off" in message(good)


def test_damage_in_the_middle(good):
    with opened(good) as file:
        start = file.key("Events").data_cursor.index
    content = bytearray(good.read_bytes())
    content[start : start + 300] = bytes(300)
    good.write_bytes(bytes(content))
    assert "cannot be read as a ROOT file" in message(good)


def test_a_missing_tree_names_those_that_are_there(tmp_path):
    path = nanoaod(tmp_path / "f.root", tree="events")
    assert "'Events'; it has events" in message(path)


def test_a_file_without_trees(tmp_path):
    with uproot.recreate(tmp_path / "f.root") as file:
        file["note"] = "nothing here"
    assert "no tree at all" in message(tmp_path / "f.root")


def test_missing_branches_are_named_with_the_nearest(tmp_path):
    path = plain(tmp_path / "f.root", Photon_PT=np.array([[1.0]]), Photon_eta=np.array([[1.0]]))
    text = message(path)
    assert "no branch Photon_pt, Photon_phi" in text
    assert "Photon_PT" in text


def test_missing_branches_without_any_likeness(tmp_path):
    assert "there are zzz" in message(plain(tmp_path / "f.root", zzz=np.array([1.0])))


def test_an_empty_tree(tmp_path):
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mktree("Events", {"Photon_pt": np.float32, "Photon_eta": np.float32, "Photon_phi": np.float32})
    assert "empty" in message(tmp_path / "f.root")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["pt", "eta", "phi"])
def test_values_that_are_not_finite(tmp_path, name, value):
    bad = [row.copy() for row in PT]
    bad[3][1] = value
    options: dict[str, Any] = {name: bad}
    text = message(nanoaod(tmp_path / "f.root", **options))
    assert f"Photon_{name} is {value}" in text
    assert "entry 3" in text


def test_negative_momenta(tmp_path):
    bad = [row.copy() for row in PT]
    bad[2][0] = -3.5
    assert "Photon_pt is -3.5 GeV in entry 2, wanted at least 0 GeV" in message(nanoaod(tmp_path / "f.root", pt=bad))


def test_negative_energies(tmp_path):
    path = plain(tmp_path / "f.root", Photon_pt=np.array([[1.0]]), Photon_energy=np.array([[-1.0]]))
    assert "Photon_energy is -1.0 GeV in entry 0" in message(path, fields=("pt", "energy"))


def test_a_negative_pseudorapidity_is_fine(tmp_path):
    path = plain(tmp_path / "f.root", Photon_pt=np.array([[1.0]]), Photon_eta=np.array([[-1.0]]))
    assert_allclose(read_events(path, fields=("pt", "eta"))["eta"][0, 0], -1.0)


def test_weights_that_are_not_finite(tmp_path):
    path = nanoaod(tmp_path / "f.root", event={"genWeight": np.array([1.0, np.nan, 1.0, 1.0])})
    assert "genWeight is nan in entry 1" in message(path)


def test_branches_of_different_length(tmp_path):
    path = tmp_path / "f.root"
    branches = {"Photon_pt": ak.Array([[1.0, 2.0], [3.0]]), "Photon_eta": ak.Array([[1.0, 2.0], [3.0, 4.0]])}
    with uproot.recreate(path) as file:
        file.mktree("Events", {k: ak.type(v).content for k, v in branches.items()}).extend(branches)
    assert "Photon_eta has 2 objects in entry 1, Photon_pt has 1" in message(path, fields=("pt", "eta"))


def test_no_event_with_enough_objects(tmp_path):
    path = nanoaod(tmp_path / "f.root", pt=[[1.0], []], eta=[[1.0], []], phi=[[1.0], []])
    assert "none of 2 events has 2 objects" in message(path, min_objects=2)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"fields": ("eta",)}, "'pt'"),
        ({"max_objects": 0}, "max_objects >= 1"),
        ({"max_objects": 2, "min_objects": 3}, "min_objects <= max_objects"),
        ({"min_objects": -1}, "0 <= min_objects"),
        ({"entry_stop": 0}, "entry_stop"),
    ],
)
def test_bad_arguments(good, options, wanted):
    assert wanted in message(good, **options)


def test_numbers_are_wanted(tmp_path):
    path = tmp_path / "f.root"
    branches = {"Photon_pt": ak.Array(["a", "b"])}
    with uproot.recreate(path) as file:
        file.mktree("Events", {k: ak.type(v).content for k, v in branches.items()}).extend(branches)
    assert "wanted numbers" in message(path, fields=("pt",))
