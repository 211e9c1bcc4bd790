r"""Gradient ascent of many designs at once, under exact constraints.

Adam (Kingma and Ba, arXiv:1412.6980, from optax) on the augmented Lagrangian of `-ln objective`,

$$L = -\ln Z + \frac{1}{2\rho}\sum_i \left[\max(0, \lambda_i + \rho\,g_i)^2 - \lambda_i^2\right],$$

with g the relative excess over each limit and multipliers updated as $\lambda \leftarrow \max(0, \lambda + \rho g)$
(Nocedal and Wright, Numerical Optimization, eq. 17.63). Lanes (starts, integer candidates, points of a Pareto front)
are vmapped: limits and which parameters may move are arguments, so one compilation serves them all.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from diffhep.design.problem import Outcome, Problem, excess
from diffhep.parameters import Param, is_param

MOST = 0.1  # excess counted in one update of a multiplier


class AscentState(NamedTuple):
    """All lanes of an ascent; the leading axis of every array is the lane."""

    trainable: PyTree
    optimiser: PyTree
    multipliers: Float[Array, "lane constraint"]
    step: Int[Array, " lane"]


class Ascent:
    """A compiled ascent: `start`, then `advance` until done.

    Args:
        problem: what is evaluated.
        rest: the static part of the design, as given by `split`.
        steps: length of the schedule.
        chunk: steps in one call of `advance`.
        physical_rate, weight_rate: step sizes of Params and of network weights, in units of their raw leaves.
        penalty: rho of the augmented Lagrangian.
        update_every: steps between updates of the multipliers.
    """

    def __init__(
        self,
        problem: Problem,
        rest: PyTree,
        *,
        steps: int,
        chunk: int,
        physical_rate: float = 0.1,
        weight_rate: float = 0.003,
        penalty: float = 10.0,
        update_every: int = 5,
    ):
        if steps % chunk:
            msg = f"the number of steps must be a multiple of {chunk}, got {steps}"
            raise ValueError(msg)
        self.problem, self.rest, self.steps, self.chunk = problem, rest, steps, chunk
        self.traces = 0
        schedule = optax.cosine_decay_schedule(1.0, steps, alpha=0.02)
        adam = optax.scale_by_adam(b1=0.8, b2=0.98)
        self.optimiser = adam

        def lagrangian(trainable: PyTree, limits: Array, multipliers: Array, context: PyTree) -> tuple[Array, Outcome]:
            outcome = problem.outcome(eqx.combine(trainable, rest), context)
            shifted = jnp.maximum(0.0, multipliers + penalty * excess(outcome.used, limits))
            loss = -jnp.log(outcome.objective) + jnp.sum(shifted**2 - multipliers**2) / (2 * penalty)
            return loss, outcome

        def one_step(state: AscentState, limits: Array, mobile: PyTree, context: PyTree) -> tuple[AscentState, Outcome]:
            gradient, outcome = jax.grad(lagrangian, has_aux=True)(state.trainable, limits, state.multipliers, context)
            updates, optimiser = adam.update(gradient, state.optimiser, state.trainable)
            rates = step_sizes(state.trainable, physical_rate, weight_rate)
            decay = schedule(state.step)
            updates = jax.tree.map(lambda u, r, m: -r * decay * m * u, updates, rates, mobile)
            # a start far outside a budget would wind the multiplier up by orders of magnitude: the quadratic term pulls
            # such a start back, and the multiplier only has to settle the last tenth
            over = jnp.clip(excess(outcome.used, limits), -MOST, MOST)
            raised = jnp.maximum(0.0, state.multipliers + penalty * over)
            due = (state.step + 1) % update_every == 0
            multipliers = jnp.where(due, raised, state.multipliers)
            trainable = optax.apply_updates(state.trainable, updates)
            return AscentState(trainable, optimiser, multipliers, state.step + 1), outcome

        def run_chunk(
            state: AscentState, limits: Array, mobile: PyTree, context: PyTree
        ) -> tuple[AscentState, Outcome]:
            self.traces += 1
            lanes = jax.vmap(one_step, in_axes=(0, 0, 0, None))
            return jax.lax.scan(lambda s, _: lanes(s, limits, mobile, context), state, length=chunk)

        self.run_chunk = jax.jit(run_chunk)

    def start(self, trainable: PyTree, *, constraints: int) -> AscentState:
        """State of step 0 for stacked trainable parts."""
        lanes = jax.tree.leaves(trainable)[0].shape[0]
        return AscentState(
            trainable,
            jax.vmap(self.optimiser.init)(trainable),
            jnp.zeros((lanes, constraints)),
            jnp.zeros(lanes, dtype=int),
        )

    def advance(
        self, state: AscentState, limits: Float[Array, "lane constraint"], mobile: PyTree
    ) -> tuple[AscentState, Outcome]:
        """`chunk` steps; also the Outcome before each of them, with axes (step, lane, ...)."""
        return self.run_chunk(state, limits, mobile, self.problem.context)

    def continue_from(
        self, trainable: PyTree, limits: Float[Array, "lane constraint"], steps: int
    ) -> tuple[AscentState, Outcome]:
        """The last `steps` steps of the schedule from other designs, under other limits; compiles nothing new."""
        state = self.start(trainable, constraints=limits.shape[1])
        skipped = self.steps - min(-(-steps // self.chunk) * self.chunk, self.steps)
        state = state._replace(step=state.step + skipped)
        mobile = everything_mobile(trainable)
        state, outcome = self.advance(state, jnp.asarray(limits), mobile)
        for _ in range(skipped + self.chunk, self.steps, self.chunk):
            state, outcome = self.advance(state, jnp.asarray(limits), mobile)
        return state, outcome


def step_sizes(trainable: PyTree, physical: float, weight: float) -> PyTree:
    """A step size for every leaf: Params with a physical role move faster than network weights."""

    def size(x: object) -> PyTree:
        rate = physical if isinstance(x, Param) and x.role != "weight" else weight
        return jax.tree.map(lambda _: rate, x)

    return jax.tree.map(size, trainable, is_leaf=is_param)


def everything_mobile(trainable: PyTree) -> PyTree:
    """A mask, in the structure of stacked lanes, that lets every leaf move."""
    return jax.tree.map(lambda x: jnp.ones(x.shape[:1] + (1,) * (x.ndim - 1)), trainable)


def stack(trees: list[PyTree]) -> PyTree:
    """Designs stacked into lanes."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def lane(tree: PyTree, index: int) -> PyTree:
    """One lane of a stacked tree."""
    return jax.tree.map(lambda x: x[index], tree)
