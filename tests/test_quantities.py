"""Numbers with units in files: converted exactly, refused where the unit is missing or of another kind."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffhep.cli.options import take_config
from diffhep.design.config import STUDIES
from diffhep.quantities import SYMBOLS, number_in, size_of, without_units
from diffhep.settings import units_of

# (text, unit, number), each worked out by hand
CONVERTED = [
    ("5.6 mm", "mm", 5.6),
    ("0.56 cm", "mm", 5.6),
    ("5.6mm", "mm", 5.6),
    ("-3e2 MeV", "GeV", -0.3),
    (".5 m", "mm", 500.0),
    ("25 kHz", "Hz", 25e3),
    ("2e34 1/(cm^2 s)", "1/(cm^2 s)", 2e34),
    ("2e38 1/(m^2 s)", "1/(cm^2 s)", 2e34),
    ("0.139 1/ab", "1/fb", None),
    ("139000 1/pb", "1/fb", 139.0),
    ("1 ps/mm^(1/2)", "ps/m^(1/2)", 1000**0.5),
    ("100 um^2", "mm^2", 1e-4),
    ("30 cost unit", "cost unit", 30.0),
]


@pytest.mark.parametrize(("text", "unit", "number"), CONVERTED)
def test_a_text_becomes_a_number_in_the_fields_unit(text, unit, number):
    if number is None:
        with pytest.raises(ValueError, match="is not in 1/fb"):
            number_in(text, unit)
    else:
        assert number_in(text, unit) == pytest.approx(number, rel=1e-14)


@given(st.sampled_from(sorted(SYMBOLS)), st.sampled_from(sorted(SYMBOLS)), st.floats(-1e6, 1e6))
def test_there_and_back(one, other, value):
    """Units of one kind convert both ways; of two kinds never."""
    if SYMBOLS[one][0] != SYMBOLS[other][0]:
        with pytest.raises(ValueError, match="is not in"):
            number_in(f"{value!r} {one}", other)
    else:
        there = number_in(f"{value!r} {one}", other)
        assert number_in(f"{there!r} {other}", one) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("value", [5.6, 5, "5.6", "5"])
@pytest.mark.parametrize("unit", ["mm", "1/fb", "1/(cm^2 s)", "ps/m^(1/2)"])
def test_a_missing_unit_is_named(value, unit):
    with pytest.raises(ValueError, match=r"has no unit, wanted '5") as caught:
        number_in(value, unit)
    assert unit in str(caught.value)


@pytest.mark.parametrize("unit", ["", "count", "bit", "X0", "cost unit/mm", "cell length"])
def test_what_has_no_physical_unit_stays_a_plain_number(unit):
    assert size_of(unit) is None
    assert number_in(8, unit) == 8
    with pytest.raises(ValueError, match="is not in"):
        number_in("8 mm", unit)


@pytest.mark.parametrize("value", ["lead", True, None, {"a": 1}])
def test_what_is_no_number_is_left_for_others_to_refuse(value):
    assert number_in(value, "mm") == value


def test_lists_and_sections():
    units = {"tracker.momenta": "GeV", "tracker.layers": "count"}
    values = {"tracker": {"momenta": ["1 GeV", "10000 MeV"], "layers": 4, "name": "x"}}
    found = without_units(values, units, source="a.toml")
    assert found == {"tracker": {"momenta": [1.0, 10.0], "layers": 4, "name": "x"}}
    with pytest.raises(ValueError, match=r"^a\.toml: tracker\.momenta: 3\.0 has no unit, wanted '3\.0 GeV'$"):
        without_units({"tracker": {"momenta": [3.0]}}, units, source="a.toml")


@pytest.mark.parametrize("name", STUDIES)
def test_every_unit_of_every_study_is_known_or_no_physical_one(name):
    """A misspelt unit would pass for one that is not physical."""
    counted = {"", "count", "bit", "X0", "sigma", "LUT", "cost unit", "cell length", "1/cell length"}
    for field, unit in units_of(STUDIES[name]).items():
        assert size_of(unit) or unit in counted or unit.startswith("cost unit/"), field


def test_a_study_file_with_units(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('[calorimeter]\nabsorber = "0.4 cm"\nlayers = 30\n[budget]\ncost = 45\n')
    rest, settings = take_config(["--config", str(file), "--json"], STUDIES["ecal-resolution"])
    assert rest == ["--json"]
    values = settings.model_dump()
    assert values["calorimeter"]["absorber"] == pytest.approx(4.0)
    assert (values["calorimeter"]["layers"], values["budget"]["cost"]) == (30, 45)


def test_the_command_says_in_one_line_what_is_wrong_with_a_study_file(tmp_path):
    (tmp_path / "my.toml").write_text("[calorimeter]\nabsorber = 4.0\n")
    command = [sys.executable, "-m", "diffhep.cli", "audit", "ecal-resolution", "--config", "my.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("my.toml: calorimeter.absorber: 4.0 has no unit, wanted '4.0 mm'")
    assert done.stderr.count("\n") == 1
