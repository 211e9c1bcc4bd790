"""Training on from a surrogate's weights: where it starts, what it keeps, and around which stacks it is simulated."""

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.io import RunFolder, read_showers, shipped_showers
from diffhep.surrogates import (
    Incidence,
    SurrogateSettings,
    around,
    everywhere,
    fit_surrogate,
    load_surrogate,
    sample_like,
    save_surrogate,
    shipped_surrogate,
    started,
    starting_point,
)
from diffhep.surrogates.config import ScheduleSettings
from diffhep.surrogates.fitting import mixed, observe

KEY = jr.key(5)
PALE = 0.8  # of the visible energy: what a stack is simulated to give that the surrogate has never met


def settings(kind: str = "autoregressive", steps: int = 40, **schedule) -> SurrogateSettings:
    times = dict.fromkeys(("moments", "generator", "student"), steps)
    return SurrogateSettings.model_validate(
        {
            "network": {"kind": kind, "width": 24, "depth": 2, "memory": 16, "moments": 16},
            "schedule": {**times, "checkpoint": 20, "batch": 128, **schedule},
        }
    )


@pytest.fixture(scope="module")
def showers():
    return read_showers(shipped_showers())


@pytest.fixture(scope="module")
def trained(showers):
    return fit_surrogate(settings(steps=200, rate=3e-3), showers[:4000])


@pytest.fixture(scope="module")
def pale(showers):
    """Showers with less energy to see."""
    some = showers[4000:5000]
    return dataclasses.replace(some, active_energy=PALE * some.active_energy)


def visible(surrogate, showers) -> float:
    """Mean visible energy relative to that of the showers."""
    return float(sample_like(surrogate, showers, KEY).sum() / showers.active_energy.sum())


@pytest.mark.parametrize("kind", ["autoregressive", pytest.param("normalising-flow", marks=pytest.mark.long)])
def test_a_training_goes_on_from_the_weights_it_is_given(kind, showers):
    some = showers[:600]
    first = fit_surrogate(settings(kind), some)
    # steps too small to move a weight in single precision
    again = fit_surrogate(settings(kind, steps=20, rate=1e-12), some, start=first)
    # of the others, mean and width are matched anew at the end
    name = "network" if kind == "autoregressive" else "generator"
    kept = [jax.tree.leaves(eqx.filter(getattr(s, name), eqx.is_array)) for s in (first, again)]
    for before, after in zip(*kept, strict=True):
        assert_allclose(after, before, rtol=1e-6, atol=1e-9)


def test_it_learns_what_is_new_and_keeps_what_it_replays(trained, showers, pale):
    """A pale detector, without and with the showers that the surrogate knows."""
    there = visible(trained, pale)
    assert there > 1.15
    alone = fit_surrogate(settings(steps=100, rate=2e-3), pale, start=trained)
    # the share of the distance to the new showers that is gone
    assert abs(visible(alone, pale) - 1) < 0.3 * (there - 1)
    both = fit_surrogate(settings(steps=100, rate=2e-3), pale, start=trained, replay=showers[:4000])
    rest = showers[5000:]
    assert abs(visible(both, rest) - 1) < abs(visible(alone, rest) - 1)


def test_the_replay_has_its_share_whatever_the_numbers(trained, showers):
    few, many = (observe(trained.stack, showers[rows]) for rows in (slice(0, 50), slice(100, 700)))
    for share in (0.2, 0.5, 0.8):
        batch = mixed(few, many, ScheduleSettings(replay=share))
        replayed = np.isin(np.asarray(batch.x.energy), np.asarray(many.x.energy))
        assert replayed.mean() == pytest.approx(share, abs=0.01)
        # nothing is left out, and every row is still one shower
        assert set(np.asarray(batch.x.energy)) == set(np.asarray(few.x.energy)) | set(np.asarray(many.x.energy))
        found = {float(e): layers for e, layers in zip(few.x.energy, np.asarray(few.layers), strict=True)}
        for e, layers in zip(np.asarray(batch.x.energy)[:100], np.asarray(batch.layers)[:100], strict=True):
            if float(e) in found:
                assert_array_equal(layers, found[float(e)])


