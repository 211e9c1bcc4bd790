r"""Significances from the asymptotic distribution of likelihood ratios (Cowan et al., arXiv:1007.1727).

$q_0 = 2[\mathrm{nll}(0, \hat{\hat\theta}) - \mathrm{nll}(\hat\mu, \hat\theta)]$ for $\hat\mu \ge 0$, otherwise 0
(eq. 12); $Z = \sqrt{q_0}$ (eq. 52). On the Asimov data set of $\mu = 1$ the second term is zero, and Z is the median
discovery significance. Derivatives follow from the envelope theorem.

Convention at zero: where q is 0, $\sqrt q$ has value 0 and gradient 0. For $q_0 \propto s^2$ the significance is a norm
of the signal, like |s| at s = 0, and zero lies in its subgradient; at any s > 0 the gradient is the true one.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from diffhep.inference.fitting import fit, information, variance_of
from diffhep.inference.likelihood import AbstractModel, poisson_deviance
from diffhep.kinematics import safe_sqrt


class Discovery(eqx.Module):
    """Expected discovery of a signal of nominal strength.

    Attributes:
        significance: median expected Z, in standard deviations.
        q0: its square, twice the log-likelihood ratio.
        sigma_mu: standard deviation of the signal strength from the Hessian at the Asimov point (1 divided by it is the
            significance in the limit of a small signal); inf where the signal is zero.
        converged: whether the fits converged; without it the numbers mean nothing.
        gradient_norm: largest gradient of the fits.
    """

    significance: Float[Array, ""]
    q0: Float[Array, ""]
    sigma_mu: Float[Array, ""]
    converged: Bool[Array, ""]
    gradient_norm: Float[Array, ""]


@eqx.filter_jit
def expected_discovery(model: AbstractModel, data: PyTree | None = None) -> Discovery:
    """Median discovery significance and uncertainty of the signal strength, from the mu = 1 Asimov data set.

    Without `data` the nuisance parameters of the Asimov data set are at the model's start values (pre-fit); with `data`
    they are at their conditional fit to it with mu = 1 (post-fit), and derivatives take that into account.

    Args:
        model: the model, float64; usable under jit and vmap, differentiable in all its arrays.
        data: observed data.

    >>> from diffhep.inference import resonance_search
    >>> x = jnp.linspace(-4.0, 4.0, 81)
    >>> bump = 5 * jnp.exp(-0.5 * x**2)
    >>> found = expected_discovery(resonance_search(bump, jnp.full(81, 100.0), x))
    >>> round(float(found.significance), 2), bool(found.converged)
    (1.56, True)
    """
    mu = model.names[model.poi]
    truth = model.init.at[model.poi].set(1.0)
    converged, norm = jnp.array(True), jnp.zeros(())
    if data is not None:
        post = fit(model, data, fixed={mu: 1.0})
        truth, converged, norm = post.theta, post.converged, post.gradient_norm
    asimov = model.asimov(truth, data)
    background = fit(model, asimov, fixed={mu: 0.0}, start=truth)
    # the Asimov data fit their own truth perfectly: nll(mu-hat) is exactly zero in deviance form
    q0 = 2 * background.nll
    variance = variance_of(information(model, truth, asimov), model.poi)
    return Discovery(
        significance=root_of_q(q0),
        q0=q0,
        sigma_mu=jnp.where(
            jnp.isfinite(variance), safe_sqrt(jnp.where(jnp.isfinite(variance), variance, 1.0)), jnp.inf
        ),
        converged=converged & background.converged,
        gradient_norm=jnp.maximum(norm, background.gradient_norm),
    )


def discovery_significance(model: AbstractModel, data: PyTree | None = None) -> Float[Array, ""]:
    """Median expected significance: `expected_discovery(model, data).significance`; NaN if a fit did not converge."""
    found = expected_discovery(model, data)
    return jnp.where(found.converged, found.significance, jnp.nan)


def poi_uncertainty(model: AbstractModel, theta: Float[Array, " parameter"], data: PyTree) -> Float[Array, ""]:
    """Standard deviation of the parameter of interest from the Hessian at `theta`, the others profiled."""
    return safe_sqrt(variance_of(information(model, theta, data), model.poi))


def root_of_q(q: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root of a test statistic; value and gradient 0 at 0 and below 1e-20, where q is rounding."""
    return safe_sqrt(q, floor=1e-20)


def asimov_significance(
    signal: Float[ArrayLike, "*bin"],
    background: Float[ArrayLike, "*bin"],
    background_variance: Float[ArrayLike, "*bin"] | float = 0.0,
) -> Float[Array, ""]:
    r"""Median discovery significance of a counting experiment of independent bins, in closed form.

    Each bin has its own background uncertainty with a Poisson constraint of $\tau = b^2/v$ auxiliary events
    (arXiv:1007.1727 eq. 97 without it; G. Cowan, "Discovery sensitivity for a counting experiment with background
    uncertainty", 2012, eq. 20 with it). Written with deviances, so that neither v -> 0 nor s -> 0 loses precision.

    Args:
        signal: expected signal per bin.
        background: expected background per bin, positive.
        background_variance: its variance; 0 for a background that is known.

    >>> round(float(asimov_significance(jnp.array(10.0), jnp.array(100.0))), 6)
    0.983992
    """
    s, b, v = jnp.broadcast_arrays(*(jnp.asarray(x, dtype=float) for x in (signal, background, background_variance)))
    # conditional fit at mu = 0: background (b + s share) in the main measurement, and tau times (1 + s share / b)
    # in the auxiliary one, with the share v/(b + v) of the signal that the constraint lets the background absorb
    shift = s * v / (b + v)
    main = poisson_deviance(s + b, b + shift)
    tau = b**2 / jnp.where(v > 0, v, 1.0)
    auxiliary = jnp.where(v > 0, poisson_deviance(tau, tau * (1 + shift / b)), 0.0)
    return root_of_q(jnp.sum(main + auxiliary))
