"""What Pythia is asked to generate: proton collisions at 13 TeV.

A process is one or several runs, whose cross-sections add up; each run keeps its share of the events.
"""

import dataclasses
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
    """

    settings: tuple[str, ...]
    share: float = 1.0
    hadronisations: int = 1


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

# what SlowJet is not to see in the search for electromagnetic clusters: muons and hadrons with c tau > 10 mm
HIDDEN = (13, 130, 211, 310, 321, 2112, 2212, 3112, 3122, 3222, 3312, 3322, 3334)
