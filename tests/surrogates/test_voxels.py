"""The surrogate of voxels: what splits see, energy, inverses, gradients, and the way through files."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.scipy.special import ndtr

from diffhep import cli
from diffhep.generate import Beam, PolarCells, SamplingCalorimeter
from diffhep.generate.geant4_setup import draw
from diffhep.io import Showers, read_calochallenge, read_showers, write_showers
from diffhep.surrogates import (
    Incidence,
    SurrogateSettings,
    fit_voxels,
    load_surrogate,
    load_voxels,
    quantiles,
    shipped_voxels,
)
from diffhep.surrogates.card import SHIPPED
from diffhep.surrogates.chain import product, shown
from diffhep.surrogates.features import voxel_features
from diffhep.surrogates.kinds import empty_voxels
from diffhep.surrogates.splits import Tree, all_splits, contexts, memories
from diffhep.surrogates.splitter import divided
from diffhep.surrogates.stack import Stack
from diffhep.surrogates.voxel_fitting import tree_of, turned
from diffhep.surrogates.voxels import VoxelSurrogate, shares

TREE = Tree(4, 3)
LAYERS = 6
THRESHOLD = 1e-5


def untrained():
    """A surrogate whose splits depend on everything that they see."""
    surrogate = empty_voxels(SurrogateSettings(), Stack(LAYERS, "G4_W", "G4_Si"), TREE).in_double()
    leaves, structure = jax.tree.flatten(surrogate.splitter)
    noisy = [x + 0.3 * jr.normal(jr.key(i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    net = jax.tree.unflatten(structure, noisy)
    # few children that take everything, so that many splits say something
    net = net._replace(last=(net.last[0], net.last[1].at[:, -2:].add(-3.0)))
    return VoxelSurrogate(surrogate.layers, net, TREE, THRESHOLD)


def incidence(energy=3.0, absorber=6.0):
    return Incidence(jnp.asarray(energy), jnp.asarray(0.0), jnp.full(LAYERS, absorber), jnp.full(LAYERS, 0.6))


def toys(n, seed=0):
    """Showers with cells whose layers come from nowhere: a core that wanders, and hits far from it."""
    rng = np.random.default_rng(seed)
    calorimeter = SamplingCalorimeter(
        LAYERS, "G4_W", "G4_Si", (4.0, 8.0), (0.4, 0.8), cells=PolarCells(4, 3), absorber_energy=False
    )
    drawn = draw(calorimeter, Beam(energy=(1.0, 4.0)), n, seed=seed)
    layers = drawn["energy"][:, None] * 0.01 * rng.gamma(3.0, 0.3, (n, LAYERS))
    share = rng.dirichlet(np.repeat([4.0, 1.0, 0.3], 4) / 4, (n, LAYERS)).reshape(n, LAYERS, 3, 4)
    cells = np.moveaxis(0.95 * layers[..., None, None] * share, -1, -2)
    config = {"calorimeter": calorimeter.to_dict()}
    return Showers(**drawn, pdg_id=np.full(n, 11), active_energy=layers, cells=cells.astype(np.float32), config=config)


@given(st.sampled_from([2, 4, 16]), st.sampled_from([1, 4, 9]), st.integers(0, 2**32 - 1))
def test_children_add_up_to_their_parents(alphas, rings, seed):
    tree, rng = Tree(alphas, rings), np.random.default_rng(seed)
    cells = rng.exponential(size=(3, alphas, rings)) * rng.integers(0, 2, (3, alphas, rings))
    layers = cells.sum(axis=(1, 2)) + rng.exponential(size=3)
    found = np.asarray(tree.energies(jnp.asarray(layers), jnp.asarray(cells)))
    assert found.shape == (3, tree.slots) == (3, 2 * (alphas * rings) + 1)
    np.testing.assert_allclose(found[:, :-1].reshape(3, -1, 2).sum(axis=2), found[:, tree.parents], rtol=1e-12)
    np.testing.assert_array_equal(found[:, tree.cells], cells)
    np.testing.assert_allclose(found[:, -1], layers, rtol=1e-12)


@pytest.mark.parametrize("tree", [TREE, Tree(), Tree(2, 1)])
def test_a_split_sees_only_what_was_made_before(tree):
    assert tree.delays.min() == 1
    # and of its own layer and the ones in front only
    assert tree.sources[..., 1].min() == 0
    assert set(tree.kind) == set(range(tree.kinds))


def test_what_a_split_sees_when_sampling_is_what_it_saw_in_training():
    surrogate = untrained()
    x, noise = incidence(), jr.normal(jr.key(1), (surrogate.noise_size,))
    layers, cells = surrogate.from_noise(x, noise, hard=False)
    rows = jnp.asarray(all_splits(TREE, 1, LAYERS))
    energies = TREE.energies(layers[None], cells[None])
    y, real = shares(TREE, energies, rows, 1e-9)
    seen = contexts(TREE, shown(energies), memories(shown(energies)), rows)
    net, kind = surrogate.splitter, TREE.kind[rows[:, 2]]
    about = surrogate.about(x, layers)[rows[:, 1]]
    out = net(product(about, net.about) + net.kinds[kind], seen, kind)
    z = noise[surrogate.layers.noise_size :]
    first, second = divided(out, ndtr(z), ndtr(-z))
    # the outermost ring's share is a difference of sums, hence the absolute tolerance
    share = jax.nn.sigmoid(y)
    assert int(real.sum()) > 20
    np.testing.assert_allclose(np.where(real, first, 0), np.where(real, share, 0), atol=1e-6)
    np.testing.assert_allclose(first + second, 1.0, rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(1.0, 5.0), st.floats(3.0, 9.0))
def test_energy_is_conserved(seed, energy, absorber):
    surrogate, x = untrained(), incidence(energy, absorber)
    noise = 2 * jr.normal(jr.key(seed), (surrogate.noise_size,))
    layers, cells = RUN(surrogate, x, noise)
    assert (np.asarray(cells) >= 0).all()
    assert (np.asarray(cells).sum(axis=(1, 2)) <= np.asarray(layers) * (1 + 1e-12)).all()
    assert float(layers.sum()) <= energy


RUN = jax.jit(lambda s, x, noise: s.from_noise(x, noise, hard=False))


def test_a_split_runs_continuously_from_nothing_to_everything():
    out = jnp.asarray(np.append(quantiles.standard_parameters(), [-1.0, -0.5]))
    z = jnp.linspace(-4, 4, 20_001)
    first, second = divided(jnp.broadcast_to(out, (z.size, out.size)), ndtr(z), ndtr(-z))
    ends = jax.nn.softmax(jnp.array([-1.0, -0.5, 0.0]))
    assert float(first[0]) == 0 == float(second[-1])
    assert (np.diff(first) >= 0).all()
    # shares appear from zero: slowly seen from u, as the quantile function goes with a logarithm
    ends_of = [divided(out, ends[0] + d, 1 - ends[0] - d)[0] for d in (1e-3, 1e-6, 1e-9)]
    assert (np.diff(ends_of) < 0).all()
    assert float(ends_of[-1]) < 1e-3
    assert float(ndtr(z)[np.argmax(first > 0)]) == pytest.approx(float(ends[0]), abs=3e-4)
    assert float(ndtr(-z)[np.argmax(second == 0)]) == pytest.approx(float(ends[1]), abs=3e-4)


@pytest.mark.parametrize("hard", [True, pytest.param(False, marks=pytest.mark.long)])
def test_derivatives_of_all_inputs(hard):
    surrogate, x = untrained(), incidence()
    noise = jr.normal(jr.key(3), (surrogate.noise_size,))
    weights = jr.normal(jr.key(4), (LAYERS, 4, 3))
    inputs = (surrogate.splitter, x.absorber, noise)

    def total(net, absorber, noise):
        changed = VoxelSurrogate(surrogate.layers, net, TREE, THRESHOLD)
        return 1e3 * jnp.sum(
            weights * changed.from_noise(Incidence(x.energy, x.angle, absorber, x.active), noise, hard=hard)[1]
        )

    run = jax.jit(total)
    slopes = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*inputs)
    step = 1e-6
    for seed, which in enumerate((*range(3), slice(None))):
        leaves, structure = jax.tree.flatten(inputs)
        moved = jax.tree.map(lambda v: jnp.zeros_like(v), list(inputs))
        drawn = [jr.normal(jr.fold_in(jr.key(seed), i), v.shape) for i, v in enumerate(leaves)]
        moved[which] = jax.tree.unflatten(structure, drawn)[which]
        ends = [run(*jax.tree.map(lambda v, d, s=s: v + s * step * d, inputs, tuple(moved))) for s in (1, -1)]
        along = sum(jnp.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (slopes, moved)), strict=True))
        # central differences of numbers around 10: rounding 1e-16 * 10 / 1e-6, the third derivative less
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.long
def test_derivatives_of_many_showers_and_of_derivatives():
    surrogate, x = untrained(), incidence()
    noise = 0.7 * jr.normal(jr.key(5), (3, surrogate.noise_size))

    def width(absorber, noise):
        cells = surrogate.from_noise(Incidence(x.energy, x.angle, absorber, x.active), noise, hard=False)[1]
        return jnp.sum(cells * np.arange(3)) / jnp.sum(cells)

    slope = jax.grad(width)
    together = jax.jit(jax.vmap(slope, in_axes=(None, 0)))(x.absorber, noise)
    alone = [jax.jit(slope)(x.absorber, one) for one in noise]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-10, atol=1e-13)
    length = jax.jit(lambda absorber: jnp.sum(slope(absorber, noise[0]) ** 2))
    curved, step = jax.jit(jax.grad(length))(x.absorber), 1e-5
    ends = [length(x.absorber + s * step) for s in (1, -1)]
    np.testing.assert_allclose(curved.sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-4)


def test_what_is_not_a_number_is_seen():
    surrogate = untrained()
    layers = jnp.array([1e-3, jnp.nan, 2e-3, 0.0, 1e-3, 0.0])
    about, noise = jnp.zeros((LAYERS, surrogate.splitter.about.shape[0])), jnp.zeros(LAYERS * len(TREE.splits), int)
    total = lambda layers: jnp.sum(surrogate.divide(about, layers, noise, hard=True)[1])
    value, slope = jax.jit(jax.value_and_grad(total))(layers)
    assert np.isnan(value)
    assert np.isnan(slope[1])


def test_turning_keeps_every_ring():
    rng = np.random.default_rng(2)
    cells = rng.random((50, 3, 4, 2))
    new = turned(cells, rng)
    np.testing.assert_allclose(np.sort(new, axis=2), np.sort(cells, axis=2))
    # the same turn in all layers and rings
    alone = np.zeros_like(cells)
    alone[:, :, 1] = 1
    assert (turned(alone, rng).sum(axis=(1, 3)).max(axis=1) == 6).all()


def test_features_of_one_cell():
    cells = np.zeros((1, 2, 4, 3))
    cells[0, 0, 0, 2] = 0.1
    found = voxel_features(np.array([10.0]), cells)[0]
    # incident, total and layer energies in MeV, empty cells, then centre and width in x of both layers, in y and in r
    middle = 2.5 * np.cos(np.pi / 4)
    places = [middle, 0, 0, 0, middle, 0, 0, 0, 2.5, 0, 0, 0]
    np.testing.assert_allclose(found, [4, 2, 2, -8, 11 / 12, 1, *places], atol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the command on toys, and their file."""
    folder = tmp_path_factory.mktemp("voxels")
    write_showers(folder / "toys.npz", toys(600))
    settings = folder / "settings.toml"
    settings.write_text(
        f'data = ["{folder / "toys.npz"}"]\n[network]\nkind = "voxels"\nwidth = 16\nmemory = 8\nsplitter = 16\n'
        "[schedule]\ngenerator = 100\nsplits = 500\nrows = 512\ncheckpoint = 100\nmoments = 100\nstudent = 100\n"
        "rate = 0.01\n"
    )
    assert cli.main(["surrogate", "train", str(settings), "-o", str(folder / "run")]) == 0
    return folder


