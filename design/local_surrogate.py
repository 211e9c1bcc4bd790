r"""A local surrogate of a simulator without gradients, with an error bar on its gradient.

Around a design, events are simulated at a designed set of points in a box of half width $\Delta$ (the trust region),
in raw leaves: `Param` makes those unconstrained and of order one. The objective at each point comes with its variance
from a delete-block jackknife (Quenouille 1949, Tukey 1958), which also takes away its bias of order 1/events and asks
nothing of the objective: it may be a ratio of moments, a quantile, or anything else that is a property of the
distribution of events. Through these numbers goes a quadratic

$$m(u) = \beta_0 + \sum_i g_i u_i + \frac12\sum_{ij} H_{ij} u_i u_j,\qquad u = (r - r_0)/\Delta,$$

by least squares with the numbers of events as weights W. With A = (X^T W X)^-1 X^T W the coefficients are $A y$ and
their covariance is $A\,\mathrm{diag}(v)\,A^T$, v the variance of each point: it needs no two points to be equally
noisy (the heteroscedasticity-consistent form; White, Econometrica 48 (1980) 817). Weights are not 1/v, because v is
itself estimated, and an upward fluctuation of a resolution comes with a larger v: such weights are biased.

Why the objective at each point and not its moments: a resolution is a small difference of two large moments, and
two quadratics that are each off by 0.1 % leave nothing of it.

What the error bar does not contain: third derivatives, whose share of the slope grows as $\Delta^2$, unless chi-squared
shows them; and events too rare to be in the sample, where the objective feels them (a width with long tails).
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.stats
from jaxtyping import Float

BLOCKS = 25  # of the jackknife: the variance of one point is good to 29 %, and a fit has nine points and more
FACTORIAL = 4  # parameters up to which every corner of the box is used, and every product of two has a coefficient
# points on the axes lie inside the box: five levels of a parameter show a cubic term that three would hide
ON_AXES = 0.6
IMPROBABLE = 0.01  # chi-squared probability below which a quadratic does not fit
MATERIAL = 0.1  # a misfit matters when it is this large, relative to how far the surrogate varies


def jackknife(
    objective: Callable[[Float[np.ndarray, "event observable"]], float],
    events: Float[np.ndarray, "event observable"],
    *,
    blocks: int = BLOCKS,
) -> tuple[float, float]:
    """A property of the distribution of events, with its bias of order 1/events removed, and its variance.

    Args:
        objective: of an array of events; must not grow with their number.
        events: independent of each other.
        blocks: parts left out in turn.

    Returns:
        Estimate and variance of the estimate.

    >>> value, variance = jackknife(lambda y: float(y.mean()), np.arange(100.0)[:, None])
    >>> round(value, 9)
    49.5
    """
    parts = np.array_split(events, blocks)
    without = [objective(np.concatenate(parts[:i] + parts[i + 1 :])) for i in range(blocks)]
    mean = float(np.mean(without))
    value = blocks * objective(events) - (blocks - 1) * mean
    return value, (blocks - 1) / blocks * float(np.sum((np.array(without) - mean) ** 2))


def designed_points(parameters: int) -> Float[np.ndarray, "point parameter"]:
    """Points of a box of half width 1 where events are simulated: a central composite design.

    Corners, two points on every axis, and the centre (Box and Wilson, J. R. Stat. Soc. B 13 (1951) 1). Of more than
    four parameters only those corners that a Hadamard matrix and its mirror image name. Every point has its mirror
    image, so that no second derivative, fitted or not, can pass for a slope.
    """
    if parameters <= FACTORIAL:
        corners = np.array([*itertools.product((-1.0, 1.0), repeat=parameters)])
    else:
        half = scipy.linalg.hadamard(1 << (parameters - 1).bit_length())[:, :parameters].astype(float)
        corners = np.vstack([half, -half])
    axes = np.eye(parameters)
    return np.vstack([np.zeros((1, parameters)), ON_AXES * axes, -ON_AXES * axes, corners])


@dataclasses.dataclass(frozen=True)
class LocalSurrogate:
    """A quadratic around a design; offsets u are in units of the trust region's half width.

    Attributes:
        centre: raw leaves of the design.
        radius: half width of the trust region, in raw leaves.
        coefficients: value, slopes, second derivatives, mixed ones.
        covariance: of the coefficients.
        events: that went in.
        chi_squared, freedom: of the fit, and its degrees of freedom.
        fits: whether the scatter about the quadratic is no more than noise, or small beside how far it varies.
    """

    centre: Float[np.ndarray, " parameter"]
    radius: float
    coefficients: Float[np.ndarray, " coefficient"]
    covariance: Float[np.ndarray, "coefficient coefficient"]
    events: int
    chi_squared: float
    freedom: int
    fits: bool

    @property
    def value(self) -> float:
        """At the centre."""
        return float(self.coefficients[0])

    @property
    def value_error(self) -> float:
        """Standard error of `value`."""
        return float(np.sqrt(self.covariance[0, 0]))

    @property
    def slope(self) -> Float[np.ndarray, " parameter"]:
        """Gradient at the centre with respect to u; divide by `radius` for the one with respect to raw leaves."""
        return self.coefficients[1 : 1 + len(self.centre)]

    @property
    def slope_error(self) -> Float[np.ndarray, " parameter"]:
        """Standard errors of `slope`."""
        return np.sqrt(np.diag(self.covariance)[1 : 1 + len(self.centre)])

    @property
    def curvature(self) -> Float[np.ndarray, "parameter parameter"]:
        """Second derivatives with respect to u."""
        count = len(self.centre)
        matrix = np.diag(self.coefficients[1 + count : 1 + 2 * count])
        if count <= FACTORIAL:
            upper = np.triu_indices(count, 1)
            matrix[upper] = matrix[upper[::-1]] = self.coefficients[1 + 2 * count :]
        return matrix

    def offset(self, raw: Float[np.ndarray, " parameter"]) -> Float[np.ndarray, " parameter"]:
        """Offsets u of raw leaves."""
        return (raw - self.centre) / self.radius

    def gain(self, offset: Float[np.ndarray, " parameter"]) -> tuple[float, float]:
        """m(u) - m(0) and its standard error."""
        step = features(offset[None])[0]
        step[0] = 0.0
        return float(step @ self.coefficients), float(np.sqrt(step @ self.covariance @ step))

    def significance(self, offset: Float[np.ndarray, " parameter"]) -> float:
        """Slope along a step over its standard error; 0 for no step, and never negative."""
        count = len(self.centre)
        along = float(self.slope @ offset)
        error = float(np.sqrt(offset @ self.covariance[1 : 1 + count, 1 : 1 + count] @ offset))
        if along <= 0:
            return 0.0
        return along / error if error > 0 else np.inf


def features(offsets: Float[np.ndarray, "point parameter"]) -> Float[np.ndarray, "point coefficient"]:
    """Rows of the quadratic's design matrix; mixed terms for at most four parameters."""
    count = offsets.shape[1]
    columns = [np.ones((len(offsets), 1)), offsets, 0.5 * offsets**2]
    if count <= FACTORIAL:
        first, second = np.triu_indices(count, 1)
        columns.append(offsets[:, first] * offsets[:, second])
    return np.hstack(columns)


