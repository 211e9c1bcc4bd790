"""From a JAX function to logic: a walk over its jaxpr, with wires in place of numbers.

Equations without a wire among their operands are computed on the spot, so weights, their quantisers and shapes cost no
logic. The others follow the rules of `diffhep.trigger.rules` and `diffhep.trigger.array_rules`. The logic computes what
the compiled function computes, bit for bit: a value that a floating-point type might have rounded is refused, as is a
primitive without a rule, with its name and the line of the user's function.
"""

import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from diffhep.trigger import netlist
from diffhep.trigger.array_rules import ARRAYS, MOVED
from diffhep.trigger.fixed_point import FixedPoint, require_x64
from diffhep.trigger.netlist import Cell, Circuit, RefusedError, is_wire
from diffhep.trigger.rules import ELEMENTS, FUNCTIONS, elementwise
from diffhep.trigger.tables import Lazy, Views, fits

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # the parameter that holds what is called
CALLERS = frozenset(
    """
    jit pjit closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr checkpoint remat remat2
    """.split()  # noqa: SIM905
)
CONTROL = frozenset(("scan", "while", "cond"))
PRIMITIVES = frozenset(ELEMENTS) | FUNCTIONS | frozenset(ARRAYS) | CALLERS | CONTROL
MAX_TURNS = 4096  # of an unrolled loop


@dataclass(frozen=True)
class Words:
    """An array of fixed-point words, the input of a circuit.

    Args:
        shape: of the array.
        format: of every word, or a (nested) sequence of formats that broadcasts to the shape. What is not on the grid
            is brought there before the circuit, by the modes of the format.

    >>> Words((3,), FixedPoint(1, 3, 4)).kif().tolist()
    [[1, 3, 4], [1, 3, 4], [1, 3, 4]]
    """

    shape: tuple[int, ...]
    format: FixedPoint | Sequence[Any]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if 0 in self.shape:
            msg = f"words: an array of shape {self.shape} holds none"
            raise ValueError(msg)
        for format in self.formats().ravel():
            if not isinstance(format, FixedPoint):
                msg = f"words: a FixedPoint or a sequence of them wanted, got {format!r}"
                raise ValueError(msg)

    def formats(self) -> np.ndarray:
        """The format of each word, as an array of objects."""
        given = np.array(self.format, object)
        try:
            return np.broadcast_to(given, self.shape)
        except ValueError:
            msg = f"words: formats of shape {given.shape} do not broadcast to {self.shape}"
            raise ValueError(msg) from None

    def kif(self) -> np.ndarray:
        """k, i and f of each word, of shape (*shape, 3)."""
        return np.array([(f.k, f.i, f.f) for f in self.formats().ravel()]).reshape(*self.shape, 3)


def formats_of(arguments: Sequence[Words]) -> list[FixedPoint]:
    """The format of each word of some arguments, in order."""
    return [format for words in arguments for format in words.formats().ravel()]


@dataclass(frozen=True)
class Traced:
    """A function as logic.

    Attributes:
        function: of one event.
        inputs: shapes and formats of its arguments.
        circuit: the logic.
        shapes: of the outputs, in the order of `jax.tree.leaves`.
        constants: one number for each output word: its value where it depends on no input, NaN elsewhere.
    """

    function: Callable[..., Any]
    inputs: tuple[Words, ...]
    circuit: Circuit
    shapes: list[tuple[int, ...]]
    constants: np.ndarray


