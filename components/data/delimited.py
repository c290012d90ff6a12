"""CSV and TSV: RFC 4180 records below a line of column names."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bertline.components.data import decoding
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

# A quote that is never closed would otherwise take the rest of a file into one field.
LONGEST_FIELD = 16 * 1024 * 1024


@dataclass(frozen=True)
class Delimited(Reader):
    """Reads a table of text whose first line names the columns.

    Attributes:
        delimiter: the character between two fields.
    """

    delimiter: str

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        decoding.refuse_binary(file, options)
        with decoding.open_text(file, options) as stream:
            return _header(file, _records(stream, self.delimiter))

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        with decoding.open_text(file, options) as stream:
            records = _records(stream, self.delimiter)
            header = _header(file, records)
            places = places_of(file, names, header, options) if header else []
            filled = ((where, fields) for where, fields in records if fields)  # a blank line has no fields
            for number, (where, fields) in enumerate(filled, start=1):
                if isinstance(fields, Fault):
                    yield Row(number, (), fields)
                elif len(fields) != len(header):
                    detail = f"{len(fields)} fields where the first line names {len(header)} columns ({where})"
                    yield Row(number, (), Fault(BROKEN_LINE, detail, excerpt(self.delimiter.join(fields))))
                else:
                    yield Row(number, tuple(fields[place] for place in places))


def _header(file: SourceFile, records: Iterator[tuple[str, list[str] | Fault]]) -> list[str]:
    """Takes the names of the columns from the first line that is not blank; [] where there is none."""
    for _, fields in records:
        if isinstance(fields, Fault):
            raise UserError(
                f"{file.name}: the line of column names is broken: {fields.detail}. Correct that line in the file."
            )
        if fields:
            return [name.strip() for name in fields]
    return []


# === Records ===


class _Tape:
    """The lines of a stream. Those of the current record can be put back."""

    def __init__(self, lines: Iterable[str]):
        self._lines = iter(lines)
        self._put_back: list[str] = []  # last first
        self.record: list[str] = []
        self.lines_before = 0

    def __iter__(self) -> _Tape:
        return self

    def __next__(self) -> str:
        line = self._put_back.pop() if self._put_back else next(self._lines)
        self.record.append(line)
        return line

    def start_record(self) -> None:
        self.lines_before += len(self.record)
        self.record = []

    def put_back_all_but_first(self) -> None:
        self._put_back.extend(reversed(self.record[1:]))
        del self.record[1:]


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[str, list[str] | Fault]]:
    """RFC 4180 records: the lines on which each stands, and its fields or the fault of its first line.

    A quote that is not closed properly is a fault of the line on which its record starts; reading goes on with the
    next line, so that it does not swallow the rows after it.
    """
    csv.field_size_limit(LONGEST_FIELD)  # Python's own limit is 131,072 characters
    tape = _Tape(lines)
    reader = csv.reader(tape, delimiter=delimiter, strict=True)
    while True:
        tape.start_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            tape.put_back_all_but_first()
            reader = csv.reader(tape, delimiter=delimiter, strict=True)
            where = f"line {tape.lines_before + 1}"
            yield where, Fault(BROKEN_LINE, f"{_in_words(error)} ({where})", excerpt(tape.record[0]))
            continue
        first, count = tape.lines_before + 1, len(tape.record)
        yield f"line {first}" if count == 1 else f"lines {first} to {first + count - 1}", fields


def _in_words(error: csv.Error) -> str:
    message = str(error)
    if "unexpected end of data" in message or "field larger" in message:
        return "a quote is opened and never closed"
    if "expected after" in message:
        return "a closing quote is followed by more text; quotes inside a quoted field are written twice"
    return message
