r"""What to simulate with Geant4: a sampling calorimeter, its cells, and the particles shot at it.

Random numbers: every quantity is drawn from a stream of its own, shower by shower, so that a longer run with the same
seed begins with the showers of a shorter one.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

# name -> PDG number; hadrons need data sets that no package brings
PARTICLES: Mapping[str, int] = MappingProxyType({"e-": 11, "e+": -11, "gamma": 22, "mu-": 13, "mu+": -13})
# NIST names whose elements are in the data that come with the package
MATERIALS = (
    "G4_Pb",
    "G4_W",
    "G4_Fe",
    "G4_Cu",
    "G4_Al",
    "G4_Zn",
    "G4_Sn",
    "G4_Si",
    "G4_BRASS",
    "G4_PbWO4",
    "G4_CESIUM_IODIDE",
    "G4_SODIUM_IODIDE",
    "G4_CALCIUM_FLUORIDE",
    "G4_lAr",
    "G4_AIR",
    "G4_Galactic",
    "G4_PLASTIC_SC_VINYLTOLUENE",
    "G4_POLYSTYRENE",
    "G4_KAPTON",
)
HIGHEST = 1e5  # GeV: where Geant4's electromagnetic models end
DEEPEST = 8_000.0  # mm: what fits into the worker's world, as does the width
STEP = 2.0**-10  # mm: drawn thicknesses are multiples, exact in single precision and easy to compress
STREAMS = ("seeds", "energy", "angle", "absorber_thickness", "active_thickness")
KNOTS = 4  # of a trend along the stack
OUTWARDS = 0.2  # by how much of its width the range of a trend's numbers is wider on either side, before it is cut
SEED_TOP = 2**31 - 1  # of the seeds that Geant4 takes

Variation = Literal["same", "free", "mixed", "trend"]


@dataclasses.dataclass(frozen=True)
class CartesianCells:
    """Square cells around the beam's entry, in x and y.

    Attributes:
        x: their number in x, the direction in which the particle leans.
        y: their number in y.
        pitch: their width [mm].
    """

    x: int = 30
    y: int = 30
    pitch: float = 5.0

    def __post_init__(self):
        _check_count("cells.x", self.x)
        _check_count("cells.y", self.y)
        _check_positive("cells.pitch", self.pitch, "mm")

    @property
    def kind(self) -> str:
        """How the worker calls them."""
        return "cartesian"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of a layer: (x, y)."""
        return self.x, self.y

    @property
    def reach(self) -> float:
        """The width that they need [mm]."""
        return max(self.x, self.y) * self.pitch


