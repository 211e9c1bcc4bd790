"""Units: conversions and constants against scipy's CODATA."""

import pytest
import scipy.constants

from diffhep import units


@pytest.mark.parametrize(
    ("quantity", "unit", "value"),
    [
        (5.0 * units.MeV, units.GeV, 0.005),
        (7.43 * units.MeV, units.keV, 7430.0),
        (1.5 * units.TeV, units.GeV, 1500.0),
        (2.0 * units.cm, units.mm, 20.0),
        (40.0 * units.um, units.mm, 0.04),
        (1.3 * units.m, units.cm, 130.0),
        (30.0 * units.ps, units.ns, 0.03),
        (1.0 * units.second, units.ns, 1e9),
        (2.5 * units.mrad, units.rad, 0.0025),
        (139.0 * units.invfb, units.invpb, 139000.0),
        (50.0 * units.pb, units.fb, 50000.0),
        (80.0 * units.mb, units.pb, 8e10),
        (3.8 * units.tesla, units.tesla, 3.8),
    ],
)
def test_multiply_on_the_way_in_and_divide_on_the_way_out(quantity, unit, value):
    assert quantity / unit == pytest.approx(value, rel=1e-15)


def test_a_cross_section_times_a_luminosity_is_a_number_of_events():
    assert 50 * units.fb * (2 * units.invfb) == pytest.approx(100.0, rel=1e-15)


def test_the_speed_of_light_is_in_mm_per_ns():
    assert pytest.approx(scipy.constants.c * units.m / units.second, rel=1e-15) == units.SPEED_OF_LIGHT


def test_luminosity_turns_a_cross_section_into_a_rate():
    # 1 pb = 1e-40 m^2 = 1e-36 cm^2; the LHC's inelastic 80 mb at 2e34 are 1.6 GHz
    assert units.luminosity_rate(2e34) * 80 * units.mb == pytest.approx(1.6e9, rel=1e-14)
