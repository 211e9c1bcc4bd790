r"""Training of networks whose formats are learned, under the price of their logic or within a budget of it.

Adam (Kingma and Ba, arXiv:1412.6980) on mean loss + price x cost. The price of a lookup table rises from step to step,
so one run visits the whole front of accuracy against cost, and the best network of every size is kept. A budget is
then met by an augmented Lagrangian, $(\max(0, \lambda + \rho g)^2 - \lambda^2)/2\rho$ with the relative excess g, whose
multiplier follows the excess.

Batches are functions of the step and the state is all there is: a killed training goes on to the same numbers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from diffhep.trigger.learned import Quantiser

Cost = Callable[[Any], Float[Array, ""]]
"""What a network would take, differentiable in its numbers of bits."""

PENALTY = 2.0  # rho of the augmented Lagrangian, for losses of order 1
FOLLOW = 0.1  # of the penalty: how fast the multiplier follows the excess
MOST = 0.2  # excess counted in one step of the multiplier: a start far outside must not wind it up


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
        loss: of network, words, what belongs to each event, and a key of random numbers [nat].
        judge: figure of merit, between 0 and 1, and loss of network, words and what belongs to each event.
    """

    loss: Callable[[Any, Array, Array, PRNGKeyArray], Float[Array, ""]]
    judge: Callable[[Any, Array, Array], tuple[Float[Array, ""], Float[Array, ""]]]


class FormatState(NamedTuple):
    """Everything that changes during training."""

    weights: PyTree
    optimiser: PyTree
    multiplier: Float[Array, ""]
    step: Int[Array, ""]


class Pressure(NamedTuple):
    """What the cost costs in a phase: a price that rises in stairs, or a limit.

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


def step_size(step: Array, phases: tuple[int, int, int], stairs: int) -> Array:
    """Share of the largest step size: a cosine from 1 to 1/20 on every stair of the ramp, and once while polishing."""
    _, ramp, polish = phases
    turn = (step - phases[0]) / max(ramp - phases[0], 1) * stairs % 1.0
    turn = jnp.where(step < ramp, turn, jnp.minimum((step - ramp) / max(polish - ramp, 1), 1.0))
    return 0.05 + 0.95 * 0.5 * (1 + jnp.cos(jnp.pi * turn))


def classification_loss(logits: Float[Array, "event m"], labels: Int[Array, " event"]) -> Float[Array, ""]:
    """Mean cross-entropy: of the sigmoid for a single logit and labels 0 and 1, of the softmax for several [nat]."""
    if logits.shape[-1] == 1:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits[..., 0], labels.astype(logits.dtype)))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def accuracy(logits: Float[Array, "event m"], labels: Int[Array, " event"]) -> Float[Array, ""]:
    """Share of events whose largest logit, the first of equal ones, is that of their class."""
    chosen = (logits[..., 0] > 0) if logits.shape[-1] == 1 else jnp.argmax(logits, axis=-1)
    return jnp.mean(chosen == labels)


def classify(network: Any, words: Array, labels: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Accuracy and loss [nat] of a classifier."""
    logits = network.logits(words)
    return accuracy(logits, labels), classification_loss(logits, labels)


CLASSIFICATION = Task(lambda network, x, y, key: classification_loss(network.logits(x), y), classify)


def trained_leaves(network: Formatted, *, ranges: bool) -> PyTree:
    """Which leaves move by gradient: all, or all but the integer bits, which then follow calibration."""
    mask = jax.tree.map(eqx.is_inexact_array, network)
    is_quantiser = lambda node: isinstance(node, Quantiser)
    return jax.tree.map(
        lambda node: eqx.tree_at(lambda q: q.i, node, ranges) if is_quantiser(node) else node,
        mask,
        is_leaf=is_quantiser,
    )


