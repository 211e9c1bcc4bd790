"""Collisions with all objects of a trigger: processes, weights, pile-up, objects, and bad input."""

import json

import numpy as np
import pytest

from diffhep import cli
from diffhep.generate.collisions import MOST, generate_collisions, objects_of, padded
from diffhep.generate.processes import COLLISIONS
from diffhep.io import read_sample

QUICK = ("PartonLevel:MPI = off",)


def make(process, n, path, *, settings=QUICK, seed=1, **options):
    return generate_collisions(process, n, path=path, settings=settings, seed=seed, progress=False, **options)


def collection(path, name, most=10):
    return read_sample(path, collection=name, max_objects=most)


@pytest.mark.parametrize("process", [p for p in COLLISIONS if p != "minimum-bias"])
@pytest.mark.needs("pythia8mc", "fastjet")
def test_every_event_is_kept(process, tmp_path):
    path = make(process, 10, tmp_path / "s.root")
    sample = collection(path, "Jet")
    assert sample.events.size == sample.n_generated == 10
    assert sample.process == process
    assert float(np.asarray(sample.expected(1.0).weight).sum()) == pytest.approx(sample.cross_section, rel=1e-5)
    for name, (low, eta) in {"Jet": (8.0, 5.0), "EG": (2.0, 2.5), "Muon": (2.0, 2.4)}.items():
        events = collection(path, name).events
        there = np.asarray(events.mask)
        # a jet's axis may lie a little further out than its particles
        assert (np.abs(np.asarray(events["eta"]))[there] < eta + 0.5).all()
        assert (np.asarray(events["pt"])[there] > low).all()
    missing = read_sample(path, collection="MET", fields=("pt", "phi", "sumEt"), max_objects=1).events
    assert (np.asarray(missing["sumEt"]) >= np.asarray(missing["pt"])).all()


@pytest.fixture(scope="module")
def soft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    # multiparton interactions are what makes these collisions
    return make("minimum-bias", 150, folder / "a.root", settings=()), folder


@pytest.mark.needs("pythia8mc", "fastjet")
def test_minimum_bias_is_one_sample_of_soft_and_hard_collisions(soft):
    sample = collection(soft[0], "Jet")
    runs = sample.metadata["runs"]
    assert [run["kept"] for run in runs] == [90, 60]
    # the cross-section of all non-diffractive collisions, of which one in a hundred is hard
    assert sample.cross_section == pytest.approx(5.7e10, rel=0.05)
    assert 0.003 < runs[1]["cross_section"] / sample.cross_section < 0.03
    weight, hardest = np.asarray(sample.events.weight), np.asarray(sample.events["pt"])[:, 0]
    assert weight.sum() == pytest.approx(sample.cross_section, rel=1e-5)
    light = weight < weight.max() / 5
    assert light.sum() == 60
    assert hardest[light].mean() > 3 * hardest[~light].mean()


@pytest.mark.needs("pythia8mc", "fastjet")
def test_pile_up_adds_to_an_event_and_the_seed_decides(soft, tmp_path):
    paths = [make("ttbar", 5, tmp_path / f"{k}.root", pile_up=mean) for k, mean in enumerate((0.0, 3.0, 3.0))]
    sums = [
        np.asarray(read_sample(p, collection="MET", fields=("pt", "sumEt"), max_objects=1).events["sumEt"])
        for p in paths
    ]
    assert (sums[1] == sums[2]).all()
    # the same hard collisions underneath
    assert (sums[1] >= sums[0] - 1e-3).all()
    assert sums[1].sum() > sums[0].sum()
    assert collection(paths[1], "Jet").metadata["pile_up"] == 3.0


def test_the_hardest_objects_are_kept_in_order():
    event, pt = np.array([2, 0, 2, *[1] * 20]), np.array([5.0, 9.0, 7.0, *range(1, 21)])
    found = padded(event, np.stack([pt, pt, pt], axis=1), 4, 4.5)
    assert found[0, :2, 0].tolist()[0] == 9
    assert found[2, :2, 0].tolist() == [7, 5]
    assert found[1, :, 0].tolist() == [*range(20, 20 - MOST, -1)]
    assert np.isnan(found[3]).all()


@pytest.mark.needs("fastjet")
def test_objects_of_a_made_up_event():
    # a muon, a neutrino, a photon and a pion back to back; and an event of a neutrino alone
    event, pdg = np.array([0, 0, 0, 0, 1]), np.array([13, 12, 22, 211, 12])
    momentum = np.array([[9.0, 0, 0, 9], [5, 0, 0, 5], [0, 30, 0, 30], [0, -20, 0, 20.0], [3, 0, 0, 3]])
    found, missing = objects_of((event, pdg, np.ones(5, int), momentum), 2)
    assert found["Muon"][0, 0].tolist() == pytest.approx([9, 0, 0])
    assert found["EG"][0, 0].tolist() == pytest.approx([30, 0, np.pi / 2])
    assert found["Jet"][0, :2, 0].tolist() == pytest.approx([30, 20])
    assert missing[0].tolist() == pytest.approx([10, -np.pi / 2, 50])
    assert missing[1, [0, 2]].tolist() == [0, 0]
    assert all(np.isnan(objects[1]).all() for objects in found.values())


@pytest.mark.needs("pythia8mc", "fastjet")
def test_the_command_makes_them(tmp_path, capsys):
    words = ["ttbar", "-n", "3", "-o", str(tmp_path / "t.root"), "--setting", *QUICK, "--json"]
    assert cli.main(["generate", "pythia", *words]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ttbr"], "unknown process 'ttbr'; did you mean 'ttbar'?"),
        (["diphoton", "--pile-up", "3"], "--pile-up: is for the processes that keep all events: minimum-bias"),
        (["ttbar", "--pile-up", "-1"], "pile_up wants a mean number of collisions from 0 to 200, got -1.0"),
        (["ttbar", "--seed", "0"], "the seed must be from 1 to 900000000, got 0"),
    ],
)
def test_bad_requests_get_one_line(words, message, tmp_path, capsys):
    assert cli.main(["generate", "pythia", *words, "-n", "3", "-o", str(tmp_path / "t.root")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.root").exists()
