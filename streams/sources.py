"""What a stream is read from: each source gives portions of records, and the places that they lead to."""

from __future__ import annotations

import json
import queue
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

from bertline.streams import lines
from bertline.streams.texts import Raw

ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
STDIN = "-"


@dataclass
class Portion:
    """Records that were read together.

    Attributes:
        records: in their order.
        moves: key of a place -> what the database shall have of it, as JSON; None: nothing.
        notes: for people: what was odd.
        more: whether there may have been more than was asked for.
    """

    records: list[Raw] = field(default_factory=list)
    moves: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    more: bool = False


class Source(Protocol):
    """Reads records. What was read counts as read only once `stored` says so.

    Attributes:
        ends: whether it has an end, which `--once` waits for.
    """

    ends: ClassVar[bool]

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""

    def read(self, most: int) -> Portion:
        """Records that are there, about `most`; none if nothing is new. It does not wait."""

    def stored(self, portion: Portion) -> None:
        """Takes up that a portion, the last one read, is in the database."""

    def unfinished(self) -> list[str]:
        """For people: records that are there and cannot be read yet."""

    def close(self) -> None:
        """Frees what it holds."""


def format_named(name: str, columns: list[str] | None = None) -> lines.Format:
    """A format by its name: jsonl, csv or tsv."""
    if name == "jsonl":
        return lines.JsonLines()
    return lines.Csv(columns, "\t" if name == "tsv" else ",")


def format_of(path: str, start: bytes, said: str) -> str:
    """The name of a file's format: as the config says, by its ending, or by its first letter."""
    if said != "auto":
        return said
    if named := ENDINGS.get(Path(path).suffix.lower()):
        return named
    return "jsonl" if start.removeprefix(lines.MARK).lstrip().startswith(b"{") else "csv"


class Stdin(Source):
    """Lines of stdin. A thread reads them, so that nothing waits. They have no place that a new process could go to.

    Args:
        said: the format, or auto.
        stream: what to read.
    """

    ends = True
    WAITING = 10_000  # lines between the thread and `read`; a faster writer waits

    def __init__(self, said: str, stream: BinaryIO | None = None):
        self._said, self._format, self._number = said, None, 0
        self._key = f"stdin:{uuid.uuid4().hex}"
        self._lines: queue.Queue[bytes | None] = queue.Queue(self.WAITING)
        self._rest, self._over = b"", False
        self._thread = threading.Thread(target=self._fill, args=(stream or sys.stdin.buffer,), daemon=True)
        self._thread.start()

    def _fill(self, stream: BinaryIO) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def ended(self) -> bool:
        """See Source."""
        return self._over and not self._rest

    def read(self, most: int) -> Portion:
        """See Source."""
        portion = Portion()
        content = [self._rest]
        while len(content) <= most and not self._over:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            self._over = line is None
            content.append(line or b"")
        portion.more = len(content) > most
        self._rest = b"".join(content)
        if self._format is None:
            if not self._rest.strip():
                return portion
            self._format = format_named(format_of("", self._rest, self._said))
        for record in self._format.records(self._rest, self._over):
            self._number += record.lines
            self._rest = self._rest[len(record.content) :]
            if record.values is not None or record.fault:
                first = self._number - record.lines + 1
                portion.records.append(Raw("stdin", first, self._key, record.values, record.fault, record.content))
        if self._over:
            self._rest = b""
        if portion.records:
            portion.moves = {self._key: json.dumps({"source": STDIN, "lines": self._number})}  # marks it as stored
        return portion

    def stored(self, portion: Portion) -> None:
        """See Source; there is no place to go back to."""

    def unfinished(self) -> list[str]:
        """See Source: the last line of stdin is whole."""
        return []

    def close(self) -> None:
        """See Source. The thread ends with the process."""
