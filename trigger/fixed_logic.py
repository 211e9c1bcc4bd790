"""Fixed-point formats in logic: what rounds a word and what becomes of it beyond the ends of its format."""

import math

from diffhep.trigger.modes import Overflow, Rounding
from diffhep.trigger.netlist import (
    Cell,
    Wire,
    add,
    below,
    bits_of,
    choice,
    gate,
    inverse,
    is_wire,
    larger,
    multiply,
    select,
    smaller,
    some,
    span,
)


def fixed(cell: Cell, k: int, i: int, f: int, rounding: Rounding, overflow: Overflow) -> Cell:
    """The cell in the format (k, i, f): the modes of `diffhep.trigger.modes` in logic."""
    if k + i + f <= 0:
        return 0.0
    step = 2.0**-f
    cell = rounded(cell, f, rounding)
    high = 2.0**i - step
    low = -k * (max(high, step) if overflow == "SAT_SYM" else 2.0**i)
    least, most, _ = span(cell)
    if low <= least and most <= high:
        return cell
    if overflow == "WRAP":
        return wrapped(cell, k, i, f)
    if overflow == "SAT_ZERO":
        inside = inverse(gate("or", below(cell, low), below(high, cell)))
        # the outside values do not matter: the low bits are the word
        return select(inside, wrapped(cell, k, i, f), 0.0)
    if overflow == "SAT_SYM" or not is_wire(cell):
        return smaller(larger(cell, low), high)
    return saturated(cell, k, i, f)


def saturated(cell: Wire, k: int, i: int, f: int) -> Cell:
    """A wire that lies on the grid, or the end of the format beyond it: the high bits say so, nothing is compared."""
    least, most, step = span(cell)
    low, high = -k * 2.0**i, 2.0**i - 2.0**-f
    if most <= low or least >= high:
        return low if most <= low else high
    signed, reach = int(least < 0), reach_of(cell)
    above = lambda bits: bits_of(cell, 0, bits, -i) if bits > i else 0.0
    sign = below(cell, 0.0)
    if k and signed:
        # inside, the bits from 2^i up to the sign are all alike; of a coarse cell, nothing but 0 lies inside
        top = above(reach + 1)
        alike = 0.0 if step > 2.0**i else some("all", top)
        outside, end = gate("and", some("any", top), inverse(alike)), select(sign, low, high)
    else:
        outside, end = gate("or", some("any", above(reach)), sign), select(sign, 0.0, high)
    return choice(outside, end, wrapped(cell, k * signed, i, f), (max(low, least), min(high, most)))


def reach_of(cell: Wire) -> int:
    """Bits before the binary point that hold every value, without the sign."""
    low, high, step = span(cell)
    return max(math.ceil(math.log2(bound)) for bound in (-low, high + step) if bound > 0)


def wrapped(cell: Cell, k: int, i: int, f: int) -> Cell:
    """The low bits of a cell that lies on the grid, as a word of the format."""
    low = span(cell)[0]
    if not is_wire(cell):
        return (cell + k * 2.0**i) % 2.0 ** (k + i) - k * 2.0**i
    reach = reach_of(cell)
    if k or low >= 0 or i <= reach + 1:
        return bits_of(cell, k, i, f)
    # da4ml 0.6 forgets the copies of the sign bit above the source's own bits
    bits = bits_of(cell, 0, reach + 1, f)
    return add(bits, multiply(below(cell, 0.0), 2.0**i - 2.0 ** (reach + 1)))


def rounded(cell: Cell, f: int, rounding: Rounding) -> Cell:
    """The cell on the grid of f fractional bits: what is added before the low bits are dropped decides the mode."""
    finest, step = span(cell)[2], 2.0**-f
    if finest >= step:
        return cell
    half, least = step / 2, finest
    match rounding:
        case "RND":
            cell = add(cell, half)
        case "RND_MIN_INF":
            cell = add(cell, half - least)
        case "RND_ZERO":
            cell = add(add(cell, half - least), multiply(below(cell, 0.0), least))
        case "RND_INF":
            cell = add(add(cell, half), multiply(below(cell, 0.0), -least))
        case "RND_CONV":
            odd = fixed(floor(cell, f), 0, 1 - f, f, "TRN", "WRAP")  # the last bit that is kept
            cell = add(add(cell, half - least), multiply(odd, least / step))
        case "TRN_ZERO":
            cell = add(cell, multiply(below(cell, 0.0), step - least))
    return floor(cell, f)


def floor(cell: Cell, f: int) -> Cell:
    """The cell without what lies behind f fractional bits."""
    low, high, finest = span(cell)
    step = 2.0**-f
    if finest >= step:
        return cell
    if not is_wire(cell):
        return math.floor(cell / step) * step
    largest = max(math.floor(high / step) + 1, -math.floor(low / step))
    if largest <= 0 or math.floor(high / step) == math.floor(low / step):
        return math.floor(low / step) * step
    return bits_of(cell, int(low < 0), (largest - 1).bit_length() - f, f)
