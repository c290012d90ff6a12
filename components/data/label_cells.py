"""The labels of a row, from the cells that hold them: one label, several in a cell, or a cell for each label."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import tokenize
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from bertline.components.data import spellings
from bertline.components.options import DataOptions

# What people and programs write for 1 and 0, in lower case. 1.0 is what a column of numbers with a gap in it becomes.
YES = frozenset({"1", "1.0", "true", "t", "yes", "y"})
NO = frozenset({"0", "0.0", "false", "f", "no", "n"})
BRACKETS = ("[]", "()", "{}")  # around a list that is written out


class Cells(NamedTuple):
    """What the cells of a row say.

    Attributes:
        labels: those that count, sorted, each once.
        fault: why they cannot be known; "" where they are.
        left_out: without multi_label, the label that data.label_map leaves out; None where it does not.
        spelt: the labels in Unicode's NFC form, before data.label_map.
        recomposed: the file has one of them in another form.
    """

    labels: tuple[str, ...] = ()
    fault: str = ""
    left_out: str | None = None
    spelt: tuple[str, ...] = ()
    recomposed: bool = False

    @property
    def unusable(self) -> bool:
        """Whether the row goes to quarantine for its labels."""
        return bool(self.fault) or self.left_out is not None


def read(cells: Sequence[str], options: DataOptions) -> Cells:
    """The labels of a row, by their names in data.label_map.

    Args:
        cells: that of data.label, or one for each of multi_label.columns; "" for a missing value. There may be more.
        options: how a file writes labels.
    """
    several = options.multi_label
    empty = f"column {options.label!r} is empty"
    if several is None:
        spelt = spellings.composed(cells[0])
        name = options.label_map.get(spelt, spelt)
        left_out = spelt if name is None else None
        recomposed = spellings.is_recomposed(cells[0])
        return Cells((name,) if name else (), empty if name == "" else "", left_out, (spelt,), recomposed)
    if several.columns:
        return _of_columns(cells, several.columns)
    if several.lists and cells[0].strip():
        if (labels := listed(cells[0])) is None:
            return Cells(fault=f"column {options.label!r}: {cells[0][:60]!r} is no list of labels")
        return _each_once(labels, options)
    labels = _each_once(cells[0].split(several.separator), options)
    unlabelled = not labels.spelt and several.empty == "quarantine"
    return labels._replace(fault=empty) if unlabelled else labels


def _each_once(labels: Iterable[str], options: DataOptions) -> Cells:
    labels = list(labels)
    spelt = sorted({*map(spellings.composed, labels)} - {""})
    names = {options.label_map.get(label, label) for label in spelt} - {None}
    recomposed = any(map(spellings.is_recomposed, labels))
    return Cells(tuple(sorted(names)), spelt=tuple(spelt), recomposed=recomposed)


def _of_columns(cells: Sequence[str], names: Sequence[str]) -> Cells:
    labels = []
    for name, cell in zip(names, cells, strict=False):
        word = cell.strip().lower()
        if word in YES:
            labels.append(name)
        elif word not in NO:
            return Cells(fault=f"column {name!r}: {cell[:60]!r} is neither 0 nor 1")
    return Cells(tuple(sorted(labels)))


def listed(cell: str) -> list[str] | None:
    """The labels of a list that is written out; None where the text is no list of them.

    It may be written as JSON, as Python prints a list, a tuple or a set, as numpy prints an array (['health' 'tech']),
    as PostgreSQL does ({health,"food, drink"}), or as a list without quotes ([health, tech]). pandas writes a column of
    lists or arrays to CSV as they are printed.
    """
    cell = cell.strip()
    if cell[:1] + cell[-1:] not in BRACKETS:
        return None
    for parse in (json.loads, _python):
        try:
            labels = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if labels == {}:  # PostgreSQL's empty array
            return []
        if isinstance(labels, list | tuple | set) and all(isinstance(label, str | int | float) for label in labels):
            return [label if isinstance(label, str) else json.dumps(label) for label in labels]
        return None
    return _unquoted(cell[1:-1])


def _python(cell: str) -> object:
    """The value of a Python literal, or of an array of strings as numpy prints it; None where a comma is missing.

    Python joins strings that stand side by side, which in an array are two of its values.
    """
    value = ast.literal_eval(cell)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(cell).readline) if token.string.strip()]
    kinds = [token.type == tokenize.STRING for token in tokens]
    if (True, True) not in pairwise(kinds):
        return value
    return [ast.literal_eval(token.string) for token in tokens[1:-1]] if all(kinds[1:-1]) else None


def _unquoted(inside: str) -> list[str] | None:
    """The labels between the brackets of an array of PostgreSQL or numpy, or of a list without quotes."""
    if re.fullmatch(r"\s*-?\d+(\s+-?\d+)*\s*", inside):
        return inside.split()
    if re.search(r"['\[\](){}\r\n]", inside):
        return None
    try:
        (labels,) = csv.reader([inside], skipinitialspace=True, escapechar="\\", strict=True)
    except csv.Error:
        return None
    return [label.strip() for label in labels]


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
