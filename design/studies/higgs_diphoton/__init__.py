"""The H -> gamma gamma study: experiment, data, stage-wise training, pictures, and the study that joins them."""

from diffhep.design.config import HiggsDiphotonSettings
from diffhep.design.studies.higgs_diphoton.experiment import Experiment as Experiment
from diffhep.design.studies.higgs_diphoton.learned_study import HiggsDiphotonLearned as HiggsDiphotonLearned
from diffhep.design.studies.higgs_diphoton.study import HiggsDiphoton as HiggsDiphoton


def higgs_diphoton(settings: HiggsDiphotonSettings) -> HiggsDiphoton:
    """The study; with a budget of logic the words of the trigger are part of the design."""
    return HiggsDiphoton(settings) if settings.budget.luts is None else HiggsDiphotonLearned(settings)
