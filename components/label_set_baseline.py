"""The baseline of rows with any number of labels: one TF-IDF, and a logistic regression for each label."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertline.components import baseline
from bertline.components.answers import multi_hot
from bertline.models import features, thresholds


def fit_and_answer(
    train: dict[str, list[Any]], validation: dict[str, list[Any]], test: dict[str, list[Any]]
) -> list[list[str]]:
    """The labels that the baseline gives to the test rows, [rows].

    As for the model that it is compared with, the threshold of each label is tuned on the validation rows.

    Args:
        train: columns `text`, `text_pair` and `label`, each [rows]; a row's label is a list of names.
        validation: the same.
        test: columns `text` and `text_pair`.
    """
    classes = sorted({label for labels in train[features.LABEL] for label in labels})
    fitted = OneAgainstRest(train, classes)
    tuned = thresholds.tune(fitted.probabilities(validation), multi_hot(validation[features.LABEL], classes))
    given = fitted.probabilities(test) >= np.array([each.value for each in tuned])
    return [[classes[label] for label in np.flatnonzero(of_row)] for of_row in given]


class OneAgainstRest:
    """The single-label baseline's features, with its logistic regression once per label.

    Args:
        train: as in fit_and_answer.
        classes: the labels.
    """

    def __init__(self, train: dict[str, list[Any]], classes: list[str]):
        from sklearn.multiclass import OneVsRestClassifier

        pipeline = baseline.classifier()
        self._features = pipeline[:-1]
        matrix = self._features.fit_transform(baseline.texts(train))
        self._labels = OneVsRestClassifier(pipeline[-1]).fit(matrix, multi_hot(train[features.LABEL], classes))

    def probabilities(self, rows: dict[str, list[Any]]) -> np.ndarray:
        """Of each label, float64 [rows, labels]; columns `text` and `text_pair`."""
        return self._labels.predict_proba(self._features.transform(baseline.texts(rows)))
