"""JSON: an object per line whose keys are the columns, or any other way in which people write a table in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from bertline.components.data import decoding, json_shapes
from bertline.components.data.columns import list_columns, used_columns
from bertline.components.data.fields import as_cell, is_nested, lists_in, plain_names, value_of, why_unusable
from bertline.components.data.json_cursor import BrokenJson
from bertline.components.data.json_shapes import LINES, Ambiguous, Shape
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

KNOWN_SHAPES = 64  # files whose shapes are kept
SAMPLED_ROWS = 100  # keys may differ from row to row, so one row does not tell the columns


class Json(Reader):
    """Reads a file of JSON."""

    faults_of_cells = True

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader; what is plain in the first SAMPLED_ROWS objects, fields of objects by their paths."""
        decoding.refuse_binary(file, options)
        first = _first(file, options)
        objects = [value for value in first if isinstance(value, dict)]
        lists = lists_in(objects)
        names = [*plain_names(objects), *(name for name in list_columns(options) if name in lists)]
        if first and not names:
            kinds = f", but lists: {', '.join(lists)}" if lists else ""
            if not objects and not isinstance(first[0], ValueError):
                kinds = f", but values such as {excerpt(json.dumps(first[0], ensure_ascii=False))}"
            rows = "the only row holds" if len(first) == 1 else f"the first {len(first)} rows hold"
            raise UserError(
                f"{file.name}: {rows} no JSON object with plain values{kinds}. Write each row as an object such as "
                '{"text": ..., "label": ...}.'
            )
        return names

    def lists(self, file: SourceFile, options: DataOptions) -> dict[str, str]:
        """See Reader."""
        return lists_in(value for value in _first(file, options) if isinstance(value, dict))

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled is where the rows are."""
        if file.shape:
            return file
        shape = _shape(file, options)
        notes = (f"{file.name}: {shape.described}",) if shape.described else ()
        return file._replace(shape=shape, notes=file.notes + notes)

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader; a key that an object lacks has no value there.

        A broken line of JSON Lines is a fault of its own. Anywhere else nothing tells where the next row begins.
        """
        lists = list_columns(options)
        needed = [name for name in used_columns(options) if name in names and name not in lists]
        for number, (line, value, start) in enumerate(_numbered(file, options, names), start=1):
            if why := f"not JSON: {value}" if isinstance(value, ValueError) else why_unusable(value, needed):
                shown = start or json.dumps(value, ensure_ascii=False)
                yield Row(number, (), Fault(BROKEN_LINE, f"{why} (line {line})", excerpt(shown)))
            else:
                found = ((name, value_of(value, name)) for name in names)
                yield Row(number, tuple(None if _unread(name, cell, lists) else as_cell(cell) for name, cell in found))


def _unread(name: str, cell: object, lists: list[str]) -> bool:
    return is_nested(cell) and name not in lists


def _shape(file: SourceFile, options: DataOptions) -> Shape:
    if file.shape:
        return file.shape
    try:
        status = Path(file.path).stat()
    except OSError:  # whoever opens the file says what is wrong
        return _found(file, options.encoding, options.on_bad_bytes, 0, 0)
    return _found(file, options.encoding, options.on_bad_bytes, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=KNOWN_SHAPES)
def _found(file: SourceFile, encoding: str, on_bad_bytes: str, changed: int, size: int) -> Shape:
    """The shape of a file as it is now: all of an object is read to know it, and several stages ask."""
    options = DataOptions(source=["."], encoding=encoding, on_bad_bytes=on_bad_bytes)
    try:
        return json_shapes.find(partial(decoding.open_text, file, options))
    except BrokenJson as error:
        raise UserError(f"{file.name}: not JSON: {error}. Correct that line in the file.") from None
    except Ambiguous as error:
        raise UserError(
            f"{file.name}: several lists may be the rows: {error}. Write each to a file of its own, such as one for "
            "data.source and one for data.test_source."
        ) from None


def _first(file: SourceFile, options: DataOptions) -> list[object]:
    return [value for _, value, _ in islice(_numbered(file, options, None), SAMPLED_ROWS)]


def _numbered(file: SourceFile, options: DataOptions, names: Sequence[str] | None) -> Iterator[tuple[int, object, str]]:
    """The line and the value of each row, and the row as it stands where it is a line.

    In place of the value of a broken line comes the ValueError that says why there is none.
    """
    shape = _shape(file, options)
    if shape.kind == LINES:
        with decoding.open_text(file, options) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _parsed(line), line
        return
    number = 0
    try:
        for line, value in json_shapes.rows(partial(decoding.open_text, file, options), shape, names):
            number += 1
            yield line, value, ""
    except BrokenJson as error:
        raise UserError(
            f"{file.name}, row {number + 1}: not JSON: {error}. Correct it in the file: nothing tells where the next "
            "row begins."
        ) from None


def _parsed(line: str) -> object:
    """The value of a line of JSON, or the ValueError that says why there is none."""
    try:
        return json.loads(line)
    except RecursionError:
        return ValueError("nested too deep")
    except json.JSONDecodeError as error:
        return ValueError(f"{error.msg} at character {error.pos + 1}")
    except ValueError as error:  # a number of thousands of digits
        return error
