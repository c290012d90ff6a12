"""Figures of rows with any number of labels, and how sure they are: what `estimates` has for one label per row.

Labels and answers are bool [rows, labels]. Accuracy is subset accuracy: the share of the rows whose answer has all of
their labels and no other. F1 of a row without labels, to which none is given, is 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn import metrics

from bertline.components import estimates
from bertline.components.estimates import ClassCounts, Interval

SCORES = ("accuracy", "macro_f1", "micro_f1")  # the figures by which two models are compared


class Sums(NamedTuple):
    """What all figures follow from, of one test set or of several that were resampled.

    Attributes:
        rows: [...].
        by_label: of each label, [..., labels].
        right: rows with exactly the right labels, [...].
        row_f1: F1 of each row, added up, [...].
    """

    rows: np.ndarray
    by_label: ClassCounts
    right: np.ndarray
    row_f1: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Subset accuracy, float64 [...]."""
        return self.right / self.rows

    @property
    def micro_f1(self) -> np.ndarray:
        """F1 of all decisions together, float64 [...]; 0 where no label is true or given."""
        hits, true, answered = (each.sum(-1) for each in self.by_label)
        return 2.0 * hits / np.maximum(true + answered, 1)

    @property
    def macro_f1(self) -> np.ndarray:
        """The mean F1 of the labels that some row has or is given, float64 [...]."""
        f1 = self.by_label.f1
        counted = ~np.isnan(f1)
        return np.nan_to_num(f1).sum(-1) / np.maximum(counted.sum(-1), 1)

    @property
    def weighted_f1(self) -> np.ndarray:
        """The mean F1 of the labels, weighted by their rows, float64 [...]; 0 where no row has a label."""
        true = self.by_label.true
        return (np.nan_to_num(self.by_label.f1) * true).sum(-1) / np.maximum(true.sum(-1), 1)

    @property
    def sample_f1(self) -> np.ndarray:
        """The mean F1 of the rows, float64 [...]."""
        return self.row_f1 / self.rows

    @property
    def hamming_loss(self) -> np.ndarray:
        """The share of all decisions, one per row and label, that are wrong, float64 [...]."""
        hits, true, answered = (each.sum(-1) for each in self.by_label)
        return (true + answered - 2 * hits) / (self.rows * self.by_label.true.shape[-1])

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """The mean of recall and specificity, over the labels that some rows have and some have not, float64 [...].

        Any answer that ignores the text has 0.5.
        """
        hits, true, answered = self.by_label
        without = self.rows[..., None] - true
        recall = hits / np.maximum(true, 1)
        specificity = (without - (answered - hits)) / np.maximum(without, 1)
        judged = (true > 0) & (without > 0)
        return ((recall + specificity) / 2 * judged).sum(-1) / np.maximum(judged.sum(-1), 1)


class Tally:
    """Rows that agree in their labels and answers form a cell, as in `estimates`; sums of any counts of the cells.

    Args:
        labels: bool [cells, labels].
        answers: bool [cells, labels].
    """

    def __init__(self, labels: np.ndarray, answers: np.ndarray):
        self._labels = labels.shape[1]
        hits = labels & answers
        sizes = labels.sum(-1) + answers.sum(-1)
        row_f1 = np.where(sizes > 0, 2.0 * hits.sum(-1) / np.maximum(sizes, 1), 1.0)
        right = (labels == answers).all(-1)
        columns = np.concatenate([hits, labels, answers, right[:, None], row_f1[:, None]], axis=1, dtype=np.float64)
        self._columns = sparse.csr_array(columns)

    def sums(self, counts: np.ndarray) -> Sums:
        """The sums of one test set, counts int [cells], or of several, [sets, cells]."""
        added = counts @ self._columns
        parts = np.split(added, [self._labels, 2 * self._labels, 3 * self._labels], axis=-1)
        return Sums(counts.sum(-1), ClassCounts(*parts[:3]), parts[3][..., 0], parts[3][..., 1])


def sums(labels: np.ndarray, answers: np.ndarray) -> Sums:
    """The sums of one test set; arguments as in Tally, a row each."""
    return Tally(labels, answers).sums(np.ones(len(labels), np.int64))


