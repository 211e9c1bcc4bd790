"""The calorimeter designed with a surrogate in the loop: gradients, judging by Geant4, bad input."""

from typing import Any

import numpy as np
import pytest

from diffhep.design.config import STUDIES
from diffhep.design.studies import open_study

SMALL = {"groups": 2, "showers": 60, "energies": (1.0, 2.0)}


def study_of(**calorimeter) -> Any:
    values = STUDIES["ecal-layers"]().model_dump()
    values["calorimeter"] |= SMALL | calorimeter
    return open_study("ecal-layers", STUDIES["ecal-layers"].model_validate(values))


@pytest.fixture(scope="module")
def study():
    return study_of()


def test_every_gradient_equals_finite_differences(study):
    rows = study.audit(study.layout())
    assert len(rows) == 4
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_relaxed_and_hard_are_the_same_showers_without_geant4(study):
    design = study.layout()
    soft, hard = study.judge(design, relaxed=True), study.judge(design, relaxed=False)
    assert soft["objective"].value == hard["objective"].value
    assert 0 < soft["objective"].stderr < 0.2 * soft["objective"].value
    # 30 layers of 4 and 4 mm: their depth is exact
    assert hard["depth"].value == pytest.approx(240.0)
    assert hard["depth"].stderr == 0.0


@pytest.mark.needs("geant4_pybind")
def test_geant4_judges_the_design_as_the_surrogate_does():
    full = study_of(geant4=150, showers=600)
    design = full.layout()
    soft, hard = full.judge(design, relaxed=True)["objective"], full.judge(design, relaxed=False)["objective"]
    # each has its statistical error; the surrogate's resolution is good to 5 %
    error = np.hypot(np.hypot(soft.stderr, hard.stderr), 0.05 * hard.value)
    assert abs(soft.value - hard.value) < 4 * error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 7}, "does not divide the 30 layers"),
        ({"energies": (1.0, 50.0)}, "the surrogate knows 0.5"),
        ({"surrogate": "nowhere"}, "holds no surrogate"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        study_of(**changes)
