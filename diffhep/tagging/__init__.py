"""Networks that identify objects."""

from diffhep.tagging.photon import PhotonTagger as PhotonTagger
from diffhep.tagging.photon import photon_features as photon_features
from diffhep.tagging.photon import readout_fractions as readout_fractions
