"""The beam line against Cheetah 0.8.4: a gradient through 16 quadrupoles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffhep.detector import element_matrix, line_matrix, transport_covariance
from tests.benchmark.cheetah_peer import CELLS
from tests.benchmark.harness import Peer, Row, Timed


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


def rows(cheetah: Peer) -> list[Row]:
    """All rows of this subject; results are relative to the largest of them."""
    out = []
    for task, make in (("gradient", gradient), ("forward", forward)):
        work = make()
        size = float(np.max(np.abs(work())))
        theirs = lambda task=task, size=size: scaled(cheetah(f"quadrupoles {task}"), size)
        ours = lambda work=work, size=size: work() / size
        goal = 100.0 if task == "gradient" else None
        out.append(Row(f"16 quadrupoles, {task}", "Cheetah", ours, theirs, 1e-6, 31, goal=goal))
    return out


def scaled(found: Timed, size: float) -> Timed:
    """A result in units of its size."""
    return found._replace(value=np.asarray(found.value) / size)
