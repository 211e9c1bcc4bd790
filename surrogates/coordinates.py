r"""Layer energies as unbounded coordinates, so that energy is conserved whatever a network says.

With $E$ the particle's energy and $e_i$ those of the layers: $z_0 = \mathrm{logit}(\sum_i e_i/E)$ is the visible
share, and $z_{i+1} = \mathrm{logit}(e_i/\sum_{j\ge i} e_j)$, for every layer but the last, breaks it up from front to
back (stick breaking, as in CaloDREAM, arXiv:2405.09629). The map is one to one; its inverse never gives more energy
than came in.

A layer below the threshold counts as empty. Its energy is replaced by a random one between a hundredth of the threshold
and the threshold, and everything below the threshold becomes zero on the way back.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

DECADES = 2.0  # over which the energies of empty layers are spread


def to_coordinates(
    layers: Float[Array, "*shape layer"], energy: Float[Array, "*shape"]
) -> Float[Array, "*shape layer"]:
    """Coordinates of positive layer energies [GeV] whose sum is below the energy.

    >>> to_coordinates(jnp.array([1.0, 1.0]), jnp.array(4.0)).tolist()
    [0.0, 0.0]
    """
    behind = jnp.flip(jnp.cumsum(jnp.flip(layers, -1), axis=-1), -1)
    total = behind[..., :1]
    first = jnp.log(total) - jnp.log(energy[..., None] - total)
    sticks = jnp.log(layers[..., :-1]) - jnp.log(behind[..., 1:])
    return jnp.concatenate([first, sticks], axis=-1)


def to_energies(z: Float[Array, "*shape layer"], energy: Float[Array, "*shape"]) -> Float[Array, "*shape layer"]:
    """The inverse of `to_coordinates`: layer energies [GeV], not yet cut at the threshold.

    >>> to_energies(jnp.zeros(2), jnp.array(4.0)).tolist()
    [1.0, 1.0]
    """
    log_total = jnp.log(energy)[..., None] + jax.nn.log_sigmoid(z[..., :1])
    left = jnp.cumsum(jax.nn.log_sigmoid(-z[..., 1:]), axis=-1)
    nothing = jnp.zeros_like(log_total)
    before = jnp.concatenate([nothing, left], axis=-1)
    taken = jnp.concatenate([jax.nn.log_sigmoid(z[..., 1:]), nothing], axis=-1)
    return jnp.exp(log_total + before + taken)


def log_jacobian(layers: Float[Array, "*shape layer"], energy: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""$\ln|\det \partial z/\partial e|$ at positive layer energies [GeV], in 1/GeV to the number of layers.

    With $s_i = \sum_{j\ge i} e_j$, the sums have unit determinant to the energies, and every coordinate depends on
    its own sum and the next: $\partial z_0/\partial s_0 = E/(s_0(E - s_0))$ and $\partial z_{i+1}/\partial s_{i+1} =
    -s_i/(s_{i+1}(s_i - s_{i+1}))$.
    """
    behind = jnp.flip(jnp.cumsum(jnp.flip(layers, -1), axis=-1), -1)
    total = behind[..., 0]
    first = jnp.log(energy) - jnp.log(total) - jnp.log(energy - total)
    rest = jnp.log(behind[..., :-1]) - jnp.log(behind[..., 1:]) - jnp.log(layers[..., :-1])
    return first + jnp.sum(rest, axis=-1)


def fill_empty(
    layers: Float[Array, "*shape layer"], threshold: float, key: PRNGKeyArray
) -> Float[Array, "*shape layer"]:
    """Energies [GeV] with those below the threshold replaced by random ones, log-uniform below it."""
    noise = jr.uniform(key, layers.shape, layers.dtype)
    return jnp.where(layers < threshold, threshold * 10.0 ** (-DECADES * noise), layers)


def cut(layers: Float[Array, "*shape layer"], threshold: float) -> Float[Array, "*shape layer"]:
    """Energies [GeV] with those below the threshold set to zero."""
    return jnp.where(layers < threshold, 0.0, layers)
