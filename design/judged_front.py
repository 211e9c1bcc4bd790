"""A front of designs that one could build: for each limit of one constraint the ascent again, judged hard.

What the front of the relaxed optima leaves out is done for every point: whole numbers, the exact optimum of what can be
adjusted, thresholds within their budgets, and events that nothing was optimised on.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from diffhep.design.ascent import everything_mobile, stack
from diffhep.design.exact import Polished
from diffhep.design.starts import Ascended, with_fixed
from diffhep.design.study import AbstractStudy, Report
from diffhep.parameters import named_params, split

FACTORS = (0.25, 2.0)  # of the limit, the ends of the front
STEPS = 0.5  # share of the ascent's schedule


def judged_front(
    study: AbstractStudy,
    final: PyTree,
    ascended: Ascended,
    polish: Callable[..., Polished],
    *,
    points: int,
    progress: Report,
) -> dict[str, Any]:
    """Objective on held-out events, hard, over limits of the constraint `study.traded`; integers are those of `final`.

    Args:
        study: the problem.
        final: the design of the run, from which every point starts.
        ascended: the compiled ascent.
        polish: brings a design to the exact optimum of its adjustable parameters.
        points: of the front.
        progress: called with the phase and the fraction done.

    Returns:
        `constraint`, and `points`: `limit`, `used` (of that constraint), `value` and `stderr` of the objective.
    """
    names = [c.name for c in study.problem.constraints]
    index, limits, rows = names.index(study.traded), study.problem.limits, []
    lanes = ascended.state.step.shape[0]
    counts = {name: float(np.round(named_params(final)[name].unwrap())) for name in study.integers}
    trainable = split(with_fixed(final, counts))[0]
    for begin in range(0, points, lanes):
        chosen = np.geomspace(*FACTORS, points)[begin : begin + lanes]
        padded = np.concatenate([chosen, np.repeat(chosen[-1:], lanes - len(chosen))])
        lane_limits = np.tile(limits, (lanes, 1))
        lane_limits[:, index] *= padded
        state, _ = ascended.climb.continue_from(
            stack([trainable] * lanes),
            jnp.asarray(lane_limits),
            round(STEPS * ascended.climb.steps),
            mobile=held(stack([trainable] * lanes), study.integers),
        )
        for i, limit in enumerate(lane_limits[: len(chosen), index]):
            near = study.discretised(Ascended(ascended.climb, state, ascended.history).design(i), limit)
            built = study.settle(polish(near, held=study.integers, limits=lane_limits[i]).design)
            judged = study.judge(built, relaxed=False)
            rows.append({"limit": limit, "used": judged[study.traded].value, **judged["objective"].summary()})
            progress(f"front of {study.traded}", (begin + i + 1) / points)
    # with hardly any event left there is no fit, or no error of it
    there = [row for row in rows if np.isfinite(row["value"]) and np.isfinite(row["stderr"])]
    return {"constraint": study.traded, "points": there}


def held(trainable: PyTree, names: tuple[str, ...]) -> PyTree:
    """A mask, in the structure of stacked lanes, that lets everything move but some Params."""
    free = everything_mobile(trainable)
    params = {name: p.raw for name, p in named_params(free).items()}
    still = [params[name] for name in names]
    return jax.tree.map(lambda x: 0 * x if any(x is leaf for leaf in still) else x, free)
