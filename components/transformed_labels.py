"""What Transform made of the labels: an index per row, or of multi-label rows 1 or 0 for each label."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertline.models.features import LABEL_ID


def is_multi_label(spec: dict[str, Any]) -> bool:
    """Whether rows have several labels, by TFTransformOutput.transformed_feature_spec()."""
    return len(spec[LABEL_ID].shape) > 0


def names_of(labels: np.ndarray, names: list[str]) -> list[str] | list[list[str]]:
    """The label's name of each row, or the names of its labels.

    Args:
        labels: int [rows], or of multi-label rows [rows, labels], 1 or 0.
        names: in the order of the labels' indices.
    """
    if labels.ndim == 1:
        return [names[label] for label in labels]
    return [[names[label] for label in np.flatnonzero(of_row)] for of_row in labels]


def numbers_of(names_of_rows: list[str] | list[list[str]], names: list[str]) -> np.ndarray:
    """What `names_of` was given: int64 [rows], or of multi-label rows bool [rows, labels].

    Args:
        names_of_rows: each a label that is one of `names`, or a list of such labels.
        names: in the order of the labels' indices.
    """
    index = {name: position for position, name in enumerate(names)}
    if not names_of_rows or isinstance(names_of_rows[0], str):
        return np.array([index[label] for label in names_of_rows], np.int64)
    numbers = np.zeros((len(names_of_rows), len(names)), bool)
    for row, labels in enumerate(names_of_rows):
        numbers[row, [index[label] for label in labels]] = True
    return numbers
