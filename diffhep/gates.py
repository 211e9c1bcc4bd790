r"""Gates: decisions carried on event weights, never on shapes.

A gate turns a score (positive means accept) into a factor for the event weight. All gates share one interface, so no
stage knows which one it was given, and the honest check at the end only swaps `Soft` for `Hard`.

| gate | value | gradient |
|---|---|---|
| `Soft(width)` | sigmoid(score/width) | its own: low variance, of the relaxed detector |
| `StraightThrough(width)` | 0 or 1 | that of the sigmoid: biased |
| `Boundary(width)` | 0 or 1 | flux of events through the edge: that of the hard detector's expectation |
| `Score(width)` | a Bernoulli draw | score function: unbiased for linear functions of the weights, noisy |
| `Hard()` | 0 or 1 | none |
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray


class AbstractGate(eqx.Module):
    """`gate(score, *, key=None)`: a factor in [0, 1] for the event weight; accepts where the score is positive."""

    @abc.abstractmethod
    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """The factor for each score."""


def check_width(width: float | Array) -> None:
    """Refuse a width that is not positive (traced widths cannot be checked)."""
    if not isinstance(width, Tracer) and isinstance(width, int | float) and not width > 0:
        msg = f"gate width must be positive, got {width}; use Hard for a step"
        raise ValueError(msg)


class Soft(AbstractGate):
    """Logistic acceptance of the given width, in the unit of the score.

    >>> float(Soft(2.0)(jnp.array(0.0)))
    0.5
    """

    width: float | Float[Array, ""]

    def __check_init__(self):
        check_width(self.width)

    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """sigmoid(score/width)."""
        return jax.nn.sigmoid(score / self.width)


class Hard(AbstractGate):
    """A step, without gradient: what a real cut does.

    >>> Hard()(jnp.array([-1.0, 0.0, 1.0])).tolist()
    [0.0, 0.0, 1.0]
    """

    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """1 where the score is positive, else 0."""
        return jax.lax.stop_gradient((score > 0).astype(score.dtype))


class StraightThrough(AbstractGate):
    """Value of a step, gradient of a logistic of the given width (Bengio et al., arXiv:1308.3432); biased."""

    width: float | Float[Array, ""]

    def __check_init__(self):
        check_width(self.width)

    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """0 or 1, with the derivative of sigmoid(score/width)."""
        soft = jax.nn.sigmoid(score / self.width)
        return soft + jax.lax.stop_gradient((score > 0) - soft)


class Boundary(AbstractGate):
    r"""Value of a step, derivative of its expectation: events that cross the edge when the edge or the events move.

    The density of events at the edge is estimated with the Gaussian kernel of fourth order,
    $K(t) = \frac12(3 - t^2)\,\varphi(t)$ (M. P. Wand and M. C. Jones, Kernel Smoothing, 1995, ch. 2.8), whose bias is
    $-\frac18 h^4\rho^{(4)}$ for a width h. It is what `diffhep.histogram.flux_counts` does for the edges of bins.

    >>> import jax
    >>> x = jnp.linspace(0.0, 10.0, 10001)
    >>> kept = lambda cut: jnp.mean(Boundary(0.5)(x - cut))
    >>> [round(float(f(3.0)), 3) for f in (kept, jax.grad(kept))]
    [0.7, -0.1]
    """

    width: float | Float[Array, ""]

    def __check_init__(self):
        check_width(self.width)

    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """0 or 1, with the derivative of the kernel's integral."""
        smooth = self.smooth(score)
        return smooth + jax.lax.stop_gradient((score > 0) - smooth)

    def smooth(self, score: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The kernel's integral: a value that is consistent with the derivative, for optimisers that need one.

        Its mean over events differs from that of the step by the same small bias as the derivative; a single value may
        lie slightly outside [0, 1].
        """
        t = score / self.width
        return jax.scipy.special.ndtr(t) + 0.5 * t * jnp.exp(-0.5 * t * t) / np.sqrt(2 * np.pi)


class Score(AbstractGate):
    """A Bernoulli draw with probability sigmoid(score/width), and the score-function gradient.

    Unbiased for functions that are linear in the weights, consistent for others. Needs a key.
    """

    width: float | Float[Array, ""]

    def __check_init__(self):
        check_width(self.width)

    def __call__(self, score: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        """0 or 1, times exp(log p - stop_gradient(log p))."""
        if key is None:
            msg = "the Score gate draws random numbers: it needs key=; use Soft for a mean response"
            raise ValueError(msg)
        logit = score / self.width
        drawn = jr.bernoulli(key, jax.nn.sigmoid(logit))
        # log_sigmoid(-z), not log(1 - sigmoid(z)): the latter is -inf, with gradient nan, far above threshold
        log_p = jnp.where(drawn, jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit))
        return drawn * jnp.exp(log_p - jax.lax.stop_gradient(log_p))
