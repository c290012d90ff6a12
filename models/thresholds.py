"""The probability from which a row gets a label, for each label of a multi-label model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DEFAULT = 0.5
# F1 of a threshold rests on the rows that have the label. With fewer of them than this, the best one is luck.
MINIMUM_POSITIVES = 10


class Threshold(NamedTuple):
    """The probability from which a row gets the label; where it was not tuned it is DEFAULT, and the note says why."""

    value: float = DEFAULT
    note: str = ""


def tune(probabilities: np.ndarray, labels: np.ndarray) -> list[Threshold]:
    """For each label, the threshold with the highest F1 on rows that the weights were not fitted on.

    Candidates lie half way between neighbouring probabilities. Of several that are equally good, it takes the one
    nearest to DEFAULT.

    Args:
        probabilities: float [rows, labels].
        labels: bool [rows, labels].
    """
    return [_tuned(of_label, has) for of_label, has in zip(probabilities.T, labels.T, strict=True)]


def _tuned(probabilities: np.ndarray, has: np.ndarray) -> Threshold:
    positives = int(has.sum())
    if positives < MINIMUM_POSITIVES:
        rows = f"{positives} validation {'row has' if positives == 1 else 'rows have'} it"
        return Threshold(note=f"{rows}: {MINIMUM_POSITIVES} are needed to tune it")
    values = np.unique(probabilities.astype(np.float64))
    candidates = np.append((values[1:] + values[:-1]) / 2, DEFAULT)
    ascending, with_label = np.sort(probabilities), np.sort(probabilities[has])
    assigned = len(ascending) - np.searchsorted(ascending, candidates, side="left")
    hits = positives - np.searchsorted(with_label, candidates, side="left")
    f1 = 2 * hits / (positives + assigned)
    best = np.flatnonzero(f1 == f1.max())
    return Threshold(float(candidates[best[np.abs(candidates[best] - DEFAULT).argmin()]]))
