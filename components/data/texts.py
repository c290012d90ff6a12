"""Texts of files that need no labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bertline.components.data import formats, task_files
from bertline.components.data.columns import joined
from bertline.components.data.reader import SourceFile
from bertline.components.options import DataOptions


def reading(options: DataOptions, text: str | list[str] | None) -> DataOptions:
    """The options to read such files by: encoding, delimiter and the like as the task's, and only the texts' columns.

    Args:
        options: the task's.
        text: the texts' column, or several to join; None for the task's.
    """
    columns = options.text if text is None else text
    first = columns if isinstance(columns, str) else columns[0]
    no_label = {"label": first, "labels": None, "label_map": {}, "multi_label": None}  # as if the text were the label
    return options.model_copy(update={"text": columns, "text_pair": None, "keep": [], **no_label})


def files(sources: Sequence[str], folder: str) -> list[SourceFile]:
    """The files that sources name, each by its own format; arguments and errors as `task_files.expand`."""
    return task_files.expand(list(sources), folder)


def paths(sources: Sequence[str]) -> Callable[[str], list[str]]:
    """Finds the files in a folder, by their names only; for `object_store.local_copy`."""
    return lambda folder: [file.path for file in files(sources, folder)]


def read(found: Sequence[SourceFile], options: DataOptions) -> Iterator[list[str]]:
    """The text of each row, and behind it the columns that it joins, if there are several.

    A row that cannot be read or has no text is [].

    Args:
        found: as `files` gives them.
        options: as `reading` gives them.

    Raises:
        UserError: a file cannot be read, or has no column of texts.
    """
    for file in found:
        formats.check(file, options)
        for row in formats.read(formats.settled(file, options), options, options.text_columns):
            text = "" if row.fault else joined(row.values, options)
            columns = [part for part in row.values if part and part.strip()]
            yield [text, *(columns if len(columns) > 1 else [])] if text.strip() else []
