"""A surrogate against full simulation it has not seen: every number beside what two samples of full simulation give.

Showers of the same particle in the same stack, where a file holds many, are also compared stack by stack: that is what
a design needs, and where a surrogate that is right on average only would fail.
"""

from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from numpy.typing import NDArray

from diffhep.io.showers import Showers
from diffhep.surrogates.classifier import OURS, ClassifierSettings, classifier_auc
from diffhep.surrogates.features import energy_features, low_level
from diffhep.surrogates.metrics import (
    frechet_physics_distance,
    kernel_physics_distance,
    resolution,
    separation_power,
    wasserstein,
)
from diffhep.surrogates.stack import Incidence, incidence_of, stack_of
from diffhep.surrogates.surrogate import AbstractSurrogate, LayerSurrogate

LEAST = 100  # showers of one particle in one stack that make a comparison of their own
CHUNK = 4096


def sample_like(surrogate: AbstractSurrogate, showers: Showers, key: PRNGKeyArray) -> NDArray[np.float64]:
    """Layer energies [GeV] of one surrogate shower for each of the given ones, (shower, layer)."""
    return in_chunks(surrogate, showers, key, CHUNK)


def in_chunks(surrogate: Any, showers: Showers, key: PRNGKeyArray, chunk: int) -> Any:
    """What `surrogate.sample` gives for the particles and stacks of all showers, so many at a time."""
    x = incidence_of(showers)
    run = eqx.filter_jit(lambda s, x, key: s.sample(x, key=key))
    parts = []
    for i in range(0, showers.size, chunk):
        # the last chunk is filled up, so that one program serves all
        rows = np.minimum(np.arange(i, i + chunk), showers.size - 1)
        part = run(surrogate, jax.tree.map(itemgetter(rows), x), jr.fold_in(key, i))
        parts.append(jax.tree.map(lambda v, i=i: np.asarray(v, dtype=float)[: showers.size - i], part))
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def validate(
    surrogate: LayerSurrogate,
    showers: Showers,
    *,
    key: PRNGKeyArray,
    progress: Callable[[str, float], None] | None = None,
    classifier: ClassifierSettings = OURS,
) -> dict[str, Any]:
    """Everything that is measured, as JSON can hold it.

    Args:
        surrogate: what is judged.
        showers: full simulation that it was not trained on.
        key: of the surrogate's showers.
        progress: called with phase and fraction done.
        classifier: network and training of the classifiers.

    Raises:
        ValueError: showers of another stack than the surrogate's.
    """
    progress = progress or (lambda phase, done: None)
    check_stack(surrogate, showers)
    threshold = surrogate.stack.threshold
    made = sample_like(surrogate, showers, key)
    real = np.where(showers.active_energy < threshold, 0.0, showers.active_energy.astype(float))
    features = [energy_features(showers.energy, x, threshold) for x in (real, made)]
    low = [low_level(showers.energy, x, threshold) for x in (real, made)]
    columns = [showers.angle[:, None], showers.absorber_thickness, showers.active_thickness]
    stack = np.concatenate(columns if showers.merged is None else [*columns, showers.merged[:, None]], axis=1)
    aware = [np.concatenate([x, stack], axis=1) for x in features]
    progress("classifiers", 0.0)
    out: dict[str, Any] = {
        "showers": showers.size,
        "in_domain": 1 - outside(surrogate, showers).mean(),
        "auc": {
            "high": classifier_auc(features[0], features[1], classifier),
            "low": classifier_auc(low[0], low[1], classifier),
            "high_with_stack": classifier_auc(aware[0], aware[1], classifier),
        },
    }
    progress("classifiers", 1.0)
    out |= distances(features, real, made, showers.energy)
    out["by_energy"] = by_energy(showers.energy, real.sum(axis=1), made.sum(axis=1))
    progress("stacks", 0.0)
    out["stacks"] = by_stack(showers, real, made, threshold, classifier, progress)
    return out


