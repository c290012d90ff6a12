"""A window of records: what was asked and answered between two moments, in arrays.

A million records take some 60 MB here: labels and probabilities become two numbers each while a part is read. Texts
and vectors stay in their files until somebody asks for those of a few rows.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertline.errors import UserError
from bertline.serving import record_files

LIGHT = (
    *("time", "version", "model", "status", "milliseconds", "label", "labels", "classes", "probabilities"),
    *("abstained", "characters", "pieces", "unknown", "columns"),
)


@dataclass(frozen=True)
class Window:
    """The records of one model between two moments, those of one version as arrays.

    `rows` stands for the texts that the version answered.

    Attributes:
        start: of the window, UTC.
        end: of it; a record at this very moment belongs to the next window.
        model: its name.
        version: whose answers the arrays hold.
        labels: int32 [rows], index of the label among the classes; of a multi-label model bool [rows, classes].
        confidence: float32 [rows], the probability of the answer; of a multi-label model that of exactly its labels, as
            far as labels are independent.
        abstained: float32 [rows], 1 or 0, NaN where it is unknown, as in the next three.
        characters: float32 [rows].
        pieces: float32 [rows].
        unknown: float32 [rows], share of the wordpieces that the vocabulary lacks.
        milliseconds: float32 [rows].
        columns: a kept column -> its values -> rows.
        statuses: gRPC's code -> texts, of all versions.
        versions: version -> texts answered.
        parts: the files.
        places: int32 [rows, 2], each row's file and its place in it.
    """

    start: datetime.datetime
    end: datetime.datetime
    model: str
    version: int
    labels: np.ndarray
    confidence: np.ndarray
    abstained: np.ndarray
    characters: np.ndarray
    pieces: np.ndarray
    unknown: np.ndarray
    milliseconds: np.ndarray
    columns: dict[str, Counter[str]]
    statuses: Counter[str]
    versions: Counter[int]
    parts: list[Path]
    places: np.ndarray

    @property
    def rows(self) -> int:
        """Texts that the version answered."""
        return len(self.confidence)

    @property
    def failed(self) -> int:
        """Requests without an answer, of whatever version."""
        return self.statuses.total() - self.statuses["OK"]

    def find(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """The rows of some records, int [found], and the id of each; an id that is not in the window is left out."""
        rows, found = [], []
        wanted = pa.array(ids, pa.string())
        for number, path in enumerate(self.parts if len(ids) else []):
            inside = np.flatnonzero(self.places[:, 0] == number)
            column = _again(path, ["id"])["id"].take(pa.array(self.places[inside, 1]))
            held = pc.is_in(column, wanted).to_numpy(zero_copy_only=False)
            rows += inside[held].tolist()
            found += column.filter(pa.array(held)).to_pylist()
        return np.array(rows, np.int64), found

    def read(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Columns of some rows, int [chosen], in that order; heavy ones such as text and embedding among them."""
        order = np.lexsort((self.places[rows, 1], self.places[rows, 0]))
        tables = []
        for number in np.unique(self.places[rows, 0]):
            inside = self.places[rows][order]
            taken = inside[inside[:, 0] == number, 1]
            tables.append(_again(self.parts[number], list(columns)).take(pa.array(taken)))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(tables).take(pa.array(back))


def _again(part: Path, columns: list[str]) -> pa.Table:
    """Columns of a part that was read before."""
    try:
        return pq.ParquetFile(part).read(columns=columns)
    except FileNotFoundError:
        raise UserError(f"{part} has just been removed (serve.log.days or max_size): call the command again.") from None


@dataclass
class Reading:
    """What reading a folder met.

    Attributes:
        damaged: the parts that cannot be read, each with the reason. They are left where they are.
        ahead: parts of days that are yet to come.
    """

    damaged: dict[Path, str] = field(default_factory=dict)
    ahead: list[Path] = field(default_factory=list)

    def words(self, folder: Path) -> list[str]:
        """What a person should know of it."""
        said = [
            f"{path.relative_to(folder)} cannot be read and is left out: {reason}"
            for path, reason in sorted(self.damaged.items())
        ]
        if self.ahead:
            said.append(
                f"{len(self.ahead)} files are of days to come, {self.ahead[0].parent.name} the first: the server's "
                "clock was ahead. They count once their time has come."
            )
        return said


