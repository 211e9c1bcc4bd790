"""Covariance, impacts, scans, intervals, goodness of fit: against closed forms, pyhf's Hessian and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import chi2

from diffhep.inference import (
    covariance,
    fit,
    goodness_of_fit,
    histfactory,
    impacts,
    intervals,
    scan,
    uncertainties,
)
from diffhep.inference.absolute import parameter_values
from diffhep.inference.uncertainties import correlation

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fitted(specs):
    channels, settings, observed = specs.smooth()
    model = histfactory(channels, parameters=[*settings, {"name": "mu", "bounds": [[-10.0, 20.0]], "inits": [1.0]}])
    data = model.data(observed)
    return model, data, fit(model, data), channels, observed


def test_covariance_is_the_inverse_hessian_of_the_full_likelihood(fitted, specs):
    model, data, best, channels, observed = fitted
    twin = pyhf.Model({"channels": channels, "parameters": [specs.lumi]}, poi_name="mu", validate=False)
    values = parameter_values(model, best.theta, data)
    pars = np.concatenate([np.asarray(values[name]) for name in twin.config.par_order])
    both = [*observed, *twin.config.auxdata]
    free = ~np.array(twin.config.suggested_fixed())
    order = [twin.config.par_map[name]["slice"].start for name in model.names]
    moved = [k for k, name in zip(order, model.names, strict=True) if name != "lumi"]

    def nll(x):
        full = pars.copy()
        full[free] = x
        return -float(np.asarray(twin.logpdf(full, both))[0])

    # steps of half a per cent of each parameter's uncertainty, about
    unit = 0.005 * np.where(np.isin(np.arange(len(pars)), moved), 1.0, 0.02)[free]
    up, x = np.diag(unit), pars[free]
    hessian = np.array(
        [[nll(x + a + b) - nll(x + a - b) - nll(x - a + b) + nll(x - a - b) for a in up] for b in up]
    ) / (4 * unit[:, None] * unit)
    full = np.zeros((len(pars), len(pars)))
    full[np.ix_(free, free)] = np.linalg.inv(hessian)
    # a function of order 100 has rounding of 1e-14, against differences of 2.5e-5; truncation is of the order of 2.5e-5
    assert_allclose(covariance(model, best, data), full[np.ix_(order, order)], rtol=2e-3, atol=2e-5)


def test_correlations_are_normalised(fitted):
    model, data, best, *_ = fitted
    matrix = correlation(covariance(model, best, data))
    moving = np.asarray(jnp.diagonal(matrix)) > 0
    assert_allclose(np.diagonal(matrix)[moving], 1.0, rtol=1e-12)
    assert np.all(np.abs(matrix) <= 1 + 1e-12)


def test_impacts_refitted_and_linear_agree_for_small_shifts(fitted):
    model, data, best, *_ = fitted
    got = impacts(model, data)
    assert np.all(got.converged)
    sigma = uncertainties(model, best, data)
    assert_allclose(got.linear[model.poi], sigma[model.poi], rtol=1e-9)
    # the mean of both sides is linear up to third order in the shift, that is in uncertainties of a few per cent
    assert_allclose(0.5 * (got.up - got.down), got.linear, rtol=0.02, atol=1e-3 * float(sigma[model.poi]))


def test_a_linear_impact_is_the_derivative_of_the_refit(fitted):
    model, data, best, *_ = fitted
    sigma, step = uncertainties(model, best, data), 1e-4
    linear = impacts(model, data).linear
    for name in model.names[1:4]:
        k = model.names.index(name)
        moved = [fit(model, data, fixed={name: best[name] + s * step * sigma[k]})["mu"] for s in (1, -1)]
        assert_allclose((moved[0] - moved[1]) / (2 * step), linear[k], rtol=1e-4, atol=1e-7)


def test_pulls_and_constraints_of_unconstrained_data_are_one(specs):
    # a nuisance without effect keeps its width
    sample = specs.sample(
        "b", [50.0], specs.modifier("mu", "normfactor"), specs.modifier("n", "normsys", {"hi": 1, "lo": 1})
    )
    model = histfactory([{"name": "c", "samples": [sample]}])
    got = impacts(model, model.data(np.array([55.0])))
    k = model.names.index("n")
    assert_allclose([got.pull[k], got.constraint[k]], [0.0, 1.0], atol=1e-9)
    assert_allclose([got.up[k], got.linear[k]], 0.0, atol=1e-9)


def test_impacts_are_differentiable(fitted, check_derivatives):
    model, data, *_ = fitted

    def f(k):
        changed = jax.tree.map(lambda x: x, model)
        changed = type(model)(**{**vars(changed), "nominal": model.nominal * k})
        got = impacts(changed, data)
        return got.linear @ jnp.arange(len(model.names)) + got.up[1]

    check_derivatives(f, jnp.array(1.0), order=1)


def test_scan_is_the_profile_likelihood(fitted):
    model, data, best, *_ = fitted
    points = best["mu"] + jnp.array([-0.1, 0.0, 0.1])
    curve = scan(model, data, "mu", points)
    assert np.all(curve.converged)
    assert_allclose(curve.nll[1], best.nll, atol=1e-10)
    for k in (0, 2):
        assert_allclose(curve.nll[k], fit(model, data, fixed={"mu": points[k]}).nll, rtol=1e-9)
    with pytest.raises(ValueError, match="no parameter 'kappa'"):
        scan(model, data, "kappa", points)


def test_intervals_are_where_the_likelihood_rises_by_one(fitted):
    model, data, best, *_ = fitted
    for rise in (1.0, 3.84):
        got = intervals(model, data, rise)
        assert np.all(got.converged)
        for name in model.names:
            k = model.names.index(name)
            for end in (got.low[k], got.high[k]):
                at_bound = float(end) in (float(model.lower[k]), float(model.upper[k]))
                above = 2 * float(fit(model, data, fixed={name: end}).nll - best.nll)
                assert above <= rise + 1e-8 if at_bound else abs(above - rise) < 1e-8


def test_intervals_of_a_poisson_mean_are_the_closed_form():
    from diffhep.inference import BinnedModel, Data

    model = BinnedModel(
        lambda theta, t: theta * t,
        jnp.ones(1),
        names=("mu",),
        init=(5.0,),
        constrained=(),
        poi="mu",
        bounds={"mu": (0, 50)},
    )
    got = intervals(model, Data(jnp.array([7.0]), jnp.zeros(1)))
    rise = lambda mu: abs(2 * (mu - 7 - 7 * np.log(mu / 7)) - 1)
    low = minimize(rise, 4.6, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12}).x[0]
    high = minimize(rise, 10.0, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12}).x[0]
    assert_allclose([got.low[0], got.high[0]], [low, high], atol=1e-7)


def test_goodness_of_fit_is_distributed_as_chi_squared(specs):
    s, b, db, _ = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    keys = jax.random.split(jax.random.key(4), 1500)
    run = jax.jit(jax.vmap(lambda key: goodness_of_fit(model, model.sample(jnp.ones(1), key=key))))
    got = run(keys)
    assert float(got.ndf[0]) == 9.0
    assert_allclose(got.p_value, chi2.sf(got.statistic, 9.0), rtol=1e-9)
    # mean 9 and variance 18, with standard errors sqrt(18/1500) and 18 sqrt(2/1500 + ...): four of them
    assert abs(float(jnp.mean(got.statistic)) - 9.0) < 4 * np.sqrt(18 / 1500)
    assert abs(float(jnp.mean(got.p_value < 0.5)) - 0.5) < 4 * 0.5 / np.sqrt(1500)
