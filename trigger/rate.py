"""Trigger rates and turn-on curves from event weights.

A rate is a sum of weights: events carry weights in Hz (cross-section times instantaneous luminosity over generated
weight), a menu multiplies them by its acceptance, and the sum is differentiable in every threshold.
"""

import numpy as np
from jaxtyping import Array, Float

from diffhep.events import Events


def rate(accepted: Events) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rate of accepted events and its standard error, both in Hz.

    Args:
        accepted: events whose weights are in Hz, already multiplied by the menu's acceptance.
    """
    return accepted.sum_of_weights()


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
