"""What a classifier may be made of: shapes, formats and files, refused with the name of what is wrong."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from diffhep.trigger.fixed_point import MAX_POINT, FixedPoint

MAX_BITS = 32  # of a weight, a bias or an activation


def check_layers(weights: Sequence[Array], biases: Sequence[Array]) -> None:
    """A ValueError that names the first layer whose shape or values are wrong."""
    if not weights or len(weights) != len(biases):
        msg = f"classifier: as many weight as bias arrays wanted, at least one, got {len(weights)} and {len(biases)}"
        raise ValueError(msg)
    previous = None
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        shapes = (jnp.shape(weight), jnp.shape(bias))
        width = shapes[0][1] if previous is None and len(shapes[0]) == 2 else previous
        if len(shapes[0]) != 2 or shapes[0][1] != width or shapes[1] != shapes[0][:1] or 0 in shapes[0]:
            wanted = f"(out, {'in' if previous is None else previous}) and (out,)"
            msg = f"layer {number}: weights and biases of shapes {shapes[0]} and {shapes[1]}, wanted {wanted}"
            raise ValueError(msg)
        for name, array in (("weights", weight), ("biases", bias)):
            concrete = isinstance(array, jax.Array | np.ndarray) and not isinstance(array, Tracer)
            if concrete and not np.isfinite(np.asarray(array)).all():
                msg = f"layer {number}: {name} are not finite"
                raise ValueError(msg)
        previous = shapes[0][0]


def check_exponents(exponents: Sequence[int], *, inputs: int) -> None:
    """A ValueError unless there is one moderate integer a feature."""
    whole = all(isinstance(e, int) and not isinstance(e, bool) and abs(e) <= 64 for e in exponents)
    if len(exponents) != inputs or not whole:
        msg = f"classifier: {inputs} integer exponents from -64 to 64 wanted, one a feature, got {tuple(exponents)}"
        raise ValueError(msg)


def check_format(format: FixedPoint, what: str) -> None:
    """A ValueError unless the format can be exported."""
    if format.width > MAX_BITS or max(abs(format.i), abs(format.f)) > MAX_POINT:
        msg = f"{what} {format} too wide: at most {MAX_BITS} bits, |i| and |f| at most {MAX_POINT}"
        raise ValueError(msg)


def check_inputs(inputs: Float[Array, "event in"] | np.ndarray, features: int, what: str) -> np.ndarray:
    """The sample as float64; a ValueError unless it is a finite (event, feature) array with at least one event."""
    sample = np.asarray(inputs, np.float64)
    if sample.ndim != 2 or sample.shape[1] != features or sample.shape[0] == 0:
        msg = f"{what}: an array of shape (events, {features}) wanted, got {sample.shape}"
        raise ValueError(msg)
    if not np.isfinite(sample).all():
        event, feature = np.argwhere(~np.isfinite(sample))[0].tolist()
        msg = f"{what}: feature {feature} of event {event} is not finite"
        raise ValueError(msg)
    return sample


def check_keys(data: Any, wanted: Sequence[str], what: str) -> None:
    """A ValueError unless data is a dictionary of exactly these keys."""
    if not isinstance(data, dict):
        msg = f"{what}: a dictionary wanted, got {type(data).__name__}"
        raise ValueError(msg)
    missing, unknown = [k for k in wanted if k not in data], [str(k) for k in data if k not in wanted]
    if missing or unknown:
        msg = f"{what}: missing keys {missing}, unknown keys {unknown}"
        raise ValueError(msg)


def read_codes(codes: Any, format: FixedPoint, dimensions: int, what: str) -> np.ndarray:
    """Nested lists of integer codes as an int64 array; a ValueError that names what is wrong with them."""
    rows = codes if dimensions == 2 else [codes]
    rectangle = isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)
    if not rectangle or len({len(row) for row in rows}) != 1:
        msg = f"{what}: {'a list of rows of equal length' if dimensions == 2 else 'a list'} wanted, not empty"
        raise ValueError(msg)
    low, high = format.codes
    for code in (code for row in rows for code in row):
        if not isinstance(code, int) or isinstance(code, bool) or not low <= code <= high:
            msg = f"{what}: integers from {low} to {high} wanted for {format}, got {code!r}"
            raise ValueError(msg)
    return np.array(codes, np.int64)
