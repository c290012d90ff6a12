"""Labels that are probably wrong: cleanlab lists rows where a model that never saw them is sure of another label.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertline.components import baseline
from bertline.models import calibration, features, probe

THIS_MODEL, TFIDF, PROBE = "this model", "TF-IDF", "the probe"
# Five fits on four fifths of the rows each, as cleanlab advises. A label of fewer rows is missing from some fold.
FOLDS = 5
# Of more rows a sample is judged. 20,000 take 15 s of one core with 3 labels, a minute with 77.
TRAIN_ROWS = 20_000
SEED = 0


@dataclass(frozen=True)
class Issue:
    """A row whose label is probably wrong.

    Attributes:
        row: its position in the split.
        label: the label that it has.
        suggested: the most probable other label.
        score: probability of the label that it has, 0 to 1. The lower, the surer the error.
    """

    row: int
    label: str
    suggested: str
    score: float


@dataclass(frozen=True)
class SplitIssues:
    """The probable label errors of a split.

    Attributes:
        by: the model whose probabilities were used.
        rows: number of rows judged.
        issues: lowest score first.
        note: which rows could not be judged and why; "" if all were.
    """

    by: str
    rows: int = 0
    issues: list[Issue] = field(default_factory=list)
    note: str = ""


def find(labels: Sequence[str], probabilities: np.ndarray, classes: list[str]) -> list[Issue]:
    """The rows where another label is at least as probable as it is, on average, in the rows that have it.

    These are the off-diagonal entries of the paper's confident joint (section 3.1). Each label has its own threshold,
    so a label that the model is never sure of is not suspected as a whole.

    Args:
        labels: the rows' labels, [rows]; at least two different ones.
        probabilities: float [rows, labels], of a model that did not see the rows.
        classes: the names of the columns of `probabilities`.

    Returns:
        The issues, lowest score first.
    """
    # Imported here, as it takes two seconds.
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    index = {name: position for position, name in enumerate(classes)}
    indices = np.array([index[label] for label in labels])
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(-1, keepdims=True)
    # One process: a fork of a process that runs TensorFlow can hang.
    is_issue = find_label_issues(indices, exact, filter_by="confident_learning", n_jobs=1)
    scores = get_label_quality_scores(indices, exact, method="self_confidence")
    rows = np.flatnonzero(is_issue)
    rows = rows[np.argsort(scores[rows], kind="stable")]
    others = exact.copy()
    others[np.arange(len(indices)), indices] = -1.0
    return [Issue(int(row), labels[row], classes[others[row].argmax()], float(scores[row])) for row in rows]


def judge(labels: Sequence[str], probabilities: np.ndarray, classes: list[str]) -> SplitIssues:
    """Issues by this model's probabilities for rows that it was not trained on; arguments as in `find`."""
    if len(set(labels)) < 2:
        return SplitIssues(THIS_MODEL, note="its rows have only one label, so there is nothing to compare")
    return SplitIssues(THIS_MODEL, len(labels), find(labels, probabilities, classes))


@dataclass(frozen=True)
class Embedded:
    """Training rows as the Embedder left them.

    Attributes:
        vectors: float32 [rows, hidden].
        places: int [rows], their places among the training rows: these may be only a sample of them.
        strength: the inverse strength of the penalty that the probe's validation rows chose.
    """

    vectors: np.ndarray
    places: np.ndarray
    strength: float


def judge_training(table: dict[str, list[Any]], embedded: Embedded | None = None) -> SplitIssues:
    """Issues among the training rows, by logistic regression that was fitted on the other folds.

    It reads the rows' vectors where there are any, and TF-IDF where there are none.

    Args:
        table: columns `text`, `text_pair`, `label` and `row_id`, each [rows].
        embedded: the rows that have vectors; only these are then judged. None: none has.
    """
    by = PROBE if embedded else TFIDF
    places = embedded.places.tolist() if embedded else range(len(table[features.LABEL]))
    counts = Counter(table[features.LABEL][row] for row in places)
    rare = {label for label, rows in counts.items() if rows < FOLDS}
    rows = [row for row in places if table[features.LABEL][row] not in rare]
    notes = []
    if len(places) < len(table[features.LABEL]):
        notes.append(f"{len(places):,} of {len(table[features.LABEL]):,} rows have vectors")
    if rare:
        notes.append(f"labels of fewer than {FOLDS} rows were left out: {len(rare):,}")
    if len(rows) > TRAIN_ROWS:
        notes.append(f"{TRAIN_ROWS:,} of {len(rows):,} rows were judged")
        # By the hash of the text: the same rows in every run.
        rows = sorted(sorted(rows, key=lambda row: table[features.ROW_ID][row])[:TRAIN_ROWS])
    part = {name: [table[name][row] for row in rows] for name in (features.TEXT, features.TEXT_PAIR, features.LABEL)}
    classes = sorted(set(part[features.LABEL]))
    if len(classes) < 2:
        return SplitIssues(by, note="; ".join([*notes, f"fewer than two labels have {FOLDS} rows, so none was judged"]))
    try:
        logits = _of_vectors(embedded, rows, part) if embedded else _of_words(part)
    except NoWords as error:
        return SplitIssues(by, note="; ".join([*notes, f"none was judged: {error}"]))
    # They get a temperature, as the model's do, so that the surest errors of both can stand in one list.
    temperature = calibration.fit_temperature(logits, np.unique(part[features.LABEL], return_inverse=True)[1])
    probabilities = calibration.probabilities(logits, temperature.value)
    issues = [
        Issue(rows[issue.row], issue.label, issue.suggested, issue.score)
        for issue in find(part[features.LABEL], probabilities, classes)
    ]
    return SplitIssues(by, len(rows), issues, "; ".join(notes))


class NoWords(Exception):
    """No word stands in two rows, so there is nothing to learn from."""


@contextmanager
def no_words_in_words() -> Iterator[None]:
    """Raises NoWords for what scikit-learn says of texts without a word in common."""
    try:
        yield
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):  # scikit-learn has no class for it
            raise NoWords(str(error)) from error
        raise


def _folds() -> Any:
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)


def _of_vectors(embedded: Embedded, rows: list[int], table: dict[str, list[Any]]) -> np.ndarray:
    """Logits of the sorted labels, float32 [rows, labels]; each row's are by a probe fitted without it.

    Args:
        embedded: has the vectors of all `rows`.
        rows: their places among the training rows, ascending.
        table: their columns.
    """
    names, labels = np.unique(table[features.LABEL], return_inverse=True)
    vectors = embedded.vectors[np.isin(embedded.places, rows)]
    judged = probe.LabelledFeatures(vectors, labels)
    return probe.out_of_fold(judged, len(names), embedded.strength, _folds().split(vectors, labels))


def _of_words(table: dict[str, list[Any]]) -> np.ndarray:
    """Logits of the sorted labels, float64 [rows, labels]; each row's are by TF-IDF fitted without it.

    Raises:
        NoWords: no word stands in two rows of a fold.
    """
    from sklearn.model_selection import cross_val_predict

    texts, labels = baseline.texts(table), table[features.LABEL]
    classifier = baseline.classifier(texts, len(set(labels)))
    with no_words_in_words():
        logits = cross_val_predict(classifier, texts, labels, cv=_folds(), method="decision_function")
    if logits.ndim == 1:  # of two labels, scikit-learn gives the second one's
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    return logits
