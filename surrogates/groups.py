"""Layers read out in groups: from showers of every layer to those of what a few channels along the shower see.

A detector with fewer channels than layers adds up neighbouring ones. Groups are of equal depth; where a border lies
inside a layer, both sides have their share of it, so that the number of layers may be any number on the way to an
integer. Layers at the back may be left out, as if the stack ended before them: one simulation serves every length. What
a longer stack scatters back into the layers in front of its end is then counted, which is little.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from diffhep.io.showers import Showers, join
from diffhep.surrogates.config import GroupSettings


def read_out_in_groups(showers: Showers, groups: int, layers: NDArray | float) -> Showers:
    """Showers of which the first `layers` layers are read out in groups of equal depth.

    Args:
        showers: with a read-out for each layer.
        groups: number of them.
        layers: how many layers the stacks have, one number or one a shower; at least as many as groups.

    Returns:
        Showers whose layers are the groups, `merged` of the stack's in each; thicknesses are those of a group.

    Raises:
        ValueError: showers of fewer layers, of cells, or read out in groups already.

    >>> one = np.ones((1, 6))
    >>> showers = Showers(np.ones(1), np.array([22]), np.zeros(1), one, one, 0.1 * one)
    >>> read_out_in_groups(showers, 2, 5).active_energy.round(3).tolist()
    [[0.25, 0.25]]
    """
    if showers.merged is not None or showers.readouts != showers.layers or showers.cells is not None:
        msg = "showers: read out in groups already, or in cells; wanted one read-out for each layer"
        raise ValueError(msg)
    count = np.broadcast_to(np.asarray(layers, float), showers.size)
    if not ((count >= groups) & (count <= showers.layers)).all():
        got = f"{count.min():g} to {count.max():g}"
        msg = f"layers: wanted {groups} (groups) to {showers.layers} (simulated), got {got}"
        raise ValueError(msg)
    borders = np.arange(groups + 1) * count[:, None] / groups
    first = np.arange(showers.layers)[:, None]
    # share of every layer that lies in front of a border
    before = np.clip(borders[:, None, :] - first, 0.0, 1.0)
    share = np.diff(before, axis=-1)
    added = lambda values: np.einsum("sl,slg->sg", values, share)
    return dataclasses.replace(
        showers,
        absorber_thickness=added(showers.absorber_thickness),
        active_thickness=added(showers.active_thickness),
        active_energy=added(showers.active_energy),
        absorber_energy=None,
        merged=count / groups,
    )


def grouped(showers: Showers, settings: GroupSettings, seed: int, *, copies: int = 1) -> Showers:
    """Showers as settings want them read out: in stacks of random lengths, one for each of the stacks.

    Args:
        showers: with a read-out for each layer. They are what is returned if no groups are wanted, or if they are read
            out in so many groups already.
        settings: number of groups, and range of the number of layers.
        seed: of the lengths, which are distributed evenly in their logarithm.
        copies: how often every shower is used, each time with another length.
    """
    if not settings.count or (showers.merged is not None and showers.layers == settings.count):
        return showers
    if settings.layers[1] > showers.layers:
        msg = f"groups.layers: up to {settings.layers[1]} layers are wanted, the showers are of {showers.layers}"
        raise ValueError(msg)
    stacks = np.concatenate([showers.absorber_thickness, showers.active_thickness], axis=1)
    found, which = np.unique(stacks, axis=0, return_inverse=True)
    rng, (low, high) = np.random.default_rng(seed), np.log(settings.layers)
    lengths = np.exp(rng.uniform(low, high, (copies, len(found))))
    return join([read_out_in_groups(showers, settings.count, each[which.reshape(-1)]) for each in lengths])
