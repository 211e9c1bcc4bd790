r"""Flow matching, and a student that needs one evaluation.

The velocity $v(x, t)$ of straight paths $x_t = (1-t)\,\epsilon + t\,r$ from noise to data is learned by regression to
$r - \epsilon$ (Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003). A sample is the end of the ordinary
differential equation, integrated by diffrax. The student learns the map from its start to its end (rectified-flow
distillation), from pairs that the teacher makes.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.surrogates.generator import AbstractGenerator, context_size


class FlowMatching(AbstractGenerator):
    """A learned velocity field and its integration.

    Args:
        layers: number of coordinates.
        width: of the hidden layers.
        depth: number of hidden layers.
        steps: of Heun's method, two evaluations each.
        key: of the weights.
    """

    net: eqx.nn.MLP
    noise_size: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(self, layers: int, *, width: int = 256, depth: int = 3, steps: int = 12, key: PRNGKeyArray):
        inputs = layers + 5 + context_size(layers)
        self.net = eqx.nn.MLP(inputs, layers, width, depth, jax.nn.silu, dtype=jnp.float32, key=key)
        self.noise_size, self.steps = layers, steps

    def velocity(self, t: Float[Array, ""], x: Float[Array, " layer"], context: Float[Array, " context"]) -> Array:
        """dx/dt of one shower at time t from 0 (noise) to 1 (data)."""
        angle = jnp.pi * t
        time = jnp.stack([t, jnp.sin(angle), jnp.cos(angle), jnp.sin(2 * angle), jnp.cos(2 * angle)])
        return self.net(jnp.concatenate([x, time.astype(x.dtype), context]))

    def sample(self, noise: Float[Array, " layer"], context: Float[Array, " context"]) -> Float[Array, " layer"]:
        """The end of the path that starts at `noise`."""
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, args: self.velocity(jnp.asarray(t), x, args)),
            diffrax.Heun(),
            t0=jnp.zeros((), noise.dtype),
            t1=jnp.ones((), noise.dtype),
            dt0=jnp.asarray(1 / self.steps, noise.dtype),
            y0=noise,
            args=context,
            max_steps=2 * self.steps,
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
        )
        assert found.ys is not None
        return found.ys[-1]

    def loss(self, real: Array, context: Array, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Squared error of the velocity at a random time of a random path."""
        one, two = jr.split(key)
        noise, t = jr.normal(one, real.shape, real.dtype), jr.uniform(two, (), real.dtype)
        wanted = real - noise
        return jnp.mean((self.velocity(t, noise + t * wanted, context) - wanted) ** 2)


class OneStep(AbstractGenerator):
    """A network that jumps from noise to data at once, taught by a `FlowMatching`.

    Args:
        layers: number of coordinates.
        width: of the hidden layers.
        depth: number of hidden layers.
        key: of the weights.
    """

    net: eqx.nn.MLP
    noise_size: int = eqx.field(static=True)

    def __init__(self, layers: int, *, width: int = 256, depth: int = 3, key: PRNGKeyArray):
        self.net = eqx.nn.MLP(
            layers + context_size(layers), layers, width, depth, jax.nn.silu, dtype=jnp.float32, key=key
        )
        self.noise_size = layers

    def sample(self, noise: Array, context: Array) -> Float[Array, " layer"]:
        """Where the student jumps to."""
        return noise + self.net(jnp.concatenate([noise, context]))

    def loss(self, real: Array, context: Array, *, key: PRNGKeyArray) -> Float[Array, ""]:
        """Squared distance from where the teacher's path that starts at the noise of `key` ends, given as `real`."""
        return jnp.mean((self.sample(jr.normal(key, real.shape, real.dtype), context) - real) ** 2)
