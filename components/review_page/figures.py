"""What the review page shows, as numbers: from the evaluation's files; curves and areas are scikit-learn's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as sklearn_metrics

from bertline.components import estimates
from bertline.components.answers import Answers
from bertline.components.evaluation import Cell, ClassScores, Interval, Metrics, SliceFigures

HISTOGRAM_BINS = 20
# A matrix of more classes fits no window with their names. It becomes a map beside the list of confusions.
MATRIX_CLASSES = 12
MAX_POINTS = 300  # of a curve, which has fewer pixels
# Shown of a text: more than 512 tokens take, so all that the model reads. Many longer ones would not open on a phone.
TEXT_CHARACTERS = 5000
THRESHOLDS = np.linspace(0, 1, 101)  # steps of one percent, as fine as a slider can be set


# === Classes ===


@dataclass(frozen=True)
class ClassFigures:
    """One class against the rest; None where a figure is a ratio of nothing.

    Attributes:
        name: the label.
        rows: test rows that have it.
        answers: test rows where the model answers it.
        precision, recall, f1: as the Evaluator counted them.
        precision_interval, recall_interval: 95%, Wilson's.
        average_precision, auc: areas under the precision-recall (as steps) and the ROC curve.
    """

    name: str
    rows: int
    answers: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_interval: Interval | None
    recall_interval: Interval | None
    average_precision: float | None
    auc: float | None


def per_class(rows: Answers, metrics: Metrics) -> list[ClassFigures]:
    """Figures of each class, the lowest F1 first; classes without rows last."""
    classes = []
    for position, (name, scores) in enumerate(metrics.per_class.items()):
        true, answered = rows.having(position)
        hits, probabilities = int((true & answered).sum()), rows.probabilities[:, position].astype(np.float64)
        both = 0 < true.sum() < len(true)
        classes.append(
            ClassFigures(
                name=name,
                rows=int(true.sum()),
                answers=int(answered.sum()),
                precision=scores.precision,
                recall=scores.recall,
                f1=scores.f1,
                precision_interval=estimates.share_interval(hits, int(answered.sum())) if answered.any() else None,
                recall_interval=estimates.share_interval(hits, int(true.sum())) if true.any() else None,
                average_precision=float(sklearn_metrics.average_precision_score(true, probabilities)) if both else None,
                auc=float(sklearn_metrics.roc_auc_score(true, probabilities)) if both else None,
            )
        )
    return sorted(classes, key=lambda each: (each.rows == 0, each.f1 or 0.0))


def precision_recall(rows: Answers, name: str) -> list[dict[str, float]]:
    """Points of a class's precision-recall curve, from the highest recall to the lowest.

    Returns:
        At most MAX_POINTS, each `recall` and `precision` with the counts behind them: `hits`, rows of the class from a
        threshold on, and `alarms`, other rows from there on. Precision without either is 1, as in scikit-learn.
    """
    true, scores = _one_class(rows, name)
    _, _, thresholds = sklearn_metrics.precision_recall_curve(true, scores, drop_intermediate=True)
    hits, alarms = _counts(true, scores, np.append(thresholds, np.inf))
    precision = np.where(hits + alarms > 0, hits / np.maximum(hits + alarms, 1), 1.0)
    return _points(recall=hits / true.sum(), precision=precision, hits=hits, alarms=alarms)


def roc(rows: Answers, name: str) -> list[dict[str, float]]:
    """Points of a class's ROC curve: `false_positive_rate`, `true_positive_rate`, `hits`, `alarms` (see above)."""
    true, scores = _one_class(rows, name)
    _, _, thresholds = sklearn_metrics.roc_curve(true, scores, drop_intermediate=True)
    hits, alarms = _counts(true, scores, thresholds)
    return _points(
        false_positive_rate=alarms / (~true).sum(), true_positive_rate=hits / true.sum(), hits=hits, alarms=alarms
    )


