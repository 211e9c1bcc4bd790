r"""A bump on a smooth background: the shape fit of a resonance search, four parameters.

$\lambda_j = \mu\,s_j(\alpha) + \nu\,b_j\,e^{\beta (x_j - x_0)/\Delta}$ with the signal strength $\mu$, an energy-scale
nuisance $\alpha$ (unit-normal constraint; templates at -1, 0, +1 sigma, interpolated by HistFactory's code 4p), a free
background normalisation $\nu$ and a free slope $\beta$; $x_0$ is the middle and $\Delta$ the length of the range.
"""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.inference.interpolation import code4p
from diffhep.inference.likelihood import (
    AbstractModel,
    Data,
    binned_constraint,
    binned_derivatives,
    binned_nll,
    binned_sample,
    require_float64,
)


class ResonanceSearch(AbstractModel):
    """Parameters `mu` (start 1), `energy_scale` (constrained, start 0), `norm` (start 1), `slope` (start 0).

    Build it with `resonance_search`. All arrays are leaves: the fits are differentiable in every template.
    """

    signal: Float[Array, " bin"]
    signal_up: Float[Array, " bin"]
    signal_down: Float[Array, " bin"]
    background: Float[Array, " bin"]
    position: Float[Array, " bin"]
    init: Float[Array, " parameter"]
    lower: Float[Array, " parameter"]
    upper: Float[Array, " parameter"]
    names: tuple[str, ...] = eqx.field(static=True, default=("mu", "energy_scale", "norm", "slope"))
    poi: int = eqx.field(static=True, default=0)
    constrained: ClassVar[tuple[bool, ...]] = (False, True, False, False)

    def expected(self, theta: Float[Array, " parameter"]) -> Float[Array, " bin"]:
        """Expected counts per bin."""
        mu, alpha, norm, slope = theta
        signal = self.signal + code4p(self.signal_down, self.signal, self.signal_up, alpha)
        return mu * signal + norm * self.background * jnp.exp(slope * self.position)

    def nll(self, theta: Float[Array, " parameter"], data: Data) -> Float[Array, ""]:
        """Half the deviance of the counts plus half the squared pull of the energy scale."""
        return binned_nll(self.expected(theta), theta, self.constrained, data)

    def derivatives(
        self, theta: Float[Array, " parameter"], data: Data
    ) -> tuple[Float[Array, ""], Float[Array, " parameter"], Float[Array, "parameter parameter"]]:
        """`nll` with its gradient and Hessian."""
        return binned_derivatives(self.expected, theta, self.constrained, data)

    def asimov(self, theta: Float[Array, " parameter"], data: Data | None = None) -> Data:
        """Expected counts and the constraint's centre at `theta`."""
        del data
        return Data(self.expected(theta), theta)

    def sample(self, theta: Float[Array, " parameter"], data: Data | None = None, *, key: PRNGKeyArray) -> Data:
        """Poisson counts, and the constraint's centre scattered by one."""
        del data
        return binned_sample(self.expected(theta), theta, self.constrained, key)

    def constraint_of(self, data: Data) -> tuple[Float[Array, " parameter"], Float[Array, " parameter"]]:
        """Centre and width of the constraint of every parameter; both 0 for free parameters."""
        return binned_constraint(self.constrained, data)

    def degrees_of_freedom(self) -> Float[Array, ""]:
        """Number of bins minus the three free parameters."""
        return jnp.asarray(self.signal.size - 3.0)


def resonance_search(
    signal: Float[ArrayLike, " bin"],
    background: Float[ArrayLike, " bin"],
    centers: Float[ArrayLike, " bin"],
    *,
    signal_up: Float[ArrayLike, " bin"] | None = None,
    signal_down: Float[ArrayLike, " bin"] | None = None,
) -> ResonanceSearch:
    """The model of a bump on a smooth background.

    Args:
        signal: expected signal per bin at mu = 1.
        background: expected background per bin; where it comes from few simulated events pass it through
            `smooth_counts` first, because a bin without background makes its signal count for certain.
        centers: bin centres, any unit; only their relative position matters.
        signal_up: signal with the energy scale raised by one sigma; default no energy-scale uncertainty.
        signal_down: signal with the energy scale lowered by one sigma.

    Raises:
        ValueError: lengths that differ, negative or non-finite yields, centres that do not increase, single precision.

    >>> x = jnp.linspace(-4.0, 4.0, 41)
    >>> bump = 10 * jnp.exp(-0.5 * x**2)
    >>> resonance_search(bump, jnp.full(41, 100.0), x).names
    ('mu', 'energy_scale', 'norm', 'slope')
    """
    given = {"signal": signal, "background": background, "centers": centers}
    given["signal_up"] = signal if signal_up is None else signal_up
    given["signal_down"] = signal if signal_down is None else signal_down
    arrays = {name: jnp.asarray(x, dtype=float) for name, x in given.items()}
    for name, x in arrays.items():
        if x.ndim != 1 or x.shape != arrays["signal"].shape or x.size < 2:
            msg = f"{name}: one list of {arrays['signal'].size} bins (2 or more) is wanted, got shape {x.shape}"
            raise ValueError(msg)
        if not isinstance(x, Tracer) and name != "centers" and not np.all(np.asarray(x) >= 0):
            worst = int(np.argmin(np.nan_to_num(np.asarray(x), nan=-np.inf)))
            msg = f"{name}: bin {worst} has yield {float(x[worst])}, wanted a number that is not negative"
            raise ValueError(msg)
    x = arrays["centers"]
    if not isinstance(x, Tracer) and not np.all(np.diff(np.asarray(x)) > 0):
        i = int(np.argmin(np.diff(np.asarray(x)) > 0))
        msg = f"centers: increasing positions are wanted, got {float(x[i])} followed by {float(x[i + 1])}"
        raise ValueError(msg)
    require_float64(arrays["signal"])
    return ResonanceSearch(
        signal=arrays["signal"],
        signal_up=arrays["signal_up"],
        signal_down=arrays["signal_down"],
        background=arrays["background"],
        position=(x - 0.5 * (x[0] + x[-1])) / (x[-1] - x[0]),
        init=jnp.array([1.0, 0.0, 1.0, 0.0]),
        lower=jnp.full(4, -jnp.inf),
        upper=jnp.full(4, jnp.inf),
    )
