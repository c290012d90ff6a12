"""JSON Lines: an object per line, whose keys are the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

from bertline.components.data import decoding
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

SAMPLED_ROWS = 100  # keys may differ from row to row, so one row does not tell the columns


class JsonLines(Reader):
    """Reads a file of JSON objects, one per line."""

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader; the keys of the first SAMPLED_ROWS objects."""
        decoding.refuse_binary(file, options)
        with decoding.open_text(file, options) as stream:
            lines = list(islice((line for line in stream if line.strip()), SAMPLED_ROWS))
        if lines and lines[0].lstrip().startswith("["):
            raise UserError(
                f"{file.name}: this is a JSON array, not JSON Lines: write one object per line "
                "(`jq -c '.[]' FILE` does it)."
            )
        objects = [value for value in map(_parsed, lines) if isinstance(value, dict)]
        keys = dict.fromkeys(key for held in objects for key, value in held.items() if not _is_nested(value))
        if lines and not keys:
            raise UserError(
                f"{file.name}: the first {len(lines)} lines hold no JSON object with plain values; write one object "
                "per line, or set data.format."
            )
        return list(keys)

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader; a key that an object lacks has no value there."""
        with decoding.open_text(file, options) as stream:
            filled = ((line_number, line) for line_number, line in enumerate(stream, start=1) if line.strip())
            for number, (line_number, line) in enumerate(filled, start=1):
                value = _parsed(line)
                why = _why_unusable(value, names)
                if why:
                    yield Row(number, (), Fault(BROKEN_LINE, f"{why} (line {line_number})", excerpt(line)))
                else:
                    yield Row(number, tuple(as_text(value.get(name)) for name in names))


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


def _why_unusable(value: object, names: Sequence[str]) -> str | None:
    if isinstance(value, ValueError):
        return f"not JSON: {value}"
    if not isinstance(value, dict):
        return f"a {type(value).__name__}, not an object"
    nested = next((name for name in names if _is_nested(value.get(name))), None)
    return nested and f"column {nested!r} holds a {type(value[nested]).__name__}, not a text"


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list)


def as_text(value: object) -> str | None:
    """A plain value as the text that stands for it in JSON; strings and None as they are."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)
