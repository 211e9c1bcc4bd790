"""What each primitive that moves, looks up, adds up or orders the elements of arrays becomes in logic."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from diffhep.trigger import netlist, tables
from diffhep.trigger.netlist import Cell, RefusedError

MAX_BASIS = 1 << 24  # entries of the matrix of a linear primitive

# operands that are moved; the others say where from and where to
MOVED: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        ("reshape", "squeeze", "expand_dims", "transpose", "broadcast_in_dim", "slice", "rev", "concatenate", "stack")
    ),
    **dict.fromkeys(("pad", "split", "copy", "tile", "optimization_barrier")),
    "gather": (0,),
    "dynamic_slice": (0,),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
}


def wiring(eqn: JaxprEqn, *operands: np.ndarray) -> list[np.ndarray]:
    """Elements put elsewhere: the primitive itself moves their numbers, and the cells follow."""
    moved = MOVED[eqn.primitive.name]
    pool: list[np.ndarray] = []
    arguments = []
    for number, operand in enumerate(operands):
        if moved is None or number in moved:
            start = sum(array.size for array in pool)
            pool.append(np.asarray(operand, object).ravel())
            arguments.append(jnp.arange(start, start + operand.size, dtype=jnp.int32).reshape(operand.shape))
        elif operand.dtype == object:
            msg = "indices must be constants"
            raise RefusedError(msg)
        else:
            arguments.append(jnp.asarray(operand))
    cells = np.concatenate(pool)
    found = eqn.primitive.bind(*arguments, **eqn.params)
    positions = [np.asarray(array) for array in (found if eqn.primitive.multiple_results else [found])]
    if any(((array < 0) | (array >= cells.size)).any() for array in positions):
        msg = "an index lies outside the array"
        raise RefusedError(msg)
    return [cells[array] for array in positions]


def taken(eqn: JaxprEqn, array: np.ndarray, *starts: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """`gather` and `dynamic_slice`: wiring at constant indices, tables of a constant array at wires."""
    if all(start.dtype != object for start in starts):
        return wiring(eqn, array, *starts)
    if array.dtype == object:
        msg = "the indices of an array of wires must be constants"
        raise RefusedError(msg)
    return lookup(eqn, array, *starts)


def lookup(eqn: JaxprEqn, array: np.ndarray, *starts: np.ndarray) -> np.ndarray:
    """Elements of a constant array at indices that are wires: one table for each, filled by the primitive itself."""
    aval, gather = eqn.outvars[0].aval, eqn.primitive.name == "gather"
    # a slice has one row of indices
    indices = starts[0] if gather else np.stack(starts)
    offsets = tuple(eqn.params["dimension_numbers"].offset_dims if gather else range(len(aval.shape)))
    wires = [only_wire(row) for row in indices.reshape(-1, indices.shape[-1])]
    values = {wire: tables.every_value(wire, "it") for wire in wires if wire is not None}
    # in step t every wire has its t-th value, or its last one: one row of steps for all of them
    steps = np.arange(max(map(len, values.values())))
    numbers = np.empty((len(steps), *indices.shape), eqn.invars[1].aval.dtype)
    for place, cell in np.ndenumerate(indices):
        numbers[:, *place] = values[cell][np.minimum(steps, len(values[cell]) - 1)] if cell in values else cell
    bind = lambda now: eqn.primitive.bind(jnp.asarray(array), *((now,) if gather else now), **eqn.params)
    results = np.asarray(lax.map(bind, jnp.asarray(numbers)), np.float64)
    rows = np.expand_dims(np.arange(len(wires)).reshape(indices.shape[:-1]), offsets)
    out = np.empty(aval.shape, object)
    done: dict[tuple, Cell] = {}
    for place, row in np.ndenumerate(np.broadcast_to(rows, aval.shape)):
        wire, column = wires[row], results[:, *place]
        if wire is None:
            out[place] = float(column[0])
            continue
        column = column[: len(values[wire])]
        key = wire, column.tobytes()
        if key not in done:
            tables.check_finite(column, values[wire], "it")
            done[key] = netlist.table(wire, column)
        out[place] = done[key]
    return out


def only_wire(row: Sequence[Cell]) -> Cell | None:
    """The wire among the indices of one element, if there is one."""
    wires = {cell for cell in row if netlist.is_wire(cell)}
    if len(wires) > 1:
        msg = f"{len(wires)} indices of one element are wires, at most one may be: compute one index from them"
        raise RefusedError(msg)
    return wires.pop() if wires else None


def check_sum(terms: Sequence[Cell], dtype: Any) -> None:
    """Refuse a sum whose partial sums, in any order, could need more bits than the type holds."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return
    spans = [netlist.span(term) for term in terms]
    largest = sum(max(abs(low), abs(high)) for low, high, _ in spans)
    steps = [step for low, high, step in spans if low or high]
    needed = round(largest / min(steps)).bit_length() if steps else 0
    if needed > jnp.finfo(dtype).nmant + 1:
        msg = f"sums may need {needed} bits, {dtype} holds {jnp.finfo(dtype).nmant + 1} exactly: quantise first"
        raise RefusedError(msg)


