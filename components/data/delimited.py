"""CSV and TSV: RFC 4180 records, below a line of column names or without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import ClassVar

from bertline.components.data import decoding, quoting
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.records import LONGEST_FIELD, Record, plain_fields, plain_records, standard_records
from bertline.components.data.rows import BROKEN_LINE, ZERO_BYTE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

# What makes a row doubtful, as it is counted on the screen.
SPANS_LINES = "rows with a quoted field over lines that look like rows (see data.quoting)"
KEPT_QUOTES = "rows with a field in quotes, which were kept (see data.quoting)"

SNIFFED_CHARACTERS = 1 << 16  # tell how lines end
FIRST_LINES = 1000  # within which the first row ends, unless its quote is never closed


@dataclass(frozen=True)
class Delimited(Reader):
    """Reads a table of text whose first line names the columns, unless the options name them.

    Attributes:
        delimiter: the character between two fields, unless the options or the file name another one.
    """

    delimiter: str
    takes_header: ClassVar = True

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        decoding.refuse_binary(file, options)
        with self.opened(file, options) as (lines, delimiter, _):
            if options.header:
                return _check_header(file, lines, delimiter, options.header)
            return _header(file, _records(lines, delimiter, self._early_quoting(file, options)))

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled is how quotes are read."""
        if file.quoting:
            return file
        if options.quoting != "auto":
            return file._replace(quoting=options.quoting)
        columns = len(options.header) if options.header else None
        with self.opened(file, options) as (lines, delimiter, _):
            return file._replace(quoting=quoting.decide(lines, delimiter, columns))

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        file = self.settled(file, options)
        with self.opened(file, options) as (lines, delimiter, _):
            records = _records(lines, delimiter, file.quoting)
            header = options.header or _header(file, records)
            places = places_of(file, names, header, options) if header else []
            named = "data.header" if options.header else "the first line"
            filled = (record for record in records if record.fields)
            for number, record in enumerate(filled, start=1):
                if fault := _fault(record, header, named, delimiter):
                    yield Row(number, (), fault)
                else:
                    values = tuple(record.fields[place] for place in places)
                    yield Row(number, values, doubt=_doubt(record, file, delimiter))

    def _early_quoting(self, file: SourceFile, options: DataOptions) -> str:
        """How the line of column names is read: quotes in it say that the whole file is standard."""
        return file.quoting or ("none" if options.quoting == "none" else "standard")

    @contextmanager
    def opened(self, file: SourceFile, options: DataOptions) -> Iterator[tuple[Iterator[str], str, bool]]:
        """The lines, the delimiter, and whether the file itself names it in a first line such as `sep=;`.

        A blank line takes the place of that one, so that the lines keep their numbers.

        Raises:
            UserError: as `rows`, also within the block.
        """
        with decoding.open_text(file, options) as stream:
            start = stream.read(SNIFFED_CHARACTERS)
        with decoding.open_text(file, options) as stream:
            if start.count("\n") >= len(re.findall(r"\r(?!\n)", start)):
                stream.reconfigure(newline="\n")  # another carriage return is a character of a text
            first = stream.readline(LONGEST_FIELD).removeprefix("\ufeff")  # UTF-16 of a named byte order leaves it
            named = re.fullmatch(r'("?)sep=(.)\1\s*', first, re.IGNORECASE | re.DOTALL)
            delimiter = named[2] if named else options.delimiter or self.delimiter
            yield chain(["\n" if named else first], stream), delimiter, bool(named)


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


def _fault(record: Record, header: list[str], named: str, delimiter: str) -> Fault | None:
    """What is wrong with a record that is not blank.

    Args:
        record: of the file.
        header: the columns' names.
        named: where they stand, in words.
        delimiter: between fields.
    """
    fields = record.fields
    if isinstance(fields, Fault):
        return fields
    if zero := next((number for number, field in enumerate(fields, start=1) if "\0" in field), 0):
        return Fault(ZERO_BYTE, f"a zero byte in field {zero} ({record.where})", excerpt(delimiter.join(fields)))
    if [field.strip() for field in fields] == header and any(header):  # files that were put together
        return Fault(BROKEN_LINE, f"the names of the columns, once more ({record.where})", excerpt(record.lines[0]))
    if len(fields) == len(header):
        return None
    detail = f"{len(fields)} fields where {named} names {len(header)} columns ({record.where})"
    if len(fields) == len(header) + 1 and not fields[-1]:
        detail += "; the last field is empty: remove the delimiter at the line's end"
    return Fault(BROKEN_LINE, detail, excerpt(delimiter.join(fields)))


def _header(file: SourceFile, records: Iterator[Record]) -> list[str]:
    """Takes the names of the columns from the first line that is not blank; [] where there is none."""
    for record in records:
        fields = record.fields
        if isinstance(fields, Fault):
            raise UserError(
                f"{file.name}: the line of column names is broken: {fields.detail}. Correct that line in the file."
            )
        if any("\0" in name for name in fields):
            raise UserError(
                f"{file.name}: a binary file, not text, or damaged ({record.where} holds zero bytes); expected "
                f"{file.format}. Remove it from the data, or set data.encoding where it is UTF-16 or UTF-32."
            )
        if fields:
            return [name.strip() for name in fields]
    return []


def _check_header(file: SourceFile, lines: Iterable[str], delimiter: str, header: list[str]) -> list[str]:
    """The names that the options give; [] where the file has no rows.

    Raises:
        UserError: the first row has another number of fields, in both readings of a quote, or holds the names.
    """
    lines = list(islice((line for line in lines if line.strip()), FIRST_LINES))
    if not lines:
        return []
    first = next(standard_records(lines, delimiter)).fields
    plain = plain_fields(lines[0], delimiter)
    readings = [plain] if isinstance(first, Fault) else [first, plain]
    if all(len(fields) != len(header) for fields in readings):
        raise UserError(
            f"{file.name}: data.header names {len(header)} columns ({', '.join(header)}), and the first row has "
            f"{len(readings[0])} fields, separated by {delimiter!r}: {excerpt(lines[0].strip())!r}. Correct "
            "data.header or data.delimiter."
        )
    if [field.strip().casefold() for field in readings[0]] == [name.casefold() for name in header]:
        raise UserError(
            f"{file.name}: the first line holds the names that data.header gives; remove data.header, or it would be "
            "read as a row."
        )
    return list(header)
