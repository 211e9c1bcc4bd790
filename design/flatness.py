r"""How well an optimum is determined: the curvature of the objective along what the budgets leave free.

With g the gradients of the active constraints, the second derivatives of the Lagrangian
$\ln Z - \sum_i \lambda_i g_i$ are projected on the directions that keep the active constraints
(Nocedal and Wright, Numerical Optimization, ch. 12.5). Along them the objective falls as $\frac12 x^T H x$: the
ellipsoid on which it has fallen by a given fraction says how far each parameter may be off with the others following.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from diffhep.design.exact import Certificate, with_values
from diffhep.design.problem import Problem
from diffhep.parameters import named_params

FALL = 0.01  # of the objective
FLAT = 1e-9  # curvature below this counts as none


def tolerances(
    problem: Problem, design: PyTree, names: Sequence[str], certificate: Certificate, *, fall: float = FALL
) -> dict[str, Any]:
    """How far each parameter may move before the objective has lost a fraction, the others following within budgets.

    Args:
        problem: what was optimised.
        design: the optimum.
        names: scalar Params that were free.
        certificate: its multipliers and active constraints.
        fall: the fraction.

    Returns:
        Name -> half width in the parameter's unit; None where the objective is flat along it.
    """
    params = named_params(design)
    raw = jnp.array([float(params[name].raw) for name in names])
    weights = jnp.asarray(certificate.multipliers)

    @jax.jit
    def lagrangian_and_rows(r: jax.Array) -> tuple[jax.Array, jax.Array]:
        outcome = lambda x: problem.outcome(with_values(design, names, x), problem.context)
        value = outcome(r).objective
        lagrangian = lambda x: (outcome(x).objective - weights @ outcome(x).used) / value
        return jax.hessian(lagrangian)(r), jax.jacfwd(lambda x: outcome(x).used)(r)

    hessian, rows = (np.asarray(x) for x in lagrangian_and_rows(raw))
    basis = null_space(rows[certificate.active])
    curvature, axes = np.linalg.eigh(-basis.T @ hessian @ basis)
    firm = curvature > FLAT
    directions = basis @ axes
    variance = np.sum(directions[:, firm] ** 2 * (2 * fall / curvature[firm]), axis=1)
    loose = np.any(np.abs(directions[:, ~firm]) > 1e-3, axis=1)
    return {
        name: None if bad else float(np.sqrt(v) * abs(float(params[name].slope())))
        for name, v, bad in zip(names, variance, loose, strict=True)
    }


def null_space(rows: np.ndarray) -> np.ndarray:
    """Orthonormal directions, as columns, along which no row changes."""
    if not len(rows):
        return np.eye(rows.shape[1])
    _, singular, right = np.linalg.svd(rows)
    rank = int(np.sum(singular > 1e-10 * singular[0]))
    return right[rank:].T
