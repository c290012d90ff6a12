"""The baseline of rows with any number of labels: the features of one label per row, and a regression per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertline.components.answers import multi_hot
from bertline.models import thresholds

Labelled = tuple[Sequence[str], list[list[str]]]  # texts, and the names of each one's labels


def fit_and_answer(pipeline: Any, train: Labelled, validation: Labelled, texts: Sequence[str]) -> list[list[str]]:
    """The labels that the baseline gives to texts.

    As for the model that it is compared with, the threshold of each label is tuned on the validation rows.

    Args:
        pipeline: scikit-learn's, from texts to one label, not fitted; its last step is fitted for each label.
        train: what it is fitted on.
        validation: what the thresholds are tuned on.
        texts: of the test rows.
    """
    classes = sorted({label for labels in train[1] for label in labels})
    fitted = OneAgainstRest(pipeline, train, classes)
    tuned = thresholds.tune(fitted.probabilities(validation[0]), multi_hot(validation[1], classes))
    given = fitted.probabilities(texts) >= np.array([each.value for each in tuned])
    return [[classes[label] for label in np.flatnonzero(of_row)] for of_row in given]


class OneAgainstRest:
    """A classifier of texts for each label against the rest.

    Args:
        pipeline: as in fit_and_answer.
        train: as in fit_and_answer.
        classes: the labels.
    """

    def __init__(self, pipeline: Any, train: Labelled, classes: list[str]):
        from sklearn.multiclass import OneVsRestClassifier

        texts, labels = train
        self._features = pipeline[:-1]
        matrix = self._features.fit_transform(texts)
        self._labels = OneVsRestClassifier(pipeline[-1]).fit(matrix, multi_hot(labels, classes))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Of each label, float64 [texts, labels]."""
        return self._labels.predict_proba(self._features.transform(texts))
