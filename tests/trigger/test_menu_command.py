"""`diffhep trigger menu`: seeds of every kind from files, the command end to end, and bad input."""

import itertools
import json
import re
import tomllib
from typing import Any

import awkward as ak
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w
import uproot

from diffhep import cli
from diffhep.gates import Hard
from diffhep.inference.asymptotics import asimov_significance
from diffhep.io import shipped
from diffhep.io.root import read_branch
from diffhep.settings import settings_from
from diffhep.trigger.menu_config import AnalysisSettings, MenuSettings
from diffhep.trigger.menu_events import menu_of, read_menu_events, select
from diffhep.trigger.seeds import accepted, margins

MENU = """
[budget]
rate = "0.03 kHz"
event_size = "1.5 MB"
bandwidth = "0.06 GB/s"

[background.jets]
file = "jets"

[signals.higgs]
file = "higgs-diphoton"

[objects.Photon]
most = 2
constant = 0.02

[seeds.Single]
kind = "single"
pt = {start = "100 GeV", low = "40 GeV", high = "300 GeV"}

[seeds.Double]
kind = "double"
pt = [{start = "45 GeV", low = "20 GeV", high = "120 GeV", step = "1 GeV"}, "25 GeV"]
isolation = 0.2

[seeds.Monitor]
kind = "single"
pt = "30 GeV"
prescale = 1000

[search]
starts = 1
front = 2
safety = 0.5
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("menu")
    (folder / "menu.toml").write_text(MENU)
    assert cli.main(["trigger", "menu", str(folder / "menu.toml"), "-o", str(folder / "out")]) == 0
    return folder / "out", json.loads((folder / "out" / "result.json").read_text())


def test_the_command_finds_thresholds_within_the_budget(run):
    folder, result = run
    figures = {file.name for file in (folder / "figures").iterdir()}
    assert figures == {"rates.png", "overlap.png", "turn_on_higgs_Photon.png", "front.png"}
    assert tomllib.loads((folder / "config.toml").read_text()) == tomllib.loads(MENU)
    assert result["budget"]["limit"] == 30.0
    assert result["budget"]["binding"] == "rate"
    stages = result["stages"]
    # half a standard error, of 10 to 25 %, is kept in hand
    target = result["budget"]["target"]
    assert 30 / 1.13 < target < 30 / 1.04
    for stage in ("after", "snapped"):
        assert stages[stage]["design"]["rate"]["value"] <= target * (1 + 1e-12)
    assert stages["after"]["design"]["objective"]["value"] > 0.9
    assert result["budget"]["held"]
    held_out = stages["snapped"]["held_out"]
    assert held_out["bandwidth"]["value"] == pytest.approx(1.5 * held_out["rate"]["value"])
    assert abs(held_out["rate"]["value"] - target) < 3 * result["budget"]["excess"]["stderr"]
    by_name = {row["name"]: row for row in result["thresholds"]}
    assert by_name["Double.pt[0]"]["snapped"] % 1 == 0
    assert by_name["Single.pt"]["snapped"] % 0.5 == 0
    assert by_name["Double.pt[1]"] == {
        "name": "Double.pt[1]", "unit": "GeV", "fixed": True, "below": False,
        "before": 25.0, "after": 25.0, "snapped": 25.0,
    }  # fmt: skip


def test_the_rates_of_the_result_hang_together(run):
    for halves in run[1]["stages"].values():
        for found in halves.values():
            rates = [seed["rate"]["value"] for seed in found["seeds"].values()]
            pure = [seed["pure"]["value"] for seed in found["seeds"].values()]
            total = found["rate"]["value"]
            assert max(rates) <= total * (1 + 1e-12)
            assert total <= sum(rates) * (1 + 1e-12)
            assert all(p <= r for p, r in zip(pure, rates, strict=True))
            assert np.diag(found["overlap"]["value"]) == pytest.approx(rates)
    curves = run[1]["turn_on"]["higgs"]["Photon"]["curves"]
    menu = np.array(curves["menu"]["value"], float)
    assert np.all(menu >= np.array(curves["Single"]["value"], float) - 1e-12)
    # the efficiency of everything rises from nothing to all events
    assert menu[0] < 0.1
    assert np.nanmean(menu[-5:]) > 0.95


def test_json_and_another_budget_from_a_written_configuration(run, tmp_path, capsys):
    folder, first = run
    values = tomllib.loads((folder / "config.toml").read_text())
    # nothing moves: rates alone
    values["seeds"] = {"Double": {"kind": "double", "pt": ["45 GeV", "25 GeV"], "isolation": 0.2}}
    (tmp_path / "fixed.toml").write_text(tomli_w.dumps(values))
    args = ["trigger", "menu", str(tmp_path / "fixed.toml"), "-o", str(tmp_path / "out"), "--json"]
    assert cli.main([*args, "--rate-budget", "1 kHz"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["stages"]) == ["before"]
    assert found["search"] is None
    assert found["budget"]["rate"] == 1000.0
    # 60 MB/s of 1.5 MB
    assert found["budget"]["limit"] == pytest.approx(40.0)
    assert found["budget"]["binding"] == "bandwidth"
    both = found["stages"]["before"], first["stages"]["before"]
    assert both[0]["held_out"]["rate"] == both[1]["held_out"]["seeds"]["Double"]["rate"]
    assert tomllib.loads((tmp_path / "out" / "config.toml").read_text())["budget"]["rate"] == "1 kHz"


# --- the significance of an analysis ---

ANALYSIS = """
[analysis]
luminosity = "139 1/fb"
low = "105 GeV"
high = "145 GeV"
bins = 4
pt = ["35 GeV", "25 GeV"]
eta = 2.5
uncertainty = 0.05

