"""A file per class: each line in it is a row, the file's name without its endings the label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bertline.components.data import decoding, packing
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import Row
from bertline.components.options import DataOptions


class LabelledLines(Reader):
    """Reads lines of text, with no columns but text and label. Lines of nothing but white space are no rows."""

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        with decoding.open_text(file, options) as stream:
            filled = any(line.strip() for line in stream)
        return [options.text_columns[0], options.label] if filled else []

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        places = places_of(file, names, [options.text_columns[0], options.label], options)
        label = Path(packing.without_packing(Path(file.member or file.path).name)).stem
        with decoding.open_text(file, options) as stream:
            texts = (line.rstrip("\r\n") for line in stream if line.strip())
            for number, text in enumerate(texts, start=1):
                values = (text, label)
                yield Row(number, tuple(values[place] for place in places))
