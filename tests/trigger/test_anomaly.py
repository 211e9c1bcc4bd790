"""The anomaly trigger: exact scores, thresholds within a rate, the level-1 inputs, training, the command, bad input."""

import json

import awkward as ak
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from diffhep import cli
from diffhep.io import RunFolder
from diffhep.settings import settings_from
from diffhep.trigger import Words
from diffhep.trigger.anomaly import AnomalyTrigger, check_score
from diffhep.trigger.anomaly_config import AnomalyTraining
from diffhep.trigger.anomaly_training import compared, first_autoencoder, fit_anomaly, read_events, with_threshold
from diffhep.trigger.level1 import INPUTS, NAMES, hardware_units, read_level1, seed_quantities, there, threshold_for
from tests.trigger.test_learned import FORMAT, differences, network

KINDS = {"EG": 3, "Muon": 2, "Jet": 6}


def trigger(seed, *, wrap=True, threshold=1.0):
    made, _ = network((6, 7, 5, 3), seed=seed, wrap=wrap)
    return AnomalyTrigger(made.frozen(), threshold)


def write(path, events=600, *, seed=0, scale=1.0, muons=True, **changed):
    """A file of collisions, harder by some factor, with a branch replaced where one is named."""
    rng = np.random.default_rng(seed)
    branches = {
        "MET_pt": rng.exponential(8.0 * scale, events),
        "MET_phi": rng.uniform(-np.pi, np.pi, events),
        "MET_sumEt": rng.exponential(100.0, events),
        "genWeight": np.ones(events),
    }
    for kind, most in KINDS.items():
        counts = rng.integers(0, most + 1, events) * (muons or kind != "Muon")
        flat = {"pt": rng.exponential(12.0 * scale, counts.sum()), "eta": rng.uniform(-2.4, 2.4, counts.sum())}
        flat["phi"] = rng.uniform(-np.pi, np.pi, counts.sum())
        branches |= {f"{kind}_{name}": ak.unflatten(x, counts) for name, x in flat.items()}
    for name, change in changed.items():
        branches[name] = change(branches[name])
    with uproot.recreate(path) as file:
        types = {
            k: v.dtype if isinstance(v, np.ndarray) else v.type.content for k, v in branches.items() if v is not None
        }
        tree = file.mktree("Events", types)
        if events:
            tree.extend({k: v for k, v in branches.items() if v is not None})
    return path


# the score ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.booleans(), st.integers(0, 1000))
def test_the_score_equals_integers(seed, wrap, drawn):
    made = trigger(seed, wrap=wrap)
    x = np.ldexp(np.random.default_rng(drawn).normal(size=(50, 6)) * 4, range(6))
    codes = made.integers(x)
    assert codes.dtype == np.int64
    assert (codes * made.lsb == np.asarray(eqx.filter_jit(made)(x))).all()
    again = AnomalyTrigger.from_dict(json.loads(json.dumps(made.to_dict())))
    assert (again.integers(x) == codes).all()
    assert again.lsb == made.lsb


@pytest.mark.needs("da4ml")
@pytest.mark.parametrize("wrap", [True, False])
def test_score_and_decision_are_the_same_as_logic(wrap):
    made = trigger(3, wrap=wrap, threshold=2.0)
    different, outputs = differences(made.decision, Words((6,), FORMAT))
    assert (different, outputs) == (0, 4000)


@given(st.integers(0, 5), st.integers(0, 2), st.floats(0.05, 8.0))
def test_fewer_bits_decide_the_same(seed, headroom, threshold):
    made = trigger(seed, wrap=False)
    made = AnomalyTrigger(made.encoder, float(np.ceil(threshold / made.lsb) * made.lsb))
    few = made.limited(headroom)
    words = made.encoder.words(np.ldexp(np.random.default_rng(seed).normal(size=(300, 6)) * 4, range(6)))
    before, after = np.asarray(made.score(words)), np.asarray(few.score(words))
    assert ((before > made.threshold) == (after > made.threshold)).all()
    below = before <= made.threshold * 4**headroom
    assert (before[below] == after[below]).all()
    assert (np.asarray(few.encoder.layers[-1].output.bits()) <= np.asarray(made.encoder.layers[-1].output.bits())).all()
    with pytest.raises(ValueError, match="words that wrap cannot be limited"):
        trigger(seed).limited(headroom)


