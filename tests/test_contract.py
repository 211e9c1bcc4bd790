"""What every differentiable stage promises, checked for each entry of tests/stages.py."""

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.detector import draw_noise
from diffhep.events import Events
from diffhep.parameters import is_param, resolve
from diffhep.reconstruction import PhotonReconstruction, pair_mass
from diffhep.tagging import PhotonTagger, photon_features, readout_fractions
from diffhep.trigger.menu import trigger_features
from diffhep.trigger.rate import rate
from tests.cases import lead_stack
from tests.stages import STAGES, STEPPED, menu
from tests.strategies import measured, photons

EVERY = STAGES | STEPPED
TUNABLE = [name for name, make in EVERY.items() if jax.tree.leaves(make().tree)]
STEP = 3e-4


class Flat(NamedTuple):
    """A case as a function of one vector: every Param, weight and input. `fast` is compiled once for all tests."""

    f: Callable
    fast: Callable
    v: np.ndarray


@functools.cache
def flat(name: str) -> Flat:
    call, tree, x = EVERY[name]()
    variables, rest = eqx.partition((tree, x), eqx.is_inexact_array)
    v, unravel = ravel_pytree(variables)

    def f(v):
        tree, x = eqx.combine(unravel(v), rest)
        return ravel_pytree(eqx.filter(call(resolve(tree), x), eqx.is_inexact_array))[0]

    return Flat(f, jax.jit(f), np.asarray(v))


def leaves_of(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


@pytest.mark.parametrize("name", EVERY)
def test_jit_equals_eager(name):
    f, fast, v = flat(name)
    eager = f(jnp.asarray(v))
    assert bool(jnp.all(jnp.isfinite(eager)))
    # a fused loop sums in another order and contracts a*b + c: some dozens of roundings of 1e-16
    assert_allclose(fast(v), eager, rtol=1e-12, atol=1e-14 * float(jnp.max(jnp.abs(eager))))


@pytest.mark.parametrize("name", STAGES)
def test_gradient_equals_finite_differences(name):
    f, fast, v = flat(name)
    value = np.asarray(fast(v))
    mix = np.random.default_rng(99).normal(size=value.size)
    automatic = np.asarray(jax.jit(jax.grad(lambda v: jnp.vdot(mix, f(v))))(v))
    for i, h in enumerate(STEP * np.maximum(np.abs(v), 0.1)):
        at = lambda steps, i=i, h=h: mix @ np.asarray(fast(v + steps * h * (np.arange(v.size) == i)))
        quotient = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
        # 16 roundings of each output over the step; the truncation error of order step^4 is far below rtol
        rounding = 16 * np.finfo(float).eps * np.abs(mix * value).sum() / h
        assert_allclose(automatic[i], quotient, rtol=1e-6, atol=rounding, err_msg=f"element {i} of {v.size}")


@pytest.mark.parametrize("name", STEPPED)
def test_gradients_of_steps_are_finite(name):
    f, _, v = flat(name)
    assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(lambda v: f(v).sum()))(v))))


@pytest.mark.parametrize("name", TUNABLE)
def test_designs_can_be_batched(name):
    f, fast, v = flat(name)
    designs = v * (1 + 1e-3 * np.arange(3)[:, None])
    # the batched program sums in another order
    one_by_one = np.stack([fast(d) for d in designs])
    assert_allclose(jax.jit(jax.vmap(f))(designs), one_by_one, rtol=1e-11, atol=1e-13 * np.abs(one_by_one).max())


@pytest.mark.parametrize("name", TUNABLE)
def test_leaves_come_back_from_a_file(name):
    tree = EVERY[name]().tree
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, tree)
    other = jax.tree.map(lambda x: x + 1 if eqx.is_inexact_array(x) else x, tree)
    back = eqx.tree_deserialise_leaves(io.BytesIO(file.getvalue()), other)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, wanted, changed in zip(leaves_of(back), leaves_of(tree), leaves_of(other), strict=True):
        assert_array_equal(got, wanted)
        assert not np.array_equal(changed, wanted)


@pytest.mark.parametrize("name", TUNABLE)
def test_moving_a_parameter_does_not_retrace(name):
    call, tree, x = EVERY[name]()
    rest = eqx.filter(tree, eqx.is_array, inverse=True)
    traces = []

    @jax.jit
    def run(dynamic, x):
        traces.append(1)
        return leaves_of(call(resolve(eqx.combine(dynamic, rest)), x))

    move = lambda p: p.at(p.unwrap() * 1.01) if is_param(p) else p * 1.01 if eqx.is_inexact_array(p) else p
    moved = jax.tree.map(move, tree, is_leaf=is_param)
    run.trace(eqx.filter(tree, eqx.is_array), x)
    run.trace(eqx.filter(moved, eqx.is_array), x)
    assert len(traces) == 1


# padding --------------------------------------------------------------------------------------------------------------


def padded(events: Events, fill: float) -> Events:
    """The same events with one more object in each row and two more rows, none of which exists."""

    def longer(x):
        grown = np.full((x.shape[0] + 2, x.shape[1] + 1, *x.shape[2:]), fill)
        grown[:-2, :-1] = x
        return jnp.asarray(grown)

    fields = {name: longer(x) for name, x in events.fields.items()}
    weight = jnp.concatenate([events.weight, jnp.zeros(2)])
    return Events(
        fields, jnp.zeros((events.size + 2, events.mask.shape[1] + 1), bool).at[:-2, :-1].set(events.mask), weight
    )


