r"""The last, exact step: constraints met to rounding, and the multipliers that prove it.

Sequential least-squares programming (SLSQP from scipy; Kraft 1988) on the few parameters named, everything else held.
The multipliers are those of the Karush-Kuhn-Tucker conditions, $\nabla \ln Z = \sum_i \lambda_i \nabla g_i$, by
non-negative least squares over the active constraints.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jaxtyping import PyTree

from diffhep.audit import unfrozen
from diffhep.design.problem import Problem, excess
from diffhep.parameters import Param, is_param, named_params, path_name, split

# limits are tightened by this much, so that the solver's own tolerance cannot leave a budget exceeded
MARGIN = 1e-7
ACTIVE = 1e-4
# raw leaves of bounded Params stay in this range: beyond it they have no slope left to come back by
REACH = 12.0
FAR = 25.0  # where the value itself is moved: 1e-11 of the range from a bound
NOTHING = 1e-300
NO_DESCENT = 8  # SLSQP's exit "positive directional derivative for linesearch"


@dataclasses.dataclass(frozen=True)
class Polished:
    """A design at a constrained optimum.

    Attributes:
        design: with the named parameters moved.
        objective, used: of the design.
        converged: whether every constraint holds and the solver says so, or could not see a gain that large any more.
        message: the solver's own words.
    """

    design: PyTree
    objective: float
    used: np.ndarray
    converged: bool
    message: str


def with_values(design: PyTree, names: Sequence[str], raw: object) -> PyTree:
    """The design with the raw leaves of some scalar Params replaced, in the order of `names`."""
    positions = {name: i for i, name in enumerate(names)}

    def replace(path: tuple, node: object) -> object:
        name = path_name(path)
        if isinstance(node, Param) and name in positions:
            return eqx.tree_at(lambda p: p.raw, node, jnp.asarray(raw)[positions[name]])
        return node

    return jax.tree_util.tree_map_with_path(replace, design, is_leaf=is_param)


class Sensitivities:
    """Objective, constraint use and their gradients with respect to some scalar Params, compiled once.

    Args:
        problem: what is evaluated.
        names: paths of scalar Params, as in `named_params`.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, problem: Problem, names: Sequence[str]):
        self.problem, self.names, self.calls = problem, tuple(names), 0

        def used(raw: jax.Array, design: PyTree, context: PyTree) -> jax.Array:
            return problem.outcome(with_values(design, self.names, raw), context).used

        def constraints(raw: jax.Array, design: PyTree, context: PyTree) -> tuple[jax.Array, jax.Array]:
            # one gradient each, rather than one vmapped pullback of everything: costs that do not depend on the events
            # are then free, and the compiler shares the forward pass
            rows = [jax.grad(lambda r, i=i: used(r, design, context)[i])(raw) for i in range(len(problem.constraints))]
            return used(raw, design, context), jnp.stack(rows)

        self.constraints = jax.jit(constraints)

    def raw(self, design: PyTree) -> np.ndarray:
        """Raw leaves of the named Params."""
        return raw_values(design, self.names)

    def __call__(self, raw: np.ndarray, design: PyTree) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Objective, used, d(objective)/d(raw), d(used)/d(raw)."""
        self.calls += 1
        moved = unfrozen(with_values(design, self.names, raw))
        value, gradient = self.problem.value_and_grad(*split(moved), self.problem.context)
        used, rows = self.constraints(jnp.asarray(raw), moved, self.problem.context)
        return float(value), np.asarray(used), raw_values(gradient, self.names), np.asarray(rows)


def raw_values(tree: PyTree, names: Sequence[str]) -> np.ndarray:
    """Raw leaves of some scalar Params of a design, or of a gradient in its structure."""
    params = named_params(tree)
    return np.array([float(params[name].raw) for name in names])


def polish(
    sensitivities: Sensitivities,
    design: PyTree,
    *,
    held: Sequence[str] = (),
    limits: np.ndarray | None = None,
    reach: float = np.inf,
    straight: bool = False,
    max_steps: int = 40,
    tolerance: float = 1e-10,
    on_step: Callable[[int, float], None] | None = None,
) -> Polished:
    """Maximise the objective over the named Params of `sensitivities`, with every constraint met.

    Args:
        sensitivities: the compiled problem; its `names` are what moves.
        design: where to start.
        held: names that stay where they are.
        limits: other limits than the problem's own.
        reach: largest change of a raw leaf. An objective made of few events has spurious maxima far from the design
            that was followed there step by step, and the solver's first steps are long.
        straight: move bounded Params along their value instead of their raw leaf. A budget that is linear in them is
            then linear for the solver, and a bound is a bound instead of a place at infinity.
        max_steps: iterations of the solver.
        tolerance: on the change of ln(objective).
        on_step: called with the iteration and the objective.
    """
    limits = sensitivities.problem.limits if limits is None else np.asarray(limits)
    tightened = limits * (1 - MARGIN)
    free, raw = moving(sensitivities, held), sensitivities.raw(design)
    bounded = np.array([named_params(design)[name].bounds is not None for name in sensitivities.names])
    axes = Axes(bounded[free] & straight)
    cache: dict[bytes, tuple] = {}
    count = 0

    def whole(part: np.ndarray) -> np.ndarray:
        full = raw.copy()
        full[free] = axes.raw(part)
        return full

    def at(part: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        point = part.tobytes()
        if point not in cache:
            cache.clear()
            value, used, slope, rows = sensitivities(whole(part), design)
            cache[point] = value, used, slope[free] * axes.stretch(part), rows[:, free] * axes.stretch(part)
        return cache[point]

    def report(_: np.ndarray) -> None:
        nonlocal count
        count += 1
        if on_step is not None:
            on_step(count, next(iter(cache.values()))[0])

    edge = np.where(bounded[free], FAR if straight else REACH, np.inf)
    lowest, highest = np.maximum(raw[free] - reach, -edge), np.minimum(raw[free] + reach, edge)
    solution = scipy.optimize.minimize(
        # a point without any objective is finite and steep: the line search turns back
        lambda r: -np.log(max(at(r)[0], NOTHING)),
        axes.along(np.clip(raw[free], lowest, highest)),
        jac=lambda r: -at(r)[2] / max(at(r)[0], NOTHING),
        method="SLSQP",
        bounds=list(zip(axes.along(lowest), axes.along(highest), strict=True)),
        constraints=[
            {
                "type": "ineq",
                "fun": lambda r: 1 - at(r)[1] / tightened,
                "jac": lambda r: -at(r)[3] / tightened[:, None],
            }
        ],
        callback=report,
        options={"maxiter": max_steps, "ftol": tolerance},
    )
    objective, used, slope, rows = at(solution.x)
    finished = bool(solution.success)
    if solution.status == NO_DESCENT:
        # where rounding leaves the solver no way down, it is at the optimum if a Newton step would gain less than
        # asked: half the squared slope, in leaves whose curvature is of the order of 1
        gradient = slope / max(objective, NOTHING)
        position = axes.along(np.stack([lowest, highest]))
        inside = ~((solution.x <= position[0]) & (gradient < 0) | (solution.x >= position[1]) & (gradient > 0))
        scaled = rows[:, inside] / tightened[:, None]
        _, rest = balanced(gradient[inside], scaled, used / tightened - 1 > -ACTIVE)
        finished = float(rest @ rest) < 2 * tolerance
    return Polished(
        with_values(design, sensitivities.names, whole(solution.x)),
        objective,
        used,
        finished and bool(np.all(used <= limits)),
        str(solution.message),
    )


def balanced(gradient: np.ndarray, rows: np.ndarray, binding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative multipliers of the binding rows that balance a gradient best, and what they leave of it."""
    multipliers = np.zeros(len(rows))
    if binding.any():
        multipliers[binding], _ = scipy.optimize.nnls(rows[binding].T, gradient)
    return multipliers, gradient - multipliers @ rows


