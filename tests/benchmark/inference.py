"""Inference against pyhf, everwillow and evermore: reference models of 200 bins and the large one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
from pyhf.infer import hypotest, mle
from pyhf.infer.intervals import upper_limits

from diffhep.inference import (
    DiscoveryTest,
    HistFactory,
    HypothesisTest,
    Observation,
    fit,
    fit_many,
    histfactory,
    infer,
    upper_limit,
)
from tests.benchmark.harness import Peer, Row
from tests.specifications import Specs


def jax_backend() -> None:
    pyhf.set_backend("jax", "scipy")


def numpy_backend() -> None:
    pyhf.set_backend("numpy", "scipy")


def model_of(channels: list, settings: list, observed: np.ndarray) -> tuple[HistFactory, Observation]:
    """Our model and its data."""
    model = histfactory(channels, parameters=settings)
    return model, model.data(observed)


def twin_of(channels: list, settings: list, observed: np.ndarray) -> tuple[Any, list[float]]:
    """pyhf's model and its data."""
    twin = pyhf.Model({"channels": channels, "parameters": settings}, poi_name="mu", validate=False)
    return twin, [*observed, *twin.config.auxdata]


def rows(others: Peer) -> list[Row]:
    """All rows of this subject."""
    specs = Specs()
    s, b, error, observed = specs.yields(200)
    u200, big = (specs.counting(s, b, error), [], observed), specs.big()
    g200 = (specs.counting(s, b, error, "staterror"), [], observed)
    (model, data), (large, large_data), (gauss, gauss_data) = model_of(*u200), model_of(*big), model_of(*g200)
    (twin, both), (large_twin, large_both) = twin_of(*u200), twin_of(*big)
    # inside jit, as the peers do it: taking one number out of a result afterwards would be a call of its own
    best = jax.jit(lambda model, data: fit(model, data)["mu"])
    tests = jax.jit(lambda model, data: numbers(*infer(model, data)))

    def hypothesis(twin: Any, both: list[float]) -> list[float]:
        found: Any = hypotest(1.0, both, twin, return_expected_set=True)
        p_value: Any = hypotest(0.0, both, twin, test_stat="q0")
        return [float(found[0]), *map(float, found[1]), float(p_value)]

    scattered = np.random.default_rng(1).poisson(b + 0.4 * s, (1000, b.size)).astype(float)

    def throw(data: Observation) -> Observation:
        return jax.vmap(lambda counts: Observation(counts, data.auxiliary, data.gammas))(jnp.asarray(scattered))

    toys, gauss_toys = throw(data), throw(gauss_data)
    many = jax.jit(lambda model, toys: fit_many(model, toys)["mu"])
    batch = jax.jit(lambda model, toys: jax.vmap(lambda d: fit(model, d)["mu"])(toys))
    ten = [[*row, *twin.config.auxdata] for row in scattered[:10]]

    def gradients(model: HistFactory, data: Observation) -> jax.Array:
        return jax.grad(lambda m: infer(m, data)[0].observed)(model).nominal

    slopes = jax.jit(gradients)
    index = twin.config.poi_index
    s10, b10, error10, observed10 = specs.yields(10)
    u10 = (specs.counting(s10, b10, error10), [], observed10)
    (small, small_data), (small_twin, small_both) = model_of(*u10), twin_of(*u10)
    limit = jax.jit(lambda model, data: upper_limit(model, data).observed)
    fitted = lambda: best(model, data)
    return [
        Row("fit, U200", "pyhf jax", fitted, lambda: pyhf_mu(twin, both, index), 1e-3, goal=200, begin=jax_backend),
        Row("fit, U200", "everwillow", fitted, lambda: others("everwillow fit"), 1e-6, goal=10),
        Row(
            "CLs, bands and q0, U200",
            "pyhf jax",
            lambda: tests(model, data),
            lambda: hypothesis(twin, both),
            1e-2,
            5,
            begin=jax_backend,
        ),
        Row(
            "CLs, bands and q0, U200",
            "everwillow",
            lambda: tests(model, data),
            lambda: others("everwillow tests"),
            # its Asimov data are those before the fit, ours and pyhf's those after it
            2e-3,
            goal=5,
        ),
        Row(
            "1000 fits, U200",
            "evermore (G200)",
            lambda: many(model, toys)[:1],
            # a Gaussian constraint instead of a Poisson one: another number, the same work
            lambda: (found := others("evermore 1000 fits"))._replace(value=found.value[:1]),
            0.05,
            3,
            goal=50,
        ),
        Row(
            "1000 fits, G200",
            "evermore",
            lambda: many(gauss, gauss_toys),
            lambda: others("evermore 1000 fits"),
            1e-3,
            3,
        ),
        Row(
            "1000 fits, U200",
            "pyhf jax (10 of them)",
            lambda: many(model, toys)[:10],
            lambda: [pyhf_mu(twin, one, index) for one in ten],
            1e-2,
            3,
            0.01,
            goal=900,
            begin=jax_backend,
        ),
        Row(
            "1000 fits, U200, vmap",
            "1000 fits, U200",
            lambda: batch(model, toys),
            lambda: many(model, toys),
            1e-8,
            3,
        ),
        Row(
            "fit, BIG",
            "pyhf jax",
            lambda: best(large, large_data),
            lambda: pyhf_mu(large_twin, large_both, large_twin.config.poi_index),
            0.05,
            5,
            goal=30,
            begin=jax_backend,
        ),
        Row(
            "gradient of CLs to 400 yields, U200",
            "CLs without gradient",
            lambda: jnp.sum(slopes(model, data)) * 0,
            lambda: jnp.sum(tests(model, data)) * 0,
            0.0,
        ),
        Row(
            "upper limit with bands, U10",
            "pyhf numpy",  # with jax its root finder fails
            lambda: limit(small, small_data),
            lambda: upper_limits.upper_limit(small_both, small_twin)[0],
            1e-2,
            1,
            begin=numpy_backend,
        ),
    ]


def numbers(test: HypothesisTest, discovery: DiscoveryTest) -> jax.Array:
    """Observed CLs, its five bands and the p-value of the discovery test."""
    return jnp.concatenate([test.observed[None], test.expected, discovery.p_value[None]])


def pyhf_mu(twin: Any, both: list[float], index: int) -> float:
    """pyhf's best fit of the signal strength."""
    return float(np.asarray(mle.fit(both, twin))[index])