def class_thresholds(rows: Answers, names: list[str]) -> list[dict[str, Any]]:
    """Calling rows a class from each of THRESHOLDS on: `name`, `rows` of the class, lists of `hits` and `alarms`."""
    classes = []
    for name in names:
        true, scores = _one_class(rows, name)
        hits, alarms = _counts(true, scores, THRESHOLDS)
        classes.append({"name": name, "rows": int(true.sum()), "hits": hits.tolist(), "alarms": alarms.tolist()})
    return classes


def class_scores(rows: Answers, name: str) -> list[dict[str, Any]]:
    """Histogram of a class's probability: bars `low`, `high`, `group`, `rows` and their `share` of the group's."""
    true, scores = _one_class(rows, name)
    return [
        {"low": low, "high": high, "group": group, "rows": count, "share": count / max(members.sum(), 1)}
        for group, members in (("rows of the class", true), ("other rows", ~true))
        for low, high, count in _histogram(scores[members])
    ]


# === Confidence ===


def reliability(rows: Answers) -> list[dict[str, float]]:
    """Bins of the calibration error that have rows: `low`, `high`, `rows`, mean `confidence`, and `accuracy`."""
    bins, (confidence, right) = estimates.CALIBRATION_BINS, rows.decisions
    which = estimates.calibration_bins(confidence)
    filled = []
    for number in np.unique(which):
        members = which == number
        filled.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "rows": int(members.sum()),
                "confidence": float(confidence[members].mean()),
                "accuracy": float(right[members].mean()),
            }
        )
    return filled


def confidences(rows: Answers) -> list[dict[str, Any]]:
    """Histogram of the answers' probabilities: bars `low`, `high`, `group` ("right", "wrong") and `rows`."""
    return [
        {"low": low, "high": high, "group": group, "rows": count}
        for group, members in (("right", rows.right), ("wrong", ~rows.right))
        for low, high, count in _histogram(rows.confidence[members])
    ]


def thresholds(rows: Answers) -> list[dict[str, Any]]:
    """What answering only from each of THRESHOLDS on gives.

    Returns:
        For each `threshold`: the `rows` answered, their share `coverage`, the `errors` among them, and their
        `accuracy`, None without rows.
    """
    points, confidence = [], rows.confidence
    for threshold in THRESHOLDS:
        kept = confidence >= threshold
        accuracy = float(rows.right[kept].mean()) if kept.any() else None
        points.append(
            {
                "threshold": round(float(threshold), 2),
                "coverage": float(kept.mean()),
                "accuracy": accuracy,
                "rows": int(kept.sum()),
                "errors": int((kept & ~rows.right).sum()),
            }
        )
    return points


# === Errors ===


def confusions(metrics: Metrics, limit: int = 15) -> list[dict[str, Any]]:
    """The most frequent confusions: `true`, `answered`, `rows`, and their `share` of the true label's rows."""
    rows_of = label_rows(metrics.confusion)
    wrong = sorted((cell for cell in metrics.confusion if cell.true != cell.answered), key=lambda cell: -cell.rows)
    return [
        {
            "true": metrics.classes[cell.true],
            "answered": metrics.classes[cell.answered],
            "rows": cell.rows,
            "share": cell.rows / rows_of[cell.true],
        }
        for cell in wrong[:limit]
    ]


def label_rows(confusion: list[Cell]) -> Counter[int]:
    """The test rows of each label, by its index."""
    rows: Counter[int] = Counter()
    for cell in confusion:
        rows[cell.true] += cell.rows
    return rows


def most_confused(metrics: Metrics, limit: int) -> list[int]:
    """Indices of the labels with the most wrong rows, as true label or as answer: at most `limit`, in label order."""
    wrong: Counter[int] = Counter()
    for cell in metrics.confusion:
        if cell.true != cell.answered:
            wrong[cell.true] += cell.rows
            wrong[cell.answered] += cell.rows
    return sorted(sorted(range(len(metrics.classes)), key=lambda label: -wrong[label])[:limit])


