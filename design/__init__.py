"""Optimising a design: constrained problems, many starts, exact last steps, honest checks, and the shipped studies."""

from diffhep.design.ascent import Ascent as Ascent
from diffhep.design.config import STUDIES as STUDIES
from diffhep.design.honest import Measured as Measured
from diffhep.design.honest import measure_with_error as measure_with_error
from diffhep.design.optimise import optimise_study as optimise_study
from diffhep.design.polish import Certificate as Certificate
from diffhep.design.polish import Polished as Polished
from diffhep.design.polish import Sensitivities as Sensitivities
from diffhep.design.polish import certify as certify
from diffhep.design.polish import polish as polish
from diffhep.design.problem import Constraint as Constraint
from diffhep.design.problem import Outcome as Outcome
from diffhep.design.problem import Problem as Problem
from diffhep.design.study import AbstractStudy as AbstractStudy