def trace(function: Callable[..., Any], *inputs: Words) -> Traced:
    """The logic of a function of one event.

    Args:
        function: takes one array for each input and returns an array or a tree of arrays.
        inputs: shapes and formats of its arguments.

    Raises:
        ValueError: JAX is not in 64-bit mode, da4ml is missing, or something cannot be exported: the message names the
            primitive and the line.

    >>> trace(jax.nn.relu, Words((4,), FixedPoint(1, 3, 4))).circuit.levels  # doctest: +SKIP
    0.0
    """
    require_x64("trace")
    netlist.require_da4ml()
    for format in formats_of(inputs):
        if format.width > 32 or max(abs(format.i), abs(format.f)) > netlist.MAX_CONSTANT:
            msg = f"export: the input format {format} is too wide: at most 32 bits, |i| and |f| at most 31"
            raise ValueError(msg)
    jaxpr = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(words.shape, jnp.float64) for words in inputs))
    wires = [np.empty(words.shape, object) for words in inputs]
    for array, words in zip(wires, inputs, strict=True):
        for index in np.ndindex(*words.shape):
            array[index] = netlist.wire(*words.kif()[index].tolist())
    outputs = Walk().run(jaxpr, wires, None)
    cells = [cell for array in outputs for cell in np.asarray(array, object).ravel()]
    for cell in cells:
        if isinstance(cell, Lazy):
            msg = f"export: an output is the result of {cell.steps.first}, which lies on no grid: quantise it"
            raise ValueError(msg)
        if not is_wire(cell) and not np.isfinite(float(cell)):
            msg = f"export: an output is always {float(cell)}, which no word of fixed point is"
            raise ValueError(msg)
    if any(0 in np.shape(array) for array in outputs):
        msg = f"export: an output of shape {next(np.shape(a) for a in outputs if 0 in np.shape(a))} holds nothing"
        raise ValueError(msg)
    try:
        circuit = netlist.circuit([cell for array in wires for cell in array.ravel()], cells)
    except RefusedError as error:
        msg = f"export: {error}"
        raise ValueError(msg) from None
    constants = np.array([np.nan if is_wire(cell) else float(cell) for cell in cells])
    return Traced(function, inputs, circuit, [np.shape(array) for array in outputs], constants)


class Walk:
    """One pass over a jaxpr. A value is an array of objects where wires take part, and a plain array elsewhere."""

    def __init__(self):
        self.views = Views()

    def run(self, closed: ClosedJaxpr, inputs: Sequence[np.ndarray], place: str | None) -> list[np.ndarray]:
        """The outputs of a jaxpr; `place` is the line that is quoted, if it is not that of the equation."""
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))
        read = lambda v: np.asarray(v.val) if isinstance(v, Literal) else values[v]
        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            line = place or user_line(eqn)
            try:
                results = self.equation(eqn, operands, line)
            except RefusedError as error:
                name = eqn.primitive.name
                msg = f"export: {name} cannot be exported: {error} ({line})"
                raise ValueError(msg) from None
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, operands: list[Any], line: str) -> Sequence[np.ndarray]:
        """The results of one equation."""
        name = eqn.primitive.name
        if name in CALLERS:
            return self.run(called(eqn), operands, line if inside_jax(eqn) else None)
        if not any(symbolic(operand) for operand in operands):
            return folded(eqn, operands)
        if name in CONTROL:
            return getattr(self, f"{name}_loop" if name != "cond" else "cond")(eqn, operands, line)
        if name in ARRAYS:
            lazy = [cell for operand in operands if symbolic(operand) for cell in operand.ravel()]
            first = next((cell.steps.first for cell in lazy if isinstance(cell, Lazy)), None)
            if first is not None and name not in MOVED:
                msg = f"the result of {first} lies on no grid: quantise it first"
                raise RefusedError(msg)
            found = ARRAYS[name](eqn, *map(plain, operands))
            results = found if isinstance(found, list) else [found]
        elif name in ELEMENTS or name in FUNCTIONS:
            self.views.line = line
            results = [elementwise(eqn, self.views, *operands)]
        else:
            msg = "it has no rule in logic"
            raise RefusedError(msg)
        for result, var in zip(results, eqn.outvars, strict=True):
            for cell in np.asarray(result, object).ravel():
                if not fits(cell, var.aval.dtype):
                    low, high, step = netlist.span(cell)
                    msg = f"values from {low:g} to {high:g} in steps of {step:g} do not fit {var.aval.dtype} exactly"
                    raise RefusedError(msg)
        return [settled(result, var.aval) for result, var in zip(results, eqn.outvars, strict=True)]

    def cond(self, eqn: JaxprEqn, operands: list[Any], line: str) -> Sequence[np.ndarray]:
        """The branch of a constant number, or all branches and a choice."""
        branches, (which, *rest) = eqn.params["branches"], operands
        if not symbolic(which):
            return self.run(branches[int(np.clip(which, 0, len(branches) - 1))], rest, line)
        results = [self.run(branch, rest, line) for branch in branches]
        out = []
        for arrays in zip(*results, strict=True):
            chosen = np.array(arrays[-1], object)
            for number in range(len(branches) - 2, -1, -1):
                bit = netlist.below(which.item(), number + 1.0)
                for index in np.ndindex(chosen.shape):
                    chosen[index] = netlist.select(bit, cell(arrays[number], index), cell(chosen, index))
            out.append(chosen)
        return [settled(array, var.aval) for array, var in zip(out, eqn.outvars, strict=True)]

    def scan_loop(self, eqn: JaxprEqn, operands: list[Any], line: str) -> Sequence[np.ndarray]:
        """A loop of known length, unrolled."""
        p = eqn.params
        constants, carry = operands[: p["num_consts"]], operands[p["num_consts"] : p["num_consts"] + p["num_carry"]]
        arrays = operands[p["num_consts"] + p["num_carry"] :]
        check_turns(p["length"])
        order = range(p["length"])[::-1] if p["reverse"] else range(p["length"])
        stacked: list[list[Any]] = [[None] * p["length"] for _ in eqn.outvars[p["num_carry"] :]]
        for turn in order:
            found = self.run(p["jaxpr"], [*constants, *carry, *(plain(array)[turn, ...] for array in arrays)], line)
            carry = found[: p["num_carry"]]
            for slot, value in zip(stacked, found[p["num_carry"] :], strict=True):
                slot[turn] = np.asarray(value)
        return [*carry, *(np.stack([np.asarray(v, object) for v in slot]) for slot in stacked)]

    def while_loop(self, eqn: JaxprEqn, operands: list[Any], line: str) -> Sequence[np.ndarray]:
        """A loop whose condition depends on no wire, unrolled."""
        p = eqn.params
        first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        carry, turns = operands[second:], 0
        while True:
            (more,) = self.run(p["cond_jaxpr"], [*operands[:first], *carry], line)
            if symbolic(more):
                msg = "the number of turns must not depend on the inputs"
                raise RefusedError(msg)
            if not bool(more):
                return carry
            check_turns(turns := turns + 1)
            carry = self.run(p["body_jaxpr"], [*operands[first:second], *carry], line)


