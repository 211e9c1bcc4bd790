"""The shipped studies, by name."""

from typing import Any

from diffhep.design.config import STUDIES as STUDIES
from diffhep.design.study import AbstractStudy


def open_study(name: str, settings: Any) -> AbstractStudy:
    """The study of that name with its data read.

    Raises:
        ValueError: a sample is missing or broken, or a constant makes no sense.
    """
    if name != "higgs-diphoton":
        msg = f"no study is called {name!r}; there are {', '.join(STUDIES)}"
        raise ValueError(msg)
    from diffhep.design.studies.higgs_diphoton import HiggsDiphoton

    return HiggsDiphoton(settings)
