"""Files beside the training file that its name tells to be the test or the validation rows: train.csv and test.csv."""

from __future__ import annotations

import re
from pathlib import Path

from bertline.components.data import spellings
from bertline.components.data.folders import SPLIT_NAMES
from bertline.components.data.packing import without_packing
from bertline.errors import UserError
from bertline.models import packages
from bertline.pipeline.init.columns import Columns
from bertline.pipeline.init.survey import TRAIN, Survey, take_survey

LISTED_LABELS = 3  # in a warning


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
    """The files beside the training rows that can be taken as its splits, and a warning for each that cannot.

    Args:
        survey: of the training rows.
        columns: of the task.
    """
    if len(survey.sources) > 1 or not isinstance(survey.source, str):
        return {}, []
    given, warnings = {}, []
    for split, source in find(survey.source).items():
        if fault := _why_not(source, survey, columns):
            name = source.rpartition("/")[2]
            warnings.append(f"{name} beside it is not taken as data.{split}_source: {fault}")
        else:
            given[split] = source
    return given, warnings


def _why_not(source: str, survey: Survey, columns: Columns) -> str:
    """Why rows cannot be a split of the task; "" where they can."""
    try:
        other = take_survey(source)
    except UserError as error:
        return str(error)
    needed = [*columns.text, *([columns.text_pair] if columns.text_pair else []), columns.label]
    if missing := [name for name in needed if name not in other.names]:
        return f"it has no column {', '.join(map(repr, missing))}, so its rows have nothing to be judged by"
    known = {spellings.composed(label) for label in survey.columns[columns.label].values}
    labels = {spellings.composed(label) for label in other.columns[columns.label].values}
    if not labels:
        return f"its column {columns.label!r} is empty"
    if new := sorted(labels - known):
        more = ", ..." if len(new) > LISTED_LABELS else ""
        return f"no training row has its label {', '.join(map(repr, new[:LISTED_LABELS]))}{more}"
    if survey.encoding != other.encoding:
        return f"it is {other.encoding} and the training rows are {survey.encoding}, but all files are read in one"
    return ""
