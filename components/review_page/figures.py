"""What the review page shows, as numbers: read from the evaluation's files, curves and areas by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn import metrics as sklearn_metrics

from bertline.components import estimates
from bertline.models import features

HISTOGRAM_BINS = 20
MAX_POINTS = 300  # of a curve: more than it has pixels
# Of a text: more than 512 tokens take, so that what is explained is whole; many longer ones would not open on a phone.
TEXT_CHARACTERS = 5000
THRESHOLDS = np.linspace(0, 1, 101)  # a percent a step, as fine as a slider can be set


@dataclass(frozen=True)
class ScoredRows:
    """The test rows, with the probabilities that the model gave their labels.

    Attributes:
      classes: label names, in the order of the columns of `probabilities`.
      truth: int64 [rows], index of each row's label.
      predicted: int64 [rows], index of each row's answer.
      probabilities: float64 [rows, labels], the file's float32.
      rows: the rows' other columns, by name: text, text_pair, row_id, source and what ingestion keeps.
    """

    classes: list[str]
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    rows: dict[str, list[Any]]

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each row's answer, float64 [rows]."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer is right, bool [rows]."""
        return self.predicted == self.truth


def read_rows(path: str, classes: list[str]) -> ScoredRows:
    """Reads predictions-test.parquet, whose columns of probabilities are in the order of `classes`."""
    table = pq.read_table(path).to_pydict()
    index = {name: position for position, name in enumerate(classes)}
    probabilities = np.array(table.pop("probabilities"), np.float64)
    return ScoredRows(
        classes=classes,
        truth=np.array([index[name] for name in table.pop(features.LABEL)]),
        predicted=np.array([index[name] for name in table.pop("predicted")]),
        probabilities=probabilities,
        rows=table,
    )


# === Classes ===


@dataclass(frozen=True)
class ClassFigures:
    """One class against the rest; None where a figure is a ratio of nothing.

    Attributes:
      name: the label.
      rows: test rows that have it.
      answers: test rows that were given it.
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
    precision_interval: tuple[float, float] | None
    recall_interval: tuple[float, float] | None
    average_precision: float | None
    auc: float | None


def per_class(scored: ScoredRows, metrics: dict[str, Any]) -> list[ClassFigures]:
    """Figures of each class, the lowest F1 first; classes without rows last."""
    found = []
    for position, name in enumerate(scored.classes):
        true, given = scored.truth == position, scored.predicted == position
        hits, scores = int((true & given).sum()), scored.probabilities[:, position]
        both = 0 < true.sum() < len(true)
        found.append(
            ClassFigures(
                name=name,
                rows=int(true.sum()),
                answers=int(given.sum()),
                **{key: metrics["per_class"][name].get(key) for key in ("precision", "recall", "f1")},
                precision_interval=estimates.share_interval(hits, int(given.sum())) if given.any() else None,
                recall_interval=estimates.share_interval(hits, int(true.sum())) if true.any() else None,
                average_precision=float(sklearn_metrics.average_precision_score(true, scores)) if both else None,
                auc=float(sklearn_metrics.roc_auc_score(true, scores)) if both else None,
            )
        )
    return sorted(found, key=lambda each: (each.rows == 0, each.f1 or 0.0))


def precision_recall(scored: ScoredRows, name: str) -> list[dict[str, float]]:
    """Points of a class's precision-recall curve, from the highest recall to the lowest.

    Returns:
      At most MAX_POINTS, each `recall` and `precision` with the counts behind them: `hits`, rows of the class from a
      threshold on, and `alarms`, other rows from there on. Precision without either is 1, as in scikit-learn.
    """
    true, scores = _one_class(scored, name)
    _, _, thresholds = sklearn_metrics.precision_recall_curve(true, scores, drop_intermediate=True)
    hits, alarms = _counts(true, scores, np.append(thresholds, np.inf))
    found = np.maximum(hits + alarms, 1)
    precision = np.where(hits + alarms > 0, hits / found, 1.0)
    return _points(recall=hits / true.sum(), precision=precision, hits=hits, alarms=alarms)


def roc(scored: ScoredRows, name: str) -> list[dict[str, float]]:
    """Points of a class's ROC curve: `false_positive_rate`, `true_positive_rate`, `hits`, `alarms` (see above)."""
    true, scores = _one_class(scored, name)
    _, _, thresholds = sklearn_metrics.roc_curve(true, scores, drop_intermediate=True)
    hits, alarms = _counts(true, scores, thresholds)
    return _points(
        false_positive_rate=alarms / (~true).sum(), true_positive_rate=hits / true.sum(), hits=hits, alarms=alarms
    )


