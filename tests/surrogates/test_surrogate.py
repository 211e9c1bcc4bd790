"""The surrogate of layer energies: trained for seconds on the shipped Geant4 showers, it must behave like one."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.io import RunFolder, read_showers, shipped_showers
from diffhep.surrogates import (
    AutoregressiveSurrogate,
    GflashSurrogate,
    Incidence,
    SurrogateSettings,
    fit_surrogate,
    incidence_of,
    load_surrogate,
    response_gradient,
    sample_like,
    save_surrogate,
    stack_of,
)
from diffhep.surrogates.card import CARD, WEIGHTS
from diffhep.surrogates.chain import MEMORY
from diffhep.surrogates.coordinates import fill_empty
from diffhep.surrogates.kinds import empty_surrogate
from diffhep.surrogates.stack import guess, profile, running_sum

KEY = jr.key(3)


def settings(kind: str = "autoregressive", *, steps: int = 40, checkpoint: int = 20) -> SurrogateSettings:
    return SurrogateSettings.model_validate(
        {
            "network": {"kind": kind, "width": 32, "depth": 2, "moments": 16},
            "schedule": {
                "moments": steps,
                "generator": steps,
                "student": steps,
                "checkpoint": checkpoint,
                "batch": 128,
            },
        }
    )


@pytest.fixture(scope="module")
def showers():
    return read_showers(shipped_showers())


@pytest.fixture(scope="module")
def few(showers):
    return showers[:1500]


@pytest.fixture(scope="module")
def trained(showers):
    """Trained long enough for its means to be right to some per cent."""
    return fit_surrogate(settings(steps=400, checkpoint=200), showers[:5000])


@pytest.fixture
def particle(trained):
    layers = trained.stack.layers
    return Incidence(jnp.array(2.0), jnp.array(0.0), jnp.full(layers, 4.0), jnp.full(layers, 5.0))


def test_the_guessed_profile_is_that_of_gamma_distributions():
    """Against the incomplete gamma function."""
    edges = jnp.linspace(0.0, 15.0, 31)
    for shape, error in ((1.25, 1e-3), (2.0, 1e-4), (4.0, 1e-6)):
        wanted = jnp.diff(jax.scipy.special.gammainc(shape, edges))
        found = profile(jnp.array(shape), edges[:-1], jnp.diff(edges))
        assert_allclose(found, wanted, atol=error)
        assert_allclose(running_sum(found), jnp.cumsum(found), rtol=1e-12)


def test_the_guess_is_a_shower(showers):
    stack = stack_of(showers)
    seen = guess(stack, incidence_of(showers))
    visible = showers.active_energy.sum(axis=1)
    ratio = np.asarray(seen.energy.sum(axis=-1)) / visible
    # a parametrisation without a fit: right within a factor for every shower, and in the mean
    assert 0.7 < np.median(ratio) < 1.4
    assert float(jnp.max(jnp.abs(seen.features))) < 20


def test_the_visible_energy_is_that_of_geant4(trained, showers):
    """Showers that were not trained on: the mean visible share, in two halves of the energies."""
    rest = showers[5000:]
    made = sample_like(trained, rest, KEY)
    share, wanted = made.sum(axis=1) / rest.energy, rest.active_energy.sum(axis=1) / rest.energy
    for half in (rest.energy < 1.6, rest.energy >= 1.6):
        error = np.hypot(share[half].std(), wanted[half].std()) / np.sqrt(half.sum())
        # a quarter of a minute of training: good to 4 %
        assert abs(share[half].mean() - wanted[half].mean()) < 3 * error + 0.04 * wanted[half].mean()
    assert np.all(made.sum(axis=1) <= rest.energy)
    assert np.all((made == 0) | (made >= trained.stack.threshold))


def test_the_mean_response_is_that_of_many_showers(trained, particle):
    mean = trained.mean(particle, key=KEY, showers=2000)
    noise = jr.normal(jr.key(11), (2000, trained.noise_size), jnp.float32)
    many = trained.from_noise(particle, noise)
    # two samples of 2000: five standard errors of their difference
    error = np.asarray(many).std(axis=0) * np.sqrt(2 / 2000)
    assert np.all(np.abs(np.asarray(mean) - np.asarray(many).mean(axis=0)) < 5 * error + 1e-9)


def test_more_absorber_leaves_less_energy_to_see(trained, particle):
    found = response_gradient(trained, particle, key=KEY, showers=400)
    # Geant4: -49 MeV and +35 MeV for a millimetre more in every layer (finite differences)
    assert -0.08 < float(found["energy_to_absorber"].sum()) < -0.025
    assert 0.015 < float(found["energy_to_active"].sum()) < 0.06


@pytest.mark.parametrize("name", ["energy", "angle", "absorber", "active"])
def test_derivatives_of_a_shower_are_those_of_finite_differences(trained, particle, name):
    noise = jr.normal(KEY, (trained.noise_size,), jnp.float32)
    at = eqx.tree_at(lambda x: x.angle, particle, jnp.array(0.3))

    def visible(value):
        x = eqx.tree_at(lambda x: getattr(x, name), at, value)
        return jnp.sum(trained.from_noise(x, noise, hard=False) * jnp.linspace(1.0, 2.0, trained.stack.layers))

    value = getattr(at, name)
    direction = jnp.ones_like(value) * jnp.linspace(0.5, 1.0, value.size).reshape(value.shape)
    _, slope = jax.jvp(visible, (value,), (direction,))
    # networks are single precision: rounding of 1e-7 over a step of 1e-2 leaves 1e-5, the step's square as much
    step = 1e-2
    wanted = (visible(value + step * direction) - visible(value - step * direction)) / (2 * step)
    assert_allclose(slope, wanted, rtol=2e-3, atol=1e-6)


def test_one_program_serves_every_stack(trained, particle):
    count = 0

    @jax.jit
    def run(x):
        nonlocal count
        count += 1
        return trained.sample(x, key=KEY)

    for scale in (1.0, 1.1, 1.2):
        run(eqx.tree_at(lambda x: x.absorber, particle, scale * particle.absorber))
    assert count == 1
    # jit and eager differ by the order of single-precision sums, scaled up by the inverse logarithms
    assert_allclose(run(particle), trained.sample(particle, key=KEY), rtol=1e-3, atol=1e-9)


# a one-step student has a flow-matching teacher
@pytest.mark.parametrize(
    "kind", ["one-step", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gan", "normalising-flow", "vae"))]
)
def test_every_generator_trains_and_conserves_energy(few, kind):
    """What comes out after some steps: finite, at most what came in, and within a factor of two of Geant4's mean."""
    made = fit_surrogate(settings(kind), few)
    layers = sample_like(made, few[:200], KEY)
    assert np.all(layers.sum(axis=1) <= few.energy[:200])
    assert 0.5 < layers.sum() / few.active_energy[:200].sum() < 2


