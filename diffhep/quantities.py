"""Numbers with units in files that people write: `absorber = "5.6 mm"`.

A number without its unit is refused where the unit is a physical one, and one in another unit of the same kind is
converted. Counts, ratios, radiation lengths and whatever a study's budget is counted in stay plain numbers.
"""

import re
from collections.abc import Mapping
from typing import Any

from diffhep import units

# symbol -> dimension and size; the dimension of a product is the sum
SYMBOLS = {
    **{name: ("energy", getattr(units, name)) for name in ("keV", "MeV", "GeV", "TeV")},
    **{name: ("length", getattr(units, name)) for name in ("um", "mm", "cm", "m")},
    **{name: ("cross-section", getattr(units, name)) for name in ("fb", "pb", "mb")},
    "ps": ("time", units.ps),
    "ns": ("time", units.ns),
    "s": ("time", units.second),
    "T": ("field", units.tesla),
    "rad": ("angle", units.rad),
    "mrad": ("angle", units.mrad),
    "Hz": ("frequency", 1.0),
    "kHz": ("frequency", 1e3),
    "MHz": ("frequency", 1e6),
    **{name: ("data", size) for name, size in (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9))},
}
FACTOR = re.compile(r"([A-Za-z]+)(?:\^([\d.]+))?")
ROOT = re.compile(r"\^\((\d+)/(\d+)\)")
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


def size_of(unit: str) -> tuple[dict[str, float], float] | None:
    """Powers of dimensions, and size, of a unit such as `1/(cm^2 s)` or `ps/m^(1/2)`; None if it is not physical.

    >>> size_of("1/cm")
    ({'length': -1.0}, 0.1)
    >>> size_of("cost unit/mm") is None
    True
    """
    above, _, below = ROOT.sub(lambda m: f"^{int(m[1]) / int(m[2])}", unit).partition("/")
    dimensions: dict[str, float] = {}
    size = 1.0
    for part, sign in ((above.removeprefix("1"), 1.0), (below.strip("()"), -1.0)):
        for word in part.split():
            match = FACTOR.fullmatch(word)
            if match is None or match[1] not in SYMBOLS:
                return None
            power = sign * float(match[2] or 1)
            kind, one = SYMBOLS[match[1]]
            dimensions[kind] = dimensions.get(kind, 0.0) + power
            size *= one**power
    return (dimensions, size) if dimensions else None


def number_in(value: Any, unit: str) -> Any:
    """A value from a file as a number in some unit; what is no number and no text is left for others to refuse.

    >>> number_in("0.56 cm", "mm")
    5.6000000000000005

    Raises:
        ValueError: no unit where a physical one is wanted, or one of another dimension.
    """
    if isinstance(value, list | tuple):
        return [number_in(v, unit) for v in value]
    wanted = size_of(unit)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    if not isinstance(value, str):
        if wanted is None:
            return value
        msg = f"{value} has no unit, wanted '{value} {unit}'"
        raise ValueError(msg)
    match = NUMBER.fullmatch(value)
    if match is None:
        return value
    number, given = float(match[1]), match[2]
    if given == unit:
        return number
    if not given:
        msg = f"{value!r} has no unit, wanted '{value} {unit}'"
        raise ValueError(msg)
    got = size_of(given)
    if wanted is None or got is None or got[0] != wanted[0]:
        msg = f"{value!r} is not in {unit or 'plain numbers'}" + (" or a multiple of it" if wanted else "")
        raise ValueError(msg)
    return number * got[1] / wanted[1]


def without_units(
    values: Mapping[str, Any], unit_of: Mapping[str, str], *, source: str, prefix: str = ""
) -> dict[str, Any]:
    """Values of a file as plain numbers, in the unit of each dotted name; a ValueError names source and field."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, Mapping):
            plain[key] = without_units(value, unit_of, source=source, prefix=f"{name}.")
            continue
        try:
            plain[key] = number_in(value, unit_of[name]) if name in unit_of else value
        except ValueError as error:
            msg = f"{source}: {name}: {error}"
            raise ValueError(msg) from None
    return plain
