"""Unbinned and hybrid likelihoods: densities against scipy, fits against closed forms and against bins."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.optimize import minimize

from diffhep.inference import BinnedModel, Data
from diffhep.inference.asymptotics import expected_discovery
from diffhep.inference.densities import crystal_ball, density, exponential, gaussian
from diffhep.inference.fitting import fit
from diffhep.inference.hybrid import HybridModel
from diffhep.inference.unbinned import Component, UnbinnedData, UnbinnedModel

pytestmark = pytest.mark.long

LOW, HIGH = 100.0, 160.0
X = np.linspace(LOW, HIGH, 25)


def scipy_crystal_ball(x, mean, sigma, alpha, power):
    # scipy wants a power above 1
    shape: Any = stats.crystalball(beta=alpha, m=power, loc=mean, scale=sigma)
    return shape.pdf(x) / (shape.cdf(HIGH) - shape.cdf(LOW))


def truncated(distribution: Any):
    return lambda x: distribution.pdf(x) / (distribution.cdf(HIGH) - distribution.cdf(LOW))


DENSITIES = {
    "gaussian": (gaussian, (125.0, 1.7), truncated(stats.norm(125.0, 1.7))),
    "gaussian, in a tail": (gaussian, (60.0, 5.0), None),
    "gaussian, wide": (gaussian, (130.0, 500.0), truncated(stats.norm(130.0, 500.0))),
    "exponential": (exponential, (-0.05,), truncated(stats.expon(LOW, 20.0))),
    "exponential, rising": (exponential, (0.4,), None),
    "exponential, nearly flat": (exponential, (1e-5,), None),
    "uniform": (exponential, (0.0,), truncated(stats.uniform(LOW, HIGH - LOW))),
    "crystal ball": (crystal_ball, (125.0, 1.7, 1.5, 3.0), lambda x: scipy_crystal_ball(x, 125.0, 1.7, 1.5, 3.0)),
    "crystal ball, power 1": (crystal_ball, (125.0, 1.7, 1.5, 1.0), None),
    "crystal ball, nearly 1": (crystal_ball, (125.0, 1.7, 1.5, 1.0 + 1e-8), None),
    "crystal ball, tail only": (
        crystal_ball,
        (170.0, 1.7, 1.5, 2.5),
        lambda x: scipy_crystal_ball(x, 170, 1.7, 1.5, 2.5),
    ),
    "crystal ball, core only": (
        crystal_ball,
        (90.0, 30.0, 1.5, 2.5),
        lambda x: scipy_crystal_ball(x, 90, 30, 1.5, 2.5),
    ),
}


def fine(panels=4000, order=4):
    """Nodes and weights of a quadrature much finer than any shape here."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    x = LOW + (HIGH - LOW) * (np.arange(panels)[:, None] + 0.5 * (nodes + 1)) / panels
    return x.ravel(), np.tile(weights, panels) * (HIGH - LOW) / (2 * panels)


@functools.cache
def compiled(make, arguments):
    names = tuple(map(str, range(arguments)))
    run = lambda x, a: make(*names).log_density(x, jnp.array(LOW), jnp.array(HIGH), dict(zip(names, a, strict=True)))
    return jax.jit(run)


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_scipys_and_normalised(name):
    make, arguments, wanted = DENSITIES[name]
    nodes, weights = fine()
    got = np.exp(compiled(make, len(arguments))(np.append(nodes, X), jnp.array(arguments)))
    # the quadrature's own error is largest across the kink of a crystal ball, the cube of a step
    assert_allclose(weights @ got[: nodes.size], 1.0, rtol=1e-9)
    if wanted is not None:
        # scipy subtracts two cumulative distributions of order one
        assert_allclose(got[nodes.size :], wanted(X), rtol=1e-9, atol=1e-300)


def test_a_density_of_the_users_own_is_normalised_by_quadrature():
    own = density(lambda x, m, s: -0.5 * ((x - m) / s) ** 2, 125.0, 1.0)
    closed = gaussian(125.0, 1.0)
    at = lambda d: d.log_density(jnp.asarray(X), jnp.array(LOW), jnp.array(HIGH), {})
    # parts of the range are half a sigma wide
    assert_allclose(at(own), at(closed), rtol=1e-9)


def test_gradients_of_densities_equal_finite_differences(check_derivatives):
    x = jnp.asarray(X[1:-1])

    def f(a):
        values = {str(i): v for i, v in enumerate(a)}
        made = [
            gaussian("0", "1"),
            exponential("2"),
            crystal_ball("0", "1", "3", "4"),
            crystal_ball("0", "1", "3", "5"),
        ]
        logs = [d.log_density(x, a[6], jnp.array(HIGH), values) for d in made]
        return jnp.mean(jnp.sin(jnp.arange(23.0)) * sum(0.1 * log for log in logs))

    # the last power is 1, where the tail's integral is a logarithm; second derivatives jump where the tail begins
    check_derivatives(f, tuple(map(jnp.array, (125.0, 9.0, -0.03, 1.5, 3.0, 1.0, LOW))), step=1e-4, order=1)


