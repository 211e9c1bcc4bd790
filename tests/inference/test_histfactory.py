"""The HistFactory model against pyhf: density, expected data, all modifiers and interpolation codes; derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose

from diffhep.inference import fit, histfactory
from diffhep.inference.absolute import expected_counts, logpdf, parameter_values, twice_nll
from diffhep.inference.specification import POISSON
from diffhep.inference.workspace import mask_bins

CODES = [("code4", "code4p"), ("code1", "code0"), ("code4", "code2"), ("code1", "code4p")]


def pyhf_twin(channels, settings, codes):
    chosen = {"normsys": {"interpcode": codes[0]}, "histosys": {"interpcode": codes[1]}}
    spec = {"channels": channels, "parameters": settings}
    return pyhf.Model(spec, poi_name="mu", validate=False, modifier_settings=chosen)


def random_points(twin, rng, count, reach):
    """Random parameters inside their bounds, by name and in pyhf's order."""
    for _ in range(count):
        pars = np.array(twin.config.suggested_init())
        for name in twin.config.par_order:
            part = twin.config.par_slice(name)
            low, high = np.array(twin.config.suggested_bounds())[part].T
            wide = pars[part] + rng.uniform(-reach, reach, pars[part].shape)
            pars[part] = np.clip(wide, low, high)
        yield pars, {name: pars[twin.config.par_slice(name)] for name in twin.config.par_order}


@pytest.mark.parametrize("seed", range(12))
def test_density_and_expectation_equal_pyhfs(specs, seed):
    channels, settings, observed = specs.random(seed)
    codes = CODES[seed % 4]
    twin = pyhf_twin(channels, settings, codes)
    model = histfactory(channels, parameters=settings, normsys_code=codes[0], histosys_code=codes[1])
    # pyhf sorts channels by name, and so do these names
    data, both = model.data(observed), [*observed, *twin.config.auxdata]
    ours = jax.jit(lambda values: (logpdf(model, values, data), expected_counts(model, values)))
    # code 2 beyond |alpha| = 1: pyhf jumps, see diffhep.inference.interpolation
    reach = 0.95 if codes[1] == "code2" else 2.5
    for pars, values in random_points(twin, np.random.default_rng(seed), 20, reach):
        density, expected = ours(values)
        assert_allclose(expected, twin.expected_data(pars, include_auxdata=False), rtol=1e-10)
        assert_allclose(density, np.asarray(twin.logpdf(pars, both))[0], rtol=1e-10)


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_profiled_likelihood_is_the_minimum_over_the_factors(specs, seed):
    channels, settings, observed = specs.random(seed)
    twin = pyhf_twin(channels, settings, CODES[0])
    model = histfactory(channels, parameters=settings)
    data, theta = model.data(observed), model.init + 0.1
    values = parameter_values(model, theta, data)
    pars = np.concatenate([np.asarray(values[name]) for name in twin.config.par_order])
    both = [*observed, *twin.config.auxdata]
    best = -2 * np.asarray(twin.logpdf(pars, both))[0]
    assert_allclose(twice_nll(model, theta, data), best, rtol=1e-10)
    rng = np.random.default_rng(seed)
    free = np.isin(twin.config.par_order, [g.name for g in model.structure.gammas])
    assert np.any(free)
    for _ in range(20):
        moved = pars.copy()
        for name, is_free in zip(twin.config.par_order, free, strict=True):
            part = twin.config.par_slice(name)
            held = np.array(twin.config.suggested_fixed())[part]
            moved[part] += is_free * ~held * 1e-3 * rng.normal(size=held.shape)
        assert -2 * np.asarray(twin.logpdf(np.maximum(moved, 1e-10), both))[0] > best - 1e-9


def analytic_models(specs):
    for seed in (1, 4):
        channels, settings, observed = specs.random(seed)
        yield histfactory(channels, parameters=settings), observed


@jax.jit
def both_derivatives(model, theta, data):
    """Value, gradient and Hessian, as the model has them and by automatic differentiation."""
    automatic = model.nll(theta, data), jax.grad(model.nll)(theta, data), jax.hessian(model.nll)(theta, data)
    return model.derivatives(theta, data), automatic


def test_analytic_derivatives_equal_automatic_ones(specs):
    seen = set()
    for model, observed in analytic_models(specs):
        seen |= {kind for channel in model.structure.modifiers for cell in channel for _, kind, _ in cell}
        rng = np.random.default_rng(2)
        theta = model.init + 0.3 * rng.normal(size=len(model.names))
        data = model.data(observed)
        got, automatic = both_derivatives(model, theta, data)
        assert_allclose(got[0], automatic[0], rtol=1e-12)
        assert_allclose(got[1], automatic[1], rtol=1e-9, atol=1e-9)
        assert_allclose(got[2], automatic[2], rtol=1e-9, atol=1e-10 * np.max(np.abs(automatic[2])))
    assert seen >= {"normfactor", "normsys", "histosys", "staterror", "shapesys", "lumi"}


def test_derivatives_are_finite_where_a_factor_is_zero(specs):
    s, b, db, n = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    (_, gradient, hessian), (_, slope, bend) = both_derivatives(model, jnp.zeros(1), model.data(n))
    assert_allclose(gradient, slope, rtol=1e-12)
    assert_allclose(hessian, bend, rtol=1e-12)


