"""Layers read out in groups: nothing is lost or counted twice, and a surrogate of groups behaves like one of layers."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from diffhep.detector import SamplingCalorimeter
from diffhep.io import RunFolder, read_showers, shipped_showers, write_showers
from diffhep.io.showers import Showers
from diffhep.surrogates import (
    Incidence,
    LearnedShowers,
    Stack,
    SurrogateSettings,
    fit_surrogate,
    grouped,
    incidence_of,
    load_surrogate,
    read_out_in_groups,
    sample_like,
    save_surrogate,
    shipped_surrogate,
    stack_of,
    started,
)
from diffhep.surrogates.config import GroupSettings
from diffhep.surrogates.stack import guess

GROUPS = GroupSettings(count=6, layers=(12.0, 30.0), copies=2)


@pytest.fixture(scope="module")
def showers():
    return read_showers(shipped_showers())


def small(layers: int = 12, count: int = 3, seed: int = 0) -> Showers:
    random = np.random.default_rng(seed)
    absorber, active = random.uniform(1, 5, (2, count, layers))
    energy = random.uniform(0, 0.01, (count, layers))
    return Showers(np.ones(count), np.full(count, 11), np.zeros(count), absorber, active, energy)


@settings(max_examples=60, deadline=None)
@given(groups=st.integers(1, 6), length=st.floats(6, 12), seed=st.integers(0, 10))
def test_groups_hold_what_lies_in_front_of_the_end(groups, length, seed):
    one = small(seed=seed)
    found = read_out_in_groups(one, groups, length)
    share = np.clip(length - np.arange(12), 0, 1)
    for name in ("absorber_thickness", "active_thickness", "active_energy"):
        assert getattr(found, name).shape == (3, groups)
        assert_allclose(getattr(found, name).sum(axis=1), getattr(one, name) @ share, rtol=1e-12)
    assert found.merged is not None
    assert_allclose(found.merged, length / groups)
    # half as many groups are pairs of them
    if groups % 2 == 0:
        coarse = read_out_in_groups(one, groups // 2, length)
        assert_allclose(coarse.active_energy, found.active_energy.reshape(3, -1, 2).sum(axis=-1), rtol=1e-12)


def test_whole_groups_are_sums_of_layers():
    one = small()
    found = read_out_in_groups(one, 4, 8)
    assert_allclose(found.active_energy, one.active_energy[:, :8].reshape(3, 4, 2).sum(axis=-1), rtol=1e-15)
    assert_allclose(found.absorber_thickness, one.absorber_thickness[:, :8].reshape(3, 4, 2).sum(axis=-1), rtol=1e-15)


def test_each_shower_may_have_a_length_of_its_own():
    one, lengths = small(), np.array([6.0, 7.5, 12.0])
    found = read_out_in_groups(one, 3, lengths)
    for i, length in enumerate(lengths):
        assert_allclose(found[i].active_energy, read_out_in_groups(one[i], 3, length).active_energy)


@pytest.mark.parametrize(
    ("change", "groups", "layers", "told"),
    [
        ({}, 4, 13, "4 (groups) to 12 (simulated), got 13 to 13"),
        ({}, 4, 3, "got 3 to 3"),
        ({"merged": np.full(3, 2.0)}, 2, 6, "read out in groups already"),
        ({"cells": np.zeros((3, 12, 2, 2))}, 2, 6, "or in cells"),
    ],
)
def test_groups_that_cannot_be(change, groups, layers, told):
    with pytest.raises(ValueError, match=r"layers|showers") as error:
        read_out_in_groups(dataclasses.replace(small(), **change), groups, layers)
    assert told in str(error.value)


def test_random_lengths_are_one_for_each_stack_and_the_seed_s():
    one = small(count=5)
    twice = dataclasses.replace(one, **{name: np.repeat(x, 2, axis=0) for name, x in one.arrays().items()})
    found = grouped(twice, GroupSettings(count=3, layers=(6.0, 12.0)), seed=1)
    assert found.merged is not None
    lengths = 3 * found.merged.reshape(5, 2)
    assert_allclose(lengths[:, 0], lengths[:, 1])
    assert len(np.unique(lengths)) == 5
    assert lengths.min() >= 6
    assert lengths.max() <= 12
    again = grouped(twice, GroupSettings(count=3, layers=(6.0, 12.0)), seed=1)
    assert_allclose(again.active_energy, found.active_energy)
    assert grouped(twice, GroupSettings(), seed=1) is twice
    with pytest.raises(ValueError, match=r"up to 13.0 layers are wanted, the showers are of 12"):
        grouped(one, GroupSettings(count=3, layers=(6.0, 13.0)), seed=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"groups": {"count": 8, "layers": [6, 30]}}, "wanted the number of groups (8) or more"),
        ({"groups": {"count": 8, "layers": [30, 30]}}, "then a larger number"),
        ({"groups": {"count": 8}, "network": {"kind": "voxels"}}, "cells are those of single layers"),
    ],
)
def test_settings_that_make_no_sense(change, told):
    with pytest.raises(ValueError, match="layers") as error:
        SurrogateSettings.model_validate(change)
    assert told in str(error.value)


def test_a_group_of_one_layer_is_that_layer():
    """The guess, and what networks see, do not depend on whether single layers are called groups."""
    x = Incidence(jnp.array(3.0), jnp.array(0.2), jnp.linspace(2, 6, 10), jnp.linspace(5, 3, 10))
    one = Incidence(x.energy, x.angle, x.absorber, x.active, jnp.array(1.0))
    for wanted, found in zip(guess(Stack(10), x), guess(Stack(10, merged=True), one), strict=True):
        assert_allclose(found, wanted, rtol=1e-12)


def test_the_guess_of_groups_adds_up_that_of_layers():
    layers = Incidence(jnp.array(3.0), jnp.array(0.0), jnp.full(40, 2.0), jnp.full(40, 4.0))
    groups = Incidence(layers.energy, layers.angle, jnp.full(8, 10.0), jnp.full(8, 20.0), jnp.array(5.0))
    fine, coarse = guess(Stack(40), layers), guess(Stack(8, merged=True), groups)
    # six-point quadrature over groups of two radiation lengths
    assert_allclose(coarse.energy, fine.energy.reshape(8, 5).sum(axis=-1), rtol=0.01, atol=1e-5)
    # the same slabs are crossed: the same fluctuations
    assert_allclose(coarse.resolution, fine.resolution, rtol=1e-3)


@pytest.fixture(scope="module")
def trained(showers, tmp_path_factory):
    """Trained for seconds on the shipped electrons, and read back from its folder."""
    config = SurrogateSettings.model_validate(
        {
            "groups": GROUPS.model_dump(),
            "network": {"width": 24, "memory": 16},
            "schedule": {"generator": 400, "checkpoint": 200, "batch": 256},
        }
    )
    surrogate = fit_surrogate(config, showers[:4000])
    run = RunFolder.create(tmp_path_factory.mktemp("groups") / "run", {})
    card = save_surrogate(run, surrogate, config, [showers[:4000]])
    assert card["stack"]["merged"]
    assert 2 <= card["domain"]["merged"]["low"] < 2.1
    return load_surrogate(run.path)


def test_a_surrogate_of_groups_has_the_response_of_geant4(trained, showers):
    rest = grouped(showers[4000:], GROUPS, 3)
    made = sample_like(trained, rest, jr.key(1))
    share, wanted = (x.sum(axis=1) / rest.energy for x in (made, rest.active_energy))
    assert rest.merged is not None
    # short stacks leak more than long ones
    for half in (rest.merged < 3, rest.merged >= 3):
        error = np.hypot(share[half].std(), wanted[half].std()) / np.sqrt(half.sum())
        assert abs(share[half].mean() - wanted[half].mean()) < 3 * error + 0.04 * wanted[half].mean()
    assert np.all(made.sum(axis=1) <= rest.energy)


def test_a_surrogate_of_groups_knows_its_domain(trained, showers):
    rest = incidence_of(grouped(showers[4000:], GROUPS, 3))
    assert float(jnp.mean(trained.domain.contains(rest))) > 0.98
    assert rest.merged is not None
    longer = Incidence(rest.energy, rest.angle, 2 * rest.absorber, 2 * rest.active, 2 * rest.merged)
    outside = np.asarray(rest.merged > 2.6)
    assert not bool(jnp.any(trained.domain.contains(longer)[outside]))


def test_a_training_goes_on_in_the_groups_it_began_with(trained, showers, tmp_path):
    config = SurrogateSettings.model_validate({"groups": GROUPS.model_dump(), "network": {"width": 24, "memory": 16}})
    run = RunFolder.create(tmp_path / "run", {})
    save_surrogate(run, trained, config, [showers])
    onward = started(SurrogateSettings(start_from=run.path))
    assert onward.groups == GROUPS
    with pytest.raises(ValueError, match=r"the surrogate is of layers in groups, the showers are of single layers"):
        fit_surrogate(onward.model_copy(update={"groups": GroupSettings()}), showers[:400], start=trained)
    with pytest.raises(ValueError, match=r"the surrogate is of single layers, the showers are of layers in groups"):
        fit_surrogate(onward, showers[:400], start=shipped_surrogate())


def test_layers_and_groups_are_not_mixed_up(trained):
    x = Incidence(jnp.array(2.0), jnp.array(0.0), jnp.full(6, 12.0), jnp.full(6, 12.0))
    with pytest.raises(
        ValueError, match=r"of a stack read out in groups of layers .* asked for is a stack read out layer"
    ):
        trained.sample(x, key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"wanted an autoregressive one of layers in groups .* got one of single layers"
    ):
        LearnedShowers.of(shipped_surrogate())


@pytest.mark.parametrize("suffix", [".npz", ".root"])
def test_grouped_showers_come_back_from_a_file(tmp_path, showers, suffix):
    one = grouped(showers[:20], GROUPS, 2)
    back = read_showers(write_showers(tmp_path / f"one{suffix}", one))
    assert back.merged is not None
    assert one.merged is not None
    assert_allclose(back.merged, one.merged)
    assert stack_of(back).merged


# as the showers of a calorimeter --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def response(trained):
    return LearnedShowers.of(trained)


def layout(response, absorber=4.0, active=4.0, layers=24.0):
    calorimeter = SamplingCalorimeter(
        jnp.asarray(absorber), jnp.asarray(active), jnp.asarray(layers), readouts=6, showers=response
    )
    return calorimeter.layout()


def test_interpolated_answers_are_those_of_the_network(response):
    """A dozen energies are asked for; in between, polynomials of ln E."""
    here = layout(response)
    energy = jnp.geomspace(0.6, 4.8, 300)
    noise = jr.normal(jr.key(2), (300, response.noise_size))
    exact = response.surrogate.from_noise(response.incidence(here, energy), noise, hard=False)
    found = response.deposits(here, energy, noise) * here.fraction * 0.7
    assert_allclose(found, exact, rtol=1e-6, atol=1e-9)


def test_energies_out_of_range_are_in_proportion(response):
    here, noise = layout(response), jr.normal(jr.key(2), (2, response.noise_size))
    low, high = response.bounds.energy
    noise = jnp.concatenate([noise[:1]] * 2 + [noise[1:]] * 2)
    found = response.deposits(here, jnp.array([low / 10, low, high, 3 * high]), noise)
    assert_allclose(10 * found[0], found[1], rtol=1e-9)
    assert_allclose(found[3], 3 * found[2], rtol=1e-9)
    nothing, slope = jax.value_and_grad(lambda e: response.deposits(here, e, noise[0]).sum())(jnp.array(0.0))
    assert float(nothing) == 0.0
    assert np.isfinite(float(slope))


def test_the_calibration_is_the_mean_response(response):
    here, energy = layout(response), jnp.array(2.0)
    noise = jr.normal(jr.key(5), (20_000, response.noise_size))
    total = response.deposits(here, jnp.full(20_000, energy), noise).sum(axis=-1)
    mean, error = float(total.mean()), float(total.std()) / np.sqrt(20_000)
    assert float(2.0 * (1 - response.lost(here)(energy))) == pytest.approx(mean, abs=4 * error)
    # at the mean measured energy the calibration gives the true one
    share = response.calibration(here)(jnp.asarray(2.0 * (1 - response.lost(here)(energy))))
    assert float(share) == pytest.approx(float(response.lost(here)(energy)), rel=1e-6)
    spread = response.quantiles(here, energy, 4096)
    assert float(jnp.std(spread)) == pytest.approx(float(total.std()), rel=0.05)