def test_training_learns_the_shares(trained):
    surrogate, showers = load_voxels(trained / "run"), toys(400, seed=7)
    x = Incidence(
        *(jnp.asarray(v, jnp.float32) for v in (showers.energy, showers.angle)),
        *(jnp.asarray(v, jnp.float32) for v in (showers.absorber_thickness, showers.active_thickness)),
    )
    layers, cells = jax.jit(lambda s, k: s.sample(x, key=k))(surrogate, jr.key(0))
    rings = np.asarray(cells).sum(axis=(0, 1, 2)) / np.asarray(layers).sum()
    wanted = 0.95 * np.array([4.0, 1.0, 0.3]) / 5.3
    # 400 x 6 layers scatter the shares by less than 0.01; the rest is what 600 steps of training leave
    np.testing.assert_allclose(rings, wanted, atol=0.04)
    # the density prefers showers to the same with all cells' energies moved out by one ring
    log_prob = jax.jit(lambda s, layers, cells, x: s.log_prob(layers, cells, x))
    x, layers = jax.tree.map(lambda v: v[:50], (x, jnp.asarray(showers.active_energy, jnp.float32)))
    assert showers.cells is not None
    kept = showers.cells[:50]
    here, moved = (log_prob(surrogate, layers, np.roll(kept, by, axis=-1), x) for by in (0, 1))
    assert np.isfinite(here).all()
    assert (here > moved).mean() > 0.9


