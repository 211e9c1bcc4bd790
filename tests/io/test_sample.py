"""Samples: the round trip, the normalisation, and what the package ships."""

import json
from typing import Any

import awkward as ak
import jax.numpy as jnp
import numpy as np
import pytest
import uproot
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.events import Events
from diffhep.io import SHIPPED, read_sample, shipped, write_sample
from diffhep.kinematics import diphoton_mass

opened: Any = uproot.open  # its return type is too wide to be of use
PRODUCTION = {"cross_section": 2.5, "sum_of_weights": 40.0, "n_generated": 80}
FIELDS = ("pt", "eta", "phi", "hoe", "genPartFlav", "emFrac1", "emFrac2", "emFrac3", "emRms", "pfRelIso03_all")


@pytest.fixture
def events():
    rng = np.random.default_rng(1)
    mask = np.array([[True, True], [True, False], [False, False], [True, True], [True, True]])
    pt = np.where(mask, np.sort(rng.exponential(30, (5, 2)))[:, ::-1], 0.0)
    fields = {"pt": pt, "eta": np.where(mask, rng.normal(size=(5, 2)), 0.0), "phi": np.where(mask, 0.5, 0.0)}
    return Events({k: jnp.asarray(v) for k, v in fields.items()}, jnp.asarray(mask), jnp.asarray(rng.normal(2, 1, 5)))


def test_the_round_trip_is_exact(tmp_path, events):
    path = write_sample(
        tmp_path / "s.root", events, **PRODUCTION, metadata={"process": "p", "seed": 7}, dtype=np.float64
    )
    sample = read_sample(path)
    for name in events.fields:
        assert_array_equal(sample.events[name], events[name])
    assert_array_equal(sample.events.mask, events.mask)
    assert_array_equal(sample.events.weight, events.weight)
    assert (sample.cross_section, sample.sum_of_weights, sample.n_generated) == (2.5, 40.0, 80)
    assert (sample.process, sample.seed, sample.path) == ("p", 7, path)
    assert sample.luminosity == 80 / 2.5  # equal weights
    assert [p.name for p in tmp_path.iterdir()] == ["s.root"]


def test_single_precision_by_default(tmp_path, events):
    sample = read_sample(write_sample(tmp_path / "s.root", events, **PRODUCTION))
    assert_array_equal(sample.events["pt"], np.asarray(events["pt"], np.float32))
    assert sample.process == "s"
    assert sample.seed is None


def test_nanoaod_names_in_the_file(tmp_path, events):
    path = write_sample(tmp_path / "s.root", events, **PRODUCTION)
    with opened(path) as file:
        assert {"nPhoton", "Photon_pt", "Photon_eta", "Photon_phi", "genWeight"} == set(file["Events"].keys())
        assert_array_equal(file["Events"]["nPhoton"].array(), [2, 1, 0, 2, 2])


def test_event_fields_and_integers_are_kept(tmp_path, events):
    number = Events({**events.fields, "event": np.arange(5)}, events.mask, events.weight)  # type: ignore[dict-item]
    path = write_sample(tmp_path / "s.root", number, **PRODUCTION)
    with opened(path) as file:
        column = file["Events"]["event"].array(library="np")
    assert column.dtype == np.int64
    assert_array_equal(column, np.arange(5))


def test_expected_events(tmp_path, events):
    sample = read_sample(write_sample(tmp_path / "s.root", events, **PRODUCTION, dtype=np.float64))
    assert_allclose(sample.expected(1000.0).weight, events.weight * 2.5 * 1000 / 40, rtol=1e-12)
    with pytest.raises(ValueError, match="luminosity must be positive"):
        sample.expected(0.0)


def test_a_part_of_a_sample_expects_as_much(tmp_path):
    even = Events({"pt": jnp.ones((10, 1))}, jnp.ones((10, 1), bool), jnp.ones(10))
    path = write_sample(tmp_path / "s.root", even, cross_section=3.0, sum_of_weights=50, n_generated=50)
    options = {"fields": ("pt",), "max_objects": 1}
    whole, part = read_sample(path, **options), read_sample(path, **options, entry_stop=4)
    assert part.events.size == 4
    assert part.n_generated == 20
    assert_allclose(part.expected(7.0).weight.sum(), whole.expected(7.0).weight.sum(), rtol=1e-6)
    assert_allclose(part.luminosity, 0.4 * whole.luminosity, rtol=1e-12)


