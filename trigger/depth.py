r"""How fast logic could be clocked: the longest path of a netlist that yosys made, before anything is placed.

Cells have the delays of an Artix-7 that come with yosys (prjxray, means over their pins), and every wire takes `WIRE`,
what yosys's own mapper assumes for that device; inside a slice, between the blocks of a carry chain and into the
multiplexers behind lookup tables, there is none. A path begins at a register or an input and ends at a register or an
output; where there are registers, inputs come from one too. It is an estimate: placement may lengthen a wire, while the
devices that triggers are built with are faster.
"""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

WIRE = 0.3  # ns
# through a cell [ns]; a register from its clock
DELAYS = MappingProxyType(
    {
        **{"LUT1": 0.13, "LUT2": 0.18, "LUT3": 0.26, "LUT4": 0.31, "LUT5": 0.38, "LUT6": 0.42},
        **{"INV": 0.13, "MUXF7": 0.25, "MUXF8": 0.16, "MUXF9": 0.16, "CARRY4": 0.45, "FD": 0.3, "SRL": 1.47},
    }
)
CARRY = 0.114  # ns: from block to block of a chain
SUM = 0.17  # ns: what a sum takes longer than the carry to the next block
IN_SLICE = ("MUXF7", "MUXF8", "MUXF9")


class Path(NamedTuple):
    """The longest path between two registers.

    Attributes:
        ns: its length [ns].
        cells: what lies on it, the register that it begins at among them.
    """

    ns: float
    cells: int


class UnknownCellError(ValueError):
    """A cell whose delay is not known."""


def kind_of(cell: str) -> str:
    """The entry of `DELAYS` for a cell of yosys; an UnknownCellError if there is none."""
    found = next((kind for kind in DELAYS if cell.startswith(kind)), None)
    if found is None:
        msg = f"depth: nothing is known of cells {cell}"
        raise UnknownCellError(msg)
    return found


def longest_path(module: Mapping[str, Any]) -> Path:
    """The longest path of a flat module as yosys's `write_json` gives it.

    Args:
        module: `ports` and `cells`.

    Raises:
        UnknownCellError: a cell that nothing is known of.
        ValueError: a loop of logic.
    """
    cells = [(kind_of(cell["type"]), cell) for cell in module["cells"].values()]
    driver: dict[int, int] = {}
    for number, (_, cell) in enumerate(cells):
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "output":
                driver |= {bit: number for bit in bits if isinstance(bit, int)}
    starts = lambda kind: kind in ("FD", "SRL")
    if any(starts(kind) for kind, _ in cells):
        given = [port["bits"] for port in module["ports"].values() if port["direction"] == "input"]
        driver |= {bit: len(cells) for bits in given for bit in bits if isinstance(bit, int)}
        cells.append(("FD", {"connections": {}, "port_directions": {}}))
    after, waits = defaultdict(list), [0] * len(cells)
    sources: list[list[tuple[str, int]]] = [[] for _ in cells]
    for number, (_, cell) in enumerate(cells):
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input" and port not in ("C", "CLK"):
                sources[number] += [(port, driver[bit]) for bit in bits if isinstance(bit, int) and bit in driver]
        if not starts(cells[number][0]):
            for source in {source for _, source in sources[number]}:
                after[source].append(number)
                waits[number] += 1
    arrival: list[Path] = [Path(0.0, 0)] * len(cells)
    ready = [number for number, count in enumerate(waits) if count == 0]
    done = 0
    while ready:
        number = ready.pop()
        done += 1
        kind = cells[number][0]
        inputs = [] if starts(kind) else sources[number]
        begin = Path(DELAYS[kind], 1)
        arrival[number] = max([begin, *(through(kind, port, cells[s][0], arrival[s]) for port, s in inputs)])
        for following in after[number]:
            waits[following] -= 1
            if waits[following] == 0:
                ready.append(following)
    if done < len(cells):
        msg = "depth: the logic has a loop"
        raise ValueError(msg)
    # what a register or an output waits for
    out = lambda s: Path(arrival[s].ns + (SUM if cells[s][0] == "CARRY4" else 0.0), arrival[s].cells)
    last = [out(s) for number, (kind, _) in enumerate(cells) if starts(kind) for _, s in sources[number]]
    ends = [bit for port in module["ports"].values() if port["direction"] == "output" for bit in port["bits"]]
    last += [out(driver[bit]) for bit in ends if bit in driver]
    found = max(last, default=Path(0.0, 0))
    return Path(round(found.ns + WIRE, 3), found.cells)


def through(kind: str, port: str, source: str, before: Path) -> Path:
    """When what comes through a port of a cell leaves it."""
    chained = kind == "CARRY4" and port == "CI" and source == "CARRY4"
    # the carry that leaves a chain for other cells has come through a sum's gate
    leaves = SUM if source == "CARRY4" and not chained else 0.0
    wire = 0.0 if chained or kind in IN_SLICE else WIRE
    delay = CARRY if chained else DELAYS[kind]
    return Path(before.ns + leaves + wire + delay, before.cells + 1)
