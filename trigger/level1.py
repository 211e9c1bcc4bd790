r"""Events as a level-1 trigger receives them: 57 numbers in hardware units, and cut-based seeds made of them.

The inputs are those of AXOL1TL (arXiv:2411.19506): pt, eta and phi of the missing transverse momentum (whose eta is 0),
four electromagnetic clusters, four muons and ten jets, hardest first, 0 where there is none. Transverse momenta count
0.5 GeV, pseudorapidities 0.0435, azimuths $2\pi/144$; all are whole numbers.

The trigger's resolution is that of `diffhep.trigger.menu_events`, pt (1 + sqrt(stochastic^2/pt + constant^2) z); both
components of the missing momentum are smeared by a number times the root of the scalar sum.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from diffhep.io import read_sample
from diffhep.settings import Settings
from diffhep.trigger.menu_events import measured

MISSING, CLUSTER, MUON, JET = "MET", "EG", "Muon", "Jet"
SLOTS = MappingProxyType({MISSING: 1, CLUSTER: 4, MUON: 4, JET: 10})
"""Objects of each kind, in the order of the inputs."""
COORDINATES = ("pt", "eta", "phi")
INPUTS = 3 * sum(SLOTS.values())
PT_STEP, ETA_STEP, PHI_STEP = 0.5, 0.0435, 2 * np.pi / 144  # GeV, 1, rad
PT_TOP, ETA_TOP, TURN = 2047, 127, 144
NAMES = tuple(f"{kind}[{n}].{name}" for kind, most in SLOTS.items() for n in range(most) for name in COORDINATES)
HT_FROM = 30.0  # GeV: jets below do not count for the scalar sum


class Level1Settings(Settings):
    """Branches of a file, and how well the trigger measures what is in them."""

    cluster: str = Field(default=CLUSTER, min_length=1, description="prefix of the electromagnetic clusters' branches")
    muon: str = Field(default=MUON, min_length=1, description="prefix of the muons' branches")
    jet: str = Field(default=JET, min_length=1, description="prefix of the jets' branches")
    missing: str = Field(default=MISSING, min_length=1, description="prefix of the missing momentum's branches")
    cluster_stochastic: float = Field(default=0.15, ge=0, description="of an electromagnetic cluster [GeV^(1/2)]")
    cluster_constant: float = Field(default=0.03, ge=0, description="likewise []")
    muon_constant: float = Field(default=0.2, ge=0, description="of a muon []")
    jet_stochastic: float = Field(default=1.0, ge=0, description="of a jet [GeV^(1/2)]")
    jet_constant: float = Field(default=0.05, ge=0, description="likewise []")
    missing_stochastic: float = Field(
        default=0.7, ge=0, description="of each component, over the root of the scalar sum [GeV^(1/2)]"
    )


@dataclasses.dataclass(frozen=True)
class Level1Events:
    """Events as a level-1 trigger receives them.

    Attributes:
        features: in hardware units, in the order of `NAMES`.
        share: of each event in everything that was generated; they add up to 1 without a filter.
        source: name of the file.
    """

    features: Float[np.ndarray, "event 57"]
    share: Float[np.ndarray, " event"]
    source: str

    @property
    def sha256(self) -> str:
        """Of all numbers."""
        total = hashlib.sha256(np.ascontiguousarray(self.features, "<f8").tobytes())
        total.update(np.ascontiguousarray(self.share, "<f8").tobytes())
        return total.hexdigest()


def read_level1(path: str | Path, settings: Level1Settings, *, seed: int) -> Level1Events:
    """The events of a file of `diffhep generate pythia minimum-bias`, or of one with such branches.

    Args:
        path: of the ROOT file.
        settings: names of the branches, and the resolution.
        seed: of the resolution's random numbers.

    Raises:
        ValueError: the file cannot be read, lacks a branch, has no event, a value is not finite or a momentum negative.
    """
    kinds = {
        CLUSTER: (settings.cluster, settings.cluster_stochastic, settings.cluster_constant),
        MUON: (settings.muon, 0.0, settings.muon_constant),
        JET: (settings.jet, settings.jet_stochastic, settings.jet_constant),
    }
    share, columns = missing_momentum(Path(path), settings, seed)
    for kind, (prefix, stochastic, constant) in kinds.items():
        # a softer object may be measured above a harder one
        objects, _ = objects_of(Path(path), prefix, COORDINATES, 2 * SLOTS[kind])
        resolution = {"stochastic": stochastic, "constant": constant}
        seen = measured(objects, **resolution, seed=[seed, zlib.crc32(kind.encode())])
        columns[kind] = hardware_units(*(seen[name][:, : SLOTS[kind]] for name in (*COORDINATES, "mask")))
    features = np.concatenate([columns[kind].reshape(len(share), -1) for kind in SLOTS], axis=1)
    return Level1Events(features, share, Path(path).name)


def objects_of(
    path: Path, prefix: str, fields: tuple[str, ...], most: int
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " event"]]:
    """Quantities and `mask` of the objects of one kind, (event, object), and the share of each event."""
    # the cross-section does not matter: a rate is given
    sample = read_sample(path, cross_section=1.0, collection=prefix, fields=fields, max_objects=most)
    columns = {name: np.asarray(sample.events[name]) for name in fields}
    return {**columns, "mask": np.asarray(sample.events.mask)}, np.asarray(sample.expected(1.0).weight)


def missing_momentum(
    path: Path, settings: Level1Settings, seed: int
) -> tuple[Float[np.ndarray, " event"], dict[str, Float[np.ndarray, "event object 3"]]]:
    """Shares of the events, and their missing momentum with the trigger's resolution, in hardware units."""
    found, share = objects_of(path, settings.missing, ("pt", "phi", "sumEt"), 1)
    if (found["sumEt"] < 0).any():
        entry = int(np.argmax(found["sumEt"][:, 0] < 0))
        msg = f"{path}: branch {settings.missing}_sumEt is negative in entry {entry}, wanted at least 0 GeV"
        raise ValueError(msg)
    noise = np.random.default_rng([seed, zlib.crc32(MISSING.encode())]).normal(size=(2, *found["pt"].shape))
    x, y = found["pt"] * np.stack([np.cos(found["phi"]), np.sin(found["phi"])])
    x, y = np.stack([x, y]) + settings.missing_stochastic * np.sqrt(found["sumEt"]) * noise
    pt = np.hypot(x, y)
    return share, {MISSING: hardware_units(pt, np.zeros_like(pt), np.arctan2(y, x), found["mask"])}


