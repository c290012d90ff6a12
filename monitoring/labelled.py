"""How many answers of a version were right, of those whose labels `bertline feedback` has brought."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertline.monitoring import feedback
from bertline.serving import record_files
from bertline.serving.canary_judge import Labelled


def count(
    labels: dict[str, str], folders: Sequence[Path], model: str, since: datetime, version: int, separator: str | None
) -> Labelled:
    """The answers of a version whose right labels are known.

    Args:
        labels: the right label by the id of the answer's record.
        folders: of records.
        model: its name.
        since: when the first of the answers was asked for, UTC.
        version: that answered.
        separator: between the labels of one answer; None where each has one label.
    """
    wanted, moment = pa.array(sorted(labels), pa.string()), pa.scalar(since, pa.timestamp("us", "UTC"))
    right = answers = 0
    for folder in folders if labels else ():
        for day, part in record_files.parts(folder):
            if day < since.date():
                continue
            for row in _rows(part, wanted, moment, model, version):
                own = {row["label"]} if separator is None else set(row["labels"] or ())
                right += own == set(feedback.parts(labels[row["id"]], separator))
                answers += 1
    return Labelled(right, answers)


def _rows(part: Path, wanted: pa.Array, since: pa.Scalar, model: str, version: int) -> list[dict]:
    """The id and the labels of the answers in a file of records; none of one that is damaged, or has just gone."""
    try:
        table = pq.ParquetFile(part).read(columns=["time", "id", "model", "version", "status", "label", "labels"])
    except (pa.ArrowInvalid, OSError):  # `bertline monitor` names it
        return []
    inside = pc.and_(pc.is_in(table["id"], wanted), pc.greater_equal(table["time"], since))
    for name, value in (("model", model), ("version", version), ("status", "OK")):
        inside = pc.and_(inside, pc.fill_null(pc.equal(table[name], value), False))
    return table.filter(inside).select(["id", "label", "labels"]).to_pylist()
