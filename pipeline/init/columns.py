"""Which column of a surveyed file is the text and which the label, by their names and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bertline.components.data.columns import joined, list_column
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import features
from bertline.pipeline.init.survey import MOST_VALUES, Survey

# Names that people give to the columns, the most telling first.
TEXT_NAMES = (
    *("text", "tweet", "review", "sentence", "comment", "message", "content", "body", "utterance", "query", "question"),
    *("document", "post", "description", "headline", "title", "premise"),
)
LABEL_NAMES = (
    *("label", "class", "category", "sentiment", "target", "intent", "topic", "emotion", "stance", "rating", "stars"),
    *("polarity", "tag", "type", "y"),
)
PAIRS = (("premise", "hypothesis"), ("question", "answer"), ("question", "passage"), ("query", "document"))

# Columns that say in a few words what the text beside them says.
TITLE_NAMES = ("title", "headline", "subject", "summary", "heading")

MOST_SLICES = 20  # values of a column that is worth slicing by
FILLED = 0.9  # share of the rows that have a value in such a column


class Columns(NamedTuple):
    """The columns of a task.

    Attributes:
        text: one, or several to join.
        text_pair: None where rows have one text.
        label: the label's.
        slices: those that could slice the test rows.
    """

    text: list[str]
    text_pair: str | None
    label: str
    slices: list[str]

    @property
    def used(self) -> list[str]:
        """All of them but for slices."""
        return [*self.text, *([self.text_pair] if self.text_pair else []), self.label]

    def texts(self, survey: Survey, options: DataOptions) -> list[tuple[str, ...]]:
        """The text of each sampled row, joined, or the two of a pair."""
        parts = zip(*map(survey.sampled, self.text), strict=True)
        sides = [[joined(row, options) for row in parts]]
        if self.text_pair:
            sides.append(survey.sampled(self.text_pair))
        return list(zip(*sides, strict=True))


def choose_columns(survey: Survey, text: Sequence[str], label: str | None) -> Columns:
    """The columns of the task.

    Args:
        survey: what the columns are like.
        text: the text columns, where the person has named them; else empty.
        label: the label column, where the person has named it.

    Raises:
        UserError: a named column does not exist, none looks like text or like a label, one would be both, or its name
            holds bytes that are not in the encoding.
    """
    for option, name in (*(("--text", name) for name in text), ("--label", label)):
        if name in survey.lists:
            raise UserError(list_column(survey.read_files[0], option.removeprefix("--"), name, survey.lists[name]))
        if name is not None and name not in survey.names:
            raise UserError(f"{option} {name}: no such column. Columns: {', '.join(map(repr, survey.names))}.")
    if label in text:
        raise UserError(f"--text and --label both name {label!r}: they must be different columns.")
    if len(survey.names) < 2:
        raise UserError(f"Only one column, {survey.names[0][:80]!r}: a text and a label are needed. {_why_one(survey)}")
    label = label or _guess_label(survey, text)
    pair = None if text else _guess_pair(survey, label)
    first, text_pair = pair or (None, None)
    text = [first] if first else list(text) or _with_title(survey, _guess_text(survey, label), label)
    columns = Columns(text, text_pair, label, [])
    if lost := [name for name in columns.used if name in survey.unreadable_names]:
        raise UserError(
            f"{survey.read_files[0].name}: the line of column names is not {survey.encoding.upper()}, so that "
            f"{lost[0]!r} cannot be named in a config. Correct that line, or save the file as UTF-8."
        )
    return columns._replace(slices=_slice_columns(survey, set(columns.used)))


def _why_one(survey: Survey) -> str:
    if survey.lists or survey.read_files[0].format not in ("csv", "tsv"):
        first = (
            "The first row that is not empty must name the columns. " if survey.read_files[0].format == "xlsx" else ""
        )
        return f"{_lists(survey)}{first}Write what is missing to a column of its own."
    if survey.names[0].startswith("__label__"):
        return "It looks like fastText's format: write each row as label, tab, text, without __label__."
    each = ", or name each file's label in one" if len(survey.read_files) > 1 else ""
    return (
        "No usual character separates its columns (comma, semicolon, tab, |). If another one does, save the file as "
        f".csv with commas; if the labels are elsewhere, write them to a column of their own{each}."
    )


# === The label ===


def holds_labels(name: str) -> bool:
    """Whether a column's name says that it holds labels, one or several of them."""
    words = re.split(r"[^a-z]+", name.lower())
    singular = (form for word in words for form in (word, word.removesuffix("s"), re.sub("ies$", "y", word)))
    return any(form in LABEL_NAMES for form in singular)


def _guess_label(survey: Survey, text: Sequence[str]) -> str:
    """The column of few values that is named like a label, else the one of fewest values that are not numbers."""
    candidates = [name for name in survey.names if name not in text and _could_be_label(survey, name)]
    if not candidates:
        raise UserError(
            f"No column looks like a label (few different values, each several times). {_described(survey)}"
        )

    def unlikeliness(name: str) -> tuple[int, bool, int]:
        return _rank(name, LABEL_NAMES), _are_fractions(survey, name), _spread(survey, name)

    return min(candidates, key=unlikeliness)


