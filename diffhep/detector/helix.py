r"""Charged particles in a uniform field along z: the closed helix, to a length, to a cylinder and to planes.

Over a transverse length $\tau$ the direction turns by $\Phi = k\tau$, $k = -0.3\,q B/p_T$ (clockwise for a positive
charge in a positive field). The chord of the arc, of length $\tau\,\frac{\sin\Phi/2}{\Phi/2}$ in the direction
$\varphi + \Phi/2$, has no singularity for a straight track. For a cylinder the unknown is $w = \frac2k\tan\frac\Phi2$,
in which the equation is quadratic, also for k = 0. A particle that does not arrive is no exception but a value,
`reached`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from diffhep.kinematics import safe_div, safe_norm, safe_sqrt
from diffhep.units import SPEED_OF_LIGHT

BENDING = SPEED_OF_LIGHT * 1e-6  # p = BENDING B R, in GeV/(T mm)
NEWTON_STEPS = 30
MISSED = 1e-6  # mm from a plane: not arrived


class Track(eqx.Module):
    """Charged particles at a point of their way.

    Attributes:
        position: [mm].
        momentum: [GeV], not 0.
        charge: in units of e.

    >>> track = Track(jnp.zeros(3), jnp.array([1.0, 0.0, 0.5]), jnp.array(1.0))
    """

    position: Float[Array, "*track 3"]
    momentum: Float[Array, "*track 3"]
    charge: Float[Array, "*track"]


class Crossing(eqx.Module):
    """Where tracks meet a surface.

    Attributes:
        track: there; finite also where it did not arrive, and then without meaning.
        length: of the way [mm].
        reached: whether it arrives at all.
    """

    track: Track
    length: Float[Array, "*track"]
    reached: Bool[Array, "*track"]


def sinc(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sin(x)/x, with its derivatives at 0."""
    small = jnp.abs(x) < 1e-2
    near, far = jnp.where(small, x, 0.0) ** 2, jnp.where(small, 1.0, x)
    return jnp.where(small, 1 - near / 6 * (1 - near / 20 * (1 - near / 42)), jnp.sin(far) / far)


