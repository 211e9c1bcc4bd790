"""Real generators behind optional extras: Pythia 8 (with fastjet for jets), Geant4."""

from diffhep.generate.candidates import Candidate as Candidate
from diffhep.generate.candidates import photon_candidates as photon_candidates
from diffhep.generate.collisions import generate_collisions as generate_collisions
from diffhep.generate.geant4 import Beam as Beam
from diffhep.generate.geant4 import CartesianCells as CartesianCells
from diffhep.generate.geant4 import PolarCells as PolarCells
from diffhep.generate.geant4 import SamplingCalorimeter as SamplingCalorimeter
from diffhep.generate.geant4 import generate_each as generate_each
from diffhep.generate.geant4 import generate_showers as generate_showers
from diffhep.generate.geant4 import simulate as simulate
from diffhep.generate.geant4 import simulate_each as simulate_each
from diffhep.generate.jets import generate_jets as generate_jets
from diffhep.generate.processes import COLLISIONS as COLLISIONS
from diffhep.generate.processes import PROCESSES as PROCESSES
from diffhep.generate.processes import Run as Run
from diffhep.generate.pythia import generate as generate
