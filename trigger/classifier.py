r"""The trigger's classifier as physics trains it: a small ReLU network in floating point.

**Standardisation costs no hardware.** Input j enters the network as $u_j = 2^{-e_j} x_j$: a power of two only moves the
binary point, so the code of $u_j$ in the common input format (k, i, f) *is* the code of $x_j$ in
(k, i + $e_j$, f - $e_j$). Any offset is folded into the first bias, $W(u - o) + b = W u + (b - W o)$, an adder that is
there anyway. The same network in fixed point is in `diffhep.trigger.quantised`.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from diffhep.stage import AbstractStage
from diffhep.trigger.checks import check_exponents, check_inputs, check_layers
from diffhep.trigger.fixed_point import FixedPoint
from diffhep.trigger.modes import power_of_two


class DenseClassifier(AbstractStage):
    r"""A multilayer perceptron with ReLU between its layers: features in, logits out.

    $u_j = 2^{-e_j} x_j - o_j$, then $u \to \max(0, W u + b)$ layer by layer, without the ReLU after the last.

    Args:
        weights: one (out, in) array a layer.
        biases: one (out,) array a layer.
        exponents: $e_j$, one integer a feature: $2^{e_j}$ is about the spread of the feature, in its unit.
        offsets: $o_j$, one number a feature, in units of $2^{e_j}$.

    Raises:
        ValueError: shapes that do not follow from each other, or weights that are not finite.

    >>> classifier = DenseClassifier.init((3, 8, 1), key=jax.random.key(0))
    >>> classifier(jnp.ones((5, 3))).shape
    (5, 1)
    """

    weights: tuple[Float[Array, "m n"], ...]
    biases: tuple[Float[Array, " m"], ...]
    exponents: tuple[int, ...] = eqx.field(static=True)
    offsets: tuple[float, ...] = eqx.field(static=True)

    def __check_init__(self):
        check_layers(self.weights, self.biases)
        check_exponents(self.exponents, inputs=self.inputs)
        if len(self.offsets) != self.inputs or not all(np.isfinite(self.offsets)):
            msg = f"classifier: {self.inputs} finite offsets wanted, one a feature, got {self.offsets}"
            raise ValueError(msg)

    @staticmethod
    def init(
        sizes: Sequence[int],
        *,
        key: PRNGKeyArray,
        exponents: Sequence[int] | None = None,
        offsets: Sequence[float] | None = None,
    ) -> "DenseClassifier":
        """A new network: normal weights of variance 2/in (He et al., arXiv:1502.01852), biases 0.

        Args:
            sizes: number of features, widths of the hidden layers, number of logits.
            key: typed key of the random weights.
            exponents: as of the class; 0 if left out.
            offsets: as of the class; 0 if left out.
        """
        if len(sizes) < 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in sizes):
            msg = f"classifier: sizes must be at least two positive integers, got {tuple(sizes)}"
            raise ValueError(msg)
        keys = jr.split(key, len(sizes) - 1)
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        weights = [jr.normal(k, shape) * (2 / shape[1]) ** 0.5 for k, shape in zip(keys, shapes, strict=True)]
        return DenseClassifier(
            weights=tuple(weights),
            biases=tuple(jnp.zeros(shape[0]) for shape in shapes),
            exponents=tuple(int(e) for e in exponents) if exponents is not None else (0,) * sizes[0],
            offsets=tuple(float(o) for o in offsets) if offsets is not None else (0.0,) * sizes[0],
        )

    @property
    def inputs(self) -> int:
        """Number of features."""
        return self.weights[0].shape[1]

    def standardised_to(self, inputs: Float[Array, "event in"] | np.ndarray) -> "DenseClassifier":
        """The same weights behind the scales and offsets of a sample: mean 0, spread between 0.7 and 1.4.

        Raises:
            ValueError: the sample has another number of features, no event, or values that are not finite.
        """
        inputs = check_inputs(inputs, self.inputs, "standardisation sample")
        spread, mean = inputs.std(axis=0), inputs.mean(axis=0)
        # a constant feature keeps its scale
        exponents = np.round(np.log2(np.where(spread > 0, spread, 1.0))).astype(int)
        offsets = np.ldexp(mean, -exponents)
        return DenseClassifier(self.weights, self.biases, tuple(exponents.tolist()), tuple(offsets.tolist()))

    def __call__(self, x: Float[Array, "*event n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*event m"]:
        """The logits of events; any leading shape."""
        u = scale(x, self.exponents) - jnp.asarray(self.offsets, self.weights[0].dtype)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            u = jax.nn.relu(u @ weight.T + bias)
        return u @ self.weights[-1].T + self.biases[-1]

    def folded_biases(self) -> tuple[Float[Array, " m"], ...]:
        """The biases of the same network without offsets: the first becomes b - W o."""
        first = self.biases[0] - self.weights[0] @ jnp.asarray(self.offsets)
        return (first, *self.biases[1:])


def feature_formats(format: FixedPoint, exponents: Sequence[int]) -> tuple[FixedPoint, ...]:
    """The format of each feature in its own unit: that of the scaled features with its binary point moved by e_j."""
    return tuple(FixedPoint(format.k, format.i + e, format.f - e, format.rounding, format.overflow) for e in exponents)


def scale(x: Float[Array, "*event n"], exponents: tuple[int, ...]) -> Float[Array, "*event n"]:
    """The features times 2**-e, which moves their binary points and rounds nothing."""
    x = jnp.asarray(x)
    x = x.astype(jnp.result_type(x.dtype, float))
    if x.ndim == 0 or x.shape[-1] != len(exponents):
        msg = f"classifier: {len(exponents)} features wanted on the last axis, got an array of shape {x.shape}"
        raise ValueError(msg)
    return x * power_of_two(-np.asarray(exponents), x.dtype)
