"""Which columns the options name, where a file has them, and what to say where it does not."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence

from bertline.components.data.reader import FOLDERS, SourceFile
from bertline.components.data.rows import printable
from bertline.components.options import DataOptions
from bertline.errors import UserError

LISTED_COLUMNS = 20  # in a message
DELIMITERS = (",", ";", "\t", "|")  # that people use between fields


def used_columns(options: DataOptions) -> list[str]:
    """Columns that the options name, each once: the texts, text_pair if there is one, the labels, the kept ones."""
    return list(dict.fromkeys(name for _, name in named_columns(options)))


def named_columns(options: DataOptions) -> Iterator[tuple[str, str]]:
    """The options that name a column, and the column's name."""
    for name in options.text_columns:
        yield "text", name
    if options.text_pair:
        yield "text_pair", options.text_pair
    for name in options.label_columns:
        yield "multi_label.columns", name
    if not options.label_columns:
        yield "label", options.label
    for name in options.keep:
        yield "keep", name


def joined(parts: Sequence[str | None], options: DataOptions) -> str:
    """The text of a row, from the values of `options.text_columns`: those that hold more than white space."""
    if len(parts) == 1:
        return parts[0] or ""
    return options.text_separator.join(part for part in parts if part and part.strip())


def check_columns(file: SourceFile, columns: list[str], options: DataOptions) -> None:
    """Raises UserError where a column that the options name is missing from the file's, or appears twice."""
    for option, name in named_columns(options):
        if name not in columns:
            raise UserError(missing_column(file, option, name, columns))
        if columns.count(name) > 1:
            raise UserError(
                f"{file.name}: the column {name!r} (data.{option}) appears {columns.count(name)} times; rename all "
                "but one."
            )


def places_of(file: SourceFile, names: Sequence[str], columns: list[str], options: DataOptions) -> list[int]:
    """Where the file has each of the names.

    Args:
        file: for the message.
        names: the wanted columns.
        columns: the file's.
        options: say which option names a column.

    Raises:
        UserError: a column is missing.
    """
    for name in names:
        if name not in columns:
            option = next((option for option, named in named_columns(options) if named == name), "keep")
            raise UserError(missing_column(file, option, name, columns))
    return [columns.index(name) for name in names]


def missing_column(file: SourceFile, option: str, name: str, columns: list[str]) -> str:
    """The message for a column that a file does not have.

    Args:
        file: where it was looked for.
        option: of DataOptions, which names the column.
        name: the column's.
        columns: the file's.
    """
    if file.format == FOLDERS:
        return f"{file.name}: data.{option} names {name!r}, but class folders have only a text and a label; remove it."
    nearest = difflib.get_close_matches(name.lower(), [column.lower() for column in columns], n=1, cutoff=0.5)
    close = [column for column in columns if nearest and column.lower() == nearest[0]]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(repr(printable(column[:60])) for column in columns[:LISTED_COLUMNS])
    listed += ", ..." if len(columns) > LISTED_COLUMNS else ""
    # One column where several are expected usually means another separator, not another name.
    separator = next((mark for mark in DELIMITERS if len(columns) == 1 and mark in columns[0]), None)
    if separator:
        hint = f" The first line looks separated by {separator!r}: set data.delimiter: {json.dumps(separator)}."
    header = "; where the first line is a row, name all columns in data.header" if file.format in ("csv", "tsv") else ""
    return (
        f"{file.name}: no column {name!r} (data.{option}). Columns found: {listed}.{hint} "
        f"Set data.{option} to one of them{header}."
    )
