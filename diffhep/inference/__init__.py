"""Statistical inference on binned counts: likelihoods, fits, significances, all differentiable and in float64.

From the bottom: `poisson_deviance`; a model (`BinnedModel` for any function of the parameters, `ResonanceSearch` for
a bump on a smooth background); `fit`; and what is made of fits (`expected_discovery`, `discovery_significance`). A fit
is a layer: it can be jitted, vmapped over data, models and starting points, and differentiated through its optimum,
twice. It never raises because it did not converge; the result says so (`converged`, `gradient_norm`).

HistFactory: `histfactory` or `read_workspace(path).build()` give a model and data; then `fit`, `hypothesis_test` (CLs),
`discovery_test`, `upper_limit`, `toy_test`, `impacts`, `intervals`, `scan`, `goodness_of_fit`. Tests and limits are
differentiable in every yield, variation and uncertainty. `logpdf` and `expected_counts` are pyhf's.

From events: `UnbinnedModel` for sums of densities (`gaussian`, `exponential`, `crystal_ball`, any `density`),
`HybridModel` for several likelihoods with common parameters, `optimise_categories` for the bins of a score,
`fisher_information` and `cramer_rao` for what a measurement can know at best.

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

from diffhep.inference.absolute import expected_counts as expected_counts
from diffhep.inference.absolute import logpdf as logpdf
from diffhep.inference.absolute import parameter_values as parameter_values
from diffhep.inference.absolute import twice_nll as twice_nll
from diffhep.inference.analysis import Analysis as Analysis
from diffhep.inference.asymptotics import Discovery as Discovery
from diffhep.inference.asymptotics import asimov_significance as asimov_significance
from diffhep.inference.asymptotics import discovery_significance as discovery_significance
from diffhep.inference.asymptotics import expected_discovery as expected_discovery
from diffhep.inference.asymptotics import poi_uncertainty as poi_uncertainty
from diffhep.inference.categories import Categories as Categories
from diffhep.inference.categories import category_counts as category_counts
from diffhep.inference.categories import optimise_categories as optimise_categories
from diffhep.inference.densities import Density as Density
from diffhep.inference.densities import crystal_ball as crystal_ball
from diffhep.inference.densities import density as density
from diffhep.inference.densities import exponential as exponential
from diffhep.inference.densities import gaussian as gaussian
from diffhep.inference.fitting import Fit as Fit
from diffhep.inference.fitting import fit as fit
from diffhep.inference.fitting import fit_many as fit_many
from diffhep.inference.hybrid import HybridModel as HybridModel
from diffhep.inference.hypotest import DiscoveryTest as DiscoveryTest
from diffhep.inference.hypotest import HypothesisTest as HypothesisTest
from diffhep.inference.hypotest import discovery_test as discovery_test
from diffhep.inference.hypotest import hypothesis_test as hypothesis_test
from diffhep.inference.hypotest import infer as infer
from diffhep.inference.information import cramer_rao as cramer_rao
from diffhep.inference.information import fisher_information as fisher_information
from diffhep.inference.likelihood import AbstractModel as AbstractModel
from diffhep.inference.likelihood import BinnedModel as BinnedModel
from diffhep.inference.likelihood import Data as Data
from diffhep.inference.likelihood import poisson_deviance as poisson_deviance
from diffhep.inference.limits import UpperLimit as UpperLimit
from diffhep.inference.limits import upper_limit as upper_limit
from diffhep.inference.model import HistFactory as HistFactory
from diffhep.inference.model import Observation as Observation
from diffhep.inference.model import histfactory as histfactory
from diffhep.inference.newton import minimise as minimise
from diffhep.inference.postfit import Estimates as Estimates
from diffhep.inference.postfit import PostFit as PostFit
from diffhep.inference.postfit import Yields as Yields
from diffhep.inference.postfit import component_names as component_names
from diffhep.inference.postfit import postfit as postfit
from diffhep.inference.resonance import ResonanceSearch as ResonanceSearch
from diffhep.inference.resonance import resonance_search as resonance_search
from diffhep.inference.smoothing import smooth_counts as smooth_counts
from diffhep.inference.toys import ToyTest as ToyTest
from diffhep.inference.toys import toy_test as toy_test
from diffhep.inference.unbinned import Component as Component
from diffhep.inference.unbinned import UnbinnedData as UnbinnedData
from diffhep.inference.unbinned import UnbinnedModel as UnbinnedModel
from diffhep.inference.uncertainties import Impacts as Impacts
from diffhep.inference.uncertainties import Interval as Interval
from diffhep.inference.uncertainties import covariance as covariance
from diffhep.inference.uncertainties import goodness_of_fit as goodness_of_fit
from diffhep.inference.uncertainties import impacts as impacts
from diffhep.inference.uncertainties import intervals as intervals
from diffhep.inference.uncertainties import scan as scan
from diffhep.inference.uncertainties import uncertainties as uncertainties
from diffhep.inference.workspace import PatchSet as PatchSet
from diffhep.inference.workspace import Workspace as Workspace
from diffhep.inference.workspace import mask_bins as mask_bins
from diffhep.inference.workspace import read_patchset as read_patchset
from diffhep.inference.workspace import read_workspace as read_workspace
from diffhep.inference.workspace import specification as specification
