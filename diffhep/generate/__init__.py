"""Real generators behind optional extras: Pythia 8."""

from diffhep.generate.candidates import Candidate as Candidate
from diffhep.generate.candidates import photon_candidates as photon_candidates
from diffhep.generate.processes import PROCESSES as PROCESSES
from diffhep.generate.processes import Run as Run
from diffhep.generate.pythia import generate as generate
