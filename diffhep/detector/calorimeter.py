r"""Sampling calorimeter: the response to photons as a differentiable function of the layout.

A stack of `layers` layers, each `absorber` mm of absorber and `active` mm of scintillator, in projective geometry at
`inner_radius` from the interaction point: every photon crosses it at normal incidence. With E in GeV, t in radiation
lengths X0:

- sampling fraction $f = t_s m_s/(t_s m_s + t_a m_a)$ of minimum-ionising energy loss m;
- sampling term $a = 0.027\sqrt{t_s[\mathrm{mm}]/f}$ GeV^(1/2) (Livan, Vercesi, Wigmans, CERN 95-02; PDG Review,
  Calorimeters), photo-statistics $p^2 = 1/(Y f)$ GeV for Y photo-electrons per visible GeV;
- longitudinal profile of `diffhep.detector.shower`, starting at a depth that is exponentially distributed with mean 9/7
  X0 (photons) or one interaction length (hadrons);
- Moliere radius $R_M = E_s \sum t_j/\sum (t_j E_{c,j}/X_{0,j})$, $E_s$ = 21.2 MeV (PDG Review, eq. 34.37 written for
  thicknesses), taken as the 90 % radius of a two-dimensional Gaussian of width $\rho = R_M/\sqrt{2\ln 10}$;
- position: the centroid of $N = E/(a^2 + p^2)$ independent samples of that Gaussian, $\sigma_x = \rho/\sqrt N$, and a
  constant term; the same N gives the error $1/\sqrt N$ of the squared lateral width.

The energy of a shower is read out in `readouts` groups of layers of equal depth. With `showers` the energies in them
are those of simulated showers, learned or out of a library, in place of profile, leakage and sampling term; hadrons,
position and width stay as above.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.detector.material import LEAD, POLYSTYRENE, Material
from diffhep.detector.shower import (
    PHOTON_START,
    SHOWER_RATE,
    gamma_fractions,
    leakage_curve,
    leakage_moments,
    shape_parameter,
)
from diffhep.detector.showers import E_OVER_MIP, AbstractShowers, Layout
from diffhep.events import Events
from diffhep.kinematics import safe_sqrt, wrap_phi
from diffhep.parameters import Scalar
from diffhep.stage import AbstractStage
from diffhep.units import MeV

FINEST = 8  # least number of intervals in which the longitudinal profile is integrated
SCALE_ENERGY = 21.2 * MeV  # E_s of the Moliere radius
CONTAINMENT = float(np.sqrt(2 * np.log(10)))  # radius of 90 % containment over the width of a 2-d Gaussian


class ShowerNoise(eqx.Module):
    """The random numbers behind one response: the reparametrised fluctuations, written out.

    Keeping them fixed while the layout moves gives common random numbers, and spares drawing them again at every step.

    Attributes:
        conversion: unit exponential, depth of each constituent's conversion.
        hadron: unit exponential, depth of the hadronic interaction.
        sampling: unit normal, of each readout group.
        common: unit normal, the constant term.
        lateral: three unit normals: eta, phi and width.
        shower: unit normals of each constituent's simulated shower, which takes them in place of `conversion`; None for
            a parametrised one.
    """

    conversion: Float[Array, "event object constituent"]
    hadron: Float[Array, "event object"]
    sampling: Float[Array, "event object readout"]
    common: Float[Array, "event object"]
    lateral: Float[Array, "event object 3"]
    shower: Float[Array, "event object constituent number"] | None = None


class Deposits(NamedTuple):
    """Energies in groups of layers at the electromagnetic scale [GeV].

    Attributes:
        energy: all of it.
        unsampled: that part of it which has not its sampling fluctuations yet.
    """

    energy: Float[Array, "event object readout"]
    unsampled: Float[Array, "event object readout"]


class SamplingCalorimeter(AbstractStage):
    """Sampling calorimeter in projective geometry; see the module's text for the formulas.

    Called on events with `pt` [GeV], `eta`, `phi`, and optionally `em_fraction` (event, object, constituent), `em_rms`
    (rms distance of the constituents in eta-phi) and `hoe` (hadronic over electromagnetic energy). Adds
    `readout_energy` (event, object, readout) at the electromagnetic scale [GeV] and `width` [mm]; replaces `eta`, `phi`
    by the measured ones and drops `pt`.

    Attributes:
        absorber, active: thickness in one layer [mm].
        layers: number of layers; an integer in a real detector, any positive number on the way there.
        photoelectrons: per GeV of visible energy.
        constant_term: relative, common to all readouts of a photon.
        noise: electronic noise of one layer [GeV], at the electromagnetic scale.
        inner_radius: of the front face [mm].
        position_constant: constant term of the position [mm].
        width_constant: relative shower-to-shower fluctuation of the squared lateral width.
        hadron_response: electromagnetic-scale energy per GeV of a showering hadron.
        profile_offset: of the shower maximum, ln(E/Ec) + offset (PDG: +0.5 for photons).
        showers: simulated ones in place of the parametrisation, in these materials; None for none.
    """

    absorber: Scalar
    active: Scalar
    layers: Scalar
    photoelectrons: float = 5000.0
    constant_term: float = 0.003
    noise: float = 0.005
    inner_radius: float = 1300.0
    position_constant: float = 0.3
    width_constant: float = 0.03
    hadron_response: float = 0.5
    profile_offset: float = 0.5
    showers: AbstractShowers | None = None
    readouts: int = eqx.field(static=True, default=8)
    absorber_material: Material = eqx.field(static=True, default=LEAD)
    active_material: Material = eqx.field(static=True, default=POLYSTYRENE)

    def __check_init__(self):
        if self.readouts < 1:
            msg = f"a calorimeter needs at least one readout, got {self.readouts}"
            raise ValueError(msg)

    def sampling_fraction(self) -> Float[Array, ""]:
        """Visible over total energy loss of a minimum-ionising particle."""
        visible = self.active * self.active_material.mip_loss
        return visible / (visible + self.absorber * self.absorber_material.mip_loss)

    def sampling_term(self) -> Float[Array, ""]:
        """Coefficient a of a/sqrt(E) [GeV^(1/2)]."""
        return 0.027 * jnp.sqrt(self.active / self.sampling_fraction())

    def photo_term(self) -> Float[Array, ""]:
        """Coefficient p of the photo-statistics p/sqrt(E) [GeV^(1/2)]."""
        return jnp.sqrt(1.0 / (self.photoelectrons * self.sampling_fraction()))

    def stochastic_term(self) -> Float[Array, ""]:
        """Sampling and photo-statistics in quadrature [GeV^(1/2)]."""
        return jnp.sqrt(self.sampling_term() ** 2 + self.photo_term() ** 2)

    def depth(self) -> Float[Array, ""]:
        """Depth of the stack [mm]."""
        return self.layers * (self.absorber + self.active)

    def radiation_lengths(self) -> Float[Array, ""]:
        """Depth of the stack [X0]."""
        per_layer = self.absorber / self.absorber_material.radiation_length
        return self.layers * (per_layer + self.active / self.active_material.radiation_length)

    def interaction_length(self) -> Float[Array, ""]:
        """Nuclear interaction length of the stack [X0]."""
        a, s = self.absorber_material, self.active_material
        radiation = self.absorber / a.radiation_length + self.active / s.radiation_length
        return radiation / (self.absorber / a.interaction_length + self.active / s.interaction_length)

    def lateral_width(self) -> Float[Array, ""]:
        """Width of a shower in one transverse direction [mm]."""
        a, s = self.absorber_material, self.active_material
        loss = self.absorber * a.critical_energy / a.radiation_length
        loss = loss + self.active * s.critical_energy / s.radiation_length
        return SCALE_ENERGY * (self.absorber + self.active) / loss / CONTAINMENT

    def shower_shape(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Shape parameter A of the longitudinal profile of a shower of some energy [GeV]."""
        return shape_parameter(energy, self.absorber_material.critical_energy, self.profile_offset)

    def leakage(self, energy: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """Mean and standard deviation, over conversion depths, of the fraction that leaks out at the back."""
        return leakage_moments(self.shower_shape(jnp.asarray(energy, dtype=float)), self.radiation_lengths())

    def layout(self) -> Layout:
        """What simulated showers have to know."""
        absorber, active, layers = (jnp.asarray(v, dtype=float) for v in (self.absorber, self.active, self.layers))
        return Layout(absorber, active, layers, self.sampling_fraction(), self.readouts)

    def leakage_curve(self) -> Callable[[Array], Array]:
        """Mean share of the energy that is not seen, against the measured energy [GeV]: the calibration."""
        if self.showers is not None:
            return self.showers.calibration(self.layout())
        return leakage_curve(self.radiation_lengths(), self.absorber_material.critical_energy, self.profile_offset)

    def resolution(self, energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""Relative energy resolution of photons.

        $\sigma_E/E = \sqrt{(a^2 + p^2)/E + \sigma_L^2 + c^2 + n\,\sigma_n^2/E^2}$ with
        $\sigma_L = \mathrm{std}[f_L]/(1 - \overline{f_L})$.
        """
        energy = jnp.asarray(energy, dtype=float)
        mean, spread = self.leakage(energy)
        noise = self.layers * self.noise**2 / energy**2
        stochastic = self.stochastic_term() ** 2 / energy
        return jnp.sqrt(stochastic + (spread / (1 - mean)) ** 2 + self.constant_term**2 + noise)

    def contained(
        self, energy: Float[Array, "*shape"], start: Float[Array, "*shape"]
    ) -> Float[Array, "*shape readout"]:
        """Fraction of a shower's energy in each group of layers, for a shower that starts at depth `start` [X0]."""
        # few, wide groups are cut finer: the quadrature is exact enough for intervals of some radiation lengths only
        parts = -(-FINEST // self.readouts)
        edges = jnp.linspace(0.0, 1.0, self.readouts * parts + 1) * self.radiation_lengths()
        inside = jnp.maximum(edges - start[..., None], 0.0)
        fine = gamma_fractions(self.shower_shape(energy), SHOWER_RATE * inside)
        return jnp.sum(fine.reshape(*fine.shape[:-1], self.readouts, parts), axis=-1)

    def deposits(self, events: Events, noise: ShowerNoise) -> Deposits:
        """Energy in each group of layers [GeV].

        Of parametrised showers leakage and conversion fluctuate, and nothing else does.

        Raises:
            ValueError: simulated showers without random numbers for them.
        """
        energy = (events["pt"] * jnp.cosh(events["eta"]))[..., None]
        parts = energy * events["em_fraction"] if "em_fraction" in events else energy
        if self.showers is not None:
            return self.simulated(self.showers, events, parts, noise)
        start = PHOTON_START * noise.conversion
        if "hoe" in events:
            # a hadron's shower has the same shape and starts deeper: one more constituent
            hadrons, deep = self.hadrons(events, noise)
            parts = jnp.concatenate([parts, hadrons], axis=-1)
            start = jnp.concatenate([start, deep], axis=-1)
        energy = jnp.sum(parts[..., None] * self.contained(parts, start), axis=-2)
        return Deposits(energy, energy)

    def hadrons(self, events: Events, noise: ShowerNoise) -> tuple[Array, Array]:
        """Energy of the showering hadrons [GeV] at the electromagnetic scale, and the depth where they start [X0]."""
        energy = (events["pt"] * jnp.cosh(events["eta"]) * events["hoe"])[..., None] * self.hadron_response
        return energy, self.interaction_length() * noise.hadron[..., None]

    def simulated(self, showers: AbstractShowers, events: Events, parts: Array, noise: ShowerNoise) -> Deposits:
        """Deposits of simulated showers, and of hadrons, which are parametrised all the same."""
        if noise.shower is None:
            msg = "noise: simulated showers want random numbers of their own (`draw_noise` with `showers`)"
            raise ValueError(msg)
        energy = jnp.sum(showers.deposits(self.layout(), parts, noise.shower), axis=-2)
        if "hoe" not in events:
            return Deposits(energy, jnp.zeros_like(energy))
        hadrons, start = self.hadrons(events, noise)
        unsampled = jnp.sum(hadrons[..., None] * self.contained(hadrons, start), axis=-2)
        return Deposits(energy + unsampled, unsampled)

    def respond(self, x: Events, noise: ShowerNoise) -> Events:
        """Measured readout energies, direction and lateral width, for given random numbers."""
        return self.read_out(x, self.deposits(x, noise), noise.sampling, noise.common, noise.lateral)

    def read_out(
        self,
        x: Events,
        deposits: Deposits,
        sampling: Float[Array, "event object readout"],
        common: Float[Array, "event object"],
        lateral: Float[Array, "event object 3"],
    ) -> Events:
        """What is measured of deposits, for given random numbers (of `ShowerNoise`)."""
        deposited, unsampled = deposits
        # of simulated showers less is visible than minimum-ionising particles of their energy would leave
        variance = self.stochastic_term() ** 2 * unsampled
        variance = variance + self.photo_term() ** 2 / E_OVER_MIP * (deposited - unsampled)
        variance = variance + self.noise**2 * self.layers / self.readouts
        energy = deposited + safe_sqrt(variance) * sampling
        energy = energy * (1 + self.constant_term * common[..., None])

        total = jnp.maximum(jnp.sum(deposited, axis=-1), 0.1)
        samples = total / self.stochastic_term() ** 2
        width = self.lateral_width()
        # dz = R d(eta) cosh(eta) seen along the shower, R d(phi) across it: both are R times the step in eta or phi
        shift = jnp.sqrt(width**2 / samples + self.position_constant**2) / self.inner_radius
        squared = 2 * width**2 + (self.inner_radius * x["em_rms"] if "em_rms" in x else 0.0) ** 2
        squared = squared * (1 + jnp.sqrt(1 / samples + self.width_constant**2) * lateral[..., 2])
        measured = {name: value for name, value in x.fields.items() if name != "pt"}
        measured |= {
            "readout_energy": energy,
            "eta": x["eta"] + shift * lateral[..., 0],
            "phi": wrap_phi(x["phi"] + shift * lateral[..., 1]),
            "width": safe_sqrt(squared),
        }
        return Events(measured, x.mask, x.weight)

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """`respond` with fresh random numbers; `key=None` is the mean response, or one simulated shower."""
        return self.respond(x, draw_noise(x, self.readouts, key=key, showers=self.showers))


def draw_noise(
    events: Events, readouts: int, *, key: PRNGKeyArray | None, showers: AbstractShowers | None = None
) -> ShowerNoise:
    """The random numbers of a response to some events; without a key their means.

    Args:
        events: whose response is wanted.
        readouts: groups of layers that are read out.
        key: of the random numbers.
        showers: simulated showers of the calorimeter, if it has any.
    """
    objects = events["pt"].shape
    shapes = noise_shapes(events, readouts, showers)
    shower = None
    if "shower" in shapes:
        size = shapes["shower"]
        shower = jnp.zeros(size) if key is None else jr.normal(jr.fold_in(key, 5), size)
    if key is None:
        ones, zeros = jnp.ones, jnp.zeros
        return ShowerNoise(
            ones(shapes["conversion"]),
            ones(objects),
            zeros(shapes["sampling"]),
            zeros(objects),
            zeros((*objects, 3)),
            shower,
        )
    keys = jr.split(key, 5)
    return ShowerNoise(
        jr.exponential(keys[0], shapes["conversion"]),
        jr.exponential(keys[1], objects),
        jr.normal(keys[2], shapes["sampling"]),
        jr.normal(keys[3], objects),
        jr.normal(keys[4], (*objects, 3)),
        shower,
    )


def noise_shapes(events: Events, readouts: int, showers: AbstractShowers | None = None) -> dict[str, tuple[int, ...]]:
    """Shapes of the random numbers of a response to some events."""
    objects = events["pt"].shape
    constituents = events["em_fraction"].shape[-1] if "em_fraction" in events else 1
    simulated = {"shower": (*objects, constituents, showers.noise_size)} if showers is not None else {}
    return {
        "conversion": (*objects, constituents),
        "hadron": objects,
        "sampling": (*objects, readouts),
        "common": objects,
        "lateral": (*objects, 3),
        **simulated,
    }
