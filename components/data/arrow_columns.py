"""Arrow's columns as texts: what Parquet and Arrow files have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy
import pyarrow
import pyarrow.compute

from bertline.components.data import hugging_face
from bertline.components.data.columns import list_columns, places_of, used_columns
from bertline.components.data.decoding import error_policy
from bertline.components.data.fields import as_cell, as_text
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import BROKEN_LINE, Fault, Row
from bertline.components.options import DataOptions

types = pyarrow.types


class ArrowReader(Reader):
    """Reads what its file's schema tells; a format adds how to open the file."""

    is_text = False
    faults_of_cells = True

    @abstractmethod
    def schema(self, file: SourceFile) -> pyarrow.Schema:
        """The file's schema.

        Raises:
            UserError: the file is damaged or cannot be read.
        """

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        return plain_columns(self.schema(file), options)

    def lists(self, file: SourceFile, options: DataOptions) -> dict[str, str]:
        """See Reader."""
        return lists_in(self.schema(file))

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled are the names of classes."""
        return with_class_names(file, self.schema(file))


# === What a schema has ===


def plain_columns(schema: pyarrow.Schema, options: DataOptions) -> list[str]:
    """Names of the columns that hold plain values; fields of structs by their paths.

    A column of bytes counts only where the options name it: as a rule it holds pictures or packed objects.
    """
    named, lists = used_columns(options), list_columns(options)
    names = []
    for name, kind in _fields(schema):
        plain = name in lists if types.is_nested(kind) else name in named or not _is_bytes(kind)
        if plain:
            names.append(name)
    return names


def lists_in(schema: pyarrow.Schema) -> dict[str, str]:
    """Names of the columns that hold lists -> Arrow's name of what they hold."""
    return {name: str(kind) for name, kind in _fields(schema) if types.is_nested(kind)}


def _fields(schema: pyarrow.Schema) -> list[tuple[str, pyarrow.DataType]]:
    """Columns and fields of structs; a column of the same name goes before a path."""
    return [(name, kind) for name, kind, nested in _leaves(schema) if not nested or name not in schema.names]


def _leaves(fields: Iterable[pyarrow.Field], prefix: str = "") -> Iterator[tuple[str, pyarrow.DataType, bool]]:
    """The path and the type of each field that is no struct, and whether it is within one."""
    for field in fields:
        if types.is_struct(field.type) and field.type.num_fields:
            yield from _leaves(list(field.type), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.type, bool(prefix)


def _is_bytes(kind: pyarrow.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def check_names(file: SourceFile, schema: pyarrow.Schema, options: DataOptions, names: Sequence[str]) -> None:
    """Raises UserError where the schema lacks one of the columns."""
    places_of(file, names, plain_columns(schema, options), options, lists_in(schema))


# === Names of classes ===


def with_class_names(file: SourceFile, schema: pyarrow.Schema) -> SourceFile:
    """The file with the names of its classes, from its own metadata or from a description beside it."""
    if file.class_names is not None:
        return file
    if names := hugging_face.in_metadata(schema.metadata):
        return file._replace(class_names=names)
    place, names = hugging_face.in_descriptions(file.described_by)
    whole = {name for name, kind in _fields(schema) if types.is_integer(kind)}
    names = tuple((name, classes) for name, classes in names if name in whole)
    notes = (f"{file.name}: the names of {names[0][0]!r} are those in {place}",) if names else ()
    return file._replace(class_names=names, notes=file.notes + notes)


# === Rows ===


def rows_of(
    batch: pyarrow.RecordBatch, first: int, names: Sequence[str], options: DataOptions, file: SourceFile
) -> Iterator[Row]:
    """The rows of a batch.

    Args:
        batch: has the columns.
        first: how many rows of the file come before it.
        names: of the columns, in this order.
        options: the policy for bytes that are not UTF-8.
        file: settled, with the names of its classes.
    """
    classes = dict(file.class_names or ())
    needed = used_columns(options)
    columns = [_texts(_column(batch, name), classes.get(name), options) for name in names]
    for number, values in enumerate(zip(*columns, strict=True), start=first + 1):
        unnamed = [place for place, value in enumerate(values) if isinstance(value, _NoClass)]
        wrong = next((place for place in unnamed if names[place] in needed), None)
        if not unnamed:
            yield Row(number, values)
        elif wrong is None:
            yield Row(number, tuple(None if place in unnamed else value for place, value in enumerate(values)))
        else:
            detail = f"column {names[wrong]!r}: {values[wrong].number} is none of {values[wrong].classes} classes"
            yield Row(number, (), Fault(BROKEN_LINE, detail, ""))


class _NoClass:
    """A number that has no name."""

    def __init__(self, number: int, classes: int):
        self.number, self.classes = number, classes


def _column(batch: pyarrow.RecordBatch, name: str) -> pyarrow.Array:
    """A column by its name, or by its path through structs."""
    if name in batch.schema.names:
        return batch.column(batch.schema.names.index(name))  # the first of several
    for place in range(len(name) - 1, 0, -1):
        head, rest = name[:place], name[place + 1 :]
        if name[place] == "." and head in batch.schema.names:
            column = batch.column(batch.schema.names.index(head))
            inner = pyarrow.RecordBatch.from_arrays(column.flatten(), names=[field.name for field in column.type])
            return _column(inner, rest)
    raise KeyError(name)


def _texts(column: pyarrow.Array, classes: Sequence[str] | None, options: DataOptions) -> list[str | _NoClass | None]:
    kind = column.type
    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
        kind = column.type
    if types.is_dictionary(kind):
        values = _texts(column.dictionary, classes, options)
        return [None if place is None else values[place] for place in column.indices.to_pylist()]
    if classes and types.is_integer(kind):
        return [_class_name(value, classes) for value in column.to_pylist()]
    if classes and types.is_nested(kind):
        return [_class_names(values, classes) for values in column.to_pylist()]
    if types.is_floating(kind) and not types.is_float64(kind):
        return [None if value is None else _short(value) for value in column.to_pylist()]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        # Not all writers check that strings are UTF-8, so the policy for bad bytes holds here too.
        column = column.cast(_AS_BYTES[kind])
    errors = error_policy(options)
    return [
        value.decode("utf-8", errors) if isinstance(value, bytes) else as_cell(value) for value in column.to_pylist()
    ]


_AS_BYTES = {
    pyarrow.string(): pyarrow.binary(),
    pyarrow.large_string(): pyarrow.large_binary(),
    pyarrow.string_view(): pyarrow.binary_view(),
}


def _class_name(value: int | None, classes: Sequence[str]) -> str | _NoClass | None:
    if value is None or value == -1:  # -1 says that the row has no label
        return None
    return classes[value] if 0 <= value < len(classes) else _NoClass(value, len(classes))


def _class_names(values: list[int] | None, classes: Sequence[str]) -> str | _NoClass | None:
    names = [_class_name(value, classes) for value in values or []]
    wrong = next((name for name in names if isinstance(name, _NoClass)), None)
    return wrong or as_cell(values and [name for name in names if name is not None])


def _short(value: float) -> str | None:
    """A float of 32 bits or less with as few digits as tell it from others: 4.3, not 4.300000190734863."""
    return as_text(float(str(numpy.float32(value))))
