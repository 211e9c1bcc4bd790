"""What the settings of all studies share: the search for an optimum."""

from typing import Literal

from pydantic import Field

from diffhep.settings import Settings


class SearchSettings(Settings):
    """How the optimum is looked for."""

    starts: int = Field(default=4, ge=1, le=64, description="designs optimised at once [count]")
    method: Literal["adam", "lbfgs"] = Field(
        default="adam", description="of the ascent; lbfgs wants a smooth objective"
    )
    steps: int = Field(default=80, ge=10, description="steps of gradient ascent [count]")
    pareto: int = Field(
        default=8, ge=0, le=64, description="points of the front of the objective against a budget [count]"
    )
    grid: int = Field(default=7, ge=0, le=41, description="points a side of the scan around the optimum [count]")
    seed: int = Field(default=1, ge=0, description="of every random number []")
