"""What each primitive becomes in logic, element by element.

A rule takes the cells of one element and gives the cell of the result. Where there is no exact logic (`tanh`, a product
with 0.1, an integer that overflows) but only one wire takes part, the result stays a function of that wire
(`diffhep.trigger.tables`) until it is quantised.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from diffhep.trigger import fixed_logic, netlist
from diffhep.trigger.netlist import Cell, RefusedError, is_wire
from diffhep.trigger.tables import Lazy, Views, fits, looked_up

FUNCTIONS = frozenset(
    """
    exp exp2 expm1 log log1p tanh logistic sqrt rsqrt cbrt sin cos tan asin acos atan sinh cosh asinh acosh atanh
    erf erfc erf_inv lgamma digamma pow rem atan2 shift_right_logical nextafter population_count clz
    """.split()  # noqa: SIM905
)


SMALL_TABLE = 1 << 9  # entries: up to here a table of squares is faster than a multiplier, and not much larger


def divide(eqn: JaxprEqn, a: Cell, b: Cell) -> Cell:
    """By a power of two; of integers, towards zero."""
    if is_wire(b) or b == 0 or abs(np.frexp(b)[0]) != 0.5:
        msg = "a divisor must be a constant"
        raise RefusedError(msg)
    quotient = netlist.multiply(a, 1.0 / b)
    return fixed_logic.rounded(quotient, 0, "TRN_ZERO") if integers(eqn) else quotient


def power(eqn: JaxprEqn, a: Cell) -> Cell:
    """By a constant whole exponent."""
    exponent = eqn.params.get("y", 2)
    if exponent < 0:
        msg = "an exponent must not be negative"
        raise RefusedError(msg)
    if is_wire(a) and exponent == 2:
        low, high, step = netlist.span(a)
        if (high - low) / step < SMALL_TABLE:
            return netlist.table(a, (np.arange(round(low / step), round(high / step) + 1) * step) ** 2)
    out: Cell = 1.0
    for _ in range(exponent):
        out = netlist.multiply(out, a)
    return out


def convert(eqn: JaxprEqn, a: Cell) -> Cell:
    """To another type: what is no integer is cut off towards zero."""
    kind = eqn.params["new_dtype"]
    if kind == np.bool_:
        return netlist.differs(a, 0.0)
    return fixed_logic.rounded(a, 0, "TRN_ZERO") if jnp.issubdtype(kind, jnp.integer) else a


def to_integer(eqn: JaxprEqn, a: Cell) -> Cell:
    """To the nearest whole number."""
    even = eqn.params["rounding_method"] == lax.RoundingMethod.TO_NEAREST_EVEN
    return fixed_logic.rounded(a, 0, "RND_CONV" if even else "RND_INF")


def choose(eqn: JaxprEqn, which: Cell, *cases: Cell) -> Cell:
    """The case of that number."""
    out = cases[-1]
    for number in range(len(cases) - 2, -1, -1):
        out = netlist.select(netlist.below(which, number + 1.0), cases[number], out)
    return out


def bits(kind: str) -> Callable[..., Cell]:
    """A logical operation on bits."""

    def rule(eqn: JaxprEqn, *cells: Cell) -> Cell:
        if eqn.outvars[0].aval.dtype != np.bool_:
            msg = "of integers only with a constant"
            raise RefusedError(msg)
        return netlist.inverse(cells[0]) if kind == "not" else netlist.gate(kind, *cells)

    return rule


def shift(sign: int) -> Callable[..., Cell]:
    """To the left (1) or to the right (-1) by a constant number of bits."""

    def rule(eqn: JaxprEqn, a: Cell, by: Cell) -> Cell:
        if is_wire(by):
            msg = "the number of bits must be a constant"
            raise RefusedError(msg)
        return fixed_logic.floor(netlist.multiply(a, 2.0 ** (sign * by)), 0)

    return rule


def quantise(eqn: JaxprEqn, x: Cell, k: Cell, i: Cell, f: Cell) -> Cell:
    """Into the format (k, i, f)."""
    if any(map(is_wire, (k, i, f))):
        msg = "formats must be constants"
        raise RefusedError(msg)
    whole = [int(np.floor(bit + 0.5)) for bit in (k, i, f)]
    if sum(whole) > 53 or max(map(abs, whole)) > 64:
        msg = f"a word of {sum(whole)} bits, i = {whole[1]}, f = {whole[2]} is wider than 53 bits or out of range"
        raise RefusedError(msg)
    return fixed_logic.fixed(x, *whole, **eqn.params)


def integers(eqn: JaxprEqn) -> bool:
    """Whether the result is of an integer type."""
    return jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.integer)


same = lambda eqn, a, *rest: a
ELEMENTS: dict[str, Callable[..., Cell]] = {
    "quantise": quantise,
    "add": lambda eqn, a, b: netlist.add(a, b),
    "add_any": lambda eqn, a, b: netlist.add(a, b),
    "sub": lambda eqn, a, b: netlist.subtract(a, b),
    "mul": lambda eqn, a, b: netlist.multiply(a, b),
    "neg": lambda eqn, a: netlist.negative(a),
    "abs": lambda eqn, a: netlist.magnitude(a),
    "sign": lambda eqn, a: netlist.subtract(netlist.below(0.0, a), netlist.below(a, 0.0)),
    "square": power,
    "integer_pow": power,
    "div": divide,
    "max": lambda eqn, a, b: netlist.larger(a, b),
    "min": lambda eqn, a, b: netlist.smaller(a, b),
    "clamp": lambda eqn, low, a, high: netlist.smaller(netlist.larger(a, low), high),
    "lt": lambda eqn, a, b: netlist.below(a, b),
    "gt": lambda eqn, a, b: netlist.below(b, a),
    "ge": lambda eqn, a, b: netlist.inverse(netlist.below(a, b)),
    "le": lambda eqn, a, b: netlist.inverse(netlist.below(b, a)),
    "ne": lambda eqn, a, b: netlist.differs(a, b),
    "eq": lambda eqn, a, b: netlist.inverse(netlist.differs(a, b)),
    "and": bits("and"),
    "or": bits("or"),
    "xor": bits("xor"),
    "not": bits("not"),
    "shift_left": shift(1),
    "shift_right_arithmetic": shift(-1),
    "select_n": choose,
    "floor": lambda eqn, a: fixed_logic.floor(a, 0),
    "ceil": lambda eqn, a: netlist.negative(fixed_logic.floor(netlist.negative(a), 0)),
    "round": to_integer,
    "is_finite": lambda eqn, a: 1.0,
    "convert_element_type": convert,
    "copy": same,
    "copy_p": same,
    "real": same,
    "stop_gradient": same,
    "reduce_precision": same,
    "device_put": same,
    "sharding_constraint": same,
    "pvary": same,
}


def elementwise(eqn: JaxprEqn, views: Views, *operands: np.ndarray) -> np.ndarray:
    """The result of an equation that works on one element of each operand at a time.

    Raises:
        RefusedError: an element has no exact logic, and depends on more than one wire.
    """
    aval = eqn.outvars[0].aval
    arrays = [np.broadcast_to(operand, aval.shape) for operand in operands]
    out = np.empty(aval.shape, object)
    done: dict[tuple, Any] = {}
    for index in np.ndindex(*aval.shape):
        cells = [array[index] for array in arrays]
        cells = [cell if is_wire(cell) or isinstance(cell, Lazy) else float(cell) for cell in cells]
        # what was broadcast is computed once
        key = tuple(cell if isinstance(cell, float) else id(cell) for cell in cells)
        if key not in done:
            done[key] = element(eqn, views, cells)
        out[index] = done[key]
    on_grid = eqn.primitive.name == "quantise" or not jnp.issubdtype(aval.dtype, jnp.floating)
    return looked_up(out) if on_grid else out


def element(eqn: JaxprEqn, views: Views, cells: list[Cell]) -> Cell:
    """One element of the result."""
    name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
    if all(isinstance(cell, float) for cell in cells):
        numbers = [jnp.asarray(cell, var.aval.dtype) for cell, var in zip(cells, eqn.invars, strict=True)]
        return float(eqn.primitive.bind(*numbers, **eqn.params))
    if any(isinstance(cell, float) and np.isnan(cell) for cell in cells):
        msg = "the constant nan is not finite"
        raise RefusedError(msg)
    if name not in FUNCTIONS and not any(isinstance(cell, Lazy) for cell in cells):
        reason = f"its values need more bits than {dtype} holds exactly"
        try:
            result = ELEMENTS[name](eqn, *cells)
        except RefusedError as error:
            reason = str(error)
        else:
            if fits(result, dtype) and not narrowed(eqn, result):
                if name != "quantise":  # whose result is where tables begin
                    views.remember(result, eqn, cells)
                return result
        if name == "quantise" or len({id(cell) for cell in cells if is_wire(cell)}) != 1:
            raise RefusedError(reason)
    if name == "quantise" and not all(isinstance(cell, float) for cell in cells[1:]):
        msg = "formats must be constants"
        raise RefusedError(msg)
    return views.compose(eqn, cells)


def narrowed(eqn: JaxprEqn, result: Cell) -> bool:
    """Whether `reduce_precision` would round the value."""
    if eqn.primitive.name != "reduce_precision":
        return False
    return netlist.width(result) > eqn.params["mantissa_bits"] + 1
