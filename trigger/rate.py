"""Trigger rates and turn-on curves from event weights.

A rate is a sum of weights: events carry weights in Hz (cross-section times instantaneous luminosity over generated
weight), a menu multiplies them by its acceptance, and the sum is differentiable in every threshold.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float

from diffhep.events import Events


def rate(accepted: Events) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rate of accepted events and its standard error, both in Hz.

    Args:
        accepted: events whose weights are in Hz, already multiplied by the menu's acceptance.
    """
    return accepted.sum_of_weights()


@dataclasses.dataclass(frozen=True)
class Rates:
    """Rates of a menu, in the unit of the weights (Hz), each with its standard error.

    Attributes:
        seed, seed_error: of every seed after its prescale, (seed,).
        pure, pure_error: of what no other seed keeps, (seed,).
        overlap, overlap_error: of what both of two seeds keep, (seed, seed); the diagonal is `seed`.
        total, total_error: of the OR.
    """

    seed: Float[np.ndarray, " seed"]
    seed_error: Float[np.ndarray, " seed"]
    pure: Float[np.ndarray, " seed"]
    pure_error: Float[np.ndarray, " seed"]
    overlap: Float[np.ndarray, "seed seed"]
    overlap_error: Float[np.ndarray, "seed seed"]
    total: float
    total_error: float


def menu_rates(
    passes: Bool[np.ndarray, "event seed"],
    weight: Float[np.ndarray, " event"],
    prescales: tuple[int, ...] | None = None,
) -> Rates:
    r"""Rates of every seed, of every pair and of the OR.

    Seed j keeps a share $a_j = 1/p_j$ of what it accepts, independently of the others: the OR keeps
    $1 - \prod_j(1 - a_j)$, the pure share of seed j is $a_j\prod_{i\ne j}(1 - a_i)$. The errors are roots of sums of
    squared weights.

    Args:
        passes: whether each seed accepts each event, before prescales.
        weight: of the events, in Hz; weights may be negative.
        prescales: 1 for every seed if there are none.

    >>> found = menu_rates(np.array([[True, False], [True, True]]), np.array([2.0, 3.0]))
    >>> found.seed.tolist(), found.pure.tolist(), found.overlap[0, 1], found.total
    ([5.0, 3.0], [2.0, 0.0], 3.0, 5.0)
    """
    share = passes / np.ones(passes.shape[1]) if prescales is None else passes / np.array(prescales, float)
    missed = 1 - share
    ones = np.ones((len(share), 1))
    # products of all others from both sides: a quotient would be 0/0 where a seed keeps everything
    left = np.cumprod(np.hstack([ones, missed[:, :-1]]), axis=1)
    right = np.cumprod(np.hstack([ones, missed[:, :0:-1]]), axis=1)[:, ::-1]
    alone, kept = share * left * right, 1 - missed.prod(axis=1)
    squared = weight**2
    overlap, overlap_squared = share.T @ (weight[:, None] * share), (share**2).T @ (squared[:, None] * share**2)
    np.fill_diagonal(overlap, weight @ share)
    np.fill_diagonal(overlap_squared, squared @ share**2)
    return Rates(
        weight @ share,
        np.sqrt(squared @ share**2),
        weight @ alone,
        np.sqrt(squared @ alone**2),
        overlap,
        np.sqrt(overlap_squared),
        float(weight @ kept),
        float(np.sqrt(squared @ kept**2)),
    )


def efficiency(kept: Float[np.ndarray, " event"], weight: Float[np.ndarray, " event"]) -> tuple[float, float]:
    r"""Weighted share of events that is kept, and its standard error $\sqrt{\sum w^2(a - \epsilon)^2}/\sum w$.

    >>> efficiency(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4))[0]
    0.75
    """
    total = weight.sum()
    value = float(weight @ kept / total)
    return value, float(np.sqrt(np.sum((weight * (kept - value)) ** 2)) / abs(total))


def turn_on(
    values: Float[np.ndarray, " event"], accepted: Float[np.ndarray, " event"], edges: Float[np.ndarray, " edge"]
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Efficiency of a trigger in bins of some quantity, and its binomial error; nan in empty bins.

    >>> turn_on(np.array([1.0, 1.5, 3.0]), np.array([0.0, 1.0, 1.0]), np.array([0.0, 2.0, 4.0]))[0].tolist()
    [0.5, 1.0]
    """
    total, _ = np.histogram(values, edges)
    passed, _ = np.histogram(values, edges, weights=accepted)
    safe = np.where(total > 0, total, 1)
    efficiency = np.where(total > 0, passed / safe, np.nan)
    error = np.sqrt(np.clip(efficiency * (1 - efficiency), 0, None) / safe)
    return efficiency, error
