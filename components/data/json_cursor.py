"""Walks through JSON of any size: it holds one value at a time, and can pass over what nobody needs.

ijson would do this, but its parser turns half a character (\\ud83d without its second half) into "?" without a word,
ends at NaN and at whole numbers of more than 64 bits, and reads only UTF-8. Python's own decoder reads the values here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

PIECE = 1 << 16  # characters that are read at a time
LONGEST_VALUE = 64 * 1024 * 1024  # characters; a quote that is not closed would otherwise take the file into memory
LONGEST_TOKEN = 64  # an error this far from the end of what was read is none of what is still to come

_SPACE = re.compile(r"[ \t\r\n]*")
_SPACES = " \t\r\n"
_DECODER = json.JSONDecoder()


class BrokenJson(Exception):
    """What is wrong, and in which line."""


class Cursor:
    """A place in a stream of JSON, which moves forward only."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._buffer = ""
        self._place = 0
        self._counted = 0  # up to where in the buffer the lines are counted
        self._line = 1

    @property
    def line(self) -> int:
        """The line of the place, from 1."""
        self._line += self._buffer.count("\n", self._counted, self._place)
        self._counted = self._place
        return self._line

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            mark = self._buffer[self._place : self._place + 1]
            if mark in _SPACES:  # also where the buffer ends
                self._place = _SPACE.match(self._buffer, self._place).end()
                mark = self._buffer[self._place : self._place + 1]
            if mark or not self._more():
                return mark

    def value(self) -> object:
        """Takes the next value, of any kind.

        Raises:
            BrokenJson: there is none.
        """
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                definite = error.pos + LONGEST_TOKEN < len(self._buffer) and "Unterminated" not in error.msg
                if definite or len(self._buffer) - self._place > LONGEST_VALUE or not self._more():
                    raise self._broken(error.msg, error.pos) from None
            except RecursionError:
                raise self._broken("nested too deep", self._place) from None
            except ValueError as error:  # a number of thousands of digits
                raise self._broken(str(error), self._place) from None
            else:
                # A number may go on behind what was read.
                if end < len(self._buffer) or self._buffer[end - 1] in '}]"' or not self._more():
                    self._place = end
                    return value

    def elements(self) -> Iterator[None]:
        """Stops at each element of the array that is next; whoever asks takes it, or passes over it."""
        yield from self._items("[", "]", lambda: None)

    def members(self) -> Iterator[str]:
        """Stops at each value of the object that is next, and gives its key; as `elements`."""
        yield from self._items("{", "}", self._key)

    def values(self) -> Iterator[None]:
        """Stops at each value up to the end; a comma may stand between two, as in an array that lost its brackets."""
        while self.peek():
            yield
            if self.peek() == ",":
                self._take(",")

    def skip(self, levels: int = 2) -> None:
        """Passes over the next value.

        Args:
            levels: of nesting that are walked through; what lies deeper is small enough to be read as one.
        """
        mark = self.peek()
        if levels and mark in ("[", "{"):
            for _ in self.elements() if mark == "[" else self.members():
                self.skip(levels - 1)
        else:
            self.value()

    def go_to(self, path: tuple[str, ...]) -> None:
        """Moves to the value under these keys of objects within objects.

        Raises:
            BrokenJson: it is not there.
        """
        for key in path:
            for found in self.members():
                if found == key:
                    break
                self.skip()
            else:
                raise self._broken(f"no key {key!r}", self._place)

    def end(self) -> None:
        """Raises BrokenJson unless nothing more comes."""
        if self.peek():
            raise self._broken("more text after the end of the value", self._place)

    def _items(self, opening, closing, stop) -> Iterator:
        self._take(opening)
        if self.peek() == closing:
            self._take(closing)
            return
        while True:
            found = stop()
            self.peek()  # so that `line` is the value's
            yield found
            if self.peek() == closing:
                self._take(closing)
                return
            self._take(",")

    def _key(self) -> str:
        if self.peek() != '"':
            raise self._broken("expected a key in double quotes", self._place)
        key = self.value()
        self._take(":")
        return key

    def _take(self, mark: str) -> None:
        found = self.peek()
        if found != mark:
            what = "the end of the file" if not found else repr(found)
            raise self._broken(f"expected {mark!r}, found {what}", self._place)
        self._place += 1

    def _more(self) -> bool:
        piece = self._stream.read(max(PIECE, len(self._buffer) - self._place))  # so that a long value is tried rarely
        if not piece:
            return False
        self._line, self._counted = self.line, 0
        self._buffer = self._buffer[self._place :] + piece
        self._place = 0
        return True

    def _broken(self, what: str, place: int) -> BrokenJson:
        line = self.line + self._buffer.count("\n", self._place, place)
        return BrokenJson(f"{what} (line {line})")