def shares(confusion: list[Cell], labels: list[int]) -> list[tuple[Cell, float]]:
    """The cells between some labels, each with its share of all rows of the true label."""
    totals, kept = label_rows(confusion), set(labels)
    return [(cell, cell.rows / totals[cell.true]) for cell in confusion if {cell.true, cell.answered} <= kept]


def confidently_wrong(rows: Answers, limit: int = 25) -> list[dict[str, Any]]:
    """The wrong answers of the highest probability, with the row each is about."""
    wrong = np.flatnonzero(~rows.right)
    order = wrong[np.argsort(-rows.confidence[wrong], kind="stable")][:limit]
    return [
        {
            **{name: excerpt(column[row]) for name, column in rows.columns.items()},
            "true": rows.classes[rows.labels[row]],
            "answered": rows.classes[rows.predicted[row]],
            "confidence": float(rows.confidence[row]),
            "true_probability": float(rows.probabilities[row, rows.labels[row]]),
        }
        for row in order
    ]


# === Slices ===


@dataclass(frozen=True)
class Slice:
    """A slice and how it stands to all rows.

    Attributes:
        name: such as "shop=north".
        figures: the Evaluator's.
        interval: 95%, Wilson's, of the accuracy.
        verdict: "worse" or "better" where the interval lies below or above the accuracy of all rows, else "".
    """

    name: str
    figures: SliceFigures
    interval: Interval
    verdict: str


def slices(metrics: Metrics) -> list[Slice]:
    """The slices, the lowest accuracy first."""
    by_accuracy = []
    for name, figures in metrics.slices.items():
        low, high = estimates.share_interval(round(figures.accuracy * figures.rows), figures.rows)
        verdict = "worse" if high < metrics.accuracy else "better" if low > metrics.accuracy else ""
        by_accuracy.append(Slice(name, figures, (low, high), verdict))
    return sorted(by_accuracy, key=lambda each: each.figures.accuracy)


def slice_classes(figures: SliceFigures, limit: int) -> list[tuple[str, ClassScores]]:
    """The classes of a slice, in label order; of more than `limit` those with the lowest F1, the lowest first."""
    scores = list(figures.per_class.items())
    if len(scores) <= limit:
        return scores
    answered = [(name, each) for name, each in scores if each.f1 is not None]
    return sorted(answered, key=lambda named: named[1].f1)[:limit]


# === What they share ===


def excerpt(value: Any) -> Any:
    """The beginning of a long text, and how much of it is left out."""
    if not isinstance(value, str) or len(value) <= TEXT_CHARACTERS:
        return value
    return f"{value[:TEXT_CHARACTERS]}… ({len(value) - TEXT_CHARACTERS:,} more characters)"


def _histogram(values: np.ndarray) -> list[tuple[float, float, int]]:
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(0, 1))
    return [
        (float(low), float(high), int(count)) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _one_class(rows: Answers, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have the class, bool [rows], and the probabilities that the model gives it, float64 [rows]."""
    position = rows.classes.index(name)
    return rows.having(position)[0], rows.probabilities[:, position].astype(np.float64)


def _counts(true: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that score a threshold or more, of the class and others: int64 [thresholds] each."""
    both = (np.sort(scores[members]) for members in (true, ~true))
    hits, alarms = (len(each) - np.searchsorted(each, thresholds, side="left") for each in both)
    return hits, alarms


def _points(**columns: np.ndarray) -> list[dict[str, float]]:
    """Rows of at most MAX_POINTS points, both ends among them."""
    rows = len(next(iter(columns.values())))
    kept = np.unique(np.linspace(0, rows - 1, min(rows, MAX_POINTS)).round().astype(int))
    return [dict(zip(columns, (column[row].item() for column in columns.values()), strict=True)) for row in kept]
