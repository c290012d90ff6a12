"""Joins the answered parts: one output in the order of the rows, and the rows without an answer beside it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertline.components import spreadsheet
from bertline.components.scoring import parts
from bertline.components.scoring.cut import Sources
from bertline.components.scoring.parts import Parts
from bertline.errors import UserError

PROBABILITY_OF = "probability_"  # begins the column of a label's probability, in tables
INPUT = "input_"  # comes before the name of a column of the files that is called like one of the answers'
ROWS_PER_GROUP = 65_536  # of a Parquet file; more would only take memory
LABEL = "label"  # the column of the one label; a multi-label model has parts.LABELS in its place
ANSWER_COLUMNS = (parts.FILE, parts.ROW, LABEL, parts.LABELS, parts.PROBABILITY, parts.PROBABILITIES, parts.ABSTAINED)


class Totals(NamedTuple):
    """What became of the rows."""

    rows: int
    labels: dict[str, int]  # the answers, the most frequent first
    abstained: int
    quarantined: dict[str, int]  # by reason
    guarded: int  # cells of a CSV file that got an apostrophe
    renamed: dict[str, str]  # columns of the files that have another name in the output

    @property
    def scored(self) -> int:
        """Rows in the output."""
        return self.rows - sum(self.quarantined.values())


def check(output: Path) -> str:
    """The format of an output, its ending.

    Raises:
        UserError: there is none for this ending.
    """
    if output.suffix.lower() not in WRITERS:
        raise UserError(f"{output}: the ending says the format: {', '.join(WRITERS)}. Choose one of them.")
    return output.suffix.lower()


def renamed(columns: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The files' columns -> their names in the output. Those of the answers are always the same."""
    taken = {*ANSWER_COLUMNS, *(f"{PROBABILITY_OF}{name}" for name in classes)}
    names = {}
    for column in columns:
        name = column
        while name in taken:
            name = f"{INPUT}{name}"
        names[column] = name
        taken.add(name)
    return names


def join(
    job: Parts,
    count: int,
    scored: Sources,
    output: Path,
    *,
    probabilities: bool,
    guard: bool,
    progress: Callable[[int], None],
) -> Totals:
    """Writes the output and the quarantine, whole or not at all.

    Args:
        job: with the answers to all parts.
        count: of parts.
        scored: the files.
        output: ends in one of WRITERS; replaced if it is there.
        probabilities: whether to write those of all labels.
        guard: whether a CSV file is written so that no spreadsheet runs a cell.
        progress: is told how many rows are written.
    """
    layout = _layout(job, count, scored, probabilities)
    files = pa.array([source.file.name for source in scored.files], pa.string())
    labels: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    rows = abstained = 0
    with ExitStack() as stack:
        streams = []
        for name in (parts.REFUSED_FILE, parts.WHOLE_FILE):
            unfinished = stack.enter_context(job.writing(f"{job.folder}/{name}"))
            streams.append(stack.enter_context(open(unfinished, "wb")))
        refused = _Quarantine(streams[0])
        writer = WRITERS[check(output)](streams[1], layout, guard)
        for part in range(count):
            table = job.read(parts.ANSWERS, part)
            good = pc.is_null(table[parts.REASON])
            answered, others = table.filter(good), table.filter(pc.invert(good))
            refused.write(others, files)
            writer.write(layout.table(answered, files))
            rows += table.num_rows
            labels.update(pc.list_flatten(answered[parts.LABELS]).to_pylist())
            quarantined.update(others[parts.REASON].to_pylist())
            abstained += pc.sum(answered[parts.ABSTAINED]).as_py() or 0
            progress(rows)
        refused.close()
        writer.close()
    _publish(job, output, bool(quarantined))
    other_names = {old: new for old, new in layout.names.items() if old != new}
    reasons = dict(quarantined.most_common())
    return Totals(rows, dict(labels.most_common()), abstained, reasons, writer.guarded, other_names)


# === Whole or not at all ===


def _publish(job: Parts, output: Path, any_refused: bool) -> None:
    """Gives the files their names; the output's comes last."""
    job.write_json(parts.PUBLISHED_FILE, {"output": str(output)})
    quarantine = parts.quarantine_of(output)
    if any_refused:
        os.replace(f"{job.folder}/{parts.REFUSED_FILE}", quarantine)
    else:
        quarantine.unlink(missing_ok=True)
    os.replace(f"{job.folder}/{parts.WHOLE_FILE}", output)


# === Columns ===