def model(**options: Any) -> UnbinnedModel:
    parts = {
        "signal": Component(crystal_ball("mass", 1.7, 1.6, 4.0), "mu", 60.0),
        "background": Component(exponential("slope"), "background"),
    }
    arguments = {
        "init": {"mu": 1.0, "mass": 125.0, "slope": -0.02, "background": 1000.0},
        "constraints": {"mass": (125.0, 0.2)},
        "poi": "mu",
    }
    return UnbinnedModel(parts, low=LOW, high=HIGH, **(arguments | options))


@pytest.fixture(scope="module")
def fitted():
    """One compiled fit, and its derivative in the events: of mu-hat, and of the minimum."""

    def run(x, data, m):
        found = fit(m, eqx.tree_at(lambda d: d.x, data, x))
        return found.theta @ jnp.array([1.0, 0.3, 20.0, 1e-3]), found

    return eqx.filter_jit(eqx.filter_value_and_grad(run, has_aux=True))


def test_the_fit_is_scipys(fitted):
    m = model()
    data = m.sample(m.init, key=jr.key(1))
    (_, found), _ = fitted(data.x, data, m)
    assert bool(found.converged)
    x = np.asarray(data.x)[np.asarray(data.weight) > 0]

    def twice(theta):
        mu, mass, slope, b = theta * np.array([1.0, 100.0, 0.01, 1000.0])
        fall = np.exp(slope * (x - LOW)) * slope / np.expm1(slope * (HIGH - LOW))
        rate = 60 * mu * scipy_crystal_ball(x, mass, 1.7, 1.6, 4.0) + b * fall
        pull = (mass - float(data.auxiliary[1])) / 0.2
        return 2 * (60 * mu + b - np.sum(np.log(rate))) + pull**2

    start = np.array([1.0, 1.25, -2.0, 1.0])
    options = {"xatol": 1e-9, "fatol": 1e-10, "maxiter": 4000, "maxfev": 8000}
    best: Any = minimize(twice, start, method="Nelder-Mead", options=options)
    # a simplex that stops at 1e-10 of a parabola is 1e-5 standard deviations off
    assert_allclose(found.theta, best.x * [1.0, 100.0, 0.01, 1000.0], rtol=1e-5)
    rise = 2 * float(m.nll(m.init, data) - found.nll)
    assert_allclose(rise, twice(start) - best.fun, rtol=1e-7, atol=1e-8)


def test_gradient_of_the_fit_reaches_the_events(fitted):
    m = model()
    data = m.sample(m.init, key=jr.key(1))
    direction = np.sin(np.arange(data.x.size)) * (np.abs(data.x - 130) < 29)
    (_, _), gradient = fitted(data.x, data, m)
    value = lambda t: float(fitted(data.x + t * direction, data, m)[0][0])
    h = 1e-4
    quotient = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    # the fit is good to 1e-12 or so, over the step
    assert_allclose(gradient @ direction, quotient, rtol=1e-6, atol=1e-8)


def padded(data, size):
    """The same data with events that do not count, so that one program serves all fits."""
    more = size - data.x.size
    fill = lambda x: jnp.concatenate([x, jnp.ones(more)])
    weight = jnp.concatenate([data.weight, jnp.zeros(more)])
    return UnbinnedData(fill(data.x).at[-more:].set(130.0), weight, fill(data.reference), data.auxiliary)


def test_asimov_data_give_their_parameters_back_and_the_minimum_is_zero(fitted):
    m = model()
    truth = jnp.array([1.6, 125.3, -0.015, 900.0])
    data = padded(jax.jit(lambda t: m.asimov(t))(truth), m.capacity)
    (_, found), _ = fitted(data.x, data, m)
    # quadrature across the kink of the crystal ball: 1e-4 of the uncertainties at most
    assert_allclose(found.theta, truth, rtol=1e-6)
    assert_allclose(found.nll, 0.0, atol=1e-8)