def class_thresholds(scored: ScoredRows) -> list[dict[str, Any]]:
    """Calling rows a class from each of THRESHOLDS on: `name`, `rows` of the class, lists of `hits` and `alarms`."""
    found = []
    for name in scored.classes:
        true, scores = _one_class(scored, name)
        hits, alarms = _counts(true, scores, THRESHOLDS)
        found.append({"name": name, "rows": int(true.sum()), "hits": hits.tolist(), "alarms": alarms.tolist()})
    return found


def class_scores(scored: ScoredRows, name: str) -> list[dict[str, Any]]:
    """Histogram of a class's probability: bars `low`, `high`, `group`, `rows` and their `share` of the group's."""
    true, scores = _one_class(scored, name)
    return [
        {"low": low, "high": high, "group": group, "rows": count, "share": count / max(members.sum(), 1)}
        for group, members in (("rows of the class", true), ("other rows", ~true))
        for low, high, count in _histogram(scores[members])
    ]


# === Confidence ===


def reliability(scored: ScoredRows) -> list[dict[str, float]]:
    """Bins of the calibration error that have rows: `low`, `high`, `rows`, mean `confidence`, and `accuracy`."""
    bins = estimates.CALIBRATION_BINS
    which = estimates.calibration_bins(scored.confidence)
    found = []
    for number in np.unique(which):
        members = which == number
        found.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "rows": int(members.sum()),
                "confidence": float(scored.confidence[members].mean()),
                "accuracy": float(scored.correct[members].mean()),
            }
        )
    return found


def confidences(scored: ScoredRows) -> list[dict[str, Any]]:
    """Histogram of the answers' probabilities: bars `low`, `high`, `group` ("right", "wrong") and `rows`."""
    return [
        {"low": low, "high": high, "group": group, "rows": count}
        for group, members in (("right", scored.correct), ("wrong", ~scored.correct))
        for low, high, count in _histogram(scored.confidence[members])
    ]


def thresholds(scored: ScoredRows) -> list[dict[str, Any]]:
    """What answering only from each of THRESHOLDS on gives.

    Returns:
      For each `threshold`: the `rows` answered, their share `coverage`, the `errors` among them, and their `accuracy`,
      None without rows.
    """
    found = []
    for threshold in THRESHOLDS:
        kept = scored.confidence >= threshold
        accuracy = float(scored.correct[kept].mean()) if kept.any() else None
        found.append(
            {
                "threshold": round(float(threshold), 2),
                "coverage": float(kept.mean()),
                "accuracy": accuracy,
                "rows": int(kept.sum()),
                "errors": int((kept & ~scored.correct).sum()),
            }
        )
    return found


# === Errors ===


def confusions(confusion: list[list[int]], classes: list[str], limit: int = 15) -> list[dict[str, Any]]:
    """The most frequent confusions: `true`, `answered`, `rows`, and their `share` of the true label's rows."""
    counts = np.array(confusion)
    wrong = [
        {
            "true": classes[row],
            "answered": classes[column],
            "rows": int(counts[row, column]),
            "share": float(counts[row, column] / counts[row].sum()),
        }
        for row, column in np.argwhere(counts > 0)
        if row != column
    ]
    return sorted(wrong, key=lambda each: -each["rows"])[:limit]


def confidently_wrong(scored: ScoredRows, limit: int = 25) -> list[dict[str, Any]]:
    """The wrong answers of the highest probability, with the row each is about."""
    wrong = np.flatnonzero(~scored.correct)
    order = wrong[np.argsort(-scored.confidence[wrong], kind="stable")][:limit]
    return [
        {
            **{name: excerpt(column[row]) for name, column in scored.rows.items()},
            "true": scored.classes[scored.truth[row]],
            "answered": scored.classes[scored.predicted[row]],
            "confidence": float(scored.confidence[row]),
            "true_probability": float(scored.probabilities[row, scored.truth[row]]),
        }
        for row in order
    ]


# === Slices ===


def slices(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Slices, the lowest accuracy first: `name`, `rows`, the Evaluator's figures, `interval` of the accuracy.

    `verdict` says whether the interval lies below or above the accuracy of all rows.
    """
    found = []
    for name, figures in metrics["slices"].items():
        rows = round(figures["rows"])
        low, high = estimates.share_interval(round(figures["accuracy"] * rows), rows)
        verdict = "worse" if high < metrics["accuracy"] else "better" if low > metrics["accuracy"] else ""
        found.append({**figures, "name": name, "rows": rows, "interval": (low, high), "verdict": verdict})
    return sorted(found, key=lambda each: each["accuracy"])


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


def _one_class(scored: ScoredRows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have the class, bool [rows], and the probabilities it was given, float64 [rows]."""
    position = scored.classes.index(name)
    return scored.truth == position, scored.probabilities[:, position]


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
