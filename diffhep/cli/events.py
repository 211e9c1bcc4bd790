"""The verb that makes events and showers: generate."""

import json
import time
from pathlib import Path
from typing import Any, Literal

import tyro

from diffhep.cli.options import choose, one_of, parse
from diffhep.cli.terminal import print_json, start_jax


def generate(args: list[str]) -> int:
    """Events, jets or showers from a generator."""
    verbs = {"pythia": generate_pythia, "jets": generate_labelled_jets, "geant4": generate_geant4}
    return one_of(verbs, args, "diffhep generate", "generator")


def generate_pythia(args: list[str]) -> int:
    """Events of proton collisions from Pythia 8."""
    options = parse(
        "diffhep generate pythia",
        args,
        process=(
            str,
            tyro.MISSING,
            "higgs-diphoton, diphoton or jets, kept where there are two photon candidates; or minimum-bias, ttbar, "
            "higgs-tautau, higgs-aa-4b or vbf-higgs-invisible, all kept, with jets, clusters, muons and missing pt",
            None,
        ),
        n=(int, tyro.MISSING, "events to keep", ("-n",)),
        output=(Path, tyro.MISSING, "the new ROOT file", ("-o",)),
        seed=(int, 1, "of the generator, 1 to 900000000", ()),
        setting=(tuple[str, ...], (), "further settings of Pythia, as in 'PartonLevel:MPI = off'", ()),
        pile_up=(float, 0.0, "mean number of minimum-bias collisions on top, where all events are kept [count]", ()),
    )
    start_jax()
    from diffhep.generate.collisions import generate_collisions
    from diffhep.generate.processes import COLLISIONS, PROCESSES
    from diffhep.generate.pythia import generate as run_pythia
    from diffhep.io import read_sample

    process = choose(options.process, (*PROCESSES, *COLLISIONS), "process")
    common = {"seed": options.seed, "path": options.output, "settings": options.setting}
    if process in COLLISIONS:
        path = generate_collisions(process, options.n, **common, pile_up=options.pile_up)
        sample = read_sample(path, collection="Jet")
    elif options.pile_up:
        msg = f"--pile-up: is for the processes that keep all events: {', '.join(COLLISIONS)}"
        raise ValueError(msg)
    else:
        path = run_pythia(process, options.n, **common)
        sample = read_sample(path)
    out = {
        "file": str(path),
        "events": sample.events.size,
        "generated": sample.n_generated,
        "cross_section_pb": sample.cross_section,
        "luminosity_per_pb": sample.luminosity,
        "seed": options.seed,
    }
    if options.json:
        print_json(out)
    else:
        print(f"{path}: {out['events']} events, cross-section {sample.cross_section:.4g} pb before the selection")
    return 0


def generate_labelled_jets(args: list[str]) -> int:
    """Labelled large-radius jets with their substructure from Pythia 8 and fastjet."""
    options = parse(
        "diffhep generate jets",
        args,
        n=(int, tyro.MISSING, "jets, shared equally among the classes", ("-n",)),
        output=(Path, tyro.MISSING, "the new .npz file", ("-o",)),
        classes=(
            tuple[str, ...],
            ("g", "q", "w", "z", "t"),
            "gluon, quark (d to b), W, Z, top, by letter or name; labels count in this order",
            (),
        ),
        constituents=(bool, False, "keep the 128 leading constituents of each jet, too (2 kB a jet)", ()),
        seed=(int, 1, "of every random number, 1 to 900000000", ()),
        mpi=(Literal["on", "off"], "on", "multiparton interactions; three times faster and less realistic without", ()),
        setting=(tuple[str, ...], (), "further settings of Pythia, as in 'PartonLevel:ISR = off'", ()),
    )
    import numpy as np

    from diffhep.generate.jets import generate_jets
    from diffhep.generate.substructure import FEATURES

    began = time.perf_counter()
    path = generate_jets(
        options.n,
        seed=options.seed,
        path=options.output,
        classes=options.classes,
        settings=(f"PartonLevel:MPI = {options.mpi}", *options.setting),
        constituents=options.constituents,
    )
    seconds = time.perf_counter() - began
    with np.load(path) as file:
        config, label = json.loads(str(file["config"])), file["label"]
        groomed = file["features"][:, FEATURES.index("mass_mmdt")]
    medians = {name: float(np.median(groomed[label == k])) for k, name in enumerate(config["classes"])}
    out = {
        "file": str(path),
        "jets": config["jets"],
        "counts": {name: int((label == k).sum()) for k, name in enumerate(config["classes"])},
        "groomed_mass_median_GeV": medians,
        "generated": sum(run["trials"] for run in config["runs"]),
        "seed": options.seed,
        "seconds": seconds,
    }
    if options.json:
        print_json(out)
    else:
        masses = ", ".join(f"{name} {mass:.1f}" for name, mass in medians.items())
        print(f"{path}: {out['jets']} jets, median groomed masses in GeV: {masses}")
    return 0


