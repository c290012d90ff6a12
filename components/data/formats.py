"""Picks the reader of a file. Every row comes out as values or as a fault, and no row ends the file.

A new format is a module with a Reader, an entry in READERS, its endings in `file_kinds.ENDINGS`, and its name in
`DataOptions.format`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertline.components.data.arrow_files import ArrowFiles
from bertline.components.data.class_folders import ClassFolders
from bertline.components.data.columns import check_columns, used_columns
from bertline.components.data.delimited import Delimited
from bertline.components.data.json_files import Json
from bertline.components.data.labelled_lines import LabelledLines
from bertline.components.data.parquet import Parquet
from bertline.components.data.reader import FOLDERS, LINES, Reader, SourceFile
from bertline.components.data.rows import (
    BAD_BYTES,
    EXCERPT_CHARACTERS,
    REPLACED_BYTES,
    ZERO_BYTE,
    Fault,
    Row,
    excerpt,
    printable,
)
from bertline.components.data.xlsx import Xlsx
from bertline.components.options import DataOptions
from bertline.errors import UserError

READERS: dict[str, Reader] = {
    "csv": Delimited(","),
    "tsv": Delimited("\t"),
    "jsonl": Json(),
    "json": Json(),  # either name reads either
    "parquet": Parquet(),
    "arrow": ArrowFiles(),
    "xlsx": Xlsx(),
    FOLDERS: ClassFolders(),
    LINES: LabelledLines(),
}


def columns(file: SourceFile, options: DataOptions) -> list[str]:
    """Names of the columns that hold plain values, not lists or objects.

    Raises:
        UserError: the file is empty, damaged, not of its format, or not in the encoding.
    """
    reader = READERS[file.format]
    if options.header and not reader.takes_header:
        raise UserError(
            f"{file.name}: data.header names the columns of CSV, TSV and Excel files, not of {file.format}; remove it."
        )
    names = reader.columns(file, options)
    if not names:
        raise UserError(f"{file.name}: the file has no rows. Add rows, or remove it from the data.")
    return names


def lists(file: SourceFile, options: DataOptions) -> dict[str, str]:
    """Columns that hold lists, which no text and no label can be -> what they hold; see Reader.lists."""
    return READERS[file.format].lists(file, options)


def is_text(file: SourceFile) -> bool:
    """Whether a file is text in the encoding that the options name."""
    return READERS[file.format].is_text


def faults_of_cells(file: SourceFile) -> bool:
    """Whether a row's fault depends on which columns the options name; see Reader."""
    return READERS[file.format].faults_of_cells


def check(file: SourceFile, options: DataOptions) -> None:
    """Looks at the start of a file before a run is spent on it.

    Raises:
        UserError: as `columns`, or a column that the options name is missing or appears twice.
    """
    names = columns(file, options)
    known = set(names) >= set(used_columns(options))
    check_columns(file, names, options, {} if known else lists(file, options))


def settled(file: SourceFile, options: DataOptions) -> SourceFile:
    """The file with what only a look at all of it can tell; see Reader.settled."""
    return READERS[file.format].settled(file, options)


def parts(file: SourceFile, most_bytes: int) -> list[tuple[SourceFile, int]]:
    """A file in parts that workers can read independently, and the bytes of each; see Reader.parts."""
    return READERS[file.format].parts(file, most_bytes)


def read(file: SourceFile, options: DataOptions, names: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a file, one at a time; memory does not grow with the file.

    Args:
        file: as `task_files.expand` gives it.
        options: encoding, policy for bad bytes, and the columns.
        names: columns to take, in this order; by default `used_columns(options)`.

    Yields:
        Row, with its fault where it cannot be read.

    Raises:
        UserError: the file as a whole cannot be read: gone, cut short while compressed, not of its format.
    """
    names = used_columns(options) if names is None else names
    for row in READERS[file.format].rows(file, options, names):
        yield row if row.fault else _checked(row, names, options)


def _checked(row: Row, names: Sequence[str], options: DataOptions) -> Row:
    """The row, or its fault where a value holds a zero byte or bytes that are not in the encoding."""
    for name, value in zip(names, row.values, strict=True):
        if value and "\0" in value:
            detail = f"a zero byte: column {name!r}, character {value.index(chr(0)) + 1}"
            return Row(row.number, (), Fault(ZERO_BYTE, detail, excerpt(value)))
        if value is None or value.isascii():
            continue
        try:
            value.encode()
        except UnicodeEncodeError as error:
            if options.on_bad_bytes == "replace":
                row = row._replace(values=tuple(text and printable(text) for text in row.values))
                return row._replace(doubt=REPLACED_BYTES)
            return Row(row.number, (), _bad_bytes(name, value, error.start, options))
        if options.on_bad_bytes == "replace" and "\ufffd" in value:  # the decoder's work, as a rule
            row = row._replace(doubt=REPLACED_BYTES)
    return row


def _bad_bytes(name: str, value: str, place: int, options: DataOptions) -> Fault:
    code = ord(value[place])
    # Other lone surrogates come from JSON escapes such as \ud83d without its second half.
    what = f"byte 0x{code - 0xDC00:02x}" if 0xDC00 <= code <= 0xDCFF else f"half a character, U+{code:04X},"
    detail = f"{what} is not {options.encoding}: column {name!r}, character {place + 1}"
    return Fault(BAD_BYTES, detail, excerpt(value[max(0, place - EXCERPT_CHARACTERS // 2) :]))
