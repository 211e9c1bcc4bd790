"""Files of a run folder, checked before anything of them is shown: arrays, a base of models, and reading.

Unknown keys are let pass, so that an older program can show a newer run.
"""

from typing import Annotated, Any, TypeVar

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from diffhep.io import RunFolder


def finite(content: Any) -> np.ndarray:
    """An array of finite numbers; a ValueError for anything else."""
    try:
        array = np.asarray(content, dtype=float)
    except (TypeError, ValueError):
        msg = "a regular list of numbers is wanted"
        raise ValueError(msg) from None
    if not np.all(np.isfinite(array)):
        msg = "finite numbers are wanted"
        raise ValueError(msg)
    return array


def row(content: Any) -> Float[np.ndarray, " item"]:
    """A list of finite numbers, not empty."""
    array = finite(content)
    if array.ndim != 1 or array.size == 0:
        msg = f"a list of numbers is wanted, got the shape {array.shape}"
        raise ValueError(msg)
    return array


def rising(content: Any) -> Float[np.ndarray, " item"]:
    """A list of finite numbers, each larger than the one before."""
    array = row(content)
    if np.any(np.diff(array) <= 0):
        msg = "rising numbers are wanted"
        raise ValueError(msg)
    return array


def matrix(content: Any) -> Float[np.ndarray, "row column"]:
    """A list of equally long lists of finite numbers, not empty."""
    array = finite(content)
    if array.ndim != 2 or array.size == 0:
        msg = f"a list of equally long lists of numbers is wanted, got the shape {array.shape}"
        raise ValueError(msg)
    return array


def same_length(**arrays: Any) -> None:
    """A ValueError that names the lengths unless all are equal."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        msg = "lengths differ: " + ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(msg)


Row = Annotated[np.ndarray, BeforeValidator(row)]
Rising = Annotated[np.ndarray, BeforeValidator(rising)]
Matrix = Annotated[np.ndarray, BeforeValidator(matrix)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Content(BaseModel):
    """Base of all models: immutable, finite numbers, unknown keys let pass."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True)


class Value(Content):
    """A number with its statistical error."""

    value: float
    stderr: NotNegative


Model = TypeVar("Model", bound=Content)


def read(run: RunFolder, name: str, model: type[Model]) -> Model:
    """A checked file of a run folder.

    Args:
        run: the run folder.
        name: of the file in it.
        model: what it must hold.

    Raises:
        ValueError: the file is missing or broken; one line with the file, the key, what was got and what was wanted.

    >>> read(RunFolder.open("runs/demo"), RESULT, Result).study  # doctest: +SKIP
    'higgs-diphoton'
    """
    file = run.path / name
    content = run.read_json(name)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = "" if first["type"] == "missing" else f", got {shortened(first['input'])}"
        words = " ".join(first["msg"].removeprefix("Value error, ").split())
        msg = f"{file}: {where}: {words}{got}" if where else f"{file}: {words}{got}"
        raise ValueError(msg) from None


def shortened(content: Any) -> str:
    """The beginning of a thing's text, in one line."""
    text = " ".join(repr(content).split())
    return text if len(text) <= 60 else text[:57] + "..."
