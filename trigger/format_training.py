r"""Training of networks whose formats are learned, under the price of their logic or within a budget of it.

Adam (Kingma and Ba, arXiv:1412.6980) on mean loss + price x cost. The price of a lookup table rises from step to step,
so one run visits the whole front of accuracy against cost, and the best network of every size is kept. A budget is
then met by an augmented Lagrangian, $(\max(0, \lambda + \rho g)^2 - \lambda^2)/2\rho$ with the relative excess g, whose
multiplier follows the excess.

Three things decide how small a network becomes at a given accuracy. A weight's number of bits takes larger steps than
the weight: digits that are not worth their price leave early, and what stays has time to learn without them. What is
judged and kept is the running mean of weights and bits (Polyak and Juditsky 1992): a weight of one digit that changes
its sign, or a word that loses a bit, is a jolt, and the last step is a random one. And steps shorten while the price
rises, because the fewer digits are left, the more each of them matters.

Batches are functions of the step and the state is all there is: a killed training goes on to the same numbers, on the
same kind of device. Events come in turn, in the order given, which has to be random.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from diffhep.trigger.learned import Axis, LearnedLinear, Quantiser
from diffhep.trigger.learned_tables import LearnedTables

Cost = Callable[[Any], Float[Array, ""]]
"""What a network would take, differentiable in its numbers of bits."""

PENALTY = 2.0  # rho of the augmented Lagrangian, for losses of order 1
FOLLOW = 0.1  # of the penalty: how fast the multiplier follows the excess
MOST = 0.2  # excess counted in one step of the multiplier: a start far outside must not wind it up
BITS = 4.0  # step size of a weight's number of bits over that of the weight
TABLES = 4.0  # step size of tables over that of weights: an event moves two knots of each function, not all of it
MEMORY = 0.95  # of the running mean, a step
LOOK = 5  # steps, at most, for which a cost and its slope are kept: they change slowly and take a fifth of a step
FALL = 0.1  # step size at the end of the ramp over that at its start
BLOCK = 512  # events whose slopes a CPU works out at a time, so that what they need stays in its cache
WIDE = {"xla_cpu_prefer_vector_width": 512}  # bits, where there are as many: XLA's own choice is half, a fifth slower


class Formatted(Protocol):
    """A network of learned formats, with whatever is trained beside it."""

    def calibrated(self, words: Float[Array, "event n"], *, margin: int = 0) -> Self:
        """With the ranges of a sample."""
        ...

    def wrapping(self) -> Self:
        """Without the logic that clips."""
        ...

    def frozen(self) -> Self:
        """With every number on its grid."""
        ...


class Task(NamedTuple):
    """What a network is trained for.

    Attributes:
        loss: of network, words, what belongs to each event, and a key of random numbers: a mean over the events [nat].
        judge: figure of merit, between 0 and 1, and loss of network, words and what belongs to each event.
    """

    loss: Callable[[Any, Array, Array, PRNGKeyArray], Float[Array, ""]]
    judge: Callable[[Any, Array, Array], tuple[Float[Array, ""], Float[Array, ""]]]


class FormatState(NamedTuple):
    """Everything that changes during training: all weights and bits in one row, their running mean, and the rest."""

    weights: Float[Array, " n"]
    mean: Float[Array, " n"]
    optimiser: PyTree
    multiplier: Float[Array, ""]
    step: Int[Array, ""]


class Pressure(NamedTuple):
    """What the cost costs in a phase: a rising price, or a limit.

    Attributes:
        begin, end: steps of the phase.
        has_price: 1 if there is a price, 0 if not.
        first, last: prices of one unit of cost, geometric in between.
        limit: of the cost; 0 for none.
    """

    begin: int
    end: int
    has_price: float = 0.0
    first: float = 1.0
    last: float = 1.0
    limit: float = 0.0


def step_size(step: Array, phases: tuple[int, int, int]) -> Array:
    """Share of the largest step size: a short rise, `FALL` to the share done of the ramp, a cosine while polishing."""
    warm_up, ramp, polish = phases
    done = lambda begin, end: jnp.clip((step - begin) / max(end - begin, 1), 0.0, 1.0)
    cosine = 0.05 + 0.95 * 0.5 * (1 + jnp.cos(jnp.pi * done(ramp, polish)))
    return jnp.where(step < ramp, done(0, warm_up // 5) * FALL ** done(warm_up, ramp), FALL**0.5 * cosine)


def classification_loss(
    logits: Float[Array, "..."], labels: Int[Array, " event"], *, axis: Axis = -1
) -> Float[Array, ""]:
    """Mean cross-entropy: of the sigmoid for a single logit and labels 0 and 1, of the softmax for several [nat].

    Args:
        logits: (event, m) or, with axis 0, (m, event).
        labels: of the events.
        axis: of the logits of an event.
    """
    if logits.shape[axis] == 1:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits.squeeze(axis), labels.astype(logits.dtype)))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=axis))


def accuracy(logits: Float[Array, "event m"], labels: Int[Array, " event"]) -> Float[Array, ""]:
    """Share of events whose largest logit, the first of equal ones, is that of their class."""
    chosen = (logits[..., 0] > 0) if logits.shape[-1] == 1 else jnp.argmax(logits, axis=-1)
    return jnp.mean(chosen == labels)


def classify(network: Any, words: Array, labels: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Accuracy and loss [nat] of a classifier."""
    logits = network.logits(words)
    return accuracy(logits, labels), classification_loss(logits, labels)


