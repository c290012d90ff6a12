"""The test rows as the gates see them: labels, what each model answered, and which rows a slice has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertline.components.options import EvaluateOptions
from bertline.models import features

LENGTH_BUCKET = "text_length"
# Columns of predictions-test.parquet beside the model's own answers
PREVIOUS, TFIDF = "previous", "tfidf"


@dataclass(frozen=True)
class Answers:
    """The test rows as the gates see them.

    Attributes:
      classes: the label names.
      labels: int [rows], index of the true label.
      predicted: int [rows], index of the candidate's answer.
      previous: int [rows], the last blessed model's; len(classes) where that is none of them. None without a model.
      version: that model's.
      tfidf: int [rows], the baseline's answers; None without one.
      slices: slice name to bool [rows].
      groups: str [rows], the fairness gates' column; None without.
    """

    classes: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    previous: np.ndarray | None = None
    version: str = ""
    tfidf: np.ndarray | None = None
    slices: dict[str, np.ndarray] = field(default_factory=dict)
    groups: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        """bool [rows], where the candidate's answer is the label."""
        return self.predicted == self.labels

    @property
    def confusion(self) -> np.ndarray:
        """int [labels, labels], rows are true labels, columns the candidate's answers."""
        size = len(self.classes)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)


def from_table(table: dict[str, list[Any]], classes: list[str], version: str, options: EvaluateOptions) -> Answers:
    """The answers of a table of test rows.

    Args:
      table: columns `text`, `label`, `predicted` and the kept ones, each [rows]; where there is one, `previous`, the
        last blessed model's labels, and `tfidf`, the baseline's.
      classes: the candidate's label names.
      version: of the last blessed model, "" without one.
      options: name the slices, and the groups of the fairness gates.
    """
    index = {name: position for position, name in enumerate(classes)}

    def indices(column: str) -> np.ndarray | None:
        return np.array([index.get(label, len(index)) for label in table[column]]) if column in table else None

    slices = {}
    for name, values in slice_columns(table, options).items():
        column = np.array(values)
        slices |= {f"{name}={value}": column == value for value in np.unique(column)}
    fairness = options.gates.fairness
    return Answers(
        classes,
        indices(features.LABEL),
        indices("predicted"),
        previous=indices(PREVIOUS),
        version=version,
        tfidf=indices(TFIDF),
        slices=slices,
        groups=np.array(table[fairness.column]) if fairness else None,
    )


def slice_columns(table: dict[str, list[Any]], options: EvaluateOptions) -> dict[str, list[str]]:
    """The columns that slice the rows: the config's, and the bucket of each text's length. Each [rows]."""
    columns = {name: table[name] for name in options.slices}
    if options.length_buckets:
        columns[LENGTH_BUCKET] = [length_bucket(len(text), options.length_buckets) for text in table[features.TEXT]]
    return columns


def length_bucket(characters: int, bounds: list[int]) -> str:
    """The text-length slice of a text, such as "0-49", "50-99" or "100+" characters."""
    lower = 0
    for bound in sorted(bounds):
        if characters < bound:
            return f"{lower}-{bound - 1}"
        lower = bound
    return f"{lower}+"
