"""Pythia 8: normalisation, reproducibility, and every way to ask for the wrong thing."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffhep.generate import PROCESSES, generate
from diffhep.io import read_sample

FIELDS = ("pt", "eta", "phi", "hoe", "emFrac1", "emFrac2", "emFrac3", "genPartFlav")
QUICK = ("PartonLevel:MPI = off",)
EASY = ("PhaseSpace:pTHatMin = 60.", "PartonLevel:ISR = off")

installed = pytest.mark.needs("pythia8mc")


def make(process, n, path, *, settings=QUICK, seed=1, **options):
    generate(process, n, path=path, settings=settings, seed=seed, progress=False, **options)
    return read_sample(path, fields=FIELDS)


@pytest.fixture(scope="module", params=PROCESSES)
def sample(request, tmp_path_factory):
    settings = (*QUICK, *EASY) if request.param == "jets" else QUICK
    return make(request.param, 30, tmp_path_factory.mktemp("pythia") / f"{request.param}.root", settings=settings)


@installed
def test_thirty_events(sample):
    e = sample.events
    assert e.size == 30
    assert bool(e.mask.all())
    assert float(e["pt"][:, 0].min()) > 16.0
    assert float(e["pt"][:, 1].min()) > 12.0
    assert float(abs(e["eta"]).max()) < 2.5
    assert float(e["hoe"].max()) <= np.float32(0.3)
    assert_array_equal(e["emFrac1"] + e["emFrac2"] + e["emFrac3"], np.ones((30, 2)))
    assert sample.process in PROCESSES
    assert sample.n_generated >= 30
    assert 0 < float(sample.expected(1.0).weight.sum()) <= sample.cross_section
    assert sample.metadata["runs"][0]["settings"][0] == "Beams:idA = 2212"


@installed
def test_flavours(sample):
    prompt = np.asarray(sample.events["genPartFlav"]).mean()
    # the nine events of photon and jet have one prompt photon in two, the others none
    low, high = {"jets": (0.05, 0.3)}.get(sample.process, (0.85, 1.0))
    assert low <= prompt <= high


@installed
def test_the_seed_decides(tmp_path):
    first, again, other = (make("diphoton", 10, tmp_path / f"{i}.root", seed=s).events for i, s in enumerate((5, 5, 6)))
    for name in FIELDS:
        assert_array_equal(first[name], again[name])
    assert_array_equal(first.weight, again.weight)
    assert not np.array_equal(first["pt"], other["pt"])


@installed
def test_a_biased_run_has_the_rate_of_an_unbiased_one(tmp_path):
    biased = ("PhaseSpace:bias2Selection = on", "PhaseSpace:bias2SelectionPow = 3.")
    rates = []
    for k, settings in enumerate((QUICK, (*QUICK, *biased))):
        sample = make("diphoton", 500, tmp_path / f"{k}.root", settings=settings, seed=9)
        events = sample.expected(1.0)
        run = sample.metadata["runs"][0]
        for cut in (16.0, 45.0):
            w = np.asarray(events.weight)[np.asarray(events["pt"][:, 0]) > cut]
            rates.append(
                (w.sum(), np.hypot(np.sqrt((w**2).sum()), w.sum() * run["cross_section_error"] / run["cross_section"]))
            )
    assert np.ptp(np.asarray(events.weight)) > 0  # the second run is weighted indeed
    for (a, da), (b, db) in zip(rates[:2], rates[2:], strict=True):
        assert abs(a - b) < 4 * np.hypot(da, db)
        assert np.hypot(da, db) < 0.2 * a  # a test that can fail


@installed
def test_nothing_on_standard_output(tmp_path, capfd):
    make("diphoton", 3, tmp_path / "s.root")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@installed
def test_the_bar_is_on_standard_error(tmp_path, capfd):
    generate("diphoton", 2, seed=1, path=tmp_path / "s.root", settings=QUICK)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


@installed
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (("Higgs:nonsense = on",), "does not know the setting 'Higgs:nonsense = on'"),
        (("PhaseSpace:mHatMin = 20000.", "PhaseSpace:mHatMax = 30000."), "refuses the settings of diphoton"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, settings, wanted):
    with pytest.raises(ValueError, match=rf"^[^\n]*{wanted}[^\n]*$"):
        make("diphoton", 1, tmp_path / "s.root", settings=settings)
    assert list(tmp_path.iterdir()) == []


@installed
def test_trials_are_bounded(tmp_path):
    with pytest.raises(ValueError, match=r"0 of 5 events after 20 trials; .* 900\.0 and 800\.0 GeV"):
        make("diphoton", 5, tmp_path / "s.root", max_trials=20, pt_min=(900.0, 800.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"process": "diphotons"}, "'diphotons'; did you mean 'diphoton'"),
        ({"n": 0}, "at least 1, got 0"),
        ({"seed": 0}, "from 1 to 900000000, got 0"),
        ({"seed": 900_000_001}, "got 900000001"),
        ({"pt_min": (10.0, 20.0)}, "leading >= subleading > 0 GeV, got 10.0 and 20.0 GeV"),
        ({"pt_min": (10.0, 0.0)}, "> 0 GeV"),
    ],
)
def test_bad_arguments(tmp_path, arguments, wanted):
    asked = {"process": "diphoton", "n": 1, "seed": 1, "path": tmp_path / "s.root"} | arguments
    with pytest.raises(ValueError, match=wanted):
        generate(asked.pop("process"), asked.pop("n"), **asked)


def test_an_existing_file_is_kept(tmp_path):
    (tmp_path / "s.root").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        generate("diphoton", 1, seed=1, path=tmp_path / "s.root")
    assert (tmp_path / "s.root").read_text() == "mine"


def test_without_pythia_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(ValueError, match=r"pip install 'diffhep\[pythia\]'"):
        generate("diphoton", 1, seed=1, path=tmp_path / "s.root", progress=False)
