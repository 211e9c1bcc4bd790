"""diffhep: differentiable high-energy physics, from events to a better detector and its trigger on an FPGA.

The top level holds the ground floor: parameters, stages, events, gates, histograms, kinematics and the gradient audit.
Everything else is a room of its own: `diffhep.detector`, `diffhep.inference`, `diffhep.trigger`, `diffhep.design`, ...
Names are loaded when they are first used, so that `diffhep --help` does not wait for JAX.
"""

from typing import TYPE_CHECKING

from diffhep.lazy import lazy_names

if TYPE_CHECKING:
    from diffhep.branching import branching_shower as branching_shower
    from diffhep.events import Events as Events
    from diffhep.gates import AbstractGate as AbstractGate
    from diffhep.gates import Boundary as Boundary
    from diffhep.gates import Hard as Hard
    from diffhep.gates import Score as Score
    from diffhep.gates import Soft as Soft
    from diffhep.gates import StraightThrough as StraightThrough
    from diffhep.histogram import annealed_bandwidth as annealed_bandwidth
    from diffhep.histogram import counts as counts
    from diffhep.histogram import flux_counts as flux_counts
    from diffhep.histogram import to_hist as to_hist
    from diffhep.histogram import variances as variances
    from diffhep.kinematics import delta_r as delta_r
    from diffhep.kinematics import diphoton_mass as diphoton_mass
    from diffhep.kinematics import energy_of as energy_of
    from diffhep.kinematics import safe_div as safe_div
    from diffhep.kinematics import safe_log as safe_log
    from diffhep.kinematics import safe_norm as safe_norm
    from diffhep.kinematics import safe_sqrt as safe_sqrt
    from diffhep.kinematics import wrap_phi as wrap_phi
    from diffhep.parameters import Param as Param
    from diffhep.parameters import named_params as named_params
    from diffhep.parameters import resolve as resolve
    from diffhep.parameters import split as split
    from diffhep.stage import AbstractStage as AbstractStage
    from diffhep.stage import Chain as Chain
    from diffhep.stage import fold_name as fold_name

__version__ = "0.1.0"

HOMES = {
    "branching": ("branching_shower",),
    "events": ("Events",),
    "gates": ("AbstractGate", "Boundary", "Hard", "Score", "Soft", "StraightThrough"),
    "histogram": ("annealed_bandwidth", "counts", "flux_counts", "to_hist", "variances"),
    "kinematics": (
        "delta_r",
        "diphoton_mass",
        "energy_of",
        "safe_div",
        "safe_log",
        "safe_norm",
        "safe_sqrt",
        "wrap_phi",
    ),
    "parameters": ("Param", "named_params", "resolve", "split"),
    "stage": ("AbstractStage", "Chain", "fold_name"),
}

__getattr__, __dir__ = lazy_names("diffhep", HOMES)
