"""The last, exact step on the sampling calorimeter of the reference (R1): integers, budgets, multipliers."""

import equinox as eqx
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from diffhep.design.config import STUDIES
from diffhep.design.exact import Sensitivities, certify, polish
from diffhep.design.studies import open_study

EXACT = 1e-11  # change of ln(objective) at which the solver stops, the least that rounding lets it see
NAMES = ("absorber", "active", "layers")
SETTINGS = STUDIES["ecal-resolution"].model_validate({"budget": {"cost": 30.0, "depth": 250.0}})
STUDY = open_study("ecal-resolution", SETTINGS)
ECAL = Sensitivities(STUDY.problem, NAMES)


def calorimeter(absorber=5.0, active=4.0, layers=24.0):
    """The study's stack with some values; the objective is 1 over the resolution in per cent."""
    stack, values = STUDY.untrained(), {"absorber": absorber, "active": active, "layers": layers}
    moved = [getattr(stack, name).at(value) for name, value in values.items()]
    return eqx.tree_at(lambda c: [getattr(c, name) for name in values], stack, moved)


@pytest.mark.parametrize(
    ("cost", "layers", "absorber", "active", "sigma", "depth"),
    [(30.0, 24, 6.5174, 2.3930, 2.5022, 213.9), (60.0, 53, 3.0789, 1.4100, 1.8022, 237.9)],
)
@pytest.mark.parametrize("start", [(5.0, 4.0), (2.0, 1.0), (9.0, 3.0)])
def test_the_best_sampling_calorimeter_within_a_cost(cost, layers, absorber, active, sigma, depth, start):
    """Reference values: closed form and scan, to the digits shown."""
    limits = np.array([cost, 250.0])
    found = polish(ECAL, calorimeter(start[0], start[1], layers), held=("layers",), limits=limits, tolerance=EXACT)
    assert found.converged
    assert_allclose(found.design.absorber.unwrap(), absorber, atol=1e-3)
    assert_allclose(found.design.active.unwrap(), active, atol=1e-3)
    assert_allclose(1 / found.objective, sigma, atol=6e-5)
    assert_allclose(found.used[1], depth, atol=0.06)
    assert found.used[0] <= cost
    certificate = certify(ECAL, found.design, held=("layers",), limits=limits)
    assert_array_equal(certificate.active, [True, False])
    assert certificate.multipliers[0] > 0
    assert certificate.multipliers[1] == 0
    assert certificate.residual < 1e-6


@pytest.mark.parametrize(
    ("cost", "best"), [(30.0, {23: 2.5372, 24: 2.5022, 25: 2.5027}), (60.0, {52: 1.8050, 53: 1.8022, 54: 1.8236})]
)
def test_the_integer_layouts_beside_the_best(cost, best):
    limits = np.array([cost, 250.0])
    found = {
        n: polish(ECAL, calorimeter(layers=float(n)), held=("layers",), limits=limits, tolerance=EXACT) for n in best
    }
    assert_allclose([1 / p.objective for p in found.values()], list(best.values()), atol=6e-5)
    assert all(np.all(p.used <= limits) for p in found.values())
    assert max(found, key=lambda n: found[n].objective) == min(best, key=lambda n: best[n])


def test_the_cost_multiplier_of_the_calorimeter_is_the_slope_of_the_best_resolution():
    h = 0.05
    down, best, up = (
        polish(ECAL, calorimeter(), held=("layers",), limits=np.array([30.0 + s * h, 250.0]), tolerance=EXACT)
        for s in (-1, 0, 1)
    )
    certificate = certify(ECAL, best.design, held=("layers",))
    # third derivative: the quotient over 2h and that over 4h differ by this much
    assert_allclose(certificate.multipliers[0], (up.objective - down.objective) / (2 * h), rtol=1e-3)


def test_relaxed_layers_are_worth_more_than_any_integer():
    relaxed = polish(ECAL, calorimeter(), tolerance=EXACT)
    assert relaxed.converged
    assert 24 < float(relaxed.design.layers.unwrap()) < 25
    held = [polish(ECAL, calorimeter(layers=n), held=("layers",), tolerance=EXACT).objective for n in (24.0, 25.0)]
    assert relaxed.objective > max(held)
    assert certify(ECAL, relaxed.design).residual < 1e-6


@pytest.mark.parametrize(
    ("held", "words"),
    [(("layer",), "no adjustable parameter is called 'layer'"), (("absorber", "active", "layers"), "nothing is left")],
)
def test_what_cannot_be_held_is_refused(held, words):
    with pytest.raises(ValueError, match=words):
        polish(ECAL, calorimeter(), held=held)