def check_stack(surrogate: LayerSurrogate, showers: Showers) -> None:
    """A ValueError unless the showers are of the surrogate's stack and particle."""
    wanted, got = surrogate.stack, stack_of(showers, surrogate.stack.threshold)
    if wanted.merged != got.merged:
        kinds = {True: "layers in groups", False: "single layers"}
        msg = f"the surrogate is of {kinds[wanted.merged]}, the showers are of {kinds[got.merged]} (groups.count)"
        raise ValueError(msg)
    for name in ("layers", "absorber", "active", "pdg_id"):
        if getattr(wanted, name) != getattr(got, name):
            msg = f"{name}: the surrogate is of {getattr(wanted, name)}, the showers are of {getattr(got, name)}"
            raise ValueError(msg)


def physics_distances(reference: NDArray, other: NDArray) -> dict[str, Any]:
    """FPD and KPD of features, each with its floor: that of two halves of the reference."""
    half = len(reference) // 2
    sizes = {"least": min(10_000, half // 2), "most": half}
    out: dict[str, Any] = {}
    # every other one: a file may hold one stack after the other
    even, odd = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    for name, pair in (("", (reference[even], other[odd])), ("_floor", (reference[even], reference[odd]))):
        fpd = frechet_physics_distance(pair[0], pair[1], **sizes)
        kpd = kernel_physics_distance(pair[0], pair[1], size=min(2000, half))
        out[f"fpd{name}"] = {"value": fpd.value, "stderr": fpd.stderr}
        out[f"kpd{name}"] = {"value": kpd.value, "stderr": kpd.stderr}
    return out


def distances(features: list[NDArray], real: NDArray, made: NDArray, energy: NDArray) -> dict[str, Any]:
    """FPD, KPD with their floors, separation powers and Wasserstein distances."""
    out = physics_distances(*features)
    share = [x.sum(axis=1) / energy for x in (real, made)]
    layers = range(real.shape[1])
    edges = lambda x: np.geomspace(1e-5, max(x.max(), 2e-5), 41)
    out["separation"] = {
        "layers": float(np.mean([separation_power(real[:, i], made[:, i], edges(real[:, i])) for i in layers])),
        "total": separation_power(share[0], share[1], np.linspace(0, share[0].max(), 101)),
    }
    depth = [x @ np.arange(real.shape[1]) / np.maximum(x.sum(axis=1), 1e-12) for x in (real, made)]
    out["wasserstein"] = {
        "layers": float(np.mean([wasserstein(real[:, i], made[:, i]) for i in layers])),
        "share": wasserstein(*share),
        "depth": wasserstein(*depth),
        "empty_layers": wasserstein(*((x <= 0).sum(axis=1).astype(float) for x in (real, made))),
    }
    return out


def by_energy(energy: NDArray, real: NDArray, made: NDArray, bins: int = 5) -> list[dict[str, float]]:
    """Mean visible share of surrogate and simulation, and its ratio, in bins of energy."""
    edges = np.geomspace(energy.min(), energy.max() * (1 + 1e-9), bins + 1)
    out = []
    for low, high in pairwise(edges):
        here = (energy >= low) & (energy < high)
        if here.sum() < 2:
            continue
        one, two = real[here] / energy[here], made[here] / energy[here]
        ratio = two.mean() / one.mean()
        error = np.sqrt(one.var() + two.var()) / one.mean() / np.sqrt(here.sum())
        out.append({"low": low, "high": high, "response_ratio": ratio, "stderr": error})
    return out


def by_stack(
    showers: Showers,
    real: NDArray,
    made: NDArray,
    threshold: float,
    classifier: ClassifierSettings,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    """Response, resolution and classifier of every particle and stack of which there are many showers."""
    columns = (showers.energy[:, None], showers.angle[:, None], showers.absorber_thickness, showers.active_thickness)
    _, group = np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    many = [i for i, n in enumerate(np.bincount(group)) if n >= LEAST]
    found: dict[str, list[float]] = {name: [] for name in ("auc", "response", "response_error", "resolution", "error")}
    for done, i in enumerate(many):
        here = group == i
        one, two = real[here].sum(axis=1), made[here].sum(axis=1)
        geant4, ours = resolution(one), resolution(two)
        ratio = two.mean() / one.mean()
        found["response"].append(ratio - 1)
        found["response_error"].append(ratio * np.hypot(geant4.value, ours.value) / np.sqrt(here.sum()))
        found["resolution"].append(ours.value / geant4.value - 1)
        found["error"].append(np.hypot(geant4.stderr / geant4.value, ours.stderr / ours.value))
        pair = [energy_features(showers.energy[here], x[here], threshold) for x in (real, made)]
        found["auc"].append(classifier_auc(pair[0], pair[1], classifier._replace(batch=100)))
        progress("stacks", (done + 1) / len(many))
    if not many:
        return {"count": 0}
    arrays = {name: np.array(values) for name, values in found.items()}
    return {
        "count": len(many),
        "showers_each": int(np.median(np.bincount(group)[many])),
        "auc_median": float(np.median(arrays["auc"])),
        "auc_largest": float(arrays["auc"].max()),
        "response": _bias(arrays["response"], arrays["response_error"]),
        "resolution": _bias(arrays["resolution"], arrays["error"]),
    }


def _bias(deviation: NDArray, error: NDArray) -> dict[str, float]:
    """Relative deviations of many stacks: their mean, and their spread beyond what statistics explain."""
    weight = 1 / error**2
    mean = np.sum(weight * deviation) / np.sum(weight)
    return {
        "mean": float(mean),
        "stderr": float(1 / np.sqrt(np.sum(weight))),
        "median_absolute": float(np.median(np.abs(deviation))),
        "expected_median_absolute": float(0.6745 * np.median(error)),
        "spread_beyond_statistics": float(np.sqrt(max(np.mean(deviation**2 - error**2), 0.0))),
        "worst_pull": float(np.max(np.abs(deviation / error))),
    }


def response_gradient(
    surrogate: AbstractSurrogate, x: Incidence, *, key: PRNGKeyArray, showers: int = 20_000
) -> dict[str, Array]:
    """Mean visible energy [GeV] and relative resolution of one particle, with derivatives to every thickness [1/mm].

    Derivatives are pathwise, of the same showers as the values.
    """
    noise = jr.normal(key, (showers, surrogate.noise_size), jnp.float32)
    value, (to_absorber, to_active) = _figures(surrogate, x, noise)
    return {
        "energy": value[0],
        "resolution": value[1],
        "energy_to_absorber": to_absorber[0],
        "energy_to_active": to_active[0],
        "resolution_to_absorber": to_absorber[1],
        "resolution_to_active": to_active[1],
    }


@eqx.filter_jit
def _figures(surrogate: AbstractSurrogate, x: Incidence, noise: Array) -> tuple[Array, tuple[Array, Array]]:
    """Mean visible energy and relative resolution, and their derivatives to all thicknesses."""

    def figures(absorber: Array, active: Array) -> tuple[Array, Array]:
        at = Incidence(x.energy, x.angle, absorber, active, x.merged)
        total = jnp.sum(surrogate.from_noise(at, noise, hard=False), axis=-1)
        mean = jnp.mean(total)
        both = jnp.stack([mean, jnp.sqrt(jnp.mean((total - mean) ** 2)) / mean])
        return both, both

    slopes, value = jax.jacrev(figures, argnums=(0, 1), has_aux=True)(x.absorber, x.active)
    return value, slopes


def outside(surrogate: LayerSurrogate, showers: Showers) -> NDArray[np.bool_]:
    """Which of the showers lie outside the surrogate's trained domain."""
    return ~np.asarray(eqx.filter_jit(surrogate.domain.contains)(incidence_of(showers)))
