"""The contract's list: every differentiable stage and function, with a small input. A new one is one more line."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from diffhep.detector import (
    KAON,
    PION,
    BeamLine,
    SiliconTracker,
    TimingLayer,
    Track,
    displaced_efficiency,
    draw_noise,
    draw_radius,
    draw_shape,
    effective_medium,
    element_matrix,
    fodo_cell,
    gamma_fractions,
    lateral_profile,
    leakage_curve,
    leakage_moments,
    line_matrix,
    mean_energy_loss,
    periodic_twiss,
    to_cylinder,
    to_plane,
)
from diffhep.detector.material import LEAD, POLYSTYRENE, SILICON
from diffhep.gates import Boundary, Hard, Score, Soft, StraightThrough
from diffhep.histogram import counts, flux_counts
from diffhep.inference import BinnedModel, Data
from diffhep.inference.asymptotics import asimov_significance
from diffhep.inference.categories import category_counts
from diffhep.inference.densities import exponential, gaussian
from diffhep.inference.hybrid import HybridModel
from diffhep.inference.unbinned import Component, UnbinnedModel
from diffhep.kinematics import delta_r, diphoton_mass, energy_of, safe_div, safe_log, safe_norm, safe_sqrt, wrap_phi
from diffhep.parameters import Param
from diffhep.reconstruction import PhotonReconstruction, leading_pair, pair_mass, track_covariance
from diffhep.stage import Chain
from diffhep.tagging import PhotonTagger, photon_features, readout_fractions
from diffhep.trigger.anomaly import AnomalyTrigger
from diffhep.trigger.autoencoder import Autoencoder, encoder_luts
from diffhep.trigger.classifier import DenseClassifier
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learned_tables import TableClassifier
from diffhep.trigger.menu import DiphotonMenu, trigger_features
from diffhep.trigger.rate import rate
from diffhep.trigger.resources import Features, ebops, lut_model
from tests.cases import Case, lead_stack, on_function, on_stage, spread
from tests.strategies import measured, photons
from tests.surrogate_stages import STEPPED_SURROGATES, SURROGATES


def menu(**gates: Any) -> DiphotonMenu:
    """A trigger menu with Params for its thresholds and a small network."""
    return DiphotonMenu(
        Param(38.0, unit="GeV", role="threshold", bounds=(18.0, 100.0)),
        Param(27.0, unit="GeV", role="threshold", bounds=(14.0, 80.0)),
        DenseClassifier.init((5, 4, 1), key=jr.key(3)),
        **gates,
    )


def learned_formats() -> LearnedClassifier:
    """A small network whose bit widths are trained, calibrated on some words."""
    floating = DenseClassifier.init((3, 4, 2), key=jr.key(3))
    made = LearnedClassifier.of(floating, input_format=FixedPoint(1, 3, 6), weight_f=3.2, activation_f=2.7)
    return made.calibrated(made.words(spread(60, -3, 3).reshape(20, 3)))


def learned_tables() -> TableClassifier:
    """A small network of tables whose bit widths are trained."""
    words = spread(60, -3, 3).reshape(20, 3)
    return TableClassifier.init(words, (4, 2), exponents=(0, 0, 0), input_format=FixedPoint(1, 3, 6), key=jr.key(3))


def autoencoder() -> Autoencoder:
    """A small autoencoder, calibrated on some words."""
    made = Autoencoder.init(
        jnp.array([0.3, -0.2, 0.1]),
        jnp.array([1.5, 1.0, 0.5]),
        hidden=(4,),
        latent=2,
        decoder=(5,),
        beta=0.1,
        exponent=0,
        input_format=FixedPoint(1, 3, 6),
        key=jr.key(3),
    )
    return made.calibrated(made.encoder.words(spread(60, -3, 3).reshape(20, 3)))


def silicon() -> SiliconTracker:
    """A tracker whose radii are a Param."""
    radii = jnp.array([30.0, 55.0, 300.0, 700.0, 1000.0])
    return SiliconTracker(Param(radii, unit="mm", role="geometry", bounds=(25.0, 1100.0)))


def log_errors(tracker: SiliconTracker, pt: jax.Array) -> jax.Array:
    """Logarithms of the variances of a track fit: they have one size."""
    return jnp.log(jnp.diagonal(track_covariance(*tracker.surfaces(pt)), axis1=-2, axis2=-1))


def timing_layer() -> TimingLayer:
    """A timing layer whose radius is a Param."""
    return TimingLayer(Param(1100.0, unit="mm", role="geometry", bounds=(100.0, 9000.0)), field=2.0)


def beam_line() -> BeamLine:
    """Two quadrupoles, one of them thin, with Params for their strengths."""
    strengths = Param(jnp.array([2e-3, -1e-3]), unit="1/mm", role="geometry", scale=1e-3)
    return BeamLine(strengths, jnp.array([200.0, 0.0]), jnp.array([30.0, 30.0]))


def track_on(surface: Callable[[Track], Any]) -> Case:
    """A track that meets a surface."""

    def call(tree: Any, x: Any) -> Any:
        crossing = surface(Track(x[1], x[0], jnp.array(-1.0)))
        return crossing.track.position, crossing.length

    return Case(call, (), (jnp.array([0.9, 0.3, 0.4]), jnp.array([10.0, -20.0, 30.0])))


def respond() -> Case:
    events = photons()
    noise = draw_noise(events, 8, key=jr.key(1))
    return Case(lambda tree, x: tree.respond(x, noise), lead_stack(), events)


def reconstruct() -> Case:
    """The calibration follows the layout, so the layout is part of the tree."""

    def call(tree: Any, x: Any) -> Any:
        calorimeter, scale = tree
        return PhotonReconstruction(calorimeter.leakage_curve(), scale)(x)

    scale = Param(0.002, unit="", role="nuisance", scale=0.003)
    return Case(call, (lead_stack(), scale), measured())


def peak_and_slope(shape: Any) -> UnbinnedModel:
    """A peak of given mean, width and yield on an exponential; built inside the trace."""
    parts = {
        "signal": Component(gaussian(shape[0], shape[1]), "mu", shape[2]),
        "background": Component(exponential("slope"), "background"),
    }
    init = {"mu": 1.0, "slope": -0.02, "background": 400.0}
    return UnbinnedModel(parts, low=100.0, high=160.0, init=init, poi="mu", capacity=600)


def unbinned() -> Case:
    def nll(theta: Any, shape: Any, x: Any, weight: Any) -> Any:
        model = peak_and_slope(shape)
        data = model.data(jnp.full(x.shape, 130.0))
        # `data` holds the events, and would not let a trace choose which of them count
        return model.nll(theta, eqx.tree_at(lambda d: (d.x, d.weight), data, (x, weight)))

    theta, shape = jnp.array([0.8, -0.03, 380.0]), jnp.array([125.0, 1.7, 60.0])
    return on_function(nll, theta, shape, spread(9, 101, 159), spread(9, 0.5, 2, 1))


def hybrid() -> Case:
    """Events with and without bins that share a signal strength."""

    def values(theta: Any, shape: Any, counts: Any) -> Any:
        expected = lambda p, t: t + p[0] * jnp.array([2.0, 9.0])
        binned = BinnedModel(expected, 50 * shape[1:], names=("mu",), init=(1.0,), constrained=(), poi="mu")
        both, events = HybridModel(peak_and_slope(shape), binned), peak_and_slope(shape).data(jnp.array([124.0, 140.0]))
        return both.nll(theta, (events, Data(counts, jnp.zeros(1))))

    theta, shape = jnp.array([0.8, -0.03, 380.0]), jnp.array([125.0, 1.7, 60.0])
    return on_function(values, theta, shape, jnp.array([80.0, 2990.0]))


def chain() -> Case:
    # in an order that is not that of the alphabet
    reconstruction, tagger = PhotonReconstruction(lambda e: 0.01 + 0 * e), PhotonTagger.init(8, width=4, key=jr.key(2))
    return on_stage(Chain({"reconstruction": reconstruction, "tagger": tagger, "menu": menu()}), measured(), jr.key(4))


def moving_counts() -> Case:
    edges = jnp.linspace(1.0, 1.6, 7)
    return on_function(lambda x, w: flux_counts(x, edges, w, bandwidth=0.2), spread(9, 0.9, 1.7), spread(9, -1, 2, 1))


def soft_counts() -> Case:
    edges = jnp.linspace(1.0, 1.6, 7)
    return on_function(lambda x, w: counts(x, edges, w, bandwidth=0.2), spread(9, 0.9, 1.7), spread(9, -1, 2, 1))


LEFT, RIGHT = ((spread(5, 20, 90, i), spread(5, -2, 2, i + 1), spread(5, -3, 3, i + 2)) for i in (0, 10))
SCORES = jnp.array([-30.0, -1.0, -0.2, 0.3, 2.0, 30.0])

STAGES: dict[str, Callable[[], Case]] = {
    "SamplingCalorimeter.respond": respond,
    "SamplingCalorimeter, key": lambda: on_stage(lead_stack(), photons(), jr.key(0)),
    "SamplingCalorimeter, mean": lambda: on_stage(lead_stack(), photons()),
    "SamplingCalorimeter.resolution": lambda: Case(lambda t, x: t.resolution(x), lead_stack(), jnp.array([20.0, 60.0])),
    "SamplingCalorimeter.leakage": lambda: Case(lambda t, x: t.leakage(x), lead_stack(), jnp.array([20.0, 60.0])),
    "SamplingCalorimeter.leakage_curve": lambda: Case(
        lambda t, x: t.leakage_curve()(x), lead_stack(), spread(5, 2, 900)
    ),
    "SamplingCalorimeter.lengths": lambda: Case(
        lambda t, x: (t.depth(), t.radiation_lengths(), t.interaction_length(), t.lateral_width()), lead_stack(), ()
    ),
    "leakage_moments": lambda: on_function(leakage_moments, spread(4, 4, 8), 25.0),
    "leakage_curve": lambda: on_function(lambda d, e: leakage_curve(d, 7.43e-3, 0.5)(e), 25.0, spread(5, 2, 900)),
    "gamma_fractions": lambda: on_function(
        gamma_fractions, spread(3, 5, 7), jnp.linspace(0.6, 13.0, 9) * jnp.ones((3, 1))
    ),
    "SiliconTracker, track_covariance": lambda: Case(log_errors, silicon(), jnp.array([1.0, 30.0])),
    "TimingLayer": lambda: Case(
        lambda t, x: (t.separation(x, KAON, PION), t.survival(x, KAON)), timing_layer(), jnp.array([0.9, 2.0])
    ),
    "BeamLine, coordinates": lambda: Case(
        lambda t, x: t(x)[0], beam_line(), spread(12, -1, 1).reshape(3, 4) * jnp.array([9.0, 1e-2, 9.0, 1e-2])
    ),
    "periodic_twiss": lambda: on_function(
        lambda g, l: periodic_twiss(line_matrix(element_matrix(*fodo_cell(1000.0, g, quadrupole_length=l))))[:3],
        2e-3,
        90.0,
    ),
    "to_cylinder": lambda: track_on(lambda track: to_cylinder(track, 900.0, 3.8)),
    "to_plane": lambda: track_on(
        lambda track: to_plane(track, jnp.array([500.0, 0.0, 0.0]), jnp.array([1.0, 0.1, 0.2]), 3.8)
    ),
    "displaced_efficiency": lambda: on_function(
        displaced_efficiency, jnp.array([2.0, 1.0, 4.0]), jnp.array([0.02, 9.0, 0.1]), jnp.array([0.15, 0.15, 0.02])
    ),
    "mean_energy_loss": lambda: on_function(
        lambda p: mean_energy_loss(SILICON, p, 0.1057), jnp.array([0.1, 0.4, 50.0])
    ),
    "PhotonReconstruction": reconstruct,
    "pair_mass": lambda: Case(lambda t, x: pair_mass(x), (), measured()),
    "leading_pair": lambda: on_function(lambda v: leading_pair(v), spread(10, 20, 90).reshape(5, 2)),
    "PhotonTagger": lambda: on_stage(PhotonTagger.init(8, width=4, key=jr.key(2)), measured()),
    "photon_features": lambda: Case(lambda t, x: photon_features(x), (), measured()),
    "readout_fractions": lambda: Case(lambda t, x: readout_fractions(x), (), measured()),
    "DiphotonMenu": lambda: on_stage(menu(), measured()),
    "trigger_features": lambda: Case(lambda t, x: trigger_features(x), (), measured()),
    "rate": lambda: Case(lambda t, x: rate(t(x)), menu(), measured()),
    "LutModel.luts_of": lambda: Case(
        lambda t, x: t.luts_of(x), lut_model(), Features(*spread(len(Features._fields), 2, 40))
    ),
    "Chain": chain,
    "counts": soft_counts,
    "UnbinnedModel.nll": unbinned,
    "HybridModel.nll": hybrid,
    "asimov_significance": lambda: on_function(asimov_significance, spread(4, 1, 9), spread(4, 20, 90), 0.1),
    "Soft": lambda: on_function(lambda s, w: Soft(w)(s), SCORES, 0.7),
    "Boundary, smooth": lambda: on_function(lambda s, w: Boundary(w).smooth(s), SCORES, 0.7),
    "draw_shape": lambda: on_function(
        lambda a, s, e, z: draw_shape(effective_medium(LEAD, POLYSTYRENE, a, s), e, z).beta,
        jnp.array(2.0),
        jnp.array(5.0),
        spread(4, 2, 90),
        spread(8, -1, 1).reshape(4, 2),
    ),
    "lateral_profile": lambda: on_function(
        lambda a, s, tau, u: draw_radius(
            lateral_profile(effective_medium(LEAD, POLYSTYRENE, a, s), jnp.full(4, 10.0), tau), u
        ),
        jnp.array(2.0),
        jnp.array(5.0),
        spread(4, 0.3, 2),
        spread(4, 0.1, 0.9),
    ),
    **SURROGATES,
    "diphoton_mass": lambda: on_function(diphoton_mass, *LEFT, *RIGHT),
    "delta_r": lambda: on_function(delta_r, *LEFT[1:], *RIGHT[1:]),
    "energy_of": lambda: on_function(energy_of, *LEFT),
    "wrap_phi": lambda: on_function(wrap_phi, spread(5, -20, 20)),
    "safe_sqrt": lambda: on_function(safe_sqrt, jnp.array([-1.0, 0.3, 4.0])),
    "safe_log": lambda: on_function(safe_log, jnp.array([-1.0, 0.3, 4.0])),
    "safe_div": lambda: on_function(safe_div, spread(3, -1, 1), spread(3, 1, 2)),
    "safe_norm": lambda: on_function(safe_norm, spread(6, -1, 1).reshape(2, 3)),
}

# steps, so finite differences see none of their gradient; test_gates.py and test_histogram.py say what it must be
STEPPED: dict[str, Callable[[], Case]] = {
    **STEPPED_SURROGATES,
    "Hard": lambda: on_function(lambda s: Hard()(s), SCORES),
    "Boundary": lambda: on_function(lambda s: Boundary(0.7)(s), SCORES),
    "flux_counts": moving_counts,
    "category_counts": lambda: on_function(
        lambda x, cuts, w: category_counts(x, cuts, w, bandwidth=0.2),
        spread(9, 0.9, 1.7),
        jnp.array([1.1, 1.4]),
        spread(9, -1, 2, 1),
    ),
    "StraightThrough": lambda: on_function(lambda s, w: StraightThrough(w)(s), SCORES, 0.7),
    "Score": lambda: on_function(lambda s, w: Score(w)(s, key=jr.key(5)), SCORES, 0.7),
    "LearnedClassifier": lambda: on_stage(learned_formats(), spread(12, -3, 3).reshape(4, 3)),
    "TableClassifier": lambda: on_stage(learned_tables(), spread(12, -3, 3).reshape(4, 3)),
    "LearnedTables": lambda: on_stage(learned_tables().layers[0], spread(12, -3, 3).reshape(4, 3)),
    "AnomalyTrigger": lambda: on_stage(AnomalyTrigger(learned_formats(), 1.0), spread(12, -3, 3).reshape(4, 3)),
    "Autoencoder": lambda: on_stage(autoencoder(), spread(12, -3, 3).reshape(4, 3)),
    "Autoencoder.loss": lambda: Case(
        lambda t, x: t.loss(x, jnp.ones_like(x, bool), key=jr.key(0)), autoencoder(), spread(12, -3, 3).reshape(4, 3)
    ),
    "encoder_luts": lambda: Case(lambda t, x: encoder_luts(t, lut_model()), autoencoder(), ()),
    "LutModel.luts": lambda: Case(lambda t, x: lut_model().luts(t), learned_formats(), ()),
    "LutModel.luts, tables": lambda: Case(lambda t, x: lut_model().luts(t), learned_tables(), ()),
    "ebops": lambda: Case(lambda t, x: ebops(t), learned_formats(), ()),
    "DiphotonMenu, hard": lambda: on_stage(menu(energy_gate=Hard(), score_gate=Hard()), measured()),
}
