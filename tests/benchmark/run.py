"""Benchmarks against named peers: `make bench`.

Every row is measured beside its peer in the same run, on one pinned thread: the median of warm calls, alternating, and
the first call (tracing and compilation) apart. A ratio above 1 says that diffhep is faster. pyhf runs in this process,
everwillow and evermore in one of their own on the same core (`tests.benchmark.peers`), idle while it is our turn.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
from pyhf.infer import hypotest, mle
from pyhf.infer.intervals import upper_limits

from diffhep.inference import HistFactory, Observation, fit, histfactory, infer, upper_limit
from tests.specifications import Specs

jax.config.update("jax_enable_x64", True)


class Row(NamedTuple):
    """What is compared.

    Attributes:
        task, peer: in words.
        ours, theirs: one warm call; returns what was computed, to be compared.
        agree: largest difference allowed between the two results.
        repeats: warm calls of each.
        backend: of pyhf.
        share: how much of our call the peer's call does, if it is too slow to do all of it.
    """

    task: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: float
    repeats: int = 9
    share: float = 1.0
    backend: str = "jax"


class Timed(NamedTuple):
    """A result that was timed where it was made."""

    seconds: float
    value: Any


class Peers:
    """The process of the peers that need another environment, started when it is first asked."""

    def __init__(self, python: Path):
        self.python = python
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, task: str) -> Timed:
        if self.process is None:
            command = [str(self.python), "-W", "ignore", "-m", "tests.benchmark.peers"]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._answer()
        assert self.process.stdin
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        return Timed(**self._answer())

    def _answer(self) -> Any:
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            msg = f"{self.python} ended with status {self.process.wait()}: what it said stands above"
            raise RuntimeError(msg)
        return json.loads(line)


def seconds(work: Callable[[], Any]) -> Timed:
    """Time of a call until its result is there, and the result."""
    began = time.perf_counter()
    out = jax.block_until_ready(work())
    return out if isinstance(out, Timed) else Timed(time.perf_counter() - began, out)


def measure(row: Row) -> dict[str, Any]:
    """Medians, first calls and the ratio of a row; refuses to compare two different numbers."""
    pyhf.set_backend(row.backend, "scipy")
    first_ours, ours = seconds(row.ours)
    first_theirs, theirs = seconds(row.theirs)
    worst = float(np.max(np.abs(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))))
    if not worst <= row.agree:
        msg = f"{row.task}: {row.peer} finds {np.asarray(theirs)}, diffhep {np.asarray(ours)}"
        raise RuntimeError(msg)
    times = np.array([[seconds(work).seconds for work in (row.ours, row.theirs)] for _ in range(row.repeats)])
    mine, other = np.median(times, axis=0) * [1.0, 1 / row.share]
    return {
        "task": row.task,
        "peer": row.peer,
        "ours_ms": 1e3 * mine,
        "theirs_ms": 1e3 * other,
        "ratio": other / mine,
        "ours_first_s": first_ours,
        "theirs_first_s": first_theirs,
        "difference": worst,
    }


def model_of(channels: list, settings: list, observed: np.ndarray) -> tuple[HistFactory, Observation]:
    """Our model and its data."""
    model = histfactory(channels, parameters=settings)
    return model, model.data(observed)


def twin_of(channels: list, settings: list, observed: np.ndarray) -> tuple[Any, list[float]]:
    """pyhf's model and its data."""
    twin = pyhf.Model({"channels": channels, "parameters": settings}, poi_name="mu", validate=False)
    return twin, [*observed, *twin.config.auxdata]


