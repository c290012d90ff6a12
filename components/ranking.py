"""How well a model puts each query's candidates in order: precision at k, reciprocal rank and nDCG, query by query.

The rows of one query are its candidates; those with a given label fit it, and the label's probability is their score.
Three conventions:

- Candidates with the same score have no order. A figure is its expected value over all their orders, as scikit-learn's
  nDCG has it (McSherry and Najork 2008).
- Precision at k divides by k, also where a query has fewer candidates, as trec_eval has it.
- A query without a candidate that fits counts in no figure; they are counted as `without`.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from sklearn import metrics as sklearn_metrics

from bertline.components import estimates
from bertline.components.answers import Answers
from bertline.components.evaluation import Difference, RankingFigures
from bertline.components.options import EvaluateOptions
from bertline.components.splitting import text_key
from bertline.errors import UserError
from bertline.models import features

COMPARED = ("mrr", "ndcg")  # the figures by which two models are compared
RESAMPLES = estimates.RESAMPLES


def figures(rows: Answers, previous: Answers | None, options: EvaluateOptions) -> RankingFigures:
    """The figures of all test rows.

    Args:
        rows: the model's answers.
        previous: the last blessed model's answers to the same rows; None without one.
        options: the label of candidates that fit, the k, and the certainty of a comparison.

    Raises:
        UserError: the model has no such label, or no candidate of any query fits.
    """
    fit, queries = _fitting(rows, options), _queries(rows)
    of_query = by_query(queries, fit, _scores(rows, options), _places(options))
    if not of_query:
        raise UserError(
            f"evaluate.ranking: none of the {len(np.unique(queries)):,} queries of the test rows has a candidate with "
            f"the label {options.ranking.label!r}. Check that data.text names the column of the queries, and the label."
        )
    drawn = {name: _resampled(values) for name, values in of_query.items()}
    counted = len(of_query["mrr"])
    return RankingFigures(
        queries=counted,
        without=len(np.unique(queries)) - counted,
        candidates=len(fit),
        mrr=float(of_query["mrr"].mean()),
        ndcg=float(of_query["ndcg"].mean()),
        precision_at={k: float(of_query[_precision(k)].mean()) for k in _places(options)},
        intervals={name: estimates.percentile_interval(values) for name, values in drawn.items()},
        leads=_leads(of_query, queries, fit, previous, options),
    )


def _leads(
    ours: dict[str, np.ndarray],
    queries: np.ndarray,
    fit: np.ndarray,
    previous: Answers | None,
    options: EvaluateOptions,
) -> dict[str, Difference] | None:
    """Our figures less the last blessed model's, by a paired bootstrap of the queries; None where it ranks none."""
    if previous is None or options.ranking.label not in previous.classes:
        return None
    theirs = by_query(queries, fit, _scores(previous, options), ())
    leads = {}
    for name in COMPARED:
        gaps = ours[name] - theirs[name]
        low, high = estimates.percentile_interval(_resampled(gaps), options.gates.certainty)
        leads[name] = Difference(value=float(gaps.mean()), low=low, high=high)
    return leads


def _resampled(values: np.ndarray) -> np.ndarray:
    """The mean of resampled queries, float64 [RESAMPLES]."""
    distinct, counts = np.unique(values, return_counts=True)
    return estimates.bootstrap(lambda drawn: drawn @ distinct / counts.sum(), counts)


# === Rows ===


def _places(options: EvaluateOptions) -> list[int]:
    """The k of precision at k: those that are shown, and those of the gates."""
    return sorted({*options.ranking.at, *options.gates.ranking.precision_at})


def _fitting(rows: Answers, options: EvaluateOptions) -> np.ndarray:
    """bool [rows], which rows have the label of a candidate that fits."""
    label = options.ranking.label
    if label not in rows.classes:
        raise UserError(
            f"evaluate.ranking.label: the model has no label {label!r}; its labels are {', '.join(rows.classes)}."
        )
    return rows.having(rows.classes.index(label))[0]


def _scores(rows: Answers, options: EvaluateOptions) -> np.ndarray:
    """float32 [rows], the probability that a candidate fits."""
    return rows.probabilities[:, rows.classes.index(options.ranking.label)]


def _queries(rows: Answers) -> np.ndarray:
    """The query of each row, uint64 [rows]: a text with other white space is the same query, as for the split."""
    return np.array([text_key(text).high for text in rows.columns[features.TEXT]], np.uint64)


# === Figures of a query ===


def _precision(k: int) -> str:
    return f"precision_at_{k}"


def by_query(queries: np.ndarray, fit: np.ndarray, scores: np.ndarray, at: Collection[int]) -> dict[str, np.ndarray]:
    """The figures of each query that has a candidate that fits: by name, float64 [queries]; {} where none has.

    Args:
        queries: [rows], what tells the query of a row.
        fit: bool [rows], whether the row's candidate fits.
        scores: float [rows]; higher comes first.
        at: the k of precision at k.
    """
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.r_[True, queries[order][1:] != queries[order][:-1]])
    groups = [group for group in np.split(order, starts[1:]) if fit[group].any()]
    of_query = [_of_query(fit[group], scores[group], at) for group in groups]
    return {name: np.array([each[name] for each in of_query]) for name in of_query[0]} if of_query else {}


def _of_query(fit: np.ndarray, scores: np.ndarray, at: Collection[int]) -> dict[str, float]:
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # of each block of equal scores
    sizes, fitting = np.diff(np.r_[starts, len(order)]), np.add.reduceat(fit[order].astype(int), starts)
    # Within a block every candidate fits with the same probability.
    expected = np.cumsum(np.repeat(fitting / sizes, sizes))
    return {
        "mrr": _reciprocal_rank(starts, sizes, fitting),
        "ndcg": _ndcg(fit, scores),
        **{_precision(k): float(expected[min(k, len(expected)) - 1]) / k for k in at},
    }


def _reciprocal_rank(starts: np.ndarray, sizes: np.ndarray, fitting: np.ndarray) -> float:
    """One over the rank of the first candidate that fits, as expected over the orders of its block."""
    block = int(np.argmax(fitting > 0))
    size, hits = int(sizes[block]), int(fitting[block])
    expected, none_before = 0.0, 1.0
    for place in range(size - hits + 1):
        first_here = none_before * hits / (size - place)
        expected += first_here / (starts[block] + place + 1)
        none_before -= first_here
    return float(expected)


def _ndcg(fit: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's, which takes at least two candidates; one that fits has nothing to come after."""
    if len(fit) == 1:
        return 1.0
    return float(sklearn_metrics.ndcg_score(fit[None].astype(float), scores[None]))
