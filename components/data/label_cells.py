"""The labels of a row, from the cells that hold them: one label, several in a cell, or a cell for each label."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from bertline.components.options import DataOptions

# What people and programs write for 1 and 0, in lower case. 1.0 is what a column of numbers with a gap in it becomes.
YES = frozenset({"1", "1.0", "true", "t", "yes", "y"})
NO = frozenset({"0", "0.0", "false", "f", "no", "n"})


def read(cells: Sequence[str], options: DataOptions) -> tuple[tuple[str, ...], str]:
    """The labels of a row.

    Args:
        cells: that of data.label, or one for each of multi_label.columns; "" for a missing value. There may be more.
        options: how a file writes labels.

    Returns:
        The labels, sorted, each once, and why they cannot be known ("" where they are).
    """
    several = options.multi_label
    if several is None:
        label = cells[0].strip()
        return ((label,), "") if label else ((), f"column {options.label!r} is empty")
    if several.columns:
        return _of_columns(cells, several.columns)
    if several.lists and cells[0].strip():
        if (labels := listed(cells[0])) is None:
            return (), f"column {options.label!r}: {cells[0][:60]!r} is no list of labels"
        return _each_once(labels), ""
    labels = _each_once(cells[0].split(several.separator))
    unlabelled = not labels and several.empty == "quarantine"
    return labels, f"column {options.label!r} is empty" if unlabelled else ""


def _each_once(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({label.strip() for label in labels} - {""}))


def _of_columns(cells: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    labels = []
    for name, cell in zip(names, cells, strict=False):
        word = cell.strip().lower()
        if word in YES:
            labels.append(name)
        elif word not in NO:
            return (), f"column {name!r}: {cell[:60]!r} is neither 0 nor 1"
    return tuple(sorted(labels)), ""


def listed(cell: str) -> list[str] | None:
    """The labels of a list that is written out, as JSON or as Python prints it; None where the text is no list of them.

    pandas writes a column of lists to CSV as Python prints it: ['health', 'tech'].
    """
    if not cell.strip().startswith(("[", "(", "{")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            labels = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(labels, list | tuple | set) and all(isinstance(label, str | int | float) for label in labels):
            return [label if isinstance(label, str) else json.dumps(label) for label in labels]
    return None


def contradiction(labels: tuple[str, ...], options: DataOptions) -> str:
    """What to say of a row whose text stands elsewhere with other labels.

    Args:
        labels: of the row.
        options: which columns hold them.
    """
    if options.multi_label is None:
        return f"column {options.label!r}: {labels[0]!r} here, another label elsewhere"
    where = "the label columns" if options.label_columns else f"column {options.label!r}"
    return f"{where}: {', '.join(map(repr, labels)) or 'no label'} here, other labels elsewhere"