def matrix_rows(rows: np.ndarray, matrix: np.ndarray, dtype: Any) -> np.ndarray:
    """The product of an array of cells, row by row, with a constant matrix."""
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0].tolist()
        msg = f"the weight {matrix[row, column]} at ({row}, {column}) is not finite"
        raise RefusedError(msg)
    out = np.empty((len(rows), matrix.shape[1]), object)
    for number, row in enumerate(rows):
        bound(row, matrix, dtype)
        out[number] = netlist.matrix_product(list(row), matrix)
    return out


def bound(row: np.ndarray, matrix: np.ndarray, dtype: Any) -> None:
    """Refuse a matrix product whose sums could need more bits than the type holds."""
    if not jnp.issubdtype(dtype, jnp.floating) or not matrix.any():
        return
    spans = np.array([netlist.span(cell) for cell in row])
    largest = (np.abs(spans[:, :2]).max(axis=1) @ np.abs(matrix)).max()
    steps = np.array([netlist.span(number)[2] for number in matrix.ravel()]).reshape(matrix.shape)
    used = (matrix != 0) & (spans[:, :2].any(axis=1))[:, None]
    finest = (steps * spans[:, 2:])[used].min(initial=np.inf)
    needed = int(largest / finest).bit_length() if used.any() else 0
    if needed > jnp.finfo(dtype).nmant + 1:
        msg = f"sums may need {needed} bits, {dtype} holds {jnp.finfo(dtype).nmant + 1} exactly: quantise first"
        raise RefusedError(msg)


