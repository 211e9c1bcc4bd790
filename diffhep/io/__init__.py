"""The only doors for files: ROOT in and out, JSON in, and the folder of a run."""

from diffhep.io.root import read_events as read_events
from diffhep.io.run import RunFolder as RunFolder
from diffhep.io.sample import SHIPPED as SHIPPED
from diffhep.io.sample import Sample as Sample
from diffhep.io.sample import read_sample as read_sample
from diffhep.io.sample import shipped as shipped
from diffhep.io.sample import write_sample as write_sample
from diffhep.io.text import read_json as read_json
