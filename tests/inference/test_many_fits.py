"""Fits to many data sets: chunk by chunk what they are one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from diffhep.inference import fit, fit_many, histfactory
from tests.specifications import Specs


@pytest.fixture(scope="module")
def week():
    """A model and seven data sets of it."""
    s, b, error, _ = Specs().yields(10)
    model = histfactory(Specs().counting(s, b, error))
    counts = np.random.default_rng(3).poisson(b + 0.5 * s, (7, 10)).astype(float)
    return model, jax.vmap(model.data)(jnp.asarray(counts))


@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_many_fits_are_those_of_one_by_one(week, chunk):
    model, sets = week
    many = fit_many(model, sets, chunk=chunk)
    each = [fit(model, jax.tree.map(lambda leaf, i=i: leaf[i], sets)) for i in range(7)]
    # both stop at a whitened gradient of 1e-9, and step once more
    assert_allclose(many["mu"], [one["mu"] for one in each], atol=1e-9)
    assert np.all(many.converged)
    assert many.theta.shape == (7, len(model.names))


def test_many_fits_pass_gradients(week):
    model, sets = week
    slopes = lambda run: jax.grad(lambda m: jnp.sum(run(m)["mu"] ** 2))(model).nominal
    chunks, at_once = lambda m: fit_many(m, sets, chunk=3), lambda m: jax.vmap(lambda d: fit(m, d))(sets)
    assert_allclose(slopes(chunks), slopes(at_once), rtol=1e-9)


def test_no_fits_at_a_time_are_refused(week):
    with pytest.raises(ValueError, match="chunk: at least one fit at a time is wanted, got 0"):
        fit_many(*week, chunk=0)
