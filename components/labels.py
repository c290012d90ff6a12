"""The label names in their stable order: a file beside the Examples, and beside the graph that makes them indices."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tfx.dsl.io import fileio

from bertline.errors import UserError

LABELS_FILE = "labels.txt"


def write_labels(folder: str, labels: Iterable[str]) -> None:
    """Writes LABELS_FILE into a folder, local or remote: a JSON string per line."""
    with fileio.open(f"{folder}/{LABELS_FILE}", "w") as file:
        file.write("".join(json.dumps(label, ensure_ascii=False) + "\n" for label in labels))


def read_labels(folder: str | Path) -> list[str]:
    """Label names in their order, from the LABELS_FILE of an Examples or TransformGraph artifact.

    Raises:
        UserError: there is no such file, or it names fewer than two labels.
    """
    path = f"{folder}/{LABELS_FILE}"
    if not fileio.exists(path):
        raise UserError(f"{path}: missing; ingestion writes it. Remove this artifact's folder and run again.")
    with fileio.open(path, "r") as file:
        lines = file.read().split("\n")
    labels = [json.loads(line) for line in lines if line]
    if len(labels) < 2:
        raise UserError(f"{path}: a classifier needs at least two labels, this file names {labels}. Run again.")
    return labels
