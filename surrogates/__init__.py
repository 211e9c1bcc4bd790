"""Learned stand-ins for simulation. Nothing is here yet: the response of `diffhep.detector` is parametrised."""
