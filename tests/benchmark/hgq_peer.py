"""HGQ2, in an environment of its own (`hgq.txt`): training under a rising price of EBOPs, and the front as logic.

Started as `python -m tests.benchmark.hgq_peer FOLDER`. The folder holds `task.json` (`Task`) and `events.npz` (words
and labels of the events to train on, to choose by and to judge by); what comes into it is `front.json` (accuracies and
EBOPs of each network, seconds a step) and a file of da4ml's logic for each network.

Formats are those of HGQ2's documentation: a number of bits for every weight (kbi, SAT_SYM, RND) and for every word
between two layers (kif, WRAP, RND).
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TASK, EVENTS, FRONT = "task.json", "events.npz", "front.json"
# EBOPs of what is synthesised: larger logic takes minutes each, and no trigger has it. Those of tables count lookups
EBOPS = {"dense": (500.0, 20_000.0), "tables": (100.0, 8000.0)}


class Task(NamedTuple):
    """What is trained.

    Attributes:
        kind: layers of `EBOPS`.
        hidden: widths of the hidden layers.
        outputs: number of classes.
        seed: of the weights and the batches.
        batch: events a step.
        rate: step size of Adam, before the ramp.
        fall: what it has fallen to at the end of the ramp.
        warm_up, ramp: epochs without a price, and of rising price.
        first_price, last_price: of an EBOP, geometric in between [nat].
        members: networks of the front that become logic, at most.
        inputs: signed, integer and fractional bits of the words that arrive.
    """

    kind: str
    hidden: tuple[int, ...]
    outputs: int
    seed: int
    batch: int
    rate: float
    fall: float
    warm_up: int
    ramp: int
    first_price: float
    last_price: float
    members: int
    inputs: tuple[int, int, int]

    def price(self, epoch: int) -> float:
        """Price of an EBOP in an epoch."""
        if epoch < self.warm_up:
            return 0.0
        return self.first_price * (self.last_price / self.first_price) ** self.done(epoch)

    def step_size(self, epoch: int) -> float:
        """Of Adam in an epoch."""
        return self.rate * self.fall ** self.done(epoch)

    def done(self, epoch: int) -> float:
        """Share of the ramp that is done when an epoch begins."""
        return max(0.0, (epoch - self.warm_up) / max(self.ramp - 1, 1))


def spaced(front: list[dict[str, Any]], most: int, sizes: tuple[float, float]) -> list[dict[str, Any]]:
    """At most so many networks of a front, evenly in the logarithm of their size, within two of them."""
    front = sorted((row for row in front if sizes[0] <= row["cost"] <= sizes[1]), key=lambda row: row["cost"])
    there = np.log([row["cost"] for row in front])
    wanted = np.linspace(there[0], there[-1], most)
    return [front[i] for i in sorted({int(np.argmin(np.abs(there - size))) for size in wanted})]


def best_of_each_size(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The networks that no smaller one beats."""
    front, best = [], -1.0
    for row in sorted(found, key=lambda row: (row["cost"], -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            front.append(row)
    return front


def model_of(task: Task, features: int) -> Any:
    """The network."""
    import keras
    from hgq.config import LayerConfigScope, QuantizerConfigScope
    from hgq.layers import QDense
    from hgq.layers.table import QDenseT

    with (
        # to begin with 5 fractional bits of the weights and 4 of the words, as ours
        QuantizerConfigScope(q_type="kbi", place="weight", overflow_mode="SAT_SYM", round_mode="RND", b0=7, i0=2),
        QuantizerConfigScope(q_type="kif", place="datalane", overflow_mode="WRAP", round_mode="RND", f0=4),
        LayerConfigScope(enable_ebops=True, beta0=0.0),
    ):
        if task.kind == "tables":
            layers = [QDenseT(width, batch_norm=True) for width in (*task.hidden, task.outputs)]
        else:
            layers = [*(QDense(width, activation="relu") for width in task.hidden), QDense(task.outputs)]
        model = keras.Sequential([keras.layers.Input((features,)), *layers])
    model.compile(
        optimizer=keras.optimizers.Adam(task.rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    return model


def main() -> None:
    """Train, choose, and write."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from da4ml.converter import trace_model
    from da4ml.trace import comb_trace
    from hgq.utils import trace_minmax
    from hgq.utils.sugar import BetaScheduler, Dataset, FreeEBOPs

    folder = Path(sys.argv[1])
    given = json.loads((folder / TASK).read_text())
    task = Task(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    with np.load(folder / EVENTS, allow_pickle=False) as file:
        data = {part: (file[f"{part}_words"], file[f"{part}_labels"]) for part in ("train", "choose", "judge")}
    keras.utils.set_random_seed(task.seed)
    random.seed(task.seed)
    model = model_of(task, data["train"][0].shape[1])
    found: list[dict[str, Any]] = []
    seconds: list[float] = []

    class Keep(keras.callbacks.Callback):
        """Keeps the weights of every epoch, and its time."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        # before the validation, which is no training
        def on_test_begin(self, logs: Any = None) -> None:
            seconds.append(time.perf_counter() - self.began)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            row = {"accuracy": float(logs["val_accuracy"]), "cost": float(logs["ebops"])}
            if row["cost"] > 0:
                found.append({**row, "weights": self.model.get_weights()})

    steps = len(data["train"][1]) // task.batch
    model.fit(
        Dataset(*data["train"], batch_size=task.batch, device="cpu:0", shuffle=True, drop_last=True),
        epochs=task.warm_up + task.ramp,
        validation_data=Dataset(*data["choose"], batch_size=5000, device="cpu:0"),
        callbacks=[
            FreeEBOPs(),
            BetaScheduler(task.price),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: float(task.step_size(epoch))),
            Keep(),
        ],
        verbose=0,
    )
    rows = []
    for number, one in enumerate(spaced(best_of_each_size(found), task.members, EBOPS[task.kind])):
        model.set_weights(one["weights"])
        # words that wrap get the ranges of the training events, as hardware has them
        ebops = trace_minmax(model, data["train"][0], batch_size=10_000)
        right = lambda part: float(np.mean(model.predict(data[part][0], 10_000, 0).argmax(1) == data[part][1]))
        inputs, outputs = trace_model(model, inputs_kif=task.inputs)
        logic = comb_trace(inputs, outputs)
        logic.save(folder / f"{number}.json")
        rows.append({"accuracy": right("judge"), "chosen_by": right("choose"), "ebops": float(ebops)})
    per_step = float(np.median(seconds[2:])) / steps
    (folder / FRONT).write_text(json.dumps({"front": rows, "seconds_per_step": per_step}, indent=1) + "\n")


if __name__ == "__main__":
    main()
