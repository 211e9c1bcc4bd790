"""From showers to a surrogate: the autoregressive one at once, the others in phases.

Those are mean and width, then the generative network, then perhaps its student. A training starts from random weights,
or goes on from those of a surrogate.

Every phase saves its state with orbax; a training that was killed goes on from there and ends bit for bit the same.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from diffhep.io.run import RunFolder
from diffhep.io.showers import Showers
from diffhep.surrogates.autoregressive import AutoregressiveSurrogate
from diffhep.surrogates.chain import Chain
from diffhep.surrogates.chain import surprise as chain_surprise
from diffhep.surrogates.checkpoints import Checkpoints
from diffhep.surrogates.config import ScheduleSettings, SurrogateSettings
from diffhep.surrogates.coordinates import cut, fill_empty, to_coordinates
from diffhep.surrogates.domain import Domain, domain_of
from diffhep.surrogates.flow_matching import FlowMatching, OneStep
from diffhep.surrogates.generator import AbstractGenerator, context_of
from diffhep.surrogates.groups import grouped
from diffhep.surrogates.kinds import empty_surrogate
from diffhep.surrogates.moments import Moments, surprise
from diffhep.surrogates.stack import Guess, Incidence, Stack, guess, incidence_of, stack_of
from diffhep.surrogates.surrogate import LayerSurrogate
from diffhep.surrogates.training import Training
from diffhep.surrogates.validation import check_stack
from diffhep.surrogates.whitened import WhitenedSurrogate

Progress = Callable[[str, float], None]
MINIMUM = 200  # showers
CALIBRATION = 40_000  # showers that mean and width are matched with, at most
VISIBLE = 0.3  # extra weight of the visible energy in a student's loss; a coordinate alone has 1/30
LESSONS = 40_000  # paths of the teacher that the student learns from, if there are fewer showers


class Batch(NamedTuple):
    """Showers that are trained on, with what is known of their stacks; worked out once, single precision."""

    x: Incidence
    seen: Guess
    layers: Float[Array, "shower layer"]


class Whitened(NamedTuple):
    """What a generative network is trained on: contexts, and coordinates with mean and width taken out."""

    context: Float[Array, "shower context"]
    real: Float[Array, "shower layer"]


def fit_surrogate(
    settings: SurrogateSettings,
    showers: Showers,
    *,
    start: LayerSurrogate | None = None,
    replay: Showers | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
) -> LayerSurrogate:
    """Train a surrogate.

    Args:
        settings: the training.
        showers: what it is trained on; a share of them is held out for the validation curve.
        start: the surrogate whose weights are trained on, of the kind and size that the settings say; its domain grows
            by the showers. Random weights if None.
        replay: showers that are a share of every step, so that what `start` knows is kept.
        run: where checkpoints and the curve go; a run that was killed goes on. None keeps everything in memory.
        progress: called with phase and fraction done.

    Raises:
        ValueError: too few showers, several kinds of particle, layers read out together, showers of another stack than
            that of `start`, a broken checkpoint.
    """
    if showers.size < MINIMUM:
        msg = f"showers: at least {MINIMUM} are wanted to train on, got {showers.size}"
        raise ValueError(msg)
    every = [showers] if replay is None else [showers, replay]
    every = [parted(part, settings) for part in every]
    if start:
        for kept, _ in every:
            check_stack(start, kept)
    domains = [domain_of(part) for pair in every for part in pair] + ([start.domain] if start else [])
    domain = functools.reduce(Domain.including, domains)
    if start:
        untrained = eqx.tree_at(lambda s: s.domain, start, domain)
    else:
        untrained = empty_surrogate(settings, stack_of(every[0][0], settings.threshold), domain)
    for kept, _ in every:
        check_stack(untrained, kept)
    stack, schedule = untrained.stack, settings.schedule
    key = jr.key(schedule.seed)
    both = [[observe(stack, part) for part in pair] for pair in every]
    parts = both[0] if replay is None else [mixed(new, old, schedule) for new, old in zip(*both, strict=True)]
    phase = Phases(settings, run, progress)

    if isinstance(untrained, AutoregressiveSurrogate):

        def loss(chain: Chain, batch: Batch, key: PRNGKeyArray) -> Array:
            share, layers = chain_surprise(chain, stack, batch.x, batch.seen, readable(stack, batch, key))
            return jnp.mean(share) + jnp.mean(jnp.sum(layers, axis=-1))

        steps = schedule.generator
        chain = phase.train("generator", untrained.network, loss, parts, steps, jr.fold_in(key, 3))
        return eqx.tree_at(lambda s: s.network, untrained, chain)
    assert isinstance(untrained, WhitenedSurrogate)
    return _fit_whitened(untrained, settings, parts, phase, key)


def parted(showers: Showers, settings: SurrogateSettings) -> list[Showers]:
    """What is trained on, and what is held out, as it is read out."""
    schedule, groups = settings.schedule, settings.groups
    order = np.random.default_rng(schedule.seed).permutation(showers.size)
    kept = showers.size - max(1, round(schedule.held_out * showers.size))
    parts = [showers[np.sort(rows)] for rows in (order[:kept], order[kept:])]
    return [grouped(part, groups, schedule.seed + i, copies=groups.copies) for i, part in enumerate(parts)]


def mixed(new: Batch, replay: Batch, schedule: ScheduleSettings) -> Batch:
    """Both in random order, the rows of one of them again and again, so that the replay has its share."""
    sizes, shares = [len(batch.layers) for batch in (new, replay)], (1 - schedule.replay, schedule.replay)
    total = max(n / share for n, share in zip(sizes, shares, strict=True))
    rows = [np.resize(np.arange(n), round(total * share)) for n, share in zip(sizes, shares, strict=True)]
    rows = np.random.default_rng(schedule.seed).permutation(np.concatenate([rows[0], sizes[0] + rows[1]]))
    return jax.tree.map(lambda *values: jnp.concatenate(values)[rows], new, replay)


def _fit_whitened(
    untrained: WhitenedSurrogate, settings: SurrogateSettings, parts: list[Batch], phase: "Phases", key: PRNGKeyArray
) -> WhitenedSurrogate:
    """Mean and width, the generative network, and its student if it is one."""
    stack, schedule = untrained.stack, settings.schedule

    def moments_loss(moments: Moments, batch: Batch, key: PRNGKeyArray) -> Array:
        z = coordinates(stack, batch, key)
        return jnp.mean(surprise(moments, batch.x, batch.seen, z))

    moments = phase.train("moments", untrained.moments, moments_loss, parts, schedule.moments, jr.fold_in(key, 1))
    white = [whiten(moments, part, coordinates(stack, part, jr.fold_in(key, 2))) for part in parts]

    def generator_loss(generator: AbstractGenerator, batch: Whitened, key: PRNGKeyArray) -> Array:
        keys = jr.split(key, batch.real.shape[0])
        return jnp.mean(jax.vmap(lambda r, c, k: generator.loss(r, c, key=k))(batch.real, batch.context, keys))

    generator = untrained.generator
    if not isinstance(generator, OneStep):
        steps = schedule.generator
        generator = phase.train("generator", generator, generator_loss, white, steps, jr.fold_in(key, 3))
        return calibrated(eqx.tree_at(parts_of, untrained, (moments, generator)), white[0], jr.fold_in(key, 8))
    network = settings.network
    teacher = FlowMatching(stack.layers, width=network.width, depth=network.depth, key=jr.fold_in(key, 4))
    teacher = phase.train("generator", teacher, generator_loss, white, schedule.generator, jr.fold_in(key, 3))
    lessons = [_lessons(teacher, part, jr.fold_in(key, 5 + i)) for i, part in enumerate(white)]
    generator = phase.train("student", generator, _student_loss, lessons, schedule.student, jr.fold_in(key, 7))
    return calibrated(eqx.tree_at(parts_of, untrained, (moments, generator)), white[0], jr.fold_in(key, 8))


def parts_of(surrogate: WhitenedSurrogate) -> tuple[Moments, AbstractGenerator]:
    """What is trained of a surrogate."""
    return surrogate.moments, surrogate.generator


def calibrated(surrogate: WhitenedSurrogate, white: Whitened, key: PRNGKeyArray) -> WhitenedSurrogate:
    """The surrogate with mean and width of every coordinate matched to those of the showers it was trained on."""
    contexts = white.context[:CALIBRATION]
    noise = jr.normal(key, (contexts.shape[0], surrogate.noise_size), jnp.float32)
    made = _sample_all(surrogate.generator, noise, contexts)
    scale = jnp.std(white.real, axis=0) / jnp.std(made, axis=0)
    shift = jnp.mean(white.real, axis=0) - scale * jnp.mean(made, axis=0)
    return eqx.tree_at(lambda s: (s.shift, s.scale), surrogate, (shift, scale))


@eqx.filter_jit
def _sample_all(generator: AbstractGenerator, noise: Array, context: Array) -> Array:
    return jax.lax.map(lambda a: generator.sample(*a), (noise, context), batch_size=512)


class Lesson(NamedTuple):
    """Where a teacher's path starts and ends."""

    context: Float[Array, "shower context"]
    noise: Float[Array, "shower layer"]
    end: Float[Array, "shower layer"]


