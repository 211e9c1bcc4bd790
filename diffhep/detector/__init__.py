"""Physics-based detector response: materials, showers, calorimeters."""

from diffhep.detector.calorimeter import SamplingCalorimeter as SamplingCalorimeter
from diffhep.detector.calorimeter import ShowerNoise as ShowerNoise
from diffhep.detector.calorimeter import draw_noise as draw_noise
from diffhep.detector.calorimeter import noise_shapes as noise_shapes
from diffhep.detector.material import LEAD as LEAD
from diffhep.detector.material import POLYSTYRENE as POLYSTYRENE
from diffhep.detector.material import Material as Material
from diffhep.detector.shower import LeakageCurve as LeakageCurve
from diffhep.detector.shower import gamma_fractions as gamma_fractions
from diffhep.detector.shower import leakage_curve as leakage_curve
from diffhep.detector.shower import leakage_moments as leakage_moments
