"""Make the three samples that come with the package: `python -m diffhep.generate.shipped [NAME ...]`.

It takes about an hour on one core. Without names all three are made anew.
"""

import importlib.resources
import sys
from pathlib import Path
from types import MappingProxyType

from diffhep.generate.pythia import generate

# name -> (events kept, seed)
RECIPES = MappingProxyType({"higgs-diphoton": (16_000, 1), "diphoton": (30_000, 2), "jets": (14_000, 3)})


def main(names: list[str]) -> None:
    """Make the samples of these names, all by default."""
    folder = Path(str(importlib.resources.files("diffhep").joinpath("samples")))
    folder.mkdir(exist_ok=True)
    if unknown := [name for name in names if name not in RECIPES]:
        msg = f"no shipped sample is called {unknown[0]!r}; there are {', '.join(RECIPES)}"
        raise ValueError(msg)
    for name in names or list(RECIPES):
        n, seed = RECIPES[name]
        generate(name, n, seed=seed, path=folder / f"{name}.root", overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1:])
