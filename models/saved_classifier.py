"""classifier.json: what a trained classifier's folder says of it, whatever its network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertline.errors import UserError

CONFIG, WEIGHTS = "classifier.json", "classifier.weights.h5"
BERT = "bert"  # the only network that earlier bertlines knew, and did not write down


def write(folder: Path, network: str, labels: Sequence[str], *, multi_label: bool, **values: Any) -> None:
    """Writes it.

    Args:
        folder: is made where it is missing.
        network: the kind of network that the weights are of.
        labels: names in the order of the logits.
        multi_label: whether a row has any number of labels.
        values: what else the network needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {"network": network, "labels": list(labels), "multi_label": multi_label, **values}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def read(folder: Path, network: str) -> dict[str, Any]:
    """Reads it.

    Raises:
        UserError: the folder holds no saved classifier, or one of another network.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: holds no {CONFIG}; expected a folder written by the Trainer")
    saved = json.loads((folder / CONFIG).read_text())
    kind = saved.get("network", BERT)
    if kind != network:
        raise UserError(f"its weights are of a network {kind!r}, and model.family makes a network {network!r}")
    return saved


def check_labels(saved: dict[str, Any], labels: Sequence[str], *, multi_label: bool) -> None:
    """Raises UserError where a saved classifier has other labels, or another number of them per row."""
    if saved["labels"] != list(labels):
        raise UserError(f"it knows the labels {', '.join(saved['labels'])}, and the data have {', '.join(labels)}")
    if saved.get("multi_label", False) != multi_label:
        kinds = {False: "one label per row", True: "several labels per row"}
        raise UserError(f"it gives {kinds[not multi_label]}, and the data have {kinds[multi_label]}")
