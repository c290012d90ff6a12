"""Excel workbooks (.xlsx): one sheet, whose first row that is not empty names the columns, unless the options do."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, time
from itertools import islice
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

import openpyxl
from openpyxl.cell.read_only import EmptyCell, ReadOnlyCell
from openpyxl.utils.exceptions import InvalidFileException
from openpyxl.worksheet._read_only import ReadOnlyWorksheet

from bertline.components.data.columns import places_of, used_columns
from bertline.components.data.fields import as_text
from bertline.components.data.packing import open_bytes
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

OLD_WORKBOOK = b"\xd0\xcf\x11\xe0"
LOOKED_AT_ROWS = 100  # of a sheet, to know whether it is empty
PIECE = 1 << 20  # bytes

# What openpyxl and zipfile raise for a workbook that is none, or damaged.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, InvalidFileException, KeyError, ParseError, ValueError, TypeError)

Cell = ReadOnlyCell | EmptyCell


class Xlsx(Reader):
    """Reads the first visible sheet of a workbook, or `data.sheet`. A cell's value is read, not how it is shown."""

    is_text = False
    faults_of_cells = True
    takes_header = True

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader; a column without a name is none."""
        if options.header:
            _check_header(file, self.first_rows(file, options), options.header)
            return list(options.header)
        with _opened(file, options) as sheet:
            header = next(_filled(_rows(file, sheet.values)), None)
            return [name for name in _names(header.cells) if name] if header else []

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled is the sheet, where several hold something."""
        if options.sheet is not None or file.sheet is not None:
            return file
        with _opened(file, options) as sheet:
            if not sheet.others:
                return file
            others = ", ".join(map(repr, sheet.others))
            note = f"{file.name}: the sheet {sheet.values.title!r} is read, not {others} (see data.sheet)"
            return file._replace(sheet=sheet.values.title, notes=(*file.notes, note))

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader; an empty row is none."""
        with _opened(file, options) as sheet:
            filled = _filled(_rows(file, sheet.values, sheet.formulas))
            header = options.header or _names(next(filled).cells)  # a sheet that is read is not empty
            places = places_of(file, names, header, options)
            needed = set(used_columns(options))
            for number, row in enumerate(filled, start=1):
                wrong = next((what for what in _wrong(row, places, names, needed)), None)
                if wrong:
                    shown = ", ".join(filter(None, (_text(cell.value) for cell in row.cells)))
                    yield Row(number, (), Fault(BROKEN_LINE, wrong, excerpt(shown)))
                else:
                    yield Row(number, tuple(_value(row.cells, place) for place in places))

    def first_rows(self, file: SourceFile, options: DataOptions, count: int = LOOKED_AT_ROWS) -> list[list[str]]:
        """The first rows that are not empty as texts, that of the columns' names too; all of them equally long."""
        with _opened(file, options) as sheet:
            rows = [_names(row.cells) for row in islice(_filled(_rows(file, sheet.values)), count)]
        width = max((place for row in rows for place, cell in enumerate(row, start=1) if cell), default=0)
        return [[*row, *[""] * width][:width] for row in rows]


def _check_header(file: SourceFile, rows: list[list[str]], header: list[str]) -> None:
    """Raises UserError where the sheet has another number of columns than the names, or holds them itself."""
    if len(rows[0]) != len(header):
        raise UserError(
            f"{file.name}: data.header names {len(header)} columns ({', '.join(header)}), and the sheet has "
            f"{len(rows[0])}. Correct data.header."
        )
    if [cell.casefold() for cell in rows[0]] == [name.casefold() for name in header]:
        raise UserError(
            f"{file.name}: the first row holds the names that data.header gives; remove data.header, or it would be "
            "read as a row."
        )


# === Sheets ===


class _Sheet(NamedTuple):
    """A sheet with the values of its cells, and with their formulas where it has some.

    `others` are the names of other sheets that are not empty.
    """

    values: ReadOnlyWorksheet
    formulas: ReadOnlyWorksheet | None
    others: list[str]


@contextmanager
def _opened(file: SourceFile, options: DataOptions) -> Iterator[_Sheet]:
    """The sheet to read.

    Raises:
        UserError: the file is no workbook, or has no such sheet, or nothing is in the one that is taken.
    """
    if file.member:
        raise UserError(f"{file.name}: a workbook is not read packed; unpack the file.")
    with ExitStack() as stack:
        book, formulas = (_load(file, stack, values) for values in (True, False))
        sheets = book.worksheets
        wanted = options.sheet if options.sheet is not None else file.sheet
        if wanted is not None and wanted not in book.sheetnames:
            raise UserError(
                f"{file.name}: no sheet {wanted!r} (data.sheet). The workbook has "
                f"{', '.join(map(repr, book.sheetnames))}."
            )
        shown = [sheet for sheet in sheets if sheet.sheet_state == "visible"]
        chosen = next(iter(shown or sheets)) if wanted is None else book[wanted]
        if chosen not in sheets:
            raise UserError(f"{file.name}: the sheet {chosen.title!r} holds a chart, not cells. Set data.sheet.")
        empty = _is_empty(file, chosen)
        looked_at = sheets if wanted is None or empty else []
        others = [sheet.title for sheet in looked_at if sheet is not chosen and not _is_empty(file, sheet)]
        if empty:
            hint = f" These hold something: {', '.join(map(repr, others))}; set data.sheet to one." if others else ""
            raise UserError(f"{file.name}: the sheet {chosen.title!r} is empty.{hint}")
        yield _Sheet(chosen, formulas[chosen.title] if formulas else None, others)


