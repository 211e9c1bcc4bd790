"""A traced function and what was made of it, on the same inputs: JAX on one side, simulated firmware on the other."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffhep.trigger.fixed_point import FixedPoint, encode, require_x64
from diffhep.trigger.lowering import Traced, Words, formats_of
from diffhep.trigger.proof import BATCH, Tally, check_number, random_inputs, timed

Run = Callable[[Float[np.ndarray, "event in"], Int[np.ndarray, "event in"]], Float[np.ndarray, "event out"]]
"""From the values and the codes of all input words to the values of all output words."""


class Comparison:
    """A function of one event, and the inputs on which its firmware is compared with it.

    Args:
        function: what was exported.
        words: shapes and formats of its arguments.
        n: number of random inputs.
        seed: of the random inputs.
        inputs: events to be compared in addition: one array (event, *shape) for each argument, in its unit.
        progress: called with one line of text before each step.

    Attributes:
        seconds: collects the time of each step.

    Raises:
        ValueError: there is nothing to compare, `inputs` do not fit, or JAX is not in 64-bit mode.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        words: Sequence[Words],
        *,
        n: int,
        seed: int,
        inputs: Sequence[np.ndarray] | None,
        progress: Callable[[str], None] | None,
    ):
        require_x64("verify")
        check_number(n, inputs is not None)
        self.function, self.words, self.n, self.seed = function, tuple(words), n, seed
        self.extra = np.zeros((0, len(self.formats))) if inputs is None else flat_inputs(inputs, words)
        self.say = progress or (lambda line: None)
        self.seconds: dict[str, float] = {}

    @property
    def formats(self) -> list[FixedPoint]:
        """The format of each input word."""
        return formats_of(self.words)

    def run(self, **simulations: Run) -> dict[str, Any]:
        """Count the output words on which JAX and the simulations do not agree.

        Returns:
            `inputs` (events compared), `outputs` (words compared), `mismatches` (words on which not all ways agree),
            `max_difference` (largest difference of two ways), `comparisons` (words that differ, for each two ways) and
            `seconds` (of each step so far).
        """
        expected, rng, tally = compiled(self.function, self.words), np.random.default_rng(self.seed), Tally()
        total = self.n + len(self.extra)
        for start in range(0, total, BATCH):
            size = min(BATCH, total - start)
            drawn = min(max(self.n - start, 0), size)
            given = self.extra[max(start - self.n, 0) : max(start + size - self.n, 0)]
            random = random_inputs(rng, drawn, self.formats) if drawn else given[:0]
            values = np.concatenate([random, given])
            self.say(f"comparing inputs {start + 1} to {start + size} of {total}")
            codes = encode_words(values, self.formats)
            with timed(self.seconds, "function"):
                ways = {"jax": expected(codes)}
            for name, simulation in simulations.items():
                with timed(self.seconds, f"run {name}"):
                    ways[name] = simulation(values, codes)
            tally.add(**ways)
        return {
            "inputs": total,
            "outputs": tally.outputs,
            "mismatches": tally.mismatches,
            "max_difference": tally.largest,
            "comparisons": tally.comparisons,
            "seconds": {step: round(value, 3) for step, value in self.seconds.items()},
        }


def flat_inputs(inputs: Sequence[np.ndarray], words: Sequence[Words]) -> Float[np.ndarray, "event word"]:
    """One row an event; a ValueError unless the arrays fit the arguments and are finite."""
    if isinstance(inputs, np.ndarray):
        msg = "verify: inputs: a list of arrays wanted, one for each argument, got one array"
        raise ValueError(msg)
    arrays = [np.asarray(array, np.float64) for array in inputs]
    wanted = [("events", *w.shape) for w in words]
    shapes = [array.shape for array in arrays]
    fit = len(arrays) == len(words) and all(a.shape[1:] == w.shape for a, w in zip(arrays, words, strict=True))
    if not fit or len({len(array) for array in arrays}) != 1 or len(arrays[0]) == 0:
        msg = f"verify: inputs: arrays of shapes {wanted} wanted, got {shapes}"
        raise ValueError(msg)
    rows = np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
    if not np.isfinite(rows).all():
        event, word = np.argwhere(~np.isfinite(rows))[0].tolist()
        msg = f"verify: inputs: word {word} of event {event} is not finite"
        raise ValueError(msg)
    return rows


def encode_words(
    values: Float[np.ndarray, "event word"], formats: Sequence[FixedPoint]
) -> Int[np.ndarray, "event word"]:
    """The codes of values, each word in its own format."""
    codes = np.zeros(values.shape, np.int64)
    for format in set(formats):
        columns = [n for n, other in enumerate(formats) if other == format]
        codes[:, columns] = encode(values[:, columns], format)
    return codes


def decode_words(
    codes: Int[np.ndarray, "event word"], formats: Sequence[FixedPoint]
) -> Float[np.ndarray, "event word"]:
    """The values of codes, each word in its own format."""
    return np.ldexp(codes.astype(np.float64), [-format.f for format in formats])


def compiled(
    function: Callable[..., Any], words: Sequence[Words]
) -> Callable[[Int[np.ndarray, "event in"]], Float[np.ndarray, "event out"]]:
    """The compiled function, from the codes of all input words to all outputs, one row an event."""
    formats = formats_of(words)
    ends = np.cumsum([int(np.prod(w.shape)) for w in words])[:-1]
    batched = jax.jit(jax.vmap(lambda *x: jax.tree.map(jnp.asarray, function(*x))))

    def evaluate(codes: Int[np.ndarray, "event in"]) -> Float[np.ndarray, "event out"]:
        parts = np.split(decode_words(codes, formats), ends, axis=1)
        leaves = jax.tree.leaves(batched(*(p.reshape(-1, *w.shape) for p, w in zip(parts, words, strict=True))))
        return np.concatenate([np.asarray(leaf, np.float64).reshape(len(codes), -1) for leaf in leaves], axis=1)

    return evaluate


def with_constants(traced: Traced, found: Float[np.ndarray, "event wire"]) -> Float[np.ndarray, "event out"]:
    """All output words, from those that logic computes: the others are constant."""
    values = np.tile(traced.constants, (len(found), 1))
    values[:, np.isnan(traced.constants)] = found
    return values
