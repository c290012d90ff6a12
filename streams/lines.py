"""Records of JSON Lines and CSV in the bytes of a file that is still being written: only whole records are taken."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import orjson

from bertline.streams.texts import BROKEN, NOT_UNICODE

MARK = b"\xef\xbb\xbf"  # of UTF-8, at the beginning of a file
# A quoted field may hold line ends. One that is open for longer than this was never meant to be: its line is refused,
# and the lines after it are records of their own
LONGEST_RECORD = 1 << 20


class Record(NamedTuple):
    """A whole record: its values by field or the fault, its bytes, and the lines that it takes."""

    values: dict[str, Any] | None
    fault: tuple[str, str] | None
    content: bytes
    lines: int


class Format(Protocol):
    """How records stand in bytes."""

    columns: list[str] | None

    def records(self, content: bytes, ended: bool) -> Iterator[Record]:
        """The whole records at the beginning of some bytes; blank lines and a line of names are records without both.

        Args:
            content: begins where a record begins.
            ended: whether nothing will ever follow.
        """


class JsonLines(Format):
    """An object a line."""

    columns = None

    def records(self, content: bytes, ended: bool) -> Iterator[Record]:
        """See Format. A last line without its end is taken if it is a whole object."""
        for line in _lines(content):
            record = _of_object(line)
            if not line.endswith(b"\n") and not ended and record.values is None:
                return
            yield record


def _lines(content: bytes) -> Iterator[bytes]:
    """Lines that end in \\n: `splitlines` would cut at a carriage return too."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start) + 1 or len(content)
        yield content[start:end]
        start = end


def _of_object(line: bytes) -> Record:
    bare = line.removeprefix(MARK).strip()
    if not bare:
        return Record(None, None, line, 1)
    try:
        values = orjson.loads(bare)
    except orjson.JSONDecodeError as error:
        return Record(None, (BROKEN, f"not JSON: {error}"), line, 1)
    if not isinstance(values, dict):
        return Record(None, (BROKEN, f"expected an object, found {type(values).__name__}"), line, 1)
    return Record(values, None, line, 1)


class Csv(Format):
    """RFC 4180's records below a line of names.

    Args:
        columns: the names, if they were read before.
        delimiter: between fields.
    """

    def __init__(self, columns: list[str] | None = None, delimiter: str = ","):
        self.columns, self._delimiter = columns, delimiter

    def records(self, content: bytes, ended: bool) -> Iterator[Record]:
        """See Format. A last line without its end may be half of one."""
        lines = list(_lines(content))
        place = 0
        while place < len(lines):
            count = self._whole(lines, place)
            if count is None and sum(map(len, lines[place:])) < LONGEST_RECORD and not ended:
                return
            own = b"".join(lines[place : place + (count or 1)])
            if not own.endswith(b"\n") and not ended:
                return
            yield self._record(own, count)
            place += count or 1

    def _whole(self, lines: list[bytes], place: int) -> int | None:
        """How many lines a record takes; None while its quotes are open."""
        quotes = size = 0
        for count, line in enumerate(lines[place:], 1):
            quotes += line.count(b'"')
            size += len(line)
            if quotes % 2 == 0:
                return count
            if size >= LONGEST_RECORD:
                return None
        return None

    def _record(self, own: bytes, count: int | None) -> Record:
        if not own.removeprefix(MARK).strip():
            return Record(None, None, own, 1)
        if count is None:
            return Record(None, (BROKEN, "a quote is opened and not closed"), own, 1)
        try:
            text = own.removeprefix(MARK).decode()
        except UnicodeDecodeError as error:
            return Record(None, (NOT_UNICODE, f"{error.reason} at byte {error.start}"), own, count)
        try:
            (fields,) = csv.reader([text], delimiter=self._delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            return Record(None, (BROKEN, f"not CSV: {error}"), own, count)
        if self.columns is None:
            self.columns = [name.strip() for name in fields]
            return Record(None, None, own, count)
        if [name.strip() for name in fields] == self.columns:  # files that were put together
            return Record(None, None, own, count)
        if len(fields) != len(self.columns):
            detail = f"{len(fields)} fields where the first line names {len(self.columns)} columns"
            return Record(None, (BROKEN, detail), own, count)
        return Record(dict(zip(self.columns, fields, strict=True)), None, own, count)
