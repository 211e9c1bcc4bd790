"""The verb that makes events: generate."""

from pathlib import Path

import tyro

from diffhep.cli.options import choose, parse
from diffhep.cli.terminal import print_json, start_jax


def generate(args: list[str]) -> int:
    """Events from a generator."""
    generator = choose(args[0] if args else "", ("pythia",), "generator")
    options = parse(
        f"diffhep generate {generator}",
        args[1:],
        process=(str, tyro.MISSING, "higgs-diphoton, diphoton or jets", None),
        n=(int, tyro.MISSING, "events to keep", ("-n",)),
        output=(Path, tyro.MISSING, "the new ROOT file", ("-o",)),
        seed=(int, 1, "of the generator, 1 to 900000000", ()),
        setting=(tuple[str, ...], (), "further settings of Pythia, as in 'PartonLevel:MPI = off'", ()),
    )
    start_jax()
    from diffhep.generate.pythia import generate as generate_pythia
    from diffhep.io import read_sample

    path = generate_pythia(options.process, options.n, seed=options.seed, path=options.output, settings=options.setting)
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
