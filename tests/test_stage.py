"""Stages and chains: order, keys by name, what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from diffhep.parameters import Param, named_params, resolve
from diffhep.stage import AbstractStage, Chain, fold_name, total


class Scale(AbstractStage):
    factor: jax.Array | Param

    def __call__(self, x, *, key=None):
        return x * self.factor


class Shift(AbstractStage):
    by: float

    def __call__(self, x, *, key=None):
        return x + self.by + (0.0 if key is None else jr.normal(key, x.shape))


def test_stages_are_called_in_the_order_given():
    # neither alphabetical nor reversed
    chain = Chain({"b": Shift(1.0), "c": Scale(jnp.array(10.0)), "a": Shift(2.0)})
    assert float(chain(jnp.array(0.0))) == 12.0


def test_the_order_survives_everything_that_rebuilds_the_tree():
    chain = Chain({"b": Shift(1.0), "c": Scale(jnp.array(10.0)), "a": Shift(2.0)})
    rebuilt = jax.tree.map(lambda x: x, chain)
    assert list(rebuilt.stages) == ["b", "c", "a"]
    assert float(rebuilt(jnp.array(0.0))) == 12.0
    assert float(eqx.filter_jit(lambda c, x: c(x))(chain, jnp.array(0.0))) == 12.0
    assert float(eqx.combine(*eqx.partition(chain, eqx.is_array))(jnp.array(0.0))) == 12.0


def test_a_stage_is_found_by_its_name():
    chain = Chain({"b": Shift(1.0), "a": Shift(2.0)})
    assert chain["a"] is chain.stages["a"]
    assert float(chain["a"](jnp.array(0.0))) == 2.0
    with pytest.raises(KeyError):
        chain["c"]


def test_params_are_named_after_their_stage():
    chain = Chain({"z": Scale(Param(3.0, unit="", role="nuisance")), "a": Scale(Param(4.0, unit="", role="nuisance"))})
    assert list(named_params(chain)) == ["stages.z.factor", "stages.a.factor"]
    assert float(resolve(chain)(jnp.array(1.0))) == 12.0


def test_inserting_a_stage_changes_nobody_elses_random_numbers():
    x, key = jnp.zeros(4), jr.key(1)
    alone = Chain({"smear": Shift(0.0)})(x, key=key)
    together = Chain({"before": Scale(jnp.array(1.0)), "smear": Shift(0.0), "after": Scale(jnp.array(1.0))})(x, key=key)
    assert_array_equal(alone, together)


def test_two_names_give_two_streams_and_one_name_one():
    key = jr.key(1)
    keys = [fold_name(key, name) for name in ("calorimeter", "tracker", "calorimeter")]
    draws = [np.asarray(jr.normal(k, (4,))) for k in keys if k is not None]
    assert np.all(draws[0] != draws[1])
    assert_array_equal(draws[0], draws[2])


def test_no_key_is_the_mean_response():
    assert fold_name(None, "calorimeter") is None
    assert Chain({"smear": Shift(0.5)})(jnp.zeros(2)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("key", [jr.PRNGKey(0), jnp.zeros(2, jnp.uint32)])
def test_old_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"a typed key is wanted \(jax.random.key\(seed\)\), got an array of uint32"):
        fold_name(key, "calorimeter")


def test_a_stage_without_a_call_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        AbstractStage()  # type: ignore[abstract]


def test_total_sums_inexact_leaves_only():
    assert float(total({"a": jnp.arange(3.0), "b": jnp.arange(5), "c": (jnp.array([2.5]), "text")})) == 5.5
