"""The H -> gamma gamma experiment as one differentiable function: detector, reconstruction, tagging, trigger, fit.

`Experiment` is the tree of everything that can be optimised; `templates` runs events through it; `significance` turns
the templates into an expected discovery significance. The same code runs relaxed (soft gates, kernel histogram) and
hard (steps, counts, integer classifier): only the `Decisions` differ.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffhep.detector import SamplingCalorimeter, ShowerNoise
from diffhep.events import Events
from diffhep.gates import AbstractGate, Hard, Soft
from diffhep.histogram import counts, variances
from diffhep.inference import discovery_significance, resonance_search, smooth_counts
from diffhep.kinematics import safe_div
from diffhep.parameters import Scalar
from diffhep.reconstruction import PhotonReconstruction, leading_pair, pair_mass
from diffhep.tagging import PhotonTagger
from diffhep.trigger import DiphotonMenu


class Nuisances(eqx.Module):
    """True values of what the analysis does not know exactly, in standard deviations; 0 is nominal.

    Attributes:
        energy_scale: of the absolute energy calibration.
        background: of the background yield; one standard deviation is 10 %.
    """

    energy_scale: Scalar
    background: Scalar


class Experiment(eqx.Module):
    """Everything that can be optimised, from the absorber to the fit.

    Attributes:
        calorimeter, tagger, menu: the stages.
        photon_cut: least photon score of a selected photon [logit].
        nuisances: true values of the nuisance parameters.
    """

    calorimeter: SamplingCalorimeter
    tagger: PhotonTagger
    menu: DiphotonMenu
    photon_cut: Scalar
    nuisances: Nuisances


class Decisions(eqx.Module):
    """How yes-or-no decisions and histograms are treated.

    Attributes:
        energy: gate on transverse energies; its width is in GeV.
        score: gate on logits.
        ratio: gate on pt/mass.
        bandwidth: kernel width of the mass histogram [GeV]; None counts.
    """

    energy: AbstractGate
    score: AbstractGate
    ratio: AbstractGate
    bandwidth: float | None


RELAXED = Decisions(Soft(0.5), Soft(0.25), Soft(0.005), 0.3)
HARD = Decisions(Hard(), Hard(), Hard(), None)


class Data(eqx.Module):
    """Weighted events of one evaluation.

    Attributes:
        prompt: signal events, then continuum events; weights are events expected at the luminosity of the analysis.
        jets: weights are trigger candidates per second [Hz].
        exposure: live time that turns a rate into an expected number of events [s].
        group: (event, object) of the jets: class of flavour and transverse momentum, for the factorised fake rate.
        isolation_rate: share of isolated candidates in each class, from all jets of the sample, whatever the design.
        tally: (event,) of the jets: 1 for each event, when candidates are counted.
        noise: random numbers of the detector's response to each sample; fixed, so that two designs see the same ones.
        signal_events: how many of the prompt events are signal.
    """

    prompt: Events
    jets: Events
    exposure: Float[Array, ""]
    group: Int[Array, "event object"]
    isolation_rate: Float[Array, " class"]
    tally: Float[Array, " event"]
    noise: dict[str, ShowerNoise]
    signal_events: int = eqx.field(static=True)

    def rows(self) -> tuple[slice, slice]:
        """Where prompt events and jets are in the sample of everything."""
        return slice(0, self.prompt.size), slice(self.prompt.size, None)

    def signal(self) -> tuple[Events, ShowerNoise]:
        """The signal events and their random numbers."""
        first = slice(0, self.signal_events)
        return self.prompt.take(first), jax.tree.map(lambda x: x[first], self.noise["prompt"])


class Spectrum(eqx.Module):
    """The binned mass range and what the fit assumes.

    Attributes:
        edges: of the mass histogram [GeV].
        energy_scale: relative uncertainty of the energy scale.
        leading_ratio, subleading_ratio: least pt/mass of the two photons.
    """

    edges: Float[Array, " edge"]
    energy_scale: float = 0.003
    leading_ratio: float = 1 / 3
    subleading_ratio: float = 1 / 4

    @property
    def centres(self) -> Float[Array, " bin"]:
        """Bin centres [GeV]."""
        return (self.edges[1:] + self.edges[:-1]) / 2


class Templates(NamedTuple):
    """What the fit sees.

    Attributes:
        signal: expected signal per bin, and with the energy scale shifted up and down by one standard deviation.
        background: expected background per bin, smoothed.
        raw_background: the same before smoothing: continuum and fakes.
        rate: trigger rate [Hz].
    """

    signal: Float[Array, " bin"]
    signal_up: Float[Array, " bin"]
    signal_down: Float[Array, " bin"]
    background: Float[Array, " bin"]
    raw_background: Float[Array, "2 bin"]
    rate: Float[Array, ""]


def measure(experiment: Experiment, spectrum: Spectrum, events: Events, noise: ShowerNoise) -> Events:
    """Events through the detector, the calibration and the photon identification (Params resolved)."""
    return identify(experiment, spectrum, experiment.calorimeter.respond(events, noise))


measured = jax.jit(measure)


def measure_everything(experiment: Experiment, spectrum: Spectrum, data: Data) -> Events:
    """Prompt events and then jets, as `measure` sees each: one pass after the showers is half the program."""
    samples = [(data.prompt, data.noise["prompt"]), (data.jets, data.noise["jets"])]
    deposits = [experiment.calorimeter.deposits(events, noise) for events, noise in samples]
    parts = [
        (e.only("pt", "eta", "phi", "em_rms"), d, n.sampling, n.common, n.lateral)
        for (e, n), d in zip(samples, deposits, strict=True)
    ]
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return identify(experiment, spectrum, experiment.calorimeter.read_out(*together))


def identify(experiment: Experiment, spectrum: Spectrum, response: Events) -> Events:
    """Calibration and photon identification of a calorimeter's response."""
    shift = spectrum.energy_scale * experiment.nuisances.energy_scale
    photons = PhotonReconstruction(experiment.calorimeter.leakage_curve(), shift)(response)
    return experiment.tagger(photons)


