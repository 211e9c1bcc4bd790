"""Settings of the shipped studies: defaults, units, and one line for every wrong value."""

import tomllib
from pathlib import Path

import annotated_types
import pytest
from pydantic import BaseModel, ValidationError

from diffhep.design.config import STUDIES, HiggsDiphotonSettings
from diffhep.design.studies import HOMES
from diffhep.settings import settings_from, units_of


def fields(model: type[BaseModel], prefix: str = ""):
    """Dotted name -> field, of a model and those inside it."""
    out = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            out |= fields(kind, f"{prefix}{name}.")
        else:
            out[prefix + name] = field
    return out


FIELDS = fields(HiggsDiphotonSettings)
PATHS = {"samples.signal", "samples.background", "samples.jets", "simulation.surrogate"}
CHOICES = {"search.method", "response"}
NUMBERS = sorted(FIELDS.keys() - PATHS - CHOICES)
UNITS = {"", "GeV", "mm", "pb", "1/fb", "1/GeV", "1/(cm^2 s)", "Hz", "bit", "count", "cost unit", "cost unit/layer"}
UNITS |= {"cost unit/mm", "LUT"}


def nested(name, value):
    section, _, field = name.partition(".")
    return {section: {field: value}}


def value_of(settings, name):
    section, _, field = name.partition(".")
    return getattr(getattr(settings, section), field)


def refused(values, source="my.toml"):
    """The message, which must be one line."""
    with pytest.raises(ValueError, match=rf"^{source}: ") as caught:
        settings_from(HiggsDiphotonSettings, values, source=source)
    message = str(caught.value)
    assert "\n" not in message
    return message


# defaults -------------------------------------------------------------------------------------------------------------


def test_defaults_are_valid_themselves():
    """pydantic does not check defaults; a round trip does."""
    defaults = HiggsDiphotonSettings()
    assert HiggsDiphotonSettings.model_validate(defaults.model_dump()) == defaults
    assert settings_from(HiggsDiphotonSettings, {}, source="nothing") == defaults


def test_every_study_on_the_command_line_has_settings():
    assert set(STUDIES) == set(HOMES)
    assert STUDIES["higgs-diphoton"] is HiggsDiphotonSettings


def test_settings_cannot_be_changed():
    settings = HiggsDiphotonSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.budget.cost = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        settings.budget = settings.budget


def test_a_part_of_the_settings_leaves_the_rest_at_its_defaults():
    text = "[budget]\ncost = 45\n[samples]\nsignal = 'mine.root'\n"
    settings = settings_from(HiggsDiphotonSettings, tomllib.loads(text), source="my.toml")
    assert isinstance(settings, HiggsDiphotonSettings)
    assert settings.budget.cost == 45.0
    assert settings.samples.signal == Path("mine.root")
    assert settings.budget.model_copy(update={"cost": 60.0}) == HiggsDiphotonSettings().budget
    assert settings.search == HiggsDiphotonSettings().search


# units ----------------------------------------------------------------------------------------------------------------


def test_every_number_has_a_unit_and_no_path_has():
    units = units_of(HiggsDiphotonSettings)
    assert set(units) == set(NUMBERS)
    assert set(units.values()) <= UNITS


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("calorimeter.absorber", "mm"),
        ("calorimeter.constant_term", ""),
        ("budget.rate", "Hz"),
        ("budget.cost_per_layer", "cost unit/layer"),
        ("trigger.leading", "GeV"),
        ("trigger.instantaneous_luminosity", "1/(cm^2 s)"),
        ("analysis.luminosity", "1/fb"),
        ("search.starts", "count"),
    ],
)
def test_units_are_those_in_the_last_bracket(name, unit):
    assert units_of(HiggsDiphotonSettings)[name] == unit


def test_every_field_says_what_it_is():
    assert all(field.description for field in FIELDS.values())


# what is refused ------------------------------------------------------------------------------------------------------


def just_outside():
    """(field, value) beyond each bound: on an open one, one past a closed one."""
    for name in NUMBERS:
        for bound in FIELDS[name].metadata:
            for kind, attribute, beyond in (
                (annotated_types.Gt, "gt", 0),
                (annotated_types.Ge, "ge", -1),
                (annotated_types.Lt, "lt", 0),
                (annotated_types.Le, "le", 1),
            ):
                if isinstance(bound, kind):
                    yield name, getattr(bound, attribute) + beyond


@pytest.mark.parametrize(("name", "value"), list(just_outside()))
def test_a_value_out_of_range_is_refused_naming_source_field_and_value(name, value):
    message = refused(nested(name, value))
    assert message.startswith(f"my.toml: {name}: ")
    assert message.endswith(f", got {value!r}")
    settings_from(HiggsDiphotonSettings, nested(name, value_of(HiggsDiphotonSettings(), name)), source="my.toml")


def test_every_number_has_a_lower_bound():
    """A negative thickness, count or rate has no meaning."""
    for name in NUMBERS:
        assert refused(nested(name, -1)).endswith(", got -1")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["many", [1.0], {"a": 1}, float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(name, value):
    message = refused(nested(name, value))
    assert message.startswith(f"my.toml: {name}: ")
    assert message.endswith(f", got {value!r}")


@pytest.mark.parametrize("name", ["search.starts", "trigger.weight_bits", "analysis.bins"])
def test_a_count_is_an_integer(name):
    assert refused(nested(name, 8.5)).startswith(f"my.toml: {name}: ")


def test_readouts_come_in_fours():
    assert "multiple of 4" in refused(nested("calorimeter.readouts", 10))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budgets": {"cost": 1}}, "my.toml: budgets: Extra inputs are not permitted"),
        ({"budget": {"costs": 1}}, "my.toml: budget.costs: Extra inputs are not permitted"),
        ({"budget": 3}, "my.toml: budget: "),
        ({"samples": {"signal": 3}}, "my.toml: samples.signal: "),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(values, message):
    assert refused(values).startswith(message)


def test_the_first_of_several_faults_is_named():
    message = refused({"budget": {"cost": -1.0, "depth": -2.0}}, source="command line")
    assert message == "command line: budget.cost: Input should be greater than 0, got -1.0"


def test_the_message_stays_one_line_for_a_value_of_several():
    assert refused({"budget": {"cost": "a\nb"}}).endswith(r"got 'a\nb'")
