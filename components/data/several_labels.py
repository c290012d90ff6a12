"""Labels that look like several labels in one cell, such as health|tech or ["health", "tech"]."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from bertline.components.data.label_cells import listed

SEPARATORS = ("|", ";", ",")
IN_NAMES = ("/", "+", "&", "#", "\n", "\t", " ")  # separators that stand as often within the name of one label


class Guess(NamedTuple):
    """What such cells are: the config's data.multi_label, one of them, and the rows of each of their labels."""

    multi_label: dict[str, Any]
    example: str
    rows: dict[str, int]


def guess(cells: Mapping[str, int]) -> Guess | None:
    """How cells hold several labels; None where each seems to be one label.

    They are lists if all are written as lists, and one holds several or is empty or quotes them. They are separated if
    cells differ in how many parts they have, and the parts are fewer than the cells: a name with a comma of its own
    brings parts that stand nowhere else. Of separators that names hold too, such as a space, at least two cells have
    several parts, and each part is the only one of another cell.

    Args:
        cells: what stands in a column of labels -> rows.
    """
    if len(cells) < 2:
        return None
    parts = {cell: listed(cell) for cell in cells}
    if all(labels is not None for labels in parts.values()) and any(map(_is_surely_list, cells, parts.values())):
        return _guessed({"lists": True}, cells, parts)
    for separator in (*SEPARATORS, *IN_NAMES):
        parts = {cell: [part.strip() for part in cell.split(separator) if part.strip()] for cell in cells}
        names = {name for labels in parts.values() for name in labels}
        counts = {len(labels) for labels in parts.values()}
        # A cell of nothing but the separator, such as "|", is a label of that name.
        if len(counts) < 2 or max(counts) < 2 or len(names) >= len(cells):
            continue
        several = sum(len(labels) > 1 for labels in parts.values())
        if separator in SEPARATORS or (several > 1 and names <= cells.keys()):
            return _guessed({"separator": separator}, cells, parts)
    return None


def _is_surely_list(cell: str, labels: list[str]) -> bool:
    """[] and [a, b] are lists, and ["a"] is one for its quotes; [a] may be a name."""
    return len(labels) != 1 or cell.strip()[1:2] in ("'", '"')


def _guessed(multi_label: dict[str, Any], cells: Mapping[str, int], parts: Mapping[str, list[str]]) -> Guess:
    rows: Counter[str] = Counter()
    for cell, labels in parts.items():
        for name in sorted(set(labels)):
            rows[name] += cells[cell]
    example = max(cells, key=lambda cell: (len(parts[cell]), cells[cell]))
    return Guess(multi_label, example, dict(rows.most_common()))


def written(multi_label: Mapping[str, Any]) -> str:
    """The line to add to a config, such as multi_label: {separator: "|"}."""
    (key, value), *_ = multi_label.items()
    return f"multi_label: {{{key}: {json.dumps(value)}}}"
