"""The sampling calorimeter against the reference problem (lead and scintillator, 60 GeV) and itself, event by event.

Reference numbers: 25 layers in 250 mm, and any number of them at a cost of 1 + 0.02 t_a/mm + 0.05 t_s/mm a layer; found
by closed form and by scan, independently of this code. Their last printed digit is the tolerance.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose
from scipy.optimize import brentq
from scipy.special import gammainc

from diffhep.detector import LEAD, POLYSTYRENE, SamplingCalorimeter, draw_noise, noise_shapes
from diffhep.events import Events
from diffhep.reconstruction import PhotonReconstruction
from tests.strategies import photons, thicknesses

DEPTH, ENERGY = 250.0, 60.0  # mm, GeV


def stack(absorber, active, layers, **options):
    absorber, active, layers = (jnp.asarray(x, dtype=float) for x in (absorber, active, layers))
    return SamplingCalorimeter(absorber, active, layers, **options)


def zero(slope, low, high):
    """Where a slope changes sign."""
    return float(brentq(lambda t: float(slope(t)), low, high, xtol=1e-10))  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames="offset")
def resolution(absorber, active, layers, offset=0.5):
    calorimeter = SamplingCalorimeter(absorber, active, layers, noise=0.0, profile_offset=offset)
    return 100 * calorimeter.resolution(jnp.asarray(ENERGY))


C1 = stack(6.301316, 3.698684, 25, noise=0.0)

# the reference problem ------------------------------------------------------------------------------------------------


def test_the_four_terms_of_the_resolution():
    mean, spread = C1.leakage(jnp.asarray(ENERGY))
    root = np.sqrt(ENERGY)
    terms = [C1.sampling_term() / root, C1.photo_term() / root, spread / (1 - mean), C1.constant_term]
    assert_allclose(100 * np.array(terms, float), [2.281, 0.621, 0.559, 0.3], atol=5e-4)
    assert_allclose(100 * C1.resolution(jnp.asarray(ENERGY)), 2.4476, atol=5e-5)
    assert_allclose(100 * C1.resolution(jnp.asarray(ENERGY)), 100 * np.linalg.norm(terms), rtol=1e-14)


def test_depth_and_leakage():
    assert_allclose(C1.radiation_lengths(), 28.295, atol=5e-4)
    assert_allclose(C1.depth(), 250.0, rtol=1e-15)
    assert_allclose(100 * C1.leakage(jnp.asarray(ENERGY))[0], 0.6724, atol=5e-5)


@pytest.mark.parametrize(("shift", "wanted"), [(-0.5, 2.5214), (0.5, 2.4837)])
def test_half_a_millimetre_beside_the_optimum(shift, wanted):
    assert_allclose(resolution(6.301316 + shift, 3.698684 - shift, 25.0), wanted, atol=5e-5)


@pytest.mark.parametrize(
    ("offset", "absorber", "active", "wanted"),
    [(0.5, 6.301316, 3.698684, 2.4476), (-0.5, 6.018801, 3.981199, 2.39912)],
    ids=["photons", "electrons"],
)
def test_a_gradient_method_finds_the_optimum_of_25_layers(offset, absorber, active, wanted):
    slope = jax.jit(jax.grad(lambda t: resolution(t, DEPTH / 25 - t, 25.0, offset)))
    # the derivative changes sign once between the two ends
    found = zero(slope, 2.0, 9.0)
    assert found == pytest.approx(absorber, abs=1e-5)
    assert DEPTH / 25 - found == pytest.approx(active, abs=1e-5)
    assert float(resolution(found, DEPTH / 25 - found, 25.0, offset)) == pytest.approx(wanted, abs=5e-5)


def active_within(absorber, layers, cost):
    """Thickest scintillator that both budgets allow [mm]."""
    return jnp.minimum((cost / layers - 1 - 0.02 * absorber) / 0.05, DEPTH / layers - absorber)


@functools.cache
def constrained_slope():
    objective = lambda t, n, cost: resolution(t, active_within(t, n, cost), n)
    return jax.jit(jax.grad(objective)), jax.jit(objective)


def best(layers, cost):
    """Resolution and thicknesses of the best stack: where the derivative along the budget changes sign."""
    slope, objective = constrained_slope()
    n = float(layers)
    # at the corner where both budgets bind the slope jumps, and the sign changes there
    low, high = 0.31, min(DEPTH / n, (cost / n - 1) / 0.02) - 0.31
    t = zero(lambda t: slope(t, n, cost), low, high)
    return float(objective(t, n, cost)), t, float(active_within(t, n, cost))


@pytest.mark.parametrize(
    ("cost", "layers", "wanted", "absorber", "active", "neighbours"),
    [
        (30.0, 24, 2.5022, 6.5174, 2.3930, {23: 2.5372, 25: 2.5027}),
        (60.0, 53, 1.8022, 3.0789, 1.4100, {52: 1.8050, 54: 1.8236}),
        (120.0, 112, 1.3685, 1.4860, 0.7462, {111: 1.3725, 113: 1.3816}),
    ],
)
def test_the_best_stack_inside_depth_and_cost(cost, layers, wanted, absorber, active, neighbours):
    found = best(layers, cost)
    assert found == pytest.approx((wanted, absorber, active), abs=5e-5)
    for n, other in neighbours.items():
        assert best(n, cost)[0] == pytest.approx(other, abs=5e-5)
        assert best(n, cost)[0] > found[0]
    used = layers * (1 + 0.02 * found[1] + 0.05 * found[2]), layers * (found[1] + found[2])
    assert used[0] <= cost * (1 + 1e-12)
    assert used[1] <= DEPTH * (1 + 1e-12)


# other formulas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("material", "printed"), [(LEAD, 16.0)])
def test_moliere_radius_of_a_pure_material(material, printed):
    pure = stack(1.0, 1e-12, 100, absorber_material=material)
    # E_s/E_c X0; PDG prints 16.0 mm for lead
    assert_allclose(pure.lateral_width() * np.sqrt(2 * np.log(10)), printed, atol=0.05)


@given(thicknesses, thicknesses)
@settings(max_examples=20)
def test_a_mixture_lies_between_its_materials(absorber, active):
    calorimeter = SamplingCalorimeter(absorber, active, 25.0)
    pure = [float(stack(a, b, 25).lateral_width()) for a, b in ((1, 1e-9), (1e-9, 1))]
    assert pure[0] < float(calorimeter.lateral_width()) < pure[1]
    assert 0 < float(calorimeter.sampling_fraction()) < 1
    # interaction length in mm over the average radiation length in mm
    in_mm = (absorber + active) / (absorber / LEAD.interaction_length + active / POLYSTYRENE.interaction_length)
    x0 = (absorber + active) / (absorber / LEAD.radiation_length + active / POLYSTYRENE.radiation_length)
    assert float(calorimeter.interaction_length()) == pytest.approx(in_mm / x0, rel=1e-12)


def test_materials_are_those_of_the_reference():
    assert (LEAD.mip_loss, POLYSTYRENE.mip_loss) == (1.274e-3, 0.2052e-3)
    assert (LEAD.radiation_length, POLYSTYRENE.radiation_length) == (5.612, 413.1)
    assert LEAD.critical_energy == pytest.approx(7.43e-3, rel=1e-15)


def test_each_term_of_the_resolution_falls_as_its_power_of_the_energy():
    energies = jnp.array([10.0, 40.0])
    deep = {"layers": 200, "absorber": 6.0, "active": 4.0}
    stochastic = stack(**deep, constant_term=0.0, noise=0.0).resolution(energies)
    assert_allclose(stochastic[0] / stochastic[1], 2.0, rtol=1e-9)
    noisy = stack(**deep, constant_term=0.0, noise=1e3).resolution(energies)
    assert_allclose(noisy[0] / noisy[1], 4.0, rtol=1e-6)
    assert_allclose(noisy[0], np.sqrt(200) * 1e3 / 10, rtol=1e-6)


# event by event -------------------------------------------------------------------------------------------------------


def shower(energy, rows, *, eta=0.0):
    shape = (rows, 1)
    fields = {"pt": jnp.full(shape, energy / np.cosh(eta)), "eta": jnp.full(shape, eta), "phi": jnp.zeros(shape)}
    return Events(fields, jnp.ones(shape, bool), jnp.ones(rows))


def calibrated(calorimeter, events, key):
    run = jax.jit(lambda c, e, k: PhotonReconstruction(c.leakage_curve())(c(e, key=k)))
    return run(calorimeter, events, key)


def spread_and_error(x):
    """Standard deviation, and its standard error from the fourth moment."""
    centred = x - x.mean()
    variance = np.mean(centred**2)
    return np.sqrt(variance), np.sqrt((np.mean(centred**4) - variance**2) / x.size) / (2 * np.sqrt(variance))


@pytest.mark.parametrize("energy", [30.0, 60.0, 200.0])
@pytest.mark.parametrize("design", [(6.301316, 3.698684, 25), (4.0, 3.0, 28)], ids=["reference", "leaky"])
def test_events_have_the_resolution_of_the_formula(design, energy):
    calorimeter = stack(*design)
    x = calibrated(calorimeter, shower(energy, 20_000), jr.key(int(energy)))
    sigma, error = spread_and_error(np.asarray(x["energy"][:, 0]) / energy)
    # the response samples what was deposited, E (1 - f), and is divided by 1 - f; the formula samples E
    mean, leak = (float(v) for v in calorimeter.leakage(jnp.asarray(energy)))
    sampled = float(calorimeter.stochastic_term()) ** 2 / energy / (1 - mean)
    noise = design[2] * calorimeter.noise**2 / (energy * (1 - mean)) ** 2
    expected = np.sqrt(sampled + noise + (leak / (1 - mean)) ** 2 + calorimeter.constant_term**2)
    assert abs(sigma - expected) < 3 * error
    # that is the whole difference: half the mean leakage, relative, at most
    assert abs(expected / float(calorimeter.resolution(jnp.asarray(energy))) - 1) < mean


@pytest.mark.parametrize("energy", [10.0, 60.0, 400.0])
@pytest.mark.parametrize("eta", [0.0, -1.2])
def test_the_calibrated_response_is_linear(energy, eta):
    x = calibrated(C1, shower(energy, 20_000, eta=eta), jr.key(7))
    response = np.asarray(x["energy"][:, 0]) / energy
    mean, _ = (float(v) for v in C1.leakage(jnp.asarray(energy)))
    # the calibration looks the leakage up at the measured energy, E (1 - f): a shift of f df/dlnE, below 3 f^2
    assert abs(response.mean() - 1) < 3 * response.std() / np.sqrt(response.size) + 3 * mean**2
    # the measured eta moves by millimetres in 1300: pt has the same response to a tenth of its error
    assert_allclose(np.mean(x["pt"][:, 0]) * np.cosh(eta) / energy, response.mean(), rtol=1e-4)


def test_without_fluctuations_the_deposits_are_gamma_functions():
    events = shower(ENERGY, 1)
    calorimeter = stack(5.6, 4.0, 25, readouts=4)
    noise = draw_noise(events, 4, key=None)
    edges = np.maximum(np.linspace(0, 1, 5) * float(calorimeter.radiation_lengths()) - 9 / 7, 0)
    shape = float(calorimeter.shower_shape(jnp.asarray(ENERGY)))
    # intervals of 3.6: six-point quadrature is good to 1e-6 there
    exact = ENERGY * np.diff(gammainc(shape, edges / 2))
    assert_allclose(calorimeter.deposits(events, noise).energy[0, 0], exact, rtol=0, atol=ENERGY * 2e-6)


@pytest.mark.parametrize("constituents", [1, 3])
def test_what_is_deposited_and_what_leaks_add_up(constituents):
    events = photons(50, constituents=constituents)
    fields = {k: v for k, v in events.fields.items() if k != "hoe"}
    events = Events(fields, events.mask, events.weight)
    noise = draw_noise(events, 8, key=jr.key(3))
    deposited = np.asarray(C1.deposits(events, noise).energy).sum(-1)
    energy = np.asarray(events["pt"] * jnp.cosh(events["eta"]))[..., None] * np.asarray(events["em_fraction"])
    behind = np.maximum(float(C1.radiation_lengths()) - 9 / 7 * np.asarray(noise.conversion), 0)
    contained = gammainc(np.asarray(C1.shower_shape(jnp.asarray(energy))), behind / 2)
    # quadrature: 2e-6 of each shower above 1 GeV, 6e-5 of the soft ones
    assert_allclose(deposited, (energy * contained).sum(-1), rtol=2e-6, atol=6e-5)


def test_hadrons_shower_deeper_than_photons():
    events = shower(ENERGY, 4000)
    noise = draw_noise(events, 8, key=jr.key(5))
    groups = np.arange(8) + 0.5
    photon = np.asarray(C1.deposits(events, noise).energy).mean((0, 1))
    with_hadrons = events.with_fields({"hoe": jnp.full((4000, 1), 0.5)})
    hadron = np.asarray(C1.deposits(with_hadrons, noise).energy).mean((0, 1)) - photon
    assert np.average(groups, weights=hadron) > np.average(groups, weights=photon) + 1
    # and more of them leaks
    contained = hadron.sum() / (ENERGY * 0.5 * C1.hadron_response)
    assert contained < photon.sum() / ENERGY


def test_position_and_width_have_the_resolution_they_claim():
    rows, eta = 20_000, 0.8
    events = shower(ENERGY, rows, eta=eta)
    x = jax.jit(lambda e: C1(e, key=jr.key(9)))(events)
    width = float(C1.lateral_width())
    samples = ENERGY / float(C1.stochastic_term()) ** 2
    shift = np.sqrt(width**2 / samples + C1.position_constant**2) / C1.inner_radius
    for name, centre in (("eta", eta), ("phi", 0.0)):
        sigma, error = spread_and_error(np.asarray(x[name][:, 0]))
        # deposits fluctuate below E: the samples are fewer by the mean leakage, half of that in the spread
        assert abs(sigma / shift - 1) < 3 * error / shift + 0.01
        assert abs(float(np.mean(x[name])) - centre) < 4 * sigma / np.sqrt(rows)
    squared = np.asarray(x["width"][:, 0]) ** 2 / (2 * width**2)
    spread = np.sqrt(1 / samples + C1.width_constant**2)
    assert abs(squared.mean() - 1) < 4 * squared.std() / np.sqrt(rows)
    assert abs(squared.std() / spread - 1) < 3 / np.sqrt(2 * rows) + 0.01


def test_a_jet_of_particles_is_wider_than_a_photon():
    events = photons(20)
    narrow = events.with_fields({"em_rms": jnp.zeros_like(events["em_rms"])})
    difference = np.asarray(C1(events)["width"]) ** 2 - np.asarray(C1(narrow)["width"]) ** 2
    assert_allclose(difference, (C1.inner_radius * np.asarray(events["em_rms"])) ** 2, rtol=1e-11)


# interface ------------------------------------------------------------------------------------------------------------


def test_fields_of_the_response():
    events = photons(3)
    x = C1(events, key=jr.key(0))
    assert set(x.fields) == (set(events.fields) - {"pt"}) | {"readout_energy", "width"}
    assert x["readout_energy"].shape == (3, 2, 8)
    assert np.all(np.abs(np.asarray(x["phi"])) <= np.pi)


def test_without_a_key_the_response_is_the_mean():
    events = photons(3)
    x = C1(events)
    assert_allclose(x["eta"], events["eta"], rtol=0)
    noise = draw_noise(events, 8, key=None)
    assert {float(v) for leaf in (noise.conversion, noise.hadron) for v in np.unique(leaf)} == {1.0}
    assert {float(v) for leaf in (noise.sampling, noise.common, noise.lateral) for v in np.unique(leaf)} == {0.0}


@pytest.mark.parametrize("constituents", [None, 2])
def test_noise_has_the_shapes_announced(constituents):
    events = shower(60.0, 3) if constituents is None else photons(3, constituents=constituents)
    for key in (None, jr.key(0)):
        noise = draw_noise(events, 5, key=key)
        assert {name: getattr(noise, name).shape for name in noise_shapes(events, 5)} == noise_shapes(events, 5)


def test_the_same_noise_gives_the_same_events():
    events = photons(3)
    one, two = C1(events, key=jr.key(1)), C1(events, key=jr.key(1))
    assert eqx.tree_equal(one, two)
    assert not eqx.tree_equal(one, C1(events, key=jr.key(2)))


@pytest.mark.parametrize("readouts", [0, -1])
def test_a_calorimeter_without_readouts_is_refused(readouts):
    with pytest.raises(ValueError, match=f"needs at least one readout, got {readouts}"):
        stack(5.0, 4.0, 25, readouts=readouts)
