"""Numbers that are no ratio to a peer, in a fresh process: `make bench` prints them under the table.

Compilation from cold in CPU seconds, compilations of a scan over signal points, memory while models are rebuilt.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffhep.inference import fit, histfactory, hypothesis_test
from tests.specifications import Specs

jax.config.update("jax_enable_x64", True)


def model_and_data(scale: float = 1.0):
    """U200 with its signal times a factor, and the data."""
    specs = Specs()
    s, b, error, observed = specs.yields(200)
    model = histfactory(specs.counting(scale * s, b, error))
    return model, model.data(observed)


def resident() -> float:
    """Memory of this process now, in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def cold_compilation() -> float:
    """CPU seconds to trace and compile CLs of U200 with its gradient to all yields."""
    model, data = model_and_data()
    began = time.process_time()
    jax.jit(jax.value_and_grad(lambda m, d: hypothesis_test(m, d).observed, allow_int=True)).lower(
        model, data
    ).compile()
    return time.process_time() - began


def compilations() -> int:
    """Traces for CLs at 100 signal points, one model a point."""
    traces = 0

    @jax.jit
    def cls(model, data):
        nonlocal traces
        traces += 1
        return hypothesis_test(model, data).observed

    for scale in np.linspace(0.5, 2.0, 100):
        jax.block_until_ready(cls(*model_and_data(float(scale))))
    return traces


def growth(rebuilt: int = 1000) -> float:
    """MB gained from the 100th to the last of the rebuilt and fitted models."""
    best = jax.jit(fit)
    at_100 = 0.0
    for number, scale in enumerate(np.linspace(0.5, 2.0, rebuilt)):
        if number == 100:
            at_100 = resident()
        jnp.asarray(best(*model_and_data(float(scale)))["mu"]).block_until_ready()
    return resident() - at_100


def main() -> int:
    print(f"compile CLs of U200 with gradient, cold    {cold_compilation():6.2f} s CPU   (goal 2)")
    print(f"compilations for 100 signal points         {compilations():6d}         (goal 1)")
    print(f"memory gained over 900 rebuilt models      {growth():6.1f} MB      (goal: flat)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
