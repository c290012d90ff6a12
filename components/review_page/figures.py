"""What the review page shows, as numbers: read from the evaluation's files, curves and areas by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn import metrics as sklearn_metrics

from components import estimates
from models import features

HISTOGRAM_BINS = 20
THRESHOLDS = np.linspace(0, 1, 101)  # a percent a step, as fine as a slider can be set


@dataclass(frozen=True)
class ScoredRows:
    """The test rows, with the probabilities that the model gave their labels.

    Attributes:
      classes: label names, in the order of the columns of `probabilities`.
      truth: int64 [rows], index of each row's label.
      predicted: int64 [rows], index of each row's answer.
      probabilities: float32 [rows, labels], as the file has them.
      rows: the rows' other columns, by name: text, text_pair, row_id, source and what ingestion keeps.
    """

    classes: list[str]
    truth: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    rows: dict[str, list[Any]]

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each row's answer, float32 [rows]."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer is right, bool [rows]."""
        return self.predicted == self.truth


def read_rows(path: str, classes: list[str]) -> ScoredRows:
    """Reads predictions-test.parquet, whose columns of probabilities are in the order of `classes`."""
    table = pq.read_table(path).to_pydict()
    index = {name: position for position, name in enumerate(classes)}
    probabilities = np.array(table.pop("probabilities"), np.float32)
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


def macro_auc(classes: list[ClassFigures]) -> float | None:
    """Mean one-vs-rest area under the ROC curve, over the classes that have one."""
    areas = [each.auc for each in classes if each.auc is not None]
    return float(np.mean(areas)) if areas else None


def precision_recall(scored: ScoredRows, name: str) -> list[dict[str, float]]:
    """Points `recall`, `precision` of a class against the rest, from the highest recall to the lowest."""
    position = scored.classes.index(name)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(
        scored.truth == position, scored.probabilities[:, position], drop_intermediate=True
    )
    return _points(recall=recall, precision=precision)


def roc(scored: ScoredRows, name: str) -> list[dict[str, float]]:
    """Points `false_positive_rate`, `true_positive_rate` of a class against the rest."""
    position = scored.classes.index(name)
    false_positive, true_positive, _ = sklearn_metrics.roc_curve(
        scored.truth == position, scored.probabilities[:, position], drop_intermediate=True
    )
    return _points(false_positive_rate=false_positive, true_positive_rate=true_positive)


def class_scores(scored: ScoredRows, name: str) -> list[dict[str, Any]]:
    """Histogram of a class's probability: bars `low`, `high`, `group` and `share`, of the group's rows."""
    position = scored.classes.index(name)
    scores, true = scored.probabilities[:, position], scored.truth == position
    return [
        {"low": low, "high": high, "group": group, "share": count / max(members.sum(), 1)}
        for group, members in (("rows of the class", true), ("other rows", ~true))
        for low, high, count in _histogram(scores[members])
    ]


# === Confidence ===


def reliability(scored: ScoredRows) -> list[dict[str, float]]:
    """Bins of the calibration error that have rows: `low`, `high`, `rows`, mean `confidence`, and `accuracy`."""
    bins = estimates.CALIBRATION_BINS
    which = np.clip(np.ceil(scored.confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in np.unique(which):
        members = which == number
        found.append(
            {
                "low": float(number / bins),
                "high": float((number + 1) / bins),
                "rows": int(members.sum()),
                "confidence": float(scored.confidence[members].mean(dtype=np.float64)),
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
            **{name: column[row] for name, column in scored.rows.items()},
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


def _histogram(values: np.ndarray) -> list[tuple[float, float, int]]:
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(0, 1))
    return [
        (float(low), float(high), int(count)) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _points(**columns: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
