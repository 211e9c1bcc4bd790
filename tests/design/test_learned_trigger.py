"""The diphoton study with the words of the trigger's classifier as part of the design."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from diffhep.audit import unfrozen
from diffhep.design.config import HiggsDiphotonSettings
from diffhep.design.firmware import export_run
from diffhep.design.optimise import optimise_study
from diffhep.design.studies import open_study
from diffhep.design.studies.higgs_diphoton import HiggsDiphotonLearned
from diffhep.design.studies.higgs_diphoton.logic import (
    formats,
    fractional,
    groups,
    in_formats,
    moved,
    quantised_after_training,
    trimmed,
    with_params,
)
from diffhep.io import RunFolder
from diffhep.parameters import named_params, resolve, split
from diffhep.report import write_report
from diffhep.trigger import DenseClassifier, FixedPoint, LearnedClassifier, lut_model
from diffhep.trigger.trained import verify_training

WORDS = FixedPoint(0, 2, 8)


class Menu(eqx.Module):
    """What of an experiment `trimmed` looks at."""

    classifier: LearnedClassifier


class Design(eqx.Module):
    menu: Menu


@pytest.fixture(scope="module")
def classifier() -> DenseClassifier:
    return DenseClassifier.init((5, 6, 1), key=jr.key(3), offsets=(0.5,) * 5)


@pytest.fixture(scope="module")
def inputs() -> jax.Array:
    return jr.uniform(jr.key(4), (2000, 5), maxval=2.0)


def luts(network) -> float:
    return float(lut_model().luts(resolve(network)))


def test_words_alike_are_as_fine_as_the_logic_allows(classifier, inputs):
    given = {"efficiency": 0.97, "input_format": WORDS}
    one, rich = (quantised_after_training(classifier, inputs, inputs[:500], luts=n, **given) for n in (300.0, 1e5))
    assert luts(one) <= 300
    f = float(one.layers[0].weight_f[0, 0])
    finer = in_formats(classifier, f + 1, WORDS)
    assert luts(finer.calibrated(finer.words(inputs))) > 300
    assert float(rich.layers[0].weight_f[0, 0]) == 8
    # the threshold was set again, to a step of the score
    kept = float(jnp.mean(rich(inputs[:500])[..., 0] > 0))
    assert kept == pytest.approx(0.97, abs=0.03)


def test_too_little_logic_for_any_words_is_refused_with_what_is_needed(classifier, inputs):
    with pytest.raises(ValueError, match=r"budget\.luts: at least \d+ are needed .* got 10"):
        quantised_after_training(classifier, inputs, inputs, efficiency=0.9, luts=10.0, input_format=WORDS)


def test_bits_that_are_worth_least_go_first_until_the_logic_fits(classifier, inputs):
    network = in_formats(classifier, 5, WORDS)
    design: Any = Design(Menu(with_params(network.calibrated(network.words(inputs)))))
    where = lambda d: fractional(d.menu.classifier)
    # only bits of the first layer's weights are worth anything
    worth = [jnp.zeros_like(p.raw) for p in where(design)]
    worth[2] = jnp.full_like(worth[2], 1e3)
    slopes = lambda d: eqx.tree_at(lambda d: tuple(p.raw for p in where(d)), d, tuple(worth))
    small = trimmed(design, 200.0, slopes)
    assert luts(small.menu.classifier) <= 200 < luts(design.menu.classifier)
    before, after = ([np.asarray(p.raw) for p in where(d)] for d in (design, small))
    np.testing.assert_array_equal(before[2], after[2])
    assert all(np.all(b >= a) for b, a in zip(before, after, strict=True))
    # half a bit is none
    half = eqx.tree_at(lambda d: where(d)[0].raw, design, where(design)[0].raw + 0.4)
    whole = trimmed(half, 1e5, slopes)
    np.testing.assert_array_equal(np.asarray(where(whole)[0].raw), before[0])


def test_what_cannot_become_small_enough_is_said(classifier, inputs):
    network = in_formats(classifier, 5, WORDS)
    design: Any = Design(Menu(with_params(network.calibrated(network.words(inputs)))))
    with pytest.raises(ValueError, match=r"still takes \d+ after 3 bits"):
        trimmed(design, 50.0, lambda d: d, most=3)


def test_bits_are_counted_and_moved_by_where_the_words_are(classifier, inputs):
    network = in_formats(classifier, 4, WORDS)
    design: Any = Design(Menu(with_params(network.calibrated(network.words(inputs)))))
    rows = groups(design.menu.classifier)
    assert [row.name for row in rows] == [
        "inputs",
        "weights of layer 0",
        "values after layer 0",
        "weights of layer 1",
    ]
    plain = resolve(design.menu.classifier)
    assert int(jnp.sum(rows[0].bits(plain))) == int(jnp.sum(plain.input.bits()))
    fewer: Any = moved(design, rows[2], -1).menu.classifier
    change = [np.asarray(b.raw - a.raw) for a, b in zip(formats(design.menu.classifier), formats(fewer), strict=True)]
    present = np.asarray(plain.layers[0].output.bits() > 0)
    assert sum(bool(np.any(c)) for c in change) == 1
    assert present.sum() == sum(np.count_nonzero(c) for c in change)


SMALL = {
    "samples": {"design_events": 800, "held_out_events": 1000},
    "calorimeter": {"readouts": 4},
    "trigger": {"hidden": 4},
    "search": {"warmup": 100, "starts": 2, "steps": 20, "pareto": 2, "grid": 0},
}


@pytest.fixture(scope="module")
def study() -> HiggsDiphotonLearned:
    found = open_study("higgs-diphoton", HiggsDiphotonSettings.model_validate({**SMALL, "budget": {"luts": 250.0}}))
    assert isinstance(found, HiggsDiphotonLearned)
    return found


@pytest.fixture(scope="module")
def initial(study):
    return study.initial(progress=lambda phase, done: None)


@pytest.mark.slow
def test_the_slope_of_the_significance_passes_through_words_of_few_bits(study, initial):
    """Within 5 % of finite differences under common random numbers; the classifier has 4 to 8 bits."""
    network = resolve(initial.menu.classifier)
    assert 3 <= float(jnp.max(network.layers[0].weight_f)) + 1 <= 8
    rows = {row.name: row for row in study.audit(initial)}
    for name in ("calorimeter.absorber", "calorimeter.active", "menu.leading", "menu.subleading", "photon_cut"):
        assert rows[name].relative < 0.05, rows[name]
    # surrogates are not compared with what they are not
    assert not any(name.startswith("menu.classifier") for name in rows)
    # but they are there
    slopes = study.problem.value_and_grad(*split(unfrozen(initial)), study.problem.context)[1]
    bits = {name: np.asarray(p.raw) for name, p in named_params(slopes).items() if p.role == "bits"}
    assert all(np.all(np.isfinite(slope)) for slope in bits.values())
    for name in ("input.f", "layers[0].weight_f", "layers[0].output.f", "layers[1].weight_f"):
        assert np.any(bits[f"menu.classifier.{name}"] != 0), name


@pytest.mark.slow
def test_the_initial_design_keeps_to_its_logic_and_hard_words_are_those_of_the_design(study, initial):
    used = dict(
        zip(
            (c.name for c in study.problem.constraints),
            np.asarray(study.problem.outcome(initial, study.problem.context).used),
            strict=True,
        )
    )
    assert 0 < used["luts"] <= 250
    jets, photons = study.classifier_inputs(initial)
    inputs = jnp.concatenate([jets, photons])
    soft, hard = resolve(initial.menu.classifier), study.hardware(initial)
    np.testing.assert_array_equal(np.asarray(soft(inputs)), np.asarray(hard(inputs)))


@pytest.mark.long
@pytest.mark.needs("da4ml", "verilator", "yosys", "g++")
def test_a_whole_run_ends_within_its_logic_and_in_verilog_that_is_proved(tmp_path):
    settings = HiggsDiphotonSettings.model_validate({**SMALL, "budget": {"luts": 250.0}})
    config = {"study": "higgs-diphoton", "settings": settings.model_dump(mode="json")}
    folder = RunFolder.create(tmp_path / "run", config)
    result = optimise_study(open_study("higgs-diphoton", settings), folder, lambda phase, done: None)
    assert result["firmware"]["mismatches"] == 0
    assert result["constraints"]["luts"]["value"] <= 250
    assert result["constraints"]["luts"]["multiplier"] >= 0
    assert result["logic"]["words"][0]["words"] == "inputs"
    front = result["logic"]["front"]["points"]
    assert [p["limit"] for p in front] == pytest.approx([62.5, 500.0])
    assert all(p["used"] <= p["limit"] for p in front)
    assert not any(name.startswith("menu.classifier") for name in result["parameters"])
    assert write_report(folder).is_file()
    found = verify_training(folder.path / "firmware", n=2000)
    assert found["mismatches"] == 0
    with pytest.raises(ValueError, match="--no-verilog"):
        export_run(folder, tmp_path / "other", verilog=False)
