"""How sure a figure is: intervals, two models on the same rows, calibration error, gaps between groups of people.

Test sets are resampled by the percentile bootstrap (Efron and Tibshirani 1993). Rows that agree in everything that a
figure looks at form one cell, and the cells' counts are drawn from a multinomial distribution. Only cells that have
rows are drawn, so time and memory depend on the rows and not on the square of the number of labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats
from sklearn import metrics

CONFIDENCE = 0.95
RESAMPLES = 2000  # puts the bounds of a 95% interval within about 0.1 of its width
GROUP_RESAMPLES = 200  # fairlearn takes some 5 ms for each; the bounds are then within a fifth of the width
BATCH_NUMBERS = 4_000_000  # drawn at once: 32 MB of int64
# As in Guo et al. 2017, whose figures people compare with.
CALIBRATION_BINS = 15
SCORES = ("accuracy", "macro_f1")  # the figures by which two models are compared

Interval = tuple[float, float]


# === Resampling ===


def bootstrap(
    figure: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    width: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """A figure of resampled test sets, drawn as rows with replacement are.

    Args:
        figure: takes the counts of some test sets, int64 [sets, cells], and gives its value in each, [sets, ...].
        counts: int [cells], the rows of each cell.
        resamples: how many test sets to draw.
        width: numbers that the figure computes per test set, if these are more than the cells.
        seed: of the generator.

    Returns:
        The figure's values, [resamples, ...].
    """
    generator, rows = np.random.default_rng(seed), int(counts.sum())
    batch = max(1, BATCH_NUMBERS // max(len(counts), width))
    return np.concatenate(
        [
            figure(generator.multinomial(rows, counts / rows, size=min(batch, resamples - drawn)))
            for drawn in range(0, resamples, batch)
        ]
    )


def percentile_interval(values: np.ndarray, certainty: float | None = None) -> Interval:
    """Bounds of resampled `values`, float [resamples]; NaN among them, a figure of no rows, does not count.

    Args:
        values: the figure in each resampled test set.
        certainty: that each bound holds with; None gives the central CONFIDENCE share, (1 + CONFIDENCE) / 2 a bound.
    """
    tail = (1 - CONFIDENCE) / 2 if certainty is None else 1 - certainty
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


# === Figures of one model ===


def share_interval(hits: int, rows: int, certainty: float | None = None) -> Interval:
    """Wilson's score interval of a share (Wilson 1927), by scipy. `certainty` as in percentile_interval."""
    confidence = CONFIDENCE if certainty is None else 2 * certainty - 1
    interval = stats.binomtest(hits, rows).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class ClassCounts(NamedTuple):
    """Rows of each class, [..., labels]: `true`, that have it; `answered`, that the model calls so; `hits`, both."""

    hits: np.ndarray
    true: np.ndarray
    answered: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """float64 [..., labels], NaN for a class that was never answered."""
        return _ratio(self.hits, self.answered)

    @property
    def recall(self) -> np.ndarray:
        """float64 [..., labels], NaN for a class without rows."""
        return _ratio(self.hits, self.true)

    @property
    def f1(self) -> np.ndarray:
        """float64 [..., labels], NaN for a class without true or predicted rows."""
        return _ratio(2.0 * self.hits, self.true + self.answered)


def class_counts(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray, classes: int) -> ClassCounts:
    """Counts by class, of one test set or of several that were resampled.

    Args:
        counts: int, [cells] or [sets, cells], how many rows each cell has.
        labels: int [cells], the true class of each cell.
        answers: int [cells], the class answered; `classes`, here and in `labels`, stands for any label that is none.
        classes: how many classes there are.
    """

    def by_class(of_cell: np.ndarray, counted: np.ndarray) -> np.ndarray:
        ones = sparse.csr_array(
            (counted.astype(np.int64), (np.arange(len(of_cell)), of_cell)), shape=(len(of_cell), classes + 1)
        )
        return (counts @ ones)[..., :classes]

    every = np.ones(len(labels), bool)
    return ClassCounts(by_class(labels, labels == answers), by_class(labels, every), by_class(answers, every))