def test_the_domain_grows_by_the_new_showers(trained, showers):
    far = dataclasses.replace(showers[:300], energy=2 * showers.energy[:300])
    wider = fit_surrogate(settings(steps=20), far, start=trained)
    assert_allclose(wider.domain.low, trained.domain.low)
    assert float(wider.domain.high[0]) == pytest.approx(far.energy.max())
    assert_allclose(wider.domain.high[1:], trained.domain.high[1:])


def test_a_killed_training_goes_on_bit_for_bit(trained, showers, pale, tmp_path):
    whole = fit_surrogate(
        settings(), pale, start=trained, replay=showers[:500], run=RunFolder.create(tmp_path / "a", {})
    )
    run = RunFolder.create(tmp_path / "b", {})

    def stop(phase: str, done: float) -> None:
        if done >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_surrogate(settings(), pale, start=trained, replay=showers[:500], run=run, progress=stop)
    resumed = fit_surrogate(settings(), pale, start=trained, replay=showers[:500], run=run)
    for one, two in zip(*(jax.tree.leaves(eqx.filter(s, eqx.is_array)) for s in (whole, resumed)), strict=True):
        assert_array_equal(one, two)


def test_settings_take_the_network_of_the_surrogate_they_start_from(trained, showers, pale, tmp_path):
    run = RunFolder.create(tmp_path / "first", {})
    save_surrogate(run, trained, settings(), [showers])
    plain = SurrogateSettings(start_from=run.path, data=(Path("pale.npz"),), replay=(Path("old.npz"),))
    found = started(plain)
    assert found.network == settings().network
    start = starting_point(found)
    assert start is not None
    assert visible(start, pale) == visible(trained, pale)
    card = save_surrogate(RunFolder.create(tmp_path / "second", {}), trained, found, [pale, showers])
    assert [row["file"] for row in card["data"]] == ["pale.npz", "old.npz"]
    assert card["started_from"] == card["weights"]
    assert load_surrogate(tmp_path / "second").stack == trained.stack
    assert started(SurrogateSettings(start_from=Path("shipped"))).network.width == 64
    assert starting_point(SurrogateSettings()) is None


def test_what_does_not_fit_together_is_refused(trained, showers):
    photons = dataclasses.replace(showers[:300], pdg_id=np.full(300, 22))
    with pytest.raises(ValueError, match="the surrogate is of 11, the showers are of 22"):
        fit_surrogate(settings(), photons, start=trained)
    with pytest.raises(ValueError, match="brings its network"):
        started(settings().model_copy(update={"start_from": Path("shipped")}))
    with pytest.raises(ValueError, match="random weights only"):
        started(SurrogateSettings.model_validate({"start_from": "shipped", "network": {"kind": "voxels"}}))
    with pytest.raises(ValueError, match="name one with start_from"):
        started(SurrogateSettings(replay=(Path("old.npz"),)))


def test_stacks_around_one_stay_where_the_surrogate_was_trained():
    surrogate = shipped_surrogate()
    absorber, active = np.linspace(1.6, 4.0, 30), np.full(30, 7.9)
    drawn = around(surrogate, absorber, active, 2000, seed=3)
    x = Incidence(*(jnp.asarray(drawn[name]) for name in ("energy", "angle", "absorber_thickness", "active_thickness")))
    assert bool(jnp.all(surrogate.domain.contains(x)))
    assert_array_equal(around(surrogate, absorber, active, 2000, seed=3)["energy"], drawn["energy"])
    # the stack itself is in the middle, where nothing is cut off, and single layers vary as well as the whole
    ratio = np.log(drawn["absorber_thickness"][:, 15] / absorber[15])
    assert abs(np.median(ratio)) < 0.02
    assert 0.08 < ratio.std() < 0.3
    steps = np.diff(np.log(drawn["absorber_thickness"] / absorber), axis=1)[:, 10:]
    assert 0.05 < steps.std() < 0.2
    assert 0.75 < np.mean(drawn["angle"] == 0) < 0.85


def test_general_stacks_are_those_of_the_domain():
    surrogate = shipped_surrogate()
    calorimeter, beam = everywhere(surrogate, "mixed")
    assert calorimeter.variation == "mixed"
    assert calorimeter.absorber_thickness == (1.5, 8.0)
    assert (calorimeter.layers, calorimeter.active) == (30, surrogate.stack.active)
    assert beam.particle == "e-"
    assert isinstance(beam.energy, tuple)
    assert_allclose(beam.energy, (0.5, 5.0), rtol=1e-3)
