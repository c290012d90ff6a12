"""What comes out of a file: rows, each with its values or with the fault that makes it unusable."""

from __future__ import annotations

import re
from typing import NamedTuple

# Reasons of the faults that a reader finds. `splitting.REASONS` has those of ingestion as well.
BROKEN_LINE = "broken line"
BAD_BYTES = "bytes not in the encoding"
ZERO_BYTE = "zero byte"

REPLACED_BYTES = "rows with U+FFFD in place of bytes"  # a doubt about a row, as it is counted on the screen

EXCERPT_CHARACTERS = 200  # enough to recognise the row, short enough for a list of thousands


class Fault(NamedTuple):
    """Why a row cannot be used: the reason, by which faults are counted, the detail, and the start of the row."""

    reason: str
    detail: str
    excerpt: str


class Row(NamedTuple):
    """A row of a file.

    `number` counts the file's rows from 1; a header and blank lines are not rows. `values` are in the order of the
    requested columns, None where the row has none; empty when there is a `fault`.
    `doubt` says what a person should know of values that may be wrong.
    """

    number: int
    values: tuple[str | None, ...]
    fault: Fault | None = None
    doubt: str | None = None


def printable(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no encoding can write."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def excerpt(text: str) -> str:
    """The start of a row, for a person to recognise it by."""
    return printable(text[:EXCERPT_CHARACTERS]).replace("\0", "\u2400")  # other programs end a text at a zero byte
