"""The only doors for files: ROOT, npz and HDF5 in and out, JSON in, and the folder of a run."""

from diffhep.io.calochallenge import Voxels as Voxels
from diffhep.io.calochallenge import read_calochallenge as read_calochallenge
from diffhep.io.calochallenge import write_calochallenge as write_calochallenge
from diffhep.io.root import read_branch as read_branch
from diffhep.io.root import read_events as read_events
from diffhep.io.run import RunFolder as RunFolder
from diffhep.io.sample import SHIPPED as SHIPPED
from diffhep.io.sample import Sample as Sample
from diffhep.io.sample import read_sample as read_sample
from diffhep.io.sample import shipped as shipped
from diffhep.io.sample import write_sample as write_sample
from diffhep.io.showers import Showers as Showers
from diffhep.io.showers import join as join
from diffhep.io.showers import read_showers as read_showers
from diffhep.io.showers import shipped_showers as shipped_showers
from diffhep.io.showers import write_showers as write_showers
from diffhep.io.text import read_json as read_json
