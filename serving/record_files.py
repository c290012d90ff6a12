"""The Parquet files of records: a row per text that a model was asked about, in a folder per day.

    records/date=2026-11-28/20261128T101500Z-4711-5f2a-0003.parquet

A part is written whole beside its place and renamed, so a crash loses at most the part that was still in memory. What
is older than its days, or more than its bytes, goes oldest first.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertline.errors import UserError

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),  # when the request came
        ("id", pa.string()),  # the request's id; with several texts ID-0, ID-1 ... in the order of the request
        ("model", pa.string()),
        ("version", pa.int64()),  # null where no version answered
        ("signature", pa.string()),
        ("status", pa.string()),  # gRPC's code of the answer: OK, INVALID_ARGUMENT ...
        ("milliseconds", pa.float32()),  # from the request's arrival to its answer
        ("label", pa.string()),  # null of a multi-label model, and where there is no answer
        ("labels", pa.list_(pa.string())),  # of a multi-label model
        ("classes", pa.list_(pa.string())),  # the labels in the order of the probabilities
        ("probabilities", pa.list_(pa.float32())),
        ("abstained", pa.bool_()),
        ("characters", pa.int32()),  # of the text, those of its pair among them
        ("pieces", pa.int32()),  # that the model reads, [CLS] and [SEP] among them
        ("unknown", pa.int32()),  # of them, those that its vocabulary lacks
        ("embedding", pa.list_(pa.float16())),  # the text's vector, from which the model's head answers
        ("text", pa.string()),  # masked; null unless the texts are kept
        ("text_pair", pa.string()),
        ("columns", pa.map_(pa.string(), pa.string())),  # what came with the text, masked
    ]
)
DAY = re.compile(r"date=(2\d{3})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", re.ASCII)
PART = re.compile(r"\d{8}T\d{6}Z-\d+-[0-9a-f]{4}-\d{4,}\.parquet", re.ASCII)
UNFINISHED = re.compile(r"\..*\.parquet\.unfinished", re.ASCII)
ABANDONED_SECONDS = 3600  # an unfinished file of this age is a crash's: writing one takes a second


class Parts:
    """Writes parts into a folder of records. For one thread.

    Args:
        folder: is made where it is not there. Only its owner can read what is written.
        days: a day's folder goes this many days later.
        most_bytes: of all parts together; the newest one always stays.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, days: int, most_bytes: int):
        self._folder, self._days, self._most = folder, days, most_bytes
        self._writer = f"{os.getpid()}-{secrets.token_hex(2)}"
        self._number = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise UserError(f"{folder}: no records can be written there: {error.strerror}. Name another.") from error
        if not writable:
            raise UserError(f"{folder}: no records can be written there: permission denied. Name another folder.")

    def write(self, rows: dict[str, list[Any]]) -> Path:
        """Writes rows, one list per column of SCHEMA, as one part.

        The part lies in the folder of the day on which it is written, in UTC.

        Raises:
            OSError: the disk is full, or gone. Nothing of the part is left then.
        """
        now = time.gmtime()
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{self._writer}-{self._number:04d}.parquet"
        place = self._folder / time.strftime("date=%Y-%m-%d", now) / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden = place.with_name(f".{name}.unfinished")
        try:
            with open(os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                pq.write_table(_table(rows), file, compression="zstd")
            hidden.rename(place)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
        self._number += 1
        return place

    def prune(self) -> None:
        """Drops days that are over, the oldest parts beyond the bytes, and what a crash left unfinished.

        Raises:
            OSError: the folder cannot be read.
        """
        today = datetime.datetime.now(datetime.UTC).date()
        kept = []
        for day, part in parts(self._folder):
            if (today - day).days > self._days:
                _remove(part)
            elif (size := _size(part)) is not None:
                kept.append((part, size))
        total = sum(size for _, size in kept)
        for part, size in kept[:-1]:
            if total <= self._most:
                break
            _remove(part)
            total -= size
        for _, folder in days(self._folder):
            for left in folder.iterdir():
                if UNFINISHED.fullmatch(left.name) and _age(left) > ABANDONED_SECONDS:
                    left.unlink(missing_ok=True)


def days(folder: Path) -> Iterator[tuple[datetime.date, Path]]:
    """The days' folders, the oldest first; none where there is no folder of records."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (match := DAY.fullmatch(path.name)) and path.is_dir():
            yield datetime.date(*map(int, match.groups())), path


def parts(folder: Path) -> Iterator[tuple[datetime.date, Path]]:
    """The day and the path of each part, the oldest first."""
    for day, path in days(folder):
        for part in sorted(path.iterdir()):
            if PART.fullmatch(part.name):
                yield day, part


def _size(part: Path) -> int | None:
    """Bytes of a part; None where another process has just removed it."""
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return None


def _age(left: Path) -> float:
    """Seconds since a file was last written; 0 where it has just gone."""
    try:
        return time.time() - left.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(part: Path) -> None:
    """Removes a part, and its day's folder with the last one. Another process may do so at the same time."""
    part.unlink(missing_ok=True)
    try:
        part.parent.rmdir()
    except OSError:  # it is not empty, or gone
        return


def _table(rows: dict[str, list[Any]]) -> pa.Table:
    arrays = [
        _embeddings(rows[field.name]) if field.name == "embedding" else pa.array(rows[field.name], field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _embeddings(vectors: list[np.ndarray | None]) -> pa.ListArray:
    """float16 vectors, each [hidden] or None, as an Arrow column without a Python number per value."""
    lengths = [0 if vector is None else len(vector) for vector in vectors]
    there = [vector for vector in vectors if vector is not None]
    values = np.concatenate(there).astype(np.float16, copy=False) if there else np.zeros(0, np.float16)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32))
    mask = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.array(values), mask=mask)
