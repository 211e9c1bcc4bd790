"""Pareto fronts against brute force, and the front of the calorimeter against a dense grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffhep.design.front import hypervolume

numbers = arrays(float, 12, elements=st.floats(0, 10, allow_subnormal=False))


@given(numbers, numbers)
def test_area_is_that_of_a_fine_mosaic(used, objective):
    area = hypervolume(used, objective, (10.0, 0.0))
    x = (np.arange(400) + 0.5) / 40
    best = np.max(np.where(used[:, None] <= x, objective[:, None], 0.0), axis=0)
    # at most one column of 1/40 is cut by each of the points
    assert area == pytest.approx(np.sum(best) / 40, abs=12 * 10 / 40)


@given(numbers, numbers, st.floats(0, 1), st.floats(0, 1))
def test_a_dominated_point_adds_nothing(used, objective, dearer, worse):
    more = np.append(used, used[0] + dearer), np.append(objective, objective[0] - worse)
    assert hypervolume(*more, (10.0, 0.0)) == pytest.approx(hypervolume(used, objective, (10.0, 0.0)), rel=1e-12)


def test_points_beyond_the_reference_do_not_count():
    used, objective = np.array([1.0, 5.0]), np.array([2.0, -1.0])
    assert hypervolume(used, objective, (4.0, 0.0)) == 6.0
    assert hypervolume(used, objective, (0.5, 0.0)) == 0.0
