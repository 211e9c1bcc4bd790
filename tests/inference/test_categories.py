"""Categories of a score: the known optima, independent events, invariance, and the gradients that reach the events."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from diffhep.inference.asymptotics import discovery_significance
from diffhep.inference.categories import category_counts, optimise_categories
from diffhep.inference.likelihood import BinnedModel

SIGNAL, BACKGROUND = 50.0, 500.0
# section 3.9 of the inference reference: five categories, relative systematics -> exact optimum
OPTIMA = {0.1: 5.078067, 0.0: 5.379286}
TRAINING = 300_000


def events(seed, n):
    rng = np.random.default_rng(seed)
    return rng.normal(0.8, 1.0, n), rng.normal(-0.8, 1.0, n)


def significance(s, b, systematics):
    """The reference's formula, 0.001 added to signal and background of every category."""
    s, b = s + 0.001, b + 0.001
    if not systematics:
        return np.sqrt(2 * np.sum((s + b) * np.log1p(s / b) - s))
    v = (systematics * b) ** 2
    inner = (s + b) * np.log((s + b) * (b + v) / (b**2 + (s + b) * v)) - b**2 / v * np.log1p(v * s / (b * (b + v)))
    return np.sqrt(2 * np.sum(inner))


def contents(ordered, cuts):
    """Share of the events in each category."""
    return np.diff([0, *np.searchsorted(ordered, cuts), ordered.size]) / ordered.size


@pytest.fixture(scope="module")
def found():
    """Twenty starts, with and without systematics; one program."""
    s, b = events(1, TRAINING)
    weights = np.full(TRAINING, SIGNAL / TRAINING), np.full(TRAINING, BACKGROUND / TRAINING)
    run = lambda f: optimise_categories(s, weights[0], b, weights[1], bins=5, systematics=f, key=jr.key(0))
    return {f: run(f) for f in OPTIMA}


@pytest.mark.parametrize("systematics", OPTIMA)
def test_nearly_all_starts_reach_the_optimum_on_independent_events(found, systematics):
    s, b = map(np.sort, events(2, 1_000_000))
    cuts = np.asarray(found[systematics].cuts)
    assert cuts.shape == (20, 4)
    z = [significance(SIGNAL * contents(s, c), BACKGROUND * contents(b, c), systematics) for c in cuts]
    assert np.sum(np.array(z) >= 0.995 * OPTIMA[systematics]) >= 19
    # no set of cuts beats the optimum on the exact distributions
    ends = np.concatenate([np.full((20, 1), -np.inf), cuts, np.full((20, 1), np.inf)], axis=1)
    exact = [np.diff(norm.cdf(ends - at)) for at in (0.8, -0.8)]
    truth = [significance(SIGNAL * p, BACKGROUND * q, systematics) for p, q in zip(*exact, strict=True)]
    assert np.max(truth) <= OPTIMA[systematics] * (1 + 1e-6)
    assert np.sum(np.array(truth) >= 0.995 * OPTIMA[systematics]) >= 19


@pytest.mark.parametrize("systematics", OPTIMA)
def test_the_report_is_of_the_hard_histogram(found, systematics):
    result = found[systematics]
    s, b = map(np.sort, events(1, TRAINING))
    weight = BACKGROUND / TRAINING
    for k in (0, int(result.best)):
        cuts = np.asarray(result.cuts[k])
        n, m = SIGNAL * contents(s, cuts), BACKGROUND * contents(b, cuts)
        v = (systematics * m) ** 2 + m * weight
        inner = (n + m) * np.log((n + m) * (m + v) / (m**2 + (n + m) * v))
        inner = inner - m**2 / v * np.log1p(v * n / (m * (m + v)))
        assert_allclose(result.significance[k], np.sqrt(2 * np.sum(inner)), rtol=1e-9)
    assert float(result.significance[result.best]) == float(jnp.max(result.significance))
    # kernels that reach over half a per cent of all events against none
    assert_allclose(result.relaxed, result.significance, rtol=0.02)
    assert float(result.agreement) >= 0.9


def small(**options):
    s, b = events(3, 2000)
    arguments = {"bins": 2, "starts": 2, "steps": 40, "key": jr.key(4)} | options
    return optimise_categories(s, np.full(2000, 0.02), b, np.full(2000, 0.2), **arguments)


@functools.cache
def compiled():
    """Significance of the first start, its derivative in the strength of the signal, and the result."""

    def run(strength, s, b):
        w = 0.02 * strength * jnp.ones(2000), jnp.full(2000, 0.2)
        found = optimise_categories(s, w[0], b, w[1], bins=3, starts=3, steps=60, systematics=0.1, key=jr.key(4))
        return found.significance[0], found

    return jax.jit(jax.value_and_grad(run, has_aux=True))


def test_only_the_order_of_the_events_matters():
    s, b = events(3, 2000)
    (_, plain), _ = compiled()(1.0, s, b)
    (_, curved), _ = compiled()(1.0, np.exp(s), np.exp(b))
    assert_allclose(curved.significance, plain.significance, rtol=1e-12)
    # cuts between two events, interpolated in another scale: apart by less than a cell of rank
    assert_allclose(jnp.log(curved.cuts), plain.cuts, atol=0.02)


