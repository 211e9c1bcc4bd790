"""Statistical inference on binned counts: likelihoods, fits, significances, all differentiable and in float64.

From the bottom: `poisson_deviance`; a model (`BinnedModel` for any function of the parameters, `ResonanceSearch` for
a bump on a smooth background); `fit`; and what is made of fits (`expected_discovery`, `discovery_significance`). A fit
is a layer: it can be jitted, vmapped over data, models and starting points, and differentiated through its optimum,
twice. It never raises because it did not converge; the result says so (`converged`, `gradient_norm`).

The shape fit of a study, from events to a significance:

>>> import jax, jax.numpy as jnp
>>> from diffhep.histogram import counts, variances
>>> def significance(mass, weight, background, edges):
...     centers = 0.5 * (edges[1:] + edges[:-1])
...     shape = lambda scale: counts(scale * mass, edges, weight, bandwidth=0.5, reflect=True)
...     model = resonance_search(
...         shape(1.0), background, centers, signal_up=shape(1.003), signal_down=shape(0.997)
...     )
...     found = expected_discovery(model)
...     return found.significance, found
>>> edges = jnp.linspace(105.0, 160.0, 56)
>>> mass, weight = 125.2 + 1.7 * jax.random.normal(jax.random.key(0), 500), jnp.full(500, 0.1)
>>> simulated = 40 * jnp.exp(-(edges[1:] - 105) / 30)
>>> background = smooth_counts(simulated, simulated, 0.5 * (edges[1:] + edges[:-1]), degree=2).counts
>>> (z, found), gradient = jax.value_and_grad(significance, has_aux=True)(mass, weight, background, edges)
>>> bool(found.converged), gradient.shape
(True, (500,))
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
