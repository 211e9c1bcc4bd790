"""Labelled jets from Pythia: their masses, weights and constituents, what the file says, and every wrong question."""

import json
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep import cli
from diffhep.cli import command
from diffhep.generate import generate_jets, jets
from diffhep.generate.jet_classes import RUNS, JetRun, classes_of
from diffhep.generate.substructure import FEATURES
from diffhep.trigger.labelled import read_labelled

QUICK = ("PartonLevel:MPI = off",)
NAMES = ["gluon", "quark", "W", "Z", "top"]

installed = [pytest.mark.needs("pythia8mc"), pytest.mark.needs("fastjet")]


def needs(function):
    for mark in installed:
        function = mark(function)
    return function


def read(path):
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("config")))


def feature(arrays, name):
    return arrays["features"][:, FEATURES.index(name)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("jets") / "jets.npz"
    return generate_jets(600, seed=3, path=path, settings=QUICK, constituents=True, progress=False)


@needs
def test_the_trigger_reads_it(sample):
    arrays, config = read(sample)
    labelled = read_labelled(sample, features="features", label="label")
    assert labelled.features.shape == (600, 16)
    assert labelled.classes == 5
    assert_array_equal(np.bincount(labelled.labels), np.full(5, 120))
    assert_array_equal(labelled.features, arrays["features"])
    assert config["classes"] == NAMES
    assert tuple(config["features"]) == FEATURES
    # in random order, so that a part of the file is a sample as well
    assert np.bincount(labelled.labels[:100], minlength=5).min() > 5


@needs
def test_jets_are_those_of_the_selection(sample):
    arrays, config = read(sample)
    assert config["selection"]["radius"] == 0.8
    assert ((arrays["pt"] > 500) & (arrays["pt"] < 1000)).all()
    assert (np.abs(arrays["eta"]) < 2).all()
    assert (arrays["weight"] > 0).all()
    # E^2 = m^2 + pT^2 cosh^2 eta, in single precision
    assert_allclose(
        arrays["energy"], np.hypot(arrays["mass"], arrays["pt"] * np.cosh(arrays["eta"].astype(float))), rtol=1e-5
    )
    # single precision, and a mass near 0 is a difference of energies of order 1 TeV
    assert (feature(arrays, "mass_mmdt") <= arrays["mass"] * (1 + 1e-5) + 1e-3).all()


def peak(values, share=0.4):
    """Centre of the shortest interval that holds this share of the values."""
    values = np.sort(values.astype(float))
    held = int(share * len(values))
    start = np.argmin(values[held:] - values[:-held])
    return (values[start] + values[start + held]) / 2


@needs
@pytest.mark.parametrize(
    ("label", "pole", "width", "median"),
    [("W", 80.4, 3.0, (70, 84)), ("Z", 91.2, 3.0, (80, 95)), ("top", 171.0, 7.0, (130, 178))],
)
def test_a_resonance_has_its_mass(sample, label, pole, width, median):
    # Pythia's pole masses. The peak holds those whose quarks are all inside and whose decay is no more unequal than
    # the cut on z: it is a percent or so off, by neutrinos of heavy flavours, radiation out of the jet and into it, and
    # the 48 jets that make it are some GeV (top: 10 GeV) wide. A fifth of the W and Z, and a quarter of the top jets
    # (no b within R = 0.8, or none above the cut), lie far below it, next to nothing above: so does the median
    arrays, config = read(sample)
    masses = feature(arrays, "mass_mmdt")[arrays["label"] == config["classes"].index(label)]
    assert abs(peak(masses) - pole) < width
    assert median[0] < np.median(masses) < median[1]


@needs
def test_physics_of_the_classes(sample):
    arrays, _ = read(sample)
    median = lambda name, k: np.median(feature(arrays, name)[arrays["label"] == k])
    # gluons radiate more by C_A/C_F = 9/4 at the leading order; a fifth more particles is far from a fluctuation of 120
    assert median("multiplicity", 0) > 1.2 * median("multiplicity", 1)
    # two prongs: N2 and D2 are small where there is no third
    for resonance in (2, 3):
        for name in ("n2_b1_mmdt", "d2_b1_mmdt"):
            assert median(name, resonance) < median(name, 0)
    assert median("c2_b1_mmdt", 4) > median("c2_b1_mmdt", 2)


@needs
def test_weights_add_up_to_cross_sections(sample):
    arrays, config = read(sample)
    runs = {run["name"]: run for run in config["runs"]}
    sums = [arrays["weight"][arrays["label"] == k].sum(dtype=float) for k in range(5)]
    # one event has at most two jets of a resonance here, and the range of pT is a little wider in pTHat
    for k, name in ((2, "ww"), (3, "zz"), (4, "ttbar")):
        assert 0.5 < sums[k] / runs[name]["cross_section"] < 2.0
    assert sums[0] + sums[1] < 2.0 * runs["qcd"]["cross_section"]
    assert min(sums[0], sums[1]) > 0.2 * runs["qcd"]["cross_section"]
    # the spectrum that falls like pT^-5 and steeper is in the weights
    hard, soft = arrays["pt"] > 850, arrays["pt"] < 600
    assert (
        arrays["weight"][hard & (arrays["label"] == 0)].mean() < arrays["weight"][soft & (arrays["label"] == 0)].mean()
    )


@needs
def test_jets_of_one_number_are_from_one_collision(sample):
    arrays, config = read(sample)
    assert arrays["event"].max() < sum(run["trials"] for run in config["runs"])
    events, counts = np.unique(arrays["event"], return_counts=True)
    pairs = events[counts == 2]
    assert len(pairs) > 100
    assert counts.max() <= 4
    for event in pairs:
        a, b = np.flatnonzero(arrays["event"] == event)
        # of the same run, and R = 0.8 apart at least
        assert arrays["label"][a] == arrays["label"][b] or max(arrays["label"][[a, b]]) <= 1
        dphi = abs(np.remainder(arrays["phi"][a] - arrays["phi"][b] + np.pi, 2 * np.pi) - np.pi)
        assert np.hypot(arrays["eta"][a] - arrays["eta"][b], dphi) > 0.7


@needs
def test_constituents_make_the_jet(sample):
    arrays, config = read(sample)
    assert set(config["constituents"]["units"]) == {name[12:] for name in arrays if name.startswith("constituent_")}
    pt, phi, energy = (arrays[f"constituent_{name}"].astype(float) for name in ("pt", "phi", "energy"))
    assert pt.shape == (600, 128)
    assert (np.diff(pt, axis=1) <= 0).all()
    filled = pt > 0
    multiplicity = feature(arrays, "multiplicity")
    assert_array_equal(filled.sum(axis=1), np.minimum(multiplicity, 128))
    for name in jets.CONSTITUENTS:
        assert not arrays[f"constituent_{name}"][~filled].any(), name
    whole = multiplicity <= 128
    px, py = (pt * np.cos(phi)).sum(axis=1), (pt * np.sin(phi)).sum(axis=1)
    # sums of a hundred numbers in single precision
    assert_allclose(np.hypot(px, py)[whole], arrays["pt"][whole], rtol=1e-5)
    assert_allclose(energy.sum(axis=1)[whole], arrays["energy"][whole], rtol=1e-5)
    z = pt / pt.sum(axis=1, keepdims=True)
    zlogz = (z * np.log(np.where(filled, z, 1.0))).sum(axis=1)
    assert_allclose(zlogz[whole], feature(arrays, "zlogz")[whole], rtol=1e-5)
    assert not set(np.abs(arrays["constituent_pdg_id"][filled]).tolist()) & {12, 14, 16}


@needs
def test_tracks_of_long_lived_hadrons(sample):
    arrays, _ = read(sample)
    track = (arrays["constituent_charge"] != 0) & (arrays["constituent_pt"] > 1)
    d0, error, true = (arrays[f"constituent_{name}"] for name in ("d0", "d0_error", "d0_true"))
    assert (d0[arrays["constituent_charge"] == 0] == 0).all()
    pulls = (d0 - true)[track] / error[track]
    # normal by construction: thousands of tracks
    assert abs(pulls.mean()) < 5 / np.sqrt(pulls.size)
    assert abs(pulls.std() - 1) < 5 / np.sqrt(2 * pulls.size)
    far = (np.abs(true) > 3 * error) & track
    per_jet = [far[arrays["label"] == k].sum(axis=1).mean() for k in range(5)]
    # the b of a top
    assert per_jet[4] > 2 * per_jet[1]
    assert per_jet[4] > 2 * per_jet[2]


@needs
def test_the_seed_decides(tmp_path):
    paths = [tmp_path / f"{k}.npz" for k in range(3)]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        generate_jets(10, seed=seed, path=path, settings=QUICK, classes="w", constituents=True, progress=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    first, other = read(paths[0])[0], read(paths[2])[0]
    assert not np.array_equal(first["features"], other["features"])


@needs
def test_labels_count_in_the_order_of_the_classes(tmp_path):
    one = generate_jets(7, seed=5, path=tmp_path / "1.npz", settings=QUICK, classes=("W", "quark"), progress=False)
    arrays, config = read(one)
    assert config["classes"] == ["W", "quark"]
    assert sorted(np.bincount(arrays["label"])) == [3, 4]
    assert not [name for name in arrays if name.startswith("constituent_")]
    # quarks of a run where gluons are wanted, too, are the same
    other = generate_jets(6, seed=5, path=tmp_path / "2.npz", settings=QUICK, classes="gqw", progress=False)
    both = [read(path)[0] for path in (one, other)]
    masses = [set(a["mass"][a["label"] == k].tolist()) for a, k in zip(both, (0, 2), strict=True)]
    assert masses[1] < masses[0]
    masses = [set(a["mass"][a["label"] == 1].tolist()) for a in both]
    assert masses[1] <= masses[0]


def test_classes_by_letter_and_by_name():
    assert classes_of("gqwzt") == ("g", "q", "w", "z", "t")
    assert classes_of(["Top", "z", "Gluon"]) == ("t", "z", "g")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"classes": ("gluonn",)}, r"no class of jets is called 'gluonn'; did you mean 'gluon'\?"),
        ({"classes": ("higgs",)}, r"no class of jets is called 'higgs'; there are g \(gluon\), q"),
        ({"classes": ("g", "Gluon")}, "the class 'gluon' is named twice"),
        ({"classes": ()}, "at least one class"),
        ({"n": 4}, "at least that of the classes, 5, got 4"),
        ({"seed": 0}, "from 1 to 900000000, got 0"),
        ({"seed": 900_000_001}, "got 900000001"),
        ({"path": "jets.root"}, r"must end in \.npz"),
    ],
)
def test_bad_arguments(tmp_path, arguments, wanted):
    asked: dict[str, Any] = {"n": 10, "seed": 1, "path": "jets.npz"} | arguments
    asked["path"] = tmp_path / asked["path"]
    with pytest.raises(ValueError, match=rf"^[^\n]*{wanted}[^\n]*$"):
        generate_jets(asked.pop("n"), **asked, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "jets.npz").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        generate_jets(5, seed=1, path=tmp_path / "jets.npz")
    assert (tmp_path / "jets.npz").read_text() == "mine"


