"""Hypothesis strategies: particles, boosts and thicknesses inside the ranges that physics uses."""

import jax
import numpy as np
from hypothesis import strategies as st

from diffhep.events import Events

# XLA takes subnormal numbers for zero
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
momenta = st.floats(0.1, 2e3)  # GeV
rapidities = st.floats(-4.0, 4.0)
azimuths = st.floats(-np.pi, np.pi, exclude_min=True, allow_subnormal=False)
thicknesses = st.floats(0.31, 19.9)  # mm, inside the bounds of the shipped study
velocities = st.floats(-0.99, 0.99)


@st.composite
def massless(draw):
    """(pt, eta, phi) of a massless particle, GeV and rad."""
    return draw(momenta), draw(rapidities), draw(azimuths)


def photons(rows: int = 4, *, objects: int = 2, constituents: int = 3, seed: int = 0) -> Events:
    """Photon and jet candidates as the samples have them: one object and its shower's constituents, all fields set."""
    rng = np.random.default_rng(seed)
    shape = (rows, objects)
    fraction = rng.dirichlet(np.ones(constituents), shape)
    fields = {
        "pt": rng.uniform(25.0, 120.0, shape),
        "eta": rng.uniform(-1.4, 1.4, shape),
        "phi": rng.uniform(-3.0, 3.0, shape),
        "em_fraction": fraction * rng.uniform(0.7, 1.0, (*shape, 1)),
        "em_rms": rng.uniform(0.001, 0.01, shape),
        "hoe": rng.uniform(0.01, 0.3, shape),
    }
    weight = rng.normal(1.0, 0.5, rows)
    return Events(
        {k: jax.numpy.asarray(v) for k, v in fields.items()}, jax.numpy.ones(shape, bool), jax.numpy.asarray(weight)
    )


def measured(rows: int = 4, *, objects: int = 2, readouts: int = 8, seed: int = 0) -> Events:
    """Candidates after the calorimeter and the reconstruction, without running either."""
    rng = np.random.default_rng(seed)
    shape = (rows, objects)
    eta, energy = rng.uniform(-1.4, 1.4, shape), rng.uniform(1.0, 12.0, (*shape, readouts))
    fields = {
        "readout_energy": energy,
        "eta": eta,
        "phi": rng.uniform(-3.0, 3.0, shape),
        "width": rng.uniform(8.0, 30.0, shape),
        "energy": energy.sum(-1),
        "pt": energy.sum(-1) / np.cosh(eta),
    }
    weight = rng.normal(1.0, 0.5, rows)
    return Events(
        {k: jax.numpy.asarray(v) for k, v in fields.items()}, jax.numpy.ones(shape, bool), jax.numpy.asarray(weight)
    )
