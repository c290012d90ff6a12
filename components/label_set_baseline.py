"""The baseline of rows with any number of labels: the features of one label per row, and a regression per label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertline.components import label_sets
from bertline.components.answers import multi_hot
from bertline.models import thresholds

CHOOSING_ROWS = 6000  # of the training rows, as for one label per row
SEED = 17

Labelled = tuple[Sequence[str], list[list[str]]]  # texts, and the names of each one's labels


class Answered(NamedTuple):
    """The labels of each text, and the strength of the penalty that was chosen."""

    labels: list[list[str]]
    strength: float


class Penalised(NamedTuple):
    """A regression of one label, not fitted, by the strength of its penalty, and the strengths to choose from."""

    regression: Callable[[float], Any]
    strengths: Sequence[float]


def fit_and_answer(
    vectorizer: Any, penalised: Penalised, train: Labelled, validation: Labelled, texts: Sequence[str]
) -> Answered:
    """Fits the baseline and gives texts their labels.

    As for the model that it is compared with, the validation rows tune the threshold of each label. They also choose
    the strength, by the sum of micro-F1 and macro-F1.

    Args:
        vectorizer: scikit-learn's, from texts to features, not fitted.
        penalised: scikit-learn's regressions.
        train: what it is fitted on.
        validation: see above.
        texts: of the test rows.
    """
    classes = sorted({label for labels in train[1] for label in labels})
    held, expected = (multi_hot(labels, classes) for labels in (train[1], validation[1]))
    rows, held_out = vectorizer.fit_transform(train[0]), vectorizer.transform(validation[0])
    sample = np.random.default_rng(SEED).permutation(len(held))[:CHOOSING_ROWS]

    def score(strength: float) -> float:
        probabilities = fitted(penalised.regression(strength), rows[sample], held[sample]).predict_proba(held_out)
        sums = label_sets.sums(expected, over(probabilities, thresholds.tune(probabilities, expected)))
        return float(sums.micro_f1 + sums.macro_f1)

    strength = max(penalised.strengths, key=score)
    chosen = fitted(penalised.regression(strength), rows, held)
    tuned = thresholds.tune(chosen.predict_proba(held_out), expected)
    given = over(chosen.predict_proba(vectorizer.transform(texts)), tuned)
    return Answered([[classes[label] for label in np.flatnonzero(of_row)] for of_row in given], strength)


def over(probabilities: np.ndarray, tuned: list[thresholds.Threshold]) -> np.ndarray:
    """Which labels reach their thresholds, bool [rows, labels], by probabilities, float [rows, labels]."""
    return probabilities >= np.array([each.value for each in tuned])


def fitted(regression: Any, rows: Any, held: np.ndarray) -> Any:
    """scikit-learn's classifier of each label against the rest.

    Args:
        regression: of one label, not fitted.
        rows: features, [rows, features].
        held: bool [rows, labels].
    """
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(regression).fit(rows, held)
