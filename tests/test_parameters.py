"""Params: value and raw leaf are inverse, bounds hold, the tree splits and joins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.parameters import Param, is_param, named_params, resolve, split
from tests.strategies import finite

inside = st.floats(1e-6, 1 - 1e-6)  # fraction of the way between the bounds


@given(st.floats(-1e3, 1e3), st.floats(0.1, 1e3), inside)
def test_value_comes_back_from_the_raw_leaf(low, width, fraction):
    value = low + width * fraction
    p = Param(value, unit="mm", role="geometry", bounds=(low, low + width))
    # the fraction is recovered to its rounding near the bounds
    assert_allclose(p.unwrap(), value, rtol=0, atol=1e-12 * (abs(low) + width))
    assert_allclose(p.at(value).raw, p.raw, rtol=0)


@given(finite, st.floats(1e-3, 1e3))
def test_unbounded_values_are_scaled(value, scale):
    p = Param(value, unit="GeV", role="threshold", scale=scale)
    assert float(p.raw) == pytest.approx(value / scale, rel=1e-15)
    assert float(p.unwrap()) == pytest.approx(value, rel=1e-15)


@given(st.floats(-700, 700), inside)
def test_whatever_the_raw_leaf_the_value_stays_between_the_bounds(raw, fraction):
    p = Param(0.3 + 19.7 * fraction, unit="mm", role="geometry", bounds=(0.3, 20.0))
    assert 0.3 <= float(eqx.tree_at(lambda p: p.raw, p, jnp.asarray(raw)).unwrap()) <= 20.0


@pytest.mark.parametrize("bounds", [None, (0.3, 20.0)])
def test_slope_is_the_derivative_of_the_value(bounds):
    p = Param(np.array([0.5, 5.0, 19.0]), unit="mm", role="geometry", bounds=bounds, scale=3.0)
    derivative = jax.vmap(jax.grad(lambda r: eqx.tree_at(lambda p: p.raw, p, r).unwrap()))(p.raw)
    assert_allclose(p.slope(), derivative, rtol=1e-13)


@pytest.mark.parametrize("value", [0.3, 20.0, 0.0, -1.0, 21.0, np.nan, np.inf])
def test_a_start_on_or_outside_the_bounds_is_refused(value):
    with pytest.raises(ValueError, match=r"outside its bounds \(0\.3, 20\.0\) mm") as error:
        Param(value, unit="mm", role="geometry", bounds=(0.3, 20.0))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="outside its bounds"):
        Param(1.0, unit="mm", role="geometry", bounds=(0.3, 20.0)).at(value)


def test_one_element_outside_is_enough():
    with pytest.raises(ValueError, match=r"value \[ 1\. 30\.\] mm outside"):
        Param(np.array([1.0, 30.0]), unit="mm", role="geometry", bounds=(0.3, 20.0))


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0, 1.0), (0.0, np.nan)])
def test_crossing_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds cross"):
        Param(1.5, unit="", role="geometry", bounds=bounds)


def test_moving_and_freezing_keep_the_rest():
    p = Param(4.0, unit="mm", role="geometry", bounds=(0.3, 20.0), scale=2.0)
    moved, frozen = p.at(5.0), p.freeze()
    assert float(moved.unwrap()) == pytest.approx(5.0, rel=1e-15)
    assert (moved.unit, moved.role, moved.bounds, moved.scale, moved.frozen) == (
        "mm",
        "geometry",
        (0.3, 20.0),
        2.0,
        False,
    )
    assert frozen.frozen
    assert float(frozen.unwrap()) == pytest.approx(4.0, rel=1e-15)
    assert not frozen.freeze(frozen=False).frozen


def test_a_param_can_be_moved_inside_jit():
    p = Param(4.0, unit="mm", role="geometry", bounds=(0.3, 20.0))
    assert float(jax.jit(lambda x: p.at(x).unwrap())(7.0)) == pytest.approx(7.0, rel=1e-14)


# trees ----------------------------------------------------------------------------------------------------------------


class Tree(eqx.Module):
    thickness: Param
    cut: Param
    fixed: Param
    weight: jax.Array
    kept: paramax.NonTrainable
    count: jax.Array
    label: str = eqx.field(static=True, default="x")


def tree():
    return Tree(
        Param(4.0, unit="mm", role="geometry", bounds=(0.3, 20.0)),
        Param(np.array([30.0, 20.0]), unit="GeV", role="threshold", scale=10.0),
        Param(1.0, unit="", role="nuisance", frozen=True),
        jnp.arange(3.0),
        paramax.NonTrainable(jnp.ones(2)),
        jnp.arange(2),
    )


def size(part):
    return ravel_pytree(eqx.filter(part, eqx.is_inexact_array))[0].size


def test_split_trains_what_is_neither_frozen_nor_marked():
    trainable, rest = split(tree())
    assert size(trainable) == 1 + 2 + 3
    assert size(rest) == 1 + 2
    assert trainable.fixed.raw is None
    assert rest.thickness.raw is None
    assert rest.count.tolist() == [0, 1]


@pytest.mark.parametrize(("role", "elements"), [("geometry", 1), ("threshold", 2), ("nuisance", 0), ("weight", 0)])
def test_split_selects_by_role(role, elements):
    trainable, _ = split(tree(), lambda p: p.role == role)
    assert size(trainable) == elements + 3  # bare arrays are always trainable


def test_the_parts_combine_to_the_whole():
    for got, wanted in zip(jax.tree.leaves(eqx.combine(*split(tree()))), jax.tree.leaves(tree()), strict=True):
        assert_array_equal(got, wanted)


def test_resolve_gives_plain_values():
    resolved = resolve(tree())
    assert not any(is_param(x) for x in jax.tree.leaves(resolved, is_leaf=is_param))
    assert float(resolved.thickness) == pytest.approx(4.0, rel=1e-15)
    assert_allclose(resolved.cut, [30.0, 20.0], rtol=1e-15)
    assert resolved.kept.tolist() == [1.0, 1.0]


def test_nothing_is_learnt_about_what_is_not_trainable():
    gradient = jax.grad(lambda t: resolve(t).kept.sum() + resolve(t).cut.sum(), allow_int=True)(tree())
    assert gradient.kept.tree.tolist() == [0.0, 0.0]
    assert gradient.cut.raw.tolist() == [10.0, 10.0]


def test_names_are_paths():
    nested = {"calorimeter": tree(), "cuts": [Param(1.0, unit="", role="threshold"), {"b": 2.0}]}
    named = named_params(nested)
    assert list(named) == ["calorimeter.thickness", "calorimeter.cut", "calorimeter.fixed", "cuts[0]"]
    assert named["calorimeter.cut"].unit == "GeV"