def probability_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """What TFMA gives in float32 or from buckets, exactly, by scikit-learn.

    Args:
        labels: int [rows], the true classes.
        probabilities: float [rows, labels].

    Returns:
        `loss`, the log loss in nats, and `macro_auc`, the mean area under the ROC curves of each class against the
        rest, over the classes that some rows have and some have not; None where there is no such class.
    """
    exact = probabilities.astype(np.float64)
    counts = np.bincount(labels, minlength=exact.shape[1])
    ranked = np.flatnonzero((counts > 0) & (counts < len(labels)))
    areas = [metrics.roc_auc_score(labels == label, exact[:, label]) for label in ranked]
    return {
        "loss": log_loss(labels, probabilities),
        "macro_auc": float(np.mean(areas)) if areas else None,
    }


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean log loss in nats, by scikit-learn; arguments as in probability_scores."""
    exact = probabilities.astype(np.float64)
    # float32 adds up to 1 within 1e-7, which scikit-learn asks for more exactly.
    normalised = exact / exact.sum(-1, keepdims=True)
    return float(metrics.log_loss(labels, normalised, labels=np.arange(exact.shape[1])))


def intervals(confusion: np.ndarray) -> dict[str, Interval]:
    """95% intervals of accuracy, macro F1 and balanced accuracy, from a confusion matrix, int [labels, labels].

    Rows of the matrix are true labels, columns answers.
    """
    labels, answers = np.nonzero(confusion)
    counts, classes = confusion[labels, answers], len(confusion)
    present = confusion.sum(-1) > 0

    def macro_f1_and_balanced_accuracy(drawn: np.ndarray) -> np.ndarray:
        by_class = class_counts(drawn, labels, answers, classes)
        return np.stack([np.nanmean(by_class.f1, -1), np.nanmean(by_class.recall[..., present], -1)], -1)

    drawn = bootstrap(macro_f1_and_balanced_accuracy, counts, width=classes)
    return {
        "accuracy": share_interval(int(np.trace(confusion)), int(confusion.sum())),
        "macro_f1": percentile_interval(drawn[:, 0]),
        "balanced_accuracy": percentile_interval(drawn[:, 1]),
    }


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of the calibration error that each of `confidence`, float [rows], falls into, as scikit-learn has it."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return np.searchsorted(edges[1:-1], confidence.astype(np.float64))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> tuple[float, Interval]:
    """The expected calibration error (ECE) of the answers, and its 95% interval.

    The answers fall into CALIBRATION_BINS bins of equal width by the probability of the label answered; the error is
    the mean over the bins, weighted by rows, of how far the bin's accuracy lies from its mean probability (Naeini et
    al. 2015, Guo et al. 2017). Few rows raise it: a perfectly calibrated model of 2,000 rows gets some 0.02. For the
    interval the right answers of a bin count as equally confident, and so do the wrong ones.

    Args:
        confidence: float [rows], probability of the label answered.
        right: bool [rows], whether the answer is the label.
    """
    bins = calibration_bins(confidence)
    cells = bins * 2 + right
    counts = np.bincount(cells, minlength=2 * CALIBRATION_BINS)
    mean = _ratio(np.bincount(cells, confidence.astype(np.float64), minlength=2 * CALIBRATION_BINS), counts)
    surplus = (np.arange(2 * CALIBRATION_BINS) % 2) - np.nan_to_num(mean)  # of accuracy over probability, per row

    def error(drawn: np.ndarray) -> np.ndarray:
        by_bin = (drawn * surplus).reshape(*drawn.shape[:-1], CALIBRATION_BINS, 2).sum(-1)
        return np.abs(by_bin).sum(-1) / counts.sum()

    return float(error(counts)), percentile_interval(bootstrap(error, counts))


def calibration(labels: np.ndarray, answers: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How far probabilities can be trusted: `calibration_error` (see that function), and `log_loss`, scikit-learn's.

    Args:
        labels: int [rows], the true classes.
        answers: int [rows], the classes answered.
        probabilities: float [rows, labels].
    """
    return {
        "calibration_error": calibration_error(probabilities.max(-1), answers == labels)[0],
        "log_loss": log_loss(labels, probabilities),
    }


# === Two models on the same rows ===


