"""Parquet: a table in row groups, which workers can read independently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet

from bertline.components.data.columns import places_of
from bertline.components.data.decoding import error_policy, without_compression
from bertline.components.data.json_lines import as_text
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import Row
from bertline.components.options import DataOptions
from bertline.errors import UserError

BATCH_ROWS = 2048


class Parquet(Reader):
    """Reads a Parquet file."""

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        with _open_table(file) as table:
            return _plain_columns(table)

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        with _open_table(file) as table:
            places_of(file, names, _plain_columns(table), options)
            number = file.first
            for batch in table.iter_batches(BATCH_ROWS, row_groups=file.groups, columns=list(names)):
                columns = [_texts(batch.column(batch.schema.get_field_index(name)), options) for name in names]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, values)

    def parts(self, file: SourceFile, most_bytes: int) -> list[tuple[SourceFile, int]]:
        """See Reader; a part is one or more row groups."""
        size = Path(file.path).stat().st_size
        if size <= most_bytes:
            return [(file, size)]
        with _open_table(file) as table:
            groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
        cut: list[tuple[SourceFile, int]] = []
        first = 0
        for number, group in enumerate(groups):
            if not cut or cut[-1][1] + group.total_byte_size > most_bytes:
                cut.append((file._replace(groups=range(number, number), first=first, rows=0), 0))
            part, size = cut[-1]
            part = part._replace(groups=range(part.groups.start, number + 1), rows=part.rows + group.num_rows)
            cut[-1] = part, size + group.total_byte_size
            first += group.num_rows
        return cut


@contextmanager
def _open_table(file: SourceFile) -> Iterator[pyarrow.parquet.ParquetFile]:
    """The file, opened; what Arrow says of a damaged one, also within the block, becomes a UserError."""
    if without_compression(file.path) != file.path:
        raise UserError(
            f"{file.name}: Parquet compresses its columns itself, and is not read out of {Path(file.path).suffix}; "
            "unpack the file."
        )
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{file.name}: not Parquet, damaged or not readable ({reason}); copy the file again."
        ) from error


def _plain_columns(table: pyarrow.parquet.ParquetFile) -> list[str]:
    return [field.name for field in table.schema_arrow if not pyarrow.types.is_nested(field.type)]


def _texts(column: pyarrow.Array, options: DataOptions) -> list[str | None]:
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        # Parquet's writers do not all check that strings are UTF-8, so the policy for bad bytes holds here too.
        column = column.cast(pyarrow.large_binary() if pyarrow.types.is_large_string(kind) else pyarrow.binary())
    errors = error_policy(options)
    return [
        value.decode("utf-8", errors) if isinstance(value, bytes) else as_text(value) for value in column.to_pylist()
    ]