class Layout(NamedTuple):
    """The columns of an output.

    Attributes:
        names: the files' columns -> their names here.
        classes: names of the labels in the order of the probabilities.
        multi_label: whether a row has any number of labels.
        probabilities: whether there is a column for each label's.
        separator: stands between labels in a cell of a CSV file; None writes a list in JSON.
    """

    names: dict[str, str]
    classes: list[str]
    multi_label: bool
    probabilities: bool
    separator: str | None

    @property
    def schema(self) -> pa.Schema:
        """The columns with their types."""
        fields = [(name, pa.large_string()) for name in self.names.values()]
        fields += [(parts.FILE, pa.string()), (parts.ROW, pa.int64())]
        if self.multi_label:
            fields += [(parts.LABELS, pa.list_(pa.string()))]
        else:
            fields += [(LABEL, pa.string()), (parts.PROBABILITY, pa.float32())]
        if self.probabilities:
            fields += [(f"{PROBABILITY_OF}{name}", pa.float32()) for name in self.classes]
        return pa.schema(fields if self.multi_label else [*fields, (parts.ABSTAINED, pa.bool_())])

    def table(self, answered: pa.Table, files: pa.Array) -> pa.Table:
        """A part's answered rows as the output has them; `files` are the files' names."""
        columns = [answered[parts.column(place)] for place in range(len(self.names))]
        columns += [files.take(answered[parts.FILE].combine_chunks()), answered[parts.ROW]]
        labels = answered[parts.LABELS]
        columns += [labels] if self.multi_label else [pc.list_element(labels, 0), answered[parts.PROBABILITY]]
        if self.probabilities:
            columns += [pc.list_element(answered[parts.PROBABILITIES], place) for place in range(len(self.classes))]
        columns += [] if self.multi_label else [answered[parts.ABSTAINED]]
        return pa.table(columns, schema=self.schema)


def _layout(job: Parts, count: int, scored: Sources, probabilities: bool) -> Layout:
    """By the first part with an answer, which says what the model's labels are."""
    classes, multi_label = [], False
    for part in range(count):
        metadata = pq.read_schema(job.path(parts.ANSWERS, part)).metadata
        if classes := json.loads(metadata[parts.CLASSES]):
            multi_label = json.loads(metadata[parts.MULTI_LABEL])
            break
    several = scored.options.multi_label
    separator = several.separator if several else None
    return Layout(renamed(scored.columns, classes), classes, multi_label, probabilities, separator)


# === Files ===


class Writer(Protocol):
    """Writes tables into a stream. `guarded` counts the cells that are not as they were."""

    guarded: int

    def __init__(self, stream: BinaryIO, layout: Layout, guard: bool): ...

    def write(self, table: pa.Table) -> None:
        """Adds rows."""

    def close(self) -> None:
        """Writes what is left. The stream stays open."""


class _Parquet(Writer):
    """Row groups of ROWS_PER_GROUP, so that the memory does not grow with the file."""

    def __init__(self, stream: BinaryIO, layout: Layout, guard: bool):
        self.guarded = 0
        self._writer = pq.ParquetWriter(stream, layout.schema)
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(waiting.num_rows for waiting in self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=2 * ROWS_PER_GROUP)
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _Csv(Writer):
    """UTF-8, RFC 4180's quoting. A number is never guarded: -3.5 is no formula."""

    def __init__(self, stream: BinaryIO, layout: Layout, guard: bool):
        self.guarded, self._guard, self._separator = 0, guard, layout.separator
        self._file = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow([self._safe(name) for name in layout.schema.names])

    def write(self, table: pa.Table) -> None:
        self._rows.writerows([self._safe(cell) for cell in row] for row in _values(table))

    def _safe(self, cell: Any) -> Any:
        if isinstance(cell, bool):
            return "true" if cell else "false"
        if isinstance(cell, list):  # of labels
            cell = json.dumps(cell, ensure_ascii=False) if self._separator is None else self._separator.join(cell)
        if not self._guard or not isinstance(cell, str) or _NUMBER.fullmatch(cell):
            return cell
        guarded = spreadsheet.guarded(cell)
        self.guarded += guarded is not cell
        return guarded

    def close(self) -> None:
        self._file.flush()


_NUMBER = re.compile(r"[+-]?(\d[\d.,]*)(e[+-]?\d+)?%?", re.IGNORECASE | re.ASCII)


class _JsonLines(Writer):
    """An object per line; the probabilities are an object of their own, as `bertline predict --json` writes them."""

    def __init__(self, stream: BinaryIO, layout: Layout, guard: bool):
        self.guarded = 0
        self._file = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
        self._names = layout.schema.names
        self._probabilities = {f"{PROBABILITY_OF}{label}": label for label in layout.classes if layout.probabilities}

    def write(self, table: pa.Table) -> None:
        for row in _values(table):
            named = dict(zip(self._names, row, strict=True))
            if self._probabilities:
                of_labels = {label: named.pop(name) for name, label in self._probabilities.items()}
                abstained = {name: named.pop(name) for name in (parts.ABSTAINED,) if name in named}
                named |= {parts.PROBABILITIES: of_labels} | abstained
            self._file.write(json.dumps(named, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.flush()


def _values(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows as Python values; a probability has the seven digits that float32 tells apart."""
    columns = [
        [None if value is None else float(f"{value:.7g}") for value in column.to_pylist()]
        if pa.types.is_float32(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
    return zip(*columns, strict=True)


WRITERS: dict[str, type[Writer]] = {".parquet": _Parquet, ".csv": _Csv, ".jsonl": _JsonLines}


class _Quarantine:
    """The rows without an answer: file, row, reason, detail and the beginning of the text."""

    def __init__(self, stream: BinaryIO):
        self._file = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("file", "row", "reason", "detail", "text"))

    def write(self, table: pa.Table, files: pa.Array) -> None:
        columns = [
            table[name].to_pylist() for name in (parts.FILE, parts.ROW, parts.REASON, parts.DETAIL, parts.EXCERPT)
        ]
        for file, row, *words in zip(*columns, strict=True):
            name = spreadsheet.guarded(files[file].as_py())
            self._rows.writerow((name, row, *(spreadsheet.guarded(word) for word in words)))

    def close(self) -> None:
        self._file.flush()