[analysis.backgrounds.diphoton]
file = "diphoton"
"""


def selected_mass(name):
    """Mass and expected events of what an analysis of two photons selects, by awkward arrays."""
    source: Any = uproot.open(shipped(name))
    table, runs = source["Events"].arrays(), source["Runs"].arrays()
    source.close()
    photons = ak.zip({key: table[f"Photon_{key}"] for key in ("pt", "eta", "phi")})
    order = ak.argsort(photons.pt, ascending=False)
    two = ak.num(photons) >= 2
    first, second = (photons[order][two][:, i] for i in range(2))
    mass = np.sqrt(2 * first.pt * second.pt * (np.cosh(first.eta - second.eta) - np.cos(first.phi - second.phi)))
    cuts = (first.pt > 35) & (second.pt > 25) & (abs(first.eta) < 2.5) & (abs(second.eta) < 2.5)
    scale = 139e3 * ak.sum(runs["crossSection"]) / ak.sum(runs["genEventSumw"])
    return np.asarray(mass[cuts], float), np.asarray(table["genWeight"][two][cuts], float) * float(scale)


def test_thresholds_for_the_significance_of_an_analysis(tmp_path, capsys):
    (tmp_path / "menu.toml").write_text(MENU + ANALYSIS)
    assert cli.main(["trigger", "menu", str(tmp_path / "menu.toml"), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "after    significance" in printed
    assert "significance of everything that the analysis selects" in printed
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["objective"] == "significance"
    before, after = (result["stages"][name]["design"] for name in ("before", "after"))
    assert after["objective"]["value"] > before["objective"]["value"]
    assert after["rate"]["value"] <= result["budget"]["target"] * (1 + 1e-12)
    # both halves stand for all events: what they select is what the files hold, within the errors of dividing them
    values = {name: selected_mass(name) for name in ("higgs-diphoton", "diphoton")}
    edges = np.linspace(105, 145, 5)
    counts = {name: np.histogram(mass, edges, weights=weight)[0] for name, (mass, weight) in values.items()}
    for name, row in (("higgs", "higgs-diphoton"), ("diphoton", "diphoton")):
        halves = [result["stages"]["after"][half]["selected"][name] for half in ("design", "held_out")]
        assert np.mean([half["all"]["value"] for half in halves]) == pytest.approx(counts[row].sum(), rel=1e-3)
        assert all(0 < half["kept"]["value"] <= half["all"]["value"] for half in halves)
    b = counts["diphoton"]
    whole = float(asimov_significance(counts["higgs-diphoton"], b, (0.05 * b) ** 2))
    for half in ("design", "held_out"):
        assert result["stages"]["after"][half]["without_trigger"] == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bins = 4", "bins = 400", r"GeV has \d+ events of the background to optimise with, at least 20 are wanted"),
        ('high = "145 GeV"', 'high = "90 GeV"', "analysis: wanted low < high, got 105 and 90 GeV"),
        ('luminosity = "139 1/fb"', 'luminosity = "139 GeV"', "analysis.luminosity: '139 GeV' is not in"),
        ('object = "Photon"', 'object = "Muon"', "has no branch Muon_pt"),
        ("[analysis.backgrounds.diphoton]", "[analysis.backgrounds.higgs]", "a signal has this name already"),
        ('file = "higgs-diphoton"', 'file = "higgs-diphoton"\nweight = 2', "signals.higgs.weight: an analysis counts"),
    ],
)
def test_an_analysis_that_cannot_be_made(old, new, words, tmp_path, capsys):
    text = MENU + ANALYSIS.replace("low =", 'object = "Photon"\nlow =')
    assert old in text
    (tmp_path / "menu.toml").write_text(text.replace(old, new))
    assert cli.main(["trigger", "menu", str(tmp_path / "menu.toml"), "-o", str(tmp_path / "out")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffhep:")]
    assert len(lines) == 1
    assert re.search(words, lines[0])
    assert not (tmp_path / "out").exists()


# --- seeds of every kind ---


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Events with photons, jets, missing momentum and a score."""
    rng, events = np.random.default_rng(0), 300
    branches = {}
    for name, most in (("Photon", 4), ("Jet", 3)):
        counts = rng.integers(0, most + 1, events)
        flat = {
            "pt": rng.uniform(10, 80, counts.sum()),
            "eta": rng.uniform(-3, 3, counts.sum()),
            "phi": rng.uniform(-3, 3, counts.sum()),
            "pfRelIso03_all": rng.exponential(0.2, counts.sum()),
            "score": rng.uniform(0, 1, counts.sum()),
        }
        branches[name] = ak.zip({key: ak.unflatten(value, counts) for key, value in flat.items()})
    branches |= {"MET_pt": rng.uniform(0, 90, events), "AXO_score": rng.normal(0, 1, events)}
    path = tmp_path_factory.mktemp("events") / "events.root"
    with uproot.recreate(path) as out:
        kinds = {k: v.dtype if isinstance(v, np.ndarray) else v.type.content for k, v in branches.items()}
        out.mktree("Events", kinds).extend(branches)
    return path