def test_filtered_events_leave_the_normalisation(tmp_path, events):
    path = write_sample(tmp_path / "s.root", events, **PRODUCTION)
    assert read_sample(path, min_objects=2).sum_of_weights == 40.0


def user_file(path, **objects):
    with uproot.recreate(path) as file:
        branches = {"Photon_pt": np.array([[30.0], [0.5], [20.0]]), "genWeight": np.array([1.0, 2.0, 3.0])}
        file.mktree("Events", {k: (v.dtype, v.shape[1:]) for k, v in branches.items()}).extend(branches)
        for name, content in objects.items():
            if isinstance(content, str):
                file[name] = content
            else:
                file.mktree(name, {k: v.dtype for k, v in content.items()}).extend(content)
    return path


def test_a_plain_file_needs_a_cross_section(tmp_path):
    path = user_file(tmp_path / "user.root")
    with pytest.raises(ValueError, match=r"user\.root: the file has no cross-section .* in pb$"):
        read_sample(path, fields=("pt",))
    sample = read_sample(path, fields=("pt",), cross_section=4.0)
    assert (sample.cross_section, sample.sum_of_weights, sample.n_generated, sample.process) == (4.0, 6.0, 3, "user")


def test_the_keyword_overrides_the_file(tmp_path, events):
    path = write_sample(tmp_path / "s.root", events, **PRODUCTION)
    assert read_sample(path, cross_section=9.0).cross_section == 9.0


