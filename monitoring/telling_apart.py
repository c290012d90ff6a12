"""Whether a classifier can tell a window's texts from others, and by which texts and words.

It learns on one half and is judged on the other, and the other way round (a classifier two-sample test, Lopez-Paz and
Oquab 2017). Where nothing has changed it cannot: the area under its ROC curve is 0.5 within chance, which the
Mann-Whitney statistic tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MOST_ROWS = 4000  # of either kind: with them an area of 0.52 is seen, and learning takes two seconds
STRENGTH = 1e-3  # of the regularisation's inverse: with as many numbers as texts a looser fit learns each text
WORDS = 10
CONFIDENCE = 0.95


class Told(NamedTuple):
    """How well the texts are told apart.

    Attributes:
        area: under the ROC curve, 0.5 for not at all, 1 for always.
        interval: 95%.
        p_value: how likely such an area is where nothing has changed.
        scores: float [rows of the window], how much each text is told by; higher is stranger.
    """

    area: float
    interval: tuple[float, float]
    p_value: float
    scores: np.ndarray


def tell_apart(now: np.ndarray | sparse.csr_matrix, then: np.ndarray | sparse.csr_matrix, seed: int = 0) -> Told:
    """How well the rows of now are told from those then, both [rows, numbers]; at least four of each."""
    generator = np.random.default_rng(seed)
    halves = [generator.permutation(rows.shape[0]) % 2 for rows in (now, then)]
    scores, areas, deviations, deviates = np.zeros(now.shape[0]), [], [], []
    for half in (0, 1):
        learner = _learner(now)
        learn = [rows[halves[kind] != half] for kind, rows in enumerate((now, then))]
        judge = [rows[halves[kind] == half] for kind, rows in enumerate((now, then))]
        learner.fit(_stacked(learn), np.repeat([1, 0], [part.shape[0] for part in learn]))
        ours, theirs = (learner.decision_function(part) for part in judge)
        scores[halves[0] == half] = ours
        area, deviation = _area(ours, theirs)
        areas.append(area)
        deviations.append(deviation)
        p_value = stats.mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic").pvalue
        deviates.append(stats.norm.isf(p_value))
    area, deviation = float(np.mean(areas)), float(np.sqrt(np.mean(np.square(deviations)) / 2))
    margin = stats.norm.ppf((1 + CONFIDENCE) / 2) * deviation
    together = stats.norm.sf(np.sum(deviates) / np.sqrt(2))
    return Told(area, (max(area - margin, 0.0), min(area + margin, 1.0)), float(together), scores)


def words_apart(now: Sequence[str], then: Sequence[str]) -> list[str]:
    """The words by which the texts of now are told from those then, the most telling first."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=min(5, max(1, len(now) // 50)), max_features=20_000)
    table = counts.fit_transform([*now, *then])
    learner = LogisticRegression(class_weight="balanced", max_iter=1000)
    learner.fit(table, np.repeat([1, 0], [len(now), len(then)]))
    names, weights = counts.get_feature_names_out(), learner.coef_[0]
    return [str(names[place]) for place in np.argsort(-weights)[:WORDS] if weights[place] > 0]


def vectors_of_words(now: Sequence[str], then: Sequence[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Texts by their words, for models that give no vectors."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=20_000).fit([*now, *then])
    return counts.transform(now), counts.transform(then)


def _learner(rows: np.ndarray | sparse.csr_matrix):
    if sparse.issparse(rows):
        return LogisticRegression(class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000))


def _stacked(parts: list) -> np.ndarray | sparse.csr_matrix:
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def _area(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve, by scikit-learn, and its standard deviation (DeLong et al. 1988)."""
    labels = np.repeat([1, 0], [len(ours), len(theirs)])
    area = roc_auc_score(labels, np.concatenate([ours, theirs]))
    both = stats.rankdata(np.concatenate([ours, theirs]))
    above = (both[: len(ours)] - stats.rankdata(ours)) / len(theirs)
    below = 1 - (both[len(ours) :] - stats.rankdata(theirs)) / len(ours)
    return float(area), float(np.sqrt(np.var(above, ddof=1) / len(ours) + np.var(below, ddof=1) / len(theirs)))