@pytest.mark.long
def test_validation(trained, capsys):
    run, data = str(trained / "run"), str(trained / "toys.npz")
    assert cli.main(["surrogate", "validate", run, "--data", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["voxels"]
    assert 0.4 < found["auc"]["high"] <= 1
    assert found["hits"]["made"] == pytest.approx(found["hits"]["real"], rel=0.2)


def test_command_line(trained, capsys):
    run, data = str(trained / "run"), str(trained / "toys.npz")
    for suffix in ("npz", "hdf5"):
        out = trained / f"new.{suffix}"
        assert cli.main(["surrogate", "sample", run, "--like", data, "-o", str(out)]) == 0
    capsys.readouterr()
    cells = read_showers(trained / "new.npz").cells
    assert cells is not None
    challenge = read_calochallenge(trained / "new.hdf5", shape=(LAYERS, 4, 3))
    np.testing.assert_allclose(challenge.cells, cells, rtol=1e-6)
    # it is also a surrogate of layers
    assert load_surrogate(run).stack.layers == LAYERS


def test_the_shipped_one_makes_electrons():
    surrogate = shipped_voxels()
    full = lambda value, *shape: jnp.full((200, *shape), value, jnp.float32)
    x = Incidence(full(4.0), full(0.0), full(2.8, 45), full(0.6, 45))
    layers, cells = jax.jit(lambda s, key: s.sample(x, key=key))(surrogate, jr.key(5))
    # of Geant4's 6000 showers of this stack: 2.99 % of the energy visible, 69 % of it in the innermost ring
    share = np.asarray(layers).sum(axis=1) / 4.0
    assert share.mean() == pytest.approx(0.0299, abs=4 * 0.0032 / np.sqrt(200))
    rings = np.asarray(cells).sum(axis=(0, 1, 2))
    assert rings[0] / rings.sum() == pytest.approx(0.689, abs=0.02)


def test_bad_input(trained, tmp_path):
    with pytest.raises(ValueError, match="power of two in alpha"):
        Tree(6, 3)
    showers = toys(300)
    bare = Showers(**{k: v for k, v in showers.arrays().items() if k != "cells"}, config=showers.config)
    with pytest.raises(ValueError, match="--cells polar"):
        fit_voxels(SurrogateSettings(), bare)
    leaning = Showers(**{**showers.arrays(), "angle": np.full(300, 0.2)}, config=showers.config)
    with pytest.raises(ValueError, match=r"along the normal, got 0\.2 rad"):
        tree_of(leaning)
    with pytest.raises(ValueError, match="which has no cells"):
        load_voxels(SHIPPED)
    few = Incidence(jnp.ones(()), jnp.zeros(()), jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="of 6 layers"):
        untrained().sample(few, key=jr.key(0))
