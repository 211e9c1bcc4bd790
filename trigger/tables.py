"""Functions of one wire, remembered until their values lie on a grid, and then looked up in a table.

`tanh(x)` has no exact value in logic, but `quantise(tanh(x))` has one for each code of x. So whatever is computed from
a single wire, element by element, is kept as a `Lazy` cell: the wire, and the JAX program that belongs to it. At the
next quantiser, comparison or conversion to an integer that program is compiled and run once for every value of the
wire, as the function itself would compute it, and the results become the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from diffhep.trigger.netlist import MAX_TABLE, Cell, RefusedError, Wire, is_wire, span, table, width


@dataclass(frozen=True, eq=False)
class Steps:
    """What is computed from a wire; one object for all cells that share it.

    Attributes:
        function: JAX program on an array of values of the wire.
        dtype: type of those values.
        first: the first primitive whose result lies on no grid, and its line.
    """

    function: Callable[[jax.Array], jax.Array]
    dtype: np.dtype
    first: str


@dataclass(frozen=True, eq=False)
class Lazy:
    """A function of a wire; its value is on no grid yet."""

    wire: Wire
    steps: Steps


def fits(cell: Cell, dtype: np.dtype) -> bool:
    """Whether a floating-point or integer type holds every value of the cell exactly."""
    if isinstance(cell, Lazy) or not is_wire(cell):
        return True
    if jnp.issubdtype(dtype, jnp.floating):
        return width(cell) <= jnp.finfo(dtype).nmant + 1
    low, high, _ = span(cell)
    if dtype == np.bool_:
        return low >= 0 and high <= 1
    return low >= jnp.iinfo(dtype).min and high <= jnp.iinfo(dtype).max


class Views:
    """Every wire as a function of the wire it was computed from, element by element.

    `where(x < 0, 0.1 * x, x)` has a bit, a product without a grid and a wire in it, but all are functions of x.
    """

    def __init__(self):
        self.line = ""  # of the user's function, where the walk is
        self.views: dict[Wire, tuple[int, Lazy]] = {}  # with their order, the latest last
        self.steps: dict[tuple, Steps] = {}

    def remember(self, result: Cell, eqn: JaxprEqn, cells: Sequence[Cell]) -> None:
        """Note how a new wire follows from another one."""
        if is_wire(result) and result not in self.views and not any(result is cell for cell in cells):
            try:
                self.views[result] = len(self.views), self.compose(eqn, cells)
            except RefusedError:
                return  # of two wires

    def compose(self, eqn: JaxprEqn, cells: Sequence[Cell]) -> Lazy:
        """The equation on one element of each operand, as a function of the only wire they depend on.

        Raises:
            RefusedError: there is more than one.
        """
        dtypes = [var.aval.dtype for var in eqn.invars]
        seen = [
            Lazy(cell, self.steps.setdefault(("itself", dtype), Steps(lambda values: values, dtype, "")))
            if is_wire(cell)
            else cell
            for cell, dtype in zip(cells, dtypes, strict=True)
        ]
        while len(wires := {cell.wire for cell in seen if isinstance(cell, Lazy)}) > 1:
            latest = max(wires, key=lambda wire: self.views[wire][0] if wire in self.views else -1)
            if latest not in self.views:
                first = next((cell.steps.first for cell in cells if isinstance(cell, Lazy)), "")
                msg = f"the result of {first} lies on no grid: quantise it first" if first else "it has no exact logic"
                raise RefusedError(msg)
            view = self.views[latest][1]
            seen = [
                Lazy(view.wire, self.chain(view.steps, cell.steps))
                if isinstance(cell, Lazy) and cell.wire is latest
                else cell
                for cell in seen
            ]
        key = (id(eqn), *(id(cell.steps) if isinstance(cell, Lazy) else cell for cell in seen))
        if key not in self.steps:
            self.steps[key] = composed(eqn, seen, dtypes, self.line)
        return Lazy(wires.pop(), self.steps[key])

    def chain(self, inner: Steps, outer: Steps) -> Steps:
        """One program after the other."""
        both = Steps(lambda values: outer.function(inner.function(values)), inner.dtype, outer.first or inner.first)
        return self.steps.setdefault((id(inner), id(outer)), both)


def composed(eqn: JaxprEqn, cells: Sequence[Any], dtypes: Sequence[np.dtype], line: str) -> Steps:
    """The steps of an equation whose operands are functions of one wire, or numbers."""
    earlier = [cell.steps if isinstance(cell, Lazy) else None for cell in cells]
    numbers = [None if isinstance(cell, Lazy) else float(cell) for cell in cells]

    def function(values: jax.Array) -> jax.Array:
        operands = [
            steps.function(values) if steps is not None else jnp.full(values.shape, number, dtype)
            for steps, number, dtype in zip(earlier, numbers, dtypes, strict=True)
        ]
        return eqn.primitive.bind(*operands, **eqn.params)

    here = f"{eqn.primitive.name} ({line})"
    first = next((steps.first for steps in earlier if steps is not None and steps.first), here)
    return Steps(function, next(steps.dtype for steps in earlier if steps is not None), first)


def looked_up(cells: np.ndarray) -> np.ndarray:
    """The cells with a table in place of every function; each program runs once for each range.

    Raises:
        RefusedError: a wire has too many values, or one of them has no finite result.
    """
    results: dict[tuple, np.ndarray] = {}
    out = cells.copy()
    for index, cell in np.ndenumerate(cells):
        if not isinstance(cell, Lazy):
            continue
        key = (id(cell.steps), *span(cell.wire))
        if key not in results:
            results[key] = run(cell)
        out[index] = table(cell.wire, results[key])
    return out


def run(cell: Lazy) -> np.ndarray:
    """The results for every value of the wire, from the smallest on."""
    values = every_value(cell.wire, cell.steps.first)
    # compiled: XLA turns a division by a constant into a product, and rounds it differently
    results = np.asarray(jax.jit(cell.steps.function)(jnp.asarray(values, cell.steps.dtype)), np.float64)
    check_finite(results, values, cell.steps.first)
    return results


def every_value(wire: Wire, what: str) -> np.ndarray:
    """All values a wire can take, from the smallest on; `what` needs a table of them."""
    low, high, step = span(wire)
    entries = round((high - low) / step) + 1
    if entries > MAX_TABLE:
        msg = f"{what} needs a table of {entries} entries, at most {MAX_TABLE}: quantise its input to less"
        raise RefusedError(msg)
    return low + step * np.arange(entries)


def check_finite(results: np.ndarray, values: np.ndarray, what: str) -> None:
    """Refuse a table in which a value of the input has no number."""
    if not np.isfinite(results).all():
        worst = values[np.argmin(np.isfinite(results))]
        msg = f"{what} is not finite at {worst:g}, which its input can be"
        raise RefusedError(msg)
