"""A run's trigger classifier on its way to the FPGA."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffhep.io import RunFolder
from diffhep.trigger import QuantisedClassifier, export, verify

CLASSIFIER = "classifier.json"
PROJECT = "firmware"


def store_classifier(run: RunFolder, model: QuantisedClassifier) -> None:
    """Keep a run's classifier, in fixed point, where `export_run` finds it."""
    run.write_json(CLASSIFIER, model.to_dict())


def export_run(run: RunFolder, folder: str | Path, **settings: Any) -> dict[str, Any]:
    """Write the hls4ml project of a run's classifier; returns its model card.

    Args:
        run: the run.
        folder: of the new project.
        settings: clock, part and Verilog, as of `diffhep.trigger.export`.

    Raises:
        ValueError: the run has not come that far, or the folder is not free.
    """
    model = QuantisedClassifier.from_dict(run.read_json(CLASSIFIER))
    config = run.config()
    origin: dict[str, Any] = {"study": config["study"], "seed": config["settings"]["search"]["seed"]}
    if run.has("result.json"):
        origin["data"] = run.read_json("result.json")["data"]
    return export(model, folder, metadata=origin, **settings)


def prove(run: RunFolder, *, n: int = 100_000, seed: int = 0) -> Mapping[str, Any]:
    """Export into the run folder and compare C simulation and JAX on random inputs; written to `fpga.json`."""
    if not (run.path / PROJECT).is_dir():
        export_run(run, run.path / PROJECT)
    found = verify(run.path / PROJECT, n=n, seed=seed)
    run.write_json("fpga.json", found)
    return found
