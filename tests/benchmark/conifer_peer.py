"""Boosted trees as logic: xgboost and conifer, in an environment of their own (`conifer.txt`).

Started as `python conifer_peer.py FOLDER`. The folder holds `task.json` (words and forests) and
`events.npz`; what comes into it is a folder of VHDL for each forest and `front.json` (accuracies on the events that
judge, as GHDL simulates the VHDL and as xgboost computes them). conifer wants the vendor's headers of fixed-point
numbers for its own conversion of inputs: `XILINX_AP_INCLUDE` names them.
"""

import json
import sys
from pathlib import Path

import numpy as np

TASK, EVENTS, FRONT, VHDL = "task.json", "events.npz", "front.json", "firmware"


def main() -> None:
    """Train every forest, write it and simulate it."""
    import conifer
    import xgboost

    folder = Path(sys.argv[1])
    task = json.loads((folder / TASK).read_text())
    events = np.load(folder / EVENTS, allow_pickle=False)
    train = xgboost.DMatrix(events["train_words"], label=events["train_labels"])
    words, labels = events["judge_words"], events["judge_labels"]
    conifer.backends.vhdl.simulators.set_simulator("ghdl")
    rows = []
    for number, forest in enumerate(task["forests"]):
        settings = {
            "objective": "multi:softprob",
            "num_class": task["classes"],
            "max_depth": forest["depth"],
            "eta": task["rate"],
            "seed": task["seed"],
            # the same for every class: it decides nothing, and conifer 1.11 does not know it
            "base_score": 0.0,
            "nthread": 1,
        }
        trees = xgboost.train(settings, train, forest["trees"])
        config = conifer.backends.vhdl.auto_config()
        config |= {"OutputDir": str(folder / str(number)), "ProjectName": "trees", "Precision": task["format"]}
        model = conifer.converters.convert_from_xgboost(trees, config)
        model.write()
        if not model.compile():
            msg = f"GHDL did not compile forest {number}"
            raise RuntimeError(msg)
        simulated = model.decision_function(words)
        computed = trees.predict(xgboost.DMatrix(words), output_margin=True)
        share = lambda scores: float(np.mean(scores.argmax(axis=1) == labels))
        rows.append({**forest, "accuracy": share(simulated), "xgboost": share(computed)})
    (folder / FRONT).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