def symbolic(value: Any) -> bool:
    """Whether wires take part in a value."""
    return isinstance(value, np.ndarray) and value.dtype == object


def plain(value: Any) -> np.ndarray:
    """A constant as a numpy array."""
    return value if symbolic(value) else np.asarray(value)


def cell(array: np.ndarray, index: tuple[int, ...]) -> Cell:
    """One element: a wire or a Python number."""
    element = np.asarray(array)[index]
    return element if is_wire(element) else float(element)


def settled(result: np.ndarray, aval: Any) -> np.ndarray:
    """A result without any wire left, as a plain array of its type."""
    result = np.asarray(result, object).reshape(aval.shape)
    if any(is_wire(cell) or isinstance(cell, Lazy) for cell in result.ravel()):
        return result
    return result.astype(np.float64).astype(aval.dtype)


def folded(eqn: JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """The results of an equation of constants, by JAX."""
    found = eqn.primitive.bind(*map(jnp.asarray, operands), **eqn.params)
    found = found if eqn.primitive.multiple_results else [found]
    return [value if jnp.issubdtype(value.dtype, jax.dtypes.extended) else np.asarray(value) for value in found]


def called(eqn: JaxprEqn) -> ClosedJaxpr:
    """What an equation such as `jit` calls."""
    inner = next(eqn.params[name] for name in CALLS if name in eqn.params)
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def check_turns(turns: int) -> None:
    """Refuse a loop that is too long to unroll."""
    if turns > MAX_TURNS:
        msg = f"a loop of more than {MAX_TURNS} turns is too long to unroll"
        raise RefusedError(msg)


def inside_jax(eqn: JaxprEqn) -> bool:
    """Whether what is called belongs to JAX itself: then the line of the call is the user's."""
    where = getattr(called(eqn).jaxpr.debug_info, "func_src_info", None) or ""
    return str(Path(jax.__file__).parent) in where


def user_line(eqn: JaxprEqn) -> str:
    """File and line of the user's function that an equation comes from: the innermost frame outside of libraries."""
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else list(traceback.frames)
    libraries = [str(Path(path).resolve()) for path in (jax.__path__[0], sysconfig.get_path("stdlib"))]
    ours = str(Path(__file__).resolve().parent)
    packages = sysconfig.get_path("purelib")
    for strangers in ([*libraries, ours, packages], libraries):
        for frame in frames:
            if not frame.file_name.startswith((*strangers, "<")):
                return f"{Path(frame.file_name).name}:{frame.line_num}, in {frame.function_name}"
    return "line unknown"
