"""Logic, word by word: the only place that knows da4ml, which optimises adders and writes the Verilog.

A *cell* is a wire (a word whose range and step are known) or a plain number. Every operation here is exact: it gives
the cell that holds the result for all values the operands can take, and a plain number where that is only one value.
What rounds and overflows is in `diffhep.trigger.fixed_logic`; what is no polynomial is `table`.

da4ml is an optional package, under the LGPL: imported when a circuit is made, never copied, except for the Verilog
primitives that it puts into every project (`src/static`).
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.pipeline import cut

PACKAGE = "da4ml==0.6.0"
MAX_TABLE = 1 << 16  # entries of a lookup table
MAX_EXPONENT = 100  # of two, in a table: away from the ends of single precision
MAX_CONSTANT = 31  # bits before and behind the binary point of a constant: what the optimiser holds

Wire = Any  # a da4ml.trace.FixedVariable: the package may be missing, so its type has no name here
Cell = Any  # Wire | float


class RefusedError(Exception):
    """What cannot become logic, and why; the walk over the function adds where."""


def require_da4ml() -> Any:
    """The package; a ValueError that says what to install."""
    try:
        import da4ml
    except ModuleNotFoundError:
        msg = f"export to Verilog needs da4ml: pip install 'diffhep[fpga]', or {PACKAGE}"
        raise ValueError(msg) from None
    return da4ml


def wire(k: int, i: int, f: int) -> Cell:
    """A new wire of the format (k, i, f), an input of the circuit; the number 0 if it has no bits."""
    if k + i + f <= 0:
        return 0.0
    require_da4ml()
    from da4ml.trace import FixedVariable, HWConfig

    # one unit of cost a full adder, one level of depth an adder: how costs are quoted everywhere
    return FixedVariable.from_kif(k, i, f, hwconf=HWConfig(1, -1, -1), latency=0.0)


def is_wire(cell: Cell) -> bool:
    """Whether the cell is a wire, not a number."""
    return hasattr(cell, "hwconf")


def settled(cell: Cell) -> Cell:
    """A wire that can take one value only, as that number."""
    return float(cell.low) if is_wire(cell) and cell.low == cell.high else cell


def span(cell: Cell) -> tuple[float, float, float]:
    """Smallest and largest value, and the step (1 for the number 0, which lies on every grid)."""
    if is_wire(cell):
        return float(cell.low), float(cell.high), float(cell.step)
    numerator, denominator = abs(float(cell)).as_integer_ratio()
    return float(cell), float(cell), (numerator & -numerator) / denominator if numerator else 1.0


def width(cell: Cell) -> int:
    """Bits of the largest magnitude, counted in steps, without the sign."""
    low, high, step = span(cell)
    return round(max(abs(low), abs(high)) / step).bit_length()


def constant(number: Cell) -> float:
    """A number that logic can hold."""
    number = float(number)
    if not math.isfinite(number):
        msg = f"the constant {number} is not finite"
        raise RefusedError(msg)
    step = span(number)[2]
    if step < 2.0**-MAX_CONSTANT or abs(number) >= 2.0**MAX_CONSTANT:
        msg = f"the constant {number:g} lies on no grid of {MAX_CONSTANT} fractional bits: quantise it first"
        raise RefusedError(msg)
    return number


def add(a: Cell, b: Cell) -> Cell:
    """The sum."""
    if is_wire(a) and is_wire(b):
        return settled(a + b)
    if is_wire(a) or is_wire(b):
        a, b = (a, b) if is_wire(a) else (b, a)
        return settled(a + constant(b))
    return float(a) + float(b)


def negative(a: Cell) -> Cell:
    """The value with its sign turned."""
    return -a


def subtract(a: Cell, b: Cell) -> Cell:
    """The difference; 0 for a wire and itself."""
    return 0.0 if a is b else add(a, negative(b))


def multiply(a: Cell, b: Cell) -> Cell:
    """The product: shifts and adders with a number, a multiplier of two wires."""
    if is_wire(a) and is_wire(b):
        return settled(a * b)
    if is_wire(a) or is_wire(b):
        a, b = (a, b) if is_wire(a) else (b, a)
        return settled(a * constant(b)) if b else 0.0
    return float(a) * float(b)


def magnitude(a: Cell) -> Cell:
    """The value without its sign."""
    low, high, step = span(a)
    if low >= 0 or high <= 0:
        return a if low >= 0 else negative(a)
    return settled(key(below(a, 0.0)).msb_mux(a, negative(a), (0.0, max(-low, high), step)))


def larger(a: Cell, b: Cell) -> Cell:
    """The larger value."""
    if is_wire(a) or is_wire(b):
        a, b = (a, b) if is_wire(a) else (b, a)
        if a is b or (not is_wire(b) and b == -math.inf):
            return a
        # where ranges do not overlap, nothing is left to compare
        return settled(a.max_of(b if is_wire(b) else constant(b)))
    return max(float(a), float(b))


def smaller(a: Cell, b: Cell) -> Cell:
    """The smaller value."""
    if is_wire(a) or is_wire(b):
        a, b = (a, b) if is_wire(a) else (b, a)
        if a is b or (not is_wire(b) and b == math.inf):
            return a
        return settled(a.min_of(b if is_wire(b) else constant(b)))
    return min(float(a), float(b))


def below(a: Cell, b: Cell) -> Cell:
    """1 where a < b, 0 elsewhere."""
    difference = subtract(a, b)
    low, high, _ = span(difference)
    if low >= 0 or high < 0:
        return float(high < 0)
    return settled(difference.is_negative())


def differs(a: Cell, b: Cell) -> Cell:
    """1 where the values differ, 0 elsewhere."""
    difference = subtract(a, b)
    low, high, _ = span(difference)
    if low > 0 or high < 0 or low == high:
        return float(low != 0)
    return settled(difference.unary_bit_op("any"))


def inverse(a: Cell) -> Cell:
    """1 for 0 and 0 for 1."""
    return settled(~a) if is_wire(a) else 1.0 - a


def gate(kind: str, a: Cell, b: Cell) -> Cell:
    """The `and`, `or` or `xor` of two bits."""
    if is_wire(a) and is_wire(b):
        return settled(a.binary_bit_op(b, kind))
    a, b = (a, b) if is_wire(a) else (b, a)
    if kind == "xor":
        return inverse(a) if b else a
    return (a if b else 0.0) if kind == "and" else (1.0 if b else a)


def select(bit: Cell, one: Cell, zero: Cell) -> Cell:
    """`one` where the bit is 1, `zero` where it is 0."""
    if not is_wire(bit):
        return one if bit else zero
    if one is zero or (not is_wire(one) and not is_wire(zero) and one == zero):
        return one
    one, zero = (cell if is_wire(cell) else constant(cell) for cell in (one, zero))
    if not is_wire(zero) and is_wire(one) and one._factor < 0:
        # da4ml 0.6 chooses the wrong sign between a number and a wire it holds with its sign turned
        return negative(select(bit, negative(one), -zero))
    return settled(key(bit).msb_mux(zero, one))


def choice(bit: Wire, one: Cell, zero: Cell, within: tuple[float, float]) -> Cell:
    """`one` where the bit is 1, `zero` where it is 0, when it is known between which values the result lies."""
    finest = min(span(one)[2], span(zero)[2])
    return settled(key(bit).msb_mux(zero, one, (*within, finest)))


def key(bit: Wire) -> Wire:
    """What a choice looks at: 1 for the first of two, where the bit is 0.

    da4ml 0.6 looks through the dropping of bits to the word before, and there at another bit than its own interpreter;
    it does not look through an inverter, which costs nothing.
    """
    return ~bit


def tree(operation: Callable[[Cell, Cell], Cell], cells: Iterable[Cell]) -> Cell:
    """A commutative operation over many cells, the earliest two first: the least depth; of these the narrowest."""
    order = itertools.count()
    entry = lambda cell: (latency(cell), width(cell) if is_wire(cell) else 0, next(order), cell)
    heap = [entry(cell) for cell in cells]
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap)[-1], heapq.heappop(heap)[-1]
        heapq.heappush(heap, entry(operation(first, second)))
    return heap[0][-1]


def latency(cell: Cell) -> float:
    """Levels of logic before the cell."""
    return float(cell.latency) if is_wire(cell) else 0.0


def matrix_product(cells: Sequence[Cell], matrix: Float[np.ndarray, "m n"]) -> list[Cell]:
    """The sums of cells_m matrix_mn: shared shifts and adders, no multiplier."""
    from da4ml.trace import FixedVariableArray

    for number in matrix.ravel():
        constant(number)
    rough = matrix[matrix.astype(np.float32) != matrix]
    if rough.size:
        msg = f"the weight {rough[0]!r} has more than 24 significant bits: quantise it first"
        raise RefusedError(msg)
    # the optimiser wants wires only, and nothing that has no effect
    rows = [m for m, cell in enumerate(cells) if is_wire(cell) and matrix[m].any()]
    fixed_part = [float(cell) * matrix[m] for m, cell in enumerate(cells) if not is_wire(cell)]
    offset = np.sum(fixed_part, axis=0) if fixed_part else np.zeros(matrix.shape[1])
    columns = np.flatnonzero(matrix[rows].any(axis=0)) if rows else np.array([], int)
    sums: list[Cell] = [0.0] * matrix.shape[1]
    if columns.size:
        product = FixedVariableArray(np.array([cells[m] for m in rows])) @ matrix[np.ix_(rows, columns)]
        for n, column in enumerate(columns):
            sums[column] = settled(product[n])
    return [add(cell, number) for cell, number in zip(sums, offset, strict=True)]


def table(cell: Wire, values: Float[np.ndarray, " n"]) -> Cell:
    """The value that belongs to each value of the wire, from the smallest on."""
    if (values == values[0]).all():
        return float(values[0])
    check_table(values)
    return settled(cell.lookup(np.asarray(values, np.float64)))


def check_table(values: Float[np.ndarray, " n"]) -> None:
    """Refuse values that da4ml 0.6 would round: it keeps codes of 32 bits, and finds their step in single precision."""
    fraction, exponent = np.frexp(values[values != 0])
    whole = np.abs(np.ldexp(fraction, 53)).astype(np.int64)
    steps = np.ldexp((whole & -whole).astype(np.float64), exponent - 53)
    step, short = steps.min(), whole // (whole & -whole) < 1 << 24
    codes = values / step
    held = codes.min() >= -(2.0**31) and codes.max() < 2.0**31 and (short & (steps == step)).any()
    if not held or np.abs(exponent).max() > MAX_EXPONENT:
        ends = f"{values.min():g} to {values.max():g}"
        msg = f"a table of values from {ends} in steps of {step:g} is too wide: quantise them to less"
        raise RefusedError(msg)


def bits_of(cell: Wire, k: int, i: int, f: int) -> Cell:
    """Bits of a word, read as a word of the format (k, i, f)."""
    return settled(cell.quantize(k, i, f, "WRAP", "TRN"))


def some(kind: str, bits: Cell) -> Cell:
    """1 where `any` or `all` bits of a word are 1."""
    return settled(bits.unary_bit_op(kind)) if is_wire(bits) else float(bits != 0)


@dataclass(frozen=True)
class Circuit:
    """Wired-up logic. The formats are (word, 3) arrays of k, i, f; a word of no bits is the constant 0."""

    logic: Any
    inputs: Int[np.ndarray, "word 3"]
    outputs: Int[np.ndarray, "word 3"]

    @property
    def cost(self) -> float:
        """Estimated lookup tables."""
        return float(self.logic.cost)

    @property
    def levels(self) -> float:
        """Adders between an input and an output, on the longest way."""
        return float(self.logic.latency[1])

    def evaluate(self, x: Float[np.ndarray, "event in"]) -> Float[np.ndarray, "event out"]:
        """The outputs by da4ml's interpreter, for inputs on their grids."""
        return np.asarray(self.logic.predict(np.ascontiguousarray(x, np.float64)))

    def write(
        self, folder: Path, *, name: str, part: str, clock_period_ns: float, levels_per_stage: int | None
    ) -> dict[str, Any]:
        """Write the Verilog project; returns stages (0 if combinational), register bits, cost and levels."""
        from da4ml.codegen import RTLModel

        model = RTLModel(
            self.logic if levels_per_stage is None else cut(self.logic, levels_per_stage),
            name,
            folder,
            print_latency=False,
            part_name=part,
            clock_period=clock_period_ns,
        )
        model.write()
        pipe = None if levels_per_stage is None else model._pipe
        return {
            "stages": 0 if pipe is None else len(pipe.solutions),
            "register_bits": 0 if pipe is None else int(pipe.reg_bits),
            "cost": self.cost,
            "levels": self.levels,
        }


def circuit(inputs: Sequence[Cell], outputs: Sequence[Cell]) -> Circuit:
    """The circuit from input wires to output cells; numbers among either take no part in it.

    Raises:
        RefusedError: no output depends on an input.
    """
    from da4ml.trace import comb_trace

    if not any(map(is_wire, outputs)):
        msg = "no output depends on an input"
        raise RefusedError(msg)
    logic = comb_trace(list(filter(is_wire, inputs)), list(filter(is_wire, outputs)), keep_dead_inputs=True)
    kif = lambda cells, formats: spread(cells, np.asarray(formats, int).T.reshape(-1, 3))
    return Circuit(logic, kif(inputs, logic.inp_kifs), kif(outputs, logic.out_kifs))


def spread(cells: Sequence[Cell], formats: Int[np.ndarray, "wire 3"]) -> Int[np.ndarray, "word 3"]:
    """The formats of the wires, with no bits for the numbers between them."""
    out = np.zeros((len(cells), 3), int)
    out[[is_wire(cell) for cell in cells]] = formats
    return out
