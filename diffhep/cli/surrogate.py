"""The verbs of surrogates: surrogate train, validate, sample."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import tyro

from diffhep.cli.options import one_of, parse, stored_settings, training_options
from diffhep.cli.terminal import print_json, progress_bar, start_jax
from diffhep.surrogates.config import SurrogateSettings


def surrogate(args: list[str]) -> int:
    """Learned stand-ins for full simulation."""
    verbs = {"train": train, "validate": validate, "sample": sample}
    return one_of(verbs, args, "diffhep surrogate", "surrogate action")


def train(args: list[str]) -> int:
    """Train a surrogate of a sampling calorimeter on Geant4 showers: diffhep surrogate train [CONFIG.toml] -o DIR.

    With --start-from DIR, or --start-from shipped, the weights of another one are trained on.
    """
    options = training_options("diffhep surrogate train", args, SurrogateSettings)
    settings = options.settings
    start_jax()
    from diffhep.io import RunFolder, join, read_showers, shipped_showers
    from diffhep.surrogate_figures import draw_training
    from diffhep.surrogates import fit_surrogate, fit_voxels, save_surrogate, started, starting_point

    if options.resume:
        run = RunFolder.open(options.output)
        settings = stored_settings(run.config(), settings, run.path)
    else:
        RunFolder(options.output).check_free()
        settings = started(settings)
    samples = [read_showers(file) for file in settings.data or (shipped_showers(),)]
    replay = [read_showers(file) for file in settings.replay]
    showers = join(samples)
    if not options.resume:
        run = RunFolder.create(options.output, {"settings": settings.model_dump(mode="json")})
    began = time.process_time()
    with progress_bar() as progress:
        if settings.network.kind == "voxels":
            trained = fit_voxels(settings, showers, run=run, progress=progress)
        else:
            start, kept = starting_point(settings), join(replay) if replay else None
            trained = fit_surrogate(settings, showers, start=start, replay=kept, run=run, progress=progress)
    card = save_surrogate(run, trained, settings, samples + replay)
    seconds = time.process_time() - began
    run.write_bytes("figures/training.png", draw_training(run.metrics()))
    if options.json:
        print_json({"folder": str(run.path), "card": card})
    else:
        print(f"{run.path}: {settings.network.kind}, {showers.size} showers, {seconds:.0f} s of CPU")
        print(f"judge it with: diffhep surrogate validate {run.path} --data FILE")
    return 0


def validate(args: list[str]) -> int:
    """A surrogate against full simulation that it has not seen."""
    options = parse(
        "diffhep surrogate validate",
        args,
        folder=(Path, tyro.MISSING, "folder of the trained surrogate", None),
        data=(Path, tyro.MISSING, "file of showers", ()),
        seed=(int, 0, "of the surrogate's showers", ()),
    )
    start_jax()
    import jax.random as jr

    from diffhep.io import RunFolder, read_showers
    from diffhep.surrogate_figures import draw_comparison
    from diffhep.surrogates import (
        grouped,
        is_voxels,
        load_surrogate,
        load_voxels,
        sample_like,
        settings_of,
        validate_voxels,
    )
    from diffhep.surrogates import validate as compare

    trained, showers = load_surrogate(options.folder), read_showers(options.data)
    showers = grouped(showers, settings_of(options.folder).groups, options.seed)
    with progress_bar() as progress:
        found = compare(trained, showers, key=jr.key(options.seed), progress=progress)
        if is_voxels(options.folder):
            voxels = load_voxels(options.folder)
            found["voxels"] = validate_voxels(voxels, showers, key=jr.key(options.seed), progress=progress)
    run = RunFolder(options.folder)
    run.write_json("validation.json", {"data": str(options.data), **found})
    made = sample_like(trained, showers, jr.key(options.seed))
    for name, image in draw_comparison(showers.active_energy, made, showers.energy).items():
        run.write_bytes(f"figures/{name}.png", image)
    if options.json:
        print_json(found)
    else:
        print_validation(found)
    return 0


def sample(args: list[str]) -> int:
    """Showers from a surrogate, for the particles and stacks of a file, as a file of the same kind."""
    options = parse(
        "diffhep surrogate sample",
        args,
        folder=(Path, tyro.MISSING, "folder of the trained surrogate", None),
        like=(Path, tyro.MISSING, "file of showers whose energies, angles and thicknesses are used", ()),
        output=(Path, tyro.MISSING, "the new file, .npz or .root; .hdf5 of voxels for the CaloChallenge", ("-o",)),
        seed=(int, 0, "of the random numbers", ()),
        extrapolate=(bool, False, "allow stacks and particles outside the trained domain", ()),
    )
    start_jax()
    import jax.random as jr

    from diffhep.io import read_showers, write_calochallenge, write_showers
    from diffhep.surrogates import (
        grouped,
        is_voxels,
        load_surrogate,
        load_voxels,
        sample_like,
        sample_voxels,
        settings_of,
    )
    from diffhep.surrogates.validation import check_stack, outside

    trained, showers = load_surrogate(options.folder), read_showers(options.like)
    showers = grouped(showers, settings_of(options.folder).groups, options.seed)
    check_stack(trained, showers)
    beyond = outside(trained, showers)
    if beyond.any() and not options.extrapolate:
        msg = (
            f"{options.like}: {int(beyond.sum())} of {showers.size} showers are outside the trained domain, the first "
            f"is number {int(beyond.argmax())}; --extrapolate samples them all the same"
        )
        raise ValueError(msg)
    cells, challenge = None, options.output.suffix in (".hdf5", ".h5")
    if is_voxels(options.folder):
        made, cells = sample_voxels(load_voxels(options.folder), showers, jr.key(options.seed))
    elif challenge:
        msg = f"{options.output}: the format of the CaloChallenge is one of voxels; {options.folder} knows layers only"
        raise ValueError(msg)
    else:
        made = sample_like(trained, showers, jr.key(options.seed))
    config = {**showers.config, "made_by": {"surrogate": str(options.folder), "seed": options.seed}}
    new = dataclasses.replace(showers, active_energy=made, absorber_energy=None, cells=cells, config=config)
    if challenge and cells is not None:
        path = write_calochallenge(options.output, new.energy, cells)
    else:
        path = write_showers(options.output, new)
    out = {"file": str(path), "showers": new.size, "outside_domain": int(beyond.sum())}
    if options.json:
        print_json(out)
    else:
        print(f"{path}: {new.size} showers, {out['outside_domain']} of them outside the trained domain")
    return 0


def print_validation(found: dict[str, Any]) -> None:
    """What a person wants to know about a surrogate."""
    area, stacks = found["auc"], found["stacks"]
    if voxels := found.get("voxels"):
        print(f"cells: classifier AUC high {voxels['auc']['high']:.3f}, low {voxels['auc']['low']:.3f}")
        print(f"cells hit: {voxels['hits']['made']:.1f}, by Geant4 {voxels['hits']['real']:.1f}")
    print(f"{found['showers']} showers, {100 * found['in_domain']:.1f} % inside the trained domain")
    print(
        f"classifier AUC: high {area['high']:.3f}, low {area['low']:.3f}, with the stack {area['high_with_stack']:.3f}"
    )
    for name in ("fpd", "kpd"):
        value, error, floor = (1e3 * x for x in (*found[name].values(), found[f"{name}_floor"]["value"]))
        print(f"{name.upper()} x 1000: {value:.3g} +- {error:.2g} (two samples of Geant4: {floor:.3g})")
    if not stacks["count"]:
        return
    print(f"{stacks['count']} stacks of {stacks['showers_each']} showers: median AUC {stacks['auc_median']:.3f}")
    for name in ("response", "resolution"):
        bias = {key: 100 * value for key, value in stacks[name].items()}
        print(
            f"  {name}: {bias['mean']:+.2f} +- {bias['stderr']:.2f} % on average; median |deviation| "
            f"{bias['median_absolute']:.2f} %, from statistics alone {bias['expected_median_absolute']:.2f} %"
        )
