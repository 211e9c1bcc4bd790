r"""Gradient ascent of many designs at once, under exact constraints.

Adam (Kingma and Ba, arXiv:1412.6980) or L-BFGS (Liu and Nocedal, Math. Program. 45 (1989) 503), both from optax, on the
augmented Lagrangian of `-ln objective`,

$$L = -\ln Z + \frac{1}{2\rho}\sum_i \left[\max(0, \lambda_i + \rho\,g_i)^2 - \lambda_i^2\right],$$

with g the relative excess over each limit and multipliers updated as $\lambda \leftarrow \max(0, \lambda + \rho g)$
(Nocedal and Wright, Numerical Optimization, eq. 17.63). Lanes (starts, integer candidates, points of a Pareto front)
are vmapped: limits and which parameters may move are arguments, so one compilation serves them all.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from diffhep.design.problem import Outcome, Problem, excess
from diffhep.parameters import Param, is_param

MOST = 0.1  # excess counted in one update of a multiplier
MEMORY, TRIALS = 10, 15  # of L-BFGS: pairs of differences kept, evaluations of one line search

Method = Literal["adam", "lbfgs"]
PENALTY: dict[Method, float] = {"adam": 10.0, "lbfgs": 100.0}


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
        penalty: rho of the augmented Lagrangian; 10 for Adam, 100 for L-BFGS, which a steep valley does not hurt.
        update_every: steps between updates of the multipliers.
        method: `lbfgs` takes far fewer steps where the objective is smooth and nothing is random, and up to 15
            evaluations in each; it knows neither step sizes nor a schedule.
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
        penalty: float | None = None,
        update_every: int = 5,
        method: Method = "adam",
    ):
        if steps % chunk:
            msg = f"the number of steps must be a multiple of {chunk}, got {steps}"
            raise ValueError(msg)
        penalty = penalty or PENALTY[method]
        self.problem, self.rest, self.steps, self.chunk = problem, rest, steps, chunk
        self.traces = 0
        rule = adam_rule(steps, physical_rate, weight_rate) if method == "adam" else lbfgs_rule()
        self.optimiser, move = rule
        # differences of gradients of another Lagrangian say nothing about this one's curvature
        forgets = method == "lbfgs"

        def lagrangian(trainable: PyTree, limits: Array, multipliers: Array, context: PyTree) -> tuple[Array, Outcome]:
            outcome = problem.outcome(eqx.combine(trainable, rest), context)
            shifted = jnp.maximum(0.0, multipliers + penalty * excess(outcome.used, limits))
            loss = -jnp.log(outcome.objective) + jnp.sum(shifted**2 - multipliers**2) / (2 * penalty)
            return loss, outcome

        def one_step(state: AscentState, limits: Array, mobile: PyTree, context: PyTree) -> tuple[AscentState, Outcome]:
            loss_of = lambda t: lagrangian(t, limits, state.multipliers, context)
            (loss, outcome), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
            gradient = jax.tree.map(jnp.multiply, gradient, mobile)
            updates, optimiser = move(gradient, state, loss, lambda t: loss_of(t)[0])
            # a start far outside a budget would wind the multiplier up by orders of magnitude: the quadratic term pulls
            # such a start back, and the multiplier only has to settle the last tenth
            over = jnp.clip(excess(outcome.used, limits), -MOST, MOST)
            raised = jnp.maximum(0.0, state.multipliers + penalty * over)
            due = (state.step + 1) % update_every == 0
            multipliers = jnp.where(due, raised, state.multipliers)
            trainable = optax.apply_updates(state.trainable, updates)
            if forgets:
                anew = self.optimiser.init(trainable)
                optimiser = jax.tree.map(lambda new, old: jnp.where(due, new, old), anew, optimiser)
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
        # numbers without a type of their own would make the second call another program
        optimiser = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), jax.vmap(self.optimiser.init)(trainable))
        return AscentState(
            trainable,
            optimiser,
            jnp.zeros((lanes, constraints)),
            jnp.zeros(lanes, dtype=int),
        )

    def advance(
        self, state: AscentState, limits: Float[Array, "lane constraint"], mobile: PyTree
    ) -> tuple[AscentState, Outcome]:
        """`chunk` steps; also the Outcome before each of them, with axes (step, lane, ...)."""
        return self.run_chunk(state, limits, mobile, self.problem.context)

    def continue_from(
        self, trainable: PyTree, limits: Float[Array, "lane constraint"], steps: int, *, mobile: PyTree | None = None
    ) -> tuple[AscentState, Outcome]:
        """The last `steps` steps of the schedule from other designs, under other limits; compiles nothing new.

        `mobile` is a mask as of `everything_mobile`, which is the default.
        """
        state = self.start(trainable, constraints=limits.shape[1])
        skipped = self.steps - min(-(-steps // self.chunk) * self.chunk, self.steps)
        state = state._replace(step=state.step + skipped)
        mobile = everything_mobile(trainable) if mobile is None else mobile
        state, outcome = self.advance(state, jnp.asarray(limits), mobile)
        for _ in range(skipped + self.chunk, self.steps, self.chunk):
            state, outcome = self.advance(state, jnp.asarray(limits), mobile)
        return state, outcome


Rule = tuple[optax.GradientTransformation, Callable[[PyTree, AscentState, Array, Callable], tuple[PyTree, Any]]]
"""An optimiser, and (gradient, state, loss, loss of a design) -> the updates and the optimiser's next state."""


def adam_rule(steps: int, physical: float, weight: float) -> Rule:
    """Adam with a step size for Params and one for weights, along a cosine."""
    adam = optax.scale_by_adam(b1=0.8, b2=0.98)
    schedule = optax.cosine_decay_schedule(1.0, steps, alpha=0.02)

    def move(gradient: PyTree, state: AscentState, loss: Array, loss_of: Callable) -> tuple[PyTree, Any]:
        updates, optimiser = adam.update(gradient, state.optimiser, state.trainable)
        decay = schedule(state.step)
        rates = step_sizes(state.trainable, physical, weight)
        return jax.tree.map(lambda u, r: -r * decay * u, updates, rates), optimiser

    return adam, move


def lbfgs_rule() -> Rule:
    """L-BFGS with a line search that meets the strong Wolfe conditions."""
    lbfgs = optax.lbfgs(memory_size=MEMORY, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=TRIALS))

    def move(gradient: PyTree, state: AscentState, loss: Array, loss_of: Callable) -> tuple[PyTree, Any]:
        return lbfgs.update(gradient, state.optimiser, state.trainable, value=loss, grad=gradient, value_fn=loss_of)

    return lbfgs, move


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
