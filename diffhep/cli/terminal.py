"""What the verbs share besides their options: double precision, progress on standard error, JSON on standard output."""

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

FASTER = "xla_cpu_use_fusion_emitters"


def start_jax() -> None:
    """What the command may choose and the library never does: double precision, which fits need; faster compilation."""
    # the older emitter of loops: programs are as fast and compile in two thirds of the time. XLA aborts on a flag it
    # does not know, so this one is only set where it is known to exist.
    flags = os.environ.get("XLA_FLAGS", "")
    if FASTER not in flags and importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] = f"{flags} --{FASTER}=false".strip()

    import jax

    jax.config.update("jax_enable_x64", True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, one row a phase; yields a function of the phase and the fraction done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>18s}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def progress(phase: str, fraction: float) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=1.0)
            bar.update(tasks[phase], completed=fraction)

        yield progress


def print_json(content: Any) -> None:
    """Exactly one JSON object on standard output."""
    from diffhep.io.run import plain

    print(json.dumps(plain(content), indent=1, allow_nan=False))
