"""Random functions of one event, to be exported: a seed and a number of steps give one, and its input format."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffhep.trigger import FixedPoint, Words, quantise_kif
from diffhep.trigger.modes import OVERFLOWS, ROUNDINGS

SIZE = 4  # of every array of a program


def on_grid(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Constants of a few bits."""
    return rng.integers(-15, 16, shape) * 2.0 ** -int(rng.integers(0, 5))


def quantiser(rng: np.random.Generator) -> Callable:
    """A random format, of the tensor or of each element, in random modes."""
    shape = () if rng.random() < 0.5 else (SIZE,)
    k = rng.integers(0, 2, shape)
    i, width = rng.integers(-2, 5, shape), rng.integers(1, 10, shape)
    modes = ROUNDINGS[rng.integers(7)], OVERFLOWS[rng.integers(4)]
    return lambda x: quantise_kif(x, k, i, width - k - i, *modes)


class Draw:
    """The random constants of one step."""

    def __init__(self, rng: np.random.Generator):
        self.exponent, self.shift = int(rng.integers(-3, 4)), int(rng.integers(1, SIZE))
        self.scalar, self.vector = float(on_grid(rng)), on_grid(rng, SIZE)
        self.matrix, self.order = on_grid(rng, SIZE, SIZE), rng.permutation(SIZE)


def spread(scalar: jax.Array) -> jax.Array:
    return jnp.broadcast_to(scalar, (SIZE,))


# a step of one operand: exact, at most a bit or two wider than what it is given
KEEPS: dict[str, Callable[[jax.Array, Draw], jax.Array]] = {
    "neg": lambda x, c: -x,
    "abs": lambda x, c: jnp.abs(x),
    "relu": lambda x, c: jax.nn.relu(x),
    "floor": lambda x, c: jnp.floor(x),
    "ceil": lambda x, c: jnp.ceil(x),
    "round": lambda x, c: jnp.round(x),
    "trunc": lambda x, c: x.astype(jnp.int32).astype(x.dtype),
    "sign": lambda x, c: jnp.sign(x),
    "scale": lambda x, c: x * 2.0**c.exponent,
    "halve": lambda x, c: x / 2.0 ** abs(c.exponent),
    "offset": lambda x, c: x + c.vector,
    "reflect": lambda x, c: c.scalar - x,
    "clip": lambda x, c: jnp.clip(x, -abs(c.scalar) - 1, abs(c.scalar)),
    "roll": lambda x, c: jnp.roll(x, c.shift),
    "flip": lambda x, c: jnp.flip(x),
    "permute": lambda x, c: x[c.order],
    "transpose": lambda x, c: x.reshape(2, 2).T.ravel(),
    "pad": lambda x, c: jnp.pad(x, 1, constant_values=0.5)[1 : SIZE + 1],
    "set": lambda x, c: x.at[1].set(c.scalar),
    "splits": lambda x, c: jnp.concatenate(jnp.split(x, 2)[::-1]),
    "maximum": lambda x, c: spread(jnp.max(x)),
    "minimum": lambda x, c: x - jnp.min(x),
    "argmax": lambda x, c: spread(jnp.argmax(x).astype(x.dtype)),
    "argmin": lambda x, c: jax.nn.one_hot(jnp.argmin(x), SIZE, dtype=x.dtype),
    "sort": lambda x, c: jnp.sort(x),
    "argsort": lambda x, c: jnp.argsort(x).astype(x.dtype),
    "top": lambda x, c: jnp.concatenate([jax.lax.top_k(x, 2)[0], x[:2]]),
    "running": lambda x, c: jax.lax.cummax(x),
    "cumulative": lambda x, c: jnp.cumsum(x),
    "total": lambda x, c: spread(jnp.sum(x)),
    "pool": lambda x, c: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3,), (1,), "SAME"),
    "branch": lambda x, c: jax.lax.cond(x[0] > x[1], lambda v: v + 1.0, lambda v: -v, x),
    "loop": lambda x, c: jax.lax.fori_loop(0, 3, lambda n, v: jnp.roll(v, 1) + n * 0.5, x),
    "bits": lambda x, c: ((x > 0) & (jnp.roll(x, 1) <= 0.5) | ~(x != 1)).astype(x.dtype),
    "integers": lambda x, c: ((x.astype(jnp.int32) << 2) >> 1).astype(x.dtype),
}
# a step whose result has to be quantised
GROWS: dict[str, Callable[[jax.Array, Draw], jax.Array]] = {
    "square": lambda x, c: x**2,
    "matrix": lambda x, c: x @ c.matrix,
    "matrices": lambda x, c: (x.reshape(2, 2) @ c.matrix[:2, :3] @ c.matrix[:3, 2:]).ravel(),
    "convolve": lambda x, c: jnp.convolve(x, c.vector[:3], mode="same"),
    "mean": lambda x, c: x - jnp.mean(x),
    "product": lambda x, c: x * jnp.roll(x, 1),
}
# a step of one narrow operand, looked up
TABLES: dict[str, Callable[[jax.Array, Draw], jax.Array]] = {
    "tanh": lambda x, c: jnp.tanh(x),
    "exp": lambda x, c: jnp.exp(-jnp.abs(x)),
    "sigmoid": lambda x, c: jax.nn.sigmoid(x),
    "root": lambda x, c: jnp.sqrt(jnp.abs(x)),
    "leaky": lambda x, c: jax.nn.leaky_relu(x),
    "silu": lambda x, c: jax.nn.silu(x),
    "third": lambda x, c: x / 3.0,
    "sine": lambda x, c: 0.3 * jnp.sin(x) + 0.1,
}
PAIRS: dict[str, Callable] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "choose": lambda a, b: jnp.where(a > b, a, -b),
    "equal": lambda a, b: jnp.where(a == jnp.roll(b, 1), a, b),
    "between": lambda a, b: jnp.where((a >= b) ^ (a < 0.5), a, b),
    "join": lambda a, b: jnp.concatenate([a[:2], b[2:]]),
    "stack": lambda a, b: jnp.stack([a, b])[1],
}


