"""The child process in which Geant4 runs: `python -P geant4_worker.py FOLDER`, started by `geant4_pool` alone.

It reads FOLDER/job.npz, then lines `NUMBER START STOP` from standard input. It simulates the showers from START to STOP
(excluded), says on standard output how many of them it has, writes FOLDER/part-NUMBER.npz and says `done`. What Geant4
itself prints goes to standard error. It imports nothing of diffhep, so that it starts in a fifth of a second, and is no
module to import: Geant4's data have to be announced in the environment before.

Geant4's units (mm, MeV) are converted where a number enters or leaves.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import geant4_pybind as g4
import numpy as np

MEV_PER_GEV = 1e3
WORLD = 10_000.0  # mm, half the width of the vacuum around
UPSTREAM = 1.0  # mm, of the front face: where a particle starts
TICK = 0.2  # s between two reports
NULL: Any = None  # the binding takes it, its stubs do not say so


class Stack(g4.G4VUserDetectorConstruction):
    """Slabs in turn, absorber first, from z = 0 on; each has a solid of its own, so that its thickness can change."""

    def __init__(self, setup: dict[str, Any], absorber: np.ndarray, active: np.ndarray):
        super().__init__()
        self.setup = setup
        self.thickness = (np.array(absorber), np.array(active))
        # Python would free what only Geant4 still needs
        self.kept: list[Any] = []
        self.solids: list[list[Any]] = []
        self.placements: list[Any] = []
        self.logical: dict[str, list[Any]] = {"absorber": [], "active": [], "cell": []}

    def Construct(self) -> Any:
        """Build world and slabs."""
        world = self.volume("world", g4.G4Box("world", WORLD, WORLD, WORLD), "G4_Galactic")
        half = self.setup["width"] / 2
        # Geant4 divides a volume evenly: one as deep as the slabs is navigated a quarter faster than the world
        solid = g4.G4Box("stack", half, half, 1.0)
        mother = self.volume("stack", solid, "G4_Galactic")
        self.envelope = solid, g4.G4PVPlacement(NULL, g4.G4ThreeVector(), mother, "stack", world, False, 0)
        for layer in range(self.setup["layers"]):
            for kind in ("absorber", "active"):
                solid = g4.G4Box(kind, half, half, 1.0)
                slab = self.volume(kind, solid, self.setup[kind])
                placed = g4.G4PVPlacement(NULL, g4.G4ThreeVector(), slab, kind, mother, False, layer)
                self.logical[kind].append(slab)
                self.placements.append(placed)
                self.solids.append([solid])
                if kind == "active" and self.setup["cells"]:
                    self.divide(slab, layer)
        self.arrange()
        place = g4.G4PVPlacement(NULL, g4.G4ThreeVector(), world, "world", NULL, False, 0)
        self.kept.append(place)
        return place

    def volume(self, name: str, solid: Any, material: str) -> Any:
        """A logical volume, kept alive with its solid."""
        found = g4.G4NistManager.Instance().FindOrBuildMaterial(material)
        if found is None:
            print(f"diffhep: there is no material {material!r}", file=sys.stderr, flush=True)
            os._exit(1)
        logical = g4.G4LogicalVolume(solid, found, name)
        self.kept += [solid, logical]
        return logical

    def divide(self, slab: Any, layer: int) -> None:
        """Cells inside an active slab: a grid of columns, or of rings, of cells."""
        cells, material = self.setup["cells"], self.setup["active"]
        outer, inner = cells["shape"]
        if cells["kind"] == "cartesian":
            pitch = cells["pitch"]
            sizes = ((outer * pitch / 2, inner * pitch / 2), (pitch / 2, inner * pitch / 2), (pitch / 2, pitch / 2))
            solids = [g4.G4Box("grid", x, y, 1.0) for x, y in sizes]
            axes, widths = (g4.EAxis.kXAxis, g4.EAxis.kYAxis), (pitch, pitch)
        else:
            # rings of 16 cells in the file's order (alpha, r), built the other way round: r, then alpha
            outer, inner = inner, outer
            ring, turn = cells["pitch"], 2 * np.pi
            solids = [
                g4.G4Tubs("grid", 0.0, outer * ring, 1.0, 0.0, turn),
                g4.G4Tubs("ring", 0.0, ring, 1.0, 0.0, turn),
                g4.G4Tubs("cell", 0.0, ring, 1.0, 0.0, turn / inner),
            ]
            axes, widths = (g4.EAxis.kRho, g4.EAxis.kPhi), (ring, turn / inner)
        grid, column, cell = (self.volume("cells", solid, material) for solid in solids)
        self.kept += [
            g4.G4PVPlacement(NULL, g4.G4ThreeVector(), grid, "grid", slab, False, layer),
            g4.G4PVReplica("column", column, grid, axes[0], outer, widths[0]),
            g4.G4PVReplica("cell", cell, column, axes[1], inner, widths[1]),
        ]
        self.logical["cell"].append(cell)
        self.solids[-1] += solids

    def arrange(self) -> None:
        """Give every slab its thickness and place."""
        depth = float(np.sum(self.thickness))
        self.envelope[0].SetZHalfLength(depth / 2)
        self.envelope[1].SetTranslation(g4.G4ThreeVector(0.0, 0.0, depth / 2))
        front = -depth / 2
        for i, (solids, placed) in enumerate(zip(self.solids, self.placements, strict=True)):
            half = float(self.thickness[i % 2][i // 2]) / 2
            for solid in solids:
                solid.SetZHalfLength(half)
            placed.SetTranslation(g4.G4ThreeVector(0.0, 0.0, front + half))
            front += 2 * half

    def ConstructSDandField(self) -> None:
        """Score energy deposits in C++: a stepping action in Python would double the time."""
        cells, layers = self.setup["cells"] or {"kind": None, "shape": (0, 0)}, self.setup["layers"]
        first, second = cells["shape"]
        # of the two of the file's order; 0 is the innermost replica
        depths = (0, 1) if cells["kind"] == "polar" else (1, 0)
        scorers: dict[str, Any] = {"active": g4.G4PSEnergyDeposit("e", 0)}
        if self.setup["absorber_energy"]:
            scorers["absorber"] = g4.G4PSEnergyDeposit("e", 0)
        if cells["kind"]:
            scorers["cell"] = g4.G4PSEnergyDeposit3D("e", layers, first, second, 3, depths[0], depths[1])
        for kind, scorer in scorers.items():
            detector = g4.G4MultiFunctionalDetector(kind)
            detector.RegisterPrimitive(scorer)
            g4.G4SDManager.GetSDMpointer().AddNewDetector(detector)
            for logical in self.logical[kind]:
                self.SetSensitiveDetector(logical, detector)
            self.kept += [detector, scorer]


class Physics(g4.G4VModularPhysicsList):
    """Geant4's standard electromagnetic physics: its thin-layer options 1 and 2 are biased in sampling calorimeters."""

    def __init__(self):
        super().__init__()
        self.SetVerboseLevel(0)
        self.electromagnetic = g4.G4EmStandardPhysics()
        self.electromagnetic.SetVerboseLevel(0)
        self.RegisterPhysics(self.electromagnetic)