def test_gradient_of_an_optimum_is_that_at_fixed_cuts():
    s, b = events(3, 2000)
    (_, result), gradient = compiled()(1.0, s, b)
    n, m = (category_counts(x, result.cuts[0], jnp.ones(2000)) for x in (s, b))
    z = lambda k: significance_with_statistics(0.02 * k * n, 0.2 * m, 0.04 * m)
    h = 1e-4
    # central difference: h^2
    assert_allclose(gradient, (z(1 + h) - z(1 - h)) / (2 * h), rtol=1e-7)


def test_correlated_nuisances_are_profiled_by_a_fit():
    """One normalisation common to all categories: free, it is measured where there is no signal."""

    def objective(s, b, variance):
        expected = lambda theta, t: theta[0] * t["s"] + t["b"] * (1 + 0.3 * theta[1])
        model = BinnedModel(
            expected, {"s": s, "b": b}, names=("mu", "norm"), init=(1.0, 0.0), constrained=("norm",), poi="mu"
        )
        return discovery_significance(model)

    def z(share):
        # the same by hand: 2 min over alpha of the deviance plus alpha^2
        s, b = 40 * share[0], 400 * share[1]
        dev = lambda a: np.sum(b * (1 + 0.3 * a) - s - b - (s + b) * np.log(b * (1 + 0.3 * a) / (s + b))) + 0.5 * a**2
        best: Any = minimize_scalar(dev, bounds=(-2, 5), method="bounded", options={"xatol": 1e-9})
        return np.sqrt(2 * best.fun)

    result = small(objective=objective)
    s, b = map(np.sort, events(3, 2000))
    cut = np.asarray(result.cuts[result.best])
    got = z((contents(s, cut), contents(b, cut)))
    assert_allclose(result.significance[result.best], got, rtol=1e-7)
    scan = [z((contents(s, [c]), contents(b, [c]))) for c in np.linspace(-1, 2, 61)]
    # the scan itself overfits 2000 events, by some per mille
    assert got > 0.99 * max(scan)


def test_gradient_of_the_significance_reaches_the_weights(check_derivatives):
    s, b = events(3, 2000)

    def f(x):
        scaled = 0.02 * x[0] * np.exp(0.3 * s), 0.2 * x[1] * np.exp(-0.2 * b)
        cuts = jnp.array([0.2, 1.3])
        n, m = category_counts(s, cuts, scaled[0]), category_counts(b, cuts, scaled[1])
        return jnp.sum(n / jnp.sqrt(n + m))

    check_derivatives(f, (jnp.array(1.1), jnp.array(0.9)))


def significance_with_statistics(s, b, variance):
    v = (0.1 * b) ** 2 + variance
    inner = (s + b) * np.log((s + b) * (b + v) / (b**2 + (s + b) * v)) - b**2 / v * np.log1p(v * s / (b * (b + v)))
    return np.sqrt(2 * np.sum(inner))


def test_category_counts_are_numpys_and_move_like_the_density():
    x, _ = events(5, 40_000)
    cuts, w = np.array([-0.5, 0.9]), np.full(40_000, 1 / 40_000)
    hard = np.histogram(x, [-np.inf, *cuts, np.inf], weights=w)[0]
    f = lambda shift: category_counts(x + shift, cuts, w, bandwidth=0.3)
    value, slope = jax.jit(lambda t: jax.jvp(f, (t,), (1.0,)))(0.0)
    assert_allclose(value, hard, atol=1e-12)
    assert_allclose(category_counts(x, cuts, w), hard, atol=1e-12)
    flux = norm.pdf(cuts - 0.8)
    # bias h^4/8 of the fourth derivative: 0.1 % of 0.4; fluctuation sqrt(0.48 * 0.4/(4e4 * 0.3)) = 0.004, three of them
    assert_allclose(slope, [-flux[0], flux[0] - flux[1], flux[1]], atol=0.012)
    assert abs(float(jnp.sum(slope))) < 1e-12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bins": 1}, "bins: at least 2 wanted, got 1"),
        ({"starts": 0}, "starts: at least 1 wanted, got 0"),
        ({"steps": 1}, "steps: at least 2 wanted, got 1"),
        ({"systematics": -0.1}, "systematics: .* not negative is wanted, got -0.1"),
        ({"bandwidth": (0.1, 0.0)}, "bandwidth: two positive numbers"),
    ],
)
def test_questions_that_make_no_sense_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        small(**change)


@pytest.mark.parametrize(
    ("signal", "weight", "words"),
    [
        (np.array([0.0, np.nan]), np.ones(2), "signal: score of event 1 is nan"),
        (np.zeros(3), np.ones(2), r"signal: .* got shapes \(3,\) and \(2,\)"),
        (np.zeros(2), np.zeros(2), "signal: the weights add up to 0.0"),
        (np.zeros(2, np.float32), np.array([1.0, -np.inf]), "signal: weight of event 1 is -inf"),
    ],
)
def test_events_that_make_no_sense_are_refused(signal, weight, words):
    with pytest.raises(ValueError, match=words):
        optimise_categories(signal, weight, np.zeros(2), np.ones(2), bins=2, key=jr.key(0))


def test_cuts_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="cuts must increase"):
        category_counts(np.zeros(2), np.array([1.0, 0.0]), np.ones(2))
