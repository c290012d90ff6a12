"""Parquet: a table in row groups, which workers can read independently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet

from bertline.components.data import arrow_columns
from bertline.components.data.packing import packing_of
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import Row
from bertline.components.options import DataOptions
from bertline.errors import UserError

BATCH_ROWS = 2048


class Parquet(arrow_columns.ArrowReader):
    """Reads a Parquet file."""

    def schema(self, file: SourceFile) -> pyarrow.Schema:
        """See ArrowReader."""
        with _open_table(file) as table:
            return table.schema_arrow

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        with _open_table(file) as table:
            file = arrow_columns.with_class_names(file, table.schema_arrow)
            arrow_columns.check_names(file, table.schema_arrow, options, names)
            first = file.first
            for batch in table.iter_batches(BATCH_ROWS, row_groups=file.groups, columns=list(names)):
                yield from arrow_columns.rows_of(batch, first, names, options, file)
                first += batch.num_rows

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
    if file.member or (Path(file.path).is_file() and packing_of(file.path)):
        raise UserError(f"{file.name}: Parquet packs its columns itself, and is not read packed; unpack the file.")
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{file.name}: not Parquet, damaged or not readable ({reason}); copy the file again."
        ) from error