def test_gflash_gives_the_visible_energy_of_geant4(few):
    """A parametrisation of 1993 without a fit: its authors' accuracy is some per cent."""
    made = sample_like(GflashSurrogate(stack_of(few)), few, KEY)
    assert_allclose(made.sum() / few.active_energy.sum(), 1.0, atol=0.1)
    assert np.all(made.sum(axis=1) <= few.energy)


def test_the_density_of_a_normalising_flow_is_exact(few):
    """Against the change of variables by automatic differentiation, and refused by a network that has none."""
    flow = empty_surrogate(settings("normalising-flow"), stack_of(few))
    x = jax.tree.map(lambda v: v[0], incidence_of(few))
    layers = fill_empty(jnp.asarray(few.active_energy[0]), flow.stack.threshold, KEY)
    noise = jr.normal(KEY, (flow.stack.layers,), jnp.float32)
    made = flow.from_noise(x, noise, hard=False)
    back = jax.jacfwd(lambda n: flow.from_noise(x, n, hard=False))(noise.astype(jnp.float64))
    # relative energies: their scales span six decades
    _, log_det = np.linalg.slogdet(np.asarray(back) / np.asarray(made)[:, None])
    wanted = -0.5 * float(jnp.sum(noise**2)) - 0.5 * noise.size * np.log(2 * np.pi)
    wanted -= log_det + float(jnp.sum(jnp.log(made)))
    assert_allclose(flow.log_prob(made, x), wanted, rtol=1e-4)
    assert np.isfinite(float(flow.log_prob(layers, x)))
    with pytest.raises(ValueError, match="no exact density"):
        empty_surrogate(settings("gan"), stack_of(few)).log_prob(layers, x)


def test_the_density_of_an_autoregressive_surrogate_is_exact(few):
    """Against the change of variables by automatic differentiation, for showers with all layers filled."""
    made = empty_surrogate(settings(), stack_of(few)).in_double()
    x = jax.tree.map(lambda v: v[0].astype(float), incidence_of(few))
    # above the probability of an empty layer, which is about 5 % before training
    noise = jnp.abs(jr.normal(KEY, (made.noise_size,))) - 0.5
    layers = made.from_noise(x, noise, hard=False)
    assert bool(jnp.all(layers > 0))
    back = jax.jacfwd(lambda n: made.from_noise(x, n, hard=False))(noise)
    _, log_det = np.linalg.slogdet(np.asarray(back) / np.asarray(layers)[:, None])
    wanted = -0.5 * float(jnp.sum(noise**2)) - 0.5 * noise.size * np.log(2 * np.pi)
    assert_allclose(made.log_prob(layers, x), wanted - log_det - float(jnp.sum(jnp.log(layers))), rtol=1e-6)


