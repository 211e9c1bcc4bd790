"""Benchmarks against named peers: `make bench`.

Every row is measured beside its peer in the same run, on one pinned thread: the median of warm calls, alternating, and
the first call (tracing and compilation) apart. A ratio above 1 says that diffhep is faster. pyhf runs in this process,
other peers in processes and environments of their own on the same core, idle while it is our turn.
"""

import argparse
import importlib.metadata
import json
import os
import sys
from pathlib import Path

import jax

from tests.benchmark import beamline, inference, tomography
from tests.benchmark.harness import Peer, measure

jax.config.update("jax_enable_x64", True)

PACKAGES = ("jax", "pyhf", "diffhep")
# module of each peer's process: the environment it runs in
PEERS = {"peers": ".venv-peers", "cheetah_peer": ".venv-cheetah", "tomopt_peer": ".venv-tomopt"}


def main() -> int:
    """Measure all rows whose task or peer contains one of the given words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only tasks or peers that contain one of these")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("one thread is wanted, `make bench` sets it: pools of threads slow small fits down a hundredfold")
        return 2
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    peers = {name: Peer(Path(home) / "bin/python", f"tests.benchmark.{name}") for name, home in PEERS.items()}
    print(f"{'task':38s} {'peer':22s} {'ours':>10s} {'peer':>10s} {'ratio':>8s} {'goal':>5s} {'first call':>11s}")
    found = []
    rows = inference.rows(peers["peers"]) + beamline.rows(peers["cheetah_peer"]) + tomography.rows(peers["tomopt_peer"])
    for row in rows:
        if options.words and not any(word in f"{row.task} {row.peer}" for word in options.words):
            continue
        r = measure(row)
        found.append(r)
        goal = "" if r["goal"] is None else f"{r['goal']:.0f}"
        print(
            f"{r['task']:38s} {r['peer']:22s} {r['ours_ms']:7.3g} ms {r['theirs_ms']:7.4g} ms {r['ratio']:8.3g}"
            f" {goal:>5s} {r['ours_first_s']:9.2g} s",
            flush=True,
        )
    if options.json:
        versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": sys.version.split()[0]}
        options.json.write_text(json.dumps({"versions": versions, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
