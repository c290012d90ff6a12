"""Spans: data that arrive in numbered portions, `data-{SPAN}/` or `reviews-{SPAN}.csv`, and the window of the newest.

The term is TFX's. A span is a number, such as a day's 20261122. A row keeps its split from span to span, because the
hash of its text decides on the split.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from bertline.errors import UserError

PLACEHOLDER = "{SPAN}"


def window(sources: Sequence[str], base_folder: str, newest: int | None) -> list[int]:
    """The spans to read, ascending; [] where no source has {SPAN}.

    Args:
        sources: as in DataOptions.
        base_folder: where relative paths start.
        newest: how many of the newest spans to read; None for all.

    Raises:
        UserError: no span is there, or two names stand for the same one.
    """
    spans = sorted({span for source in sources for span in _spans_of(source, base_folder)})
    return spans[-newest:] if newest else spans


def resolve(sources: Sequence[str], base_folder: str, newest: int | None) -> list[str]:
    """The sources with {SPAN} filled in for each span of the window; arguments and errors as `window`."""
    spans = window(sources, base_folder, newest)
    resolved = []
    for source in sources:
        filled_in = _spans_of(source, base_folder)
        resolved += [filled_in[span] for span in spans if span in filled_in] if PLACEHOLDER in source else [source]
    return resolved


def is_there(source: str, base_folder: str) -> bool:
    """Whether a source has no {SPAN}, or some span of it has come."""
    return PLACEHOLDER not in source or bool(_found(source, base_folder))


def next_file(source: str, base_folder: str) -> Path:
    """The file of a source with {SPAN} that the next span would be: one more than the highest number there is."""
    number = max(_found(source, base_folder), default=0) + 1
    return Path(base_folder) / Path(source.replace(PLACEHOLDER, str(number))).expanduser()


def check(source: str) -> None:
    """Raises ValueError for a {SPAN} that cannot be matched."""
    if PLACEHOLDER not in source:
        return
    if source.count(PLACEHOLDER) > 1:
        raise ValueError(f"{source!r} has {PLACEHOLDER} more than once; keep one")
    head, name, _ = _parts(source)
    if glob.has_magic(head + name.replace(PLACEHOLDER, "")):
        raise ValueError(f"{source!r}: wildcards may stand after the name that has {PLACEHOLDER}, not in or before it")


def _spans_of(source: str, base_folder: str) -> dict[int, str]:
    """Span -> the source with it filled in as the file system has it, leading zeros and all."""
    if PLACEHOLDER not in source:
        return {}
    sources = _found(source, base_folder)
    if not sources:
        folder, name = _folder(source, base_folder), _parts(source)[1]
        raise UserError(
            f"data source {source!r}: no span is there yet (looked in {folder} for {name.replace(PLACEHOLDER, '1')}, "
            "with any number). Correct the pattern in the config."
        )
    return sources


def _folder(source: str, base_folder: str) -> Path:
    return Path(base_folder) / Path(_parts(source)[0]).expanduser()


def _found(source: str, base_folder: str) -> dict[int, str]:
    """As `_spans_of`, and {} where there is none."""
    head, name, rest = _parts(source)
    folder = _folder(source, base_folder)
    pattern = re.compile(r"(\d+)".join(map(re.escape, name.split(PLACEHOLDER))))
    sources: dict[int, str] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.fullmatch(entry.name):
            span = int(match[1])
            if span in sources:
                raise UserError(
                    f"data source {source!r}: {sources[span]} and {head}{entry.name} are both span {span}. Rename or "
                    "remove one."
                )
            sources[span] = f"{head}{entry.name}{rest}"
    return sources


def _parts(source: str) -> tuple[str, str, str]:
    """What is before the file name that has {SPAN}, that name, and what is after it."""
    before, after = source.split(PLACEHOLDER, 1)
    head, slash, prefix = before.rpartition("/")
    suffix, further, rest = after.partition("/")
    return head + slash, prefix + PLACEHOLDER + suffix, further + rest
