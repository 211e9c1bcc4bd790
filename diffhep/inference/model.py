r"""HistFactory as one pytree, differentiable in everything.

$\lambda_{cb} = \sum_s \Big[\prod f(\theta)\Big]_{cs}\,\Big[n_{csb} + \sum \Delta_{csb}(\theta)\Big]\,\gamma_{csb}$
(K. Cranmer et al., CERN-OPEN-2012-016): factors of normfactor, lumi and normsys, additive histosys, bin-by-bin factors
of shapesys, staterror and shapefactor. The parameters of a fit, `theta`, are all but the bin-by-bin factors, which are
profiled analytically (`diffhep.inference.gammas`). Every yield, variation and uncertainty is a leaf. Nominal auxiliary
data of a shapesys are $\tau = (n/\delta n)^2$, of everything else 0 or 1.

Conventions of pyhf are kept: defaults of bounds, interpolation code 4 for normsys and 4p for histosys, staterror from
the quadrature sum over the samples of a channel, factors of bins without content or without error fixed at 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffhep.inference import gammas as g
from diffhep.inference.arrangement import arrange
from diffhep.inference.interpolation import ADDITIVE, MULTIPLICATIVE, AdditiveCode, MultiplicativeCode, with_slopes
from diffhep.inference.likelihood import AbstractModel, expects, poisson_deviance, require_float64, second_order
from diffhep.inference.specification import FREE, GAUSS, POISSON, Structure
from diffhep.kinematics import safe_div, safe_sqrt

# stands in for a factor of exactly zero where derivatives divide by it and multiply by the product again
TINY = 1e-100


class Observation(eqx.Module):
    """What was, or would be, observed by a HistFactory model.

    Attributes:
        counts: per bin, channels one after the other.
        auxiliary: centre of the constraint of every parameter in `theta`.
        gammas: auxiliary data of the bin-by-bin factors, (slot, channel, bin), padded: counts for a shapesys, centre
            for a staterror.
    """

    counts: Float[Array, " bin"]
    auxiliary: Float[Array, " parameter"]
    gammas: Float[Array, "slot channel bin"]


class HistFactory(AbstractModel):
    """A HistFactory likelihood. Build it with `histfactory` or from a `Workspace`.

    Leaves (channel, sample, bin; padded) are named after what they hold: `nominal`, `sys_lo`, `sys_hi` (normsys
    factors), `shape_lo`, `shape_hi` (histosys yields), `errors` (shapesys or staterror), `mask` (1 for a bin that is
    used). Change them with `equinox.tree_at`; nothing is compiled again.

    Variations and errors are absolute yields, as in the files: a derivative with respect to `nominal` alone holds them,
    and so makes them relatively smaller. What one more event is worth wants them scaled along.
    """

    nominal: Float[Array, "channel sample bin"]
    sys_lo: Float[Array, "channel sample sys"]
    sys_hi: Float[Array, "channel sample sys"]
    shape_lo: Float[Array, "channel sample shape bin"]
    shape_hi: Float[Array, "channel sample shape bin"]
    errors: Float[Array, "channel sample bin"]
    factor_errors: Float[Array, "channel sample factor bin"]
    init: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    center: Float[Array, " parameter"]
    spread: Float[Array, " parameter"]
    gamma_init: Float[Array, "slot channel bin"]
    gamma_lower: Float[Array, "slot channel bin"]
    gamma_upper: Float[Array, "slot channel bin"]
    gamma_center: Float[Array, "slot channel bin"]
    gamma_spread: Float[Array, "slot channel bin"]
    mask: Float[Array, "channel bin"]
    structure: Structure = eqx.field(static=True)
    poi: int = eqx.field(static=True)
    held: tuple[str, ...] = eqx.field(static=True)
    normsys_code: MultiplicativeCode = eqx.field(static=True)
    histosys_code: AdditiveCode = eqx.field(static=True)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the parameters in `theta`; components of bin-by-bin ones as name[i]."""
        return self.structure.names

    @property
    def fixed(self) -> tuple[str, ...]:
        """Parameters held at their start in every fit."""
        return self.held

    def factors(self, theta: Array, *, safe: bool = False) -> tuple[Array, Array]:
        """Values of normfactor and lumi (channel, sample, .), and of shapefactor and the like (.., bin)."""
        t = self.structure
        norms = jnp.where(t.norms.values >= 0, theta[t.norms.values], 1.0)
        bins = jnp.where(t.factors.values >= 0, theta[t.factors.values], 1.0)
        if safe:
            norms = jnp.where(jnp.abs(norms) < TINY, TINY, norms)
        return norms, bins

    def yields(self, theta: Float[Array, " parameter"]) -> Float[Array, "channel sample bin"]:
        """Expected counts of every sample before the analytic bin-by-bin factors."""
        t = self.structure
        out = self.nominal
        if t.shapes.values.shape[2]:
            out = out + jnp.sum(self._changes(theta[t.shapes.values]), axis=2)
        norms, bins = self.factors(theta)
        if norms.shape[2]:
            out = out * jnp.prod(norms, axis=2)[..., None]
        if t.systematics.values.shape[2]:
            out = out * jnp.prod(self._rates(theta[t.systematics.values]), axis=2)[..., None]
        if bins.shape[2]:
            out = out * jnp.prod(bins, axis=2)
        return out

    def _rates(self, alpha: Array) -> Array:
        factor = MULTIPLICATIVE[self.normsys_code](self.sys_lo, self.sys_hi, alpha)
        return jnp.where(self.structure.systematics.values >= 0, factor, 1.0)

    def _changes(self, alpha: Array) -> Array:
        change = ADDITIVE[self.histosys_code](self.shape_lo, self.nominal[:, :, None], self.shape_hi, alpha[..., None])
        return jnp.where(self.structure.shapes.values[..., None] >= 0, change, 0.0)

    def _membership(self) -> np.ndarray:
        """1 where a sample has the analytic factor of a slot, (slot, channel, sample, 1)."""
        t = self.structure
        return (t.slots.values == np.arange(t.n_slots)[:, None, None]).astype(float)[..., None]

    def parts(self, theta: Float[Array, " parameter"]) -> tuple[Array, Array]:
        """Expected counts per bin that no analytic factor multiplies, and those each factor multiplies."""
        yields, member = self.yields(theta), self._membership()
        if not len(member):
            return jnp.sum(yields, axis=1), jnp.zeros((0, *self.mask.shape))
        return jnp.sum(yields * (1 - member.sum(axis=0)), axis=1), jnp.sum(yields * member, axis=2)

    def constraints(self, auxiliary: Float[Array, "slot channel bin"] | None = None) -> g.Constraints:
        """Constraints of the analytic factors, given observed auxiliary data or at the nominal ones."""
        t, member = self.structure, self._membership()
        poisson = np.zeros((t.n_slots, *self.mask.shape), dtype=bool)
        for one in t.gammas:
            poisson[one.slot, one.channel] = one.poisson
        nominal = jnp.sum(self.nominal * member, axis=2)
        square = jnp.sum(self.errors**2 * member, axis=2)
        valid = (nominal > 0) & (square > 0)
        relative = safe_div(safe_sqrt(square), jnp.where(valid, nominal, 0.0))
        gauss = jnp.where(jnp.isnan(self.gamma_spread), jnp.where(valid, relative, 1.0), self.gamma_spread)
        tau = safe_div(jnp.where(valid, 1.0, 0.0), relative**2, otherwise=1.0)
        own = jnp.isnan(self.gamma_center)
        center = jnp.where(own, jnp.where(poisson, tau, 1.0), self.gamma_center)
        return g.Constraints(
            auxiliary=center if auxiliary is None else auxiliary,
            spread=jnp.where(poisson, tau, gauss),
            poisson=jnp.asarray(poisson),
            lower=jnp.where(valid, self.gamma_lower, self.gamma_init),
            upper=jnp.where(valid, self.gamma_upper, self.gamma_init),
        )

    def grid(self, counts: Float[Array, " bin"]) -> Float[Array, "channel bin"]:
        """Counts per bin, channels one after the other, brought into the padded layout."""
        t = self.structure
        if len(set(t.bins)) == 1:
            return jnp.reshape(counts, self.mask.shape)
        place = np.full(self.mask.size, counts.size)
        place[t.flat()] = np.arange(counts.size)
        return jnp.concatenate([counts, jnp.zeros(1, counts.dtype)])[place.reshape(self.mask.shape)]

    def nll(self, theta: Float[Array, " parameter"], data: Observation) -> Float[Array, ""]:
        """Half the deviance of all counts and constraints, analytic factors at their best."""
        bins = g.profiled(self.grid(data.counts), *self.parts(theta), self.constraints(data.gammas))
        return jnp.sum(jnp.where(self.mask > 0, bins, 0.0)) + jnp.sum(self._penalty(theta, data.auxiliary))

    def possible(self, theta: Float[Array, " parameter"], data: Observation) -> Bool[Array, ""]:
        """Whether something is expected in every bin that has counts, before the analytic factors."""
        return expects(jnp.where(self.mask > 0, self.grid(data.counts), 0.0), jnp.sum(self.yields(theta), axis=1))

    def _penalty(self, theta: Array, auxiliary: Array) -> Array:
        kinds = np.array(self.structure.kinds, dtype=int)
        gauss = 0.5 * ((theta - auxiliary) / self.spread) ** 2
        if not np.any(kinds == POISSON):
            return jnp.where(kinds == GAUSS, gauss, 0.0)
        poisson = kinds == POISSON
        expected = jnp.where(poisson, self.spread * theta, 1.0)
        counts = 0.5 * poisson_deviance(jnp.where(poisson, auxiliary, 1.0), expected)
        return jnp.where(kinds == FREE, 0.0, jnp.where(poisson, counts, gauss))

    def gradient(self, theta: Float[Array, " parameter"], data: Observation) -> Float[Array, " parameter"]:
        """The gradient of `nll`: slopes of the profiled bins, carried back through `parts`.

        Compiles, when differentiated again, much faster than the gradient of the sum of logarithms.
        """
        (rest, scaled), back = jax.vjp(self.parts, theta)
        found = g.solve(self.grid(data.counts), rest, scaled, self.constraints(data.gammas))
        r = jnp.where(self.mask > 0, found.r, 0.0)
        penalty = jax.grad(lambda x: jnp.sum(self._penalty(x, data.auxiliary)))
        return back((r, r * found.gamma))[0] + penalty(theta)

    def derivatives(self, theta: Float[Array, " parameter"], data: Observation) -> tuple[Array, Array, Array]:
        """`nll` with its gradient and Hessian, from the structure of the model: every yield is a product."""
        t = self.structure
        if t.factors.values.shape[2]:
            return second_order(lambda x, args: args[0].nll(x, args[1]), theta, (self, data))
        n, size = self.grid(data.counts), theta.size
        shape = self.nominal
        if t.shapes.values.shape[2]:
            change, slope, bend = with_slopes(self._changes, theta[t.shapes.values])
            shape = shape + jnp.sum(change, axis=2)
        norms, _ = self.factors(theta, safe=True)
        factor, relative = jnp.prod(norms, axis=2), jnp.zeros((*norms.shape[:2], size))
        relative = relative + _onehot(t.norms.values, size, 1 / norms)
        diagonal = jnp.zeros((*norms.shape[:2], size))
        if t.systematics.values.shape[2]:
            rate, rate1, rate2 = with_slopes(self._rates, theta[t.systematics.values])
            factor = factor * jnp.prod(rate, axis=2)
            relative = relative + _onehot(t.systematics.values, size, rate1 / rate)
            diagonal = _onehot(t.systematics.values, size, rate2 / rate)
        yields, member = factor[..., None] * shape, self._membership()
        rest = jnp.sum(yields * (1 - member.sum(axis=0)), axis=1)
        scaled = jnp.sum(yields * member, axis=2)
        rest, scaled = jax.lax.optimization_barrier((rest, scaled))
        c = self.constraints(data.gammas)
        found = g.solve(n, rest, scaled, c)
        value = jnp.sum(jnp.where(self.mask > 0, g.joint(n, rest, scaled, c, found.gamma), 0.0))
        found = jax.lax.optimization_barrier(found)
        r = found.r * self.mask
        others = (1 - member.sum(axis=0)).astype(r.dtype)
        # weights of each sample: its factor, and how the profiled expectation answers to its yield
        own = others + jnp.sum(member * found.gamma[:, :, None], axis=0)
        answer = found.gamma - scaled * found.r * found.v
        reach = others + jnp.sum(member * answer[:, :, None], axis=0)
        stiff = self.mask * found.w / (1 + found.w * jnp.sum(scaled**2 * found.v, axis=0))
        pull = own * r[:, None]
        per_cell = jnp.sum(pull * yields, axis=2)
        gradient = jnp.einsum("csp,cs->p", relative, per_cell)
        cross = jnp.einsum("csp,csq,cs->pq", relative, relative, per_cell)
        # a factor's own second derivative is f''/f, not the square of f'/f, which is huge for a factor near zero
        own_bend = jnp.einsum("csp,cs->p", diagonal, per_cell)
        cross = jnp.where(np.eye(size, dtype=bool), own_bend, cross)
        jacobian = lambda weight: jnp.einsum("csp,csb->pcb", relative, weight * yields)
        if t.shapes.values.shape[2]:
            slope, bend = slope * factor[..., None, None], bend * factor[..., None, None]
            index = t.shapes.values
            moved = _onehot(index, size, jnp.sum(pull[:, :, None] * slope, axis=3))
            gradient = gradient + jnp.sum(moved, axis=(0, 1))
            mixed = jnp.einsum("csp,csq->pq", relative, moved)
            cross = cross + mixed + mixed.T
            curved = jnp.sum(_onehot(index, size, jnp.sum(pull[:, :, None] * bend, axis=3)), axis=(0, 1))
            cross = cross + jnp.diag(curved)
            hot = (index[..., None] == np.arange(size)).astype(float)
            norm_part = jacobian
            jacobian = lambda weight: norm_part(weight) + jnp.einsum("csqp,csqb->pcb", hot, weight[:, :, None] * slope)
        j = jacobian(reach).reshape(size, -1)
        hessian = cross + (j * stiff.reshape(-1)) @ j.T
        for k in range(t.n_slots):
            j = jacobian(member[k]).reshape(size, -1)
            hessian = hessian - (j * (r**2 * found.v[k]).reshape(-1)) @ j.T
        penalty, pen1, pen2 = with_slopes(lambda x: self._penalty(x, data.auxiliary), theta)
        return value + jnp.sum(penalty), gradient + pen1, hessian + jnp.diag(pen2)

    def best_gammas(self, theta: Float[Array, " parameter"], data: Observation) -> Float[Array, "slot channel bin"]:
        """Analytic factors at their best for `theta` and `data`; in masked bins only their constraint counts."""
        c = self.constraints(data.gammas)
        alone, _ = g.best_factor(jnp.zeros_like(self.mask), jnp.ones_like(c.spread), c)
        found = g.solve(self.grid(data.counts), *self.parts(theta), c).gamma
        return jnp.where(self.mask > 0, found, alone)

    def asimov(self, theta: Float[Array, " parameter"], data: Observation | None = None) -> Observation:
        """Expected main and auxiliary data at `theta`; analytic factors fitted to `data`, or at their start."""
        rest, scaled = self.parts(theta)
        nominal = self.constraints()
        gamma = self.gamma_init if data is None else self.best_gammas(theta, data)
        free = nominal.lower < nominal.upper
        auxiliary = jnp.where(nominal.poisson, nominal.spread * gamma, gamma)
        kinds = np.array(self.structure.kinds, dtype=int)
        return Observation(
            counts=self.flat(rest + jnp.sum(scaled * gamma, axis=0)),
            auxiliary=jnp.where(kinds == POISSON, self.spread * theta, theta),
            gammas=jnp.where(free, auxiliary, nominal.auxiliary),
        )

    def sample(
        self, theta: Float[Array, " parameter"], data: Observation | None = None, *, key: PRNGKeyArray
    ) -> Observation:
        """Main counts, auxiliary counts and constraint centres drawn; analytic factors as in `asimov`."""
        mean, nominal = self.asimov(theta, data), self.constraints()
        main, pois, gauss, side = jr.split(key, 4)
        draw = lambda key, rate: jr.poisson(key, jnp.maximum(rate, 0.0), dtype=jnp.int64).astype(float)
        normal = lambda key, at, width: at + width * jr.normal(key, at.shape, at.dtype)
        kinds, free = np.array(self.structure.kinds, dtype=int), nominal.lower < nominal.upper
        counts = draw(pois, jnp.where(nominal.poisson, mean.gammas, 0.0))
        gammas = jnp.where(nominal.poisson, counts, normal(gauss, mean.gammas, nominal.spread))
        auxiliary = jnp.where(kinds == GAUSS, normal(side, mean.auxiliary, self.spread), mean.auxiliary)
        if np.any(kinds == POISSON):
            counts = draw(jr.fold_in(side, 1), jnp.where(kinds == POISSON, mean.auxiliary, 0.0))
            auxiliary = jnp.where(kinds == POISSON, counts, auxiliary)
        return Observation(draw(main, mean.counts), auxiliary, jnp.where(free, gammas, mean.gammas))

    def constraint_of(self, data: Observation) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter in `theta`; both 0 for free parameters."""
        kinds = np.array(self.structure.kinds, dtype=int)
        poisson = kinds == POISSON
        center = jnp.where(poisson, data.auxiliary / self.spread, data.auxiliary)
        width = jnp.where(poisson, 1 / jnp.sqrt(jnp.where(poisson, self.spread, 1.0)), self.spread)
        return jnp.where(kinds == FREE, 0.0, center), jnp.where(kinds == FREE, 0.0, width)

    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Number of bins in use minus number of free parameters that the fit moves."""
        free = [k == FREE and name not in self.fixed for k, name in zip(self.structure.kinds, self.names, strict=True)]
        return jnp.sum(self.mask) - float(sum(free))

    def flat(self, grid: Float[Array, "channel bin"]) -> Float[Array, " bin"]:
        """The inverse of `grid`."""
        return grid.reshape(-1)[self.structure.flat()]

    def data(self, counts: Float[ArrayLike, " bin"]) -> Observation:
        """Observed counts, channels one after the other, with the nominal auxiliary data.

        Raises:
            ValueError: a number of counts that is not the number of bins, or counts that are negative or not finite.
        """
        counts = jnp.asarray(counts, dtype=float)
        require_float64(counts)
        if counts.shape != (sum(self.structure.bins),):
            msg = f"data: {sum(self.structure.bins)} counts are wanted, got shape {counts.shape}"
            raise ValueError(msg)
        if not isinstance(counts, Tracer) and not np.all(np.asarray(counts) >= 0):
            i = int(np.argmax(~(np.asarray(counts) >= 0)))
            msg = f"data: bin {i} has {float(counts[i])} counts, wanted a number that is not negative"
            raise ValueError(msg)
        return Observation(counts, self.center, self.constraints().auxiliary)


