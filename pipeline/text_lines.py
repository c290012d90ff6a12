"""Lines of text from a pipe or a file, as they arrive: each with its number, as a text or as the fault it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# A server takes at most 16 MiB in a request by default, so no longer line could be answered.
LONGEST_LINE = 16 * 1024 * 1024
# What one look takes from a file: some thousand tweets, enough to sort them by length. A pipe holds 64 KiB.
CHUNK = 256 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line's number, from 1, and its text; or why it has none."""

    number: int
    text: str
    fault: str | None = None


def windows(stream: BinaryIO) -> Iterator[list[Line]]:
    """The lines of a stream, all that have arrived at a time.

    It waits for the first line only, so lines that come slowly are passed on one by one, and a stream without end is
    no harm. The memory does not grow with the stream, nor with a line.

    Args:
        stream: UTF-8, lines end with \\n or \\r\\n, the last one also with the stream. Needs `read1`.

    Yields:
        Lines, at least one.
    """
    number = 0
    rest = _Rest()
    while chunk := stream.read1(CHUNK):
        *ended, begun = chunk.split(b"\n")
        lines = []
        for part in ended:
            rest.add(part)
            number += 1
            lines.append(rest.line(number))
            rest = _Rest()
        rest.add(begun)
        if lines:
            yield lines
    if rest.size:
        yield [rest.line(number + 1)]


class _Rest:
    """A line that has not ended yet. Of one that is too long only the size is kept."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self._parts = [*self._parts, part] if self.size <= LONGEST_LINE else []

    def line(self, number: int) -> Line:
        if self.size > LONGEST_LINE:
            return Line(number, "", f"a line of {self.size:,} bytes; the longest is {LONGEST_LINE:,}")
        content = b"".join(self._parts).removesuffix(b"\r")
        if number == 1:
            content = content.removeprefix(BYTE_ORDER_MARK)
        try:
            return Line(number, content.decode())
        except UnicodeDecodeError as error:
            return Line(number, "", f"not UTF-8: byte 0x{content[error.start]:02x} at place {error.start + 1}")
