"""Fits that others fail: tight constraints, empty bins, yields from 1e-3 to 1e7, parameters on bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.inference import BinnedModel, Data, fit, histfactory
from diffhep.inference.densities import gaussian
from diffhep.inference.hybrid import HybridModel
from diffhep.inference.unbinned import Component, UnbinnedModel

TIGHT = 2.3e-6  # a relative uncertainty seen in a published workspace: 1.9e11 auxiliary events


def twin(specs, tight):
    """Four bins, a few systematics, one bin-by-bin uncertainty that is either very tight or absent."""
    rng = np.random.default_rng(11)
    s, b = np.array([5.0, 8.0, 3.0, 1.0]), np.array([90.0, 120.0, 60.0, 25.0])
    sys = [specs.modifier(f"ns{q}", "normsys", {"hi": 1.05 + 0.02 * q, "lo": 0.96 - 0.01 * q}) for q in range(3)]
    for q in range(2):
        hi, lo = b * (1 + 0.05 * rng.normal(size=4)), b * (1 - 0.05 * rng.normal(size=4))
        sys.append(specs.modifier(f"hs{q}", "histosys", {"hi_data": hi.tolist(), "lo_data": lo.tolist()}))
    error = b * np.array([TIGHT if tight else 0.0, 0.05, 0.1, 0.2])
    background = specs.sample("b", b, *sys, specs.modifier("unc", "shapesys", error.tolist()))
    signal = specs.sample("s", s, specs.modifier("mu", "normfactor"), sys[0])
    model = histfactory([{"name": "c", "samples": [signal, background]}])
    return model, model.data(np.array([97.0, 135.0, 55.0, 31.0]))


def test_a_very_tight_constraint_is_as_good_as_a_fixed_factor(specs):
    model, data = twin(specs, True)
    other, same = twin(specs, False)
    assert float(jnp.max(model.constraints().spread)) > 1.8e11
    found, oracle = fit(model, data), fit(other, same)
    assert bool(found.converged)
    assert int(found.steps) <= 10
    assert float(found.gradient_norm) < 1e-8
    # a shift of the tight factor of order 1e-11 can move the rest by about as much
    assert_allclose(found.theta, oracle.theta, atol=1e-9)
    assert_allclose(found.nll, oracle.nll, atol=1e-9)


def random_spec(specs, rng, shape):
    """Every kind of systematic; yields of any size, empty bins, a factor with tau = 1.9e11, mu often on its bound."""
    channels, observed = [], []
    for c, (bins, count) in enumerate(shape):
        scale = 10 ** rng.uniform(-3, 7) if rng.random() < 0.5 else 10 ** rng.uniform(0, 3)
        samples, total = [], np.zeros(bins)
        for s in range(count):
            y = scale * rng.uniform(0.05, 1, bins) * np.exp(-rng.uniform(0, 3) * np.arange(bins) / bins)
            y = np.where(rng.random(bins) < 0.1, 0.0, y) * (1 if s else 10 ** rng.uniform(-2, 0))
            mods = [specs.modifier("lumi", "lumi")]
            mods += [specs.modifier("mu", "normfactor")] if s == 0 else []
            mods += [specs.modifier("norm1", "normfactor")] if s == 1 else []
            for q in range(4):
                if (q + s + c) % 2 == 0:
                    a = 10 ** rng.uniform(-3, -0.3)
                    pair = {"hi": 1 + a * rng.uniform(-1, 1), "lo": 1 / (1 + a * rng.uniform(-0.9, 1))}
                    mods.append(specs.modifier(f"ns{q}", "normsys", pair))
            for q in range(3):
                if (q + s + 2 * c) % 3 == 0:
                    h = 10 ** rng.uniform(-3, -0.3) * rng.normal(size=bins)
                    hi, lo = np.clip(y * (1 + h), 0, None), np.clip(y * (1 - rng.uniform(-0.5, 1.5) * h), 0, None)
                    pair = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
                    mods.append(specs.modifier(f"hs{q}", "histosys", pair))
            if s == count - 1:
                relative = 10 ** rng.uniform(-2, -0.3, bins)
                relative[0] = TIGHT if c == 0 else relative[0]
                mods.append(specs.modifier(f"shape{c}", "shapesys", (y * relative).tolist()))
            elif s > 0 or c == 1:
                error = np.sqrt(y * scale * 10 ** rng.uniform(-3, 0))
                mods.append(specs.modifier(f"stat{c}", "staterror", error.tolist()))
            samples.append(specs.sample(f"s{s}", y, *mods))
            total = total + y * (1 if s else rng.choice([0.0, 0.5, 1.0, 2.0]))
        channels.append({"name": f"c{c}", "samples": samples})
        observed.append(rng.poisson(total * np.exp(0.1 * rng.normal(size=bins))))
    return channels, np.concatenate(observed).astype(float)


SHAPES = {"two channels": [(4, 3), (6, 3)], "one bin and three": [(1, 2), (3, 4)], "ten bins": [(10, 3)]}


@pytest.mark.long
def test_a_thousand_random_models_converge_or_say_so(specs):
    """At least 99.9 % of 1002; fits run together, because one compilation serves all models of a shape."""
    converged, honest = [], []
    run = jax.jit(jax.vmap(fit))
    for seed, shape in enumerate(SHAPES.values(), start=1):
        models, data = [], []
        for i in range(334):
            channels, observed = random_spec(specs, np.random.default_rng([seed, i]), shape)
            models.append(histfactory(channels, parameters=[specs.lumi]))
            data.append(models[-1].data(observed))
        together = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        found = run(together(models), together(data))
        good = np.asarray(found.converged)
        converged.append(good)
        honest.append(np.asarray(found.gradient_norm) < 1e-8)
        assert np.all(np.asarray(found.theta) >= np.asarray(together(models).lower))
    converged, honest = np.concatenate(converged), np.concatenate(honest)
    assert np.array_equal(converged, converged & honest)
    assert converged.mean() >= 0.999


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e7])
def test_fits_of_any_size_converge(specs, scale):
    s, b, db, _ = specs.yields(10)
    model = histfactory(specs.counting(0.06 * scale * s, scale * b, scale * db))
    data = model.data(np.rint(scale * b * (1 + 0.01 * np.sin(np.arange(10)))))
    found = fit(model, data)
    assert bool(found.converged)
    assert float(found.gradient_norm) < 1e-8


def test_mu_on_its_bound_is_held_and_said_so(specs):
    s, b, db, _ = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    found = fit(model, model.data(np.rint(0.8 * b)))
    assert bool(found.converged)
    assert float(found["mu"]) == 0.0
    assert found.at_bound.tolist() == [True]


def test_impossible_input_is_a_failure_not_a_number(specs):
    s, b, db, n = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    data = model.data(n)
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan) if x.shape == (10,) else x, data)
    found = fit(model, broken)
    assert not bool(found.converged)
    assert found.reason == "objective not finite"


def counting(background):
    """Two bins with signal in the first only."""
    rates = {"s": jnp.array([5.0, 0.0]), "b": jnp.asarray(background)}
    expected = lambda theta, t: theta[0] * t["s"] + t["b"]
    return BinnedModel(expected, rates, names=("mu",), init=(1.0,), constrained=(), poi="mu")


def peak(low):
    """Events without bins, whose density is nothing beyond forty standard deviations."""
    parts = {"peak": Component(gaussian(0.0, 1.0), "mu", 5.0)}
    return UnbinnedModel(parts, low=low, high=60.0, init={"mu": 1.0}, poi="mu")


def impossible(specs):
    """Name -> model and data with something where the model never expects anything, and the same without it."""
    binned, empty = counting([20.0, 0.0]), jnp.zeros(1)
    events = peak(-5.0)
    factory = histfactory(
        [
            {
                "name": "c",
                "samples": [
                    specs.sample("s", np.array([5.0, 0.0]), specs.modifier("mu", "normfactor")),
                    specs.sample("b", np.array([20.0, 0.0]), specs.modifier("mc", "staterror", [1.0, 0.0])),
                ],
            }
        ]
    )
    count = lambda *n: Data(jnp.array(n), empty)
    return {
        "binned": (binned, count(23.0, 1.0), count(23.0, 0.0)),
        "HistFactory": (factory, factory.data(np.array([23.0, 1.0])), factory.data(np.array([23.0, 0.0]))),
        "unbinned": (events, events.data(jnp.array([0.1, 50.0])), events.data(jnp.array([0.1, 0.3]))),
        "hybrid": (
            HybridModel(binned, events),
            (count(23.0, 0.0), events.data(jnp.array([0.1, 50.0]))),
            (count(23.0, 0.0), events.data(jnp.array([0.1]))),
        ),
    }


@pytest.mark.parametrize("name", ["binned", "HistFactory", "unbinned", "hybrid"])
def test_what_cannot_have_been_observed_is_no_success(specs, name):
    model, bad, good = impossible(specs)[name]
    found = fit(model, bad)
    assert not bool(found.converged)
    assert found.reason == "observed where nothing is expected"
    assert bool(jnp.all(jnp.isfinite(found.theta)))
    again = fit(model, good)
    assert bool(again.converged), again.reason
