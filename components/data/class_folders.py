"""A folder per class: each file in it is a row, the folder's name its label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bertline.components.data import decoding, packing
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import ZERO_BYTE, Fault, Row
from bertline.components.options import DataOptions


class ClassFolders(Reader):
    """Reads a text file of a class folder: one row, with no columns but text and label."""

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        return [options.text_columns[0], options.label]

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        columns = self.columns(file, options)
        places = places_of(file, names, columns, options)
        with packing.open_bytes(file) as stream:
            content = stream.read()
        if b"\0" in content and not decoding.holds_zero_bytes(options):
            detail = f"a binary file, not text (zero byte at position {content.index(0)})"
            yield Row(1, (), Fault(ZERO_BYTE, detail, ""))
            return
        text = content.decode(decoding.codec(options), decoding.error_policy(options))
        values = (text, Path(file.path).parent.name)
        yield Row(1, tuple(values[place] for place in places))