def _student_loss(student: OneStep, batch: Lesson, key: PRNGKeyArray) -> Array:
    del key
    # the first coordinate is the visible energy: a student that misses there spoils the resolution
    made = jax.vmap(student.sample)(batch.noise, batch.context)
    miss = jnp.mean((made - batch.end) ** 2, axis=0)
    return jnp.mean(miss) + VISIBLE * miss[0]


def _lessons(teacher: FlowMatching, part: Whitened, key: PRNGKeyArray) -> Lesson:
    """Paths of the teacher, at least one for each context."""
    copies = max(1, LESSONS // part.real.shape[0])
    context = jnp.concatenate([part.context] * copies)
    noise = jr.normal(key, (context.shape[0], part.real.shape[1]), jnp.float32)
    return Lesson(context, noise, _sample_all(teacher, noise, context))


def coordinates(stack: Stack, batch: Batch, key: PRNGKeyArray) -> Float[Array, "shower layer"]:
    """Coordinates of showers, empty layers filled with the random numbers of a key."""
    return to_coordinates(fill_empty(batch.layers, stack.threshold, key), batch.x.energy)


def readable(stack: Stack, batch: Batch, key: PRNGKeyArray) -> Float[Array, "shower layer"]:
    """Energies of showers [GeV], zero where a layer is empty, except for the first, which is filled."""
    first = fill_empty(batch.layers[:, :1], stack.threshold, key)
    return jnp.concatenate([first, cut(batch.layers[:, 1:], stack.threshold)], axis=1)


@eqx.filter_jit
def whiten(moments: Moments, batch: Batch, z: Float[Array, "shower layer"]) -> Whitened:
    """Contexts and whitened coordinates of showers."""
    mean, sigma = moments(batch.x, batch.seen)
    return Whitened(context_of(batch.seen), (z - mean) / sigma)


def observe(stack: Stack, showers: Showers) -> Batch:
    """Showers ready to be trained on."""
    x = incidence_of(showers, jnp.float32)
    seen = jax.tree.map(lambda v: v.astype(jnp.float32), jax.jit(guess)(stack, x))
    return Batch(x, seen, jnp.asarray(showers.active_energy, jnp.float32))


class Phases:
    """Runs the phases of a training, with checkpoints and a validation curve if there is a folder for them."""

    def __init__(
        self, settings: SurrogateSettings, run: RunFolder | None, progress: Progress | None, *, batch: int | None = None
    ):
        self.settings, self.run, self.batch = settings.schedule, run, batch or settings.schedule.batch
        self.progress = progress or (lambda phase, done: None)

    def train(self, name: str, model: Any, loss: Callable, data: list, steps: int, key: PRNGKeyArray) -> PyTree:
        """The trained model of one phase."""
        s = self.settings
        training = Training(
            model,
            loss,
            steps=steps,
            # the bar moves more often than states are kept
            chunk=250 if s.checkpoint % 250 == 0 else s.checkpoint,
            batch=min(self.batch, jax.tree.leaves(data[0])[0].shape[0]),
            rate=s.rate,
            key=key,
        )
        state = training.start()
        checkpoints = Checkpoints(self.run.path / "checkpoints" / name) if self.run else None
        if checkpoints:
            state = checkpoints.latest(state)
        self.progress(name, int(state.step) / steps)
        while int(state.step) < steps:
            state, value = training.advance(state, data[0])
            step = int(state.step)
            self.progress(name, step / steps)
            if self.run and checkpoints and step % s.checkpoint == 0:
                held_out = training.validate(state, data[1], jr.fold_in(key, steps))
                if not np.isfinite(held_out):
                    msg = f"{name}: the loss is {held_out} after {step} steps; a smaller schedule.rate may help"
                    raise ValueError(msg)
                self.run.log({"phase": name, "step": step, "loss": value, "held_out": held_out})
                checkpoints.save(step, state)
        return training.model(state)
