r"""Hypothesis tests from profile-likelihood ratios, in the asymptotic approximation (Cowan et al., arXiv:1007.1727).

Test statistics, with $t(\mu) = 2[\mathrm{nll}(\mu, \hat{\hat\theta}) - \mathrm{nll}(\hat\mu, \hat\theta)]$:

- $q_0$ (eq. 12): t(0) for a best fit above 0, otherwise 0;
- $q_\mu$ (eq. 14): t(mu) for a best fit below mu, otherwise 0;
- $\tilde q_\mu$ (eq. 16): the same, with the best fit replaced by 0 where it is negative.

CLs is the ratio of tail probabilities (A. L. Read, J. Phys. G 28 (2002) 2693). Asimov data sets are post-fit: expected
main and auxiliary data at the conditional fit to the observed ones, with mu = 0 for limits and mu = 1 for discoveries.

Derivatives: of q by the envelope theorem, of the Asimov data by the implicit function theorem. Where q is 0 (a best fit
on the wrong side, or no signal), q and sqrt(q) have gradient 0. Where the best fit sits on its bound, it stays there.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from diffhep.inference.asymptotics import root_of_q
from diffhep.inference.fitting import nll_each, poi_of, repeat, search_each, theta_each
from diffhep.inference.likelihood import AbstractModel
from diffhep.inference.newton import Minimum, constant

Statistic = Literal["q", "qtilde"]
BANDS = np.array([2.0, 1.0, 0.0, -1.0, -2.0])


class HypothesisTest(eqx.Module):
    """Result of testing one signal strength.

    Attributes:
        mu: the strength tested.
        observed: observed CLs; its complement is the confidence level at which mu is excluded.
        expected: expected CLs if there is no signal, at -2, -1, 0, +1, +2 standard deviations (smallest first).
        cl_sb: p-value of signal and background.
        cl_b: p-value of background alone.
        q: observed test statistic.
        q_asimov: its median if there is no signal.
        mu_hat: best fit of the strength.
        converged: whether all fits converged; without it the numbers mean nothing.
        gradient_norm: largest gradient of the fits.
    """

    mu: Float[Array, ""]
    observed: Float[Array, ""]
    expected: Float[Array, "5"]
    cl_sb: Float[Array, ""]
    cl_b: Float[Array, ""]
    q: Float[Array, ""]
    q_asimov: Float[Array, ""]
    mu_hat: Float[Array, ""]
    converged: Bool[Array, ""]
    gradient_norm: Float[Array, ""]


class DiscoveryTest(eqx.Module):
    """Result of testing the background-only hypothesis.

    Attributes:
        observed: significance of the observed data, sqrt(q0).
        expected: median significance of a signal of nominal strength, nuisance parameters fitted to the data.
        p_value: of the background-only hypothesis.
        q0: observed test statistic.
        mu_hat: best fit of the strength.
        converged: whether all fits converged.
        gradient_norm: largest gradient of the fits.
    """

    observed: Float[Array, ""]
    expected: Float[Array, ""]
    p_value: Float[Array, ""]
    q0: Float[Array, ""]
    mu_hat: Float[Array, ""]
    converged: Bool[Array, ""]
    gradient_norm: Float[Array, ""]


def hypothesis_test(
    model: AbstractModel, data: PyTree, mu: Float[ArrayLike, ""] = 1.0, *, statistic: Statistic = "qtilde"
) -> HypothesisTest:
    """CLs of a signal strength with its expected bands.

    Args:
        model: the model, float64.
        data: observed data.
        mu: the strength to test, positive.
        statistic: "qtilde" (the default of the field) or "q".

    Raises:
        ValueError: no parameter of interest, single precision, an unknown statistic.

    >>> from diffhep.inference import histfactory
    >>> signal = {"name": "s", "data": [12.0, 11.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    >>> unc = {"name": "db", "type": "shapesys", "data": [3.0, 7.0]}
    >>> background = {"name": "b", "data": [50.0, 52.0], "modifiers": [unc]}
    >>> model = histfactory([{"name": "SR", "samples": [signal, background]}])
    >>> result = hypothesis_test(model, model.data([51.0, 48.0]))
    >>> round(float(result.observed), 8), [round(float(x), 4) for x in result.expected]
    (0.05251553, [0.0026, 0.0138, 0.0645, 0.2353, 0.573])
    """
    poi_of(model)
    check_statistic(statistic)
    return _hypothesis_test(model, data, jnp.asarray(mu, dtype=float), statistic)


@eqx.filter_jit
def _hypothesis_test(model: AbstractModel, data: PyTree, mu: Array, statistic: Statistic) -> HypothesisTest:
    zero = jnp.zeros_like(mu)
    fits = _two_stages(model, data, [mu, mu, zero], (False, True, True), [(2, mu)])
    return _hypothesis_result(model, mu, fits, statistic)


def discovery_test(model: AbstractModel, data: PyTree) -> DiscoveryTest:
    """Observed and expected significance of an excess over the background.

    Args:
        model: the model, float64.
        data: observed data.

    Raises:
        ValueError: no parameter of interest, single precision.
    """
    poi_of(model)
    return _discovery_test(model, data)


@eqx.filter_jit
def _discovery_test(model: AbstractModel, data: PyTree) -> DiscoveryTest:
    zero, one = jnp.zeros(()), jnp.ones(())
    fits = _two_stages(model, data, [one, zero, one], (False, True, True), [(2, zero)])
    return _discovery_result(model, fits, fits.nll[1])


def infer(
    model: AbstractModel, data: PyTree, mu: Float[ArrayLike, ""] = 1.0, *, statistic: Statistic = "qtilde"
) -> tuple[HypothesisTest, DiscoveryTest]:
    """`hypothesis_test` and `discovery_test` together, sharing their fits: six in two loops."""
    poi_of(model)
    check_statistic(statistic)
    return _infer(model, data, jnp.asarray(mu, dtype=float), statistic)


@eqx.filter_jit
def _infer(model: AbstractModel, data: PyTree, mu: Array, statistic: Statistic) -> tuple[HypothesisTest, DiscoveryTest]:
    zero, one = jnp.zeros_like(mu), jnp.ones_like(mu)
    fits = _two_stages(model, data, [mu, mu, zero, one], (False, True, True, True), [(2, mu), (3, zero)])
    return _hypothesis_result(model, mu, fits, statistic), _discovery_result(model, fits, fits.nll[2])


class _Stages(eqx.Module):
    """Fits to the data and to the Asimov sets made from some of them.

    Attributes:
        theta: parameters of the fits to the data.
        nll: negative log-likelihoods of the fits to the data.
        asimov: those of the fits to the Asimov data.
        converged: whether all of them did.
        gradient_norm: largest gradient among them.
    """

    theta: Float[Array, "fit parameter"]
    nll: Float[Array, " fit"]
    asimov: Float[Array, " test"]
    converged: Bool[Array, ""]
    gradient_norm: Float[Array, ""]


def _two_stages(
    model: AbstractModel,
    data: PyTree,
    strengths: list[Array],
    held: tuple[bool, ...],
    tests: list[tuple[int, Array]],
) -> _Stages:
    """Fits to the data at the given strengths, held or not, and tests of Asimov data: of which fit, at which strength.

    The fits of both stages run in one loop that is compiled once. Derivatives are attached afterwards: one envelope for
    all likelihoods, one implicit function for all parameters.
    """
    n, place = len(held), np.eye(len(model.names))[model.poi]
    # as many tests as fits, the last one again and again: the loop wants equal shapes
    source = np.array([test[0] for test in tests] + [tests[-1][0]] * (n - len(tests)))
    tested = jnp.stack([test[1] for test in tests] + [tests[-1][1]] * (n - len(tests)))
    values = jnp.stack([jnp.stack(strengths), tested])[..., None] * place
    mask = np.stack([held, np.ones_like(held)])[..., None] & (place > 0)
    # the loop is given constants only: otherwise it is traced with derivatives that nothing asks for
    still, seen = constant((model, data))

    def stage(state: tuple, inputs: tuple) -> tuple[tuple, Minimum]:
        fits = search_each(still, state[0], *inputs, start=state[1])
        theta = fits.theta[source]
        return (jax.vmap(lambda t: still.asimov(t, seen))(theta), theta), fits

    sets = repeat(data, n)
    start = jnp.broadcast_to(model.init, values.shape[1:])
    _, fits = jax.lax.scan(stage, constant((sets, start)), (constant(values), jnp.asarray(mask)))
    first = jax.tree.map(lambda x: x[0], fits)
    theta = theta_each(model, sets, values[0], mask[0], first)
    # likelihoods of all fits to the data, and of those to Asimov data that are asked for
    both = lambda x: jax.tree.map(lambda y: jnp.concatenate([y[0], y[1, : len(tests)]]), x)
    made = jax.vmap(lambda t: model.asimov(t, data))(theta[source[: len(tests)]])
    sets = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), sets, made)
    nll = nll_each(model, sets, both(values), both(mask), both(fits))
    return _Stages(theta, nll[:n], nll[n:], jnp.all(fits.converged), jnp.max(fits.gradient_norm))


def _hypothesis_result(model: AbstractModel, mu: Array, fits: _Stages, statistic: Statistic) -> HypothesisTest:
    mu_hat = fits.theta[0, model.poi]
    q = statistics(mu, mu_hat, fits.nll[0], fits.nll[1], fits.nll[2], statistic)
    q_asimov = 2 * fits.asimov[0]
    log_sb, log_b = tails(q, q_asimov, statistic)
    return HypothesisTest(
        mu=mu,
        observed=jnp.exp(log_sb - log_b),
        expected=jnp.exp(expected_log_cls(q_asimov)),
        cl_sb=jnp.exp(log_sb),
        cl_b=jnp.exp(log_b),
        q=q,
        q_asimov=q_asimov,
        mu_hat=mu_hat,
        converged=fits.converged,
        gradient_norm=fits.gradient_norm,
    )


def _discovery_result(model: AbstractModel, fits: _Stages, at_zero: Array) -> DiscoveryTest:
    mu_hat = fits.theta[0, model.poi]
    q0 = _positive(jnp.where(mu_hat >= 0, 2 * (at_zero - fits.nll[0]), 0.0))
    return DiscoveryTest(
        observed=root_of_q(q0),
        expected=root_of_q(2 * fits.asimov[-1]),
        p_value=jnp.exp(log_ndtr(-root_of_q(q0))),
        q0=q0,
        mu_hat=mu_hat,
        converged=fits.converged,
        gradient_norm=fits.gradient_norm,
    )


def statistics(mu: Array, mu_hat: Array, best: Array, at_mu: Array, at_zero: Array, statistic: Statistic) -> Array:
    """q_mu or q~_mu from the likelihoods of the best fit and of the fits at mu and 0."""
    if statistic == "qtilde":
        best = jnp.where(mu_hat < 0, at_zero, best)
    return _positive(jnp.where(mu_hat <= mu, 2 * (at_mu - best), 0.0))


def tails(q: Array, q_asimov: Array, statistic: Statistic = "qtilde") -> tuple[Array, Array]:
    """Logarithms of CLs+b and CLb (arXiv:1007.1727 eq. 57, 65 and 66)."""
    root, root_asimov = root_of_q(q), root_of_q(q_asimov)
    distance = root - root_asimov
    if statistic == "qtilde":
        beyond = (q > q_asimov) & (root_asimov > 0)
        safe = jnp.where(beyond, root_asimov, 1.0)
        distance = jnp.where(beyond, (q - q_asimov) / (2 * safe), distance)
    return log_ndtr(-distance - root_asimov), log_ndtr(-distance)


def expected_log_cls(q_asimov: Array) -> Array:
    """Logarithm of the expected CLs at -2 ... +2 standard deviations of the background (smallest CLs first)."""
    bands = BANDS.reshape((5,) + (1,) * jnp.ndim(q_asimov))
    return log_ndtr(-bands - root_of_q(q_asimov)) - log_ndtr(-bands)


def _positive(q: Array) -> Array:
    """Rounding below zero is zero."""
    return jnp.where(q > 0, q, 0.0)


def check_statistic(statistic: str) -> None:
    """Refuses a test statistic that does not exist."""
    if statistic not in ("q", "qtilde"):
        msg = f"no test statistic {statistic!r}; there are 'q' and 'qtilde'"
        raise ValueError(msg)
