"""What `bertline init` proposes where rows have several labels: in one cell, or in a column for each label."""

from __future__ import annotations

from typing import Any, NamedTuple

from bertline.components.data import several_labels
from bertline.components.data.label_cells import NO, YES, listed
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.pipeline.init.columns import Columns, choose_columns, holds_labels
from bertline.pipeline.init.survey import Survey

EMPTY_CELLS = DataOptions.model_fields["max_quarantined"].default  # a larger share of them means "no label"


class Several(NamedTuple):
    """The proposal.

    Attributes:
        columns: the texts, and in `label` the column of the labels, or the first of one for each label.
        labels: label -> rows, commonest first.
        multi_label: data.multi_label.
        reason: why.
    """

    columns: Columns
    labels: dict[str, int]
    multi_label: dict[str, Any]
    reason: str


def lists_of_labels(survey: Survey, label: str | None) -> str:
    """The column whose lists may be the rows' labels; "" where another column is named like a label.

    Args:
        survey: of the rows.
        label: the column that the person has named; None where not.
    """
    if label is not None:
        return label if label in survey.lists else ""
    named = [name for name in survey.lists if holds_labels(name)]
    return named[0] if len(named) == 1 and not any(map(holds_labels, survey.names)) else ""


def options_of(survey: Survey, label: str) -> DataOptions:
    """How the cells of the label's column are read."""
    column = survey.columns[label]
    found = None if column.many else several_labels.guess(column.values)
    return DataOptions(source=["."], label=label, multi_label=found and found.multi_label)


def find(survey: Survey, text: list[str], label: str | None) -> Several | None:
    """What the rows' several labels are; None where each row seems to have one.

    Args:
        survey: of the rows.
        text, label: the columns that the person has named; [] and None where not.
    """
    if label is None and (flags := _flags(survey, text)):
        columns = choose_columns(survey, text, flags[0])
        columns = columns._replace(slices=[name for name in columns.slices if name not in flags])
        labels = {name: sum(_rows_of(survey, name, YES)) for name in flags}
        labels = dict(sorted(labels.items(), key=lambda item: -item[1]))
        return Several(columns, labels, {"columns": flags}, "a column for each label, 1 where a row has it")
    columns = choose_columns(survey, text, label)
    column = survey.columns[columns.label]
    found = None if column.many else several_labels.guess(column.values)
    if found is None:
        return None
    empty = survey.rows - survey.faults.total() - column.filled
    empty += sum(rows for cell, rows in column.values.items() if listed(cell) == [])
    multi_label = dict(found.multi_label)
    reason = f"such as {found.example[:60]!r}"
    if multi_label.get("lists") and all(len(listed(cell)) < 2 for cell in column.values):
        reason += "; no row has more than one: in a column without lists each would have exactly one"
    if empty > EMPTY_CELLS * survey.rows:
        multi_label["empty"] = "no_label"
        reason += f"; {empty:,} rows have none"
    return Several(columns, found.rows, multi_label, reason)


def _flags(survey: Survey, text: list[str]) -> list[str]:
    """The columns that hold 0 or 1, where no other column is a likelier label."""
    flags = [name for name in survey.names if name not in text and _is_flag(survey, name)]
    if len(flags) < 2:
        return []
    try:
        likelier = choose_columns(survey, text, None).label not in flags
    except UserError:
        return flags
    return [] if likelier else flags


def _is_flag(survey: Survey, name: str) -> bool:
    column = survey.columns[name]
    values = {value.lower() for value in column.values}
    complete = column.filled == survey.rows - survey.faults.total()
    return complete and not column.many and values <= YES | NO and len(values) == 2


def _rows_of(survey: Survey, name: str, words: frozenset[str]) -> list[int]:
    return [rows for value, rows in survey.columns[name].values.items() if value.lower() in words]
