"""Checkpoints of a training, kept by orbax: the last two of every phase."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree


class Checkpoints:
    """The checkpoints of one phase of a training.

    Args:
        folder: of their own.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: PyTree) -> None:
        """Keep the state after a number of steps."""
        with self._manager() as manager:
            manager.save(step, args=ocp.args.StandardSave(state))

    def latest(self, like: PyTree) -> PyTree:
        """The last state that was kept, or `like` if there is none.

        Raises:
            ValueError: the checkpoint cannot be read back.
        """
        if not self.folder.is_dir():
            return like
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return like
            shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            try:
                return manager.restore(step, args=ocp.args.StandardRestore(shapes))
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                msg = f"{self.folder / str(step)}: the checkpoint cannot be read back ({reason}); remove it to go on"
                raise ValueError(msg) from None
