"""The muon-tomography study: two scenes, and their objectives as functions of the panels."""

from diffhep.design.studies.muon_tomography.furnace import FurnaceSample as FurnaceSample
from diffhep.design.studies.muon_tomography.furnace import fill_height_error as fill_height_error
from diffhep.design.studies.muon_tomography.furnace import furnace_sample as furnace_sample
from diffhep.design.studies.muon_tomography.furnace import predicted_heights as predicted_heights
from diffhep.design.studies.muon_tomography.layout import Layout as Layout
from diffhep.design.studies.muon_tomography.layout import layout_of as layout_of
from diffhep.design.studies.muon_tomography.layout import observe as observe
from diffhep.design.studies.muon_tomography.scan import ScanSample as ScanSample
from diffhep.design.studies.muon_tomography.scan import scan_error as scan_error
from diffhep.design.studies.muon_tomography.scan import scan_sample as scan_sample
from diffhep.design.studies.muon_tomography.scan import scan_volume as scan_volume