def test_scores_too_wide_to_be_exact_and_bad_thresholds_are_refused():
    made = trigger(0).encoder
    wide = eqx.tree_at(lambda net: net.layers[-1].output.f, made, jnp.array([0.0, 26.0, 3.0]))
    with pytest.raises(ValueError, match=r"a score may need \d+ bits, at most 53 are exact"):
        check_score(wide)
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="a finite threshold of at least 0 wanted"):
            AnomalyTrigger(made, threshold)


# thresholds -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_threshold_keeps_as_much_as_the_rate_allows_and_no_more(values, share, seed):
    values = np.array(values)
    rate = np.random.default_rng(seed).uniform(0.1, 2.0, len(values))
    budget = share * rate.sum()
    cut = threshold_for(values, rate, budget)
    assert cut in values
    assert rate[values > cut].sum() <= budget
    assert rate[values >= cut].sum() > budget * (1 - 1e-9)


@pytest.mark.parametrize("budget", [0.0, 3.0, 5.0, float("nan")])
def test_rates_that_no_threshold_has_are_refused(budget):
    with pytest.raises(ValueError, match="wanted above 0 and below that of all events, 3 Hz"):
        threshold_for(np.arange(3), np.ones(3), budget)


# inputs ---------------------------------------------------------------------------------------------------------------


def test_hardware_units_saturate_wrap_and_leave_nothing_of_what_is_not_there():
    pt = np.array([[5000.0, 0.4, 10.0, 7.9]])
    eta, phi = np.array([[9.0, 1.0, -9.0, 0.02]]), np.array([[3.2, 1.0, -3.2, 0.0]])
    found = hardware_units(pt, eta, phi, np.array([[True, True, True, False]]))
    assert found[0].tolist() == [[2047, 127, -71], [0, 0, 0], [20, -127, 71], [0, 0, 0]]


def test_inputs_are_the_hardest_objects_in_order(tmp_path):
    settings = AnomalyTraining().objects
    events = read_level1(write(tmp_path / "a.root"), settings, seed=1)
    assert events.features.shape == (600, INPUTS) == (600, len(NAMES)) == (600, 57)
    assert (events.features == np.rint(events.features)).all()
    assert events.share.sum() == pytest.approx(1)
    objects = events.features.reshape(600, 19, 3)
    for first, last in ((1, 5), (5, 9), (9, 19)):
        assert (np.diff(objects[:, first:last, 0]) <= 0).all()
    assert (objects[:, 0, 1] == 0).all()
    seeds = seed_quantities(events.features)
    assert (seeds["single jet"] == objects[:, 9, 0]).all()
    assert (seeds["HT"] == (objects[:, 9:, 0] * (objects[:, 9:, 0] >= 60)).sum(axis=1)).all()
    assert (seeds["double e/gamma"] == objects[:, 2, 0]).all()
    assert (seeds["single muon"] == objects[:, 5, 0]).all()
    # the seed of the resolution decides
    assert events.sha256 == read_level1(tmp_path / "a.root", settings, seed=1).sha256
    assert events.sha256 != read_level1(tmp_path / "a.root", settings, seed=2).sha256


def test_events_without_muons_are_events(tmp_path):
    events = read_level1(write(tmp_path / "a.root", muons=False), AnomalyTraining().objects, seed=1)
    assert (events.features[:, 15:27] == 0).all()
    assert not np.asarray(there(events.features))[:, 16].any()


def spoilt(value, entry=5):
    def change(array):
        if isinstance(array, np.ndarray):
            return np.where(np.arange(len(array)) == entry, value, array)
        counts, flat = ak.num(array), ak.to_numpy(ak.flatten(array)).copy()
        flat[0] = value
        return ak.unflatten(flat, counts)

    return change


BAD_FILES = {
    "nan": ({"Jet_pt": spoilt(np.nan)}, "branch Jet_pt is nan"),
    "negative": ({"EG_pt": spoilt(-3.0)}, r"branch EG_pt is -3.0 GeV .* wanted at least 0 GeV"),
    "sum": ({"MET_sumEt": spoilt(-1.0)}, "branch MET_sumEt is negative in entry 5, wanted at least 0 GeV"),
    "infinite": ({"MET_phi": spoilt(np.inf)}, "branch MET_phi is inf in entry 5"),
    "weight": ({"genWeight": spoilt(-0.5)}, "event 5 has a negative weight"),
    "branch": ({"Muon_eta": lambda array: None}, "has no branch Muon_eta"),
    "few": ({"events": 50}, "at least 100 events are wanted, got 50"),
    "empty": ({"events": 0}, "is empty, wanted at least one entry"),
}


