"""Fields of a row that is an object: found by name or by path, and as the text that stands for their values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

EXAMPLE_CHARACTERS = 40  # of a value, in a message
WHOLE_FLOATS = 2**53  # below it a float holds each whole number exactly


def value_of(row: Mapping[str, object], name: str) -> object:
    """A field's value; None where the row has none.

    A field of this very name wins. Otherwise "review.body" is the field "body" of the object in the field "review".
    """
    if name in row:
        return row[name]
    for place in range(len(name) - 1, 0, -1):  # the longest name first: one with a dot in it wins here too
        if name[place] == "." and isinstance(inner := row.get(name[:place]), dict):
            return value_of(inner, name[place + 1 :])
    return None


def leaves(row: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each field that is no object, by its path; an object's fields stand for it."""
    for name, value in row.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain_names(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """Names and paths of the fields that hold a plain value in some row, in the order in which they come.

    One that holds only null counts, unless other rows have a list or an object there.
    """
    rows = list(rows)
    found = [(name, value) for row in rows for name, value in leaves(row)]
    plain = {name for name, value in found if value is not None and not is_nested(value)}
    nested = {name for name, value in found if is_nested(value)}
    nested |= {name[:place] for name, _ in found for place in range(len(name)) if name[place] == "."}
    return list(dict.fromkeys(name for name, _ in found if name in plain or name not in nested))


def lists_in(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The fields that hold a list in some row and a plain value in none -> an example of the list."""
    rows = list(rows)
    plain = {name for row in rows for name, value in leaves(row) if not is_nested(value) and value is not None}
    lists: dict[str, str] = {}
    for row in rows:
        for name, value in leaves(row):
            if isinstance(value, list) and name not in plain:
                lists.setdefault(name, example(value))
    return lists


def is_nested(value: object) -> bool:
    """Whether a value is a list or an object, not a plain one."""
    return isinstance(value, dict | list)


def why_unusable(row: object, names: Sequence[str]) -> str | None:
    """Why a row has no plain values in these columns; None where it has, or has nothing there."""
    if not isinstance(row, dict):
        return f"{_kind(row)}, not an object"
    for name in names:
        if is_nested(value := value_of(row, name)):
            return f"column {name!r} holds {_kind(value)}, not a text: {example(value)}"
    return None


def as_text(value: object) -> str | None:
    """A plain value as text; None for none, and for a number that is none (NaN).

    Booleans are `true` and `false`. A whole number has no decimal point: 1.0 is 1, as whoever writes labels as numbers
    means the same by both.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < WHOLE_FLOATS else repr(value)
    return str(value)


def as_cell(value: object) -> str | None:
    """A value as text: a list or an object as JSON, a plain one as `as_text` writes it."""
    return json.dumps(value, ensure_ascii=False) if is_nested(value) else as_text(value)


def example(value: object) -> str:
    """The start of a list or an object, for a message."""
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= EXAMPLE_CHARACTERS else f"{written[:EXAMPLE_CHARACTERS]}..."


KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}


def _kind(value: object) -> str:
    return KINDS.get(type(value), "a number")
