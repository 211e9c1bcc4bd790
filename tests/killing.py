"""A run of the command that is killed where it is told to be."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def kill_at(args: Sequence[str], text: str, folder: Path) -> None:
    """Runs `diffhep` with these words, and kills it once its metrics hold the text; it must not have ended before."""
    command = [sys.executable, "-m", "diffhep.cli", *args]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 500
    while not (metrics.exists() and text in metrics.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never came so far"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
