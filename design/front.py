"""Pareto fronts: how much of the plane their points cover."""

import numpy as np
from jaxtyping import Float


def hypervolume(
    used: Float[np.ndarray, " point"], objective: Float[np.ndarray, " point"], reference: tuple[float, float]
) -> float:
    """Area that points dominate, up to a reference of the largest use and the least objective that count.

    Zitzler and Thiele, IEEE Trans. Evol. Comput. 3 (1999) 257, in two dimensions, where it is a sum of rectangles.

    Args:
        used: what is to be small.
        objective: what is to be large.
        reference: (use, objective); points beyond it count for nothing.

    >>> hypervolume(np.array([1.0, 2.0]), np.array([1.0, 2.0]), (3.0, 0.0))
    3.0
    """
    most, least = reference
    used, objective = np.asarray(used, dtype=float), np.asarray(objective, dtype=float)
    counts = (used < most) & (objective > least)
    order = np.argsort(used[counts])
    edges = np.append(used[counts][order], most)
    height = np.maximum.accumulate(objective[counts][order]) - least
    return float(np.sum(np.diff(edges) * height))
