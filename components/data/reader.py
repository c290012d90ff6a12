"""What each format implements: a file's columns, its rows, and the parts that it can be cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from bertline.components.data.json_shapes import Shape
from bertline.components.data.rows import Row
from bertline.components.options import DataOptions

FOLDERS = "folders"  # the format of a folder per class
LINES = "lines"  # the format of a file per class


class SourceFile(NamedTuple):
    """One file to read: its absolute path, its name for people (relative to the base folder), its format.

    It may be a part of a Parquet file: some row groups, `rows` in all, with `first` rows before them. It may be the
    `member` of a zip archive. `described_by` are the paths of files beside it that name its classes.

    What `Reader.settled` decides: `quoting` of CSV and TSV is "standard" or "none"; `shape` says where the rows of a
    JSON file are; `sheet` is the one that is read of a workbook with several; `class_names` are a column and the names
    of its numbers, for each column that has them. `notes` are what a person should know of how the file is read.
    """

    path: str
    name: str
    format: str
    groups: range | None = None
    first: int = 0
    rows: int | None = None
    quoting: str | None = None
    member: str | None = None
    described_by: tuple[str, ...] = ()
    shape: Shape | None = None
    sheet: str | None = None
    class_names: tuple[tuple[str, tuple[str, ...]], ...] | None = None
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads the files of one format. `formats.READERS` has one for each format.

    Attributes:
        is_text: the files are text, in the encoding that the options name.
        faults_of_cells: a cell can be a fault, such as a list where a text is needed. It costs its row only in a column
            that the options name; in others it is no value.
        takes_header: the first row names the columns, unless `data.header` does.
    """

    is_text = True
    faults_of_cells = False
    takes_header = False

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """Names of the columns that hold plain values, in the file's order; [] where the file has no rows.

        Raises:
            UserError: the file is damaged, not of this format, or not in the encoding.
        """

    def lists(self, file: SourceFile, options: DataOptions) -> dict[str, str]:
        """Columns that hold lists, which no text and no label can be -> what they hold, for a message.

        Raises:
            UserError: as `columns`.
        """
        return {}

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """The file with what only a look at all of it can tell, so that every later reader reads it in the same way.

        Raises:
            UserError: as `rows`.
        """
        return file

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """The rows, one at a time, so that memory does not grow with the file.

        A row that cannot be read is yielded with its fault, and reading goes on. Bytes that are not in the encoding
        come as `decoding.MARK_BAD_BYTES` marks them; `formats.read` turns them into faults.

        Args:
            file: the file, or a part that `parts` gave.
            options: the encoding, the policy for bad bytes, and the columns' names.
            names: columns to take, in this order.

        Raises:
            UserError: the file as a whole cannot be read: gone, cut short, not of this format, without one of `names`.
        """

    def parts(self, file: SourceFile, most_bytes: int) -> list[tuple[SourceFile, int]]:
        """The file in parts that workers can read independently, and the bytes of each.

        Only a format that says where rows begin has several parts. In the others, the start of a row is known only once
        everything before it is read.

        Args:
            file: the whole file.
            most_bytes: upper bound of a part, which only an indivisible piece of the file may exceed.

        Raises:
            UserError: as `columns`.
        """
        return [(file, Path(file.path).stat().st_size)]
