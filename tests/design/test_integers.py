"""The integers tried around a relaxed optimum."""

import numpy as np
import pytest

from diffhep.design.starts import nearby_integers
from diffhep.parameters import Param


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(24.3, [23, 24, 25, 26]), (24.0, [23, 24, 25]), (4.2, [5, 6]), (4.0 + 1e-9, [5, 6]), (11.6, [10, 11])],
)
def test_two_integers_on_each_side_strictly_inside_the_bounds(value, wanted):
    param = Param(value, unit="", role="geometry", bounds=(4.0, 12.0 if value < 20 else 160.0))
    assert nearby_integers(param) == wanted


def test_without_bounds_nothing_is_left_out():
    assert nearby_integers(Param(-0.5, unit="", role="geometry")) == [-2, -1, 0, 1]


@pytest.mark.parametrize("n", [5.0, 30.0])
def test_each_can_be_made(n):
    param = Param(n, unit="", role="geometry", bounds=(4.0, 160.0))
    made = [float(param.at(v).unwrap()) for v in nearby_integers(param)]
    np.testing.assert_allclose(made, nearby_integers(param), rtol=1e-12)