SEEDS = {
    "single": {"pt": "40 GeV", "eta": 2.0},
    "double": {"pt": ["45 GeV", "30 GeV"], "isolation": 0.3},
    "cross": {"objects": ["Photon", "Jet"], "pt": ["35 GeV", "50 GeV"], "eta": 2.5},
    "mass": {"pt": ["20 GeV", "15 GeV"], "mass": "90 GeV"},
    "isolation": {"pt": "30 GeV", "isolation": 0.1},
    "score": {"branch": "AXO_score", "score": 0.7},
}
OTHERS = {
    "missing": {"kind": "single", "object": "MET", "pt": "60 GeV"},
    "photon": {"kind": "score", "object": "Photon", "branch": "score", "score": 0.2, "below": True, "pt": "50 GeV"},
}


def passes(name, events):
    """What a seed is to accept, object by object."""
    photons, jets = events["Photon"], events["Jet"]

    def mass(a, b):
        return np.sqrt(2 * a["pt"] * b["pt"] * (np.cosh(a["eta"] - b["eta"]) - np.cos(a["phi"] - b["phi"])))

    pairs = [sorted(pair, key=lambda p: -p["pt"]) for pair in itertools.combinations(photons, 2)]
    return {
        "single": any(p["pt"] > 40 and abs(p["eta"]) < 2 for p in photons),
        "double": any(
            a["pt"] > 45 and b["pt"] > 30 and max(a["pfRelIso03_all"], b["pfRelIso03_all"]) < 0.3 for a, b in pairs
        ),
        "cross": any(
            p["pt"] > 35 and j["pt"] > 50 and max(abs(p["eta"]), abs(j["eta"])) < 2.5 for p in photons for j in jets
        ),
        "mass": any(a["pt"] > 20 and b["pt"] > 15 and mass(a, b) > 90 for a, b in pairs),
        "isolation": any(p["pt"] > 30 and p["pfRelIso03_all"] < 0.1 for p in photons),
        "score": events["AXO_score"] > 0.7,
        "missing": events["MET_pt"] > 60,
        "photon": any(p["pt"] > 50 and p["score"] < 0.2 for p in photons),
    }[name]


