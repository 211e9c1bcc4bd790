"""What of a trained network becomes logic: a function of the words of one event, and the file that it is kept in."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from diffhep.io import read_json
from diffhep.trigger.anomaly import AnomalyTrigger
from diffhep.trigger.learned_classifier import LearnedClassifier
from diffhep.trigger.learned_tables import SCHEMA as TABLES
from diffhep.trigger.learned_tables import TableClassifier
from diffhep.trigger.lowering import Words

CLASSIFIER, ANOMALY = "classifier.json", "anomaly.json"

Network = LearnedClassifier | TableClassifier


class Exported(NamedTuple):
    """What of a network becomes logic.

    Attributes:
        function: of the words of one event.
        network: whose words arrive.
        content: all of it as JSON.
        file: where that is kept in the folder.
    """

    function: Callable[..., Any]
    network: Network
    content: dict[str, Any]
    file: str

    @property
    def words(self) -> Words:
        """Shape and format of the words that arrive."""
        return Words((self.network.inputs,), self.network.input_format)

    @property
    def sha256(self) -> str:
        """Of all weights and formats: equal for what computes the same in the same formats."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()


def logits_of(network: Network) -> Exported:
    """A classifier, whose logits become logic."""
    return Exported(network.logits, network, network.to_dict(), CLASSIFIER)


def read_network(data: Any) -> Network:
    """The frozen network that its `to_dict` wrote.

    Raises:
        ValueError: it is none, or broken.
    """
    tables = isinstance(data, dict) and data.get("schema") == TABLES
    return TableClassifier.from_dict(data) if tables else LearnedClassifier.from_dict(data)


def read_exported(folder: str | Path) -> Exported:
    """The exported classifier or anomaly trigger of a folder, frozen.

    Raises:
        ValueError: the folder holds none, or its file is broken.
    """
    folder = Path(folder)
    if (folder / ANOMALY).is_file():
        return decision_of(AnomalyTrigger.from_dict(read_json(folder / ANOMALY)))
    file = folder / CLASSIFIER
    if not file.is_file():
        msg = f"{folder}: holds no trained trigger, it has no {CLASSIFIER}"
        raise ValueError(msg)
    return logits_of(read_network(read_json(file)))


def decision_of(trigger: AnomalyTrigger) -> Exported:
    """An anomaly trigger, whose score and decision become logic."""
    return Exported(trigger.decision, trigger.encoder, trigger.to_dict(), ANOMALY)
