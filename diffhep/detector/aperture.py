r"""Particles through a beam line with hard apertures.

A particle is lost where its distance from the nearest aperture of the line falls below 0, and its weight is the gate of
that distance. With `diffhep.gates.Boundary` the weights are 0 or 1, and the derivative of their sum is that of the
expected transmission: the flux of particles through the edge, by Reynolds' transport theorem. One gate of the smallest
distance, not a product of one an aperture: where two edges lie on top of each other the flux would be counted twice.
For a Gaussian beam and one aperture, `diffhep.detector.beamline.transmission` is the closed form.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.detector.beamline import element_matrix
from diffhep.gates import AbstractGate, Hard
from diffhep.parameters import Param
from diffhep.stage import AbstractStage

if TYPE_CHECKING:
    Elements = Any
else:
    # a Param while a design is made and moved, an array inside the loss
    Elements = Float[Array, " element"] | Param

OPEN = 1e9  # mm: the distance from an aperture that is not there


class BeamLine(AbstractStage):
    """Quadrupoles and drifts with an aperture behind each, for particles.

    Called on coordinates (particle, 4): x [mm], x', y [mm], y'. Returns those at the end, and the weight of each
    particle, 1 if it has passed all apertures. Lost particles are carried on with weight 0.

    Attributes:
        strengths: integrated, k l, of each element [1/mm]; positive focuses x, 0 is a drift.
        lengths: [mm]; 0 is a thin lens.
        half_apertures: at the end of each element, of |x| and |y| [mm]; infinite is none.
        gate: of the smallest distance from an aperture [mm]: `Boundary` to learn, `Hard` to judge. A quarter of the
            beam's width is a good width.

    >>> line = BeamLine(jnp.array([0.001, 0.0]), jnp.array([0.0, 500.0]), jnp.array([jnp.inf, 2.0]))
    >>> line(jnp.array([[1.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]]))[1].tolist()
    [1.0, 0.0]
    """

    strengths: Elements
    lengths: Elements
    half_apertures: Elements
    gate: AbstractGate = eqx.field(default_factory=Hard)

    def __check_init__(self):
        given = {name: getattr(self, name) for name in ("strengths", "lengths", "half_apertures")}
        shapes = {name: np.shape(x.raw if isinstance(x, Param) else x) for name, x in given.items()}
        if len(set(shapes.values())) > 1 or len(shapes["lengths"]) != 1:
            msg = "beam line: one number an element is wanted, got shapes " + ", ".join(
                f"{name} {shape}" for name, shape in shapes.items()
            )
            raise ValueError(msg)
        for name in ("lengths", "half_apertures"):
            x = given[name]
            if not isinstance(x, Param | Tracer) and not np.all(np.asarray(x) >= 0):
                msg = f"beam line: {name} must not be below 0 mm, got {np.asarray(x)}"
                raise ValueError(msg)

    def __call__(
        self, x: Float[Array, "particle 4"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "particle 4"], Float[Array, " particle"]]:
        """Coordinates at the end of the line, and weights."""
        strengths = jnp.asarray(self.strengths)
        matrices = element_matrix(strengths, self.lengths), element_matrix(-strengths, self.lengths)

        def step(carry: tuple[Array, Array], element: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            (at, margin), (horizontal, vertical, half) = carry, element
            at = jnp.concatenate([at[:, :2] @ horizontal.T, at[:, 2:] @ vertical.T], axis=1)
            for position in (at[:, 0], at[:, 2]):
                margin = jnp.minimum(margin, distance_inside(position, half))
            return (at, margin), None

        start = (x, jnp.full(x.shape[0], OPEN, x.dtype))
        (at, margin), _ = jax.lax.scan(step, start, (*matrices, jnp.asarray(self.half_apertures)))
        return at, self.gate(margin, key=key)


def distance_inside(position: Float[Array, "*shape"], half_aperture: ArrayLike) -> Float[Array, "*shape"]:
    """Distance from the edge of a symmetric aperture [mm], positive inside; very large for an infinite aperture."""
    half = jnp.asarray(half_aperture)
    finite = jnp.isfinite(half)
    return jnp.where(finite, jnp.where(finite, half, 0.0) - jnp.abs(position), OPEN)
