"""Cosmic muons: their angles, momenta and aim."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.generate.cosmic import STEEPEST, Spectrum, cosmic_muons

AREA = ((-400.0, 1400.0), (-400.0, 1400.0))
BOX = ((0.0, 1000.0), (0.0, 1000.0), (400.0, 1400.0))


def test_angles_fall_with_the_cosine():
    n = 200_000
    muons = cosmic_muons(n, seed=1, height=0.0, area=AREA)
    cosine = 1 / np.sqrt(1 + np.asarray(muons["slope_x"]) ** 2 + np.asarray(muons["slope_y"]) ** 2)
    # cos^3 sin from 0 to 70 degrees: <cos> = 4/5 (1 - c^5)/(1 - c^4)
    c = np.cos(STEEPEST)
    assert cosine.mean() == pytest.approx(0.8 * (1 - c**5) / (1 - c**4), abs=4 * cosine.std() / np.sqrt(n))
    assert cosine.min() > c - 1e-12
    # no direction is preferred
    assert abs(np.mean(muons["slope_x"])) < 4 * np.std(muons["slope_x"]) / np.sqrt(n)
    assert_allclose(np.asarray(muons["momentum"]), 5.0)


def test_spectrum():
    spectrum = Spectrum()
    muons = cosmic_muons(100_000, seed=2, height=0.0, area=AREA, momentum=spectrum)
    p = np.asarray(muons["momentum"])
    for q in (0.1, 0.5, 0.9):
        assert np.mean(p < spectrum.quantile(np.array(q))) == pytest.approx(q, abs=0.01)
    assert p.min() >= 0.5
    assert p.max() <= 500


def test_aimed_muons_hit_the_box():
    muons = {k: np.asarray(v) for k, v in cosmic_muons(5000, seed=3, height=1800.0, area=AREA, box=BOX).fields.items()}
    z = np.linspace(400, 1400, 201)[:, None]
    x, y = (muons[c] + muons[f"slope_{c}"] * (z - 1800.0) for c in "xy")
    inside = (x > 0) & (x < 1000) & (y > 0) & (y < 1000)
    # those that only cut an edge of the box between two of the heights looked at
    assert np.mean(inside.any(axis=0)) > 0.995
    assert np.unique(muons["x"]).size == 5000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "at least one muon is wanted, got 0"),
        ({"steepest": 2.0}, "an angle between 0 and pi/2 is wanted, got 2.0 rad"),
        ({"area": ((1.0, 0.0), (0.0, 1.0))}, r"x: limits must increase, got \(1.0, 0.0\) mm"),
        ({"momentum": -5.0}, "momentum must be positive, got -5.0 GeV"),
        ({"count": 10, "box": ((9e7, 1e8), (0.0, 1.0), (0.0, 1.0))}, "only 0 reach"),
    ],
)
def test_bad_input_is_one_line(change, words):
    wanted = {"count": 5, "seed": 1, "height": 2000.0, "area": AREA} | change
    with pytest.raises(ValueError, match=words):
        cosmic_muons(**wanted)


def test_a_spectrum_upside_down_is_refused():
    with pytest.raises(ValueError, match="wanted 0 < low < high"):
        Spectrum(low=5.0, high=1.0)
