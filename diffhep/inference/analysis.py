"""One workspace analysed with one compiled fit.

`hypothesis_test`, `upper_limit`, `impacts` and the others are each a compiled function of their own: right for what is
called often or differentiated, but XLA then takes a minute before a single workspace has been looked at. Here every fit
(data, Asimov data, pseudo-experiments; parameters free or held, bin-by-bin factors too) is a row of one and the same
small program, and the host decides which row comes next. The numbers are the same; there are no derivatives.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from scipy.special import chdtrc, ndtr, ndtri

from diffhep.inference.fitting import Fit, as_fit, index_of, poi_of, repeat, search_each
from diffhep.inference.hypotest import (
    BANDS,
    DiscoveryTest,
    HypothesisTest,
    expected_log_cls,
    statistics,
    tails,
)
from diffhep.inference.limits import UpperLimit
from diffhep.inference.model import HistFactory, Observation
from diffhep.inference.postfit import PostFit, postfit
from diffhep.inference.specification import GAUSS, POISSON
from diffhep.inference.toys import ToyTest
from diffhep.inference.uncertainties import GoodnessOfFit, Impacts

ROWS = 16


class Row(eqx.Module):
    """One fit: to which data, what is held at which value, where it starts, and bounds of the analytic factors."""

    data: Observation
    values: Float[Array, " parameter"]
    held: Array
    start: Float[Array, " parameter"]
    lower: Float[Array, "slot channel bin"]
    upper: Float[Array, "slot channel bin"]


@eqx.filter_jit
def fit_rows(model: HistFactory, rows: Row) -> Fit:
    """One fit for every row, in one loop."""

    def one(row: Row) -> Fit:
        changed = eqx.tree_at(lambda m: (m.gamma_lower, m.gamma_upper), model, (row.lower, row.upper))
        fits = search_each(changed, repeat(row.data, 1), row.values[None], row.held[None], start=row.start[None])
        return jax.tree.map(lambda x: x[0], as_fit(changed, fits))

    return jax.vmap(one)(rows)


@eqx.filter_jit
def expected_data(model: HistFactory, theta: Float[Array, " parameter"], data: Observation) -> Observation:
    """Post-fit Asimov data."""
    return model.asimov(theta, data)


@jax.jit
def cls_rows(mu: Array, mu_hat: Array, best: Array, at_mu: Array, at_zero: Array, q_asimov: Array) -> tuple:
    """q~, ln CLs+b, ln CLb and ln of the expected CLs from fitted likelihoods."""
    q = statistics(mu, mu_hat, best, at_mu, at_zero, "qtilde")
    return q, *tails(q, q_asimov, "qtilde"), expected_log_cls(q_asimov)


class Analysis:
    """Fit, tests, limit, impacts, scans and pseudo-experiments of one model and one data set.

    Args:
        model: the model, float64, with a parameter of interest.
        data: observed data.

    Raises:
        ValueError: no parameter of interest, or one that is held fixed; single precision.

    >>> from diffhep.inference import histfactory
    >>> signal = {"name": "s", "data": [12.0, 11.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    >>> unc = {"name": "db", "type": "shapesys", "data": [3.0, 7.0]}
    >>> background = {"name": "b", "data": [50.0, 52.0], "modifiers": [unc]}
    >>> model = histfactory([{"name": "SR", "samples": [signal, background]}])
    >>> analysis = Analysis(model, model.data([51.0, 48.0]))
    >>> round(float(analysis.test([1.0]).observed[0]), 8), round(float(analysis.limit().observed), 4)
    (0.05251553, 1.0115)
    """

    def __init__(self, model: HistFactory, data: Observation):
        poi_of(model)
        self.model, self.data, self.size = model, data, len(model.names)
        self.poi = model.names[model.poi]
        if self.poi in model.fixed:
            msg = f"parameter of interest {self.poi!r}: the measurement holds it fixed"
            raise ValueError(msg)

    def fits(
        self,
        held: Sequence[dict[str, float]],
        *,
        data: Observation | None = None,
        start: ArrayLike | None = None,
        factors: Sequence[tuple[int, int, int, float] | None] | None = None,
    ) -> Fit:
        """Fits with some parameters held.

        Args:
            held: for every fit, name -> value of what is held.
            data: to be fitted, with one more axis in front; by default always the observed data.
            start: start values of all fits, or of each.
            factors: for every fit, (slot, channel, bin, value) of an analytic factor to be held, or None.
        """
        count, m = len(held), self.model
        values, mask = np.zeros((count, self.size)), np.zeros((count, self.size), dtype=bool)
        for i, one in enumerate(held):
            for name, value in one.items():
                values[i, index_of(m.names, name)], mask[i, index_of(m.names, name)] = value, True
        lower, upper = (np.repeat(np.asarray(x)[None], count, axis=0) for x in (m.gamma_lower, m.gamma_upper))
        for i, spot in enumerate(factors or ()):
            if spot is not None:
                lower[(i, *spot[:3])] = upper[(i, *spot[:3])] = spot[3]
        first = np.asarray(m.init) if start is None else start
        first = np.where(mask, values, np.broadcast_to(first, values.shape))
        sets = jax.tree.map(np.asarray, repeat(self.data, count) if data is None else data)
        rows: Any = (sets, values, mask, first, lower, upper)
        return self._run(Row(*rows))

    def _run(self, rows: Row) -> Fit:
        """All rows, `ROWS` at a time; the last batch is filled up with its own last row."""
        count, done = rows.values.shape[0], []
        for begin in range(0, count, ROWS):
            which = np.minimum(np.arange(begin, begin + ROWS), count - 1)
            found = fit_rows(self.model, jax.tree.map(lambda x, i=which: jnp.asarray(x[i]), rows))
            done.append(found)
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(part) for part in x])[:count], *done)

    def strength(self, found: Fit) -> np.ndarray:
        """The parameter of interest of one fit or of many."""
        return np.asarray(found.theta)[..., self.model.poi]

    def asimov(self, theta: ArrayLike) -> Observation:
        """Expected main and auxiliary data at `theta`, analytic factors fitted to the data."""
        return jax.tree.map(np.asarray, expected_data(self.model, jnp.asarray(theta), self.data))

    def compile(self) -> None:
        """Compiles what all else is made of; nothing later waits for XLA, but for the first pseudo-experiment."""
        self.test([1.0])
        _ = self.after

    @cached_property
    def base(self) -> Fit:
        """Fits to the data: everything free, background only, and nominal signal."""
        return self.fits([{}, {self.poi: 0.0}, {self.poi: 1.0}])

    @property
    def best(self) -> Fit:
        """The maximum of the likelihood."""
        return jax.tree.map(lambda x: x[0], self.base)

    @cached_property
    def after(self) -> PostFit:
        """All that follows from the best fit."""
        return jax.tree.map(np.asarray, postfit(self.model, jax.tree.map(jnp.asarray, self.best), self.data))

    def impossible(self, counts: np.ndarray, theta: ArrayLike) -> str | None:
        """Where counts have no probability at all at `theta`, in words; None if there is no such bin.

        Fits do not see this: `poisson_deviance` goes on as a parabola there, so that a minimiser finds its way back.
        """
        t, expected = self.model.structure, np.asarray(self.asimov(theta).counts)
        used = np.asarray(self.model.mask).reshape(-1)[t.flat()] > 0
        # below its floor of 1e-10 n the deviance is no longer that of a Poisson distribution; 1e-9 is rounding
        lost = used & (((counts > 0) & (expected < 1e-10 * counts)) | (expected < -1e-9))
        if not lost.any():
            return None
        k = int(np.argmax(lost))
        channel = int(np.searchsorted(np.cumsum(t.bins), k, side="right"))
        place = f"channel {t.channels[channel]!r}, bin {k - sum(t.bins[:channel])}"
        return f"{place}: {counts[k]:g} counts where {max(expected[k], 0.0):.2g} are expected have probability zero"

    @cached_property
    def background(self) -> Observation:
        """Asimov data without signal."""
        return self.asimov(self.base.theta[1])

    def goodness_of_fit(self) -> GoodnessOfFit:
        """Goodness of the best fit against the saturated model."""
        statistic, ndf = 2 * self.best.nll, self.after.ndf
        p_value: Any = chdtrc(ndf, statistic) if ndf > 0 else np.nan
        return GoodnessOfFit(statistic, ndf, p_value)

    def test(self, mu: Sequence[float] | np.ndarray) -> HypothesisTest:
        """CLs of some signal strengths, as `hypothesis_test` gives it; every number has one more axis at the end."""
        mu, half, done = np.asarray(mu, dtype=float), ROWS // 2, []
        for begin in range(0, mu.size, half):
            # half of a batch of fits is to the data, half to the Asimov data
            part = mu[np.minimum(np.arange(begin, begin + half), mu.size - 1)]
            sets = jax.tree.map(lambda a, b: np.stack([a] * half + [b] * half), self.data, self.background)
            start = self.base.theta[[0] * half + [1] * half]
            fits = self.fits([{self.poi: x} for x in (*part, *part)], data=sets, start=start)
            best, q_asimov = self.base, 2 * fits.nll[half:]
            logs = cls_rows(part, self.strength(best)[0], best.nll[0], fits.nll[:half], best.nll[1], q_asimov)
            q, log_sb, log_b, log_expected = (np.asarray(x) for x in logs)
            good = fits.converged.reshape(2, half).all(axis=0) & best.converged[:2].all()
            norm = np.maximum(fits.gradient_norm.reshape(2, half).max(axis=0), best.gradient_norm[:2].max())
            levels = np.exp(log_sb - log_b), np.exp(log_expected), np.exp(log_sb), np.exp(log_b)
            done.append((*levels, q, q_asimov, good, norm))
        parts = [np.concatenate(x, axis=-1)[..., : mu.size] for x in zip(*done, strict=True)]
        observed, expected, cl_sb, cl_b, q, q_asimov, good, norm = parts
        mu_hat = np.full(mu.size, self.strength(self.base)[0])
        found: Any = (mu, observed, expected, cl_sb, cl_b, q, q_asimov, mu_hat, good, norm)
        return HypothesisTest(*found)

    def discovery(self) -> DiscoveryTest:
        """Significance of an excess, as `discovery_test` gives it."""
        signal = jax.tree.map(lambda x: x[None], self.asimov(self.base.theta[2]))
        fits, base = self.fits([{self.poi: 0.0}], data=signal, start=self.base.theta[2]), self.base
        mu_hat = self.strength(base)[0]
        q0 = np.maximum(2 * (base.nll[1] - base.nll[0]), 0.0) if mu_hat >= 0 else np.zeros(())
        root = np.sqrt(q0)
        numbers: dict[str, Any] = {
            "observed": root,
            "expected": np.sqrt(np.maximum(2 * fits.nll[0], 0.0)),
            "p_value": ndtr(-root),
            "q0": q0,
            "mu_hat": mu_hat,
            "converged": base.converged.all() & fits.converged.all(),
            "gradient_norm": np.maximum(base.gradient_norm.max(), fits.gradient_norm.max()),
        }
        return DiscoveryTest(**numbers)

    def limit(self, level: float = 0.95) -> UpperLimit:
        """CLs upper limits, as `upper_limit` gives them: the roots of six falling curves inside six brackets."""
        goal, curves = np.log1p(-level), np.arange(6)
        norms, good = [], []

        def excess(mu: np.ndarray) -> np.ndarray:
            found = self.test(mu)
            norms.append(np.max(found.gradient_norm))
            good.append(bool(np.all(found.converged)))
            # far beyond the limit a CLs is too small for a double
            return np.log(np.maximum(np.vstack([found.observed[None], found.expected])[curves, curves], 1e-300)) - goal

        # CLs is 1 at 0; the first guess is arXiv:1007.1727 eq. 89
        sigma = 1 / max(float(self.test([1.0]).q_asimov[0]) ** 0.5, 1e-6)
        bands = np.concatenate([[0.0], -BANDS])
        guess = sigma * (ndtri(1 - (1 - level) * ndtr(bands)) + bands)
        guess[0] += max(float(self.strength(self.base)[0]), 0.0)
        low, high = np.zeros(6), np.maximum(guess, 1e-3 * sigma)
        at_low, at_high = np.full(6, -goal), excess(high)
        for _ in range(60):
            short = at_high > 0
            if not short.any():
                break
            low, at_low = np.where(short, high, low), np.where(short, at_high, at_low)
            high = np.where(short, 2 * high, high)
            at_high = excess(high)
        mu, at_mu, side = high, at_high, np.zeros(6)
        for _ in range(100):
            if np.all(np.abs(at_mu) < 1e-11) or not np.all(np.isfinite(at_mu) & (at_high <= 0)):
                break
            # false position, with the value of an end that stays put halved (the Illinois rule)
            near = np.abs(at_mu) < 1e-11
            mu = np.where(near, mu, (low * at_high - high * at_low) / np.where(near, 1.0, at_high - at_low))
            at_mu = excess(mu)
            above = at_mu > 0
            at_high = np.where(~above, at_mu, np.where(side > 0, 0.5 * at_high, at_high))
            at_low = np.where(above, at_mu, np.where(side < 0, 0.5 * at_low, at_low))
            low, high, side = np.where(above, mu, low), np.where(above, high, mu), np.where(above, 1.0, -1.0)
        residual = np.max(np.abs(at_mu))
        numbers: dict[str, Any] = {
            "observed": mu[0],
            "expected": mu[1:],
            "converged": np.asarray(all(good) & bool(residual < 1e-6)),
            "gradient_norm": np.max(norms),
            "residual": residual,
        }
        return UpperLimit(**numbers)

    def impacts(self) -> Impacts:
        """Impacts as `impacts` gives them, of every component, analytic bin-by-bin factors included."""
        e, bins = self.after.estimates, self.model.structure.bins
        spots = [(one.slot, one.channel, i) for one in self.model.structure.gammas for i in range(bins[one.channel])]
        held, factors = [], []
        for sign in (1, -1):
            target = np.clip(e.value + sign * e.uncertainty, e.lower, e.upper)
            held += [{name: x} for name, x in zip(self.model.names, target, strict=False)] + [{}] * len(spots)
            factors += [None] * self.size
            factors += [(*spot, float(x)) for spot, x in zip(spots, target[self.size :], strict=True)]
        fits = self.fits(held, start=self.best.theta, factors=factors)
        moved = (self.strength(fits) - self.strength(self.best)).reshape(2, -1)
        safe = np.where(e.width > 0, e.width, 1.0)
        numbers: dict[str, Any] = {
            "up": moved[0],
            "down": moved[1],
            "linear": e.linear,
            "pull": np.where(e.width > 0, (e.value - e.center) / safe, 0.0),
            "constraint": np.where(e.width > 0, e.uncertainty / safe, 0.0),
            "converged": fits.converged.reshape(2, -1).all(axis=0) & self.best.converged,
        }
        return Impacts(**numbers)

    def scan(self, name: str, values: np.ndarray) -> Fit:
        """Profile-likelihood scan of a parameter: fits with it held at each of the values."""
        return self.fits([{name: float(x)} for x in values], start=self.best.theta)

    def toys(self, mu: float = 1.0, *, toys: int, seed: int) -> ToyTest:
        """CLs from pseudo-experiments, as `toy_test` gives it.

        Args:
            mu: the strength to test.
            toys: number of pseudo-experiments for each hypothesis.
            seed: of the pseudo-experiments.
        """
        if toys < 1:
            msg = f"toys: at least one is wanted, got {toys}"
            raise ValueError(msg)
        conditional = self.fits([{self.poi: mu}], start=self.best.theta)
        q = float(self.test([mu]).q[0])
        rng = np.random.default_rng(seed)
        drawn = [self._toy_statistics(theta, rng, mu, toys) for theta in (conditional.theta[0], self.base.theta[1])]
        (q_sb, good_sb), (q_b, good_b) = drawn
        q_sb, q_b = q_sb[good_sb], q_b[good_b]
        above = lambda level, q: np.mean(q >= level) if q.size else np.nan
        ratio = lambda level: np.divide(above(level, q_sb), above(level, q_b) or np.nan)
        cl_sb, cl_b = above(q, q_sb), above(q, q_b)
        with np.errstate(divide="ignore"):
            relative = np.divide(1 - cl_sb, cl_sb * q_sb.size) + np.divide(1 - cl_b, cl_b * q_b.size)
        # quantiles of the statistic without signal; -2 sigma is the most extreme one, hence the smallest CLs
        levels = np.quantile(q_b, ndtr(BANDS)) if q_b.size else np.full(5, np.nan)
        numbers: dict[str, Any] = {
            "observed": ratio(q),
            "error": ratio(q) * np.sqrt(relative),
            "expected": np.array([ratio(level) for level in levels]),
            "cl_sb": cl_sb,
            "cl_b": cl_b,
            "q": q,
            "failed": np.sum(~good_sb) + np.sum(~good_b),
        }
        return ToyTest(**numbers)

    def draw(self, theta: ArrayLike, count: int, rng: np.random.Generator) -> Observation:
        """Pseudo-experiments at `theta`, main and auxiliary data drawn: `sample`, without a compiler."""
        mean, c, kinds = self.asimov(theta), self.model.constraints(), np.array(self.model.structure.kinds, dtype=int)
        spread, own = np.asarray(self.model.spread), np.asarray(c.spread)
        side, free = np.asarray(c.poisson), np.asarray(c.lower < c.upper)
        counted = lambda rate, where: rng.poisson(np.where(where, rate, 0.0), (count, *rate.shape)).astype(float)
        spreads = lambda at, width, where: rng.normal(at, np.where(where, width, 0.0), (count, *at.shape))
        numbers: dict[str, Any] = {
            "counts": rng.poisson(np.maximum(mean.counts, 0.0), (count, mean.counts.size)).astype(float),
            "auxiliary": np.where(
                kinds == POISSON,
                counted(mean.auxiliary, kinds == POISSON),
                spreads(mean.auxiliary, spread, kinds == GAUSS),
            ),
            "gammas": np.where(side & free, counted(mean.gammas, side & free), spreads(mean.gammas, own, ~side & free)),
        }
        return Observation(**numbers)

    def _toy_statistics(
        self, theta: ArrayLike, rng: np.random.Generator, mu: float, toys: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """q~ of pseudo-experiments drawn at `theta`, and which of them can be trusted because their fits converged."""
        statistic, good, none = [], [], np.zeros(ROWS)
        for begin in range(0, toys, ROWS):
            sets = self.draw(theta, ROWS, rng)
            free = self.fits([{}] * ROWS, data=sets, start=theta)
            fixed = self.fits(
                [{self.poi: x} for x in (mu, 0.0) for _ in range(ROWS)],
                data=jax.tree.map(lambda x: np.concatenate([x, x]), sets),
                start=np.concatenate([free.theta, free.theta]),
            )
            at_mu, at_zero = fixed.nll[:ROWS], fixed.nll[ROWS:]
            q, *_ = cls_rows(np.full(ROWS, mu), self.strength(free), free.nll, at_mu, at_zero, none)
            statistic.append(np.asarray(q)[: toys - begin])
            good.append((free.converged & fixed.converged.reshape(2, ROWS).all(axis=0))[: toys - begin])
        return np.concatenate(statistic), np.concatenate(good)
