"""A gradient-free baseline: what CMA-ES finds with as many evaluations as the gradient ascent was given.

The covariance matrix adaptation evolution strategy (N. Hansen, arXiv:1604.00772, from the package `cma`) with its
augmented Lagrangian for the budgets, on the same unconstrained leaves the gradient moves.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cma
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from diffhep.design.exact import raw_values, with_values
from diffhep.design.problem import Problem, excess
from diffhep.parameters import named_params

SPREAD = 0.3  # first step size, in units of the raw leaves: the optimiser's own guess of what is O(1)
WORST = 1e3  # -ln(objective) of a point without any objective


def cma_es(
    problem: Problem,
    design: PyTree,
    names: Sequence[str],
    *,
    evaluations: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Maximise the objective within the budgets, without gradients.

    Args:
        problem: what is evaluated.
        design: where to start.
        names: scalar Params that move.
        evaluations: of objective and budgets together.
        seed: of the strategy's random numbers.
        progress: called with the fraction done.

    Returns:
        `objective` and `parameters` of the best design that met every budget (None if there was none), `evaluations`
        used.
    """
    limits, context = jnp.asarray(problem.limits), problem.context

    @jax.jit
    @jax.vmap
    def population(raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = problem.outcome(with_values(design, names, raw), context)
        return out.objective, excess(out.used, limits)

    known: dict[bytes, tuple[float, np.ndarray]] = {}
    options = {"seed": seed + 1, "verbose": -9, "maxfevals": evaluations, "tolstagnation": 0}
    strategy = cma.CMAEvolutionStrategy(raw_values(design, names), SPREAD, options)
    fitness = cma.ConstrainedFitnessAL(
        lambda x: known[x.tobytes()][0], lambda x: known[x.tobytes()][1], logging=0, archives=False
    )
    best: tuple[float, np.ndarray] | None = None
    while not strategy.stop() and strategy.countevals + strategy.popsize <= evaluations:
        points = strategy.ask()
        values, over = (np.asarray(x) for x in population(jnp.asarray(points)))
        losses = np.where((values > 0) & np.isfinite(values), -np.log(np.where(values > 0, values, 1.0)), WORST)
        over = np.where(np.isfinite(over), over, WORST)
        known = {x.tobytes(): (float(f), g) for x, f, g in zip(points, losses, over, strict=True)}
        for x, f, g in zip(points, losses, over, strict=True):
            if np.all(g <= 0) and f < WORST and (best is None or f < best[0]):
                best = float(f), x
        with warnings.catch_warnings():
            # of heuristics that have nothing to go by yet, as when a whole population has no objective
            warnings.simplefilter("ignore", UserWarning)
            strategy.tell(points, [fitness(x) for x in points])
            fitness.update(strategy)
        if progress is not None:
            progress(min(1.0, strategy.countevals / evaluations))
    found = None if best is None else named_values(design, names, best[1])
    return {
        "method": f"CMA-ES (cma {cma.__version__})",
        "objective": None if best is None else float(np.exp(-best[0])),
        "parameters": found,
        "evaluations": int(strategy.countevals),
    }


def named_values(design: PyTree, names: Sequence[str], raw: np.ndarray) -> dict[str, float]:
    """Physical values of some scalar Params at other raw leaves."""
    moved = named_params(with_values(design, names, raw))
    return {name: float(moved[name].unwrap()) for name in names}
