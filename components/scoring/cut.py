"""Cuts the rows of files into parts that workers can answer in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from bertline.components import ingestion
from bertline.components.data import formats
from bertline.components.data.columns import check_columns, named_columns
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import EXCERPT_CHARACTERS, Row
from bertline.components.options import DataOptions
from bertline.components.scoring import parts
from bertline.components.scoring.parts import Parts
from bertline.errors import UserError

# A part is sorted by length: with fewer rows more of the arithmetic is padding (with 4,096, 2% more than with all rows
# sorted), with more rows a killed job loses more. A worker holds one part at a time.
ROWS_PER_PART = 4096
BYTES_PER_PART = 16 * 1024 * 1024  # of long documents


class Source(NamedTuple):
    """A file to score, and its columns."""

    file: SourceFile
    columns: list[str]


class Sources(NamedTuple):
    """What is scored: the files, how to read them, and the columns that go into the output, of any file."""

    files: list[Source]
    options: DataOptions
    columns: list[str]


def sources(files: Sequence[SourceFile], options: DataOptions, keep: Sequence[str] | None) -> Sources:
    """Looks at the start of each file.

    Args:
        files: in their order.
        options: of the task; the label's column may be missing.
        keep: columns for the output; None for all.

    Raises:
        UserError: a file cannot be read, or has no column of texts, or none of the files has a column of `keep`.
    """
    needed = text_columns(options)
    checked = options.model_copy(
        update={"keep": [], "multi_label": None, "label": needed[0]}
    )  # as if it were the label
    looked = []
    for file in files:
        columns = formats.columns(file, options)
        check_columns(file, columns, checked)
        looked.append(Source(formats.settled(file, options), list(dict.fromkeys(columns))))
    of_all = list(dict.fromkeys(name for source in looked for name in source.columns))
    if missing := [name for name in keep or [] if name not in of_all]:
        listed = ", ".join(map(repr, of_all))
        raise UserError(f"--keep {missing[0]}: no file has this column. Columns found: {listed}.")
    return Sources(looked, options, list(dict.fromkeys(keep)) if keep else of_all)


def text_columns(options: DataOptions) -> list[str]:
    """The columns that the model reads: of the text, then of the second text of a pair."""
    return [name for option, name in named_columns(options) if option in ("text", "text_pair")]


def cut(job: Parts, scored: Sources, progress: Callable[[int], None]) -> list[int]:
    """Writes the parts that are not there yet; the same files are always cut in the same way.

    Args:
        job: where.
        scored: the files.
        progress: is told how many rows are cut.

    Returns:
        The number of rows in each part.

    Raises:
        UserError: a file turns out to be damaged.
    """
    if (sizes := job.read_json(parts.CUT_FILE)) is not None:
        return sizes
    sizes = []
    for table_of in _tables(scored):
        part = len(sizes)
        if not job.has(parts.ANSWERS, part) and not job.has(parts.ROWS, part):
            job.write(parts.ROWS, part, table_of.table())
        sizes.append(table_of.rows)
        progress(sum(sizes))
    job.write_json(parts.CUT_FILE, sizes)
    return sizes


class _Rows:
    """The rows of a part, as they are collected."""

    def __init__(self, scored: Sources):
        self._scored = scored
        self._values: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, file: int, row: Row, names: list[str]) -> None:
        options, columns = self._scored.options, self._scored.columns
        named = dict(zip(names, row.values, strict=True)) if not row.fault else {}
        text, pair, fault = "", None, row.fault
        if not fault:
            text, pair, fault = ingestion.texts([named[name] for name in text_columns(options)], options)
        faults = (fault.reason, fault.detail, fault.excerpt[:EXCERPT_CHARACTERS]) if fault else (None, None, None)
        kept = [named.get(name) for name in columns]
        self._values.append((*kept, text, pair, file, row.number, *faults))
        self._bytes += len(text) + len(pair or "") + sum(len(value) for value in kept if value)

    @property
    def rows(self) -> int:
        return len(self._values)

    @property
    def is_full(self) -> bool:
        return self.rows == ROWS_PER_PART or self._bytes >= BYTES_PER_PART

    def table(self) -> pa.Table:
        """The rows as they are written."""
        texts = [parts.column(place) for place in range(len(self._scored.columns))] + [parts.TEXT, parts.TEXT_PAIR]
        numbers = [(parts.FILE, pa.int32()), (parts.ROW, pa.int64())]
        faults = [(name, pa.string()) for name in (parts.REASON, parts.DETAIL, parts.EXCERPT)]
        schema = pa.schema([*((name, pa.large_string()) for name in texts), *numbers, *faults])
        columns = zip(*self._values, strict=True)
        return pa.table(
            [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
        )


def _tables(scored: Sources) -> Iterator[_Rows]:
    rows = _Rows(scored)
    for index, (file, columns) in enumerate(scored.files):
        wanted = {*scored.columns, *text_columns(scored.options)}
        names = [name for name in columns if name in wanted]
        for row in formats.read(file, scored.options, names):
            rows.add(index, row, names)
            if rows.is_full:
                yield rows
                rows = _Rows(scored)
    if rows.rows:
        yield rows
