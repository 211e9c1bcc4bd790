"""Classes of labelled jets, and the runs of Pythia that they come from.

Proton collisions at 13 TeV, in the range of transverse momentum that the jets are taken from and a little beyond. The
steep spectrum is flattened, so events carry weights. Quarks are d to b.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from diffhep.generate.processes import COMMON

CLASSES = MappingProxyType({"g": "gluon", "q": "quark", "w": "W", "z": "Z", "t": "top"})

HARD_PARTON, RESONANCE = 23, 22
FLATTENED = (
    "PhaseSpace:pTHatMin = 475.",
    "PhaseSpace:pTHatMax = 1050.",
    "PhaseSpace:bias2Selection = on",
    "PhaseSpace:bias2SelectionRef = 500.",
    "PhaseSpace:bias2SelectionPow = 4.5",
)
W_TO_QUARKS = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")


@dataclasses.dataclass(frozen=True)
class JetRun:
    """One run of Pythia.

    Attributes:
        name: for messages and for the file.
        settings: lines as Pythia reads them, after those that all runs share.
        status: of the particles that label a jet: partons of the hard process, or its resonances.
        labels: the PDG numbers, without sign, that stand for a class.
    """

    name: str
    settings: tuple[str, ...]
    status: int
    labels: Mapping[str, tuple[int, ...]]

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines for Pythia."""
        return (*COMMON, *FLATTENED, *self.settings)


RUNS = (
    JetRun("qcd", ("HardQCD:all = on",), HARD_PARTON, {"g": (21,), "q": (1, 2, 3, 4, 5)}),
    JetRun("ww", ("WeakDoubleBoson:ffbar2WW = on", *W_TO_QUARKS), RESONANCE, {"w": (24,)}),
    JetRun(
        "zz",
        # without the photon, whose mass would be anything
        (
            "WeakDoubleBoson:ffbar2gmZgmZ = on",
            "WeakZ0:gmZmode = 2",
            "23:onMode = off",
            "23:onIfAny = 1 2 3 4 5",
        ),
        RESONANCE,
        {"z": (23,)},
    ),
    JetRun("ttbar", ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *W_TO_QUARKS), RESONANCE, {"t": (6,)}),
)


def classes_of(names: Sequence[str]) -> tuple[str, ...]:
    """The letters of the classes, each of which may be named by its letter or in full.

    Raises:
        ValueError: none, an unknown one, or one twice.

    >>> classes_of(["gluon", "q", "Z"])
    ('g', 'q', 'z')
    """
    letters = {name.lower(): letter for letter, full in CLASSES.items() for name in (letter, full)}
    found: list[str] = []
    for name in names:
        if name.lower() not in letters:
            near = difflib.get_close_matches(name.lower(), letters, n=1, cutoff=0.4)
            known = ", ".join(f"{letter} ({full})" for letter, full in CLASSES.items())
            hint = f"did you mean {CLASSES[letters[near[0]]]!r}?" if near else f"there are {known}"
            msg = f"no class of jets is called {name!r}; {hint}"
            raise ValueError(msg)
        if letters[name.lower()] in found:
            msg = f"the class {CLASSES[letters[name.lower()]]!r} is named twice"
            raise ValueError(msg)
        found.append(letters[name.lower()])
    if not found:
        msg = "at least one class of jets is wanted"
        raise ValueError(msg)
    return tuple(found)