def test_empty_layers_have_their_probability(few):
    """The last layer sees the visible energy only: at one visible energy it is empty with one probability."""
    made = empty_surrogate(settings(), stack_of(few)).in_double()
    assert isinstance(made, AutoregressiveSurrogate)
    x = jax.tree.map(lambda v: v[0].astype(float), incidence_of(few))
    noise = jr.normal(KEY, (20_000, made.noise_size))
    fixed = jnp.broadcast_to(noise[0, :1], (20_000, 1))
    layers = made.from_noise(x, jnp.concatenate([fixed, noise[:, 1:]], axis=1), hard=False)
    packed, _, _ = made.network.known(made.stack, x, guess(made.stack, x))
    last = made.network.unpacked(packed[-1])
    seen = jnp.log(jnp.sum(layers[0])) - last.log_sum
    out = made.network.conditional(last, jnp.zeros(MEMORY).at[:2].set(seen))
    share = float(jnp.mean(layers[:, -1] == 0))
    assert abs(share - float(jax.nn.sigmoid(out[-1]))) < 5 * np.sqrt(0.05 / 20_000)


def test_a_killed_training_goes_on_and_ends_the_same(few, tmp_path):
    whole = fit_surrogate(settings("vae"), few, run=RunFolder.create(tmp_path / "whole", {}))

    class Killed(Exception):
        pass

    def kill(phase: str, done: float) -> None:
        if phase == "generator" and done > 0.6:
            raise Killed

    half = RunFolder.create(tmp_path / "half", {})
    with pytest.raises(Killed):
        fit_surrogate(settings("vae"), few, run=half, progress=kill)
    resumed = fit_surrogate(settings("vae"), few, run=half)
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert_array_equal(one, two)


def test_a_surrogate_comes_back_from_its_folder_and_damage_is_noticed(few, tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    made = fit_surrogate(settings("vae"), few, run=run)
    card = save_surrogate(run, made, settings("vae"), [few])
    back = load_surrogate(run.path)
    assert_array_equal(sample_like(made, few[:50], KEY), sample_like(back, few[:50], KEY))
    assert card["data"][0]["showers"] == few.size
    content = (run.path / WEIGHTS).read_bytes()
    (run.path / WEIGHTS).write_bytes(content[:-100])
    with pytest.raises(ValueError, match="truncated"):
        load_surrogate(run.path)
    (run.path / CARD).write_text("{}")
    with pytest.raises(ValueError, match="not the card"):
        load_surrogate(run.path)
    checkpoint = next((run.path / "checkpoints" / "moments").glob("40/**/*"))
    for file in checkpoint.parent.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoint cannot be read"):
        fit_surrogate(settings("vae"), few, run=run)


def test_requests_outside_the_trained_stacks_are_flagged(trained, particle):
    domain = trained.domain
    assert bool(domain.contains(particle))
    scaled = lambda name, factor: eqx.tree_at(lambda x: getattr(x, name), particle, factor * getattr(particle, name))
    high = [float(v) for v in domain.high]
    assert not bool(domain.contains(scaled("energy", 1.2 * high[0] / 2.0)))
    thick = particle.absorber.at[7].set(1.2 * high[2])
    assert not bool(domain.contains(eqx.tree_at(lambda x: x.absorber, particle, thick)))
    assert float(domain.excess(scaled("active", 1.5 * high[3] / 5.0))) > 0.1


def test_showers_that_cannot_be_trained_on_are_refused(few, trained, particle):
    mixed = dataclasses.replace(few, pdg_id=np.where(np.arange(few.size) % 2, 11, 22))
    with pytest.raises(ValueError, match="one kind of particle"):
        fit_surrogate(settings(), mixed)
    with pytest.raises(ValueError, match="at least 200"):
        fit_surrogate(settings(), few[:50])
    with pytest.raises(ValueError, match="does not say"):
        stack_of(dataclasses.replace(few, config={}))
    with pytest.raises(ValueError, match="30 layers"):
        trained.sample(eqx.tree_at(lambda x: x.absorber, particle, jnp.ones(3)), key=KEY)
    with pytest.raises(ValueError, match="multiple of checkpoint"):
        settings(steps=50, checkpoint=20)
