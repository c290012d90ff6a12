"""Whether shares have shifted between two sets of texts, by how much, and how sure that is.

Windows of real traffic differ from each other by more than chance alone would have it: Mondays are no Sundays. How much
more is told by the windows before. Their chi-squared statistic over its degrees of freedom is the dispersion by which
that of the newest window is divided, as for quasi-likelihood (McCullagh and Nelder 1989, 4.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_EXPECTED = 5.0  # texts in a cell, below which the chi-squared distribution no longer holds (Cochran 1954)
BINS = 5  # of a number, by the quantiles of what it is compared with: few, so that a shift adds up in one


class Shift(NamedTuple):
    """What became of shares.

    Attributes:
        distance: total variation distance, the share of the texts that would have to move, 0 to 1.
        p_value: how likely a distance like this is where nothing has changed.
        grown: the category whose share grew most.
    """

    distance: float
    p_value: float
    grown: int


def shift(now: np.ndarray, then: np.ndarray, before: Sequence[np.ndarray] = ()) -> Shift:
    """How far the shares now are from those then.

    Args:
        now: int [categories], texts of each.
        then: int [categories], the same of what they are compared with.
        before: int [categories] each, of windows in which nothing is known to have changed; they tell the dispersion.
    """
    shares = now / now.sum() - then / then.sum()
    table, *windows = _pooled([np.stack([now, then]), *before])
    if table.shape[1] < 2:
        return Shift(0.0, 1.0, int(np.argmax(shares)))
    statistic, freedom = _statistic(table)
    dispersion, of_dispersion = _dispersion(windows)
    if dispersion > 1:
        p_value = stats.f.sf(statistic / freedom / dispersion, freedom, of_dispersion)
    else:
        p_value = stats.chi2.sf(statistic, freedom)
    return Shift(float(np.abs(shares).sum() / 2), float(p_value), int(np.argmax(shares)))


def _pooled(tables: list[np.ndarray]) -> list[np.ndarray]:
    """The same tables with the rare categories joined, so that each has enough texts to be judged by.

    A category is rare where the smaller of the two sets of the first table would be expected to have few of it.
    """
    table = tables[0]
    expected = table.sum(0) * table.sum(1).min() / table.sum()
    rare = expected < LEAST_EXPECTED
    pooled = [np.concatenate([each[..., ~rare], each[..., rare].sum(-1, keepdims=True)], -1) for each in tables]
    if expected[rare].sum() >= LEAST_EXPECTED:
        return pooled
    if pooled[0].shape[1] > 2:  # the rare ones together are rare too: they join the least of the others
        least = int(np.argmin(pooled[0][:, :-1].sum(0)))
        for each in pooled:
            each[..., least] += each[..., -1]
    return [each[..., :-1] for each in pooled]


def _statistic(table: np.ndarray) -> tuple[float, int]:
    """Pearson's chi-squared, by scipy, and its degrees of freedom, of counts [sets, categories]."""
    there = table[:, table.sum(0) > 0]
    if there.shape[1] < 2:
        return 0.0, 1
    result = stats.chi2_contingency(there, correction=False)
    return float(result.statistic), int(result.dof)


def _dispersion(windows: list[np.ndarray]) -> tuple[float, int]:
    """By how much windows differ beyond chance, 1 where chance explains it; and its degrees of freedom."""
    filled = [window for window in windows if window.sum()]
    if len(filled) < 2:
        return 1.0, 1
    statistic, freedom = _statistic(np.stack(filled))
    return statistic / freedom, freedom


def edges(values: np.ndarray) -> np.ndarray:
    """The bounds of at most BINS bins with about as many values each, float [rows] to float [bounds], rising."""
    known = values[~np.isnan(values)]
    return np.unique(np.quantile(known, np.arange(1, BINS) / BINS)) if len(known) else np.zeros(0)


def bins(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The bin of each value, int [rows]; a value at a bound belongs below it. -1 for NaN."""
    return np.where(np.isnan(values), -1, np.searchsorted(bounds, values))


def counted(categories: np.ndarray, size: int) -> np.ndarray:
    """Texts of each category, int [size]; -1 does not count."""
    return np.bincount(categories[categories >= 0], minlength=size)