@pytest.mark.parametrize(("module", "said"), [("pythia8mc", "Pythia 8"), ("fastjet", "fastjet")])
def test_without_an_optional_part_the_message_names_the_extra(tmp_path, monkeypatch, module, said):
    if module == "fastjet":
        # the one is looked for before the other
        monkeypatch.setattr(jets, "load_pythia", lambda extra: None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{said} is not installed; pip install 'diffhep\[jets\]'"):
        generate_jets(5, seed=1, path=tmp_path / "jets.npz", progress=False)


@needs
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (("Higgs:nonsense = on",), "does not know the setting 'Higgs:nonsense = on'"),
        (("PhaseSpace:pTHatMin = 9000.",), "refuses the settings of ww"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, settings, wanted):
    with pytest.raises(ValueError, match=rf"^[^\n]*{wanted}[^\n]*$"):
        generate_jets(5, seed=1, path=tmp_path / "j.npz", classes="w", settings=settings, progress=False)
    assert list(tmp_path.iterdir()) == []


@needs
def test_trials_are_bounded(tmp_path):
    # a Z to neutrinos leaves no jet
    settings = (*QUICK, "23:onMode = off", "23:onIfAny = 12 14 16")
    with pytest.raises(ValueError, match=r"zz: \d of 20 jets after 50 events, all of max_trials"):
        generate_jets(
            20, seed=1, path=tmp_path / "j.npz", classes="z", settings=settings, max_trials=50, progress=False
        )
    assert list(tmp_path.iterdir()) == []


@needs
def test_the_command(tmp_path, capfd):
    path = tmp_path / "jets.npz"
    words = ["generate", "jets", "-n", "6", "-o", str(path), "--classes", "z", "top", "--seed", "2", "--mpi", "off"]
    assert cli.main([*words, "--json"]) == 0
    captured = capfd.readouterr()
    printed = json.loads(captured.out)
    assert "6/6" in captured.err
    assert printed["counts"] == {"Z": 3, "top": 3}
    arrays, config = read(path)
    assert printed["groomed_mass_median_GeV"]["Z"] == np.median(feature(arrays, "mass_mmdt")[arrays["label"] == 0])
    assert config["settings"] == ["PartonLevel:MPI = off"]
    assert [run["name"] for run in config["runs"]] == ["zz", "ttbar"]
    assert config["runs"][0]["settings"][0] == "Beams:idA = 2212"
    assert config["versions"]["fastjet"].startswith("3.")
    assert config["seed"] == 2
    assert cli.main([*words]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "exists already" in captured.err
    assert cli.main(["generate", "jetz", "-n", "6"]) == 2
    assert "did you mean 'jets'" in capfd.readouterr().err


@pytest.mark.parametrize(("generator", "resumable"), [("jets", False), ("pythia", False), ("geant4", True)])
def test_an_interrupt_promises_no_more_than_there_is(monkeypatch, capsys, generator, resumable):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(command.VERBS, "generate", interrupted)
    assert cli.main(["generate", generator]) == 130
    assert ("--resume" in capsys.readouterr().err) == resumable


def test_every_run_labels_a_class_of_its_own():
    letters = [letter for run in RUNS for letter in run.labels]
    assert sorted(letters) == sorted(jets.CLASSES)
    assert all(isinstance(run, JetRun) and "Beams:eCM = 13000." in run.lines for run in RUNS)
