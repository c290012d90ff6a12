"""The folder of a job that scores files: its parts, and which of them are answered.

    job.json                 what is scored by what; a job goes on only with the same
    rows-00000007.parquet    a part of the rows, in the order of the files, until it is answered
    answers-00000007.parquet the same rows with the model's answers
    cut.json                 the number of rows in each part, once all rows are cut

A file gets its name only once it is whole and on the disk. So the answered parts are those whose names are there,
whatever was killed and when.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertline.serving import storage

JOB_FILE, CUT_FILE = "job.json", "cut.json"
WHOLE_FILE, REFUSED_FILE = "whole", "refused"  # the joined files, before they get their names
PUBLISHED_FILE = "published.json"  # is there once both are written and only need their names
UNFINISHED = "unfinished-"  # begins the name of a file that is being written
ROWS, ANSWERS = "rows", "answers"

# === Columns of a part beside the files' own, which are called by their place: column_0 ... ===
TEXT, TEXT_PAIR = "text", "text_pair"  # not in the answers
FILE, ROW = "file", "row"  # the file's index, and the row's number in it
REASON, DETAIL, EXCERPT = "reason", "detail", "excerpt"  # of the fault for which a row has no answer; null with one
LABELS, PROBABILITY, PROBABILITIES, ABSTAINED = "labels", "probability", "probabilities", "abstained"
CLASSES = b"bertline.classes"  # in the answers' metadata: names of the labels in the order of the probabilities
MULTI_LABEL = b"bertline.multi_label"  # in the answers' metadata: whether a row has any number of labels


def quarantine_of(output: Path) -> Path:
    """The file of the rows without an answer, beside the output."""
    return output.with_name(f"{output.name}.quarantine.csv")


def column(place: int) -> str:
    """The name in a part of a column of the files."""
    return f"column_{place}"


class Parts:
    """A job's folder, which all workers see.

    Args:
        folder: absolute path.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def path(self, kind: str, part: int) -> str:
        """Where a part's rows or answers are."""
        return f"{self.folder}/{kind}-{part:08d}.parquet"

    def has(self, kind: str, part: int) -> bool:
        """Whether they are there."""
        return os.path.exists(self.path(kind, part))

    def answered(self) -> set[int]:
        """The numbers of the answered parts."""
        names = (re.fullmatch(rf"{ANSWERS}-(\d+)\.parquet", name) for name in os.listdir(self.folder))
        return {int(match[1]) for match in names if match}

    def read(self, kind: str, part: int) -> pa.Table:
        """A part's rows or answers."""
        return pq.read_table(self.path(kind, part), partitioning=None)

    def write(self, kind: str, part: int, table: pa.Table) -> None:
        """Writes a part's rows or answers."""
        with self.writing(self.path(kind, part)) as unfinished:
            pq.write_table(table, unfinished)

    def forget_rows(self, part: int) -> None:
        """Removes the rows of an answered part."""
        Path(self.path(ROWS, part)).unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Writes one of the job's own files."""
        with self.writing(f"{self.folder}/{name}") as unfinished:
            Path(unfinished).write_text(json.dumps(value, indent=1), encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote; None where it has not."""
        path = Path(self.folder, name)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """A path to write to for the length of a block. Then the file is on the disk, and called `path`."""
        unfinished = f"{self.folder}/{UNFINISHED}{uuid.uuid4().hex}"
        yield unfinished
        storage.sync(Path(unfinished))
        os.replace(unfinished, path)

    def is_published(self) -> bool:
        """Whether the output has its name already, and the job was killed before its folder was removed."""
        return self.read_json(PUBLISHED_FILE) is not None and not Path(self.folder, WHOLE_FILE).exists()

    def tidy(self) -> None:
        """Removes what killed processes had begun to write. Only the holder of the job may call it."""
        for path in Path(self.folder).glob(f"{UNFINISHED}*"):
            path.unlink()