def _cells(*of_rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The cells of some arrays, bool [rows, labels] each: the arrays with a row per cell, and int64 [cells], rows."""
    packed = np.packbits(np.concatenate(of_rows, axis=1), axis=1)
    _, first, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
    return [each[first] for each in of_rows], counts


# === Figures of one model ===


def intervals(labels: np.ndarray, answers: np.ndarray) -> dict[str, Interval]:
    """95% intervals of accuracy, macro, micro and sample F1, Hamming loss and balanced accuracy."""
    (true, answered), counts = _cells(labels, answers)
    tally, names = Tally(true, answered), ("macro_f1", "micro_f1", "sample_f1", "hamming_loss", "balanced_accuracy")

    def figures(drawn: np.ndarray) -> np.ndarray:
        of_sets = tally.sums(drawn)
        return np.stack([getattr(of_sets, name) for name in names], -1)

    drawn = estimates.bootstrap(figures, counts, width=3 * labels.shape[1])
    right = int((labels == answers).all(-1).sum())
    bounds = {name: estimates.percentile_interval(drawn[:, place]) for place, name in enumerate(names)}
    return {"accuracy": estimates.share_interval(right, len(labels)), **bounds}


def best_constant_micro_f1(labels: np.ndarray) -> float:
    """The highest micro F1 of any answer that is the same for all rows: one of the commonest labels up to some rank."""
    rows_of = np.sort(labels.sum(0))[::-1]
    given = np.arange(1, len(rows_of) + 1) * len(labels)
    return float((2 * np.cumsum(rows_of) / (rows_of.sum() + given)).max())


def commonest_share(labels: np.ndarray) -> float:
    """The subset accuracy of always answering the commonest set of labels."""
    _, counts = _cells(labels)
    return float(counts.max() / counts.sum())


def probability_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """By scikit-learn: `loss`, the mean log loss of all decisions in nats, and `macro_auc`, the labels' mean ROC area.

    Args:
        labels: bool [rows, labels].
        probabilities: float [rows, labels].
    """
    exact, with_label = probabilities.astype(np.float64), labels.sum(0)
    ranked = np.flatnonzero((with_label > 0) & (with_label < len(labels)))
    areas = [metrics.roc_auc_score(labels[:, label], exact[:, label]) for label in ranked]
    return {"loss": log_loss(labels, probabilities), "macro_auc": float(np.mean(areas)) if areas else None}


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean log loss of all decisions in nats, by scikit-learn; arguments as in probability_scores."""
    return float(metrics.log_loss(labels.ravel(), probabilities.astype(np.float64).ravel(), labels=[False, True]))


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, Interval]:
    """The expected calibration error of all decisions together, and its 95% interval.

    Every row and label is one probability, and falls into a bin by it, as in estimates.calibration_error; the error is
    the mean distance of the share of rows that have the label from the mean probability. Where most rows lack most
    labels, it is mostly that of low probabilities. Rows are resampled whole.
    """
    rows, count = labels.shape
    bins = estimates.calibration_bins(probabilities.ravel()).reshape(rows, count)
    surplus = np.zeros((rows, estimates.CALIBRATION_BINS))
    np.add.at(surplus, (np.arange(rows)[:, None], bins), labels - probabilities.astype(np.float64))

    def error(drawn: np.ndarray) -> np.ndarray:
        return np.abs(drawn @ surplus).sum(-1) / (rows * count)

    once = np.ones(rows, np.int64)
    return float(error(once)), estimates.percentile_interval(estimates.bootstrap(error, once))


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How far probabilities can be trusted: `calibration_error` and `log_loss`; arguments as in probability_scores."""
    return {
        "calibration_error": calibration_error(labels, probabilities)[0],
        "log_loss": log_loss(labels, probabilities),
    }


# === Two models on the same rows ===


def paired_differences(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """SCORES of our answers less those of another model's, each with float64 [RESAMPLES], the same resampled."""
    (true, mine, other), counts = _cells(labels, ours, theirs)
    tallies = Tally(true, mine), Tally(true, other)

    def differences(drawn: np.ndarray) -> np.ndarray:  # [..., figures]
        first, second = (tally.sums(drawn) for tally in tallies)
        return np.stack([getattr(first, name) - getattr(second, name) for name in SCORES], -1)

    observed, drawn = differences(counts), estimates.bootstrap(differences, counts, width=6 * labels.shape[1])
    return {name: (float(observed[place]), drawn[:, place]) for place, name in enumerate(SCORES)}


def scores(labels: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """SCORES of answers."""
    of_all = sums(labels, answers)
    return {name: float(getattr(of_all, name)) for name in SCORES}