def rows(others: Peers) -> list[Row]:
    """All benchmarks."""
    specs = Specs()
    s, b, error, observed = specs.yields(200)
    u200, big = (specs.counting(s, b, error), [], observed), specs.big()
    g200 = (specs.counting(s, b, error, "staterror"), [], observed)
    (model, data), (large, large_data), (gauss, gauss_data) = model_of(*u200), model_of(*big), model_of(*g200)
    (twin, both), (large_twin, large_both) = twin_of(*u200), twin_of(*big)
    best, tests = jax.jit(fit), jax.jit(infer)

    def hypothesis(twin: Any, both: list[float]) -> list[float]:
        found: Any = hypotest(1.0, both, twin, return_expected_set=True)
        p_value: Any = hypotest(0.0, both, twin, test_stat="q0")
        return [float(found[0]), *map(float, found[1]), float(p_value)]

    def ours(model: HistFactory, data: Observation) -> jax.Array:
        test, discovery = tests(model, data)
        return jnp.concatenate([test.observed[None], test.expected, discovery.p_value[None]])

    scattered = np.random.default_rng(1).poisson(b + 0.4 * s, (1000, b.size)).astype(float)

    def throw(data: Observation) -> Observation:
        return jax.vmap(lambda counts: Observation(counts, data.auxiliary, data.gammas))(jnp.asarray(scattered))

    toys, gauss_toys = throw(data), throw(gauss_data)
    many = jax.jit(lambda model, toys: jax.vmap(lambda d: fit(model, d)["mu"])(toys))
    ten = [[*row, *twin.config.auxdata] for row in scattered[:10]]

    def gradients(model: HistFactory, data: Observation) -> jax.Array:
        return jax.grad(lambda m: infer(m, data)[0].observed)(model).nominal

    slopes = jax.jit(gradients)
    index = twin.config.poi_index
    return [
        Row("fit, U200", "pyhf jax", lambda: best(model, data)["mu"], lambda: pyhf_mu(twin, both, index), 1e-3),
        Row("fit, U200", "everwillow", lambda: best(model, data)["mu"], lambda: others("everwillow fit"), 1e-6),
        Row("CLs, bands and q0, U200", "pyhf jax", lambda: ours(model, data), lambda: hypothesis(twin, both), 1e-2, 5),
        # its Asimov data are those before the fit, ours and pyhf's those after it
        Row(
            "CLs, bands and q0, U200",
            "everwillow",
            lambda: ours(model, data),
            lambda: others("everwillow tests"),
            2e-3,
        ),
        Row(
            "1000 fits, U200",
            "evermore (G200)",
            lambda: many(model, toys)[:1],
            # a Gaussian constraint instead of a Poisson one: another number, the same work
            lambda: (found := others("evermore 1000 fits"))._replace(value=found.value[:1]),
            0.05,
            3,
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
        ),
        Row(
            "fit, BIG",
            "pyhf jax",
            lambda: best(large, large_data)["mu"],
            lambda: pyhf_mu(large_twin, large_both, large_twin.config.poi_index),
            0.05,
            5,
        ),
        Row(
            "gradient of CLs to 400 yields, U200",
            "diffhep CLs without gradient",
            lambda: jnp.sum(slopes(model, data)) * 0,
            lambda: jnp.sum(ours(model, data)) * 0,
            0.0,
        ),
        Row(
            "upper limit with bands, U200",
            "pyhf numpy",
            lambda: upper_limit(model, data).observed,
            lambda: upper_limits.upper_limit(both, twin)[0],
            1e-2,
            1,
            backend="numpy",  # with jax its root finder fails
        ),
    ]


def pyhf_mu(twin: Any, both: list[float], index: int) -> float:
    """pyhf's best fit of the signal strength."""
    return float(np.asarray(mle.fit(both, twin))[index])


def main() -> int:
    """Measure all rows whose task contains the given words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only tasks that contain one of these")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin/python"), help="Python of the other peers")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("one thread is wanted, `make bench` sets it: pools of threads slow small fits down a hundredfold")
        return 2
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'task':38s} {'peer':30s} {'ours':>10s} {'peer':>10s} {'ratio':>8s} {'first call':>11s}")
    found = []
    for row in rows(Peers(options.peers)):
        if options.words and not any(word in row.task for word in options.words):
            continue
        r = measure(row)
        found.append(r)
        print(
            f"{r['task']:38s} {r['peer']:30s} {r['ours_ms']:7.3g} ms {r['theirs_ms']:7.4g} ms {r['ratio']:8.3g}"
            f" {r['ours_first_s']:9.2g} s",
            flush=True,
        )
    if options.json:
        versions = {"jax": jax.__version__, "pyhf": pyhf.__version__, "python": sys.version.split()[0]}
        options.json.write_text(json.dumps({"versions": versions, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
