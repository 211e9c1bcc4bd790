"""Gradient audit: automatic derivatives against central finite differences, parameter by parameter.

With common random numbers a stochastic pipeline is a deterministic function of its parameters, and the two derivatives
must agree to the accuracy of the difference quotient. The quotient is extrapolated once (Richardson), which leaves an
error of fourth order in the step, and the step is chosen from a short ladder by the smallest change between rungs. A
network with ReLUs is smooth in pieces only: where an event sits next to a kink, the ladder is continued downwards until
two rungs agree.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from diffhep.parameters import Param, is_param, path_name, split

STEPS = (3e-3, 1e-3, 3e-4, 1e-4)
FINER = (3e-5, 1e-5, 3e-6)  # for kinks, where steps of this size are not enough


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """One parameter (or one element of an array of them).

    Attributes:
        name: path of the parameter.
        role: geometry, threshold, nuisance, weight or bits.
        unit: of the physical value; gradients are per unit of the objective's argument `raw` times its slope.
        automatic, difference: the two derivatives with respect to the physical value.
        error: estimated error of the difference quotient.
        relative: |automatic - difference| / scale.
        passed: whether the relative deviation is within the tolerance.
    """

    name: str
    role: str
    unit: str
    automatic: float
    difference: float
    error: float
    relative: float
    passed: bool


def central_difference(
    function: Callable[[float], float],
    *,
    steps: tuple[float, ...] = STEPS,
    finer: tuple[float, ...] = FINER,
    enough: float = 1e-7,
) -> tuple[float, float]:
    """Derivative at 0 by Richardson-extrapolated central differences, and an estimate of its error.

    Args:
        function: of the shift.
        steps: always tried.
        finer: tried in order as long as no two neighbouring steps agree to the fraction `enough`.
        enough: see `finer`.

    >>> value, _ = central_difference(lambda t: np.sin(t))
    >>> abs(value - 1.0) < 1e-9
    True
    """
    rungs: list[float] = []
    for h in steps + finer:
        agreed = len(rungs) > 1 and np.min(np.abs(np.diff(rungs))) <= enough * abs(rungs[-1])
        if len(rungs) >= len(steps) and agreed:
            break
        wide = (function(h) - function(-h)) / (2 * h)
        narrow = (function(h / 2) - function(-h / 2)) / h
        rungs.append((4 * narrow - wide) / 3)
    changes = np.abs(np.diff(rungs))
    best = int(np.argmin(changes))
    return float(rungs[best + 1]), float(changes[best])


def audit(
    value_at: Callable[..., Float[jax.Array, ""]],
    value_and_grad: Callable[..., tuple[Float[jax.Array, ""], PyTree]],
    design: PyTree,
    *context: PyTree,
    weights: int = 8,
    seed: int = 0,
    tolerance: float = 1e-6,
    floor: float = 1e-9,
    steps: tuple[float, ...] = STEPS,
    leave_out: tuple[str, ...] = (),
    progress: Callable[[str, float], None] | None = None,
) -> list[AuditRow]:
    """Compare the gradient of a scalar function with finite differences.

    Args:
        value_at: (trainable part, rest, *context) -> scalar, the two parts as `split` makes them; deterministic.
        value_and_grad: the same function's value and gradient with respect to the trainable part. Both are called
            often: pass them compiled.
        design: where to compare. All Params are compared, frozen ones too.
        context: further arguments: events, keys.
        weights: how many randomly chosen elements of the remaining arrays (network weights) are compared.
        seed: of that choice.
        tolerance: on the relative deviation.
        floor: a derivative below this fraction of |function| per unit step is compared absolutely.
        steps: of the difference quotients, in raw leaves. A function with many small jumps wants long ones, over which
            they average.
        leave_out: beginnings of names that are not compared, because their gradients are surrogates.
        progress: called with "gradient audit" and the fraction done.

    Returns:
        One row for each scalar compared.
    """
    trainable, rest = split(unfrozen(design))
    value, gradient = value_and_grad(trainable, rest, *context)
    scale_floor = floor * max(abs(float(value)), 1e-300)

    leaves, structure = jax.tree_util.tree_flatten(trainable)
    slopes = jax.tree_util.tree_leaves(gradient)
    rows = []
    scalars = compared(trainable, weights, seed, leave_out)
    finer = FINER if steps == STEPS else ()
    for count, (index, element, label) in enumerate(scalars):
        if progress is not None:
            progress("gradient audit", (count + 1) / len(scalars))

        def shifted(t: float, index: int = index, element: tuple = element) -> float:
            moved = list(leaves)
            moved[index] = leaves[index].at[element].add(t)
            return float(value_at(jax.tree_util.tree_unflatten(structure, moved), rest, *context))

        automatic = float(slopes[index][element])
        difference, error = central_difference(shifted, steps=steps, finer=finer)
        scale = max(abs(automatic), abs(difference), scale_floor)
        relative = abs(automatic - difference) / scale
        # the quotient itself is only good to its rounding: the last digits of the function over the step
        passed = relative <= tolerance or abs(automatic - difference) <= scale_floor
        per_unit = 1 / float(np.asarray(label.slope)[element]) if label.slope is not None else 1.0
        rows.append(
            AuditRow(
                label.name,
                label.role,
                label.unit,
                automatic * per_unit,
                difference * per_unit,
                error * abs(per_unit),
                relative,
                bool(passed and np.isfinite(automatic)),
            )
        )
    return rows


def unfrozen(design: PyTree) -> PyTree:
    """The design with every Param free to move."""
    return jax.tree.map(lambda x: x.freeze(frozen=False) if is_param(x) else x, design, is_leaf=is_param)


@dataclasses.dataclass(frozen=True)
class Label:
    """What a compared scalar is."""

    name: str
    role: str
    unit: str
    slope: jax.Array | None


def compared(
    trainable: PyTree, weights: int, seed: int, leave_out: tuple[str, ...] = ()
) -> list[tuple[int, tuple[int, ...], Label]]:
    """All elements of Params, and a random choice of the other elements: (leaf index, element, label)."""
    chosen, others = [], []
    # a Param has one leaf, its raw value: positions among the nodes are positions among the leaves
    for index, (path, node) in enumerate(jax.tree_util.tree_leaves_with_path(trainable, is_leaf=is_param)):
        name = path_name(path)
        if name.startswith(leave_out):
            continue
        if isinstance(node, Param):
            label = Label(name, node.role, node.unit, node.slope())
            chosen += [(index, i, indexed(label, i)) for i in np.ndindex(jnp.shape(node.raw))]
        else:
            label = Label(name, "weight", "", None)
            others += [(index, i, indexed(label, i)) for i in np.ndindex(jnp.shape(node))]
    picks = np.random.default_rng(seed).permutation(len(others))[:weights]
    return chosen + [others[i] for i in np.sort(picks)]


def indexed(label: Label, element: tuple[int, ...]) -> Label:
    """The label of one element of an array."""
    if not element:
        return label
    return dataclasses.replace(label, name=f"{label.name}[{','.join(map(str, element))}]")


def table(rows: list[AuditRow]) -> str:
    """The audit as text: one line a parameter, and a verdict."""
    lines = [f"{'parameter':36s} {'unit':8s} {'automatic':>14s} {'difference':>14s} {'relative':>9s}"]
    for row in rows:
        verdict = "" if row.passed else "  FAILED"
        numbers = f"{row.automatic:14.6e} {row.difference:14.6e} {row.relative:9.1e}"
        lines.append(f"{row.name:36s} {row.unit:8s} {numbers}{verdict}")
    failed = sum(not row.passed for row in rows)
    lines.append(f"{len(rows)} gradients compared, {failed} failed")
    return "\n".join(lines)
