"""The `diffhep` command: one verb a function.

Every verb takes `--json` and then prints exactly one JSON object on standard output; progress and messages go to
standard error. Exit status: 0 on success, 1 when a check failed, 2 for bad input (one line, no traceback).

A verb imports what it computes with when it runs: `diffhep --help` does not wait for JAX.
"""

from diffhep.cli.command import VERBS as VERBS
from diffhep.cli.command import main as main
