"""The H -> gamma gamma study: experiment, data, stage-wise training, pictures, and the study that joins them."""

from diffhep.design.studies.higgs_diphoton.experiment import Experiment as Experiment
from diffhep.design.studies.higgs_diphoton.study import HiggsDiphoton as HiggsDiphoton