def _load(file: SourceFile, stack: ExitStack, values: bool) -> openpyxl.Workbook | None:
    """The workbook with values, or with formulas; None where it has no formula. The stack closes it."""
    stream = stack.enter_context(open_bytes(file))  # openpyxl would refuse a path with another ending
    if stream.read(len(OLD_WORKBOOK)) == OLD_WORKBOOK:
        raise UserError(f"{file.name}: an old Excel workbook, or one with a password; save it as .xlsx without one.")
    try:
        if not values and not _has_formulas(file):
            return None
        with warnings.catch_warnings(action="ignore"):  # of styles and extensions, which do not matter here
            book = openpyxl.load_workbook(stream, read_only=True, data_only=values)
    except DAMAGE as error:
        raise UserError(_damaged(file, error)) from error
    stack.callback(book.close)
    return book


def _has_formulas(file: SourceFile) -> bool:
    with zipfile.ZipFile(file.path) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and name.endswith(".xml"):
                with archive.open(name) as stream:
                    before = b""
                    while piece := stream.read(PIECE):
                        if re.search(rb"<(\w+:)?f[ />]", before + piece):
                            return True
                        before = piece[-16:]
    return False


def _damaged(file: SourceFile, error: Exception) -> str:
    return (
        f"{file.name}: not an Excel workbook (.xlsx), damaged or cut short ({error}); save it again as .xlsx, or as "
        "CSV UTF-8."
    )


# === Rows ===


class _Row(NamedTuple):
    """A row of a sheet: its number there, its cells, and the same cells with their formulas."""

    number: int
    cells: Sequence[Cell]
    formulas: Sequence[Cell]


def _rows(file: SourceFile, values: ReadOnlyWorksheet, formulas: ReadOnlyWorksheet | None = None) -> Iterator[_Row]:
    """All rows; what is damaged becomes a UserError."""
    try:
        values.reset_dimensions()  # writers note wrong ones
        cells = enumerate(values.iter_rows(), start=1)
        if formulas is None:
            yield from (_Row(number, row, ()) for number, row in cells)
            return
        formulas.reset_dimensions()
        for (number, row), other in zip(cells, formulas.iter_rows(), strict=True):
            yield _Row(number, row, other)
    except DAMAGE as error:
        raise UserError(_damaged(file, error)) from error


def _filled(rows: Iterator[_Row]) -> Iterator[_Row]:
    return (row for row in rows if any(map(_holds, row.cells)) or any(map(_holds, row.formulas)))


def _holds(cell: Cell) -> bool:
    return cell.value is not None and cell.value != ""


def _is_empty(file: SourceFile, sheet: ReadOnlyWorksheet) -> bool:
    return not any(True for _ in _filled(islice(_rows(file, sheet), LOOKED_AT_ROWS)))


def _names(cells: Sequence[Cell]) -> list[str]:
    return [(_text(cell.value) or "").strip() for cell in cells]


def _wrong(row: _Row, places: list[int], names: Sequence[str], needed: set[str]) -> Iterator[str]:
    """What is wrong with the cells that a task needs."""
    for place, name in zip(places, names, strict=True):
        cell = row.cells[place] if place < len(row.cells) else None
        where = f"column {name!r}, row {row.number} of the sheet"
        if name not in needed:
            continue
        if cell is not None and cell.value is not None and cell.data_type == "e":
            yield f"the error {cell.value} ({where})"
        formula = row.formulas[place] if place < len(row.formulas) else None
        if (cell is None or cell.value is None) and formula is not None and getattr(formula, "data_type", "") == "f":
            yield f"a formula without a result ({where}): open the workbook in Excel or LibreOffice, and save it"


def _value(cells: Sequence[Cell], place: int) -> str | None:
    return _text(cells[place].value) if place < len(cells) else None


def _text(value: object) -> str | None:
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, str):
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
    return as_text(value)


# How workbooks write control characters, such as a carriage return: _x000D_ (ECMA-376, ST_Xstring).
_ESCAPED = re.compile(r"_x(00[01][0-9A-Fa-f])_")