def first(x, events: Events):
    """What an output says about the rows and objects that exist."""
    x = x[: events.size]
    return x[:, : events.mask.shape[1]] if x.ndim > 1 else x


PADDABLE = {
    "SamplingCalorimeter": (lambda e: resolve(lead_stack())(e).fields, photons),
    "PhotonReconstruction": (lambda e: PhotonReconstruction(lambda x: 0.01 + 1e-5 * x)(e).fields, measured),
    "PhotonTagger": (lambda e: TAGGER(e).fields, measured),
    "photon_features": (photon_features, measured),
    "readout_fractions": (readout_fractions, measured),
    "trigger_features": (trigger_features, measured),
    "DiphotonMenu": (lambda e: resolve(menu())(e).weight, measured),
    "pair_mass": (pair_mass, measured),
}


@pytest.mark.parametrize("fill", [0.0, 7.0])
@pytest.mark.parametrize("name", PADDABLE)
def test_padding_does_not_matter(name, fill):
    function, make = PADDABLE[name]
    events = make()
    alone, together = function(events), function(padded(events, fill))
    assert jax.tree.structure(alone) == jax.tree.structure(together)
    for wanted, got in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        # matrix products of another size sum in another order
        assert_allclose(first(got, events), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_events_without_weight_change_no_rate(fill):
    events, trigger = measured(), resolve(menu())
    assert_allclose(rate(trigger(padded(events, fill))), rate(trigger(events)), rtol=1e-13)


@pytest.mark.parametrize("fill", [0.0, 60.0])
def test_content_of_a_padded_object_does_not_matter(fill):
    events = measured()
    mask = events.mask.at[1, 1].set(False)
    replaced = {name: x.at[1, 1].set(fill) for name, x in events.fields.items()}
    for function in (lambda e: resolve(menu())(e).weight, pair_mass):
        wanted, got = (
            function(Events(events.fields, mask, events.weight)),
            function(Events(replaced, mask, events.weight)),
        )
        assert_array_equal(got, wanted)
        assert float(got[1]) == 0.0


# edges ----------------------------------------------------------------------------------------------------------------

TAGGER = PhotonTagger.init(8, width=4, key=jr.key(0))
QUIET = {"constant_term": 0.0, "noise": 0.0, "position_constant": 0.0, "width_constant": 0.0}
EDGES = {
    "thinnest stack": {"absorber": 0.31, "active": 0.31, "layers": 4.5},
    "thickest stack": {"absorber": 19.9, "active": 19.9, "layers": 159.0},
    "thin absorber": {"absorber": 0.31, "active": 19.9, "layers": 25.0},
    "no constant fluctuation": QUIET,
    "no photo-statistics to speak of": {"photoelectrons": 1e12} | QUIET,
}


def edge_events() -> Events:
    """Rows with pt = 0, empty constituents, coinciding directions, a padded object, extreme energies."""
    events = photons(6)
    f = dict(events.fields)
    f["pt"] = f["pt"].at[0, 1].set(0.0).at[1].set(0.0).at[2, 0].set(3000.0).at[2, 1].set(1e-3)
    f["em_fraction"] = f["em_fraction"].at[3, 0].set(0.0).at[4].set(jnp.array([1.0, 0.0, 0.0]))
    f["em_rms"] = f["em_rms"].at[4].set(0.0)
    f["hoe"] = f["hoe"].at[4].set(0.0)
    f["eta"] = f["eta"].at[5].set(0.0)
    f["phi"] = f["phi"].at[5].set(jnp.pi)
    return Events(f, events.mask.at[0, 1].set(False), events.weight.at[3].set(0.0))


@functools.cache
def compiled_edges() -> Callable:
    """Values and gradients of the whole line, compiled once: every number of the calorimeter is an argument."""
    mask, weight = edge_events().mask, edge_events().weight

    def run(design, fields, noise):
        calorimeter, tagger, trigger = resolve(design)
        x = calorimeter.respond(Events(fields, mask, weight), noise)
        x = tagger(PhotonReconstruction(calorimeter.leakage_curve())(x))
        return pair_mass(x), trigger(x).weight, x.fields, calorimeter.resolution(jnp.array([1.0, 60.0, 3000.0]))

    def both(design, fields, noise):
        scalar = lambda args: sum(leaf.sum() for leaf in jax.tree.leaves(run(args[0], args[1], noise)))
        return run(design, fields, noise), eqx.filter_grad(scalar)((design, fields))

    return eqx.filter_jit(both)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("key", [None, jr.key(1)], ids=["mean", "drawn"])
def test_values_and_gradients_are_finite_at_the_edges(name, key):
    events = edge_events()
    calorimeter = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, float) else x, lead_stack(**EDGES[name]))
    both = compiled_edges()((calorimeter, TAGGER, menu()), events.fields, draw_noise(events, 8, key=key))
    for path, leaf in jax.tree_util.tree_leaves_with_path(both):
        assert bool(jnp.all(jnp.isfinite(leaf))), f"{jax.tree_util.keystr(path)}: {leaf}"
