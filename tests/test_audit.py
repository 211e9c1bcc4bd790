"""The gradient audit: passes right gradients, and catches the ways in which one can be wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffhep.audit import audit, central_difference, table
from diffhep.parameters import Param, resolve


class Design(eqx.Module):
    thickness: Param
    cuts: Param
    fixed: Param
    network: jax.Array


def design():
    return Design(
        Param(4.0, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        Param(np.array([35.0, 25.0]), unit="GeV", role="threshold", scale=10.0),
        Param(0.5, unit="", role="nuisance", frozen=True),
        jnp.linspace(-1.0, 1.0, 12),
    )


def objective(d, x):
    d = resolve(d)
    return jnp.sum(jnp.log(d.thickness) * jnp.tanh(d.network) * x) + jnp.prod(d.cuts) / 100 + jnp.sin(d.fixed)


X = jnp.linspace(0.5, 2.0, 12)


def run(function, **options):
    value_at = jax.jit(lambda t, rest, x: function(eqx.combine(t, rest), x))
    return audit(value_at, jax.jit(jax.value_and_grad(value_at)), design(), X, **options)


def test_right_gradients_pass():
    rows = run(objective)
    assert all(row.passed for row in rows)
    assert max(row.relative for row in rows) < 1e-6


def test_every_param_is_compared_and_some_weights():
    rows = run(objective, weights=5)
    assert [row.name for row in rows[:4]] == ["thickness", "cuts[0]", "cuts[1]", "fixed"]
    assert [(row.role, row.unit) for row in rows[:4]] == [
        ("geometry", "mm"),
        ("threshold", "GeV"),
        ("threshold", "GeV"),
        ("nuisance", ""),
    ]
    names = [row.name for row in rows[4:]]
    assert len(set(names)) == 5
    assert all(name.startswith("network[") for name in names)
    assert len(run(objective, weights=100)) == 4 + 12


def test_gradients_are_per_unit_of_the_physical_value():
    rows = {row.name: row for row in run(objective)}
    assert rows["thickness"].automatic == pytest.approx(float(jnp.sum(jnp.tanh(design().network) * X)) / 4.0, rel=1e-12)
    assert rows["cuts[0]"].automatic == pytest.approx(25.0 / 100, rel=1e-12)
    assert rows["fixed"].difference == pytest.approx(np.cos(0.5), rel=1e-8)


@jax.custom_jvp
def slightly_wrong(x):
    return jnp.exp(x)


@slightly_wrong.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.exp(x), jnp.exp(x) * t * (1 + 3e-6)


@jax.custom_jvp
def broken(x):
    return jnp.exp(x)


@broken.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.exp(x), t * jnp.nan


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: slightly_wrong(x),
        lambda x: broken(x),
        lambda x: jax.lax.stop_gradient(jnp.exp(x)),
        lambda x: -jnp.exp(x) + 2 * jax.lax.stop_gradient(jnp.exp(x)),
    ],
    ids=["3 parts in a million", "nan", "missing", "sign"],
)
def test_a_wrong_gradient_is_caught(wrong):
    function = lambda d, x: objective(d, x) + wrong(resolve(d).fixed)
    # the neighbours are right, so only this one may fail; its own share of the gradient is most of it
    failed = [row.name for row in run(lambda d, x: function(d, x) - jnp.sin(resolve(d).fixed)) if not row.passed]
    assert failed == ["fixed"]


def test_a_jump_is_caught():
    # finite differences see the step, the derivative does not
    function = lambda d, x: objective(d, x) + (resolve(d).fixed > 0.5)
    assert [row.name for row in run(function) if not row.passed] == ["fixed"]


def test_a_parameter_that_does_nothing_passes():
    rows = run(lambda d, x: jnp.sum(resolve(d).cuts) + 0 * resolve(d).thickness)
    assert all(row.passed for row in rows)
    assert rows[0].automatic == 0.0


def test_progress_runs_from_the_first_to_the_last():
    seen = []
    rows = run(objective, weights=2, progress=lambda what, fraction: seen.append((what, fraction)))
    assert seen == [("gradient audit", (i + 1) / len(rows)) for i in range(len(rows))]


def test_the_table_has_a_line_for_each_and_a_verdict():
    rows = run(lambda d, x: objective(d, x) + broken(resolve(d).fixed), weights=1)
    lines = table(rows).splitlines()
    assert len(lines) == 1 + len(rows) + 1
    assert [line.endswith("FAILED") for line in lines[1:-1]] == [not row.passed for row in rows]
    assert lines[-1] == "5 gradients compared, 1 failed"


@given(st.floats(-3, 3), st.floats(0.2, 5.0), st.floats(-2, 2))
@settings(max_examples=30)
def test_central_difference_knows_its_error(at, frequency, slope):
    function = lambda t: np.sin(frequency * (at + t)) + slope * t
    value, error = central_difference(function)
    exact = frequency * np.cos(frequency * at) + slope
    # the estimate is the change between rungs: right to an order of magnitude, and to the rounding of the quotient
    assert abs(value - exact) <= 10 * error + 1e-11
    assert error < 1e-8 * max(1.0, frequency**5)


@pytest.mark.parametrize("kink", [2e-3, 2e-4, -3e-5])
def test_central_difference_sees_past_a_kink_nearby(kink):
    """sin t + |t - kink|: smooth on the side of 0, as far as the kink is away."""
    value, error = central_difference(lambda t: np.sin(t) + np.abs(t - kink))
    # the error of the extrapolation is below 1e-13, rounding at the finest step 2e-16/3e-6
    np.testing.assert_allclose(value, 1 - np.sign(kink), atol=3e-10)
    assert error < 3e-10
