"""Which columns the options name, where a file has them, and what to say where it does not."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence

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


def check_columns(
    file: SourceFile, columns: list[str], options: DataOptions, lists: Mapping[str, str] | None = None
) -> None:
    """Raises UserError where a column that the options name is missing from the file's, or appears twice.

    Args:
        file: for the message.
        columns: the file's.
        options: name the columns.
        lists: columns of the file that hold lists -> what they hold.
    """
    for option, name in named_columns(options):
        if name not in columns:
            raise UserError(missing_column(file, option, name, columns, lists))
        if columns.count(name) > 1:
            raise UserError(
                f"{file.name}: the column {name!r} (data.{option}) appears {columns.count(name)} times; rename all "
                "but one."
            )


def places_of(
    file: SourceFile,
    names: Sequence[str],
    columns: list[str],
    options: DataOptions,
    lists: Mapping[str, str] | None = None,
) -> list[int]:
    """Where the file has each of the names.

    Args:
        file: for the message.
        names: the wanted columns.
        columns: the file's.
        options: say which option names a column.
        lists: columns of the file that hold lists -> what they hold.

    Raises:
        UserError: a column is missing.
    """
    for name in names:
        if name not in columns:
            option = next((option for option, named in named_columns(options) if named == name), "keep")
            raise UserError(missing_column(file, option, name, columns, lists))
    return [columns.index(name) for name in names]


def missing_column(
    file: SourceFile, option: str, name: str, columns: list[str], lists: Mapping[str, str] | None = None
) -> str:
    """The message for a column that a file does not have.

    Args:
        file: where it was looked for.
        option: of DataOptions, which names the column.
        name: the column's.
        columns: the file's.
        lists: columns of the file that hold lists -> what they hold.
    """
    if lists and name in lists:
        return list_column(file, option, name, lists[name])
    if file.format == FOLDERS:
        return f"{file.name}: data.{option} names {name!r}, but class folders have only a text and a label; remove it."
    nearest = difflib.get_close_matches(name.lower(), [column.lower() for column in columns], n=1, cutoff=0.5)
    close = [column for column in columns if nearest and column.lower() == nearest[0]]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    inside = [column for column in columns if column.startswith(f"{name}.")]
    if inside:
        hint = f" {name!r} holds an object: name a field of it by its path, such as {inside[0]!r}."
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


def list_column(file: SourceFile, option: str, name: str, held: str) -> str:
    """The message for a column of lists where one value per row is needed.

    Args:
        file: where it was found.
        option: of DataOptions, which names the column.
        name: the column's.
        held: what it holds.
    """
    way_out = "Join each list to one text, in the file or in a column of its own."
    if option == "label":
        way_out = "Set data.multi_label: {lists: true} if a row has several labels, or write one label per row."
    return f"{file.name}: the column {name!r} (data.{option}) holds lists ({held}), not one value per row. {way_out}"


def list_columns(options: DataOptions) -> list[str]:
    """The columns of which the options say that they hold lists. A reader writes these out as JSON."""
    return [options.label] if options.multi_label and options.multi_label.lists else []