class FormatTraining:
    """A compiled training: `start`, then `advance` chunk by chunk, and `judge` in between.

    Args:
        network: what is trained, in single precision, calibrated.
        cost: of a network.
        task: what it is trained for.
        chunk: steps in one call of `advance`.
        batch: events a step.
        rate: largest step size of Adam.
        phases: steps at which warm-up, ramp and polish end.
        stairs: of the ramp. The price is constant on each, and the step size falls by a cosine, which is what makes the
            network at its end good; then it starts again.
        overflow: `WRAP`: words wrap in the end, with the ranges of a sample; `CLIP`: they saturate with these ranges;
            `SAT`: they saturate with learned ones.
        margin: integer bits beyond the ranges of the sample.
        key: of the batches.

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
        stairs: int,
        overflow: Literal["WRAP", "CLIP", "SAT"],
        margin: int = 0,
        key: PRNGKeyArray,
    ):
        self.cost, self.overflow, self.margin = cost, overflow, margin
        moving, self.ranges = self.parts(network)
        schedule = lambda step: (
            rate
            * jnp.where(
                step < phases[0], jnp.minimum(1.0, step / max(1, phases[0] // 5)), step_size(step, phases, stairs)
            )
        )
        self.optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.first = FormatState(moving, self.optimiser.init(moving), jnp.zeros(()), jnp.array(0))

        def loss(moving: PyTree, ranges: PyTree, data: tuple, price: Array, state: FormatState, limit: Array):
            made = eqx.combine(moving, ranges)
            # what it will take: words saturate under training only
            missed, taken = task.loss(made, *data), cost(made.wrapping() if overflow == "WRAP" else made)
            over = jnp.where(limit > 0, taken / jnp.where(limit > 0, limit, 1.0) - 1, 0.0)
            shifted = jnp.where(limit > 0, jnp.maximum(0.0, state.multiplier + PENALTY * over), 0.0)
            lagrangian = (shifted**2 - jnp.where(limit > 0, state.multiplier, 0.0) ** 2) / (2 * PENALTY)
            return missed + price * taken + lagrangian, (missed, taken, over)

        def one(state: FormatState, ranges: PyTree, data: tuple, pressure: Pressure) -> tuple[FormatState, Array]:
            x, y = data
            drawn = jr.fold_in(key, state.step)
            rows = jr.randint(drawn, (batch,), 0, x.shape[0])
            done = (state.step - pressure.begin) / (pressure.end - pressure.begin)
            stair = jnp.floor(done * stairs) / max(stairs - 1, 1)
            price = (pressure.first * (pressure.last / pressure.first) ** stair * pressure.has_price).astype(x.dtype)
            chosen = x[rows], y[rows], jr.fold_in(drawn, 1)
            slope, (missed, taken, over) = jax.grad(loss, has_aux=True)(
                state.weights, ranges, chosen, price, state, pressure.limit
            )
            change, optimiser = self.optimiser.update(slope, state.optimiser, state.weights)
            weights = optax.apply_updates(state.weights, change)
            multiplier = jnp.maximum(0.0, state.multiplier + FOLLOW * PENALTY * jnp.clip(over, -MOST, MOST))
            multiplier = jnp.where(pressure.limit > 0, multiplier, price * taken).astype(state.multiplier.dtype)
            return FormatState(weights, optimiser, multiplier, state.step + 1), jnp.stack([missed, taken])

        def run(state: FormatState, ranges: PyTree, data: tuple, pressure: Pressure) -> tuple[FormatState, Array]:
            state, values = jax.lax.scan(lambda s, _: one(s, ranges, data, pressure), state, length=chunk)
            return state, jnp.mean(values, axis=0)

        def judge(network: Formatted, sample: Array, x: Array, y: Array) -> tuple[Formatted, Array]:
            hard = self.final(network, sample)
            return hard, jnp.stack([*task.judge(hard, x, y), cost(hard)])

        self._run, self._judge = jax.jit(run), jax.jit(judge)

    def parts(self, network: Formatted) -> tuple[PyTree, PyTree]:
        """What moves by gradient, and the rest; the words saturate."""
        trained = soft(network)
        return eqx.partition(trained, trained_leaves(trained, ranges=self.overflow == "SAT"))

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
    ) -> tuple[Any, PyTree, Float[np.ndarray, "3"]]:
        """The network as hardware has it, the ranges to go on with, and its figure of merit, loss [nat] and cost."""
        hard, values = self._judge(eqx.combine(state.weights, ranges), sample, *held_out)
        return hard, self.parts(hard)[1], np.asarray(values)


def soft(network: Formatted) -> Formatted:
    """The same formats, saturating: what is trained."""
    is_quantiser = lambda node: isinstance(node, Quantiser)
    change = lambda node: Quantiser(node.i, node.f, node.k, node.rounding, "SAT") if is_quantiser(node) else node
    return jax.tree.map(change, network, is_leaf=is_quantiser)