class Gun(g4.G4VUserPrimaryGeneratorAction):
    """One particle at the centre of the front face; the seeds are set here, so that every shower stands alone."""

    def __init__(self, job: dict[str, np.ndarray]):
        super().__init__()
        self.job, self.next = job, 0
        self.gun = g4.G4ParticleGun(1)
        table = g4.G4ParticleTable.GetParticleTable()
        self.particles = {int(i): table.FindParticle(int(i)) for i in np.unique(job["pdg_id"])}

    def GeneratePrimaries(self, event: Any) -> None:
        """Shoot shower number `next`."""
        i = self.next
        self.next += 1
        first, second = self.job["seeds"][i]
        g4.G4UImanager.GetUIpointer().ApplyCommand(f"/random/setSeeds {first} {second}")
        angle = float(self.job["angle"][i])
        direction = np.array([np.sin(angle), 0.0, np.cos(angle)])
        self.gun.SetParticleDefinition(self.particles[int(self.job["pdg_id"][i])])
        self.gun.SetParticleEnergy(float(self.job["energy"][i]) * MEV_PER_GEV)
        self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(*direction.tolist()))
        self.gun.SetParticlePosition(g4.G4ThreeVector(*(-UPSTREAM * direction).tolist()))
        self.gun.GeneratePrimaryVertex(event)


