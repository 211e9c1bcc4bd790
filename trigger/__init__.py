"""Triggers: menus, rates, fixed point, export to firmware and its proof."""

from diffhep.trigger.classifier import DenseClassifier as DenseClassifier
from diffhep.trigger.export import export as export
from diffhep.trigger.fixed_point import FixedPoint as FixedPoint
from diffhep.trigger.fixed_point import decode as decode
from diffhep.trigger.fixed_point import encode as encode
from diffhep.trigger.fixed_point import quantise as quantise
from diffhep.trigger.lowering import Words as Words
from diffhep.trigger.lowering import trace as trace
from diffhep.trigger.menu import TRIGGER_SUMS as TRIGGER_SUMS
from diffhep.trigger.menu import DiphotonMenu as DiphotonMenu
from diffhep.trigger.menu import trigger_features as trigger_features
from diffhep.trigger.primitive import quantise_kif as quantise_kif
from diffhep.trigger.quantised import EmulatedClassifier as EmulatedClassifier
from diffhep.trigger.quantised import QuantisedClassifier as QuantisedClassifier
from diffhep.trigger.quantised import quantised as quantised
from diffhep.trigger.rate import rate as rate
from diffhep.trigger.rate import turn_on as turn_on
from diffhep.trigger.rtl import export_rtl as export_rtl
from diffhep.trigger.verify import verify as verify
from diffhep.trigger.verify_rtl import verify_rtl as verify_rtl