def moving(value):
    """The same threshold as one to be optimised."""
    if isinstance(value, list):
        return [moving(v) for v in value]
    if isinstance(value, str):
        number, unit = value.split()
        return {"start": value, "low": "1 GeV", "high": f"{2 * float(number)} {unit}"}
    return {"start": value, "low": -1.0, "high": 5.0}


@pytest.mark.parametrize("adjustable", [False, True])
def test_seeds_of_every_kind_accept_what_they_say(file, adjustable):
    seeds = {kind: {"kind": kind, **given} for kind, given in SEEDS.items()} | OTHERS
    if adjustable:
        cuts = ("pt", "mass", "isolation", "score")
        seeds = {name: {k: moving(v) if k in cuts else v for k, v in s.items()} for name, s in seeds.items()}
    values = {
        "budget": {"rate": "1 Hz"},
        "background": {"b": {"file": str(file)}},
        "signals": {"s": {"file": str(file)}},
        "seeds": seeds,
    }
    settings = settings_from(MenuSettings, values, source="test")
    menu = menu_of(settings)
    assert len(menu.cuts) == (15 if adjustable else 0)
    events = read_menu_events(settings, str(file), {"cross_section": None, "rate": 4e7})
    assert events.weight.sum() == pytest.approx(4e7)
    found = np.asarray(margins(menu, jnp.asarray(menu.start), events.seeds)) > 0
    source: Any = uproot.open(file)
    table = source["Events"].arrays()
    source.close()
    for i, row in enumerate(table):
        event = {"MET_pt": row["MET_pt"], "AXO_score": row["AXO_score"]}
        for kind in ("Photon", "Jet"):
            names = ("pt", "eta", "phi", "pfRelIso03_all", "score")
            event[kind] = [
                dict(zip(names, o, strict=True)) for o in zip(*(row[f"{kind}_{n}"] for n in names), strict=True)
            ]
        expected = [passes(name, event) for name in seeds]
        assert found[:, i].tolist() == expected, i
    kept = accepted(jnp.where(found, 1.0, -1.0), menu.prescales, Hard())
    assert np.asarray(kept).tolist() == found.any(axis=0).tolist()


def test_thresholds_of_every_kind_have_a_slope(file):
    seeds = {kind: {"kind": kind, **{k: moving(v) if k in ("pt", "mass", "isolation", "score") else v
                                     for k, v in given.items()}} for kind, given in SEEDS.items()}  # fmt: skip
    values = {
        "budget": {"rate": "1 Hz"},
        "background": {"b": {"file": str(file)}},
        "signals": {"s": {"file": str(file)}},
        "seeds": seeds,
    }
    settings = settings_from(MenuSettings, values, source="test")
    menu, events = menu_of(settings), read_menu_events(settings, str(file))
    soft = lambda t: jnp.sum(jax.nn.sigmoid(margins(menu, t, events.seeds)))
    slope = np.asarray(jax.grad(soft)(jnp.asarray(menu.start)))
    signs = np.array([cut.sign for cut in menu.cuts])
    # a tighter cut accepts less
    assert np.all(signs * slope < 0)