def atanc(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """arctan(x)/x, with its derivatives at 0."""
    small = jnp.abs(x) < 1e-2
    near, far = jnp.where(small, x, 0.0) ** 2, jnp.where(small, 1.0, x)
    series = 1 - near * (1 / 3 - near * (1 / 5 - near * (1 / 7 - near * (1 / 9 - near / 11))))
    return jnp.where(small, series, jnp.arctan(far) / far)


def turn_rate(track: Track, field: ArrayLike, *, bending: float = BENDING) -> Float[Array, "*track"]:
    """Turn of the direction around the field a length of the way [rad/mm], signed."""
    return -bending * track.charge * jnp.asarray(field) / safe_norm(track.momentum)


def advance(track: Track, length: Float[ArrayLike, "*track"], field: ArrayLike, *, bending: float = BENDING) -> Track:
    """Tracks after some length of their way in a uniform field along z.

    Args:
        track: at its start.
        length: of the way [mm]; negative goes back.
        field: [T]; 0 is a straight line.
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).

    >>> track = Track(jnp.zeros(3), jnp.array([0.3, 0.0, 0.4]), jnp.array(1.0))
    >>> advance(track, 100.0, 0.0).position.tolist()
    [60.0, 0.0, 80.0]
    """
    length = jnp.asarray(length, float)
    direction = track.momentum / safe_norm(track.momentum)[..., None]
    half = 0.5 * turn_rate(track, field, bending=bending) * length
    chord = rotated(direction, half)
    moved = jnp.concatenate([chord[..., :2] * sinc(half)[..., None], chord[..., 2:]], axis=-1)
    position = track.position + length[..., None] * moved
    return Track(position, rotated(track.momentum, 2 * half), track.charge)


def rotated(vector: Float[Array, "*shape 3"], angle: Float[Array, "*shape"]) -> Float[Array, "*shape 3"]:
    """Vector turned around the z axis."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack(jnp.broadcast_arrays(cosine * x - sine * y, sine * x + cosine * y, z), axis=-1)


def to_cylinder(
    track: Track, radius: Float[ArrayLike, "*track"], field: ArrayLike, *, bending: float = BENDING
) -> Crossing:
    """First crossing of a cylinder around the z axis, from inside.

    Args:
        track: at its start, inside the cylinder or on it.
        radius: of the cylinder [mm].
        field: along z [T].
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).

    Returns:
        The crossing. `reached` is False for a track that curls up before, that flies along the axis, or that starts
        outside.
    """
    momentum = safe_norm(track.momentum)
    transverse = safe_norm(track.momentum[..., :2])
    flies = transverse > 0
    k = safe_div(turn_rate(track, field, bending=bending) * momentum, transverse)
    e = safe_div(track.momentum[..., :2], transverse[..., None])
    r = track.position[..., :2]
    a = jnp.sum(r * e, axis=-1)
    b = r[..., 1] * e[..., 0] - r[..., 0] * e[..., 1]
    gap = jnp.asarray(radius) ** 2 - jnp.sum(r**2, axis=-1)
    # quadratic w^2 + 2 a w - gap = 0 with `quadratic` for the first coefficient, 1 for a straight track
    quadratic = 1 + k * b - 0.25 * k**2 * gap
    discriminant = a**2 + quadratic * gap
    root = safe_sqrt(discriminant)
    # w = gap/(a + root) = (root - a)/quadratic: the form without cancellation, as a fraction w = over/under
    outwards = a > 0
    over, under = jnp.where(outwards, gap, root - a), jnp.where(outwards, a + root, quadratic)
    tau = arc(over, under, k)
    reached = flies & (discriminant >= 0) & (gap >= 0) & (tau >= 0)
    length = jnp.where(reached, tau * safe_div(momentum, transverse), 0.0)
    return Crossing(advance(track, length, field, bending=bending), length, reached)


def arc(over: Array, under: Array, k: Array) -> Array:
    r"""Length $\tau$ with $\frac2k\tan\frac{k\tau}2$ = over/under, the smallest that is not negative."""
    forwards = under > 0
    w = jnp.where(forwards, over, 0.0) / jnp.where(forwards, under, 1.0)
    turn = jnp.where(forwards, 1.0, jnp.abs(k))
    turn = jnp.where(turn > 0, turn, 1.0)
    beyond = jnp.arctan2(jnp.where(forwards, 0.0, 0.5 * turn * over), jnp.where(forwards, 1.0, under)) * 2 / turn
    return jnp.where(forwards, w * atanc(0.5 * k * w), beyond)


def to_plane(
    track: Track,
    point: Float[ArrayLike, "*track 3"],
    normal: Float[ArrayLike, "*track 3"],
    field: ArrayLike,
    *,
    bending: float = BENDING,
) -> Crossing:
    """Crossing of a plane in any direction.

    Newton's method from the straight line; the derivative is that of the implicit function.

    Args:
        track: at its start.
        point: on the plane [mm].
        normal: to the plane, of any length but 0.
        field: along z [T].
        bending: the 0.3 of p = 0.3 B R, here in GeV/(T mm).

    Returns:
        The crossing. `reached` is False for a plane that is behind, that the track misses, or that it meets only after
        more than a turn.
    """
    point, normal = jnp.asarray(point, float), jnp.asarray(normal, float)
    normal = normal / safe_norm(normal)[..., None]

    def step(length: Array, track: Track) -> tuple[Array, Array]:
        there = advance(track, length, field, bending=bending)
        distance = jnp.sum((there.position - point) * normal, axis=-1)
        slope = jnp.sum(there.momentum * normal, axis=-1) / safe_norm(track.momentum)
        return length - safe_div(distance, slope), distance

    still = jax.lax.stop_gradient(track)
    shape = jnp.broadcast_shapes(track.charge.shape, point.shape[:-1], normal.shape[:-1])
    start = jnp.zeros(shape, track.position.dtype)
    found = jax.lax.fori_loop(0, NEWTON_STEPS, lambda _, s: jax.lax.stop_gradient(step(s, still)[0]), start)
    # far away Newton's method may leave all bounds
    found = jnp.where(jnp.isfinite(found), found, 0.0)
    # one more step, with its derivative: that of the length with respect to everything is right there
    length, distance = step(found, track)
    turned = jnp.abs(turn_rate(track, field, bending=bending) * length)
    reached = (jnp.abs(distance) < MISSED) & (length >= -MISSED) & (turned < 2 * np.pi)
    length = jnp.where(reached, length, 0.0)
    return Crossing(advance(track, length, field, bending=bending), length, reached)