def classification(network: Any, words: Array, labels: Array, key: PRNGKeyArray) -> Float[Array, ""]:
    """Loss [nat] of a classifier under training, whose `logits` take the words with events last (`axis=0`)."""
    return classification_loss(network.logits(words.T, axis=0), labels, axis=0)


CLASSIFICATION = Task(classification, classify)


def trained_leaves(network: Formatted, *, ranges: bool) -> PyTree:
    """Which leaves move by gradient: all but knots, and the integer bits where they follow calibration."""
    mask = jax.tree.map(eqx.is_inexact_array, network)
    mask = replaced(mask, Quantiser, lambda q: (q.i,), ranges)
    return replaced(mask, LearnedTables, lambda layer: (layer.low, layer.spacing), False)


def step_shares(network: Formatted) -> PyTree:
    """Step size of every leaf over that of the weights."""
    shares = jax.tree.map(lambda leaf: 1.0, network)
    shares = replaced(shares, LearnedLinear, lambda m: (m.weight_f, m.bias_f), BITS)
    shares = replaced(shares, LearnedTables, lambda t: (t.heights, t.source.i, t.source.f), TABLES)
    return replaced(shares, LearnedTables, lambda t: (t.f,), TABLES * BITS)


def replaced(tree: PyTree, kind: type, where: Callable[[Any], Sequence[Any]], value: Any) -> PyTree:
    """A tree with one value in place of some leaves of all its nodes of a kind."""
    change = lambda node: eqx.tree_at(where, node, [value] * len(where(node))) if isinstance(node, kind) else node
    return jax.tree.map(change, tree, is_leaf=lambda node: isinstance(node, kind))


