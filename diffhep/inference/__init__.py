"""Statistical inference on binned counts: likelihoods, fits, significances, all differentiable and in float64.

Building blocks, from the bottom: `poisson_deviance`, a model (`BinnedModel`, `ResonanceSearch`), `fit`, and what is
made of fits (`discovery_significance`, `expected_discovery`). A fit is a layer: it can be jitted, vmapped over data,
models and starting points, and differentiated through its optimum, twice. It never raises because it did not converge;
the result says so.
"""

from diffhep.inference.asymptotics import Discovery as Discovery
from diffhep.inference.asymptotics import asimov_significance as asimov_significance
from diffhep.inference.asymptotics import discovery_significance as discovery_significance
from diffhep.inference.asymptotics import expected_discovery as expected_discovery
from diffhep.inference.asymptotics import poi_uncertainty as poi_uncertainty
from diffhep.inference.fitting import Fit as Fit
from diffhep.inference.fitting import fit as fit
from diffhep.inference.likelihood import AbstractModel as AbstractModel
from diffhep.inference.likelihood import BinnedModel as BinnedModel
from diffhep.inference.likelihood import Data as Data
from diffhep.inference.likelihood import poisson_deviance as poisson_deviance
from diffhep.inference.newton import minimise as minimise
from diffhep.inference.resonance import ResonanceSearch as ResonanceSearch
from diffhep.inference.resonance import resonance_search as resonance_search
from diffhep.inference.smoothing import smooth_counts as smooth_counts
