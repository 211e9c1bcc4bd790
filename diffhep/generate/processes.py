"""What Pythia is asked to generate: proton collisions at 13 TeV.

A process is one or several runs, whose cross-sections add up; each run keeps its share of the events. Those of
`PROCESSES` are kept where an electromagnetic trigger finds two candidates, those of `COLLISIONS` as they are, with the
objects that a whole trigger sees.
"""

import dataclasses
import math
from types import MappingProxyType

COMMON = (
    "Beams:idA = 2212",
    "Beams:idB = 2212",
    "Beams:eCM = 13000.",
    "ParticleDecays:limitTau0 = on",
    "ParticleDecays:tau0Max = 10.",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of Pythia.

    Attributes:
        settings: lines as Pythia reads them.
        share: of the events that are kept, relative to the other runs of the process.
        hadronisations: of every event of partons; see `diffhep.generate.hadronisation`.
        hardest: events whose hardest parton scattering has more transverse momentum are left out [GeV].
    """

    settings: tuple[str, ...]
    share: float = 1.0
    hadronisations: int = 1
    hardest: float = math.inf


PROCESSES = MappingProxyType(
    {
        # the cross-section that Pythia reports contains the branching ratio, because only one decay is open
        "higgs-diphoton": (Run(("HiggsSM:all = on", "25:m0 = 125.0", "25:onMode = off", "25:onIfMatch = 22 22")),),
        "diphoton": (
            Run(
                (
                    "PromptPhoton:ffbar2gammagamma = on",
                    "PromptPhoton:gg2gammagamma = on",
                    "PhaseSpace:mHatMin = 90.",
                    "PhaseSpace:mHatMax = 180.",
                    "PhaseSpace:pTHatMin = 8.",
                )
            ),
        ),
        "jets": (
            Run(
                (
                    "HardQCD:all = on",
                    "PhaseSpace:pTHatMin = 18.",
                    "PhaseSpace:bias2Selection = on",
                    "PhaseSpace:bias2SelectionPow = 2.",
                    "PhaseSpace:bias2SelectionRef = 20.",
                    "PartonLevel:MPI = off",
                ),
                share=0.7,
                hadronisations=30,
            ),
            Run(
                (
                    "PromptPhoton:qg2qgamma = on",
                    "PromptPhoton:qqbar2ggamma = on",
                    "PromptPhoton:gg2ggamma = on",
                    "PhaseSpace:pTHatMin = 13.",
                    "PhaseSpace:bias2Selection = on",
                    "PhaseSpace:bias2SelectionPow = 2.",
                    "PhaseSpace:bias2SelectionRef = 20.",
                    "PartonLevel:MPI = off",
                ),
                share=0.3,
            ),
        ),
    }
)

SOFT = "SoftQCD:nonDiffractive = on"
# where soft and hard collisions meet [GeV]: every hundredth collision is above it, and there the cross-section of a
# hard scattering, which knows of no others, is still that of the hardest one of a collision
HARD_FROM = 20.0

COLLISIONS = MappingProxyType(
    {
        "minimum-bias": (
            Run((SOFT,), share=0.6, hardest=HARD_FROM),
            # one in a million of the soft ones would be as hard as these: weighted events reach low rates
            Run(
                (
                    "HardQCD:all = on",
                    f"PhaseSpace:pTHatMin = {HARD_FROM}",
                    "PhaseSpace:bias2Selection = on",
                    "PhaseSpace:bias2SelectionPow = 4.",
                    f"PhaseSpace:bias2SelectionRef = {HARD_FROM}",
                ),
                share=0.4,
            ),
        ),
        "ttbar": (Run(("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")),),
        "higgs-tautau": (Run(("HiggsSM:all = on", "25:m0 = 125.0", "25:onMode = off", "25:onIfMatch = 15 15")),),
        "higgs-aa-4b": (
            Run(
                (
                    "Higgs:useBSM = on",
                    "HiggsBSM:gg2H1 = on",
                    "25:m0 = 125.0",
                    "25:onMode = off",
                    "25:addChannel = 1 1.0 100 36 36",
                    "36:m0 = 40.0",
                    "36:mWidth = 0.01",
                    "36:mMin = 39.0",
                    "36:mMax = 41.0",
                    "36:onMode = off",
                    "36:onIfMatch = 5 5",
                )
            ),
        ),
        "vbf-higgs-invisible": (
            Run(
                (
                    "HiggsSM:ff2Hff(t:ZZ) = on",
                    "HiggsSM:ff2Hff(t:WW) = on",
                    "25:m0 = 125.0",
                    "25:onMode = off",
                    "25:addChannel = 1 1.0 100 1000022 1000022",
                    "1000022:m0 = 1.0",
                    "1000022:mayDecay = off",
                )
            ),
        ),
    }
)

# what SlowJet is not to see in the search for electromagnetic clusters: muons and hadrons with c tau > 10 mm
HIDDEN = (13, 130, 211, 310, 321, 2112, 2212, 3112, 3122, 3222, 3312, 3322, 3334)
