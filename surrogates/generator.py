"""What every generative network offers, and what it sees of a stack.

A generator maps standard normal numbers, and the context of a shower, to whitened coordinates. For given numbers that
map is smooth in the context: derivatives of a sample with respect to a thickness are pathwise.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.stack import FEATURES, Guess

# of the features of every layer: active thickness, depth, distance from the maximum, expected energy
SEEN = (2, 6, 7, 10)


def context_size(layers: int) -> int:
    """Length of the context of a stack."""
    return len(SEEN) * layers + FEATURES


def context_of(seen: Guess, dtype: DTypeLike = jnp.float32) -> Float[Array, "*shape context"]:
    """What a generator sees of the stacks, in the precision of its weights."""
    parts = [seen.features[..., i] for i in SEEN]
    return jnp.concatenate([*parts, seen.pooled], axis=-1).astype(dtype)


class AbstractGenerator(eqx.Module):
    """Whitened coordinates from standard normal numbers."""

    noise_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def sample(self, noise: Float[Array, " noise"], context: Float[Array, " context"]) -> Float[Array, " layer"]:
        """Whitened coordinates of one shower."""

    @abc.abstractmethod
    def loss(
        self, real: Float[Array, " layer"], context: Float[Array, " context"], *, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """What training makes small, for one shower."""


class AbstractDensity(AbstractGenerator):
    """A generator whose density is known exactly."""

    @abc.abstractmethod
    def log_prob(self, real: Float[Array, " layer"], context: Float[Array, " context"]) -> Float[Array, ""]:
        """Logarithm of the density of whitened coordinates."""
