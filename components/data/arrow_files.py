"""Arrow's own files: Feather, the files of Hugging Face's datasets, and what polars calls IPC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow
import pyarrow.ipc

from bertline.components.data import arrow_columns
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import Row
from bertline.components.options import DataOptions
from bertline.errors import UserError

BATCH_ROWS = 2048
FILE_SIGNATURE = b"ARROW1"  # a file has it, a stream of batches has not


class ArrowFiles(arrow_columns.ArrowReader):
    """Reads a file or a saved stream of record batches."""

    def schema(self, file: SourceFile) -> pyarrow.Schema:
        """See ArrowReader."""
        with _opened(file) as table:
            return table.schema

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        with _opened(file) as table:
            file = arrow_columns.with_class_names(file, table.schema)
            arrow_columns.check_names(file, table.schema, options, names)
            first = 0
            for batch in table.batches:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from arrow_columns.rows_of(
                        batch.slice(start, BATCH_ROWS), first + start, names, options, file
                    )
                first += batch.num_rows


class _Table(NamedTuple):
    schema: pyarrow.Schema
    batches: Iterator[pyarrow.RecordBatch]


@contextmanager
def _opened(file: SourceFile) -> Iterator[_Table]:
    """The file, opened; what Arrow says of a damaged one, also within the block, becomes a UserError."""
    try:
        with pyarrow.memory_map(file.path) as source:
            is_file = source.read(len(FILE_SIGNATURE)) == FILE_SIGNATURE
            source.seek(0)
            with pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source) as reader:
                numbers = range(reader.num_record_batches) if is_file else ()
                yield _Table(reader.schema, map(reader.get_batch, numbers) if is_file else iter(reader))
    except (pyarrow.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file.name}: not Arrow, damaged or not readable ({reason}); copy the file again.") from error
