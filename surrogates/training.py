"""A training loop that can be killed: batches are a function of the step, and the state is all there is.

Adam (Kingma and Ba, arXiv:1412.6980) under a cosine schedule, gradients clipped, and an exponential average of the
weights, which is what is used afterwards.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

Loss = Callable[[PyTree, PyTree, PRNGKeyArray], Float[Array, ""]]
"""Mean loss of a model on a batch."""


class TrainingState(NamedTuple):
    """Everything that changes during training."""

    weights: PyTree
    average: PyTree
    optimiser: PyTree
    step: Int[Array, ""]


class Training:
    """A compiled training: `start`, then `advance` until `steps` are done.

    Args:
        model: what is trained; its arrays are the weights.
        loss: mean loss of a model on a batch.
        steps: length of the schedule.
        chunk: steps in one call of `advance`; divides `steps`.
        batch: rows of the data a step.
        rate: largest step size.
        key: of the batches and of what the loss draws.
        average_over: steps over which weights are averaged.
    """

    def __init__(
        self,
        model: PyTree,
        loss: Loss,
        *,
        steps: int,
        chunk: int,
        batch: int,
        rate: float,
        key: PRNGKeyArray,
        average_over: float = 300.0,
    ):
        weights, self.rest = eqx.partition(model, eqx.is_inexact_array)
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 50), steps, end_value=0.01 * rate)
        self.optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.steps, self.chunk, self._weights = steps, chunk, weights
        decay = 1 - 1 / average_over

        def one(state: TrainingState, data: PyTree) -> tuple[TrainingState, Array]:
            which, draws = jr.split(jr.fold_in(key, state.step))
            rows = jr.randint(which, (batch,), 0, jax.tree.leaves(data)[0].shape[0])
            chosen = jax.tree.map(lambda x: x[rows], data)
            value, slope = jax.value_and_grad(lambda w: loss(eqx.combine(w, self.rest), chosen, draws))(state.weights)
            change, optimiser = self.optimiser.update(slope, state.optimiser, state.weights)
            weights = optax.apply_updates(state.weights, change)
            # a plain mean at first, so that the start is forgotten
            keep = jnp.minimum(decay, state.step / (state.step + 1.0))
            average = jax.tree.map(lambda a, w: (keep * a + (1 - keep) * w).astype(w.dtype), state.average, weights)
            return TrainingState(weights, average, optimiser, state.step + 1), value

        def run(state: TrainingState, data: PyTree) -> tuple[TrainingState, Array]:
            state, values = jax.lax.scan(lambda s, _: one(s, data), state, length=chunk)
            return state, jnp.mean(values)

        self._run = jax.jit(run)
        self._loss = eqx.filter_jit(lambda weights, data, draws: loss(eqx.combine(weights, self.rest), data, draws))

    def start(self) -> TrainingState:
        """The state before the first step."""
        return TrainingState(self._weights, self._weights, self.optimiser.init(self._weights), jnp.array(0))

    def advance(self, state: TrainingState, data: PyTree) -> tuple[TrainingState, float]:
        """`chunk` more steps, and the mean loss during them."""
        state, value = self._run(state, data)
        return state, float(value)

    def validate(self, state: TrainingState, data: PyTree, key: PRNGKeyArray, *, batch: int = 4096) -> float:
        """Mean loss of the averaged weights, on at most `batch` rows."""
        few = jax.tree.map(lambda x: x[:batch], data)
        return float(self._loss(state.average, few, key))

    def model(self, state: TrainingState) -> PyTree:
        """The model with averaged weights."""
        return eqx.combine(state.average, self.rest)
