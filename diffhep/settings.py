"""Settings: their base, how values from outside are checked, and which unit each of them has.

This module imports neither jax nor anything that does, so that the command line can print its help at once.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=Settings)


def settings_from(model: type[Model], values: dict[str, Any], *, source: str) -> Model:
    """Validated settings; a ValueError with one line that names the source and the first wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"])[:-1]
        # what is wrong with several fields together says itself what it got
        silent = first["type"] in ("missing", "extra_forbidden")
        silent = silent or (first["type"] == "value_error" and isinstance(first["input"], dict))
        got = "" if silent else f", got {first['input']!r}"
        words = first["msg"].removeprefix("Value error, ")
        msg = f"{source}: {where}: {words}{got}" if where else f"{source}: {words}{got}"
        raise ValueError(msg) from None


def read_toml(file: Path) -> dict[str, Any]:
    """The values of a TOML file; a ValueError with one line that names it if it is none."""
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror})"
        raise ValueError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file}: not valid TOML ({error})"
        raise ValueError(msg) from None


def units_of(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Unit of every field, by its dotted name, as its description's last bracket says."""
    units = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            units |= units_of(kind, f"{prefix}{name}.")
        elif field.description and field.description.endswith("]"):
            units[prefix + name] = field.description.rsplit("[", 1)[1][:-1]
    return units
