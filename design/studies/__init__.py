"""The shipped studies, by name."""

import importlib
from typing import Any

from diffhep.design.config import STUDIES as STUDIES
from diffhep.design.study import AbstractStudy

HOMES = {
    "higgs-diphoton": ("higgs_diphoton", "higgs_diphoton"),
    "ecal-resolution": ("ecal_resolution", "EcalResolution"),
    "ecal-layers": ("ecal_layers", "EcalLayers"),
    "tracker-momentum": ("tracker", "TrackerMomentum"),
    "tracker-impact": ("tracker", "TrackerImpact"),
    "beampipe-btag": ("beampipe_btag", "BeampipeBtag"),
    "trigger-thresholds": ("trigger_thresholds", "TriggerThresholds"),
    "tof-pid": ("tof_pid", "TofPid"),
    "beamline-fodo": ("beamline_fodo", "BeamlineFodo"),
    "branching-shower": ("branching_shower", "BranchingShower"),
    "muon-tomography": ("muon_tomography.study", "MuonTomography"),
}


def open_study(name: str, settings: Any) -> AbstractStudy:
    """The study of that name with its data read.

    Raises:
        ValueError: a sample is missing or broken, or a constant makes no sense.
    """
    if name not in HOMES:
        msg = f"no study is called {name!r}; there are {', '.join(STUDIES)}"
        raise ValueError(msg)
    module, kind = HOMES[name]
    # only the study that is wanted: some need optional parts
    return getattr(importlib.import_module(f"diffhep.design.studies.{module}"), kind)(settings)
