"""How often the served model is right, estimated before anybody has labelled what it answered.

The probability of an answer says how often such answers are right, as far as the model is calibrated. On the test rows,
whose labels are known, an isotonic curve takes each probability to the share that is right there; its mean over a
window estimates the window's accuracy. The idea is that of confidence-based performance estimation (NannyML's CBPE) and
of Guillory et al. 2021. It holds as far as answers of one probability are as often right as on the test rows. Where
texts of a new kind come, or the same texts mean something else, they may not be, and no estimate without labels knows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.isotonic import isotonic_regression

RESAMPLES = 100  # of the test rows: their spread is then known to within a tenth
GRID = 200  # points of the window's confidence that stand for all of it
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """An estimated accuracy.

    Attributes:
        accuracy: of the window.
        interval: 95%; how well the test rows tell the curve is in it, and the chance of the window's own answers.
        difference: from the accuracy on the test rows.
        p_value: how likely such a loss is where nothing is lost.
    """

    accuracy: float
    interval: tuple[float, float]
    difference: float
    p_value: float


def estimate(confidence: np.ndarray, test_confidence: np.ndarray, test_right: np.ndarray) -> Estimate:
    """Estimates a window's accuracy.

    Args:
        confidence: float [rows], the probability of each answer of the window.
        test_confidence: float [test rows], the same on the test rows.
        test_right: bool [test rows], whether the answer was right.
    """
    generator = np.random.default_rng(0)
    # A million answers are as well described by the quantiles of their probability.
    grid = np.quantile(confidence, (np.arange(GRID) + 0.5) / GRID)
    order = np.argsort(test_confidence, kind="stable")
    known, right = test_confidence[order], test_right[order].astype(np.float64)
    curve = _curve(grid, known, right, np.ones(len(right)))
    accuracy = curve.mean()
    drawn, differences = [], []
    for _ in range(RESAMPLES):
        counts = generator.multinomial(len(right), np.full(len(right), 1 / len(right))).astype(np.float64)
        drawn.append(_curve(grid, known, right, counts).mean())
        differences.append(drawn[-1] - counts @ right / len(right))
    own = (curve * (1 - curve)).mean() / len(confidence)  # the window's answers are right or wrong by chance
    margin = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(np.var(drawn) + own)
    difference = accuracy - test_right.mean()
    # The paired difference: a curve that lies too high lies too high on the test rows as well. What the window's
    # confidence would be in another window of the same kind is chance too.
    deviation = np.sqrt(np.var(differences) + np.var(curve) / len(confidence))
    return Estimate(
        accuracy=float(accuracy),
        interval=(float(max(accuracy - margin, 0.0)), float(min(accuracy + margin, 1.0))),
        difference=float(difference),
        p_value=float(stats.norm.cdf(difference / deviation)) if deviation else float(difference >= 0),
    )


def measured(right: int, rows: int, test_right: np.ndarray) -> tuple[tuple[float, float], float]:
    """The 95% interval of a measured accuracy, and the p-value of its loss; arguments and p-value as in `estimate`.

    Args:
        right: answers of the window that turned out to be right.
        rows: those whose label is known.
        test_right: bool [test rows].
    """
    interval = stats.binomtest(right, rows).proportion_ci(CONFIDENCE, method="wilson")
    known = int(test_right.sum())
    table = [[right, rows - right], [known, len(test_right) - known]]
    p_value = stats.fisher_exact(table, alternative="less").pvalue
    return (float(interval.low), float(interval.high)), float(p_value)


def _curve(grid: np.ndarray, confidence: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The share that is right at each point of the grid, by isotonic regression.

    Args:
        grid: float [points].
        confidence: float [test rows], rising.
        right: float [test rows], 1 or 0.
        counts: float [test rows], how often each row counts.
    """
    there = counts > 0
    values = isotonic_regression(right[there], sample_weight=counts[there], y_min=0.0, y_max=1.0)
    return np.interp(grid, confidence[there], values)
