"""From detector signals to physics objects."""

from diffhep.reconstruction.photon import PhotonReconstruction as PhotonReconstruction
from diffhep.reconstruction.photon import leading_pair as leading_pair
from diffhep.reconstruction.photon import pair_mass as pair_mass
from diffhep.reconstruction.scattering_tomography import Line as Line
from diffhep.reconstruction.scattering_tomography import Scatter as Scatter
from diffhep.reconstruction.scattering_tomography import VoxelSums as VoxelSums
from diffhep.reconstruction.scattering_tomography import fit_line as fit_line
from diffhep.reconstruction.scattering_tomography import radiation_lengths as radiation_lengths
from diffhep.reconstruction.scattering_tomography import scatter as scatter
from diffhep.reconstruction.scattering_tomography import voxel_sums as voxel_sums
from diffhep.reconstruction.scattering_tomography import weighted_quantile as weighted_quantile
from diffhep.reconstruction.track_covariance import gluckstern_curvature as gluckstern_curvature
from diffhep.reconstruction.track_covariance import impact_parameter_resolution as impact_parameter_resolution
from diffhep.reconstruction.track_covariance import kalman_covariance as kalman_covariance
from diffhep.reconstruction.track_covariance import momentum_resolution as momentum_resolution
from diffhep.reconstruction.track_covariance import track_covariance as track_covariance
