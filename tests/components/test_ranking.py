"""Candidates in order: figures against published examples, scikit-learn and a count over all orders."""

import itertools
import subprocess
import sys
from pathlib import Path

import factories
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from bertline.components import gates, ranking
from bertline.components.options import EvaluateOptions, GateOptions, RankingGates
from bertline.errors import UserError

OPTIONS = EvaluateOptions(ranking={"label": "yes", "at": [1, 2]})


def rows_of(queries, **changes):
    """Answers about queries: each a list of (whether the candidate fits, the probability that it does)."""
    flat = [(f"query {number}", fits, score) for number, query in enumerate(queries) for fits, score in query]
    texts, fit, scores = zip(*flat, strict=True)
    yes = np.array(scores, np.float32)
    probabilities = np.stack([1 - yes, yes], -1)
    labels = np.array(fit, int)
    return factories.answers(
        ["no", "yes"], labels, probabilities.argmax(-1), probabilities, columns={"text": list(texts)}, **changes
    )


def test_the_worked_example_of_the_mean_reciprocal_rank():
    # Three queries whose first right answers are third, second and first, as in Wikipedia's article: 11/18.
    queries = [[(0, 0.9), (0, 0.8), (1, 0.7)], [(0, 0.9), (1, 0.8), (0, 0.7)], [(1, 0.9), (0, 0.8), (0, 0.7)]]
    found = ranking.figures(rows_of(queries), None, OPTIONS)
    assert found.mrr == pytest.approx(11 / 18)
    assert found.precision_at == {1: pytest.approx(1 / 3), 2: pytest.approx((0 + 0.5 + 0.5) / 3)}
    assert found.intervals["mrr"][0] < found.mrr < found.intervals["mrr"][1]


def test_with_one_candidate_that_fits_it_is_scikit_learns_ranking_precision():
    draw = np.random.default_rng(0)
    scores, hits = draw.random((40, 6)).astype(np.float32), np.eye(6)[draw.integers(6, size=40)]
    queries = [list(zip(hit.astype(int), row, strict=True)) for hit, row in zip(hits, scores, strict=True)]
    found = ranking.figures(rows_of(queries), None, OPTIONS)
    assert found.mrr == pytest.approx(label_ranking_average_precision_score(hits, scores))
    assert found.ndcg == pytest.approx(ndcg_score(hits, scores))


@pytest.mark.parametrize("fit", [(1, 0, 0, 1, 0), (0, 1, 1, 0, 0), (0, 0, 0, 0, 1)])
def test_ties_count_as_the_mean_over_all_their_orders(fit):
    scores = [0.9, 0.5, 0.5, 0.5, 0.2]
    fit = np.array(fit)
    found = ranking.by_query(np.zeros(5), fit == 1, np.array(scores, np.float32), [1, 3])
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    first = np.mean([1 / (1 + np.flatnonzero(fit[order])[0]) for order in orders])
    gains = np.mean([(fit[order] / np.log2(np.arange(5) + 2)).sum() for order in orders])
    best = (1 / np.log2(np.arange(fit.sum()) + 2)).sum()
    assert found["mrr"] == pytest.approx(first)
    assert found["precision_at_3"] == pytest.approx(np.mean([fit[order][:3].mean() for order in orders]))
    assert found["ndcg"] == pytest.approx(gains / best)


def test_queries_where_nothing_fits_are_counted_and_few_candidates_do_not_raise_precision():
    found = ranking.figures(rows_of([[(1, 0.9)], [(0, 0.9), (0, 0.1)]]), None, OPTIONS)
    assert (found.queries, found.without, found.candidates) == (1, 1, 3)
    assert (found.mrr, found.ndcg, found.precision_at) == (1, 1, {1: 1.0, 2: 0.5})


def test_one_query_with_other_white_space_is_one_query():
    rows = rows_of([[(0, 0.9)], [(1, 0.2)]])
    rows.columns["text"][:] = ["the  same query", "the same query "]
    assert ranking.figures(rows, None, OPTIONS).mrr == 0.5


def test_no_candidate_that_fits_and_an_unknown_label_are_said_in_words():
    with pytest.raises(UserError, match="none of the 1 queries of the test rows has a candidate with the label 'yes'"):
        ranking.figures(rows_of([[(0, 0.9), (0, 0.1)]]), None, OPTIONS)
    with pytest.raises(UserError, match=r"no label 'fits'; its labels are no, yes"):
        ranking.figures(rows_of([[(1, 0.9)]]), None, EvaluateOptions(ranking={"label": "fits"}))


# === Gates ===

GOOD, BAD = [(1, 0.9), (0, 0.4), (0, 0.1)], [(1, 0.1), (0, 0.4), (0, 0.9)]
NONE = GateOptions(not_worse_by=None, beats_majority=False, slices={"not_worse_by": None})


def verdicts(queries, previous=None, **bounds):
    """The ranking gates' verdicts on a model, against another one that gives its queries another order."""
    options = OPTIONS.model_copy(update={"gates": NONE.model_copy(update={"ranking": RankingGates(**bounds)})})
    rows = rows_of(queries)
    found = ranking.figures(rows, rows_of(previous) if previous else None, options)
    return gates.judge(factories.metrics(rows, ranking=found), rows, options.gates)


def test_floors_pass_at_the_bound_and_block_below():
    passed = verdicts([GOOD, BAD], precision_at={1: 0.5}, mrr=2 / 3, ndcg=0.75)
    assert [verdict.passed for verdict in passed] == [True, True, True]
    (blocked,) = verdicts([GOOD, BAD], mrr=0.7)
    assert blocked.reason == "MRR 0.667 over 2 queries is below the config's floor of 0.7"
    assert blocked.kind == "ranking.mrr" and blocked.missing == pytest.approx(0.7 - 2 / 3)


def test_a_model_that_orders_surely_worse_than_the_last_is_blocked_and_luck_is_not():
    (blocked,) = verdicts([BAD] * 30 + [GOOD] * 10, [GOOD] * 40)
    assert not blocked.passed and "on the same 40 queries, with 95% certainty by more than" in blocked.reason
    (lucky,) = verdicts([BAD] + [GOOD] * 10, [GOOD] * 11)
    assert lucky.passed and lucky.interval[0] < 0


def test_the_documented_example_has_one_right_story_for_each_headline(tmp_path):
    script, table = Path(__file__).parents[2] / "scripts/headline_pairs.py", tmp_path / "pairs.csv"
    subprocess.run([sys.executable, script, table], check=True)
    rows = pd.read_csv(table)
    assert len(rows) == 5 * rows.headline.nunique() == 10_480
    assert (rows.fits == "yes").groupby(rows.headline).sum().eq(1).all()
    assert rows.groupby(["headline", "story"]).fits.nunique().eq(1).all()