class Reader(g4.G4UserEventAction):
    """Copy the deposits of an event into arrays."""

    def __init__(self, setup: dict[str, Any]):
        super().__init__()
        layers = setup["layers"]
        self.shapes = {"active": (layers,)}
        if setup["absorber_energy"]:
            self.shapes["absorber"] = (layers,)
        if setup["cells"]:
            self.shapes["cell"] = (layers, *setup["cells"]["shape"])
        self.numbers: dict[str, int] = {}
        self.found: dict[str, np.ndarray] = {}

    def EndOfEventAction(self, event: Any) -> None:
        """Read every detector once: MeV by copy number."""
        if not self.numbers:
            manager = g4.G4SDManager.GetSDMpointer()
            self.numbers = {kind: manager.GetCollectionID(f"{kind}/e") for kind in self.shapes}
        collections = event.GetHCofThisEvent()
        for kind, shape in self.shapes.items():
            energy = np.zeros(int(np.prod(shape)))
            for index, deposit in collections.GetHC(self.numbers[kind]):
                energy[index] = deposit
            self.found[kind] = energy.reshape(shape) / MEV_PER_GEV


class Actions(g4.G4VUserActionInitialization):
    """The gun and the reader."""

    def __init__(self, gun: Gun, reader: Reader):
        super().__init__()
        self.gun, self.reader = gun, reader

    def Build(self) -> None:
        """Hand them to Geant4."""
        self.SetUserAction(self.gun)
        self.SetUserAction(self.reader)


class Simulation:
    """Geant4, set up once; then any number of showers."""

    def __init__(self, setup: dict[str, Any], job: dict[str, np.ndarray]):
        self.setup, self.job = setup, job
        self.stack = Stack(setup, job["absorber_thickness"][0], job["active_thickness"][0])
        self.manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
        self.physics = Physics()
        self.manager.SetUserInitialization(self.stack)
        self.manager.SetUserInitialization(self.physics)
        commands = g4.G4UImanager.GetUIpointer()
        for line in (
            "/process/em/verbose 0",
            "/run/verbose 0",
            "/event/verbose 0",
            "/tracking/verbose 0",
            f"/run/setCut {setup['cut']} mm",
        ):
            commands.ApplyCommand(line)
        self.gun, self.reader = Gun(job), Reader(setup)
        self.actions = Actions(self.gun, self.reader)
        self.manager.SetUserInitialization(self.actions)
        self.manager.Initialize()

    def shower(self, i: int) -> dict[str, np.ndarray]:
        """Deposits of one shower [GeV], neighbouring layers added up where they are read out together."""
        wanted = tuple(self.job[f"{kind}_thickness"][i] for kind in ("absorber", "active"))
        if any(not np.array_equal(a, b) for a, b in zip(wanted, self.stack.thickness, strict=True)):
            self.stack.thickness = wanted
            self.stack.arrange()
            self.manager.GeometryHasBeenModified()
        self.gun.next = i
        self.manager.BeamOn(1)
        found = dict(self.reader.found)
        if "cell" in found:
            # the slab counts what misses its cells
            found["active"] = found["active"] + found["cell"].sum(axis=(1, 2))
        merge = self.setup["merge"]
        return {
            kind: energy.reshape(-1, merge, *energy.shape[1:]).sum(axis=1).astype(np.float32)
            for kind, energy in found.items()
        }


def main(folder: Path) -> None:
    """Answer requests until standard input ends."""
    # a fatal error aborts: its message is all that is wanted of it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Geant4 prints on standard output whatever it likes: the answers get a descriptor of their own
    sys.stdout.flush()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(folder / "job.npz", allow_pickle=False) as file:
        job = {name: file[name] for name in file.files}
    simulation = Simulation(json.loads(str(job.pop("config")))["calorimeter"], job)
    for line in sys.stdin:
        number, start, stop = map(int, line.split())
        showers, told = [], time.monotonic()
        for i in range(start, stop):
            showers.append(simulation.shower(i))
            if time.monotonic() - told > TICK:
                told = time.monotonic()
                print(len(showers), file=answers)
        part: dict[str, Any] = {kind: np.stack([shower[kind] for shower in showers]) for kind in showers[0]}
        temporary = folder / f".part-{number:06d}.{os.getpid()}.npz"
        np.savez(temporary, **part)
        temporary.replace(folder / f"part-{number:06d}.npz")
        print("done", file=answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # the destructors of Geant4 and Python disagree about who goes first
    sys.stdout.flush()
    os._exit(0)
