"""Hypothesis tests and limits: the reference tables, pyhf, derivatives, conventions at zero and on bounds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from numpy.testing import assert_allclose
from pyhf.infer.intervals import upper_limits

from diffhep.inference import (
    Analysis,
    discovery_test,
    histfactory,
    hypothesis_test,
    infer,
    resonance_search,
    toy_test,
    upper_limit,
)
from diffhep.inference.fitting import fit

pytestmark = pytest.mark.long

# columns: q~_1, qA, CLs_obs, CLs_exp, Z_obs, Z_exp, then dZ_exp/dlnS and dCLs_obs/dlnS where they are known
U = {
    "REF": (3.93824493, 3.41886907, 0.05251553, 0.06445515, 0.0, 1.87695350, 1.833017, -0.221991),
    2: (0.0, 1.00741012, 0.59365646, 0.31552409, 1.06531266, 0.99677138, 1.003812, -0.173015),
    10: (4.08289639, 4.41540062, 0.04070243, 0.03561591, 0.07698040, 2.10510984, 2.087365, -0.202382),
    50: (1.93910753, 6.43432596, 0.09371902, 0.01119356, 1.15859424, 2.58253041, 2.533229, -0.425963),
    200: (2.31999971, 7.12004790, 0.07307189, 0.00762267, 1.16267731, 2.72931442, 2.667778, -0.367503),
}
G = {
    2: (0.0, 1.02944210, 0.59181744, 0.31028974, 1.08497520, 1.01590936),
    10: (3.98863000, 4.33523877, 0.04290318, 0.03733118, 0.08079546, 2.09826585),
    50: (1.90988946, 6.43479088, 0.09531724, 0.01119063, 1.17159743, 2.58383582),
    200: (2.30999553, 7.12100663, 0.07348328, 0.00761859, 1.16697685, 2.72956511),
}
BANDS = {
    "REF": (0.57304165, 0.23526090, 0.06445515, 0.01382064, 0.00260640),
    2: (0.86001365, 0.59253312, 0.31552409, 0.14213963, 0.05861938),
    10: (0.47036274, 0.16091646, 0.03561591, 0.00607236, 0.00090299),
    50: (0.30265842, 0.07392448, 0.01119356, 0.00127735, 0.00012565),
    200: (0.25782323, 0.05660456, 0.00762267, 0.00076937, 0.00006673),
}
CASES = [("shapesys", n, row) for n, row in U.items()] + [("staterror", n, row) for n, row in G.items()]


def build(specs, n, kind="shapesys"):
    s, b, db, observed = specs.yields(n)
    model = histfactory(specs.counting(s, b, db, kind))
    return model, model.data(observed)


def stronger(model, k):
    """The signal template times k, auxiliary data held."""
    return eqx.tree_at(lambda m: m.nominal, model, model.nominal.at[0, 0].multiply(k))


@pytest.mark.parametrize(("kind", "n", "row"), CASES)
def test_reference_tables(specs, kind, n, row):
    model, data = build(specs, n, kind)
    test, discovery = infer(model, data)
    got = (test.q, test.q_asimov, test.observed, test.expected[2], discovery.observed, discovery.expected)
    assert bool(test.converged)
    # the tables have eight decimals
    assert_allclose(got, row[:6], atol=6e-9)
    if kind == "shapesys":
        assert_allclose(test.expected[::-1], BANDS[n], atol=6e-9)


@pytest.mark.parametrize("n", list(U))
def test_reference_derivatives(specs, n):
    model, data = build(specs, n)

    @jax.jit
    def gradients(k):
        def both(k):
            test, discovery = infer(stronger(model, k), data)
            return jnp.stack([discovery.expected, test.observed])

        return jax.jacrev(both)(k)

    # the table has six decimals
    assert_allclose(gradients(1.0), U[n][6:], atol=6e-7)


def test_the_three_ways_to_ask_agree(specs):
    model, data = build(specs, 10)
    test, discovery = infer(model, data, 0.7)
    assert_allclose(hypothesis_test(model, data, 0.7).observed, test.observed, rtol=1e-9)
    other = discovery_test(model, data)
    assert_allclose([other.observed, other.expected], [discovery.observed, discovery.expected], rtol=1e-9)


def test_the_analysis_of_one_workspace_finds_what_the_differentiable_functions_find(specs):
    """Two programs, one for many questions and one for gradients, that must never drift apart."""
    model, data = build(specs, 10)
    analysis = Analysis(model, data)
    test, discovery = infer(model, data, 0.7)
    one, other, limit, wanted = analysis.test([0.7]), analysis.discovery(), analysis.limit(), upper_limit(model, data)
    # fits end at 1e-9 of an uncertainty; ln CLs at the limits is solved to 1e-11 by one and 1e-9 by the other
    for name in ("observed", "cl_sb", "cl_b", "q", "q_asimov", "mu_hat"):
        assert_allclose(getattr(one, name)[0], getattr(test, name), rtol=1e-8, atol=1e-9)
    assert_allclose(one.expected[:, 0], test.expected, rtol=1e-8)
    for name in ("observed", "expected", "p_value", "q0"):
        assert_allclose(getattr(other, name), getattr(discovery, name), rtol=1e-8, atol=1e-9)
    assert_allclose([limit.observed, *limit.expected], [wanted.observed, *wanted.expected], rtol=1e-8)


def test_a_workspace_with_everything_agrees_with_pyhf(specs):
    channels, settings, observed = specs.random(4)
    model = histfactory(channels, parameters=settings)
    test = hypothesis_test(model, model.data(observed))
    twin = pyhf.Model({"channels": channels, "parameters": settings}, poi_name="mu", validate=False)
    both = [*observed, *twin.config.auxdata]
    got, bands = pyhf.infer.hypotest(1.0, both, twin, test_stat="qtilde", return_expected_set=True)
    # pyhf's minimiser stops about 1e-5 above the minimum of 2 NLL; see section 3.6 of the reference
    assert_allclose(test.observed, got, rtol=1e-3)
    assert_allclose(test.expected, np.array(bands), rtol=1e-3)


@pytest.mark.parametrize("statistic", ["q", "qtilde"])
def test_gradients_of_cls_and_of_the_bands(specs, check_derivatives, statistic):
    model, data = build(specs, 10, "staterror")
    weights = jnp.array([0.3, -1.0, 0.7, 0.2, -0.4])

    def f(x):
        changed = eqx.tree_at(
            lambda m: (m.nominal, m.errors), model, (model.nominal * jnp.exp(x[0]), model.errors * x[1])
        )
        test = hypothesis_test(changed, data, x[2], statistic=statistic)
        return test.observed + test.expected @ weights + 0.1 * test.mu_hat

    x = (jnp.zeros_like(model.nominal), jnp.ones_like(model.errors), jnp.array(0.8))
    check_derivatives(f, x, order=2 if statistic == "qtilde" else 1)


def test_limits_are_where_cls_is_one_minus_the_level(specs):
    model, data = build(specs, 10)
    for level in (0.95, 0.9):
        limit = upper_limit(model, data, level=level)
        assert bool(limit.converged)
        assert_allclose(hypothesis_test(model, data, limit.observed).observed, 1 - level, rtol=1e-9)
        for k in range(5):
            assert_allclose(hypothesis_test(model, data, limit.expected[k]).expected[k], 1 - level, rtol=1e-9)
    assert np.all(np.diff(limit.expected) > 0)


def test_limits_agree_with_pyhf(specs):
    model, data = build(specs, "REF")
    limit = upper_limit(model, data)
    s, b, db, n = specs.yields("REF")
    channels = specs.counting(s, b, db)
    twin = pyhf.Model({"channels": channels}, poi_name="mu", validate=False)
    got, bands = upper_limits.upper_limit([*n, *twin.config.auxdata], twin)[:2]
    # pyhf: tolerance of the scan and of the fits
    assert_allclose(limit.observed, got, rtol=1e-4)
    assert_allclose(limit.expected, np.array(bands), rtol=1e-4)


def test_limits_are_differentiable(specs, check_derivatives):
    model, data = build(specs, 10)

    def f(x):
        changed = eqx.tree_at(
            lambda m: (m.nominal, m.errors), model, (model.nominal * jnp.exp(x[0]), model.errors * x[1])
        )
        limit = upper_limit(changed, data)
        return limit.observed + limit.expected @ jnp.array([0.3, -1.0, 0.7, 0.2, -0.4])

    check_derivatives(f, (jnp.zeros_like(model.nominal), jnp.ones_like(model.errors)), order=1)
    # scaling the signal scales the limit by the inverse
    gradient = jax.jit(jax.grad(lambda k: upper_limit(stronger(model, k), data).observed))(1.0)
    assert_allclose(gradient, -upper_limit(model, data).observed, rtol=1e-9)


def test_no_signal_gives_finite_values_and_gradients(specs):
    model, data = build(specs, 10)

    def value(k):
        test, discovery = infer(stronger(model, k), data)
        return jnp.stack([test.observed, discovery.observed, discovery.expected])

    assert_allclose(value(0.0), [1.0, 0.0, 0.0], atol=1e-12)
    assert_allclose(jax.jacfwd(value)(0.0), 0.0, atol=1e-12)
    assert not bool(upper_limit(stronger(model, 0.0), data).converged)


def test_a_best_fit_on_its_bound_has_the_gradient_of_the_held_fit(specs):
    s, b, db, _ = specs.yields(10)
    model = histfactory(specs.counting(s, b, db))
    data = model.data(np.rint(0.9 * b))
    assert float(fit(model, data)["mu"]) == 0.0
    gradient = jax.jit(jax.grad(lambda k: discovery_test(stronger(model, k), data).observed))(1.0)
    assert float(gradient) == 0.0
    test = jax.jit(jax.value_and_grad(lambda k: hypothesis_test(stronger(model, k), data).observed))
    step = 1e-5
    slope = (test(1 + step)[0] - test(1 - step)[0]) / (2 * step)
    # central difference: rounding of 1e-16/1e-5 and step^2
    assert_allclose(test(1.0)[1], slope, rtol=1e-7)


def test_generic_models_can_be_tested_too():
    x = jnp.linspace(-4.0, 4.0, 41)
    model = resonance_search(10 * jnp.exp(-0.5 * x**2), jnp.full(41, 100.0), x)
    test, discovery = infer(model, model.asimov(model.init.at[0].set(0.0)))
    assert bool(test.converged)
    assert_allclose(test.observed, test.expected[2], rtol=1e-6)
    assert float(discovery.observed) < 1e-6


def test_toys_agree_with_the_asymptotic_result(specs):
    model, data = build(specs, 10)
    toys = toy_test(model, data, toys=4000, key=jax.random.key(3))
    asymptotic = hypothesis_test(model, data)
    assert int(toys.failed) == 0
    # asymptotics is itself good to a few per cent of CLs with sixty signal events on a thousand
    assert abs(float(toys.observed - asymptotic.observed)) < 2 * float(toys.error) + 0.05 * float(asymptotic.observed)
    assert_allclose(toys.expected[1:], asymptotic.expected[1:], rtol=0.25)
    assert_allclose(toys.q, asymptotic.q, rtol=1e-6)


def test_toys_scatter_auxiliary_data_too(specs):
    model, data = build(specs, 10)
    keys = jax.random.split(jax.random.key(0), 2000)
    toys = jax.jit(jax.vmap(lambda key: model.sample(jnp.ones(1), data, key=key)))(keys)
    mean = model.asimov(jnp.ones(1), data)
    # Poisson: mean and variance equal the expectation, to their standard errors times four
    for got, expected in [(toys.counts, mean.counts), (toys.gammas, mean.gammas)]:
        assert_allclose(jnp.mean(got, 0), expected, atol=4 * float(jnp.sqrt(jnp.max(expected) / 2000)))
        assert_allclose(jnp.var(got, axis=0), expected, rtol=4 * np.sqrt(2 / 2000) * 1.1)


def test_the_same_key_gives_the_same_toys(specs):
    model, data = build(specs, 10)
    one, other, new = (toy_test(model, data, toys=50, key=jax.random.key(k)) for k in (1, 1, 2))
    assert float(one.observed) == float(other.observed)
    assert float(one.cl_sb) != float(new.cl_sb) or float(one.cl_b) != float(new.cl_b)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, d: hypothesis_test(m, d, statistic="t"), "no test statistic 't'"),  # type: ignore[arg-type]
        (lambda m, d: upper_limit(m, d, level=1.2), "a number between 0 and 1 is wanted, got 1.2"),
        (lambda m, d: toy_test(m, d, toys=0, key=jax.random.key(0)), "at least one is wanted, got 0"),
    ],
)
def test_bad_questions_are_refused(specs, call, words):
    with pytest.raises(ValueError, match=words):
        call(*build(specs, 2))


def test_a_model_without_parameter_of_interest_cannot_be_tested(specs):
    s, b, db, n = specs.yields(2)
    model = histfactory(specs.counting(s, b, db), poi=None)
    for call in (hypothesis_test, discovery_test, infer, upper_limit):
        with pytest.raises(ValueError, match="no parameter of interest; its parameters are mu"):
            call(model, model.data(n))
