"""The beam line against Cheetah 0.8.4: a gradient through 16 quadrupoles, both in this run on one thread.

`python -m tests.benchmark.beamline --cheetah PYTHON`, PYTHON being that of an environment with `cheetah.txt`. Prints
medians of alternating warm calls, their ratio, and the largest relative difference of the results.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffhep.detector import element_matrix, line_matrix, transport_covariance
from tests.benchmark.cheetah_peer import CELLS

GOAL = 100.0
REPEATS = 31


def variance(k: jax.Array) -> jax.Array:
    """Variance of x behind the line [mm^2], from the k of its quadrupoles [1/mm^2]."""
    strengths = jnp.stack([k * CELLS.length, jnp.zeros_like(k)], axis=1).reshape(-1)
    lengths = jnp.tile(jnp.array([CELLS.length, CELLS.drift]), CELLS.quadrupoles)
    start = jnp.diag(jnp.array([CELLS.width**2, CELLS.angle**2]))
    return transport_covariance(start, line_matrix(element_matrix(strengths, lengths)))[0, 0]


def gradient() -> Callable[[], np.ndarray]:
    """Our side of `quadrupoles gradient`: variance and derivatives, compiled."""
    k = jnp.asarray(CELLS.strengths())
    run = jax.jit(lambda k: jnp.concatenate([x.reshape(-1) for x in jax.value_and_grad(variance)(k)]))
    return lambda: jax.block_until_ready(run(k))


def forward() -> Callable[[], np.ndarray]:
    """Our side of `quadrupoles forward`."""
    k = jnp.asarray(CELLS.strengths())
    run = jax.jit(lambda k: variance(k)[None])
    return lambda: jax.block_until_ready(run(k))


def ask(peer: Any, task: str) -> dict[str, Any]:
    """One task of the peer."""
    peer.stdin.write(task + "\n")
    peer.stdin.flush()
    return json.loads(peer.stdout.readline())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cheetah", default=".venv-cheetah/bin/python", help="Python with Cheetah")
    command = [parser.parse_args().cheetah, "-W", "ignore", "-m", "tests.benchmark.cheetah_peer"]
    jax.config.update("jax_enable_x64", True)
    met = True
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout
        peer.stdout.readline()
        for task, make in (("quadrupoles gradient", gradient), ("quadrupoles forward", forward)):
            ours, times = make(), []
            found, theirs = np.asarray(ours()), ask(peer, task)["value"]
            for _ in range(REPEATS):
                # a call takes microseconds: a hundred at a time
                began = time.perf_counter()
                for _ in range(100):
                    ours()
                times.append(((time.perf_counter() - began) / 100, ask(peer, task)["seconds"]))
            mine, other = np.median(times, axis=0)
            worst = np.max(np.abs(found - theirs) / np.max(np.abs(theirs)))
            print(
                f"{task:22s} {1e6 * mine:8.1f} us {1e6 * other:10.1f} us {other / mine:8.0f}x   difference {worst:.1e}"
            )
            met &= other / mine >= GOAL and worst < 1e-6
        assert peer.stdin
        peer.stdin.close()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
