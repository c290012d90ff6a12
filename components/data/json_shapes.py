"""How a file of JSON holds its rows: in lines, in an array, below a key, in columns, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import NamedTuple, TextIO

from bertline.components.data.json_cursor import BrokenJson, Cursor

SAMPLED_LINES = 100
LONGEST_LINE = 1 << 20  # characters; a longer one is looked at in pieces, which are no objects
SAMPLED_CHARACTERS = 1 << 22  # of all sampled lines, but for the last one
NOTED_KEYS = 1000  # of an object: more of them are rows, not columns
DEEPEST_ROWS = 3  # keys above the rows, as in {"response": {"result": {"rows": [...]}}}

# The kinds of shapes.
LINES = "lines"  # an object per line
VALUES = "values"  # objects one after the other, each over as many lines as it likes
ARRAY = "array"  # [{...}, {...}], the whole file or below a key
INDEX = "index"  # {"0": {...}, "1": {...}}: rows by their names
COLUMNS = "columns"  # {"text": [...], "label": [...]} or {"text": {"0": ...}, "label": {"0": ...}}
SPLIT = "split"  # {"columns": ["text", "label"], "data": [[...], [...]]}

Opened = Callable[[], AbstractContextManager[TextIO]]


class Shape(NamedTuple):
    """A kind, the keys above the rows, and for COLUMNS their names."""

    kind: str
    path: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """What to tell a person about it; "" where the rows are where they are expected."""
        if self.kind == COLUMNS:
            return "a list of values per column"
        if self.kind == SPLIT:
            return "column names, and lists of values below 'data'"
        if self.kind == INDEX:
            return "an object per row, below its name"
        return f"the rows are below {'.'.join(self.path)!r}" if self.path else ""


class Ambiguous(Exception):
    """Several places that may hold the rows, as in {"train": [...], "test": [...]}."""


# === Finding it ===


def find(opened: Opened) -> Shape:
    """Looks at a file of JSON; all of it, where it is an object.

    Args:
        opened: opens it as text.

    Raises:
        BrokenJson: it is no JSON.
        Ambiguous: several arrays may be the rows.
    """
    with opened() as stream:
        lines = list(_first_lines(stream))
    if not lines or not lines[0].lstrip().startswith(("[", "{")):
        return Shape(LINES)  # each line is then a fault of its own
    if lines[0].lstrip().startswith("["):
        return Shape(LINES if len(lines) > 1 and all(_is_a(list, line) for line in lines[:2]) else ARRAY)
    # The first line may be the broken one. Of an object over many lines, hardly a line is an object by itself.
    if len(lines) > 1 and (_is_a(dict, lines[0]) or sum(_is_a(dict, line) for line in lines) >= len(lines) / 2):
        return Shape(LINES)
    with opened() as stream:
        cursor = Cursor(stream)
        outline = _outlined(cursor, DEEPEST_ROWS)
        return Shape(VALUES) if cursor.peek() else _of_one_object(outline)


def _first_lines(stream: TextIO) -> Iterator[str]:
    characters = 0
    lines = iter(lambda: stream.readline(LONGEST_LINE), "")
    for line in islice((line for line in lines if line.strip()), SAMPLED_LINES):
        yield line
        characters += len(line)
        if characters > SAMPLED_CHARACTERS:
            return


def _is_a(kind: type, line: str) -> bool:
    """Whether a line is a value of this kind by itself."""
    try:
        return isinstance(json.loads(line), kind)
    except (ValueError, RecursionError):
        return False


@dataclass
class _Outline:
    """What a value is like.

    Attributes:
        kind: "{" or "[", or "" for a plain value.
        count: of its members or elements.
        first: the kind of the first of them.
        inside: of an object, the first NOTED_KEYS members.
    """

    kind: str
    count: int = 0
    first: str = ""
    inside: dict[str, _Outline] = field(default_factory=dict)


def _outlined(cursor: Cursor, levels: int) -> _Outline:
    kind = mark if (mark := cursor.peek()) in ("{", "[") else ""
    outline = _Outline(kind)
    if not kind:
        cursor.value()
        return outline
    for key in cursor.members() if kind == "{" else cursor.elements():
        if not outline.count:
            outline.first = mark if (mark := cursor.peek()) in ("{", "[") else ""
        outline.count += 1
        if key is not None and levels and len(outline.inside) < NOTED_KEYS:
            outline.inside[key] = _outlined(cursor, levels - 1)
        else:
            cursor.value()
    return outline


def _of_one_object(whole: _Outline) -> Shape:
    inside = whole.inside
    if _is_list_of("", inside.get("columns")) and _is_list_of("[", inside.get("data")):
        return Shape(SPLIT)
    lists = {key: value for key, value in inside.items() if value.kind == "["}
    if 1 < len(lists) == len(inside) and _of_one_length(lists) and any(value.first != "{" for value in lists.values()):
        return Shape(COLUMNS, columns=tuple(lists))
    if path := _path_to_rows(whole):
        return Shape(ARRAY, path)
    if (
        len(lists) > 1
        and _of_one_length(lists)
        and all(value.kind == "[" or not value.kind for value in inside.values())
    ):
        return Shape(COLUMNS, columns=tuple(lists))
    if inside and all(value.kind == "{" and value.count for value in inside.values()):
        first = next(iter(inside.values()))
        if whole.count > first.count or (whole.count > 1 and all(key.isdigit() for key in inside)):
            return Shape(INDEX)
        if len(inside) > 1 and _of_one_length(inside) and first.count > 1:
            return Shape(COLUMNS, columns=tuple(inside))
    return Shape(VALUES)  # one row


def _is_list_of(kind: str, outline: _Outline | None) -> bool:
    return outline is not None and outline.kind == "[" and outline.count > 0 and outline.first == kind


def _of_one_length(columns: dict[str, _Outline]) -> bool:
    return len({column.count for column in columns.values()}) == 1 and next(iter(columns.values())).count > 1


def _path_to_rows(whole: _Outline) -> tuple[str, ...]:
    """The keys that lead to the only array of objects on the highest level that has one; () where there is none."""
    level = {(): whole}
    for _ in range(DEEPEST_ROWS):
        level = {(*path, key): inner for path, outer in level.items() for key, inner in outer.inside.items()}
        arrays = [path for path, value in level.items() if _is_list_of("{", value)]
        if len(arrays) > 1:
            raise Ambiguous(", ".join(repr(".".join(path)) for path in arrays))
        if arrays:
            return arrays[0]
    return ()


# === Reading by it ===


def rows(opened: Opened, shape: Shape, names: Sequence[str] | None = None) -> Iterator[tuple[int, object]]:
    """The rows of a file of any shape but LINES, and the line of each. A row may turn out to be no object.

    Args:
        opened: opens the file as text.
        shape: what `find` said.
        names: columns that are wanted, as names or paths; None for all.

    Raises:
        BrokenJson: something is wrong, from where on nothing can be read.
    """
    if shape.kind == COLUMNS:
        yield from _from_columns(opened, shape, names)
        return
    with opened() as stream:
        cursor = Cursor(stream)
        if shape.kind == SPLIT:
            yield from _from_lists(opened, cursor)
            return
        cursor.go_to(shape.path)
        for _ in _stops(cursor, shape):
            line = cursor.line
            yield line, cursor.value()
        if not shape.path:
            cursor.end()


def _stops(cursor: Cursor, shape: Shape) -> Iterator[object]:
    if shape.kind == VALUES:
        return cursor.values()
    return cursor.members() if shape.kind == INDEX else cursor.elements()


def _from_lists(opened: Opened, cursor: Cursor) -> Iterator[tuple[int, object]]:
    with opened() as stream:
        header = Cursor(stream)
        header.go_to(("columns",))
        names = [str(name) for name in header.value()]
    cursor.go_to(("data",))
    for _ in cursor.elements():
        line, values = cursor.line, cursor.value()
        fits = isinstance(values, list) and len(values) == len(names)
        yield line, dict(zip(names, values, strict=True)) if fits else values


def _from_columns(opened: Opened, shape: Shape, names: Sequence[str] | None) -> Iterator[tuple[int, object]]:
    """A cursor for each column walks through the file, so that no column is held."""
    wanted = [column for column in shape.columns if names is None or any(_leads_to(column, name) for name in names)]
    with ExitStack() as stack:
        columns = [_values_of(Cursor(stack.enter_context(opened())), shape.path, column) for column in wanted]
        missing = object()
        for number, found in enumerate(zip_longest(*columns, fillvalue=missing), start=1):
            if missing in found:
                short = wanted[found.index(missing)]
                raise BrokenJson(f"column {short!r} has {number - 1} values, another one has more")
            if len({key for key, _, _ in found}) > 1:
                keys = " and ".join(f"{key!r} in {column!r}" for column, (key, _, _) in zip(wanted, found, strict=True))
                raise BrokenJson(f"value {number} of the columns is of different rows: {keys}")
            yield found[0][1], {column: value for column, (_, _, value) in zip(wanted, found, strict=True)}


def _leads_to(column: str, name: str) -> bool:
    return name == column or name.startswith(f"{column}.")


def _values_of(cursor: Cursor, path: tuple[str, ...], column: str) -> Iterator[tuple[str | None, int, object]]:
    cursor.go_to((*path, column))
    for key in cursor.members() if cursor.peek() == "{" else cursor.elements():
        line = cursor.line
        yield key, line, cursor.value()