@dataclasses.dataclass(frozen=True)
class PolarCells:
    """Cells in r and alpha around the axis through the beam's entry, as in the CaloChallenge.

    alpha starts at the x axis, in which the particle leans, and runs from 0 to 2 pi.

    Attributes:
        alpha: their number in alpha.
        r: their number in r.
        pitch: their width in r [mm].
    """

    alpha: int = 16
    r: int = 9
    pitch: float = 4.65

    def __post_init__(self):
        _check_count("cells.alpha", self.alpha, least=2)
        _check_count("cells.r", self.r)
        _check_positive("cells.pitch", self.pitch, "mm")

    @property
    def kind(self) -> str:
        """How the worker calls them."""
        return "polar"

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of a layer: (alpha, r)."""
        return self.alpha, self.r

    @property
    def reach(self) -> float:
        """The width that they need [mm]."""
        return 2 * self.r * self.pitch


@dataclasses.dataclass(frozen=True)
class SamplingCalorimeter:
    r"""A stack of planar layers in vacuum, each an absorber slab and then an active one.

    A thickness is a number, or a range from which it is drawn for each shower:

    - `same`: one number for all layers, uniform in the range;
    - `free`: each layer for itself, uniform in the range;
    - `mixed`: first a base $b$ for all layers, then each layer uniform in $[b(1-s), b(1+s)]$ within the range, the
      spread $s$ itself uniform in [0, `spread`] for each shower;
    - `trend`: as `mixed`, but the base runs along the stack: straight lines between four numbers at equal distances,
      from a range that is wider by a fifth on either side and then cut, so that its ends are met as often as optimisers
      meet them.

    Attributes:
        layers: their number.
        absorber: NIST material of the absorber, one of `MATERIALS`.
        active: NIST material of the active slabs.
        absorber_thickness: number or range [mm].
        active_thickness: number or range [mm].
        variation: how the layers of one shower differ.
        spread: largest relative spread of `mixed` and `trend`.
        width: of the slabs in x and in y [mm].
        cut: range below which no secondary particle is made [mm].
        cells: transverse cells of the active slabs, or None.
        merge: neighbouring layers that are read out as one; it divides `layers`.
        absorber_energy: score the absorber as well.

    Raises:
        ValueError: a number or a name that makes no sense.

    >>> SamplingCalorimeter(50, absorber_thickness=2.3, active="G4_lAr", active_thickness=5.7, cut=1.0).readouts
    50
    """

    layers: int
    absorber: str = "G4_Pb"
    active: str = "G4_PLASTIC_SC_VINYLTOLUENE"
    absorber_thickness: float | tuple[float, float] = 2.0
    active_thickness: float | tuple[float, float] = 5.0
    variation: Variation = "same"
    spread: float = 1.0
    width: float = 400.0
    cut: float = 0.7
    cells: CartesianCells | PolarCells | None = None
    merge: int = 1
    absorber_energy: bool = True

    def __post_init__(self):
        _check_count("layers", self.layers)
        for name in ("absorber", "active"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                msg = f"{name}: wanted the NIST name of a material such as G4_Pb, got {getattr(self, name)!r}"
                raise ValueError(msg)
        for name in ("absorber_thickness", "active_thickness"):
            object.__setattr__(self, name, _range(name, getattr(self, name), "mm"))
        if self.variation not in get_args(Variation):
            msg = f"variation: wanted {', '.join(get_args(Variation))}, got {self.variation!r}"
            raise ValueError(msg)
        if not 0 <= self.spread <= 1:
            msg = f"spread: wanted a relative spread from 0 to 1, got {self.spread}"
            raise ValueError(msg)
        _check_positive("width", self.width, "mm")
        _check_positive("cut", self.cut, "mm")
        if self.width > DEEPEST:
            msg = f"width: wanted at most {DEEPEST:g} mm, got {self.width:g} mm"
            raise ValueError(msg)
        _check_count("merge", self.merge)
        if self.layers % self.merge:
            msg = f"merge: {self.merge} does not divide {self.layers} layers"
            raise ValueError(msg)
        if self.cells is not None and self.cells.reach > self.width * (1 + 1e-12):
            msg = f"cells: they reach over {self.cells.reach:g} mm, the slabs are {self.width:g} mm wide"
            raise ValueError(msg)

    @property
    def readouts(self) -> int:
        """Number of layers that are read out."""
        return self.layers // self.merge

    def check_materials(self) -> None:
        """A ValueError unless the data that come with the package hold both materials."""
        for name in ("absorber", "active"):
            material = getattr(self, name)
            if material not in MATERIALS:
                near = difflib.get_close_matches(material, MATERIALS, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}? " if near else ""
                msg = (
                    f"{name}: the data that come with diffhep do not cover {material!r}; {hint}There are "
                    f"{', '.join(MATERIALS)}; others want all data sets of Geant4, in the folder GEANT4_DATA_DIR"
                )
                raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, as the worker and a file of showers keep it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cells = self.cells and {"kind": self.cells.kind, "shape": list(self.cells.shape), "pitch": self.cells.pitch}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()} | {"cells": cells}


@dataclasses.dataclass(frozen=True)
class Beam:
    """Particles of one kind at the centre of the front face.

    Attributes:
        particle: one of `PARTICLES`: e-, e+, gamma, mu- or mu+.
        energy: kinetic energy, a number or a range [GeV].
        spectrum: how energies of a range are drawn.
        angle: from the normal of the layers, leaning in x: a number or a range from which it is drawn uniformly [rad].

    Raises:
        ValueError: a number or a name that makes no sense, a hadron among them.
    """

    particle: str = "e-"
    energy: float | tuple[float, float] = 1.0
    spectrum: Literal["log-uniform", "uniform"] = "log-uniform"
    angle: float | tuple[float, float] = 0.0

    def __post_init__(self):
        pdg_id_of(self.particle)
        object.__setattr__(self, "energy", _range("energy", self.energy, "GeV", top=HIGHEST))
        object.__setattr__(self, "angle", _range("angle", self.angle, "rad", zero=True, top=np.pi / 2, closed=False))
        if self.spectrum not in ("log-uniform", "uniform"):
            msg = f"spectrum: wanted log-uniform or uniform, got {self.spectrum!r}"
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def pdg_id_of(particle: str) -> int:
    """PDG number of a particle that can be simulated; a ValueError for any other, hadrons among them."""
    if particle not in PARTICLES:
        msg = (
            f"particle: {particle!r} cannot be simulated, the physics is electromagnetic only (no hadrons); "
            f"wanted one of {', '.join(PARTICLES)}"
        )
        raise ValueError(msg)
    return PARTICLES[particle]


def streams(seed: int) -> dict[str, np.random.Generator]:
    """One stream of random numbers for each quantity."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"seed: wanted a whole number of at least 0, got {seed!r}"
        raise ValueError(msg)
    children = np.random.SeedSequence(int(seed)).spawn(len(STREAMS))
    return {name: np.random.default_rng(child) for name, child in zip(STREAMS, children, strict=True)}


