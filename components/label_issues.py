"""Labels that are probably wrong, found by cleanlab where a model that never saw the row is sure of another one.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertline.components import baseline
from bertline.models import calibration, features

THIS_MODEL, TFIDF = "this model", "TF-IDF"
# Five fits on four fifths of the rows each: cleanlab's own advice. A label of fewer rows cannot stand in every fold.
FOLDS = 5
# 15 s of one core with 3 labels, a minute with 77; of more rows a sample is looked at.
TRAIN_ROWS = 20_000
SEED = 0


@dataclass(frozen=True)
class Issue:
    """A row whose label is probably wrong.

    Attributes:
      row: its position in the split.
      label: the given one.
      suggested: the most probable other one.
      score: probability of the given label, 0 to 1: the lower, the surer the error.
    """

    row: int
    label: str
    suggested: str
    score: float


@dataclass(frozen=True)
class Judged:
    """What was found in a split.

    Attributes:
      by: the model whose probabilities said so.
      rows: rows looked at.
      issues: lowest score first.
      note: what could not be looked at, in words; "" if all was.
    """

    by: str
    rows: int = 0
    issues: list[Issue] = field(default_factory=list)
    note: str = ""


def find(labels: Sequence[str], probabilities: np.ndarray, classes: list[str]) -> list[Issue]:
    """The rows where another label is at least as probable as it is, on average, in the rows that have it.

    That is the off-diagonal of the paper's confident joint (section 3.1). Each label has a threshold of its own, so
    that one which the model is never sure of is not suspected wholesale.

    Args:
      labels: the given labels, [rows], of at least two different ones.
      probabilities: float [rows, labels], of a model that did not see the rows.
      classes: the names of their columns.

    Returns:
      The issues, lowest score first.
    """
    # Two seconds; only where there is something to look at.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    index = {name: position for position, name in enumerate(classes)}
    given = np.array([index[label] for label in labels])
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(-1, keepdims=True)
    # One process: forks of one that runs TensorFlow can hang.
    found = find_label_issues(given, exact, filter_by="confident_learning", n_jobs=1)
    scores = get_label_quality_scores(given, exact, method="self_confidence")
    rows = np.flatnonzero(found)
    rows = rows[np.argsort(scores[rows], kind="stable")]
    others = exact.copy()
    others[np.arange(len(given)), given] = -1.0
    return [Issue(int(row), labels[row], classes[others[row].argmax()], float(scores[row])) for row in rows]


def judge(labels: Sequence[str], probabilities: np.ndarray, classes: list[str]) -> Judged:
    """Issues by this model's probabilities for rows that it was not trained on; arguments as of `find`."""
    if len(set(labels)) < 2:
        return Judged(THIS_MODEL, note="its rows have one label only, so there is nothing to compare")
    return Judged(THIS_MODEL, len(labels), find(labels, probabilities, classes))


def judge_training(table: dict[str, list[Any]]) -> Judged:
    """Issues among the training rows, by TF-IDF with logistic regression fitted on the other folds.

    Args:
      table: columns `text`, `text_pair`, `label` and `row_id`, each [rows].
    """
    counts = Counter(table[features.LABEL])
    rare = {label for label, rows in counts.items() if rows < FOLDS}
    rows = [row for row, label in enumerate(table[features.LABEL]) if label not in rare]
    notes = []
    if rare:
        notes.append(f"labels of fewer than {FOLDS} rows were left out: {len(rare):,}")
    if len(rows) > TRAIN_ROWS:
        notes.append(f"{TRAIN_ROWS:,} of {len(rows):,} rows were looked at")
        # By the hash of the text: the same rows in every run.
        rows = sorted(sorted(rows, key=lambda row: table[features.ROW_ID][row])[:TRAIN_ROWS])
    part = {name: [table[name][row] for row in rows] for name in (features.TEXT, features.TEXT_PAIR, features.LABEL)}
    classes = sorted(set(part[features.LABEL]))
    if len(classes) < 2:
        return Judged(TFIDF, note="; ".join([*notes, f"fewer than two labels have {FOLDS} rows: none was looked at"]))
    try:
        probabilities = _out_of_fold(part)
    except ValueError as error:
        return Judged(TFIDF, note="; ".join([*notes, f"none was looked at: {error}"]))
    found = [
        Issue(rows[issue.row], issue.label, issue.suggested, issue.score)
        for issue in find(part[features.LABEL], probabilities, classes)
    ]
    return Judged(TFIDF, len(rows), found, "; ".join(notes))


def _out_of_fold(table: dict[str, list[Any]]) -> np.ndarray:
    """Probabilities of the sorted labels, float64 [rows, labels], each row's by a model fitted without it.

    They get a temperature, as the model's have: the surest errors of two models can then stand in one list.

    Raises:
      ValueError: no word stands in two rows.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    texts, labels = baseline.texts(table), table[features.LABEL]
    found = cross_val_predict(baseline.classifier(), texts, labels, cv=folds, method="predict_proba")
    logits = np.log(np.maximum(found, np.finfo(found.dtype).tiny))
    temperature = calibration.fit_temperature(logits, np.unique(labels, return_inverse=True)[1])
    return calibration.probabilities(logits, temperature.value)