def program(seed: int, steps: int) -> tuple[Callable[[jax.Array], jax.Array], Words]:
    """A function of one array of SIZE words, and their format."""
    rng = np.random.default_rng(seed)
    k, width = int(rng.integers(0, 2)), int(rng.integers(3, 9))
    i = int(rng.integers(-1, 4))
    words = Words((SIZE,), FixedPoint(k, i, width - k - i))
    recipe: list[tuple[str, Callable, int, int]] = []
    exact = [0]  # steps since each value was quantised
    for _ in range(steps):
        a, b = (int(n) for n in rng.integers(0, len(exact), 2))
        kind = ("keeps", "grows", "tables", "pairs")[rng.choice(4, p=(0.45, 0.15, 0.1, 0.3))]
        if kind == "pairs":
            step, grown = PAIRS[rng.choice(list(PAIRS))], max(exact[a], exact[b]) + 1
        else:
            table = {"keeps": KEEPS, "grows": GROWS, "tables": TABLES}[kind]
            step = partial(lambda rule, c, x: rule(x, c), table[rng.choice(list(table))], Draw(rng))
            grown = exact[a] + (1 if kind == "keeps" else 9)
        then = quantiser(rng) if grown > 3 or rng.random() < 0.2 else lambda x: x
        before = quantiser(rng) if kind == "tables" else lambda x: x
        recipe.append((kind, partial(composed, before, step, then), a, b))
        exact.append(grown if grown <= 3 else 0)

    def function(x: jax.Array) -> jax.Array:
        values = [x]
        for kind, step, a, b in recipe:
            values.append(step(values[a], values[b]) if kind == "pairs" else step(values[a]))
        return jnp.stack(values)

    return function, words


def composed(before: Callable, step: Callable, then: Callable, *values: jax.Array) -> jax.Array:
    return then(step(*map(before, values)))
