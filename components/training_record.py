"""What the Trainer leaves in its ModelRun beside TensorBoard's files: the history, and the validation rows' logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertline.models.features import LABEL
from bertline.serving import storage

if TYPE_CHECKING:
    from bertline.models.history import History

HISTORY_FILE = "training.json"
VALIDATION_FILE = "logits-validation.parquet"
LOGITS = "logits"


@dataclass(frozen=True)
class ValidationLogits:
    """What the trained weights give for the validation rows, before any temperature.

    Attributes:
        labels: the true labels' names, in the order of the split; of multi-label rows a list each.
        logits: float32 [rows, labels].
    """

    labels: list[str] | list[list[str]]
    logits: np.ndarray


def write_history(folder: str, members: Sequence[History]) -> None:
    """Writes training.json.

    Args:
        folder: of the ModelRun.
        members: the history of each member of an ensemble; the only one where there is none.
    """
    all_figures = [{**asdict(each), "examples_per_second": each.examples_per_second} for each in members]
    figures = {**all_figures[0], "members": all_figures}
    with storage.open_file(f"{folder}/{HISTORY_FILE}", "w") as file:
        json.dump(figures, file, indent=1)


def read_history(folder: str) -> dict[str, Any]:
    """The fields of bertline.models.history.History, and `examples_per_second`.

    Of an ensemble they are those of its first member; `members` has them of each. A model of one training has one.
    """
    with storage.open_file(f"{folder}/{HISTORY_FILE}", "r") as file:
        figures = json.load(file)
    return {"members": [figures], **figures}  # an earlier bertline knew no members


def write_logits(folder: str, validation: ValidationLogits) -> None:
    """Writes the logits as Parquet, one validation row per row."""
    table = pa.table({LABEL: validation.labels, LOGITS: list(validation.logits.astype(np.float32))})
    with storage.open_file(f"{folder}/{VALIDATION_FILE}", "wb") as file:
        pq.write_table(table, file)


def read_logits(folder: str) -> ValidationLogits:
    """Reads what `write_logits` wrote."""
    with storage.open_file(f"{folder}/{VALIDATION_FILE}", "rb") as file:
        table = pq.read_table(file)
    logits = table[LOGITS].combine_chunks().flatten().to_numpy(zero_copy_only=False)  # no Python object per number
    return ValidationLogits(table[LABEL].to_pylist(), logits.reshape(table.num_rows, -1))
