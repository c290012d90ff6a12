"""Decides what quotes are in a CSV or TSV file: marks around a field, or characters like others.

A stray quote in a file that was written without quoting opens a field that runs to the next stray quote, and takes the
rows between them into a text. Only the whole file tells which it is, so it is read once, in both ways at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from bertline.components.data.records import Record, plain_fields, standard_records
from bertline.components.data.rows import Fault

MOST_VALUES = 1000  # of a column that may be the label; with more it says nothing about what a row is
MOST_SUSPECTS = 10_000  # lines that are kept until the label's values are known


def decide(lines: Iterable[str], delimiter: str, columns: int | None = None) -> Literal["standard", "none"]:
    """Reads a file once, without keeping it, and decides by its quotes.

    Against marks around a field speaks each record that they make of lines, or spoil, of which every line is a row by
    itself: it has as many fields as there are columns, and values that rows have too which both readings read alike.
    For marks speaks each record that is whole only with them, and a line of column names in quotes.

    Args:
        lines: of the file, line ends kept.
        delimiter: between fields.
        columns: how many there are, where no line names them; None where the first line does.
    """
    records = (record for record in standard_records(lines, delimiter) if record.fields)
    if columns is None:
        header = next(records, None)
        if header is None or isinstance(header.fields, Fault) or any('"' in line for line in header.lines):
            return "standard"
        columns = len(header.fields)
    evidence = _Evidence(delimiter, [_Values() for _ in range(columns)])
    for record in records:
        evidence.add(record)
    return evidence.verdict()


@dataclass
class _Values:
    """The values of a column in rows that both readings read alike."""

    counts: Counter[str] = field(default_factory=Counter)
    many: bool = False

    def add(self, value: str) -> None:
        if not self.many:
            self.counts[value] += 1
            self.many = len(self.counts) > MOST_VALUES
        if self.many:
            self.counts.clear()


@dataclass
class _Evidence:
    """What the records say.

    Attributes:
        delimiter: between fields.
        columns: the values of each.
        plain: rows that both readings read alike.
        wrapped: rows in which quotes stand around a field that would be whole without them.
        need_quotes: records that are whole only in the standard reading.
        suspects: records whose lines have the right number of fields each without it: those fields, line by line.
        suspect_lines: how many they are.
    """

    delimiter: str
    columns: list[_Values]
    plain: int = 0
    wrapped: int = 0
    need_quotes: int = 0
    suspects: list[list[list[str]]] = field(default_factory=list)
    suspect_lines: int = 0

    def add(self, record: Record) -> None:
        lines = [line for line in record.lines if line.strip()]
        if not any('"' in line for line in lines):
            self._add_plain(record.fields)
            return
        rows = [plain_fields(line, self.delimiter) for line in lines]
        fit = all(len(row) == len(self.columns) for row in rows)
        if isinstance(record.fields, Fault) or len(lines) > 1:
            self._add_suspect(rows) if fit else self._add_needing(record)
        elif not fit or _has_doubled_quotes(record, rows[0]):
            self._add_needing(record)
        elif record.fields != rows[0]:
            self.wrapped += 1
        else:  # its quotes stand within fields
            self._add_plain(record.fields)

    def _add_plain(self, fields: list[str]) -> None:
        if len(fields) == len(self.columns):
            self.plain += 1
            for column, value in zip(self.columns, fields, strict=True):
                column.add(value.strip())

    def _add_suspect(self, rows: list[list[str]]) -> None:
        if self.suspect_lines < MOST_SUSPECTS:
            self.suspects.append(rows)
            self.suspect_lines += len(rows)

    def _add_needing(self, record: Record) -> None:
        whole = not isinstance(record.fields, Fault) and len(record.fields) == len(self.columns)
        self.need_quotes += whole

    def verdict(self) -> Literal["standard", "none"]:
        telling = [
            (place, column.counts)
            for place, column in enumerate(self.columns)
            if not column.many and 0 < len(column.counts) <= self.plain / 2
        ]
        if not telling:  # nothing says what a row is
            return "standard"
        are_rows = [
            all(row[place].strip() in seen for row in rows for place, seen in telling) for rows in self.suspects
        ]
        against = sum(are_rows)
        in_favour = self.need_quotes + len(are_rows) - against
        return "none" if against > in_favour and self.wrapped <= self.plain else "standard"


def _has_doubled_quotes(record: Record, plain: list[str]) -> bool:
    return any('""' in before and '"' in after for before, after in zip(plain, record.fields, strict=True))
