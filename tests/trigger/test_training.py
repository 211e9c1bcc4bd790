"""Training of formats, from events to proved Verilog: the front, a budget, a kill in between, bad input."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import tomli_w
import uproot
from hypothesis import given
from hypothesis import strategies as st

from diffhep.cli import main
from diffhep.io import RunFolder
from diffhep.trigger import format_training, learning
from diffhep.trigger.config import FirmwareSettings, TriggerTraining
from diffhep.trigger.format_training import (
    BITS,
    CLASSIFICATION,
    FALL,
    FormatTraining,
    Pressure,
    accuracy,
    batch_of,
    blocks_of,
    classification_loss,
    step_shares,
    step_size,
)
from diffhep.trigger.labelled import five_classes, read_labelled
from diffhep.trigger.learning import FrontMember, first_network, fit_formats, single
from diffhep.trigger.resources import lut_model
from diffhep.trigger.trained import chosen, verify_training
from tests.trigger.test_learned import network

# so short a training needs large steps and prices to get anywhere
HARD = {"rate": 0.03, "first_price": 3e-4, "last_price": 3e-3}
SMALL = {
    "data": {"events": 4000},
    "network": {"hidden": [8], "overflow": "WRAP"},
    "schedule": {"warm_up": 40, "ramp": 80, "polish": 120, "batch": 256, "checkpoint": 20, **HARD},
    "firmware": {"budget": 600.0, "levels": 4, "inputs": 20_000},
}


def settings(**changes):
    return TriggerTraining.model_validate(SMALL | changes)


# events ---------------------------------------------------------------------------------------------------------------


def test_the_five_classes_are_the_same_for_every_seed():
    one, other = five_classes(20_000, seed=0), five_classes(20_000, seed=1)
    assert (one.features.shape, one.classes) == ((20_000, 16), 5)
    means = lambda s: np.array([s.features[s.labels == c].mean(axis=0) for c in range(5)])
    np.testing.assert_allclose(means(one), means(other), atol=0.1)
    np.testing.assert_allclose(one.features.std(axis=0), 1)
    assert one.sha256 != other.sha256
    assert one.sha256 == five_classes(20_000, seed=0).sha256


def test_events_are_read_from_npz_and_root(tmp_path):
    sample = five_classes(300, seed=0)
    np.savez(tmp_path / "a.npz", features=sample.features, label=sample.labels)
    branches = {f"jet_{j}": sample.features[:, j] for j in range(16)} | {"label": sample.labels}
    with uproot.recreate(tmp_path / "a.root") as file:
        file["Events"] = branches
    first = read_labelled(tmp_path / "a.npz", features="features", label="label")
    second = read_labelled(tmp_path / "a.root", features="jet_", label="label")
    assert first.sha256 == second.sha256 == sample.sha256
    assert second.names[3] == "jet_3"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.ones((4, 2))}, "no array 'label'; there are features"),
        ({"features": np.ones(4), "label": np.arange(4)}, r"got shapes \(4,\) and \(4,\)"),
        ({"features": np.full((4, 2), np.nan), "label": np.arange(4)}, r"feature features\[0\] of event 0 is not fin"),
        ({"features": np.ones((4, 2)), "label": np.array([0, 0.5, 1, 1])}, "must be whole numbers"),
        ({"features": np.ones((4, 2)), "label": np.array([0, 3, 0, 3])}, "at least two classes from 0 on"),
    ],
)
def test_bad_files_are_refused_in_one_line(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read_labelled(tmp_path / "a.npz", features="features", label="label")
    assert "\n" not in str(caught.value)


def test_no_file_and_no_npz_are_named(tmp_path):
    (tmp_path / "a.npz").write_text("nothing")
    for name, message in (("a.npz", r"no \.npz file can be read"), ("b.npz", "no such file")):
        with pytest.raises(ValueError, match=message):
            read_labelled(tmp_path / name, features="features", label="label")


# the loss and the schedule --------------------------------------------------------------------------------------------


def test_one_logit_and_two_say_the_same():
    logit, labels = jnp.array([[-1.0], [0.5], [3.0]]), jnp.array([0, 1, 0])
    both = jnp.concatenate([jnp.zeros_like(logit), logit], axis=1)
    np.testing.assert_allclose(classification_loss(logit, labels), classification_loss(both, labels), rtol=1e-6)
    assert float(accuracy(logit, labels)) == float(accuracy(both, labels)) == pytest.approx(2 / 3)


def test_the_step_size_rises_falls_and_falls_again_while_polishing():
    at = lambda step: float(step_size(jnp.asarray(float(step)), (100, 400, 600)))
    assert (at(0), at(20), at(100)) == (0.0, 1.0, 1.0)
    assert at(250) == pytest.approx(FALL**0.5)
    assert at(399) == pytest.approx(FALL, rel=0.01)
    assert at(400) == pytest.approx(FALL**0.5)
    assert at(600) == pytest.approx(0.05 * FALL**0.5)


def test_only_the_bits_of_weights_and_biases_take_larger_steps():
    shares = step_shares(network((2, 2, 1))[0])
    for layer in shares.layers:
        assert (layer.weight, layer.bias, layer.weight_f, layer.bias_f) == (1.0, 1.0, BITS, BITS)
        assert (layer.output.i, layer.output.f) == (1.0, 1.0)
    assert shares.input.f == 1.0


def rounds(events, batch, count, seed=0):
    """Which events come in some rounds, (round, step, event)."""
    turns = events // min(batch, events)
    data = jnp.arange(events), jnp.arange(2 * events).reshape(events, 2)
    rows, pairs = jax.vmap(lambda step: batch_of(data, step, batch, jr.key(seed)))(jnp.arange(count * turns))
    np.testing.assert_array_equal(pairs, 2 * np.asarray(rows)[..., None] + np.arange(2))
    return np.asarray(rows).reshape(count, turns, -1)


@given(events=st.integers(1, 400), batch=st.integers(1, 150), seed=st.integers(0, 9))
def test_every_event_comes_at_most_once_a_round(events, batch, seed):
    for one in rounds(events, batch, 3, seed):
        assert one.size > events - batch
        assert len(np.unique(one)) == one.size


@pytest.mark.parametrize(("events", "batch"), [(19, 10), (20, 10), (19, 4), (7, 9)])
def test_every_event_comes_equally_often_and_rounds_differ(events, batch):
    found = rounds(events, batch, 2000)
    counts, share = np.bincount(found.ravel(), minlength=events), found[0].size / events
    # five binomial errors
    assert np.all(np.abs(counts - 2000 * share) <= 5 * np.sqrt(2000 * share * (1 - share)))
    firsts = {tuple(sorted(one[0])) for one in found}
    assert len(firsts) == (events if batch < events else 1)


@pytest.mark.parametrize(
    ("events", "parts"), [(1024, 2), (512, 1), (513, 1), (1000, 2), (1280, 4), (1021, 1), (5, 1), (4096, 8)]
)
def test_blocks_are_of_one_size_that_is_worth_it(events, parts):
    assert blocks_of(events) == parts


@pytest.mark.parametrize("kind", ["dense", "tables"])
@pytest.mark.parametrize("classes", [2, 5])
def test_events_last_say_the_same_as_events_first(kind, classes):
    sample = five_classes(500, seed=2)
    labels = jnp.asarray(sample.labels % classes, jnp.int32)
    made = first_network(settings(network={"kind": kind}), dataclasses.replace(sample, labels=np.asarray(labels)))
    words = made.words(sample.features)
    made = made.calibrated(words)
    np.testing.assert_array_equal(made.logits(words.T, axis=0), made.logits(words).T)
    moving, still = eqx.partition(made, eqx.is_inexact_array)
    rows = lambda part: classification_loss(eqx.combine(part, still).logits(words), labels)
    columns = lambda part: CLASSIFICATION.loss(eqx.combine(part, still), words, labels, jr.key(0))
    (first, slope), (last, found) = (jax.value_and_grad(loss)(moving) for loss in (rows, columns))
    # sums of 500 terms in another order
    assert float(last) == pytest.approx(float(first), rel=1e-12)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# training -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = RunFolder.create(tmp_path_factory.mktemp("formats") / "run", {})
    sample = five_classes(4000, seed=0)
    return fit_formats(settings(), sample, run=run), run, sample


def test_a_front_falls_in_cost_and_accuracy_and_keeps_the_budget(trained):
    (front, _), run, _ = trained
    costs = [member.cost for member in front]
    assert costs == sorted(costs, reverse=True)
    assert len(front) >= 2
    # far above the 0.2 of guessing
    assert max(member.accuracy for member in front) > 0.5
    assert min(costs) <= 600 * 1.05
    phases = [row["phase"] for row in run.metrics()]
    assert phases == ["warm-up"] * 2 + ["ramp"] * 4 + ["budget"] * 6
    assert all(layer.output.overflow == "WRAP" for member in front for layer in member.network.layers)


def test_a_killed_training_goes_on_to_the_same_numbers(trained, tmp_path):
    (front, _), _, sample = trained
    run = RunFolder.create(tmp_path / "run", {})

    def stop(phase, share):
        if phase == "ramp" and share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_formats(settings(), sample, run=run, progress=stop)
    again, _ = fit_formats(settings(), sample, run=RunFolder.open(run.path))
    assert [m.network.to_dict() for m in again] == [m.network.to_dict() for m in front]


@pytest.mark.parametrize("kind", ["dense", "tables"])
def test_slopes_of_blocks_are_those_of_the_batch(kind, monkeypatch):
    sample = five_classes(600, seed=3)
    made = first_network(settings(network={"kind": kind, "hidden": [4]}), sample)
    words, labels = made.words(sample.features).astype(jnp.float32), jnp.asarray(sample.labels, jnp.int32)
    made = single(made.calibrated(words.astype(float)))

    def moments(block):
        monkeypatch.setattr(format_training, "BLOCK", block)
        # steps too small to move anything: what is left is the mean of the slopes, in the moments of Adam
        schedule = {"chunk": 5, "batch": 256, "rate": 1e-12, "phases": (10, 20, 20)}
        training = FormatTraining(made, lut_model().luts, **schedule, overflow="SAT", key=jr.key(1))
        state, means = training.advance(training.first, training.ranges, (words, labels), Pressure(0, 10))
        return jax.tree.leaves(state.optimiser), means

    (whole, loss), (blocks, found) = moments(256), moments(64)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    for a, b in zip(blocks, whole, strict=True):
        # sums of 256 terms in single precision: 256 x 6e-8 of the largest
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1.6e-5 * np.abs(b).max())


def test_saturating_ranges_are_learned(monkeypatch):
    monkeypatch.setattr(learning, "CALIBRATION", 500)
    given = settings(
        network={"hidden": [6], "overflow": "SAT"},
        schedule={"warm_up": 20, "ramp": 20, "polish": 0, "batch": 64, "checkpoint": 20},
        firmware={},
    )
    front, _ = fit_formats(given, five_classes(1000, seed=0))
    assert all(layer.output.overflow == "SAT" for member in front for layer in member.network.layers)


def test_features_outside_the_input_format_are_refused():
    sample = five_classes(500, seed=0)
    far = type(sample)(sample.features + 1000.0, sample.labels, sample.names, "far")
    with pytest.raises(ValueError, match=r"far: 100% of feature0 lie outside ap_fixed<12,4"):
        fit_formats(settings(), far)


def members(*pairs):
    net = network((2, 2, 1))[0].frozen()
    return [FrontMember(net, accuracy, 0.0, cost) for accuracy, cost in pairs]


def test_the_choice_gives_up_little_accuracy_or_keeps_the_budget(monkeypatch):
    front = members((0.80, 900.0), (0.795, 500.0), (0.7, 300.0))
    module = "diffhep.trigger.trained"
    monkeypatch.setattr(f"{module}.shutil.which", lambda name: None)
    assert chosen(front, FirmwareSettings(tolerance=0.01)) == (front[1], None)
    assert chosen(front, FirmwareSettings(budget=600.0))[0] is front[1]
    # yosys counts a fifth more than the model: the next smaller one it is
    monkeypatch.setattr(f"{module}.shutil.which", lambda name: name)
    counts = iter([{"luts": 610}, {"luts": 350}])
    monkeypatch.setattr(f"{module}.synthesised", lambda *a, **k: next(counts))
    member, counted = chosen(front, FirmwareSettings(budget=600.0))
    assert (member, counted) == (front[2], {"luts": 350})
    with pytest.raises(ValueError, match=r"no network of the front fits the budget of 100 LUTs, the smallest takes"):
        chosen(front, FirmwareSettings(budget=100.0))


# the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.needs("da4ml", "verilator", "g++", "yosys")
def test_from_events_to_proved_verilog_by_the_command(tmp_path, capsys):
    sample = five_classes(4000, seed=0)
    np.savez(tmp_path / "jets.npz", features=sample.features * 30, label=sample.labels)
    sections = {
        "data": {"file": str(tmp_path / "jets.npz")},
        "network": {"hidden": [8]},
        "schedule": {"warm_up": 100, "ramp": 200, "polish": 300, **HARD},
        "firmware": {"budget": 600, "levels": 4, "inputs": 100_000},
    }
    (tmp_path / "config.toml").write_text(tomli_w.dumps(sections))
    folder = tmp_path / "run"
    assert main(["trigger", "train", str(tmp_path / "config.toml"), "-o", str(folder), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["card"]
    assert card["proof"]["mismatches"] == 0
    assert card["proof"]["inputs"] == 100_000 + 500
    assert 0 < card["resources"]["luts"] <= 600
    assert card["data"]["features"][0]["word"] == "ap_fixed<12,9,AP_RND,AP_SAT>"
    assert (folder / "figures" / "front.png").stat().st_size > 1000
    assert main(["trigger", "verify", str(folder), "-n", "5000", "--no-synthesis", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"] == {"jax, hls": 0, "jax, rtl": 0, "hls, rtl": 0}
    text = (folder / "classifier.json").read_text()
    (folder / "classifier.json").write_text(text.replace('"relu": true', '"relu": false', 1))
    with pytest.raises(ValueError, match=r"is not that of the function|differs"):
        verify_training(folder, n=10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule.ramp", "70"], "must be a multiple of checkpoint"),
        (["--firmware.budget", "10", "--schedule.cost", "ebops"], "a budget is in LUTs"),
        (["--data.file", "none.npz"], "none.npz: no such file"),
        (["--schedule.rmp", "3"], "rmp"),
    ],
)
@pytest.mark.needs("da4ml")
def test_the_command_names_what_is_wrong_and_leaves_nothing(words, message, tmp_path, capsys):
    assert main(["trigger", "train", "-o", str(tmp_path / "run"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "run").exists()
