"""CSV and TSV: RFC 4180 records below a line of column names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TextIO

from bertline.components.data import decoding, quoting
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.records import LONGEST_FIELD, Record, plain_fields, plain_records, standard_records
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

# What makes a row doubtful, as it is counted on the screen.
SPANS_LINES = "rows with a quoted field over lines that look like rows (see data.quoting)"
KEPT_QUOTES = "rows with a field in quotes, which were kept (see data.quoting)"


@dataclass(frozen=True)
class Delimited(Reader):
    """Reads a table of text whose first line names the columns.

    Attributes:
        delimiter: the character between two fields, unless the file names another one.
    """

    delimiter: str

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        decoding.refuse_binary(file, options)
        with decoding.open_text(file, options) as stream:
            lines, delimiter = self._opened(stream)
            return _header(file, _records(lines, delimiter, self._early_quoting(file, options)))

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled is how quotes are read."""
        if file.quoting:
            return file
        if options.quoting != "auto":
            return file._replace(quoting=options.quoting)
        with decoding.open_text(file, options) as stream:
            return file._replace(quoting=quoting.decide(*self._opened(stream)))

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        file = self.settled(file, options)
        with decoding.open_text(file, options) as stream:
            lines, delimiter = self._opened(stream)
            records = _records(lines, delimiter, file.quoting)
            header = _header(file, records)
            places = places_of(file, names, header, options) if header else []
            filled = (record for record in records if record.fields)
            for number, record in enumerate(filled, start=1):
                fields = record.fields
                if isinstance(fields, Fault):
                    yield Row(number, (), fields)
                elif len(fields) != len(header):
                    detail = f"{len(fields)} fields where the first line names {len(header)} columns ({record.where})"
                    if len(fields) == len(header) + 1 and not fields[-1]:
                        detail += "; the last field is empty: remove the delimiter at the line's end"
                    yield Row(number, (), Fault(BROKEN_LINE, detail, excerpt(delimiter.join(fields))))
                else:
                    yield Row(number, tuple(fields[place] for place in places), doubt=_doubt(record, file, delimiter))

    def _early_quoting(self, file: SourceFile, options: DataOptions) -> str:
        """How the line of column names is read: quotes in it say that the whole file is standard."""
        return file.quoting or ("none" if options.quoting == "none" else "standard")

    def _opened(self, stream: TextIO) -> tuple[Iterator[str], str]:
        """The lines and the delimiter, which spreadsheets may name in a first line such as `sep=;`.

        A blank line takes the place of that one, so that the lines keep their numbers.
        """
        first = stream.readline(LONGEST_FIELD)
        named = re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE | re.DOTALL)
        return chain(["\n" if named else first], stream), named[1] if named else self.delimiter


def _records(lines: Iterable[str], delimiter: str, quotes: str | None) -> Iterator[Record]:
    return (plain_records if quotes == "none" else standard_records)(lines, delimiter)


def _doubt(record: Record, file: SourceFile, delimiter: str) -> str | None:
    """What is doubtful in a record that has the right number of fields."""
    if file.quoting == "none":
        wrapped = any(len(field) > 1 and field[0] == field[-1] == '"' for field in record.fields)
        return KEPT_QUOTES if wrapped else None
    lines = [line for line in record.lines if line.strip()]
    if len(lines) < 2:
        return None
    rows = all(len(plain_fields(line, delimiter)) == len(record.fields) for line in lines)
    return SPANS_LINES if rows else None


def _header(file: SourceFile, records: Iterator[Record]) -> list[str]:
    """Takes the names of the columns from the first line that is not blank; [] where there is none."""
    for record in records:
        fields = record.fields
        if isinstance(fields, Fault):
            raise UserError(
                f"{file.name}: the line of column names is broken: {fields.detail}. Correct that line in the file."
            )
        if fields:
            return [name.strip() for name in fields]
    return []
