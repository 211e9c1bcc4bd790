r"""Magnetic fields, and charged particles in them by diffrax.

A field is a module that returns B [T] at a point [mm]. With the direction u and the length s of the way,
$\frac{dx}{ds} = u$ and $\frac{du}{ds} = \frac{0.3\,q}{p}\,u\times B(x)$; the momentum stays.
"""

import abc
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from diffhep.detector.helix import BENDING, Crossing, Track
from diffhep.kinematics import safe_div, safe_norm
from diffhep.parameters import Scalar

TOLERANCE = 1e-12


class AbstractField(eqx.Module):
    """`field(position)`: B [T] at one position [mm], a vector of three."""

    @abc.abstractmethod
    def __call__(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """The field at a point."""


class UniformField(AbstractField):
    """The same field everywhere.

    Attributes:
        strength: along z [T].
    """

    strength: Scalar

    def __call__(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """The field at a point."""
        return jnp.zeros_like(position).at[2].set(self.strength)


class SolenoidField(AbstractField):
    r"""A thin solenoid of finite length, by the expansion about its axis to third order in the distance r from it.

    On the axis $f = \frac{B_0}{2N}[\frac{z + h}{\sqrt{(z + h)^2 + a^2}} - \frac{z - h}{\sqrt{(z - h)^2 + a^2}}]$ with
    f(0) = $B_0$, off it $B_z = f - \frac{r^2}{4}f''$ and $B_r = -\frac r2 f' + \frac{r^3}{16}f'''$ (J. D. Jackson,
    Classical Electrodynamics, 3rd edition, problem 5.4). Free of divergence; good for r below half the radius.

    Attributes:
        strength: at the centre [T].
        radius: a, of the coil [mm].
        half_length: h [mm].
    """

    strength: Scalar
    radius: Scalar = 3000.0
    half_length: Scalar = 3500.0

    def __check_init__(self):
        for name in ("radius", "half_length"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                msg = f"solenoid: {name} must be above 0 mm, got {value}"
                raise ValueError(msg)

    def on_axis(self, z: Float[Array, ""]) -> Float[Array, ""]:
        """Field on the axis [T]."""
        a, h = self.radius, self.half_length
        end = lambda t: t / jnp.sqrt(t**2 + a**2)
        return self.strength * (end(z + h) - end(z - h)) / (2 * end(jnp.asarray(h)))

    def __call__(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """The field at a point."""
        first = jax.grad(self.on_axis)
        second = jax.grad(first)
        x, y, z = position
        square = x**2 + y**2
        slope, bend, third = first(z), second(z), jax.grad(second)(z)
        radial = -0.5 * slope + square / 16 * third  # over r
        return jnp.stack([radial * x, radial * y, self.on_axis(z) - 0.25 * square * bend])


class FieldMap(AbstractField):
    """A field on a grid of points, interpolated linearly in x, y and z; outside, the value of the nearest edge.

    Attributes:
        values: at the points [T], the last axis being the three components.
        origin: of the first point [mm].
        spacing: of the points [mm].
    """

    values: Float[Array, "x y z 3"]
    origin: Float[Array, "3"]
    spacing: Float[Array, "3"]

    def __check_init__(self):
        shape = np.shape(self.values)
        if len(shape) != 4 or shape[3] != 3 or min(shape) < 2:
            msg = f"field map: values of shape (x, y, z, 3), two points an axis at least, are wanted, got {shape}"
            raise ValueError(msg)
        if not isinstance(self.spacing, Tracer) and not np.all(np.asarray(self.spacing) > 0):
            msg = f"field map: spacing must be above 0 mm, got {np.asarray(self.spacing)}"
            raise ValueError(msg)

    @classmethod
    def sample(
        cls, field: Callable[[Array], Array], low: tuple[float, ...], high: tuple[float, ...], points: tuple[int, ...]
    ) -> "FieldMap":
        """The map of another field between two corners [mm]."""
        axes = [jnp.linspace(*ends) for ends in zip(low, high, points, strict=True)]
        grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
        values = jax.vmap(field)(grid.reshape(-1, 3)).reshape(grid.shape)
        spacing = (jnp.asarray(high) - jnp.asarray(low)) / (jnp.asarray(points) - 1)
        return cls(values, jnp.asarray(low, float), spacing)

    def __call__(self, position: Float[Array, "3"]) -> Float[Array, "3"]:
        """The field at a point."""
        last = jnp.asarray(self.values.shape[:3]) - 1
        at = jnp.clip((position - self.origin) / self.spacing, 0.0, last)
        cell = jnp.clip(jnp.floor(at).astype(int), 0, last - 1)
        share = at - cell
        out = jnp.zeros(3, self.values.dtype)
        for corner in np.ndindex(2, 2, 2):
            weight = jnp.prod(jnp.where(jnp.asarray(corner) == 1, share, 1 - share))
            i, j, k = cell + jnp.asarray(corner)
            out = out + weight * self.values[i, j, k]
        return out


def motion(s: Array, state: tuple[Array, Array], arguments: tuple[AbstractField, Array]) -> tuple[Array, Array]:
    """Derivative of position and direction with respect to the length of the way."""
    (position, direction), (field, curvature) = state, arguments
    return direction, curvature * jnp.cross(direction, field(position))


def propagate(
    track: Track,
    length: Float[ArrayLike, ""],
    field: AbstractField,
    *,
    bending: float = BENDING,
    tolerance: float = TOLERANCE,
    max_steps: int = 4096,
) -> Crossing:
    """One track through some length of a field, by Dormand and Prince's method of order 8.

    Args:
        track: one track; `jax.vmap` for more.
        length: of the way [mm].
        field: B [T] at a position [mm].
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).
        tolerance: of a step, relative to the length and to the direction. At kinks of a field map the steps shrink.
        max_steps: of the integration.

    Returns:
        The track there; `reached` is False where the steps did not suffice.
    """
    length = jnp.asarray(length, float)
    solution = solve(track, length, field, bending=bending, tolerance=tolerance, max_steps=max_steps, event=None)
    return Crossing(*solution)


def propagate_to_cylinder(
    track: Track,
    radius: Float[ArrayLike, ""],
    field: AbstractField,
    *,
    longest: float = 20_000.0,
    bending: float = BENDING,
    tolerance: float = TOLERANCE,
    max_steps: int = 4096,
) -> Crossing:
    """One track to a cylinder around the z axis, from inside.

    Args:
        track: one track; `jax.vmap` for more.
        radius: of the cylinder [mm].
        field: B [T] at a position [mm].
        longest: way after which a track counts as curled up [mm].
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).
        tolerance: of a step, relative to the length and to the direction.
        max_steps: of the integration.

    Returns:
        The crossing, with the derivative of the implicit function; `reached` is False for a track that does not arrive
        within `longest`.
    """
    radius, size = jnp.asarray(radius, float), jnp.asarray(longest)
    numbers = {"bending": bending, "tolerance": tolerance, "max_steps": max_steps}
    outside = lambda t, y, args, **_: (y[0][0] ** 2 + y[0][1] ** 2) * size**2 / radius**2 - 1.0
    event = diffrax.Event(outside, optimistix.Newton(1e-9, 1e-9), direction=True)
    still = jax.lax.stop_gradient((track, field))
    _, found, reached = solve(still[0], jax.lax.stop_gradient(size), still[1], event=event, **numbers)
    found = jax.lax.stop_gradient(found)
    # the event is found on an interpolation of the steps, to 1e-6 mm: integrate to there, and correct by what is left
    there, _, _ = solve(track, found, field, event=None, **numbers)
    momentum = safe_norm(track.momentum)
    direction, turn = motion(
        found, (there.position, there.momentum / momentum), (field, bending * track.charge / momentum)
    )
    gap = radius**2 - jnp.sum(there.position[:2] ** 2)
    rest = jnp.where(reached, safe_div(gap, 2 * jnp.sum(there.position[:2] * direction[:2])), 0.0)
    there = Track(there.position + rest * direction, momentum * (direction + rest * turn), track.charge)
    return Crossing(there, found + rest, reached)


def solve(
    track: Track,
    length: Array,
    field: AbstractField,
    *,
    bending: float,
    tolerance: float,
    max_steps: int,
    event: diffrax.Event | None,
) -> tuple[Track, Array, Array]:
    """The integration; lengths in units of the whole way, so that one tolerance serves position and direction."""
    momentum = safe_norm(track.momentum)
    unit = jnp.where(length != 0, jnp.abs(length), 1.0)
    scaled = lambda t, y, args: motion(t, (y[0] * unit, y[1]), args)
    rule = lambda t, y, args: (scaled(t, y, args)[0], scaled(t, y, args)[1] * unit)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(rule),
        diffrax.Dopri8(),
        t0=0.0,
        t1=length / unit,
        dt0=None,
        y0=(track.position / unit, track.momentum / momentum),
        args=(field, bending * track.charge / momentum),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=max_steps,
        event=event,
        # the event's own derivative is not asked for: a plain loop compiles in half the time
        adjoint=diffrax.RecursiveCheckpointAdjoint() if event is None else diffrax.ForwardMode(),
        throw=False,
    )
    assert solution.ts is not None
    position, direction = jax.tree.map(lambda y: y[-1], solution.ys)
    wanted = diffrax.RESULTS.successful if event is None else diffrax.RESULTS.event_occurred
    there = Track(position * unit, direction * momentum, track.charge)
    return there, solution.ts[-1] * unit, solution.result == wanted