def fit_local(
    raw: Float[np.ndarray, "point parameter"],
    values: Float[np.ndarray, " point"],
    variances: Float[np.ndarray, " point"],
    counts: Float[np.ndarray, " point"],
    *,
    centre: Float[np.ndarray, " parameter"],
    radius: float,
) -> LocalSurrogate:
    """The quadratic through all points inside the trust region, old ones included.

    Where chi-squared says that the scatter about the quadratic exceeds the noise, the excess is added to the variance
    of every point: structure that a quadratic does not describe is one more uncertainty.

    Args:
        raw: where events were simulated.
        values: the objective there (`jackknife`).
        variances: of the values.
        counts: of events.
        centre: of the trust region, raw leaves.
        radius: half width of the trust region.

    Raises:
        ValueError: fewer points inside the trust region than coefficients.
    """
    offsets = (raw - centre) / radius
    # a point on the boundary must not fall out by rounding
    inside = np.all(np.abs(offsets) <= 1 + 1e-9, axis=1)
    rows, y, variance, weight = features(offsets[inside]), values[inside], variances[inside], counts[inside]
    if len(y) < rows.shape[1]:
        msg = f"{len(y)} points inside the trust region, wanted at least {rows.shape[1]}"
        raise ValueError(msg)
    solve = np.linalg.pinv(rows * np.sqrt(weight)[:, None]) * np.sqrt(weight)
    coefficients = solve @ y
    residual = y - rows @ coefficients
    # residuals of least squares are smaller than the noise: what is expected of each follows from the hat matrix
    left = np.eye(len(y)) - rows @ solve
    expected = (left**2) @ variance
    freedom = len(y) - rows.shape[1]
    chi_squared, noise = float(np.sum(residual**2)), float(np.sum(expected))
    fits, extra = True, 0.0
    if freedom > 0 and chi_squared > noise * scipy.stats.chi2.isf(IMPROBABLE, freedom) / freedom:
        extra = (chi_squared - noise) / freedom
        variation = rows[:, 1:] @ coefficients[1:]
        fits = bool(np.sqrt(chi_squared / freedom) < MATERIAL * np.ptp(variation))
    covariance = (solve * (variance + extra)) @ solve.T
    ratio = freedom * chi_squared / noise if noise > 0 else 0.0
    return LocalSurrogate(
        np.asarray(centre, dtype=float), radius, coefficients, covariance, int(weight.sum()), ratio, freedom, fits
    )