def test_significance_is_the_limit_of_narrow_bins():
    m = model(constraints={})
    # parameters that only the signal knows are taken for known
    m = UnbinnedModel(
        {"signal": Component(gaussian(125.0, 1.7), "mu", 60.0), "background": Component(exponential("slope"), "b")},
        low=LOW,
        high=HIGH,
        init={"mu": 1.0, "slope": -0.02, "b": 1000.0},
        poi="mu",
    )
    edges = np.linspace(LOW, HIGH, 601)
    signal = 60 * np.diff(stats.norm.cdf(edges, 125.0, 1.7))

    def expected(theta, t):
        integral = jnp.exp(theta[1] * (t["edges"] - LOW))
        return theta[0] * t["s"] + theta[2] * jnp.diff(integral) / (integral[-1] - integral[0])

    templates = {"s": jnp.asarray(signal), "edges": jnp.asarray(edges)}
    binned = BinnedModel(
        expected, templates, names=("mu", "slope", "b"), init=(1.0, -0.02, 1000.0), constrained=(), poi="mu"
    )
    one, other = jax.jit(expected_discovery)(m), jax.jit(expected_discovery)(binned)
    assert bool(one.converged & other.converged)
    # what bins of a width d lose is of the order (d/sigma)^2/12 = 3e-4 of the square, half of it of the root
    assert_allclose(one.significance, other.significance, rtol=3e-4)
    assert_allclose(one.sigma_mu, other.sigma_mu, rtol=3e-4)
    assert float(one.significance) > float(other.significance)


def test_pseudo_experiments_follow_the_rate_and_the_constraints():
    m = model()
    keys = jr.split(jr.key(7), 400)
    toys = jax.jit(jax.vmap(lambda key: m.sample(m.init, key=key)))(keys)
    n = jnp.sum(toys.weight, axis=1)
    # a mean of 400 Poisson numbers, four standard deviations; a variance likewise
    assert abs(float(jnp.mean(n)) - 1060) < 4 * np.sqrt(1060 / 400)
    assert abs(float(jnp.var(n)) / 1060 - 1) < 4 * np.sqrt(2 / 400)
    x = np.asarray(toys.x)[np.asarray(toys.weight) > 0]
    nodes, weights = fine(600, 4)
    share = (weights * np.asarray(m.rate(m.init, jnp.asarray(nodes)))).reshape(60, -1).sum(axis=1) / 1060
    grid = np.linspace(LOW, HIGH, 61)
    p = stats.chisquare(np.histogram(x, grid)[0], share / np.sum(share) * x.size).pvalue
    assert p > 1e-4
    assert abs(float(jnp.std(toys.auxiliary[:, 1])) / 0.2 - 1) < 4 / np.sqrt(800)


def test_too_many_events_are_a_failure_not_a_number(fitted):
    m = model()
    data = m.sample(m.init.at[3].set(3000.0), key=jr.key(1))
    (_, found), _ = fitted(data.x, data, m)
    assert not bool(found.converged)
    assert "not finite" in found.reason


def test_events_outside_the_range_and_without_weight_do_not_count():
    m = model()
    inside = np.array([101.0, 125.0, 140.0])
    alone = m.data(inside, np.array([1.0, 0.5, 2.0]))
    more = m.data(np.append(inside, [99.0, 161.0, 130.0]), np.array([1.0, 0.5, 2.0, 1.0, 1.0, 0.0]))
    assert_allclose(m.nll(m.init, more), m.nll(m.init, alone), rtol=1e-14)
    # the closed form, with the uniform rate of 3.5 events for reference
    rate = np.asarray(m.rate(m.init, jnp.asarray(inside)))
    wanted = 1060 - 3.5 - np.array([1.0, 0.5, 2.0]) @ np.log(rate / (3.5 / 60))
    assert_allclose(m.nll(m.init, alone), wanted, rtol=1e-12)


def counting(name="background", init=1000.0, constrained=()):
    expected = lambda theta, t: t["share"] * theta[1] + theta[0] * t["s"]
    templates = {"share": jnp.array([0.3, 0.1]), "s": jnp.array([2.0, 9.0])}
    return BinnedModel(expected, templates, names=("mu", name), init=(1.0, init), constrained=constrained, poi="mu")


def test_a_hybrid_is_the_sum_of_its_parts():
    m, c = model(), counting()
    both = HybridModel(m, c)
    assert both.names == ("mu", "mass", "slope", "background")
    theta = jnp.array([1.3, 125.1, -0.018, 950.0])
    data = (m.sample(m.init, key=jr.key(1)), Data(jnp.array([290.0, 110.0]), jnp.zeros(2)))
    total = m.nll(theta, data[0]) + c.nll(theta[jnp.array([0, 3])], data[1])
    value, gradient, hessian = jax.jit(lambda t, d: both.derivatives(t, d))(theta, data)
    assert_allclose(value, total, rtol=1e-13)
    assert_allclose(both.nll(theta, data), total, rtol=1e-13)
    # the models' own derivatives against automatic ones of the sum
    automatic = jax.jit(jax.value_and_grad(lambda t: both.nll(t, data)))
    assert_allclose(gradient, automatic(theta)[1], rtol=1e-9)
    assert_allclose(hessian, jax.jit(jax.hessian(lambda t: both.nll(t, data)))(theta), rtol=1e-8, atol=1e-8)
    center, width = both.constraint_of(data)
    assert_allclose(width, [0.0, 0.2, 0.0, 0.0])
    assert_allclose(center[1], data[0].auxiliary[1])
    assert np.isnan(both.degrees_of_freedom())


