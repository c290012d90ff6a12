"""Files beside the training file that its name tells to be the test or the validation rows: train.csv and test.csv."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bertline.components.data import label_cells
from bertline.components.data.folders import SPLIT_NAMES
from bertline.components.data.packing import without_packing
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline.init import encoding, several
from bertline.pipeline.init.columns import Columns
from bertline.pipeline.init.survey import TRAIN, Column, Survey, take_survey

LISTED_LABELS = 3  # in a warning
WIDE = ("utf-16", "utf-32")  # encodings with more than a byte per letter, also per one of ASCII's


def find(source: str) -> dict[str, str]:
    """The split -> its source, as the train source is written; without train, and {} where its name does not say it.

    Args:
        source: an absolute path or package://NAME/PATH of the training rows.
    """
    path = packages.resolve(source) if source.startswith(packages.SCHEME) else Path(source)
    if not path.exists():  # a glob, or a table within a file
        return {}
    split, name = _split_and_rest(path)
    if split != TRAIN:
        return {}
    others: dict[str, list[str]] = {}
    for other in sorted(path.parent.iterdir()):
        of, rest = _split_and_rest(other)
        if of not in (None, TRAIN) and rest == name and other.is_dir() == path.is_dir():
            others.setdefault(of, []).append(other.name)
    stem = source.rstrip("/").rpartition("/")[0]
    # Where two names tell one split, such as val.csv and dev.csv, nobody knows which is meant.
    return {of: f"{stem}/{names[0]}" for of, names in others.items() if len(names) == 1}


def _split_and_rest(path: Path) -> tuple[str | None, str]:
    """The split that a name begins or ends with, and the name without it."""
    name = path.name.lower()
    ending = name[len(without_packing(name).rpartition(".")[0]) :] if "." in name else ""
    stem = re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", name.removesuffix(ending) if ending else name)
    for split, known in SPLIT_NAMES.items():
        for word in known:
            if match := re.fullmatch(rf"{word}(?:[-_. ]+(.+))?|(.+)[-_. ]+{word}", stem):
                return split, f"{match[1] or ''}*{match[2] or ''}{ending}"
    return None, name


def usable(survey: Survey, columns: Columns) -> tuple[dict[str, str], list[str]]:
    """The sources beside the training rows that can be taken as splits, and what to know of each.

    They are those that a folder has beside its training rows, or files beside the training file.

    Args:
        survey: of the training rows.
        columns: of the task.
    """
    if not isinstance(survey.source, str):
        return {}, []
    given, warnings = {}, []
    for split, source in (survey.offered or find(survey.source)).items():
        name = source.rpartition("/")[2]
        fault, absent = _judged(source, survey, columns)
        if fault:
            warnings.append(f"{name} beside it is not taken as data.{split}_source: {fault}")
            continue
        given[split] = source
        if absent:
            warnings.append(
                f"{name} has no row with {_listed(absent)}: the score will not tell how well such rows are known. If "
                f"that is no label, leave its rows out: data.label_map: {{{json.dumps(absent[0])}: null}}"
            )
    return given, warnings


def _judged(source: str, survey: Survey, columns: Columns) -> tuple[str, list[str]]:
    """Why rows cannot be a split of the task, "" where they can; and labels of the training rows that they lack."""
    try:
        other = take_survey(source, label_lists=survey.label_lists)
    except UserError as error:
        return str(error), []
    needed = [*columns.text, *([columns.text_pair] if columns.text_pair else []), columns.label]
    if missing := [name for name in needed if name not in other.names]:
        return f"it has no column {', '.join(map(repr, missing))}, so its rows have nothing to be judged by", []
    options = several.options_of(survey, columns.label)
    known, labels = (_labels(one.columns[columns.label], options) for one in (survey, other))
    if not labels:
        return f"its column {columns.label!r} is empty", []
    if new := sorted(labels - known):
        return f"no training row has its label {_listed(new)}", []
    if _cannot_be_read_together(survey, other):
        fault = f"it is {other.encoding} and the training rows are {survey.encoding}, but all files are read in one"
        return fault, []
    return "", sorted(known - labels)


def _labels(column: Column, options: DataOptions) -> set[str]:
    return {name for cell in column.values for name in label_cells.read([cell], options).labels}


def _listed(labels: list[str]) -> str:
    return ", ".join(map(repr, labels[:LISTED_LABELS])) + (", ..." if len(labels) > LISTED_LABELS else "")


def _cannot_be_read_together(survey: Survey, other: Survey) -> bool:
    """Whether no one encoding reads both. ASCII is a part of all that have a byte per letter."""
    if survey.encoding == other.encoding:
        return False
    if any(one.encoding.startswith(WIDE) for one in (survey, other)):
        return True
    return any(one.encoding == "utf-8" and not encoding.are_ascii(one.read_files) for one in (survey, other))
