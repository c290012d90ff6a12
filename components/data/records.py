"""Records of CSV and TSV, in both readings of a quote."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bertline.components.data.rows import BROKEN_LINE, Fault, excerpt

# A quote that is never closed would otherwise take the rest of a file into one field.
LONGEST_FIELD = 16 * 1024 * 1024
CARRIAGE_RETURN = "\ud800"  # stands in for it; no encoding decodes to half a character


class Record(NamedTuple):
    """A record: its fields or the fault of its first line, where it stands, and its lines as they stand in the file.

    A blank line is a record without fields.
    """

    where: str
    fields: list[str] | Fault
    lines: list[str]


def plain_fields(line: str, delimiter: str) -> list[str]:
    """The fields of a line in which quotes are characters like others."""
    return line.rstrip("\r\n").split(delimiter)


def plain_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """A record per line; quotes are characters like others."""
    for number, line in enumerate(lines, start=1):
        yield Record(f"line {number}", plain_fields(line, delimiter) if line.strip("\r\n") else [], [line])


class _SpacesBeforeQuotes:
    """Takes the spaces out of `"a, b", "pos"`, by which csv would read the second quote as a character.

    csv's own option for it takes the first spaces of all fields. No standard writer makes such a line: it doubles the
    quotes of a field that starts with a space.
    """

    def __init__(self, delimiter: str):
        mark = re.escape(delimiter)
        quoted, plain = r'"(?:[^"]++|"")*+"', rf'[^"{mark}\r\n]*+'
        self._sign = f"{delimiter} "
        self._line = re.compile(rf"(?:{quoted}|{plain})(?:{mark}(?: *{quoted}|{plain}))*+[\r\n]*")
        self._gap = re.compile(rf"({quoted})|({mark}) +(?=\")")

    def closed_up(self, line: str) -> str:
        if self._sign not in line or '"' not in line or not self._line.fullmatch(line):
            return line
        return self._gap.sub(lambda match: match[1] or match[2], line)


class _Tape:
    """The lines of a stream. Those of the current record can be put back."""

    def __init__(self, lines: Iterable[str], spaces: _SpacesBeforeQuotes):
        self._lines = iter(lines)
        self._put_back: list[str] = []  # last first
        self.record: list[str] = []
        self.lines_before = 0
        self._spaces = spaces

    def __iter__(self) -> _Tape:
        return self

    def __next__(self) -> str:
        line = self._put_back.pop() if self._put_back else next(self._lines)
        self.record.append(line)
        line = _masked(line)
        return self._spaces.closed_up(line) if len(self.record) == 1 else line

    def start_record(self) -> None:
        self.lines_before += len(self.record)
        self.record = []

    def put_back_all_but_first(self) -> None:
        self._put_back.extend(reversed(self.record[1:]))
        del self.record[1:]


def standard_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """RFC 4180 records: a field in quotes may hold delimiters, line breaks and doubled quotes.

    A quote that is not closed properly is a fault of the line on which its record starts; reading goes on with the
    next line, so that it does not swallow the rows after it.
    """
    csv.field_size_limit(LONGEST_FIELD)  # Python's own limit is 131,072 characters
    spaces = _SpacesBeforeQuotes(delimiter)
    tape = _Tape(lines, spaces)
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
            fault = Fault(BROKEN_LINE, f"{_in_words(error, tape.record[0])} ({where})", excerpt(tape.record[0]))
            yield Record(where, fault, list(tape.record))
            continue
        first, count = tape.lines_before + 1, len(tape.record)
        where = f"line {first}" if count == 1 else f"lines {first} to {first + count - 1}"
        if count > 1 and (closed_up := spaces.closed_up(whole := "".join(map(_masked, tape.record)))) != whole:
            fields = next(csv.reader([closed_up], delimiter=delimiter, strict=True))
        yield Record(where, [field.replace(CARRIAGE_RETURN, "\r") for field in fields], tape.record)


def _masked(line: str) -> str:
    """The line with another character for carriage returns within it, which csv would take for its end."""
    body = line.rstrip("\r\n")
    return body.replace("\r", CARRIAGE_RETURN) + line[len(body) :] if "\r" in body else line


def _in_words(error: csv.Error, line: str) -> str:
    message = str(error)
    if "unexpected end of data" in message or "field larger" in message:
        return "a quote is opened and never closed"
    if "expected after" in message:
        written = " instead of with a backslash, as Spark and MySQL do" if '\\"' in line else ""
        return f"a closing quote is followed by more text; quotes inside a quoted field are written twice{written}"
    return message