def generate_geant4(args: list[str]) -> int:
    """Showers in a sampling calorimeter from Geant4."""
    range_ = tuple[float, ...]
    options = parse(
        "diffhep generate geant4",
        args,
        n=(int, tyro.MISSING, "showers", ("-n",)),
        output=(Path, tyro.MISSING, "the new file, .npz or .root", ("-o",)),
        layers=(int, 40, "layers, each an absorber slab and then an active one", ()),
        absorber=(str, "G4_Pb", "NIST material of the absorber", ()),
        active=(str, "G4_PLASTIC_SC_VINYLTOLUENE", "NIST material of the active slabs", ()),
        absorber_thickness=(range_, (2.0,), "thickness of an absorber slab, or a range of it [mm]", ()),
        active_thickness=(range_, (5.0,), "thickness of an active slab, or a range of it [mm]", ()),
        variation=(
            Literal["same", "free", "mixed", "trend"],
            "same",
            "thicknesses of a range: one for all layers of a shower, each layer for itself, a base and a spread, "
            "or a base that runs along the stack and a spread",
            (),
        ),
        spread=(float, 1.0, "largest relative spread of the layers of one shower, for mixed and trend, 0 to 1", ()),
        width=(float, 400.0, "width of the slabs in x and in y [mm]", ()),
        cut=(float, 0.7, "range below which no secondary particle is made [mm]", ()),
        cells=(
            Literal["none", "cartesian", "polar"],
            "none",
            "cells of the active slabs: in x and y, or alpha and r",
            (),
        ),
        cells_shape=(
            tuple[int, int] | None,
            None,
            "cells of a layer: in x and y (30 30), or in alpha and r (16 9)",
            (),
        ),
        cells_pitch=(float | None, None, "width of a cell, in x and y (5) or in r (4.65) [mm]", ()),
        merge=(int, 1, "neighbouring layers that are read out as one", ()),
        active_only=(bool, False, "leave out the energy that the absorber takes", ()),
        particle=(str, "e-", "e-, e+, gamma, mu- or mu+", ()),
        energy=(range_, (1.0,), "kinetic energy of the particle, or a range of it [GeV]", ()),
        spectrum=(Literal["log-uniform", "uniform"], "log-uniform", "how energies of a range are drawn", ()),
        angle=(range_, (0.0,), "angle from the normal of the layers, or a range of it [rad]", ()),
        seed=(int, 1, "of every random number, at least 0", ()),
        processes=(int, 1, "processes that work at once; the showers do not depend on it", ()),
        resume=(bool, False, "go on with a killed run of the same options", ()),
    )
    from diffhep.generate.geant4 import Beam, SamplingCalorimeter, generate_showers
    from diffhep.io.showers import read_showers

    taken = ("layers", "absorber", "active", "absorber_thickness", "active_thickness", "variation", "spread", "width")
    calorimeter = SamplingCalorimeter(
        **{name: getattr(options, name) for name in (*taken, "cut", "merge")},
        absorber_energy=not options.active_only,
        cells=cells_of(options),
    )
    beam = Beam(options.particle, options.energy, options.spectrum, options.angle)
    began = time.perf_counter()
    path = generate_showers(
        calorimeter,
        beam,
        options.n,
        seed=options.seed,
        path=options.output,
        processes=options.processes,
        resume=options.resume,
    )
    seconds = time.perf_counter() - began
    showers = read_showers(path)
    fraction = showers.active_energy.sum(axis=1) / showers.energy
    out = {
        "file": str(path),
        "showers": showers.size,
        "readouts": showers.readouts,
        "seed": options.seed,
        "active_fraction": float(fraction.mean()),
        "active_fraction_std": float(fraction.std()),
        "seconds": seconds,
    }
    if options.json:
        print_json(out)
    else:
        print(f"{path}: {showers.size} showers, {fraction.mean():.2%} of the energy in the active layers")
    return 0


def cells_of(options: Any) -> Any:
    """The cells that the options ask for, or None."""
    from diffhep.generate.geant4 import CartesianCells, PolarCells

    if options.cells == "none":
        for name in ("cells_shape", "cells_pitch"):
            if getattr(options, name) is not None:
                msg = f"--{name.replace('_', '-')}: wanted together with --cells cartesian or --cells polar"
                raise ValueError(msg)
        return None
    kind = {"cartesian": CartesianCells, "polar": PolarCells}[options.cells]
    shape = options.cells_shape or kind().shape
    return kind(*shape, kind().pitch if options.cells_pitch is None else options.cells_pitch)
