"""A normalising flow of flowjax: rational-quadratic splines in coupling layers, with an exact likelihood.

Durkan et al., Neural Spline Flows, arXiv:1906.04032.
"""

import equinox as eqx
import jax.numpy as jnp
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import AbstractTransformed, Normal
from flowjax.flows import coupling_flow
from jaxtyping import Array, Float, PRNGKeyArray
from paramax import unwrap

from diffhep.surrogates.generator import AbstractDensity, context_size


class NormalisingFlow(AbstractDensity):
    """Coupling flow from standard normal numbers to whitened coordinates.

    Args:
        layers: number of coordinates.
        width: of the hidden layers of its conditioners.
        depth: number of coupling layers.
        knots: of each spline, inside [-5, 5]; straight outside.
        key: of the weights.
    """

    flow: AbstractTransformed
    noise_size: int = eqx.field(static=True)

    def __init__(self, layers: int, *, width: int = 128, depth: int = 6, knots: int = 8, key: PRNGKeyArray):
        # flowjax makes constants of its own in the precision of the session, so the weights are in it too
        flow = coupling_flow(
            key,
            base_dist=Normal(jnp.zeros(layers), 1.0),
            transformer=RationalQuadraticSpline(knots=knots, interval=5),
            cond_dim=context_size(layers),
            flow_layers=depth,
            nn_width=width,
            nn_depth=2,
        )
        self.flow, self.noise_size = flow, layers

    def sample(self, noise: Array, context: Array) -> Float[Array, " layer"]:
        """The image of the noise."""
        bijection = unwrap(self.flow).bijection
        return bijection.transform(noise.astype(float), context.astype(float)).astype(jnp.float32)

    def log_prob(self, real: Array, context: Array) -> Float[Array, ""]:
        """Logarithm of the density of whitened coordinates, exact."""
        return unwrap(self.flow).log_prob(real.astype(float), context.astype(float))

    def loss(self, real: Array, context: Array, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Negative log-likelihood per coordinate."""
        del key
        return -self.log_prob(real, context) / real.size