@pytest.mark.parametrize(("changed", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_in_one_line(changed, message, tmp_path):
    settings = AnomalyTraining.model_validate({"data": {"file": write(tmp_path / "a.root", **changed)}})
    with pytest.raises(ValueError, match=message) as caught:
        read_events(settings)
    assert "\n" not in str(caught.value)


# training -------------------------------------------------------------------------------------------------------------

SMALL = {
    "autoencoder": {"latent": 3, "decoder": [8]},
    "network": {"hidden": [6], "overflow": "CLIP", "input_format": "ap_fixed<12,7,AP_RND,AP_SAT>"},
    "schedule": {
        "warm_up": 40, "ramp": 40, "polish": 0, "batch": 128, "checkpoint": 20, "rate": 0.02,
        "first_price": 1e-5, "last_price": 1e-5,
    },
    "rate": {"budget": 1e6},
    "firmware": {"inputs": 2000, "tolerance": 0.05},
}  # fmt: skip


def small(file, *signals, **changes):
    data = {"data": {"file": file, "signals": signals}}
    return settings_from(AnomalyTraining, SMALL | data | changes, source="test")


def test_a_section_keeps_the_settings_it_does_not_name():
    made = AnomalyTraining.model_validate({"network": {"hidden": [10]}, "firmware": {"inputs": 5}})
    assert made.network == AnomalyTraining().network.model_copy(update={"hidden": (10,)})
    assert made.firmware == AnomalyTraining().firmware.model_copy(update={"inputs": 5})
    with pytest.raises(ValueError, match=r"firmware\.inputs: .*greater than or equal to 1"):
        settings_from(AnomalyTraining, {"firmware": {"inputs": 0}}, source="test")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collisions")
    return write(folder / "soft.root", 2000), write(folder / "hard.root", 500, seed=1, scale=3.0)


def test_gradients_are_finite_and_directions_of_nothing_do_not_count(files):
    background, _ = read_events(small(files[0]))
    model = first_autoencoder(small(files[0]), background)
    words = model.encoder.words(background.features[:50]).at[0].set(0.0)
    model = model.calibrated(words)
    total = lambda m, x: jnp.mean(m.loss(x, there(x), key=jr.key(0)))
    slopes = jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(total))(model, words))
    assert all(np.isfinite(np.asarray(slope)).all() for slope in slopes)
    moved = eqx.tree_at(lambda m: m.mean, model, model.mean.at[4].add(1.0))
    nothing = jnp.zeros((1, INPUTS))
    total = eqx.filter_jit(total)
    assert float(total(moved, nothing)) == float(total(model, nothing))
    assert float(total(moved, words)) != float(total(model, words))


@pytest.fixture(scope="module")
def trained(files):
    settings = small(*files)
    background, signals = read_events(settings)
    return settings, background, signals, *fit_anomaly(settings, background)


def test_rates_and_efficiencies_stand_beside_those_of_seeds(trained):
    settings, background, signals, front, data = trained
    assert sorted(np.concatenate(list(data.rows.values())).tolist()) == list(range(2000))
    rows = {"design": np.concatenate([data.rows["train"], data.rows["choose"]]), "held_out": data.rows["judge"]}
    made = with_threshold(front[0].network.encoder, background, rows["design"], settings)
    assert made.threshold % made.lsb == 0
    assert (made.integers(background.features) * made.lsb == np.asarray(made(background.features))).all()
    result = compared(made, background, signals, rows, settings)
    assert list(result["seeds"])[:2] == ["anomaly", "single jet"]
    for name, row in result["seeds"].items():
        assert row["rate"]["design"]["value"] <= 1e6, name
        kept = row["efficiency"]["hard"]
        # 500 events of one weight
        assert kept["stderr"] == pytest.approx(np.sqrt(kept["value"] * (1 - kept["value"]) / 500))
    anomaly = result["seeds"]["anomaly"]
    assert abs(anomaly["rate"]["held_out"]["value"] - 1e6) < 5 * anomaly["rate"]["held_out"]["stderr"]
    # harder events are further from minimum bias
    assert anomaly["efficiency"]["hard"]["value"] > 0.1
    assert result["alone"]["hard"]["value"] <= anomaly["efficiency"]["hard"]["value"]
    assert np.all(np.diff(result["curves"]["signals"]["hard"]["anomaly"]) >= 0)


