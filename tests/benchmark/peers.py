"""The JAX peers, in a process and an environment of their own: evermore works with flax 0.12.2 only.

Started by `tests.benchmark.run` with the Python of `.venv-peers` (see `peers.txt`). Answers as
`tests.benchmark.answers` says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import evermore as evm
import everwillow
import everwillow.statelib as sl
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from everwillow.hypotest.calculators import AsymptoticCalculator
from everwillow.hypotest.distributions import Q0Asymptotic, QTildeAsymptotic
from everwillow.hypotest.test_statistics import Q0, QTilde
from flax import nnx

from tests.benchmark.answers import serve
from tests.specifications import Specs

jax.config.update("jax_enable_x64", True)

# as tight as our own fits are, and enough steps for 200 nuisance parameters
SOLVER = {"solver": optimistix.BFGS(rtol=1e-7, atol=1e-7), "max_steps": 2000}


class Counting:
    """The model U(n) as a user of everwillow writes it: a Poisson constraint a bin, data main and auxiliary."""

    def __init__(self, bins: int):
        s, b, error, observed = Specs().yields(bins)
        self.signal, self.background, self.tau = jnp.asarray(s), jnp.asarray(b), jnp.asarray((b / error) ** 2)
        self.data = {"main": jnp.asarray(observed), "auxiliary": self.tau}
        self.start = sl.State.from_pytree({"mu": jnp.asarray(1.0), "gamma": jnp.ones(bins)})

    def expected(self, state: Any) -> dict[str, jax.Array]:
        values = state.to_pytree()
        return self.means(values["mu"], values["gamma"])

    def means(self, mu: jax.Array, gamma: jax.Array) -> dict[str, jax.Array]:
        return {"main": mu * self.signal + gamma * self.background, "auxiliary": gamma * self.tau}

    def nll(self, values: Any, data: Any) -> jax.Array:
        means = self.means(values["mu"], values["gamma"])
        return sum(jnp.sum(means[k] - data[k] * jnp.log(means[k])) for k in data)

    def fit(self, data: Any) -> jax.Array:
        return everwillow.fit(self.nll, self.start, data, **SOLVER).params.to_pytree()["mu"]

    def tests(self, data: Any) -> jax.Array:
        """Observed CLs, its five bands (smallest first) and the p-value of the discovery test."""
        given = (self.nll, self.start, data, "mu")
        limit = AsymptoticCalculator(*given, QTilde(), QTildeAsymptotic(), predict_fn=self.expected)
        found = limit.test(1.0, **SOLVER)
        bands = jnp.sort(jnp.stack([band for _, band in limit.expected(found).cl_s]))
        discovery = AsymptoticCalculator(*given, Q0(), Q0Asymptotic(), predict_fn=self.expected, mu_asimov=1.0)
        return jnp.concatenate([limit.cls(found)[None], bands, discovery.test(0.0, **SOLVER).pnull[None]])


class Parameters(NamedTuple):
    mu: Any
    gamma: Any


class Staterror:
    """The model G(n) of evermore's building blocks: a Gaussian constraint of 10 % a bin."""

    def __init__(self, bins: int):
        s, b, _, observed = Specs().yields(bins)
        self.signal, self.background, self.observed = jnp.asarray(s), jnp.asarray(b), jnp.asarray(observed)
        parameters = Parameters(evm.Parameter(1.0), evm.NormalParameter(jnp.zeros(bins)))
        self.graph, self.start, self.rest = nnx.split(parameters, evm.filter.is_dynamic_parameter, ...)

    def nll(self, state: Any, observed: jax.Array) -> jax.Array:
        parameters = nnx.merge(self.graph, state, self.rest)
        background = parameters.gamma.scale(slope=0.1, offset=1.0)(self.background)
        mean = parameters.mu.scale()(self.signal) + background
        constraint = evm.util.sum_over_leaves(jax.tree.map(jnp.sum, evm.loss.get_log_probs(parameters)))
        return -jnp.sum(evm.pdf.PoissonContinuous(lamb=mean).log_prob(observed)) - constraint

    def fit(self, observed: jax.Array) -> jax.Array:
        found = optimistix.minimise(self.nll, y0=self.start, args=observed, throw=False, **SOLVER)
        return nnx.merge(self.graph, found.value, self.rest).mu.get_value()


def tasks() -> dict[str, Callable[[], Any]]:
    """Every task by name."""
    counting, staterror = Counting(200), Staterror(200)
    s, b, _, _ = Specs().yields(200)
    toys = jnp.asarray(np.random.default_rng(1).poisson(b + 0.4 * s, (1000, b.size)).astype(float))
    fit, tests, many = jax.jit(counting.fit), jax.jit(counting.tests), jax.jit(jax.vmap(staterror.fit))
    return {
        "everwillow fit": lambda: fit(counting.data),
        "everwillow tests": lambda: tests(counting.data),
        # our signal strength is not negative
        "evermore 100 fits": lambda: jnp.maximum(many(toys[:100]), 0.0),
        "evermore 1000 fits": lambda: jnp.maximum(many(toys), 0.0),
    }


def main() -> None:
    # results are waited for, whatever they are
    waited = {name: lambda work=work: jax.block_until_ready(work()) for name, work in tasks().items()}
    serve(waited, lambda found: np.ravel(found).tolist())


if __name__ == "__main__":
    main()