def menu_with(experiment: Experiment, decisions: Decisions) -> DiphotonMenu:
    """The trigger with the given gates."""
    menu = experiment.menu
    return DiphotonMenu(menu.leading, menu.subleading, menu.classifier, decisions.energy, decisions.score)


class Selected(NamedTuple):
    """Acceptance of one sample: of the event, of the trigger's and the whole identification of each object, mass."""

    event: Float[Array, " event"]
    trigger: Float[Array, "event object"]
    photon: Float[Array, "event object"]
    mass: Float[Array, " event"]
    kinematics: Float[Array, " event"]


def select(experiment: Experiment, spectrum: Spectrum, photons: Events, decisions: Decisions) -> Selected:
    """Acceptances of trigger and analysis for measured photons."""
    menu = menu_with(experiment, decisions)
    trigger = menu.object_acceptance(photons)
    photon = trigger * decisions.score(photons["photon_score"] - experiment.photon_cut)
    mass = pair_mass(photons)
    high, low = leading_pair(jnp.where(photons.mask, photons["pt"], 0.0))
    ratios = decisions.ratio(safe_div(high, mass) - spectrum.leading_ratio)
    ratios = ratios * decisions.ratio(safe_div(low, mass) - spectrum.subleading_ratio)
    return Selected(menu.energy_acceptance(photons), trigger, photon, mass, ratios)


def fake_rates(photon: Float[Array, "event object"], data: Data) -> Float[Array, "event object"]:
    """Efficiency of isolation and identification for each candidate's class.

    Few pairs of fakes survive two identifications; the product of two single-candidate efficiencies is known much
    better, and equals the pair's efficiency as far as the two jets fragment and shower independently. Inside a class
    every candidate counts alike: the weights span four orders of magnitude, the efficiency varies little.
    """
    classes = data.isolation_rate.size
    one = jnp.broadcast_to(data.tally[:, None], photon.shape).ravel()
    total = jax.ops.segment_sum(one, data.group.ravel(), classes)
    passed = jax.ops.segment_sum(one * photon.ravel(), data.group.ravel(), classes)
    return (data.isolation_rate * safe_div(passed, total))[data.group]


def templates(experiment: Experiment, spectrum: Spectrum, data: Data, decisions: Decisions) -> Templates:
    """Mass templates and trigger rate of an experiment whose Params are resolved."""

    def histogram(mass: Array, weight: Array) -> Array:
        return counts(mass, spectrum.edges, weight, bandwidth=decisions.bandwidth)

    everything = select(experiment, spectrum, measure_everything(experiment, spectrum, data), decisions)
    pairs, jets = (jax.tree.map(lambda x, r=rows: x[r], everything) for rows in data.rows())
    accepted = data.prompt.weight * pairs.event * pairs.kinematics * pairs.photon[:, 0] * pairs.photon[:, 1]
    first = data.signal_events
    mass, weight, scale = pairs.mass[:first], accepted[:first], spectrum.energy_scale
    shapes = [histogram(mass * factor, weight) for factor in (1.0, 1 + scale, 1 - scale)]
    prompt = histogram(pairs.mass[first:], accepted[first:])
    variance = variances(pairs.mass[first:], spectrum.edges, accepted[first:], bandwidth=decisions.bandwidth)

    rate = jnp.sum(data.jets.weight * jets.event * jets.trigger[:, 0] * jets.trigger[:, 1])
    weight = data.jets.weight * data.exposure * jets.event * jets.kinematics
    weight = weight * jnp.prod(fake_rates(jets.photon, data), axis=1)
    fakes = histogram(jets.mass, weight)
    variance = variance + variances(jets.mass, spectrum.edges, weight, bandwidth=decisions.bandwidth)

    raw = jnp.stack([prompt, fakes]) * (1 + 0.1 * experiment.nuisances.background)
    smooth = smooth_counts(raw.sum(axis=0), variance, spectrum.centres, degree=2)
    return Templates(shapes[0], shapes[1], shapes[2], smooth.counts, raw, rate)


def significance(spectrum: Spectrum, t: Templates) -> Float[Array, ""]:
    """Expected discovery significance: signal strength profiled over background yield, slope and energy scale."""
    model = resonance_search(t.signal, t.background, spectrum.centres, signal_up=t.signal_up, signal_down=t.signal_down)
    return discovery_significance(model)