class Records:
    """The records below a folder.

    Args:
        folder: as `serve.log` has it.
        model: whose records count.
        classes: the model's labels, in the order of its probabilities.

    Attributes:
        reading: what reading met so far.
    """

    def __init__(self, folder: Path, model: str, classes: Sequence[str]):
        self._folder, self._model, self._classes = folder, model, list(classes)
        self._spans: dict[Path, tuple[datetime.datetime, datetime.datetime] | None] = {}
        self.reading = Reading()

    def window(self, start: datetime.datetime, end: datetime.datetime, version: int) -> Window:
        """The window of a version between two moments, UTC."""
        parts, pieces = [], []
        for path, table in self._tables(start, end):
            parts.append(path)
            pieces.append(_reduced(table, self._classes, version, len(parts) - 1))
        return _window(start, end, self._model, version, parts, pieces, len(self._classes))

    def _tables(self, start: datetime.datetime, end: datetime.datetime) -> Iterator[tuple[Path, pa.Table]]:
        """The parts with records in a window; a column `row` tells each record's place."""
        today = datetime.datetime.now(datetime.UTC).date()
        # A part lies in the folder of the day on which it was written, which may be the day after.
        last = end.date() + datetime.timedelta(days=1)
        for day, path in record_files.parts(self._folder):
            if day > today and path not in self.reading.ahead:
                self.reading.ahead.append(path)
            if not start.date() <= day <= last or path in self.reading.damaged:
                continue
            try:
                first, last_of_part = self._span(path) or (start, start)
                if last_of_part < start or first >= end:
                    continue
                table = pq.ParquetFile(path).read(columns=list(LIGHT))
            except FileNotFoundError:  # its days were over since it was listed
                continue
            except (pa.ArrowInvalid, OSError) as error:
                self.reading.damaged[path] = str(error).partition(". ")[0]
                continue
            table = table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))
            inside = pc.and_(
                pc.equal(table["model"], self._model),
                pc.and_(pc.greater_equal(table["time"], _time(start)), pc.less(table["time"], _time(end))),
            )
            table = table.filter(inside)
            if len(table):
                yield path, table

    def _span(self, path: Path) -> tuple[datetime.datetime, datetime.datetime] | None:
        """When a part's first and last request came, by its footer alone; None where that does not say it.

        Of the windows that are read one after the other, most parts lie in one.

        Raises:
            OSError: the file is gone, or damaged (ArrowInvalid).
        """
        if path not in self._spans:
            metadata = pq.ParquetFile(path).metadata
            column = metadata.schema.names.index("time") if "time" in metadata.schema.names else None
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            told = [group.column(column).statistics for group in groups] if column is not None else []
            known = bool(told) and all(each is not None and each.has_min_max for each in told)
            self._spans[path] = (min(each.min for each in told), max(each.max for each in told)) if known else None
        return self._spans[path]


def _time(moment: datetime.datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", "UTC"))


def _reduced(table: pa.Table, classes: list[str], version: int, part: int) -> dict[str, object]:
    """A part's records in arrays."""
    statuses = Counter(dict(zip(*_counted(table["status"]), strict=True)))
    answered = pc.and_(pc.equal(table["status"], "OK"), pc.list_value_length(table["classes"]).is_valid())
    table = table.filter(answered)
    versions = Counter(dict(zip(*_counted(table["version"]), strict=True)))
    table = table.filter(pc.fill_null(pc.equal(table["version"], version), False))
    labels, confidence = _answers(table, classes)
    pieces = _floats(table["pieces"])
    return {
        "labels": labels,
        "confidence": confidence,
        "abstained": _floats(table["abstained"].cast(pa.int8())),
        "characters": _floats(table["characters"]),
        "pieces": pieces,
        "unknown": _floats(table["unknown"]) / np.maximum(pieces, 1),
        "milliseconds": _floats(table["milliseconds"]),
        "columns": _columns(table["columns"]),
        "statuses": statuses,
        "versions": versions,
        "places": np.stack([np.full(len(table), part, np.int32), table["row"].to_numpy()], axis=1),
    }


def _counted(column: pa.ChunkedArray) -> tuple[list, list[int]]:
    counts = pc.value_counts(column)
    return counts.field(0).to_pylist(), counts.field(1).to_pylist()


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """float32 [rows], NaN for null."""
    return column.cast(pa.float32()).to_numpy()


def _answers(table: pa.Table, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence, as Window has them."""
    table = table.combine_chunks()
    scores = pc.list_flatten(table["probabilities"]).to_numpy().reshape(len(table), len(classes))
    if table["labels"].null_count == len(table):
        index = pc.index_in(table["label"], pa.array(classes)).to_numpy()
        return index.astype(np.int32), scores[np.arange(len(table)), index.astype(np.int64)]
    held = np.zeros(scores.shape, bool)
    names = pc.index_in(pc.list_flatten(table["labels"]), pa.array(classes)).to_numpy()
    held[pc.list_parent_indices(table["labels"]).to_numpy(), names] = True
    return held, np.where(held, scores, 1 - scores).prod(-1)


def _columns(column: pa.ChunkedArray) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for pairs in column.to_pylist() if column.null_count < len(column) else []:
        for name, value in pairs or ():
            counts.setdefault(name, Counter())[value] += 1
    return counts


def _window(
    start: datetime.datetime,
    end: datetime.datetime,
    model: str,
    version: int,
    parts: list[Path],
    pieces: list[dict],
    classes: int,
) -> Window:
    empty = _reduced(record_files.SCHEMA.empty_table().append_column("row", pa.array([], pa.int32())), [""], version, 0)
    if not pieces:
        return Window(start, end, model, version, **empty, parts=parts)
    joined = {}
    for name, first in empty.items():
        if isinstance(first, np.ndarray):
            joined[name] = np.concatenate([piece[name] for piece in pieces])
        elif name == "columns":
            joined[name] = {
                column: sum((piece["columns"].get(column, Counter()) for piece in pieces), Counter())
                for column in sorted({column for piece in pieces for column in piece["columns"]})
            }
        else:
            joined[name] = sum((piece[name] for piece in pieces), Counter())
    return Window(start, end, model, version, **joined, parts=parts)