@pytest.mark.long
def test_a_killed_training_goes_on_to_the_same_numbers(trained, tmp_path):
    settings, background, _, front, _ = trained
    run = RunFolder.create(tmp_path / "run", {})

    def stop(phase, share):
        if phase == "ramp":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_anomaly(settings, background, run=run, progress=stop)
    again, _ = fit_anomaly(settings, background, run=RunFolder.open(run.path))
    codes = lambda members: [m.network.encoder.to_dict() for m in members]
    assert codes(again) == codes(front)


@pytest.mark.long
@pytest.mark.needs("da4ml", "verilator", "g++", "yosys")
def test_from_collisions_to_proved_verilog_by_the_command(files, tmp_path, capsys):
    sections = {**SMALL, "data": {"file": str(files[0]), "signals": [str(files[1])]}}
    text = "\n".join(
        f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in keys.items()) for name, keys in sections.items()
    )
    # as the documentation says, numbers of a file carry their units
    text = text.replace("budget = 1000000.0", 'budget = "1 MHz"')
    (tmp_path / "config.toml").write_text(text)
    folder = tmp_path / "run"
    assert cli.main(["trigger", "anomaly", str(tmp_path / "config.toml"), "-o", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    card = found["card"]
    assert set(found["result"]["alone"]) == {"hard"}
    assert card["proof"]["mismatches"] == 0
    assert card["proof"]["inputs"] == 2000 + 250
    assert card["resources"]["dsps"] == 0
    timing = card["resources"]["timing"]
    assert timing["latency_ns"] == pytest.approx(timing["longest_ns"] * card["resources"]["latency_cycles"])
    assert timing["within"] == (timing["latency_ns"] <= timing["deadline_ns"] == 50.0)
    assert 0.5 < timing["longest_ns"] < 30
    assert card["score"]["threshold"] % card["score"]["lsb"] == 0
    assert card["settings"]["rate"]["budget"] == 1e6
    assert (folder / "figures" / "efficiency.png").stat().st_size > 1000
    # without a clock, and with stages that are made equal
    for levels, name in (("0", "other"), ("8", "deep")):
        other = tmp_path / name
        assert cli.main(["trigger", "export", str(folder), "-o", str(other), "--levels", levels, "--json"]) == 0
        resources = json.loads(capsys.readouterr().out)["model_card"]["resources"]
        assert (resources["latency_cycles"] == 0) == (levels == "0")
        # clock and input register are those of the run
        rtl = json.loads((other / "rtl" / "model_card.json").read_text())
        assert (rtl["clock_period_ns"], rtl["input_register"]) == (25.0, False)
        assert cli.main(["trigger", "verify", str(other), "-n", "500", "--no-synthesis", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["mismatches"] == 0
    # what is not the exported trigger any more is refused
    text = (other / "anomaly.json").read_text()
    (other / "anomaly.json").write_text(text.replace('"threshold": ', '"threshold": 1'))
    assert cli.main(["trigger", "verify", str(other), "-n", "10", "--no-synthesis"]) == 2
    assert cli.main(["trigger", "anomaly", "-o", str(folder), "--data.file", str(files[0])]) == 2
    assert "already holds a run; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "data.file: a ROOT file of minimum bias is wanted"),
        (["--data.file", "none.root"], "none.root: no such file"),
        (["--rate.budget", "4e7"], "must be below the total rate"),
        (["--rate.budget", "0"], "greater than 0"),
        (["--data.signals", "a/x.root", "b/x.root"], "two files of the same name"),
        (["--schedule.cost", "ebops"], "schedule.cost must be 'luts' here"),
        (["--network.overflow", "WRAP"], "words that wrap would hide what is far out"),
        (["--autoencoder.latnt", "3"], "latnt"),
    ],
)
@pytest.mark.needs("da4ml")
def test_the_command_names_what_is_wrong_and_leaves_nothing(words, message, tmp_path, capsys):
    assert cli.main(["trigger", "anomaly", "-o", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("diffhep:")]) == 1
    assert not (tmp_path / "run").exists()


def test_a_format_too_narrow_for_the_hardware_is_refused(files):
    settings = small(files[0], network={**SMALL["network"], "input_format": "ap_fixed<8,4,AP_RND,AP_SAT>"})
    background, _ = read_events(settings)
    with pytest.raises(ValueError, match=r"does not fit ap_fixed<8,4,AP_RND,AP_SAT> times 2\^5"):
        first_autoencoder(settings, background)