def test_gradients_with_respect_to_templates_and_uncertainties(specs, check_derivatives):
    channels, settings, observed = specs.random(5)
    model = histfactory(channels, parameters=settings)
    data, theta = model.data(observed), model.init + 0.2
    where = lambda m: (m.nominal, m.sys_lo, m.sys_hi, m.shape_lo, m.shape_hi, m.errors)
    leaves = tuple(jnp.where(leaf == 0, 0.0, leaf) for leaf in where(model))

    def f(x):
        scaled = tuple(leaf * jnp.exp(change) for leaf, change in zip(leaves, x[0], strict=True))
        changed = eqx.tree_at(where, model, scaled)
        return changed.nll(x[1], eqx.tree_at(lambda d: d.counts, data, data.counts * jnp.exp(x[2])))

    x = (tuple(0.01 * jnp.ones_like(leaf) for leaf in leaves), theta, 0.01 * jnp.ones_like(data.counts))
    check_derivatives(f, x)


@pytest.mark.parametrize(
    ("n", "kind", "mu", "value"),
    [
        ("REF", "shapesys", 0.0, 24.98393520),
        (2, "shapesys", 1.06796926, 28.92144376),
        (10, "shapesys", 0.03641508, 129.52687332),
        (50, "shapesys", 0.44525262, 578.75292504),
        (200, "shapesys", 0.42190683, 2046.50311544),
        (2, "staterror", 1.06819358, 10.49745186),
        (10, "staterror", 0.03825554, 37.42715552),
        (50, "staterror", 0.44963473, 118.15492406),
        (200, "staterror", 0.42330034, 204.10248999),
    ],
)
def test_best_fits_of_the_reference_tables(specs, n, kind, mu, value):
    s, b, db, observed = specs.yields(n)
    model = histfactory(specs.counting(s, b, db, kind))
    data = model.data(observed)
    found = fit(model, data)
    assert bool(found.converged)
    # the tables have eight decimals
    assert_allclose(found["mu"], mu, atol=6e-9)
    assert_allclose(twice_nll(model, found.theta, data), value, atol=6e-9)


def test_big_converges_from_the_default_start_to_the_lower_minimum(specs):
    channels, settings, observed = specs.big()
    model = histfactory(channels, parameters=settings)
    data = model.data(observed)
    found = fit(model, data)
    assert len(model.names) + len(model.structure.gammas) * 25 == 265
    assert bool(found.converged)
    assert float(found.gradient_norm) < 1e-8
    assert_allclose(found["mu"], 0.50325111, atol=6e-9)
    assert_allclose(twice_nll(model, found.theta, data), 623.1401524, atol=6e-8)


def test_masked_bins_are_as_if_they_were_not_there(specs):
    s, b, db, observed = specs.yields(10)
    keep = [0, 1, 2, 5, 6, 9]
    masked = mask_bins(histfactory(specs.counting(s, b, db)), "c", [3, 4, 7, 8])
    short = histfactory(specs.counting(s[keep], b[keep], db[keep]))
    one, other = fit(masked, masked.data(observed)), fit(short, short.data(observed[keep]))
    assert_allclose(one["mu"], other["mu"], rtol=1e-10)
    assert_allclose(twice_nll(masked, one.theta, masked.data(observed)), full_likelihood(masked, one, observed))
    assert_allclose(one.nll, other.nll, rtol=1e-10)


def full_likelihood(model, found, observed):
    """-2 ln L recomputed from the full density."""
    data = model.data(observed)
    return -2 * logpdf(model, parameter_values(model, found.theta, data), data)


def test_a_masked_channel_leaves_the_others(specs):
    channels, settings, observed = specs.random(1)
    rest = [c for c in channels if c["name"] != "c0"]
    skip = len(channels[0]["samples"][0]["data"])
    masked = mask_bins(histfactory(channels, parameters=settings), "c0")
    short = histfactory(rest, parameters=settings)
    one = masked.nll(masked.init + 0.2, masked.data(observed))
    other = short.nll(short.init + 0.2, short.data(observed[skip:]))
    # parameters of the masked channel alone keep their constraint, Poisson with tau auxiliary events
    parameters = zip(masked.names, masked.structure.kinds, masked.spread, strict=True)
    alone = [(kind, w) for name, kind, w in parameters if name not in short.names]
    assert {kind for kind, _ in alone} == {POISSON}
    kept = sum(w * (0.2 - np.log(1.2)) for _, w in alone)
    assert_allclose(one, other + kept, rtol=1e-10)
    with pytest.raises(ValueError, match="no channel 'c9'; the model has c0, c1"):
        mask_bins(masked, "c9")
    with pytest.raises(ValueError, match="channel 'c0' has bins 0 to"):
        mask_bins(masked, "c0", [99])


def test_other_numbers_do_not_compile_again(specs):
    traced = []

    @eqx.filter_jit
    def value(model, data):
        traced.append(1)
        return fit(model, data).nll

    for k in range(5):
        s, b, db, observed = specs.yields(10)
        model = histfactory(specs.counting(s * (1 + k), b + k, db))
        value(model, model.data(observed + k))
    assert len(traced) == 1


@pytest.mark.long
def test_gradients_pass_through_the_fit(specs, check_derivatives):
    channels, settings, observed = specs.random(2)
    model = histfactory(channels, parameters=settings)
    data = model.data(observed)

    def f(x):
        changed = eqx.tree_at(
            lambda m: (m.nominal, m.errors), model, (model.nominal * jnp.exp(x[0]), model.errors * x[1])
        )
        found = fit(changed, eqx.tree_at(lambda d: d.counts, data, data.counts * x[2]))
        return found["mu"] + found.nll

    check_derivatives(f, (jnp.zeros_like(model.nominal), jnp.ones_like(model.errors), jnp.ones_like(data.counts)))
