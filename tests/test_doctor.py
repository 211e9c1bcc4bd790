"""`diffhep doctor`: what is there, what is missing, and how to get it."""

import importlib.util
import json

import pytest

from diffhep import cli
from diffhep.cli import doctor
from tests.conftest import MODULES, PROGRAMS


def parts(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    return {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}


def test_every_optional_part_of_the_tests_is_known(capsys):
    known = parts(capsys)
    assert set(known) >= {*MODULES, *PROGRAMS}
    for part in known.values():
        assert part["purpose"]
        assert part["install"]
        assert part["present"] == (part["found"] is not None)


def test_what_is_installed_is_found(capsys):
    for name in MODULES:
        installed = importlib.util.find_spec(name) is not None
        assert parts(capsys)[name]["present"] or not installed


def test_what_is_missing_is_named_with_its_package(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert not any(part["present"] for part in parts(capsys).values())
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(doctor.PARTS)
    assert all("MISSING: " in line for line in lines)
    assert any(line.startswith("da4ml") and "diffhep[fpga]" in line for line in lines)


def test_a_wrong_word_is_refused(capsys):
    assert cli.main(["doctor", "--cure"]) == 2
    assert "--cure" in capsys.readouterr().err


@pytest.mark.parametrize("part", doctor.PARTS, ids=lambda part: part.name)
def test_parts_say_how_to_get_them(part):
    assert ("pip install" in part.install) or ("package" in part.install)