def _onehot(index: np.ndarray, size: int, values: Array) -> Array:
    """Sum over the last axis of values put at parameter `index`: (channel, sample, parameter)."""
    return jnp.einsum("csqp,csq->csp", (index[..., None] == np.arange(size)).astype(float), values)


def histfactory(
    channels: Sequence[Mapping[str, Any]],
    *,
    poi: str | None = "mu",
    parameters: Sequence[Mapping[str, Any]] = (),
    normsys_code: Literal["code1", "code4"] = "code4",
    histosys_code: Literal["code0", "code2", "code4p"] = "code4p",
) -> HistFactory:
    """A HistFactory model from a specification in pyhf's form.

    Args:
        channels: list of `{"name", "samples": [{"name", "data", "modifiers": [{"name", "type", "data"}]}]}`.
        poi: name of the parameter of interest; None for none.
        parameters: settings as in a pyhf measurement: `{"name", "inits", "bounds", "fixed", "auxdata", "sigmas"}`.
        normsys_code: interpolation of normsys.
        histosys_code: interpolation of histosys.

    Raises:
        ValueError: anything wrong with the specification, in one line that names the place; single precision.

    >>> signal = {"name": "s", "data": [5.0, 10.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    >>> unc = {"name": "db", "type": "shapesys", "data": [5.0, 12.0]}
    >>> background = {"name": "b", "data": [50.0, 60.0], "modifiers": [unc]}
    >>> model = histfactory([{"name": "SR", "samples": [signal, background]}])
    >>> model.names, model.asimov(model.init).counts.tolist()
    (('mu',), [55.0, 70.0])
    """
    structure, arrays, held = arrange(channels, {p["name"]: p for p in parameters})
    if poi is not None and poi not in structure.names:
        msg = f"no parameter {poi!r} to be the parameter of interest; the model has {', '.join(structure.names)}"
        raise ValueError(msg)
    leaves: dict[str, Any] = {key: jnp.asarray(value, dtype=float) for key, value in arrays.items()}
    require_float64(leaves["nominal"])
    mask = np.zeros(len(structure.bins) * structure.width)
    mask[structure.flat()] = 1.0
    return HistFactory(
        **leaves,
        mask=jnp.asarray(mask.reshape(len(structure.bins), structure.width)),
        structure=structure,
        poi=-1 if poi is None else structure.names.index(poi),
        held=held,
        normsys_code=normsys_code,
        histosys_code=histosys_code,
    )