def test_a_histogram_of_what_has_nothing_but_a_pt(file):
    given = {"luminosity": "1 1/pb", "object": "MET", "observable": "pt", "low": "20 GeV", "high": "80 GeV", "bins": 3}
    given |= {"pt": ["30 GeV"], "backgrounds": {"b": {"file": str(file)}}}
    found = select(settings_from(AnalysisSettings, given, source="test"), str(file), 600.0)
    pt = read_branch(file, "MET_pt")
    inside = (pt > 30) & (pt < 80)
    # 300 events stand for 600
    assert found.expected.tolist() == np.where(inside, 2.0, 0.0).tolist()
    assert found.bin[inside].tolist() == np.floor((pt[inside] - 20) / 20).astype(int).tolist()


def test_one_number_an_event(file):
    assert read_branch(file, "AXO_score").shape == (300,)
    with pytest.raises(ValueError, match="no branch AXO_scor; nearest: AXO_score"):
        read_branch(file, "AXO_scor")
    with pytest.raises(ValueError, match="Photon_pt holds a list for each event, wanted one number"):
        read_branch(file, "Photon_pt")


# --- bad input ---

BAD = {
    "irreducible": ('prescale = 1000', 'prescale = 1', "budget: 30 Hz is below the irreducible rate: the fixed seeds "
                    "(Monitor) use"),
    "kind": ('kind = "double"', 'kind = "triple"', "seeds.Double: Input tag 'triple' found using 'kind' does"),
    "no kind": ('kind = "double"\n', '', "seeds.Double: Unable to extract tag using discriminator 'kind'"),
    "key": ('prescale = 1000', 'prescal = 1000', "seeds.Monitor.single.prescal: Extra inputs are not permitted"),
    "unit": ('pt = "30 GeV"', 'pt = 30', "seeds.Monitor.single.pt: 30 has no unit, wanted '30 GeV'"),
    "wrong unit": ('"30 GeV"', '"30 mm"', "'30 mm' is not in GeV"),
    "no unit of a bound": ('low = "40 GeV"', 'low = 40', "40 has no unit, wanted '40 GeV'"),
    "no rate": ('rate = "0.03 kHz"\n', '', "budget.rate: Field required"),
    "rate": ('rate = "0.03 kHz"', 'rate = "30 GeV"', "budget.rate: '30 GeV' is not in Hz"),
    "one bound": ('low = "40 GeV", ', '', "low and high go together"),
    "start": ('start = "100 GeV"', 'start = "10 GeV"', "wanted low < start < high, got 40, 10 and 300"),
    "prescale": ('prescale = 1000', 'prescale = 0', "prescale: Input should be greater than or equal to 1"),
    "size": ('event_size = "1.5 MB"\n', '', "a bandwidth budget needs event_size"),
    "no file": ('file = "jets"', 'file = "none.root"', "none.root: no such file"),
    "branch": ('isolation = 0.2', 'isolation = 0.2\nobject = "Muon"', "has no branch Muon_pt"),
    "toml": ('[budget]', '[budget', "not valid TOML"),
    "weights": ('file = "higgs-diphoton"', 'file = "higgs-diphoton"\nweight = 0', "at least one weight must be above"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(old, new, words, tmp_path, capsys):
    assert old in MENU
    (tmp_path / "menu.toml").write_text(MENU.replace(old, new))
    assert cli.main(["trigger", "menu", str(tmp_path / "menu.toml"), "-o", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("diffhep:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_a_run_is_refused_at_once(run, tmp_path, capsys):
    folder, _ = run
    before = (folder / "result.json").read_bytes()
    assert cli.main(["trigger", "menu", str(folder / "config.toml"), "-o", str(folder)]) == 2
    assert "already holds a run; choose another folder" in capsys.readouterr().err
    assert (folder / "result.json").read_bytes() == before
    assert cli.main(["trigger", "menu", str(tmp_path / "none.toml"), "-o", str(tmp_path / "x")]) == 2
    assert "none.toml: cannot be read" in capsys.readouterr().err