def paired_differences(
    labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, classes: int
) -> dict[str, tuple[float, np.ndarray]]:
    """Accuracy and macro-F1 of our answers less those of another model to the same rows.

    Args:
        labels: int [rows], the true classes.
        ours: int [rows], our answers; `classes` stands for any label that is none of them.
        theirs: int [rows], the other model's.
        classes: how many classes there are.

    Returns:
        For "accuracy" and "macro_f1" the difference, and float64 [RESAMPLES], the difference in resampled test sets.
    """
    cells, counts = np.unique(np.stack([labels, ours, theirs]), axis=1, return_counts=True)

    def differences(drawn: np.ndarray) -> np.ndarray:  # [..., figures]
        mine, other = (_scores(drawn, cells[0], answers, classes) for answers in cells[1:])
        return mine - other

    observed, drawn = differences(counts), bootstrap(differences, counts, width=classes)
    return {name: (float(observed[place]), drawn[:, place]) for place, name in enumerate(SCORES)}


def scores(labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracy and macro-F1 of answers, int [rows]; arguments as in paired_differences."""
    values = _scores(np.ones(len(labels), np.int64), labels, answers, classes)
    return dict(zip(SCORES, values.tolist(), strict=True))


def _scores(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """SCORES, float64 [..., 2]; arguments as in class_counts."""
    by_class = class_counts(counts, labels, answers, classes)
    return np.stack([by_class.hits.sum(-1) / counts.sum(-1), np.nanmean(by_class.f1, -1)], -1)


def mcnemar(ours_right: np.ndarray, theirs_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test, by scipy: do both models get about as many rows right that the other gets wrong?

    Args:
        ours_right: bool [rows].
        theirs_right: bool [rows].

    Returns:
        The rows that only we get right, the rows that only they get right, and the two-sided p-value.
    """
    won, lost = int((ours_right & ~theirs_right).sum()), int((theirs_right & ~ours_right).sum())
    return won, lost, float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


# === Parts of the rows ===


def gap_to_the_whole(right: np.ndarray, inside: np.ndarray) -> tuple[float, np.ndarray]:
    """Accuracy of all rows less that of the rows `inside` a slice, and float64 [RESAMPLES], the same resampled.

    Args:
        right: bool [rows], whether the answer is the label.
        inside: bool [rows].
    """
    counts = np.bincount(inside * 2 + right, minlength=4)

    def gap(drawn: np.ndarray) -> np.ndarray:
        whole = (drawn[..., 1] + drawn[..., 3]) / drawn.sum(-1)
        return whole - _ratio(drawn[..., 3], drawn[..., 2] + drawn[..., 3])

    return float(gap(counts)), bootstrap(gap, counts)


def group_gaps(
    positive: np.ndarray, answered: np.ndarray, groups: np.ndarray, certainty: float
) -> dict[str, tuple[float, Interval]]:
    """Differences between groups, by fairlearn: the largest rate of a group less the smallest.

    Args:
        positive: bool [rows], whether the row has the favourable label.
        answered: bool [rows], whether the model answers it.
        groups: [rows], each row's group; at least two.
        certainty: that each bound holds with.

    Returns:
        The difference and its bounds for "demographic_parity" (of the share answered favourably) and
        "equal_opportunity" (of the same share among the rows that have the favourable label).
    """
    from fairlearn import metrics as fairness  # two seconds, for those who ask

    _, index = np.unique(groups, return_inverse=True)
    cells, counts = np.unique(np.stack([positive, answered, index]), axis=1, return_counts=True)
    weights = np.concatenate([counts[None], bootstrap(lambda drawn: drawn, counts, resamples=GROUP_RESAMPLES)])
    true, predicted, group = (np.tile(cell, len(weights)) for cell in cells)
    rates = {"demographic_parity": fairness.selection_rate, "equal_opportunity": fairness.true_positive_rate}
    frame = fairness.MetricFrame(
        metrics=rates,
        y_true=true,
        y_pred=predicted,
        sensitive_features=group,
        control_features=np.repeat(np.arange(len(weights)), len(counts)),  # the test set that was drawn
        sample_params={name: {"sample_weight": weights.ravel()} for name in rates},
    )
    gaps = frame.difference()
    return {name: (float(gaps[name][0]), percentile_interval(gaps[name][1:].to_numpy(), certainty)) for name in rates}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