def _could_be_label(survey: Survey, name: str) -> bool:
    column = survey.columns[name]
    named = _rank(name, LABEL_NAMES) < len(LABEL_NAMES)
    # A column named like a label is taken even where it turns out to have one value: the error then says so.
    repeated = 2 <= len(column.values) <= column.filled / 2 or named
    return bool(column.filled) and not column.many and repeated


def _are_fractions(survey: Survey, name: str) -> bool:
    return all(re.fullmatch(r"-?\d*\.\d+", value) for value in survey.columns[name].values)


def _spread(survey: Survey, name: str) -> int:
    return len(survey.columns[name].values)


# === The text ===


def _guess_text(survey: Survey, label: str) -> str:
    """The column named like a text, unless another one's values are three times as long; else the longest."""
    candidates = [name for name in survey.names if name != label and _could_be_text(survey, name)]
    if not candidates:
        raise UserError(f"No column looks like text (words, most rows different). {_described(survey)}")
    longest = max(candidates, key=lambda name: survey.columns[name].mean_characters)
    named = min(candidates, key=lambda name: (_rank(name, TEXT_NAMES), -survey.columns[name].filled))
    long_enough = survey.columns[named].mean_characters * 3 >= survey.columns[longest].mean_characters
    return named if _rank(named, TEXT_NAMES) < len(TEXT_NAMES) and long_enough else longest


def _with_title(survey: Survey, text: str, label: str) -> list[str]:
    """The text with the title that stands beside it, the title first; only the text where there is none.

    A title that the text begins with anyway is left out.
    """
    others = [name for name in survey.names if name not in (text, label) and _could_be_text(survey, name)]
    if _rank(text, TITLE_NAMES) < len(TITLE_NAMES):
        title, bodies = text, [name for name in others if _mean(survey, name) > _mean(survey, text)]
        body = max(bodies, key=lambda name: _mean(survey, name), default=None)
    else:
        titles = [name for name in others if _rank(name, TITLE_NAMES) < len(TITLE_NAMES)]
        title, body = min(titles, key=lambda name: _rank(name, TITLE_NAMES), default=None), text
    if title is None or body is None:
        return [text]
    pairs = list(zip(survey.sampled(title), survey.sampled(body), strict=True))
    repeated = sum(whole.strip().startswith(start.strip()) for start, whole in pairs)
    return [body] if repeated > len(pairs) / 2 else [title, body]


def _mean(survey: Survey, name: str) -> float:
    return survey.columns[name].mean_characters


def _could_be_text(survey: Survey, name: str) -> bool:
    values = [value for value in survey.sampled(name) if value.strip()]
    # \w without digits and underscore: letters of any script, and Chinese texts hold no spaces.
    lettered = sum(bool(re.search(r"[^\W\d_]{2}", value)) for value in values)
    worded = sum(len(value.split()) > 1 or not value.isascii() for value in values)
    return bool(values) and lettered > 0.5 * len(values) and worded > 0.3 * len(values)


def _guess_pair(survey: Survey, label: str) -> tuple[str, str] | None:
    names = {name.lower(): name for name in survey.names if name != label and _could_be_text(survey, name)}
    numbered = [(name, re.sub(r"(1|a)$", lambda end: {"1": "2", "a": "b"}[end[0]], name)) for name in names]
    for first, second in (*PAIRS, *numbered):
        if first != second and first in names and second in names:
            return names[first], names[second]
    return None


# === Both ===


def _rank(name: str, known: tuple[str, ...]) -> int:
    """Place of the first known word that the column's name is or holds; len(known) where there is none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((place for place, word in enumerate(known) if word in words), len(known))


def _described(survey: Survey) -> str:
    def column_described(name: str) -> str:
        column = survey.columns[name]
        values = f"over {MOST_VALUES}" if column.many else str(len(column.values))
        return f"{name[:60]!r} ({values} different values, {column.mean_characters:.0f} characters on average)"

    shown = ", ".join(column_described(name) for name in survey.names[:10])
    sheet = ""
    if survey.sheet is not None:
        sheet = f"This is the sheet {survey.sheet!r}, the first of several: move the one with the texts to the front. "
    return f"Columns: {shown}. {_lists(survey)}{sheet}Name them with --text and --label, or correct the file."


def _lists(survey: Survey) -> str:
    """Names the columns of lists, which are no text and no label."""
    if not survey.lists:
        return ""
    shown = ", ".join(f"{name!r} ({held})" for name, held in list(survey.lists.items())[:5])
    return f"Lists are neither a text nor a label: {shown}. "


def _slice_columns(survey: Survey, used: set[str | None]) -> list[str]:
    """Other columns of 2 to MOST_SLICES values that nearly all rows have, under names that may be kept."""
    taken = {*used, *survey.repeated, *survey.unreadable_names, *features.RESERVED}
    free = [name for name in survey.names if name not in taken]
    few = [name for name in free if 2 <= _spread(survey, name) <= MOST_SLICES]
    return sorted(name for name in few if survey.columns[name].filled >= FILLED * survey.rows)
