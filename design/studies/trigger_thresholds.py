r"""Thresholds of independent triggers under a rate budget (reference problem R4).

Trigger i accepts a signal above its threshold with efficiency $\epsilon_i = e^{-t_i/\mu_i}$, at the rate
$r_i = A_i e^{-t_i/\lambda_i}$; $\sum_i w_i\epsilon_i$ is made large while $\sum_i r_i \le R$. Stationarity gives
$t_i = \max(0, [\ln\nu + \ln(A_i\mu_i/(\lambda_i w_i))]/(1/\lambda_i - 1/\mu_i))$ with one multiplier $\nu$.

With `events.count` the same is done without knowing the spectra: events are drawn, the gradient is the flux of events
through each threshold, and the result is judged with hard cuts on other events. Background is drawn from a harder
spectrum and weighted, as any sample must be of which one event in ten thousand passes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.design.honest import Measured, measure_with_error
from diffhep.design.parametric import ParametricStudy
from diffhep.design.problem import Constraint, Outcome
from diffhep.design.reference_config import MenuSettings, TriggerThresholdsSettings
from diffhep.gates import Boundary, Hard
from diffhep.parameters import Param, Scalar, resolve


class Thresholds(eqx.Module):
    """The design: one threshold a trigger [GeV]."""

    threshold: tuple[Scalar, ...]


class Spectra(NamedTuple):
    """Sampled events, one row a trigger; weights are efficiencies and rates [Hz] per event."""

    signal: Float[Array, "trigger event"]
    background: Float[Array, "trigger event"]
    efficiency: Float[Array, "trigger event"]
    rate: Float[Array, "trigger event"]


class TriggerThresholds(ParametricStudy):
    """The study; see the module's text."""

    settings: TriggerThresholdsSettings
    name = "trigger-thresholds"
    objective_name = "weighted signal efficiency"

    def __init__(self, settings: TriggerThresholdsSettings):
        menu = settings.menu
        lengths = {len(menu.signal_mean), len(menu.background_mean), len(menu.background_rate), len(menu.weight)}
        if len(lengths) > 1:
            msg = "menu: signal_mean, background_mean, background_rate and weight must be equally long"
            raise ValueError(msg)
        self.settings = settings
        context: tuple = ()
        if settings.events.count:
            self.estimator = "hard cuts: flux of events through the threshold (Boundary gate)"
            # an evaluation takes a tenth of a second
            self.exact = self.compared = False
            keys = jr.split(jr.key(settings.search.seed), 2)
            context, self.fresh = (draw(menu, settings.events.count, settings.events.stretch, key=k) for k in keys)
            gate = Boundary(settings.events.bandwidth)
            self.judges = {relaxed: self.judge_with(gate.smooth if relaxed else Hard()) for relaxed in (True, False)}
        super().__init__(settings, (Constraint("rate", menu.rate, "Hz"),), context)

    def layout(self) -> Thresholds:
        """Thresholds that share the rate equally."""
        menu = self.settings.menu
        share = menu.rate / len(menu.weight)
        equal = [
            l * np.log(max(a / share, 1.01)) for a, l in zip(menu.background_rate, menu.background_mean, strict=True)
        ]
        bounds = (0.0, menu.highest)
        values = np.clip(equal, 1e-3 * menu.highest, 0.999 * menu.highest)
        return Thresholds(tuple(Param(float(t), unit="GeV", role="threshold", bounds=bounds) for t in values))

    def evaluate(self, design: Thresholds, context: Any) -> Outcome:
        """Weighted efficiency and total rate, in closed form or from events."""
        menu, cut = self.settings.menu, jnp.stack(resolve(design).threshold)
        if not self.settings.events.count:
            efficiency = jnp.exp(-cut / jnp.asarray(menu.signal_mean))
            rate = jnp.asarray(menu.background_rate) * jnp.exp(-cut / jnp.asarray(menu.background_mean))
            return Outcome(jnp.sum(jnp.asarray(menu.weight) * efficiency), jnp.sum(rate)[None])
        return counted(cut, Boundary(self.settings.events.bandwidth).smooth, context)

    def settle(self, design: Thresholds) -> Thresholds:
        """All thresholds moved together, as little as possible, until the hard rate meets its budget."""
        if not self.settings.events.count:
            return design
        cuts = np.array([float(p.unwrap()) for p in design.threshold])
        # an event is kept up to this common shift of all thresholds
        last = (np.asarray(self.problem.context.background) - cuts[:, None]).ravel()
        order = np.argsort(-last)
        rate = np.cumsum(np.asarray(self.problem.context.rate).ravel()[order])
        first_too_many = int(np.searchsorted(rate, self.settings.menu.rate, side="right"))
        shift = last[order][min(first_too_many, last.size - 1)] + 1e-9
        moved = np.clip(cuts + shift, 1e-6, self.settings.menu.highest - 1e-6)
        return Thresholds(tuple(p.at(float(t)) for p, t in zip(design.threshold, moved, strict=True)))

    def judge_with(self, gate: Callable[[Array], Array]) -> Any:
        """Compiled objective and rate, with errors, behind a gate."""

        def outcome(design: Thresholds, factors: Mapping[str, Array], context: Spectra) -> dict[str, Array]:
            shape = context.signal.shape
            weighted = context._replace(
                efficiency=context.efficiency * factors["signal"].reshape(shape),
                rate=context.rate * factors["background"].reshape(shape),
            )
            out = counted(jnp.stack(resolve(design).threshold), gate, weighted)
            return {"objective": out.objective, "rate": out.used[0]}

        return measure_with_error(outcome)

    def judge(self, design: Thresholds, *, relaxed: bool) -> Mapping[str, Measured]:
        """On events that were not used before, with errors; in closed form there is nothing to add."""
        if not self.settings.events.count:
            return super().judge(design, relaxed=relaxed)
        size = self.fresh.signal.size
        return self.judges[relaxed](design, {"signal": size, "background": size}, self.fresh)


def counted(cut: Float[Array, " trigger"], gate: Callable[[Array], Array], events: Spectra) -> Outcome:
    """Weighted efficiency and rate of the events above each threshold."""
    efficiency = jnp.sum(events.efficiency * gate(events.signal - cut[:, None]))
    rate = jnp.sum(events.rate * gate(events.background - cut[:, None]))
    return Outcome(efficiency, rate[None])


def draw(menu: MenuSettings, count: int, stretch: float, *, key: PRNGKeyArray) -> Spectra:
    """Events of every spectrum; background from one `stretch` times as hard, weighted back."""
    first, second = jr.split(key)
    shape = (len(menu.weight), count)
    column = lambda values: jnp.asarray(values, dtype=float)[:, None]
    signal = column(menu.signal_mean) * jr.exponential(first, shape)
    mean = column(menu.background_mean)
    background = stretch * mean * jr.exponential(second, shape)
    ratio = stretch * jnp.exp(-background / mean * (1 - 1 / stretch))
    return Spectra(
        signal,
        background,
        jnp.broadcast_to(column(menu.weight) / count, shape),
        column(menu.background_rate) / count * ratio,
    )
