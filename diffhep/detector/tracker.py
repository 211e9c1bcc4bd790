r"""Silicon tracker: cylindrical layers and a beam pipe, as what a track fit needs to know of them.

A track of transverse momentum $p_T$ and pseudorapidity $\eta$ crosses every layer once, at a material thickness of
$x\cosh\eta$ and with a momentum of $p_T\cosh\eta$. Seen in the bending plane, the angle by which a layer scatters is
larger by $\cosh\eta$ than Highland's, since the transverse momentum is smaller than the momentum. So without a field
the impact parameter scatters as $1/(p\sin^{3/2}\theta)$. `diffhep.reconstruction.track_covariance` takes it from here.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from diffhep.detector.scattering import scattering_variance
from diffhep.parameters import Param, Scalar

if TYPE_CHECKING:
    Layers = Any
else:
    # a Param while a design is made and moved, an array inside the loss
    Layers = Float[Array, "*layer"] | Param | float


class TrackSurfaces(NamedTuple):
    """A track's surfaces, in the order of the arguments of `diffhep.reconstruction.track_covariance`.

    Attributes:
        hits: radii of the layers [mm].
        information: of each hit [1/mm^2].
        scatterers: radii of the layers and of the beam pipe, which comes last [mm].
        scattering: variance of the angle in the bending plane at each scatterer [rad^2].
    """

    hits: Float[Array, " layer"]
    information: Float[Array, " layer"]
    scatterers: Float[Array, " scatterer"]
    scattering: Float[Array, "*track scatterer"]


class SiliconTracker(eqx.Module):
    """Cylindrical silicon layers around a beam pipe.

    Attributes:
        radii: of the layers [mm], in any order.
        resolution: of a hit in the bending plane [mm], of all layers or of each.
        thickness: of a layer with its support and services [X0], of all or of each; 0 scatters nothing.
        efficiency: chance of a hit in (0, 1], of all layers or of each. A layer informs in this share of all tracks:
            the covariance of a track with the mean information. Also the weight of a layer that is on its way out of
            the design.
        pipe_radius: [mm].
        pipe_thickness: [X0]; 0 is no beam pipe.

    >>> tracker = SiliconTracker(jnp.array([30.0, 500.0, 1000.0]), resolution=0.01, thickness=0.02)
    >>> tracker.surfaces(jnp.array([1.0, 10.0])).scattering.shape
    (2, 4)
    """

    radii: Layers
    resolution: Layers = 0.01
    thickness: Layers = 0.02
    efficiency: Layers = 1.0
    pipe_radius: Scalar = 22.0
    pipe_thickness: Scalar = 0.003

    def __check_init__(self):
        layers = np.shape(self.radii.raw if isinstance(self.radii, Param) else self.radii)
        if len(layers) < 1:
            msg = f"tracker: radii must be a list of radii in mm, got {self.radii}"
            raise ValueError(msg)
        wanted = {
            "radii": ("at least 0 mm", lambda x: x >= 0),
            "resolution": ("above 0 mm", lambda x: x > 0),
            "thickness": ("at least 0 X0", lambda x: x >= 0),
            "efficiency": ("above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
            "pipe_radius": ("at least 0 mm", lambda x: x >= 0),
            "pipe_thickness": ("at least 0 X0", lambda x: x >= 0),
        }
        for name, (words, good) in wanted.items():
            value = getattr(self, name)
            shape = np.shape(value.raw if isinstance(value, Param) else value)
            if shape not in ((), layers) or (shape and name.startswith("pipe")):
                msg = f"tracker: {name} has shape {shape}, the tracker {layers[-1]} layers"
                raise ValueError(msg)
            if not isinstance(value, Param | Tracer) and not np.all(good(np.asarray(value)) & np.isfinite(value)):
                msg = f"tracker: {name} must be {words}, got {np.asarray(value)}"
                raise ValueError(msg)

    def information(self) -> Float[Array, " layer"]:
        """Mean information of the hits of each layer, efficiency over squared resolution [1/mm^2]."""
        per_layer = jnp.asarray(self.efficiency) / jnp.asarray(self.resolution) ** 2
        return jnp.broadcast_to(per_layer, jnp.shape(self.radii))

    def scattering(
        self,
        pt: Float[Array, "*track"] | float,
        *,
        eta: Float[Array, "*track"] | float = 0.0,
        mass: Float[Array, ""] | float = 0.0,
    ) -> Float[Array, "*track scatterer"]:
        """Variance of the angle in the bending plane at each layer, and at the beam pipe [rad^2].

        Args:
            pt: transverse momentum [GeV].
            eta: pseudorapidity; layers and pipe are long enough.
            mass: [GeV].
        """
        pt, stretch = jnp.asarray(pt)[..., None], jnp.cosh(jnp.asarray(eta))[..., None]
        momentum = pt * stretch
        beta = momentum / jnp.sqrt(momentum**2 + jnp.asarray(mass) ** 2)
        layers = jnp.broadcast_to(jnp.asarray(self.thickness), jnp.shape(self.radii))
        thickness = jnp.concatenate([layers, jnp.atleast_1d(jnp.asarray(self.pipe_thickness))])
        return scattering_variance(thickness * stretch, momentum, beta=beta) * stretch**2

    def surfaces(
        self,
        pt: Float[Array, "*track"] | float,
        *,
        eta: Float[Array, "*track"] | float = 0.0,
        mass: Float[Array, ""] | float = 0.0,
    ) -> TrackSurfaces:
        """What a fit of tracks of some transverse momenta [GeV] needs: `track_covariance(*tracker.surfaces(pt))`."""
        radii = jnp.asarray(self.radii)
        scatterers = jnp.concatenate([radii, jnp.atleast_1d(jnp.asarray(self.pipe_radius))])
        return TrackSurfaces(radii, self.information(), scatterers, self.scattering(pt, eta=eta, mass=mass))

    def areas(self, eta_max: float) -> Float[Array, " layer"]:
        r"""Area of each layer that covers $|\eta|$ up to a limit [mm^2]: $4\pi r^2\sinh\eta_{max}$."""
        return 4 * jnp.pi * jnp.asarray(self.radii) ** 2 * jnp.sinh(eta_max)