def draw_seeds(n: int, seed: int) -> np.ndarray:
    """Two seeds of Geant4 for each shower, (shower, 2)."""
    return streams(seed)["seeds"].integers(1, SEED_TOP, (n, 2))


def draw(calorimeter: SamplingCalorimeter, beam: Beam, n: int, *, seed: int) -> dict[str, np.ndarray]:
    """Energies [GeV], angles [rad] and thicknesses [mm] of n showers.

    Returns:
        `energy`, `angle` (shower,), `absorber_thickness`, `active_thickness` (shower, layer).

    >>> draw(SamplingCalorimeter(3), Beam(), 2, seed=1)["absorber_thickness"].tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    _check_count("n", n)
    random = streams(seed)
    low, high = _ends(beam.energy)
    energy = _between(low, high, random["energy"].uniform(size=n), logarithmic=beam.spectrum == "log-uniform")
    angle = _between(*_ends(beam.angle), random["angle"].uniform(size=n))
    found = {"energy": energy, "angle": angle}
    for name in ("absorber_thickness", "active_thickness"):
        found[name] = _thicknesses(_ends(getattr(calorimeter, name)), calorimeter, n, random[name])
    return found


def _thicknesses(
    ends: tuple[float, float], calorimeter: SamplingCalorimeter, n: int, random: np.random.Generator
) -> np.ndarray:
    low, high = ends
    knots = KNOTS if calorimeter.variation == "trend" else 1
    # one row a shower, so that a longer run begins with the same
    u = random.uniform(size=(n, calorimeter.layers + 1 + knots))
    if low == high:
        return np.full((n, calorimeter.layers), low)
    base, u = low + (high - low) * u[:, :knots], u[:, knots - 1 :]
    if knots > 1:
        base = _along(low, high, base, calorimeter.layers)
    if calorimeter.variation == "same":
        drawn = np.repeat(base, calorimeter.layers, axis=1)
    elif calorimeter.variation == "free":
        drawn = low + (high - low) * u[:, 2:]
    else:
        s = calorimeter.spread * u[:, 1:2]
        from_, to = np.maximum(low, base * (1 - s)), np.minimum(high, base * (1 + s))
        drawn = from_ + (to - from_) * u[:, 2:]
    return np.clip(np.round(drawn / STEP) * STEP, low, high)


def _along(low: float, high: float, knots: np.ndarray, layers: int) -> np.ndarray:
    """Numbers of a range as straight lines along the layers, pushed outwards so that the ends of the range are met."""
    middle = 0.5 * (low + high)
    knots = np.clip(middle + (1 + 2 * OUTWARDS) * (knots - middle), low, high)
    # each layer's share of every knot
    place = np.linspace(0, knots.shape[1] - 1, layers)
    shares = np.maximum(0, 1 - np.abs(place - np.arange(knots.shape[1])[:, None]))
    return knots @ shares


def _between(low: float, high: float, u: np.ndarray, *, logarithmic: bool = False) -> np.ndarray:
    """From low to high, in single precision, where a file needs half the room."""
    if low == high:
        return np.full(u.shape, low)
    drawn = low * (high / low) ** u if logarithmic else low + (high - low) * u
    return np.clip(drawn.astype(np.float32).astype(np.float64), low, high)


def _ends(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


def _range(
    name: str, value: Any, unit: str, *, zero: bool = False, top: float = np.inf, closed: bool = True
) -> float | tuple[float, float]:
    """One number, or two in increasing order, checked; a ValueError of one line otherwise."""
    ends = tuple(value) if isinstance(value, list | tuple | np.ndarray) else (value,)
    least = "of at least 0" if zero else "above 0"
    good = len(ends) in (1, 2) and all(
        isinstance(x, int | float | np.number)
        and not isinstance(x, bool)
        and np.isfinite(x)
        and (x >= 0 if zero else x > 0)
        and (x <= top if closed else x < top)
        for x in ends
    )
    if not good or (len(ends) == 2 and ends[0] > ends[1]):
        limit = "" if top == np.inf else f" and {'at most' if closed else 'below'} {top:g}"
        shown = value if len(ends) != 1 else ends[0]
        msg = f"{name}: wanted a number {least}{limit} {unit}, or two in increasing order, got {shown} {unit}"
        raise ValueError(msg)
    return float(ends[0]) if len(ends) == 1 or ends[0] == ends[1] else (float(ends[0]), float(ends[1]))


def _check_count(name: str, value: Any, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"{name}: wanted a whole number of at least {least}, got {value!r}"
        raise ValueError(msg)


def _check_positive(name: str, value: Any, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        msg = f"{name}: wanted a number above 0 {unit}, got {value!r} {unit}"
        raise ValueError(msg)