def hardware_units(
    pt: Float[np.ndarray, "event object"],
    eta: Float[np.ndarray, "event object"],
    phi: Float[np.ndarray, "event object"],
    mask: Bool[np.ndarray, "event object"],
) -> Float[np.ndarray, "event object 3"]:
    """Whole numbers for pt [GeV], eta and phi [rad] of objects; 0 where there is none, or none of half a GeV.

    Transverse momenta are cut off at a step and saturate, directions go to the nearest step.

    >>> hardware_units(np.array([[20.7]]), np.array([[-1.0]]), np.array([[np.pi]]), np.array([[True]])).tolist()
    [[[41.0, -23.0, -72.0]]]
    """
    codes = np.minimum(np.floor(pt / PT_STEP), PT_TOP)
    angle = (np.rint(phi / PHI_STEP) + TURN // 2) % TURN - TURN // 2
    there = (mask & (codes > 0))[..., None]
    return np.where(there, np.stack([codes, np.clip(np.rint(eta / ETA_STEP), -ETA_TOP, ETA_TOP), angle], axis=-1), 0.0)


def there(words: Float[Array, "*event 57"] | Float[np.ndarray, "*event 57"]) -> Bool[Array, "*event 57"]:
    """Which inputs belong to an object: all transverse momenta, and the directions of what has one.

    >>> int(there(jnp.zeros(57)).sum())
    19
    """
    pt = words[..., ::3] > 0
    return jnp.stack([jnp.ones_like(pt), pt, pt], axis=-1).reshape(words.shape)


def seed_quantities(features: Float[np.ndarray, "event 57"]) -> Mapping[str, Int[np.ndarray, " event"]]:
    """What cut-based seeds look at, in steps of 0.5 GeV: name -> one number an event.

    Leading jet, scalar sum of the jets above 30 GeV, missing momentum, leading cluster, second cluster, leading muon.
    """
    starts = dict(zip(SLOTS, np.cumsum([0, *SLOTS.values()]).tolist(), strict=False))
    pt = {kind: features[:, 3 * starts[kind] :: 3][:, :most].astype(np.int64) for kind, most in SLOTS.items()}
    jets = pt[JET]
    return {
        "single jet": jets[:, 0],
        "HT": np.sum(np.where(jets >= HT_FROM / PT_STEP, jets, 0), axis=1),
        "missing pt": pt[MISSING][:, 0],
        "single e/gamma": pt[CLUSTER][:, 0],
        "double e/gamma": pt[CLUSTER][:, 1],
        "single muon": pt[MUON][:, 0],
    }


def threshold_for(
    values: Float[np.ndarray, " event"] | Int[np.ndarray, " event"],
    rate: Float[np.ndarray, " event"],
    budget: float,
) -> float:
    """The lowest value of a sample above which its events have no more than some rate.

    It lies on the grid of the values, so it needs no snapping; what is accepted is above it.

    Args:
        values: of the events.
        rate: of the events [Hz], not negative.
        budget: [Hz].

    Raises:
        ValueError: the budget is not above 0, or it is above the rate of all events.

    >>> threshold_for(np.array([3, 1, 2, 3]), np.ones(4), 2.5)
    2.0
    """
    total = float(rate.sum())
    if not 0 < budget < total:
        msg = f"rate: wanted above 0 and below that of all events, {total:.4g} Hz, got {budget:g} Hz"
        raise ValueError(msg)
    levels, place = np.unique(values, return_inverse=True)
    of_level = np.bincount(place, rate, len(levels))
    above = np.cumsum(of_level[::-1])[::-1] - of_level
    # sums in another order may differ in the last digits
    return float(levels[np.argmax(above <= budget * (1 - 1e-12))])