def batch_of(data: PyTree, step: Array | int, batch: int, key: PRNGKeyArray) -> PyTree:
    """The events of a step: side by side, from the last one on to the first, and each at most once a round.

    A round begins at a random event and leaves out less than a batch. (To draw and gather a thousand events of a
    million takes as long as two layers.)

    Args:
        data: arrays of events.
        step: whose events are wanted.
        batch: events a step; all of them if there are fewer.
        key: of where rounds begin.
    """
    events = len(jax.tree.leaves(data)[0])
    size = min(batch, events)
    turns = events // size
    begin = (jr.randint(jr.fold_in(key, step // turns), (), 0, events) + step % turns * size) % events
    last = jnp.minimum(begin, events - size)
    # what is beyond the end is taken from the front, in place of what came before
    beyond = jnp.arange(size) < begin - last

    def some(part: Array) -> Array:
        found = jax.lax.dynamic_slice_in_dim(part, last, size)
        return jnp.where(beyond.reshape(-1, *(1,) * (part.ndim - 1)), part[:size], found)

    return jax.tree.map(some, data)


def blocks_of(events: int) -> int:
    """Into how many blocks of one size, of at most `BLOCK` events and at least half of that; 1 if there is none."""
    fitting = (n for n in range(1, events + 1) if events % n == 0 and BLOCK <= 2 * (events // n) <= 2 * BLOCK)
    return next(fitting, 1)


class FormatTraining:
    """A compiled training: `first`, then `advance` chunk by chunk, and `judge` in between.

    Args:
        network: what is trained, in single precision, calibrated.
        cost: of a network.
        task: what it is trained for.
        chunk: steps in one call of `advance`.
        batch: events a step.
        rate: largest step size of Adam.
        phases: steps at which warm-up, ramp and polish end.
        overflow: `WRAP`: words wrap in the end, with the ranges of a sample; `CLIP`: they saturate with these ranges;
            `SAT`: they saturate with learned ones.
        margin: integer bits beyond the ranges of the sample.
        key: of where rounds begin, and of what the loss draws.

    Attributes:
        first: the state before the first step.
        ranges: the part of the network that does not move by gradient.
    """

    def __init__(
        self,
        network: Formatted,
        cost: Cost,
        task: Task = CLASSIFICATION,
        *,
        chunk: int,
        batch: int,
        rate: float,
        phases: tuple[int, int, int],
        overflow: Literal["WRAP", "CLIP", "SAT"],
        margin: int = 0,
        key: PRNGKeyArray,
    ):
        self.cost, self.overflow, self.margin = cost, overflow, margin
        first, self.ranges = self.parts(network)
        # in one row: an update of two dozen small arrays, one kernel each and more, takes as long as their arithmetic
        trained = soft(network)
        moving = eqx.filter(trained, trained_leaves(trained, ranges=overflow == "SAT"))
        self.unravel = ravel_pytree(moving)[1]
        shares = ravel_pytree(jax.tree.map(lambda x, share: jnp.full_like(x, share), moving, step_shares(moving)))[0]
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adam(lambda step: rate * step_size(step, phases)),
            optax.stateless(lambda change, _: change * shares),
        )
        self.first = FormatState(first, first, self.optimiser.init(first), jnp.zeros(()), jnp.array(0))

        def missed(weights: Array, ranges: PyTree, data: tuple) -> Array:
            return task.loss(eqx.combine(self.unravel(weights), ranges), *data)

        def taken(weights: Array, ranges: PyTree) -> Array:
            made = eqx.combine(self.unravel(weights), ranges)
            # what it will take: words saturate under training only
            return cost(made.wrapping() if overflow == "WRAP" else made)

        order, noise = jr.split(key)
        on_cpu = jax.default_backend() == "cpu"

        def descent(weights: Array, ranges: PyTree, data: tuple, step: Array) -> tuple[Array, Array]:
            x, y = batch_of(data, step, batch, order)
            parts = blocks_of(len(y)) if on_cpu else 1
            drawn = jr.split(jr.fold_in(noise, step), parts)
            blocks = *(part.reshape(parts, -1, *part.shape[1:]) for part in (x, y)), drawn
            found = jax.lax.map(lambda block: jax.value_and_grad(missed)(weights, ranges, block), blocks)
            return tuple(jnp.mean(part, axis=0) for part in found)

        def one(state: FormatState, ranges: PyTree, data: tuple, pressure: Pressure, logic: tuple) -> tuple:
            (size, growth), limit = logic, pressure.limit
            done = (state.step - pressure.begin) / (pressure.end - pressure.begin)
            price = pressure.first * (pressure.last / pressure.first) ** done * pressure.has_price
            over = jnp.where(limit > 0, size / jnp.where(limit > 0, limit, 1.0) - 1, 0.0)
            # the slope of the augmented Lagrangian in the cost
            force = jnp.maximum(0.0, state.multiplier + PENALTY * over) / jnp.where(limit > 0, limit, jnp.inf)
            loss, slope = descent(state.weights, ranges, data, state.step)
            slope += (price + force).astype(growth.dtype) * growth
            change, optimiser = self.optimiser.update(slope, state.optimiser, state.weights)
            weights = optax.apply_updates(state.weights, change)
            mean = optax.incremental_update(weights, state.mean, 1 - MEMORY)
            multiplier = jnp.maximum(0.0, state.multiplier + FOLLOW * PENALTY * jnp.clip(over, -MOST, MOST))
            multiplier = jnp.where(limit > 0, multiplier, price * size).astype(state.multiplier.dtype)
            return FormatState(weights, mean, optimiser, multiplier, state.step + 1), jnp.stack([loss, size])

        few = max(steps for steps in range(1, LOOK + 1) if chunk % steps == 0)

        def run(state: FormatState, ranges: PyTree, data: tuple, pressure: Pressure) -> tuple[FormatState, Array]:
            def stretch(state: FormatState, _: None) -> tuple[FormatState, Array]:
                logic = jax.value_and_grad(taken)(state.weights, ranges)
                return jax.lax.scan(lambda s, _: one(s, ranges, data, pressure, logic), state, length=few)

            state, values = jax.lax.scan(stretch, state, length=chunk // few)
            return state, jnp.mean(values, axis=(0, 1))

        def judge(
            state: FormatState, ranges: PyTree, sample: Array, x: Array, y: Array
        ) -> tuple[Formatted, PyTree, Array]:
            made = (eqx.combine(self.unravel(part), ranges) for part in (state.mean, state.weights))
            hard, live = (self.final(network, sample) for network in made)
            return hard, self.parts(live)[1], jnp.stack([*task.judge(hard, x, y), cost(hard), cost(live)])

        self._run = jax.jit(run, compiler_options=WIDE if on_cpu else None)
        self._judge = jax.jit(judge)

    def parts(self, network: Formatted) -> tuple[Float[Array, " n"], PyTree]:
        """What moves by gradient, in one row, and the rest; the words saturate."""
        trained = soft(network)
        moving, ranges = eqx.partition(trained, trained_leaves(trained, ranges=self.overflow == "SAT"))
        return ravel_pytree(moving)[0], ranges

    def final(self, network: Formatted, sample: Float[Array, "event n"]) -> Formatted:
        """The network as hardware has it, with the ranges of a sample where they are not learned."""
        if self.overflow == "SAT":
            return network
        found = network.calibrated(sample, margin=self.margin)
        return found.wrapping() if self.overflow == "WRAP" else found

    def advance(
        self, state: FormatState, ranges: PyTree, data: tuple[Array, Array], pressure: Pressure
    ) -> tuple[FormatState, Float[np.ndarray, "2"]]:
        """`chunk` more steps, and the mean loss [nat] and cost during them."""
        state, values = self._run(state, ranges, data, pressure)
        return state, np.asarray(values)

    def judge(
        self, state: FormatState, ranges: PyTree, sample: Array, held_out: tuple[Array, Array]
    ) -> tuple[Any, PyTree, Float[np.ndarray, "4"]]:
        """The network as hardware has it, and the ranges to go on with.

        Also its figure of merit, loss [nat] and cost, and what it would cost without the running mean.
        """
        hard, ranges, values = self._judge(state, ranges, sample, *held_out)
        return hard, ranges, np.asarray(values)


def soft(network: Formatted) -> Formatted:
    """The same formats, saturating: what is trained."""
    is_quantiser = lambda node: isinstance(node, Quantiser)
    change = lambda node: Quantiser(node.i, node.f, node.k, node.rounding, "SAT") if is_quantiser(node) else node
    return jax.tree.map(change, network, is_leaf=is_quantiser)
