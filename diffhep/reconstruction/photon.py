"""Photon reconstruction: energy and direction from the readout energies of a calorimeter."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.events import Events
from diffhep.kinematics import diphoton_mass
from diffhep.stage import AbstractStage


class PhotonReconstruction(AbstractStage):
    r"""Calibrated photons: $E = \sum_j E_j\,/\,(1 - \overline{f_L}(\sum_j E_j))$, direction from the position.

    Adds `energy` and `pt` [GeV] to events with `readout_energy` and `eta`.

    Attributes:
        leakage: mean leaking fraction at a measured energy [GeV]. It comes from the calorimeter's own layout
            (`SamplingCalorimeter.leakage_curve`), so that the calibration follows the geometry.
        energy_scale: relative error of the absolute calibration; 0 is perfect.
    """

    leakage: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
    energy_scale: Float[Array, ""] | float = 0.0

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """The calibrated photons."""
        # a photon that leaves nothing but noise may sum to less than zero
        total = jnp.maximum(jnp.sum(x["readout_energy"], axis=-1), 1e-3)
        energy = total / (1 - self.leakage(total)) * (1 + self.energy_scale)
        return x.with_fields({"energy": energy, "pt": energy / jnp.cosh(x["eta"])})


def leading_pair(values: Float[Array, "event object"]) -> tuple[Float[Array, " event"], Float[Array, " event"]]:
    """The larger and the smaller of the first two objects' values, event by event."""
    first, second = values[:, 0], values[:, 1]
    return jnp.maximum(first, second), jnp.minimum(first, second)


def pair_mass(events: Events) -> Float[Array, " event"]:
    """Invariant mass of the first two photons of each event [GeV]; 0 where there is only one."""
    pt, eta, phi = jnp.where(events.mask, events["pt"], 0.0), events["eta"], events["phi"]
    return diphoton_mass(pt[:, 0], eta[:, 0], phi[:, 0], pt[:, 1], eta[:, 1], phi[:, 1])
