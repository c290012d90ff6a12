"""The verdicts between an evaluated model and its push: pure functions on metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from components.options import GateOptions

CONFIDENCE = 0.95
RESAMPLES = 2000  # puts the bounds of a 95% interval within about 0.1 of its width


@dataclass(frozen=True)
class Verdict:
    """One gate's finding: `value` is held against `bound`, `reason` says in words why it did not pass."""

    gate: str
    value: str
    bound: str
    passed: bool
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON takes it."""
        return asdict(self)


# === Intervals ===


def accuracy_interval(correct: int, rows: int) -> tuple[float, float]:
    """Wilson's score interval of an accuracy (Wilson 1927), by scipy."""
    interval = stats.binomtest(correct, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, NaN for a class without true or predicted rows.

    Args:
      confusion: float or int, [..., labels, labels], rows are true labels, columns predictions.

    Returns:
      float64, [..., labels].
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(-1) + confusion.sum(-2)
    return np.divide(2.0 * hits, total, out=np.full(total.shape, np.nan), where=total > 0)


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Recall of each class, NaN where the class has no rows. Shapes as in f1_per_class."""
    rows = confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.divide(hits, rows, out=np.full(rows.shape, np.nan), where=rows > 0)


def bootstrap(confusion: np.ndarray, seed: int = 0) -> np.ndarray:
    """Confusion matrices of resampled test sets.

    Drawing rows with replacement draws the cells of the confusion matrix from a multinomial, so no row is needed
    (Efron and Tibshirani 1993, the percentile bootstrap).

    Args:
      confusion: int, [labels, labels].
      seed: of the generator.

    Returns:
      int64, [RESAMPLES, labels, labels].
    """
    rows = int(confusion.sum())
    drawn = np.random.default_rng(seed).multinomial(rows, confusion.ravel() / rows, size=RESAMPLES)
    return drawn.reshape(RESAMPLES, *confusion.shape)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The central CONFIDENCE share of `values`, float [resamples]."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def intervals(confusion: np.ndarray) -> dict[str, tuple[float, float]]:
    """95% intervals of accuracy, macro F1 and balanced accuracy, from a confusion matrix, int [labels, labels]."""
    resampled = bootstrap(confusion)
    present = confusion.sum(-1) > 0
    return {
        "accuracy": accuracy_interval(int(np.trace(confusion)), int(confusion.sum())),
        "macro_f1": percentile_interval(np.nanmean(f1_per_class(resampled), axis=-1)),
        "balanced_accuracy": percentile_interval(np.nanmean(recall_per_class(resampled)[..., present], axis=-1)),
    }


# === Gates ===


def judge(metrics: dict[str, Any], baseline: dict[str, Any] | None, options: GateOptions) -> list[Verdict]:
    """All configured gates' verdicts.

    Args:
      metrics: `accuracy`, `macro_f1`, `majority_share` and `intervals` of the candidate (see evaluator.summarise).
      baseline: `version`, `accuracy` and `macro_f1` of the last blessed model on the same rows; None without one.
      options: the config's gates.
    """
    verdicts = []
    for name, bound in (("accuracy", options.accuracy), ("macro_f1", options.macro_f1)):
        if bound is not None:
            verdicts.append(_floor(name, metrics[name], bound))
    if options.beats_majority:
        verdicts.append(_beats_majority(metrics))
    if options.not_worse_by is not None and baseline is not None:
        verdicts.append(_not_worse(metrics, baseline, options.not_worse_by))
    return verdicts


def _floor(name: str, value: float, bound: float) -> Verdict:
    reason = "" if value >= bound else f"{name} {value:.3f} is below the config's floor of {bound:g}"
    return Verdict(f"{name} >= {bound:g}", f"{value:.3f}", f"{bound:g}", value >= bound, reason)


def _beats_majority(metrics: dict[str, Any]) -> Verdict:
    """Better than always answering the commonest label.

    That answer has an accuracy of the label's share and a balanced accuracy of one in the labels present, as has any
    answer that ignores the text; so accuracy must reach the share, and balanced accuracy exceed chance beyond doubt.
    """
    share, chance = metrics["majority_share"], 1 / metrics["labels_present"]
    low = metrics["intervals"]["balanced_accuracy"][0]
    reason = ""
    if metrics["accuracy"] < share:
        reason = (
            f"accuracy {metrics['accuracy']:.3f} is below {share:.3f}, that of always answering the commonest label"
        )
    elif low <= chance:
        reason = (
            f"balanced accuracy may be as low as {low:.3f}: no better than {chance:.3f}, that of any one fixed answer"
        )
    return Verdict("beats the commonest label", f"{metrics['accuracy']:.3f}", f"{share:.3f}", not reason, reason)


def _not_worse(metrics: dict[str, Any], baseline: dict[str, Any], margin: float) -> Verdict:
    differences = {name: metrics[name] - baseline[name] for name in ("accuracy", "macro_f1")}
    worst = min(differences, key=differences.get)
    passed = differences[worst] >= -margin
    reason = (
        ""
        if passed
        else f"{worst} fell from {baseline[worst]:.3f} (version {baseline['version']}) to {metrics[worst]:.3f} on the "
        f"same rows; a loss of {margin:g} is allowed"
    )
    return Verdict(
        f"not worse than {baseline['version']}", f"{differences[worst]:+.3f}", f"-{margin:g}", passed, reason
    )
