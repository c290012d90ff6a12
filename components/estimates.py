"""How sure a figure is: intervals, two models on the same rows, calibration error, gaps between groups of people.

Resampling is over rows, drawn as counts of equal rows from a multinomial: rows that agree in all that a figure looks at
are one cell, so that a test set of any size resamples in milliseconds (Efron and Tibshirani 1993, the percentile
bootstrap).
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from sklearn import metrics

CONFIDENCE = 0.95
RESAMPLES = 2000  # puts the bounds of a 95% interval within about 0.1 of its width
GROUP_RESAMPLES = 200  # fairlearn takes some 5 ms for each; the bounds are then within a fifth of the width
# As in Guo et al. 2017, whose figures people compare with.
CALIBRATION_BINS = 15

Interval = tuple[float, float]


# === Resampling ===


def bootstrap(counts: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Counts of resampled test sets, as drawing rows with replacement gives them.

    Args:
      counts: int, any shape: how many rows each cell has, such as a confusion matrix.
      seed: of the generator.
      resamples: how many test sets to draw.

    Returns:
      int64, [resamples, *counts.shape].
    """
    rows = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(rows, counts.ravel() / rows, size=resamples)
    return drawn.reshape(resamples, *counts.shape)


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


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, NaN for a class without true or predicted rows.

    Args:
      confusion: float or int, [..., labels, labels], rows are true labels, columns predictions.

    Returns:
      float64, [..., labels].
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _ratio(2.0 * hits, confusion.sum(-1) + confusion.sum(-2))


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class, NaN where the class has no rows. Shapes as in f1_per_class."""
    return _ratio(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1))


def probability_scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """What TFMA gives in float32 or from buckets, exactly, by scikit-learn.

    Args:
      labels: int [rows], the true classes.
      probabilities: float [rows, labels].

    Returns:
      `loss`, the log loss in nats, and `macro_auc`, the mean area under the ROC curves of each class against the rest,
      over the classes that some rows have and some have not; None where there is no such class.
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
    """95% intervals of accuracy, macro F1 and balanced accuracy, from a confusion matrix, int [labels, labels]."""
    resampled = bootstrap(confusion)
    present = confusion.sum(-1) > 0
    return {
        "accuracy": share_interval(int(np.trace(confusion)), int(confusion.sum())),
        "macro_f1": percentile_interval(np.nanmean(f1_per_class(resampled), axis=-1)),
        "balanced_accuracy": percentile_interval(np.nanmean(recall_per_class(resampled)[..., present], axis=-1)),
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
    surplus = (np.arange(2 * CALIBRATION_BINS) % 2) - np.nan_to_num(mean)  # of accuracy over probability, a row

    def error(drawn: np.ndarray) -> np.ndarray:
        by_bin = (drawn * surplus).reshape(*drawn.shape[:-1], CALIBRATION_BINS, 2).sum(-1)
        return np.abs(by_bin).sum(-1) / counts.sum()

    return float(error(counts)), percentile_interval(error(bootstrap(counts)))


def calibration(labels: np.ndarray, answers: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How far probabilities can be trusted: `calibration_error` as above, and `log_loss`, scikit-learn's.

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
    resampled = bootstrap(counts).astype(np.float64)
    observed, drawn = (
        [_scores(each, cells[0], answers, classes) for answers in cells[1:]] for each in (counts, resampled)
    )
    return {name: (float(observed[0][name] - observed[1][name]), drawn[0][name] - drawn[1][name]) for name in drawn[0]}


def scores(labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, float]:
    """Accuracy and macro-F1 of answers, int [rows]; arguments as in paired_differences."""
    found = _scores(np.ones(len(labels)), labels, answers, classes)
    return {name: float(value) for name, value in found.items()}


def _scores(counts: np.ndarray, labels: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Accuracy and macro-F1, float [...], where each pair of label and answer occurs so often: counts, [..., cells]."""
    true, answered = np.eye(classes + 1)[labels], np.eye(classes + 1)[answers]  # [cells, classes + 1]
    hits = counts @ (true * answered)
    f1 = _ratio(2 * hits, counts @ (true + answered))[..., :classes]
    return {"accuracy": hits.sum(-1) / counts.sum(-1), "macro_f1": np.nanmean(f1, axis=-1)}


def mcnemar(ours_right: np.ndarray, theirs_right: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test, by scipy: are the rows that one model alone gets right split evenly between the two?

    Args:
      ours_right: bool [rows].
      theirs_right: bool [rows].

    Returns:
      The rows that we alone get right, those that they alone do, and the two-sided p-value.
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

    return float(gap(counts)), gap(bootstrap(counts))


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
    weights = np.concatenate([counts[None], bootstrap(counts, resamples=GROUP_RESAMPLES)])
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
