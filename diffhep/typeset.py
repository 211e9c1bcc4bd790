"""Numbers as people read them in a report."""

import math
from typing import Any

from diffhep.checked import Value

MISSING, TIMES = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def pm(measured: Value | None) -> str:
    """Value and error, rounded to two significant digits of the error; a dash for None.

    >>> pm(Value(value=2.31416, stderr=0.01234))
    '2.314 ± 0.012'
    """
    if measured is None:
        return MISSING
    value, error = measured.value, measured.stderr
    if error == 0:
        return number(value)
    last = int(f"{error:.1e}".split("e")[1]) - 1
    largest = math.floor(math.log10(max(abs(value), error)))
    if last >= -6 and largest < 6:
        digits = max(-last, 0)
        parts = (f"{round(x, -last) + 0.0:.{digits}f}" for x in (value, error))
        return typographic(" ± ".join(parts))
    digits = largest - last
    parts = (f"{round(x / 10.0**largest, digits) + 0.0:.{digits}f}" for x in (value, error))
    return typographic(f"({' ± '.join(parts)}) {TIMES} 10{str(largest).translate(SUPERSCRIPT)}")


def percent(measured: Value | None) -> str:
    """The same times a hundred; a dash for None.

    >>> percent(Value(value=0.0231416, stderr=0.0001234))
    '2.314 ± 0.012'
    """
    if measured is None:
        return MISSING
    return pm(Value(value=100 * measured.value, stderr=100 * measured.stderr))


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for None.

    >>> number(0.0000123, 2)
    '1.2 × 10⁻⁵'
    """
    if value is None:
        return MISSING
    text = f"{value + 0.0:.{digits}g}"
    if "e" not in text:
        return typographic(text)
    mantissa, exponent = text.split("e")
    return f"{typographic(mantissa)} {TIMES} 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return ("+" if value > 0 else "") + number(value, digits)


def count(value: int) -> str:
    """A whole number with thin spaces between its thousands."""
    return typographic(f"{value:,}".replace(",", "\u202f"))


def seconds(value: float) -> str:
    """A time.

    >>> seconds(125.2)
    '2 min 05 s'
    """
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def shown(content: Any) -> str:
    """Something of a table whose content is not known beforehand."""
    if content is None:
        return MISSING
    if isinstance(content, bool | str):
        return str(content)
    if isinstance(content, int):
        return count(content)
    return number(content) if isinstance(content, float) else str(content)


def typographic(text: str) -> str:
    """A true minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")
