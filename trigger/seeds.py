r"""Seeds of a trigger menu, and the exact treatment of their hard cuts.

A seed accepts an event if some combination of its objects (one, or two) passes all of its cuts. With the distance of a
quantity from its threshold in units of a width h, $(x_{ekc} - t_c)/h_c$ for combination k of event e and cut c, the
*margin* of a seed is $m_e = \max_k\min_c$ of these: positive where the seed accepts. The OR of a menu accepts where the
largest margin is positive, so its rate is $R(t) = \sum_e w_e\,\theta(\max_j m_{ej}(t))$.

A common shift of all thresholds by $s h$ lowers every margin by s. Behind a gate whose value is the integral S of a
kernel K, $\sum_e w_e S(\max_j m_{ej}) = \int K(s)\,R(t + s h)\,ds$ therefore holds exactly, where cuts or seeds meet as
well: the derivative is the flux of events through the edges of the *union*. An event at the edge of one seed that
another seed takes has a large margin and contributes nothing. `gates.Boundary(1).smooth` has a kernel of fourth order:
its bias is $-\frac18\,d^4R/ds^4$.

Prescales are independent of each other and of the event: a seed with prescale p keeps a share 1/p of what it accepts,
and the menu $1 - \prod_j(1 - 1/p_j)$ over the seeds that accept. All of it is deterministic: shares, no random numbers.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# margin of what passes or fails whatever the thresholds are: far outside every kernel, and finite
FAR = 1e6


@dataclasses.dataclass(frozen=True)
class Cut:
    """One threshold of a menu.

    Attributes:
        name: `seed.quantity`, with an index where a seed has several.
        unit: of the quantity.
        start: its threshold as written.
        bounds: of an adjustable threshold; None for a fixed one.
        step: least significant bit.
        width: of the kernel at the edge.
        below: whether it accepts what lies below.
    """

    name: str
    unit: str
    start: float
    bounds: tuple[float, float] | None
    step: float
    width: float
    below: bool = False

    @property
    def sign(self) -> float:
        """+1 for a cut that accepts what lies above."""
        return -1.0 if self.below else 1.0


@dataclasses.dataclass(frozen=True)
class Menu:
    """Names, prescales and cuts of the seeds.

    Attributes:
        names: of the seeds.
        prescales: at least 1.
        cuts: all thresholds that can move; fixed ones are part of the events' combinations.
        of_seed: for each seed the indices of its cuts.
    """

    names: tuple[str, ...]
    prescales: tuple[int, ...]
    cuts: tuple[Cut, ...]
    of_seed: tuple[tuple[int, ...], ...]

    @property
    def start(self) -> Float[np.ndarray, " cut"]:
        """Thresholds as written, each in the unit of its cut."""
        return np.array([cut.start for cut in self.cuts])

    @property
    def direction(self) -> Float[np.ndarray, " cut"]:
        """The common shift that lowers every margin by 1."""
        return np.array([cut.sign * cut.width for cut in self.cuts])

    @property
    def tightest(self) -> Float[np.ndarray, " cut"]:
        """Every threshold at the bound where it accepts least."""
        return np.array([c.bounds[0 if c.below else 1] for c in self.cuts if c.bounds])

    @property
    def loosest(self) -> Float[np.ndarray, " cut"]:
        """Every threshold at the bound where it accepts most."""
        return np.array([c.bounds[1 if c.below else 0] for c in self.cuts if c.bounds])


class SeedValues(eqx.Module):
    """What the cuts of one seed look at; events come last, because the other axes are short.

    Attributes:
        values: the quantity of each cut that can move.
        allowed: combinations of objects that exist and pass the fixed cuts.
    """

    values: Float[Array, "cut combination event"]
    allowed: Bool[Array, "combination event"]

    def take(self, rows: Int[np.ndarray, " row"]) -> "SeedValues":
        """Some of the events."""
        return SeedValues(self.values[..., rows], self.allowed[..., rows])


def margins(menu: Menu, thresholds: Float[Array, " cut"], seeds: tuple[SeedValues, ...]) -> Float[Array, "seed event"]:
    """Margin of every seed: positive where it accepts, lower by s after a common shift by s times the widths.

    Args:
        menu: the seeds.
        thresholds: of the menu's cuts, in their units.
        seeds: one for each seed of the menu.
    """
    rows = []
    for cuts, seed in zip(menu.of_seed, seeds, strict=True):
        inside = jnp.full(seed.allowed.shape, FAR)
        if cuts:
            which = np.array(cuts)
            scale = jnp.asarray(menu.direction[which])[:, None, None]
            inside = jnp.min((seed.values - thresholds[which][:, None, None]) / scale, axis=0)
        rows.append(jnp.max(jnp.where(seed.allowed, inside, -FAR), axis=0))
    return jnp.stack(rows)


def accepted(
    margin: Float[Array, "seed event"], prescales: tuple[int, ...], gate: Callable[[Array], Array]
) -> Float[Array, " event"]:
    """Share of each event that the menu keeps.

    Args:
        margin: of every seed.
        prescales: of every seed.
        gate: of a margin; `Hard()`, or `Boundary(1.0).smooth` for a value with the derivative of the expectation.

    >>> from diffhep.gates import Hard
    >>> accepted(jnp.array([[1.0, -1.0, -1.0], [2.0, 3.0, -1.0]]), (1, 4), Hard()).tolist()
    [1.0, 0.25, 0.0]
    """
    every = np.array([p == 1 for p in prescales])
    rows = [jnp.max(margin[every], axis=0)] if every.any() else []
    rows += [margin[j] for j in np.flatnonzero(~every)]
    kept = np.array([1.0] * bool(every.any()) + [1 / p for p in prescales if p != 1])
    if len(rows) == 1:
        return kept[0] * gate(rows[0])
    stacked, missed = jnp.stack(rows), (1 - kept)[:, None]
    still = jax.lax.stop_gradient(stacked)
    # a common shift turns seeds off in the order of their margins: the last one alone keeps its whole share
    first = np.tri(len(rows), k=-1, dtype=bool)[..., None]
    after = (still[None] > still[:, None]) | ((still[None] == still[:, None]) & first)
    alone = kept[:, None] * jnp.prod(jnp.where(after, missed, 1.0), axis=1)
    return jnp.sum(gate(stacked) * alone, axis=0)


def snapped(menu: Menu, thresholds: Float[np.ndarray, " cut"]) -> Float[np.ndarray, " cut"]:
    """Thresholds moved to the next multiple of their least significant bit that accepts no more.

    >>> cut = Cut("a.pt", "GeV", 20.0, (10.0, 50.0), 0.5, 1.0)
    >>> snapped(Menu(("a",), (1,), (cut,), ((0,),)), np.array([20.1])).tolist()
    [20.5]
    """
    found = []
    for cut, value in zip(menu.cuts, thresholds, strict=True):
        steps = cut.sign * value / cut.step
        nearest = np.round(steps)
        # a multiple that rounding has left a few digits beside it stays
        whole = nearest if abs(steps - nearest) < 1e-9 * max(abs(steps), 1.0) else np.ceil(steps)
        found.append(cut.sign * whole * cut.step)
    return np.array(found)
