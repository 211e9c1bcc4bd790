"""What a peer's process does: reads the name of a task a line, and answers with time and result as a line of JSON.

Runs in the peers' environments too, so it imports nothing but Python's own.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# A call of microseconds after another program's is a measurement of its caches: warm calls come in blocks that last at
# least this long, for either side alike. A longer call is a block of its own.
BLOCK = 0.05  # s


def block(work: Callable[[], Any]) -> tuple[float, Any]:
    """Mean time of as many calls as fill a block, and the last result; `work` returns when that is there."""
    began, calls = time.perf_counter(), 0
    while True:
        out = work()
        calls += 1
        if (spent := time.perf_counter() - began) >= BLOCK:
            return spent / calls, out


def serve(tasks: Mapping[str, Callable[[], Any]], numbers: Callable[[Any], list[float]]) -> None:
    """Answers every line of the input; first says which tasks there are. `numbers` makes plain floats of a result."""
    print(json.dumps(sorted(tasks)), flush=True)
    for line in sys.stdin:
        seconds, value = block(tasks[line.strip()])
        print(json.dumps({"seconds": seconds, "value": numbers(value)}), flush=True)
