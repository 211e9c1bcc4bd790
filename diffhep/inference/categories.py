r"""Bins of a score, chosen for the significance that is left after the nuisance parameters have been profiled.

The cuts are ordered by construction: they are cumulative sums of widths $w = \mathrm{softmax}(r)$ in the *rank* of the
score, the mean of its cumulative distributions in signal and background. There the events are uniform, one bandwidth
serves everywhere, and the result depends on the order of the events only, not on the scale of the score.

Events are first put into a thousand cells of equal rank, so that a step of the ascent costs the same for a thousand
events as for ten million; the cells then move through the edges by the kernels of `diffhep.histogram.counts`, whose
bandwidth is annealed. All starts climb side by side (Adam, arXiv:1412.6980) in one compiled program. What is reported
is evaluated on the hard histogram of the events.

The cuts follow fluctuations of the events they were found with: quote significances on other events. Two things act
against it: the variance of the simulated background is handed to the objective, and a category never counts with less
background than one event.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from diffhep.histogram import REACH, annealed_bandwidth, counts, flux_counts
from diffhep.inference.asymptotics import asimov_significance
from diffhep.inference.likelihood import require_finite, require_float64

CELLS = 1000
RATE = 0.1

Objective = Callable[[Array, Array, Array], Array]


class Categories(eqx.Module):
    """Result of `optimise_categories`: one row per start, unless said otherwise.

    Attributes:
        cuts: cuts on the score, increasing, in its unit; the first and the last category are open.
        significance: the objective on the hard histogram of the events.
        relaxed: the objective at the last step of the ascent, on the histogram with kernels.
        best: row with the highest `significance`.
        agreement: share of the rows whose `relaxed` is within one per mille of the highest.
    """

    cuts: Float[Array, "start cut"]
    significance: Float[Array, " start"]
    relaxed: Float[Array, " start"]
    best: Int[Array, ""]
    agreement: Float[Array, ""]


def optimise_categories(
    signal_score: Float[ArrayLike, " signal"],
    signal_weight: Float[ArrayLike, " signal"],
    background_score: Float[ArrayLike, " background"],
    background_weight: Float[ArrayLike, " background"],
    *,
    bins: int,
    systematics: Float[ArrayLike, ""] = 0.0,
    objective: Objective | None = None,
    starts: int = 20,
    steps: int = 300,
    bandwidth: tuple[float, float] = (0.05, 0.005),
    key: PRNGKeyArray,
) -> Categories:
    """Cuts on a score that maximise the expected discovery significance, from many random starts at once.

    One program is compiled per number of events, bins, starts and steps; weights, scores and `systematics` may change.

    Args:
        signal_score: score of the simulated signal events, finite, any unit.
        signal_weight: their weights at nominal strength; the sum is the expected signal.
        background_score: score of the background events.
        background_weight: their weights.
        bins: number of categories, at least 2.
        systematics: relative uncertainty of the background, independent in each category, with a Poisson constraint;
            profiled in closed form by `asimov_significance`. Not used with an `objective` of your own.
        objective: `objective(signal, background, variance)`, from expected counts per category and the variance of the
            background to what is to be maximised; for other nuisance parameters let it build a model and return
            `discovery_significance(model)`. It must not capture traced arrays.
        starts: number of random starts.
        steps: steps of the ascent, at least 2.
        bandwidth: of the kernels at the first and the last step, in units of rank, that is, of [0, 1].
        key: typed key, for the starts.

    Returns:
        `Categories`; its `significance` is differentiable in the weights (at fixed cuts, which is the derivative of an
        optimum to first order), the cuts are constants.

    Raises:
        ValueError: lengths that differ, scores or weights that are not finite, no signal or no background, fewer than
            two bins, no starts, single precision.

    >>> rng = np.random.default_rng(0)
    >>> signal, background = rng.normal(1.0, 1.0, 3000), rng.normal(-1.0, 1.0, 3000)
    >>> found = optimise_categories(
    ...     signal, np.full(3000, 0.01), background, np.full(3000, 0.1), bins=2, starts=4, steps=50, key=jr.key(0)
    ... )
    >>> found.cuts.shape, float(found.agreement)
    ((4, 1), 1.0)
    >>> bool(abs(found.cuts[found.best, 0] - 1.2) < 0.3)
    True
    """
    signal = _events("signal", signal_score, signal_weight)
    background = _events("background", background_score, background_weight)
    for name, value, least in (("bins", bins, 2), ("starts", starts, 1), ("steps", steps, 2)):
        if value < least:
            msg = f"{name}: at least {least} wanted, got {value}"
            raise ValueError(msg)
    width = np.asarray(bandwidth, dtype=float)
    if width.shape != (2,) or not np.all(width > 0):
        msg = f"bandwidth: two positive numbers are wanted, the first and the last, got {bandwidth}"
        raise ValueError(msg)
    if not isinstance(systematics, Tracer) and not np.all(np.asarray(systematics) >= 0):
        msg = f"systematics: a relative uncertainty that is not negative is wanted, got {systematics}"
        raise ValueError(msg)
    raw = jr.normal(key, (starts, bins))
    return _optimise(
        signal, background, raw, jnp.asarray(systematics, dtype=float), jnp.asarray(width), objective, steps
    )


def category_counts(
    score: Float[ArrayLike, " event"],
    cuts: Float[ArrayLike, " cut"],
    weight: Float[ArrayLike, " event"],
    *,
    bandwidth: Float[ArrayLike, ""] | None = None,
) -> Float[Array, " category"]:
    """Sum of weights in each category of a score; the first and the last category are open.

    Args:
        score: finite, any unit.
        cuts: increasing, in the unit of the score.
        weight: event weights.
        bandwidth: None for the hard histogram, without gradient to score and cuts; otherwise the value is the same, and
            the gradient that of `flux_counts` with this bandwidth, in the unit of the score.

    Raises:
        ValueError: cuts that do not increase, lengths that differ, a bandwidth that is not positive.

    >>> category_counts(jnp.array([-9.0, 0.2, 3.0]), jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0, 4.0])).tolist()
    [1.0, 2.0, 4.0]
    """
    score, cuts = jnp.asarray(score), jnp.atleast_1d(jnp.asarray(cuts, dtype=float))
    if not isinstance(cuts, Tracer) and not np.all(np.diff(np.asarray(cuts)) > 0):
        msg = f"cuts must increase, got {np.asarray(cuts).tolist()}"
        raise ValueError(msg)
    if bandwidth is None:
        end = jnp.full(1, jnp.inf)
        return counts(score, jnp.concatenate([-end, cuts, end]), weight)
    # far enough outside that no kernel gets there
    margin = 2 * REACH * jnp.asarray(bandwidth)
    low = jnp.minimum(jnp.min(score), cuts[0]) - margin
    high = jnp.maximum(jnp.max(score), cuts[-1]) + margin
    edges = jnp.concatenate([jax.lax.stop_gradient(low)[None], cuts, jax.lax.stop_gradient(high)[None]])
    return flux_counts(score, edges, weight, bandwidth=bandwidth)


def _events(name: str, score: ArrayLike, weight: ArrayLike) -> tuple[Array, Array]:
    x, w = jnp.asarray(score, dtype=float), jnp.asarray(weight, dtype=float)
    require_float64(x)
    if x.ndim != 1 or x.shape != w.shape or x.size < 2:
        msg = f"{name}: scores and weights must be two lists of one length, got shapes {x.shape} and {w.shape}"
        raise ValueError(msg)
    require_finite(f"{name}: score", x)
    require_finite(f"{name}: weight", w)
    if not isinstance(w, Tracer) and not float(jnp.sum(w)) > 0:
        msg = f"{name}: the weights add up to {float(jnp.sum(w))}, wanted more than zero"
        raise ValueError(msg)
    return x, w


@eqx.filter_jit
def _optimise(
    signal: tuple[Array, Array],
    background: tuple[Array, Array],
    raw: Float[Array, "start bin"],
    systematics: Array,
    bandwidth: Float[Array, "2"],
    objective: Objective | None,
    steps: int,
) -> Categories:
    def profiled(s: Array, b: Array, variance: Array) -> Array:
        return asimov_significance(s, b, (systematics * b) ** 2 + variance)

    value = objective or profiled
    # one event, for weights that differ: the one of the same relative variance
    unit = jnp.sum(background[1] ** 2) / jnp.sum(background[1])
    fill = lambda s, b, v: value(s, jnp.maximum(b, unit), jnp.maximum(v, unit**2))
    limits, cells = jax.lax.stop_gradient(_cells(signal, background))
    middle = (jnp.arange(CELLS) + 0.5) / CELLS

    def loss(raw: Array, width: Array) -> Array:
        edges = _edges(raw)
        soft = jax.vmap(lambda content: counts(middle, edges, content, bandwidth=width, reflect=True))
        return -fill(*soft(cells))

    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps, alpha=0.01), b1=0.8, b2=0.98)

    def climb(raw: Array) -> tuple[Array, Array]:
        def step(state: tuple, k: Array) -> tuple[tuple, Array]:
            raw, memory = state
            width = annealed_bandwidth(k, steps, start=bandwidth[0], stop=bandwidth[1])
            down, gradient = jax.value_and_grad(loss)(raw, width)
            update, memory = adam.update(gradient, memory)
            return (optax.apply_updates(raw, update), memory), down

        (raw, _), down = jax.lax.scan(step, (raw, adam.init(raw)), jnp.arange(steps))
        return raw, -down[-1]

    found, relaxed = jax.vmap(climb)(raw)
    ranks = jax.vmap(_edges)(found)[:, 1:-1]
    cuts = jax.lax.stop_gradient(jnp.interp(ranks, jnp.arange(CELLS + 1) / CELLS, limits))

    (xs, ws), (xb, wb) = signal, background
    tables = [_cumulative(xs, ws), _cumulative(xb, wb), _cumulative(xb, wb**2)]
    judge = lambda cuts: fill(*(_between(table, cuts) for table in tables))
    significance = jax.vmap(judge)(cuts)
    near = relaxed >= (1 - 1e-3) * jnp.max(relaxed)
    return Categories(cuts, significance, relaxed, jnp.argmax(significance), jnp.mean(near, dtype=float))


def _edges(raw: Float[Array, " bin"]) -> Float[Array, " edge"]:
    """Edges in rank, from 0 to 1, ordered by construction."""
    inner = jnp.cumsum(jax.nn.softmax(raw))[:-1]
    return jnp.concatenate([jnp.zeros(1), inner, jnp.ones(1)])


def _cumulative(x: Array, weight: Array) -> tuple[Array, Array]:
    """Ordered scores, and the weight below each of them and below infinity: the hard histogram of any cuts."""
    order = jnp.argsort(x)
    return x[order], jnp.concatenate([jnp.zeros(1), jnp.cumsum(weight[order])])


def _between(table: tuple[Array, Array], cuts: Array) -> Array:
    ordered, below = table
    place = jnp.searchsorted(ordered, cuts)
    return jnp.diff(jnp.concatenate([below[:1], below[place], below[-1:]]))


def _cells(signal: tuple[Array, Array], background: tuple[Array, Array]) -> tuple[Array, Array]:
    """Limits of the cells in score, and signal, background and variance of the background in each."""
    size = lambda w: jnp.abs(w) / jnp.sum(jnp.abs(w))
    x = jnp.concatenate([signal[0], background[0]])
    share = 0.5 * jnp.concatenate([size(signal[1]), size(background[1])])
    order = jnp.argsort(x)
    rank = jnp.cumsum(share[order]) - 0.5 * share[order]
    limits = jnp.interp(jnp.arange(CELLS + 1) / CELLS, rank, x[order])
    cell = lambda x: jnp.clip(jnp.searchsorted(limits, x, side="right") - 1, 0, CELLS - 1)
    fill = lambda x, w: jnp.zeros(CELLS).at[cell(x)].add(w)
    (xs, ws), (xb, wb) = signal, background
    return limits, jnp.stack([fill(xs, ws), fill(xb, wb), fill(xb, wb**2)])
