r"""A passive volume of voxels, and muons that scatter in it.

Every step along a muon's path of length h is given the projected scattering variance of
`diffhep.detector.scattering.step_variance`, so that the angle behind the volume does not depend on the number of steps.
The displacement across the path is, in each projection, $h\,\theta\,(z_1/\sqrt{12} + z_2/2)$ with $z_2$ shared with the
angle $\theta z_2$ (PDG Review, Passage of particles). Its sum over many steps is 0.97 of that of a single step, because
the single step neglects the logarithm; from ten steps on it stays the same to 1e-3.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.detector.scattering import step_variance
from diffhep.events import Events
from diffhep.kinematics import safe_sqrt


class VoxelVolume(eqx.Module):
    """A box of cubic voxels with its corner at x = y = 0.

    Called on events with `x`, `y`, `slope_x`, `slope_y` and `momentum` at the height `top`; muons go down, and come out
    with the first four replaced by those at the height `bottom`. Outside the box nothing scatters.

    Attributes:
        radiation_length: of every voxel, from the lowest layer up [mm].
        size: of a voxel [mm].
        bottom: z of the lower face [mm].
        steps: into which a layer is divided; a step sees one voxel, the one at its middle.
    """

    radiation_length: Float[Array, "layer x y"]
    size: float = eqx.field(static=True, default=100.0)
    bottom: float = eqx.field(static=True, default=0.0)
    steps: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        if jnp.ndim(self.radiation_length) != 3:
            msg = f"radiation_length: axes layer, x and y are wanted, got shape {jnp.shape(self.radiation_length)}"
            raise ValueError(msg)
        concrete = not isinstance(self.radiation_length, Tracer) and isinstance(self.radiation_length, jax.Array)
        if concrete and not np.all(np.asarray(self.radiation_length) > 0):
            msg = f"radiation_length must be positive, got {np.min(np.asarray(self.radiation_length))} mm"
            raise ValueError(msg)
        if self.steps < 1 or not self.size > 0:
            msg = (
                f"a voxel volume wants at least one step a layer and a positive size, got {self.steps}, {self.size} mm"
            )
            raise ValueError(msg)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.radiation_length.shape[0]

    @property
    def top(self) -> float:
        """Height of the upper face [mm]."""
        return self.bottom + self.size * self.layers

    @property
    def extent(self) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        """Limits in x, y and z [mm]."""
        _, nx, ny = self.radiation_length.shape
        return (0.0, nx * self.size), (0.0, ny * self.size), (self.bottom, self.top)

    def __call__(self, x: Events, *, key: PRNGKeyArray | None = None) -> Events:
        """Muons at the lower face; without a key they go straight on."""
        momentum, steps = x["momentum"], self.layers * self.steps
        keys = jr.split(jr.key(0) if key is None else key, steps)
        start = (x["x"], x["y"], x["slope_x"], x["slope_y"], jnp.zeros_like(momentum))
        density = 1 / self.radiation_length[::-1]

        def step(state: tuple, xs: tuple) -> tuple[tuple, None]:
            layer, key_of_step = xs
            # float32 random numbers cost half and their tails reach as far as 5 standard deviations
            noise = jr.normal(key_of_step, (4, momentum.size), jnp.float32).astype(momentum.dtype)
            return self.step(state, density[layer], momentum, noise * (key is not None)), None

        order = jnp.arange(steps) // self.steps
        out, _ = jax.lax.scan(step, start, (order, keys))
        return x.with_fields(dict(zip(("x", "y", "slope_x", "slope_y"), out[:4], strict=True)))

    def step(
        self,
        state: tuple[Array, Array, Array, Array, Array],
        density: Float[Array, "x y"],
        momentum: Float[Array, " event"],
        noise: Float[Array, "4 event"],
    ) -> tuple[Array, Array, Array, Array, Array]:
        """One step down: position, slopes and radiation lengths passed so far.

        Args:
            state: x, y [mm], slope_x, slope_y, and radiation lengths since the entry, each (event,).
            density: inverse radiation length of the layer's voxels [1/mm].
            momentum: [GeV].
            noise: unit normals, two for the displacement and two for the angle.
        """
        x, y, slope_x, slope_y, passed = state
        down = self.size / self.steps
        secant = jnp.sqrt(1 + slope_x**2 + slope_y**2)
        path = down * secant
        thickness = path * self.lookup(density, x - slope_x * down / 2, y - slope_y * down / 2)
        after = passed + thickness
        angle = safe_sqrt(step_variance(passed, after, momentum))
        # sideways, at the same height; slopes are per z, and the muon goes down
        shift = -path * angle * (noise[:2] / np.sqrt(12.0) + noise[2:] / 2)
        along = (shift[0] * slope_x + shift[1] * slope_y) / (1 + secant)
        x = x - slope_x * down + shift[0] + along * slope_x
        y = y - slope_y * down + shift[1] + along * slope_y
        slope_x, slope_y = deflected(slope_x, slope_y, angle * noise[2], angle * noise[3])
        return x, y, slope_x, slope_y, after

    def lookup(self, density: Float[Array, "x y"], x: Float[Array, " event"], y: Float[Array, " event"]) -> Array:
        """Inverse radiation length where muons are [1/mm], 0 outside."""
        nx, ny = density.shape
        i, j = (jnp.floor(v / self.size).astype(int) for v in (x, y))
        inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
        return jnp.where(inside, density[jnp.clip(i, 0, nx - 1), jnp.clip(j, 0, ny - 1)], 0.0)


def deflected(
    slope_x: Float[Array, "*shape"],
    slope_y: Float[Array, "*shape"],
    angle_x: Float[Array, "*shape"],
    angle_y: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""Slopes after a deflection by two small angles, in two planes that are perpendicular to each other.

    The unit direction $(s_x, s_y, 1)\cos\theta$ is given the perpendicular kick $\xi$, turned into its frame by the
    rotation about a horizontal axis that leads from the vertical to it; the kick is the tangent of the angle.

    >>> [round(float(s), 6) for s in deflected(jnp.array(0.0), jnp.array(0.0), jnp.array(0.01), jnp.array(0.0))]
    [0.01, 0.0]
    """
    cosine = 1 / jnp.sqrt(1 + slope_x**2 + slope_y**2)
    radial = (angle_x * slope_x + angle_y * slope_y) * cosine
    turned = radial * cosine / (1 + cosine)
    vertical = cosine - radial
    return (
        (slope_x * cosine + angle_x - slope_x * turned) / vertical,
        (slope_y * cosine + angle_y - slope_y * turned) / vertical,
    )
