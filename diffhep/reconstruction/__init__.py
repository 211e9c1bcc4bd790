"""From detector signals to physics objects."""

from diffhep.reconstruction.photon import PhotonReconstruction as PhotonReconstruction
from diffhep.reconstruction.photon import leading_pair as leading_pair
from diffhep.reconstruction.photon import pair_mass as pair_mass
