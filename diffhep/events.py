"""Events: arrays of fixed shape, a mask and a weight.

Ragged data is padded at the border (`diffhep.io`) and never again: a cut changes the weight, not the shape. A field is
an array whose axes start with (event, object), such as `pt`, or with (event,) for quantities of the whole event. Padded
objects have mask False and are proved not to matter.
"""

from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Events(eqx.Module):
    """A batch of weighted events.

    Attributes:
        fields: name -> array (event, object, ...) or (event,). Names and units: `pt`, `energy`, `mass` [GeV], `eta`,
            `phi` [rad], `charge`, `pdg_id`.
        mask: (event, object), True where the object exists.
        weight: (event,), expected number of events each row stands for; may be negative.

    >>> events = Events({"pt": jnp.ones((3, 2))}, jnp.ones((3, 2), bool), jnp.ones(3))
    >>> events["pt"].shape, events.size
    ((3, 2), 3)
    """

    fields: dict[str, Array]
    mask: Bool[Array, "event object"]
    weight: Float[Array, " event"]

    def __check_init__(self):
        shapes = {name: np.shape(x) for name, x in self.fields.items()} | {"weight": np.shape(self.weight)}
        if any(None in s or not isinstance(s, tuple) for s in shapes.values()):
            return
        lengths = {name: s[0] for name, s in shapes.items() if s}
        if len({*lengths.values(), np.shape(self.mask)[0]}) > 1:
            msg = f"fields disagree on the number of events: {lengths}, mask {np.shape(self.mask)[0]}"
            raise ValueError(msg)

    def __getitem__(self, name: str) -> Array:
        if name not in self.fields:
            msg = f"events have no field {name!r}; they have {', '.join(sorted(self.fields))}"
            raise KeyError(msg)
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.mask.shape[0]

    def with_fields(self, fields: Mapping[str, Array]) -> "Events":
        """The same events with some fields added or replaced."""
        return Events({**self.fields, **fields}, self.mask, self.weight)

    def reweight(self, factor: Float[Array, " event"]) -> "Events":
        """The same events with weights multiplied: how every gate and selection acts."""
        return Events(self.fields, self.mask, self.weight * factor)

    def take(self, rows: Int[Array, " row"] | Int[np.ndarray, " row"] | slice) -> "Events":
        """Some of the rows; weights are not rescaled."""
        return Events({k: v[rows] for k, v in self.fields.items()}, self.mask[rows], self.weight[rows])

    def only(self, *names: str) -> "Events":
        """The same events with these fields and no others."""
        return Events({name: self[name] for name in names}, self.mask, self.weight)

    def sum_of_weights(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of weights and its standard error, the root of the sum of squared weights."""
        return jnp.sum(self.weight), jnp.sqrt(jnp.sum(self.weight**2))