def test_runs_of_merged_files_add_up(tmp_path):
    runs = {
        "genEventCount": np.array([10, 30]),
        "genEventSumw": np.array([10.0, 30.0]),
        "genEventSumw2": np.array([10.0, 30.0]),
        "crossSection": np.array([2.0, 4.0]),
    }
    sample = read_sample(user_file(tmp_path / "f.root", Runs=runs), fields=("pt",))
    assert (sample.n_generated, sample.sum_of_weights, sample.cross_section) == (40, 40.0, 3.5)
    assert_allclose(sample.luminosity, 40 / 3.5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_a_cross_section_that_is_not_positive(tmp_path, events, sigma):
    path = write_sample(tmp_path / "s.root", events, **PRODUCTION)
    with pytest.raises(ValueError, match=r"s\.root: the cross-section must be positive, got .* pb$"):
        read_sample(path, cross_section=sigma)
    with pytest.raises(ValueError, match=r"new\.root: the cross-section must be positive, got .* pb$"):
        write_sample(tmp_path / "new.root", events, **{**PRODUCTION, "cross_section": sigma})
    assert not (tmp_path / "new.root").exists()


def test_a_sum_of_weights_that_is_not_positive(tmp_path, events):
    path = user_file(tmp_path / "f.root", Runs={"genEventSumw": np.array([-1.0])})
    with pytest.raises(ValueError, match=r"sum of weights .* must be positive, got -1\.0"):
        read_sample(path, fields=("pt",), cross_section=1.0)
    with pytest.raises(ValueError, match="sum of weights must be positive"):
        write_sample(tmp_path / "s.root", events, **{**PRODUCTION, "sum_of_weights": 0.0})


@pytest.mark.parametrize(("text", "wanted"), [("{broken", "not JSON"), ("[1]", "is list, wanted a JSON object")])
def test_bad_metadata(tmp_path, text, wanted):
    with pytest.raises(ValueError, match=wanted):
        read_sample(user_file(tmp_path / "f.root", metadata=text), fields=("pt",), cross_section=1.0)


def test_files_are_not_overwritten_unless_told(tmp_path, events):
    path = write_sample(tmp_path / "s.root", events, **PRODUCTION)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        write_sample(path, events, **PRODUCTION)
    assert path.read_bytes() == before
    write_sample(path, events, **{**PRODUCTION, "cross_section": 5.0}, overwrite=True)
    assert read_sample(path).cross_section == 5.0


def test_a_failed_write_leaves_nothing_behind(tmp_path, events):
    with pytest.raises(TypeError):
        write_sample(tmp_path / "s.root", events, **PRODUCTION, metadata={"f": object()})
    assert list(tmp_path.iterdir()) == []


def test_bad_targets(tmp_path, events):
    with pytest.raises(ValueError, match=r"folder .* does not exist"):
        write_sample(tmp_path / "no" / "s.root", events, **PRODUCTION)
    with pytest.raises(ValueError, match="no events"):
        write_sample(tmp_path / "s.root", events.take(slice(0, 0)), **PRODUCTION)
    odd = Events({"x": jnp.ones((5, 3))}, events.mask, events.weight)
    with pytest.raises(ValueError, match=r"'x' has shape \(5, 3\), wanted \(5, 2\)"):
        write_sample(tmp_path / "s.root", odd, **PRODUCTION)


def test_an_unknown_shipped_sample_names_the_nearest():
    with pytest.raises(ValueError, match="'higgs-diphotons'; did you mean 'higgs-diphoton'"):
        shipped("higgs-diphotons")


@pytest.fixture(scope="module", params=SHIPPED)
def sample(request):
    return read_sample(shipped(request.param), fields=FIELDS)


def test_shipped_samples_are_sane(sample):
    e = sample.events
    assert bool(e.mask.all())
    assert bool((e["pt"][:, 0] >= e["pt"][:, 1]).all())
    assert float(e["pt"][:, 0].min()) >= 16.0
    assert float(e["pt"][:, 1].min()) >= 12.0
    assert float(jnp.abs(e["eta"]).max()) <= 2.5
    assert float(jnp.abs(e["phi"]).max()) <= np.float32(np.pi)
    assert_array_equal(e["emFrac1"] + e["emFrac2"] + e["emFrac3"], np.ones((e.size, 2)))
    assert bool(((e["emFrac1"] >= e["emFrac2"]) & (e["emFrac2"] >= 0) & (e["emFrac3"] >= 0)).all())
    assert float(e["hoe"].min()) >= 0
    assert float(e["hoe"].max()) <= np.float32(0.3)
    assert float(e["emRms"].min()) >= 0
    assert float(e["emRms"].max()) < 0.2
    assert set(np.unique(e["genPartFlav"])) <= {0.0, 1.0}
    assert sample.process == sample.path.stem
    assert sample.seed is not None
    # the selected cross-section is a part of the generated one
    assert 0 < float(sample.expected(1.0).weight.sum()) < sample.cross_section


def test_the_higgs_boson_is_where_it_was_put():
    e = read_sample(shipped("higgs-diphoton"), fields=FIELDS).events
    both = np.asarray((e["genPartFlav"] == 1).all(axis=1))
    mass = np.asarray(
        diphoton_mass(*(e[k][:, 0] for k in ("pt", "eta", "phi")), *(e[k][:, 1] for k in ("pt", "eta", "phi")))
    )
    # the others: a photon that became an electron pair, or one out of acceptance with a fake in its place
    assert both.mean() > 0.9
    # stray particles in the cone make a tail: the median is the peak, whose natural width is 4 MeV
    assert abs(np.median(mass[both]) - 125.0) < 0.1
    assert (np.abs(mass[both] - 125.0) < 1.0).mean() > 0.95


def test_flavours_are_what_the_processes_say():
    prompt = {n: np.asarray(read_sample(shipped(n), fields=FIELDS).events["genPartFlav"]).mean() for n in SHIPPED}
    assert prompt["higgs-diphoton"] > 0.95
    assert prompt["diphoton"] > 0.95
    assert prompt["jets"] < 0.5


def test_shipped_samples_fit_in_the_package():
    assert sum(shipped(name).stat().st_size for name in SHIPPED) < 4_000_000


def test_metadata_reproduces_the_production(sample):
    text = json.dumps(dict(sample.metadata))
    assert "Beams:eCM = 13000." in text
    assert "Pythia" in sample.metadata["generator"]
    assert sum(run["trials"] for run in sample.metadata["runs"]) == sample.n_generated
    assert sum(run["kept"] for run in sample.metadata["runs"]) == sample.events.size
    total = sum(run["cross_section"] for run in sample.metadata["runs"])
    assert_allclose(total, sample.cross_section, rtol=1e-12)


def test_the_counter_agrees_with_the_branches(sample):
    with opened(sample.path) as file:
        tree = file["Events"]
        assert_array_equal(tree["nPhoton"].array(library="np"), ak.num(tree["Photon_pt"].array()))