def dot_general(eqn: JaxprEqn, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matrix products over any contracting and batch dimensions."""
    contracting, batch = eqn.params["dimension_numbers"]
    dtype, out_shape = eqn.outvars[0].aval.dtype, eqn.outvars[0].aval.shape
    sides = []
    for array, over, along in zip((left, right), contracting, batch, strict=True):
        free = [axis for axis in range(array.ndim) if axis not in (*over, *along)]
        moved = np.transpose(array, (*along, *free, *over))
        sizes = [int(np.prod([array.shape[axis] for axis in axes])) for axes in (along, free, over)]
        sides.append(moved.reshape(sizes))
    a, b = sides  # (batch, free, contracted)
    out = np.empty((a.shape[0], a.shape[1], b.shape[1]), object)
    for number, (rows, columns) in enumerate(zip(a, b, strict=True)):
        if b.dtype != object:
            out[number] = matrix_rows(rows, columns.T, dtype)
        elif a.dtype != object:
            out[number] = matrix_rows(columns, rows.T, dtype).T
        else:
            for m, n in np.ndindex(out.shape[1:]):
                terms = [netlist.multiply(x, y) for x, y in zip(rows[m], columns[n], strict=True)]
                check_sum(terms, dtype)
                out[number, m, n] = netlist.tree(netlist.add, terms)
    return out.reshape(out_shape)


def convolution(eqn: JaxprEqn, image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution with a constant kernel: the primitive's own matrix, one product for the outputs of one pixel."""
    if kernel.dtype == object:
        msg = "the kernel must be a constant"
        raise RefusedError(msg)
    if not np.isfinite(kernel).all():
        msg = "a weight of the kernel is not finite"
        raise RefusedError(msg)
    aval = eqn.outvars[0].aval
    spec = eqn.params["dimension_numbers"].lhs_spec
    if image.size**2 * max(1, aval.size // max(image.size, 1)) > MAX_BASIS:
        msg = f"{image.size} inputs and {aval.size} outputs are too many for one convolution"
        raise RefusedError(msg)
    # one unit input after the other, along the batch axis; of an image that is a batch itself, each alone
    pixels = np.moveaxis(image, spec[0], 0)
    units = np.eye(pixels[0].size).reshape(-1, *pixels.shape[1:])
    respond = lambda weights: np.moveaxis(
        np.asarray(eqn.primitive.bind(jnp.asarray(np.moveaxis(units, 0, spec[0])), jnp.asarray(weights), **eqn.params)),
        eqn.params["dimension_numbers"].out_spec[0],
        0,
    )
    matrix = respond(np.asarray(kernel, np.float64)).reshape(len(units), -1)
    reach = respond(np.ones(kernel.shape)).reshape(len(units), -1) != 0
    groups: dict[bytes, list[int]] = {}
    for output in range(matrix.shape[1]):
        groups.setdefault(reach[:, output].tobytes(), []).append(output)
    out = np.zeros((len(pixels), matrix.shape[1]), object)
    for event, pixel in enumerate(pixels):
        for columns in groups.values():
            rows = np.flatnonzero(reach[:, columns[0]])
            if rows.size:
                sums = matrix_rows(pixel.ravel()[rows][None], matrix[np.ix_(rows, columns)], aval.dtype)
                out[event, columns] = sums[0]
    shape = np.delete(aval.shape, eqn.params["dimension_numbers"].out_spec[0])
    return np.moveaxis(out.reshape(-1, *shape), 0, eqn.params["dimension_numbers"].out_spec[0])


JOIN: dict[str, Callable[[Cell, Cell], Cell]] = {
    "sum": netlist.add,
    "max": netlist.larger,
    "min": netlist.smaller,
    "prod": netlist.multiply,
    "and": lambda a, b: netlist.gate("and", a, b),
    "or": lambda a, b: netlist.gate("or", a, b),
    "xor": lambda a, b: netlist.gate("xor", a, b),
}


def joined(kind: str, cells: Sequence[Cell], dtype: Any) -> Cell:
    """All cells joined by one operation."""
    if kind == "sum":
        check_sum(cells, dtype)
    return netlist.tree(JOIN[kind], [float(cell) if not netlist.is_wire(cell) else cell for cell in cells])


def reduction(eqn: JaxprEqn, operand: np.ndarray) -> np.ndarray:
    """`reduce_sum` and its like, over some axes."""
    aval, axes = eqn.outvars[0].aval, eqn.params["axes"]
    kept = [axis for axis in range(operand.ndim) if axis not in axes]
    rows = np.transpose(operand, (*kept, *axes)).reshape(int(np.prod(aval.shape)), -1)
    kind = eqn.primitive.name.removeprefix("reduce_")
    out = np.empty(len(rows), object)
    out[:] = [joined(kind, row, aval.dtype) for row in rows]
    return out.reshape(aval.shape)


def cumulative(eqn: JaxprEqn, operand: np.ndarray) -> np.ndarray:
    """`cumsum` and its like: each element joined with what comes before it."""
    axis, kind = eqn.params["axis"], eqn.primitive.name.removeprefix("cum")
    out = np.moveaxis(np.array(operand, object), axis, 0)
    out = out[::-1] if eqn.params["reverse"] else out
    if kind == "sum":
        for index in np.ndindex(out.shape[1:]):
            check_sum(out[(slice(None), *index)], eqn.outvars[0].aval.dtype)
    for n in range(1, len(out)):
        for index in np.ndindex(out.shape[1:]):
            out[(n, *index)] = JOIN[kind](out[(n - 1, *index)], out[(n, *index)])
    return np.moveaxis(out[::-1] if eqn.params["reverse"] else out, 0, axis)


def windows(eqn: JaxprEqn, operand: np.ndarray) -> np.ndarray:
    """Pooling: `reduce_window_sum`, `reduce_window_max` and `reduce_window_min`."""
    p, aval = eqn.params, eqn.outvars[0].aval
    kind = eqn.primitive.name.removeprefix("reduce_window_")
    out = np.empty(aval.shape, object)
    for index in np.ndindex(*aval.shape):
        members = []
        for offset in np.ndindex(*p["window_dimensions"]):
            at = [
                n * stride + o * dilation - low
                for n, o, stride, dilation, (low, _) in zip(
                    index, offset, p["window_strides"], p["window_dilation"], p["padding"], strict=True
                )
            ]
            whole = all(a % base == 0 for a, base in zip(at, p["base_dilation"], strict=True))
            at = [a // base for a, base in zip(at, p["base_dilation"], strict=True)]
            if whole and all(0 <= a < size for a, size in zip(at, operand.shape, strict=True)):
                members.append(operand[tuple(at)])
        if not members:
            msg = "a window lies outside the array"
            raise RefusedError(msg)
        out[index] = joined(kind, members, aval.dtype)
    return out


def extreme(eqn: JaxprEqn, operand: np.ndarray) -> np.ndarray:
    """`argmax` and `argmin`: a knock-out, in which the earlier one wins a tie."""
    (axis,) = eqn.params["axes"]
    rows = np.moveaxis(operand, axis, -1)
    out = np.empty(rows.shape[:-1], object)
    sign = 1.0 if eqn.primitive.name == "argmax" else -1.0
    for index in np.ndindex(*out.shape):
        field = [(netlist.multiply(cell, sign), float(n)) for n, cell in enumerate(rows[index])]
        while len(field) > 1:
            winners = [better(a, b) for a, b in zip(field[::2], field[1::2], strict=False)]
            field = winners + field[2 * len(winners) :]
        out[index] = field[0][1]
    return out


def better(a: tuple[Cell, Cell], b: tuple[Cell, Cell]) -> tuple[Cell, Cell]:
    """Of two (value, index) the one with the larger value, or the first."""
    second = netlist.below(a[0], b[0])
    return netlist.larger(a[0], b[0]), netlist.select(second, b[1], a[1])


def ordered(rows: list[list[Cell]], keys: int) -> None:
    """Sort rows of cells by their first `keys` columns, in place: neighbours change places, equal ones never."""
    for turn in range(len(rows)):
        for n in range(turn % 2, len(rows) - 1, 2):
            swap: Cell = 0.0
            equal: Cell = 1.0
            for a, b in zip(rows[n][:keys], rows[n + 1][:keys], strict=True):
                swap = netlist.gate("or", swap, netlist.gate("and", equal, netlist.below(b, a)))
                if keys > 1:
                    equal = netlist.gate("and", equal, netlist.inverse(netlist.differs(a, b)))
            pairs = list(zip(rows[n], rows[n + 1], strict=True))
            rows[n] = [netlist.select(swap, b, a) for a, b in pairs]
            rows[n + 1] = [netlist.select(swap, a, b) for a, b in pairs]


def sort(eqn: JaxprEqn, *operands: np.ndarray) -> list[np.ndarray]:
    """Sort along one dimension; the other operands follow the keys."""
    axis = eqn.params["dimension"]
    moved = [np.moveaxis(np.array(operand, object), axis, -1) for operand in operands]
    for index in np.ndindex(moved[0].shape[:-1]):
        rows = [list(cells) for cells in zip(*(array[index] for array in moved), strict=True)]
        ordered(rows, eqn.params["num_keys"])
        for number, array in enumerate(moved):
            array[index] = [row[number] for row in rows]
    return [np.moveaxis(array, -1, axis) for array in moved]


def top_k(eqn: JaxprEqn, operand: np.ndarray) -> list[np.ndarray]:
    """The largest elements of the last axis, and where they were."""
    k = eqn.params["k"]
    values = np.empty((*operand.shape[:-1], k), object)
    places = np.empty_like(values)
    for index in np.ndindex(operand.shape[:-1]):
        rows = [[netlist.negative(cell), float(n)] for n, cell in enumerate(operand[index])]
        ordered(rows, 1)
        values[index] = [netlist.negative(row[0]) for row in rows[:k]]
        places[index] = [row[1] for row in rows[:k]]
    return [values, places]


ARRAYS: dict[str, Callable[..., np.ndarray | list[np.ndarray]]] = {
    **dict.fromkeys(MOVED, wiring),
    "gather": taken,
    "dynamic_slice": taken,
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    **{f"reduce_{kind}": reduction for kind in ("sum", "max", "min", "prod", "and", "or", "xor")},
    **{f"cum{kind}": cumulative for kind in ("sum", "max", "min", "prod")},
    **{f"reduce_window_{kind}": windows for kind in ("sum", "max", "min")},
    "argmax": extreme,
    "argmin": extreme,
    "sort": sort,
    "top_k": top_k,
}
