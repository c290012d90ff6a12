"""CSV files for people who open them in a spreadsheet, which can run a cell as a formula if it begins with a sign."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from tfx.dsl.io import fileio

MARK = "'"  # tells a spreadsheet that the cell is text
# OWASP's list (CSV injection), the last four of them full-width. White space before them does not stop a spreadsheet.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_LEADING = ("\t", "\r", "\n", MARK)


def guarded(text: str) -> str:
    """The text, with an apostrophe before it if it could run as a formula or begins with an apostrophe itself."""
    return MARK + text if text.startswith(_LEADING) or text.lstrip().startswith(_FORMULA) else text


def unguarded(cell: str) -> str:
    """The text before `guarded`: a leading apostrophe is not part of it."""
    return cell.removeprefix(MARK)


def write(path: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a UTF-8 CSV file; strings are guarded, numbers stay numbers."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(header)
    writer.writerows([guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    with fileio.open(path, "wb") as file:
        file.write(table.getvalue().encode("utf-8", "replace"))


def read(path: str) -> list[dict[str, str]]:
    """The rows that `write` wrote, one dictionary per row."""
    with fileio.open(path, "rb") as file:
        text = file.read().decode("utf-8")
    return [
        {name: unguarded(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(text, newline=""))
    ]
