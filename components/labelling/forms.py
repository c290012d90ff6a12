"""What a person labels in: a CSV file, or a file that a labelling tool imports.

- CSV: the columns of the files, the label's to fill in, and what the model suggests. Filled in, it is read as data.
- Label Studio: tasks with predictions (https://labelstud.io/guide/predictions), and beside them a labelling interface,
  whose names the predictions use.
- Argilla: the records that `dataset.records.from_json` reads, as `Record.to_dict` writes them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from bertline.components import spreadsheet
from bertline.components.labelling.pool import label_columns
from bertline.components.options import DataOptions
from bertline.components.scoring.cut import text_columns
from bertline.errors import UserError

Format = Literal["csv", "label-studio", "argilla"]
ENDINGS: dict[str, Format] = {".csv": "csv", ".json": "label-studio"}
SUGGESTED, PROBABILITY, SOURCE, ROW_ID = "suggested_label", "suggested_probability", "from_row", "row_id"
OURS = (SUGGESTED, PROBABILITY, SOURCE, ROW_ID)
INTERFACE_ENDING = ".xml"


class Suggestion(NamedTuple):
    """What a model answers: its labels, one without data.multi_label, and the probability of each."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


class Item(NamedTuple):
    """A row to label.

    Attributes:
        source: FILE:ROW.
        row_id: 32 hex digits.
        values: by the files' columns, without those of labels.
        suggestion: None without a model.
    """

    source: str
    row_id: str
    values: dict[str, str]
    suggestion: Suggestion | None


class Sheet(NamedTuple):
    """What is written.

    Attributes:
        items: in the order in which they should be labelled.
        options: the task's columns.
        labels: the task's, as far as they are known.
        model: the name of what suggests; "" without one.
    """

    items: list[Item]
    options: DataOptions
    labels: Sequence[str]
    model: str


def format_of(output: Path, given: Format | None) -> Format:
    """The format of a file to write.

    Raises:
        UserError: its name tells none.
    """
    if given:
        return given
    if output.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{output}: the ending tells no format. End it in .csv, or in .json for Label Studio, or say --format: "
            "csv, label-studio, argilla."
        )
    return ENDINGS[output.suffix.lower()]


def interface_of(output: Path) -> Path:
    """Where Label Studio's labelling interface is written."""
    return output.with_suffix(INTERFACE_ENDING)


def write(sheet: Sheet, output: Path, format: Format, *, guard: bool) -> int:
    """Writes the file, and Label Studio's interface beside it where the labels are known.

    Args:
        sheet: what to write.
        output: the file; it is replaced.
        format: as `format_of` gives it.
        guard: whether cells of CSV that a spreadsheet would run get an apostrophe.

    Returns:
        How many cells a spreadsheet would run, or would have run.

    Raises:
        UserError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if format == "csv":
            return _write_csv(sheet, output, guard=guard)
        made = tasks(sheet) if format == "label-studio" else records(sheet)
        output.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if format == "label-studio" and sheet.labels:
            interface_of(output).write_text(interface(sheet), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}. Name a file elsewhere.") from error
    return 0


# === CSV ===


def columns(sheet: Sheet) -> list[str]:
    """The CSV file's: what the config reads is all there, so that the file is a portion of its data."""
    of_files = dict.fromkeys(name for item in sheet.items for name in item.values)
    named = dict.fromkeys([*of_files, *sheet.options.keep])
    labels = label_columns(sheet.options)
    return [*(name for name in named if name not in (*OURS, *labels)), *labels, *OURS]


def _write_csv(sheet: Sheet, output: Path, *, guard: bool) -> int:
    names, guarded = columns(sheet), 0

    def cell(value: str) -> str:
        nonlocal guarded
        safe = spreadsheet.guarded(value)
        guarded += safe is not value
        return safe if guard else value

    with open(output, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        for item in sheet.items:
            suggested = _cells(item.suggestion, sheet.options)
            values = {**item.values, **suggested, SOURCE: item.source, ROW_ID: item.row_id}
            values |= dict.fromkeys(label_columns(sheet.options), "")  # what a person fills in
            rows.writerow([cell(values.get(name, "")) for name in names])
    return guarded


def _cells(suggestion: Suggestion | None, options: DataOptions) -> Mapping[str, str]:
    """The suggestion as the config's files write labels."""
    if suggestion is None:
        return {}
    numbers = [f"{probability:.4f}" for probability in suggestion.probabilities]
    several = options.multi_label
    if several is None:
        return {SUGGESTED: suggestion.labels[0], PROBABILITY: numbers[0]}
    if several.separator is not None:
        return {SUGGESTED: several.separator.join(suggestion.labels), PROBABILITY: several.separator.join(numbers)}
    return {SUGGESTED: json.dumps(suggestion.labels, ensure_ascii=False), PROBABILITY: f"[{', '.join(numbers)}]"}


def _suggests(item: Item) -> bool:
    """Whether there is a label to suggest. To the tools no label is no suggestion."""
    return item.suggestion is not None and bool(item.suggestion.labels)


# === Label Studio ===


def tasks(sheet: Sheet) -> list[dict[str, Any]]:
    """Label Studio's tasks: each row's columns, and the suggestion as a prediction of the choices."""
    return [
        {
            "data": {**item.values, SOURCE: item.source, ROW_ID: item.row_id},
            **({"predictions": [_prediction(item.suggestion, sheet)]} if _suggests(item) else {}),
        }
        for item in sheet.items
    ]


def _prediction(suggestion: Suggestion, sheet: Sheet) -> dict[str, Any]:
    choices = {
        "from_name": sheet.options.label,
        "to_name": text_columns(sheet.options)[0],
        "type": "choices",
        "value": {"choices": list(suggestion.labels)},
    }
    score = min(suggestion.probabilities)  # of the label that is the least sure
    return {"model_version": sheet.model, "score": round(score, 6), "result": [choices]}


def interface(sheet: Sheet) -> str:
    """The labelling interface (XML): the texts, and the labels as choices."""
    view = ElementTree.Element("View")
    texts = text_columns(sheet.options)
    for name in texts:
        ElementTree.SubElement(view, "Text", name=name, value=f"${name}")
    choice = "single" if sheet.options.multi_label is None else "multiple"
    choices = ElementTree.SubElement(view, "Choices", name=sheet.options.label, toName=texts[0], choice=choice)
    for label in sheet.labels:
        ElementTree.SubElement(choices, "Choice", value=label)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


# === Argilla ===


def records(sheet: Sheet) -> list[dict[str, Any]]:
    """Argilla's records: the texts are fields, the other columns metadata, the suggestion one for the label."""
    texts = text_columns(sheet.options)
    return [
        {
            "id": item.row_id,
            "fields": {name: item.values[name] for name in texts},
            "metadata": {name: value for name, value in item.values.items() if name not in texts}
            | {SOURCE: item.source},
            "suggestions": {sheet.options.label: _suggestion(item.suggestion, sheet)} if _suggests(item) else {},
            "responses": {},
            "vectors": {},
        }
        for item in sheet.items
    ]


def _suggestion(suggestion: Suggestion, sheet: Sheet) -> dict[str, Any]:
    numbers = [round(probability, 6) for probability in suggestion.probabilities]
    if sheet.options.multi_label is None:
        return {"value": suggestion.labels[0], "score": numbers[0], "agent": sheet.model}
    return {"value": list(suggestion.labels), "score": numbers, "agent": sheet.model}
