"""Statistical errors from one reverse pass: closed forms, correlations, and the bootstrap."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.honest import Measured, measure_with_error

N = 2000
rng = np.random.default_rng(7)
EVENTS = {
    "background": {"x": jnp.asarray(rng.exponential(1.0, N)), "w": jnp.asarray(rng.uniform(0.5, 3.0, N))},
    "signal": {"x": jnp.asarray(rng.normal(2.0, 0.5, N // 2)), "w": jnp.asarray(rng.normal(0.2, 0.1, N // 2))},
}
SIZES = {name: len(e["x"]) for name, e in EVENTS.items()}


def count(design, factors, events, name):
    """Weighted number of events above a hard cut."""
    e = events[name]
    return jnp.sum(jnp.where(e["x"] > design, e["w"] * factors[name], 0.0))


def numbers(design, factors, events):
    s, b = (count(design, factors, events, name) for name in ("signal", "background"))
    total = jnp.sum(events["signal"]["w"] * factors["signal"])
    return {"s": s, "b": b, "efficiency": s / total, "z": s / jnp.sqrt(s + b), "cost": 3.0 * design}


measure = measure_with_error(numbers)


def measured(cut):
    return measure(jnp.asarray(cut), SIZES, EVENTS)


def above(cut, name):
    e = EVENTS[name]
    return np.asarray(e["x"]) > cut, np.asarray(e["w"])


# closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [-10.0, 1.5, 3.0])
def test_the_error_of_a_sum_of_weights_is_the_root_of_the_sum_of_their_squares(cut):
    out = measured(cut)
    for short, name in (("s", "signal"), ("b", "background")):
        passed, w = above(cut, name)
        assert_allclose(out[short].value, w[passed].sum(), rtol=1e-12)
        assert_allclose(out[short].stderr, np.sqrt(np.sum(w[passed] ** 2)), rtol=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=5))
def test_so_it_is_for_any_weights_negative_ones_too(weights):
    w = np.array(weights)
    out = sum_of_weights(jnp.asarray(0.0), {"all": 5}, jnp.asarray(w))["sum"]
    assert_allclose(out.value, w.sum(), rtol=1e-12, atol=1e-9)
    assert_allclose(out.stderr, np.linalg.norm(w), rtol=1e-12)


sum_of_weights = measure_with_error(lambda design, f, w: {"sum": design + jnp.sum(w * f["all"])})


def test_the_error_of_an_efficiency_is_that_of_a_weighted_binomial():
    """sigma^2 = sum w^2 (pass - eps)^2/(sum w)^2, which is eps (1 - eps)/n for equal weights."""
    passed, w = above(1.8, "signal")
    eps = w[passed].sum() / w.sum()
    out = measured(1.8)["efficiency"]
    assert_allclose(out.value, eps, rtol=1e-12)
    assert_allclose(out.stderr, np.sqrt(np.sum((w * (passed - eps)) ** 2)) / w.sum(), rtol=1e-11)

    equal = EVENTS | {"signal": EVENTS["signal"] | {"w": jnp.full(N // 2, 0.3)}}
    out, eps = measure(jnp.asarray(1.8), SIZES, equal)["efficiency"], passed.mean()
    assert_allclose(out.stderr, np.sqrt(eps * (1 - eps) / len(passed)), rtol=1e-11)


def test_an_efficiency_of_one_has_no_error():
    assert measured(-10.0)["efficiency"].value == pytest.approx(1.0, rel=1e-14)
    # rounding of 1/total - s/total^2, an event at a time
    assert measured(-10.0)["efficiency"].stderr < 1e-15


def test_two_samples_add_in_quadrature():
    """z = s/sqrt(s + b): dz/ds = (s/2 + b)/(s + b)^1.5, dz/db = -s/2/(s + b)^1.5."""
    out = measured(1.5)
    s, b = out["s"].value, out["b"].value
    of_s, of_b = np.array([s / 2 + b, -s / 2]) / (s + b) ** 1.5
    assert_allclose(out["z"].stderr, np.hypot(of_s * out["s"].stderr, of_b * out["b"].stderr), rtol=1e-11)


def test_what_does_not_depend_on_the_events_has_no_error():
    out = measured(1.5)["cost"]
    assert (out.value, out.stderr) == (4.5, 0.0)


def test_every_event_of_every_sample_has_an_influence():
    out = measured(1.5)
    assert all(m.influence.shape == (N + N // 2,) for m in out.values())
    # the influence of an event on a count is its weight; those of the other sample have none
    passed, w = above(1.5, "signal")
    assert_allclose(np.sort(out["s"].influence), np.sort(np.concatenate([w * passed, np.zeros(N)])), rtol=1e-12)


# differences ----------------------------------------------------------------------------------------------------------


def test_the_difference_of_two_designs_counts_only_the_events_between_them():
    low, high = measured(1.5)["b"], measured(1.7)["b"]
    x, w = np.asarray(EVENTS["background"]["x"]), np.asarray(EVENTS["background"]["w"])
    between = w[(x > 1.5) & (x <= 1.7)]
    gain = low.minus(high)
    assert_allclose(gain.value, between.sum(), rtol=1e-11)
    assert_allclose(gain.stderr, np.sqrt(np.sum(between**2)), rtol=1e-12)
    assert gain.stderr < 0.7 * np.hypot(low.stderr, high.stderr)


def test_a_design_does_not_differ_from_itself():
    out = measured(1.5)["z"]
    assert out.minus(out).summary() == {"value": 0.0, "stderr": 0.0}
    assert_array_equal(out.minus(measured(1.5)["z"]).influence, 0)


def test_the_difference_changes_sign_with_the_order():
    a, b = measured(1.5)["z"], measured(2.0)["z"]
    assert a.minus(b).value == -b.minus(a).value
    assert a.minus(b).stderr == b.minus(a).stderr


# the bootstrap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "efficiency", "z", "difference"])
def test_the_bootstrap_agrees(name):
    """Poisson factors on every event, 400 replicas: their spread is known to 1/sqrt(2 x 399) = 3.5 %.

    Terms beyond the linear one are of relative order 1/(events that pass) < 1e-2 and within the 3 sigma allowed.
    """
    replicas, draws = 400, np.random.default_rng(3)
    s, b = np.zeros((2, 2, replicas))
    total = np.zeros(replicas)
    for i in range(replicas):
        for sample, store in (("signal", s), ("background", b)):
            w = np.asarray(EVENTS[sample]["w"]) * draws.poisson(1.0, SIZES[sample])
            for j, cut in enumerate((1.5, 2.0)):
                store[j, i] = w[above(cut, sample)[0]].sum()
            if sample == "signal":
                total[i] = w.sum()
    z = s / np.sqrt(s + b)
    spread = {"s": s[0], "efficiency": s[0] / total, "z": z[0], "difference": z[0] - z[1]}[name].std(ddof=1)
    ours = measured(1.5)
    out = ours["z"].minus(measured(2.0)["z"]) if name == "difference" else ours[name]
    assert abs(out.stderr / spread - 1) < 3 / np.sqrt(2 * (replicas - 1))


# the interface --------------------------------------------------------------------------------------------------------


def test_it_is_compiled_once_for_all_designs():
    traces = []

    def value(design, factors, context):
        traces.append(1)
        return {"v": design * jnp.sum(context * factors["a"])}

    run = measure_with_error(value)
    first = run(jnp.asarray(1.0), {"a": 4}, jnp.arange(4.0))
    made = len(traces)
    second = run(jnp.asarray(2.0), {"a": 4}, jnp.ones(4))
    assert len(traces) == made
    assert (first["v"].value, second["v"].value) == (6.0, 8.0)


def test_the_summary_is_json_able():
    assert Measured(2.0, np.array([3.0, 4.0])).summary() == {"value": 2.0, "stderr": 5.0}