def test_a_hybrid_fit_of_bins_is_the_fit_of_all_bins():
    one = counting()
    two = BinnedModel(
        lambda theta, t: theta[1] * t["s"] + theta[0] * t["b"],
        {"s": jnp.array([5.0, 1.0, 0.5]), "b": jnp.array([0.05, 0.1, 0.2])},
        names=("background", "mu"),
        init=(1000.0, 1.0),
        constrained=(),
        poi="mu",
    )
    joint = BinnedModel(
        lambda theta, t: jnp.concatenate([one.expected(theta), two.expected(theta[::-1])]),
        (),
        names=("mu", "background"),
        init=(1.0, 1000.0),
        constrained=(),
        poi="mu",
    )
    n = jnp.array([310.0, 95.0, 49.0, 104.0, 215.0])
    both = HybridModel(one, two)
    found = fit(both, (Data(n[:2], jnp.zeros(2)), Data(n[2:], jnp.zeros(2))))
    wanted = fit(joint, Data(n, jnp.zeros(2)))
    assert_allclose(found.theta, wanted.theta, rtol=1e-10)
    assert_allclose(found.nll, wanted.nll, rtol=1e-10)
    assert float(both.degrees_of_freedom()) == float(joint.degrees_of_freedom()) == 3.0


def test_hybrid_gradients_and_pseudo_experiments(check_derivatives):
    m, c = model(), counting()

    def f(s):
        both = HybridModel(
            eqx.tree_at(lambda m: m.components["signal"].constant, m, s[0]),
            eqx.tree_at(lambda c: c.templates["s"], c, s[1]),
        )
        return expected_discovery(both).significance

    check_derivatives(f, (jnp.array(60.0), jnp.array([2.0, 9.0])), order=1)
    both = HybridModel(m, c)
    draw = jax.jit(lambda key: both.sample(both.init, key=key))
    one, other, new = draw(jr.key(0)), draw(jr.key(0)), draw(jr.key(1))
    assert not np.array_equal(one[0].x, new[0].x)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


PARTS = {"flat": Component(exponential(0.0), "n")}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UnbinnedModel({}, low=0.0, high=1.0, init={}), "components: at least one"),
        (lambda: UnbinnedModel(PARTS, low=1.0, high=1.0, init={"n": 5.0}), "range: two finite, increasing numbers"),
        (lambda: UnbinnedModel(PARTS, low=-np.inf, high=1.0, init={"n": 5.0}), "range: .* got -inf and 1.0"),
        (lambda: UnbinnedModel(PARTS, low=0.0, high=1.0, init={}), "'flat': parameter 'n' has no start value"),
        (lambda: UnbinnedModel(PARTS, low=0.0, high=1.0, init={"n": 5.0, "k": 1.0}), "no component depends on .*'k'"),
        (lambda: UnbinnedModel(PARTS, low=0.0, high=1.0, init={"n": 5.0}, poi="mu"), "no parameter 'mu'"),
        (
            lambda: UnbinnedModel(PARTS, low=0.0, high=1.0, init={"n": 5.0}, bounds={"n": (6.0, 9.0)}),
            "start value 5.0 of 'n' outside its bounds",
        ),
        (
            lambda: UnbinnedModel(PARTS, low=0.0, high=1.0, init={"n": 5.0}, constraints={"n": (5.0, 0.0)}),
            "constraint of 'n': .* got 5.0, 0.0",
        ),
        (lambda: gaussian("m", 0.0), "sigma: a positive number"),
        (lambda: crystal_ball("m", 1.0, -1.0, 2.0), "alpha: a positive number"),
        (lambda: model().data(np.array([1.0, np.nan])), "x of event 1 is nan"),
        (lambda: model().data(np.ones(2), np.ones(1)), r"got shapes \(2,\) and \(1,\)"),
        (lambda: HybridModel(), "at least one model"),
        (
            lambda: HybridModel(model(), counting(init=900.0)),
            "'background': the models start it at 1000.0 and at 900.0",
        ),
        (lambda: HybridModel(model(), counting(), poi="nu"), "no parameter 'nu'"),
        (
            lambda: HybridModel(model(), counting("mass", 125.0, ("mass",))),
            "'mass': two models constrain it",
        ),
    ],
)
def test_models_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