@dataclasses.dataclass(frozen=True)
class Axes:
    """What the solver moves: raw leaves or, where `straight`, the fraction of the way from one bound to the other."""

    straight: np.ndarray

    def along(self, raw: np.ndarray) -> np.ndarray:
        """Positions of raw leaves."""
        return np.where(self.straight, scipy.special.expit(raw), raw)

    def raw(self, position: np.ndarray) -> np.ndarray:
        """Raw leaves of positions."""
        inside = np.where(self.straight, position, 0.5)
        return np.where(self.straight, scipy.special.logit(inside), position)

    def stretch(self, position: np.ndarray) -> np.ndarray:
        """d(raw)/d(position)."""
        inside = np.where(self.straight, position, 0.5)
        return np.where(self.straight, 1 / (inside * (1 - inside)), 1.0)


def moving(sensitivities: Sensitivities, held: Sequence[str]) -> np.ndarray:
    """Mask of the names that are not held; a ValueError if a held name is none of them, or if nothing is left."""
    if unknown := [name for name in held if name not in sensitivities.names]:
        msg = f"held: no adjustable parameter is called {unknown[0]!r}; there are {', '.join(sensitivities.names)}"
        raise ValueError(msg)
    if len(set(held)) == len(sensitivities.names):
        msg = f"held: nothing is left to move, all of {', '.join(sensitivities.names)} are held"
        raise ValueError(msg)
    return np.array([name not in held for name in sensitivities.names])


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The Karush-Kuhn-Tucker conditions at a design.

    Attributes:
        multipliers: d(objective)/d(limit) per unit of each limit; 0 for an inactive constraint.
        active: whether each constraint binds.
        residual: norm of the part of d(ln objective)/d(raw) that no active constraint balances.
        excess: largest relative excess over a limit; not positive when all hold.
    """

    multipliers: np.ndarray
    active: np.ndarray
    residual: float
    excess: float


def certify(
    sensitivities: Sensitivities,
    design: PyTree,
    *,
    held: Sequence[str] = (),
    limits: np.ndarray | None = None,
    active: float = ACTIVE,
) -> Certificate:
    """Multipliers and residual of the Karush-Kuhn-Tucker conditions at a design.

    Args:
        sensitivities: the compiled problem.
        design: the design.
        held: names that count as constants, such as integers.
        limits: other limits than the problem's own.
        active: a constraint counts as active within this relative distance of its limit.
    """
    limits = sensitivities.problem.limits if limits is None else np.asarray(limits)
    objective, used, slope, rows = sensitivities(sensitivities.raw(design), design)
    over = np.asarray(excess(jnp.asarray(used), jnp.asarray(limits)))
    binding, free = over > -active, moving(sensitivities, held)
    scaled = rows[:, free] / limits[:, None]
    multipliers, rest = balanced(slope[free] / objective, scaled, binding)
    return Certificate(multipliers * objective / limits, binding, float(np.linalg.norm(rest)), float(over.max()))
