"""Make the samples that come with the package: `python -m diffhep.generate.shipped [NAME ...]`.

Without names all are made anew, which takes about an hour on one core: three samples of events with Pythia 8, and
showers with Geant4 (a few minutes).
"""

import importlib.resources
import sys
from pathlib import Path
from types import MappingProxyType

from diffhep.generate.geant4 import Beam, SamplingCalorimeter, generate_showers
from diffhep.generate.pythia import generate

# name -> (events kept, seed)
RECIPES = MappingProxyType({"higgs-diphoton": (16_000, 1), "diphoton": (30_000, 2), "jets": (14_000, 3)})

SHOWERS = "showers"
# one random geometry a shower, from equal layers to layers of any thickness
STACK = SamplingCalorimeter(30, absorber_thickness=(1.0, 8.0), active_thickness=(1.0, 8.0), variation="mixed")
BEAM = Beam("e-", energy=(0.5, 5.0))


def main(names: list[str]) -> None:
    """Make the samples of these names, all by default."""
    folder = Path(str(importlib.resources.files("diffhep").joinpath("samples")))
    folder.mkdir(exist_ok=True)
    known = (*RECIPES, SHOWERS)
    if unknown := [name for name in names if name not in known]:
        msg = f"no shipped sample is called {unknown[0]!r}; there are {', '.join(known)}"
        raise ValueError(msg)
    for name in names or known:
        if name == SHOWERS:
            generate_showers(STACK, BEAM, 6000, seed=4, path=folder / f"{name}.npz", overwrite=True)
        else:
            n, seed = RECIPES[name]
            generate(name, n, seed=seed, path=folder / f"{name}.root", overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1:])
