"""Optimising a design: constrained problems, many starts, exact last steps, honest checks, and the shipped studies.

Names are loaded when they are first used: the command line needs `diffhep.design.config` before it needs JAX.
"""

from typing import TYPE_CHECKING

from diffhep.lazy import lazy_names

if TYPE_CHECKING:
    from diffhep.design.ascent import Ascent as Ascent
    from diffhep.design.black_box import BlackBox as BlackBox
    from diffhep.design.black_box import GradientEstimate as GradientEstimate
    from diffhep.design.black_box import estimate_gradient as estimate_gradient
    from diffhep.design.config import STUDIES as STUDIES
    from diffhep.design.exact import Certificate as Certificate
    from diffhep.design.exact import Polished as Polished
    from diffhep.design.exact import Sensitivities as Sensitivities
    from diffhep.design.exact import certify as certify
    from diffhep.design.exact import polish as polish
    from diffhep.design.honest import Measured as Measured
    from diffhep.design.honest import measure_with_error as measure_with_error
    from diffhep.design.menu import BestMenu as BestMenu
    from diffhep.design.menu import MenuOptimiser as MenuOptimiser
    from diffhep.design.menu import MenuSample as MenuSample
    from diffhep.design.menu_run import run_menu as run_menu
    from diffhep.design.optimise import optimise_study as optimise_study
    from diffhep.design.problem import Constraint as Constraint
    from diffhep.design.problem import Outcome as Outcome
    from diffhep.design.problem import Problem as Problem
    from diffhep.design.study import AbstractStudy as AbstractStudy
    from diffhep.design.trust_region import BlackBoxResult as BlackBoxResult
    from diffhep.design.trust_region import BlackBoxUpdate as BlackBoxUpdate
    from diffhep.design.trust_region import optimise_black_box as optimise_black_box

HOMES = {
    "ascent": ("Ascent",),
    "black_box": ("BlackBox", "GradientEstimate", "estimate_gradient"),
    "config": ("STUDIES",),
    "honest": ("Measured", "measure_with_error"),
    "menu": ("BestMenu", "MenuOptimiser", "MenuSample"),
    "menu_run": ("run_menu",),
    "optimise": ("optimise_study",),
    "exact": ("Certificate", "Polished", "Sensitivities", "certify", "polish"),
    "problem": ("Constraint", "Outcome", "Problem"),
    "study": ("AbstractStudy",),
    "trust_region": ("BlackBoxResult", "BlackBoxUpdate", "optimise_black_box"),
}

__getattr__, __dir__ = lazy_names("diffhep.design", HOMES)
