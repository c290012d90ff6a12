"""Candidates for queries through the whole line: figures recounted by scikit-learn, a warm second run, and `rank`."""

import json
import random

import factories
import pandas as pd
import pytest
from factories import MOODS, page_tables
from lines import Line
from sklearn.metrics import ndcg_score

from bertline.components import ranking


def pairs(queries, seed=0):
    """(query, candidate, fits) rows: four candidates for each query, of which one or two are of its mood."""
    chance, rows = random.Random(seed), []
    for number in range(queries):
        mood = chance.choice(list(MOODS))
        query = f"{' '.join(chance.sample(MOODS[mood], 2))} {number}"
        others = [each for each in MOODS if each != mood]
        for place, of in enumerate([mood, chance.choice([mood, *others]), *others]):
            words = [*chance.sample(MOODS[of], 2), str(number), str(place)]
            rows.append((query, " ".join(words), "yes" if of == mood else "no"))
    return rows


@pytest.mark.shipped
def test_a_line_that_ranks(tmp_path, warm):
    line = Line(tmp_path, warm)
    factories.write_task(line.folder, [], epochs=4)
    factories.write_csv(line.folder / "reviews.csv", pairs(150), ("query", "candidate", "fits"))
    line.edit(
        "  keep: [shop]",
        "  text: query\n  text_pair: candidate\n  label: fits\n  split: {group: text, test: 0.2, train: 0.7}",
    )
    line.edit("  slices: [shop]\n", '  ranking: {label: "yes", at: [1, 2]}\n')
    line.edit("{accuracy: 0.8, macro_f1: 0.8}", "{beats_majority: false, not_worse_by: null, ranking: {mrr: 0.2}}")
    ran = line.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (evaluation,) = line.folder.glob("runs/artifacts/Evaluator/evaluation/*")
    found = json.loads((evaluation / "metrics.json").read_text())["ranking"]
    rows = pd.read_parquet(evaluation / "predictions-test.parquet")
    groups = [of_query for _, of_query in rows.groupby("text") if (of_query.label == "yes").any()]
    scores = [([each[1] for each in of.probabilities], list(of.label == "yes")) for of in groups]
    expected = sum(ndcg_score([fits], [given]) for given, fits in scores) / len(scores)
    assert found["queries"] == len(groups) and found["ndcg"] == pytest.approx(expected, abs=1e-6)
    assert all(len(of_query) == 4 for of_query in groups), "no query is in two splits"
    assert f"MRR {found['mrr']:.3f}" in ran.stdout and "MRR >= 0.2" in ran.stdout
    (release,) = line.folder.glob("runs/serving/*/release.json")
    assert json.loads(release.read_text())["metrics"]["mrr"] == found["mrr"]
    (page,) = line.folder.glob("runs/review/*.html")
    tables = page_tables(page.read_text(encoding="utf-8"))
    assert [f"MRR, over {found['queries']} queries", found["mrr"]] in [row[:2] for row in tables["headline-table"]]

    factories.write_csv(line.folder / "reviews.csv", pairs(160), ("query", "candidate", "fits"))
    again = line.bertline("run", line.config, "--warm-start")
    assert again.returncode in (0, 3), again.stdout + again.stderr
    assert "ranks not worse than" in again.stdout
    newest = max(line.folder.glob("runs/artifacts/Evaluator/evaluation/*"), key=lambda folder: int(folder.name))
    assert set(json.loads((newest / "metrics.json").read_text())["ranking"]["leads"]) == set(ranking.COMPARED)

    ranked = line.bertline("rank", line.config, "reviews.csv", "--query", pairs(1)[0][0], "-o", "ranked.jsonl")
    assert ranked.returncode == 0, ranked.stdout + ranked.stderr
    table = pd.read_json(line.folder / "ranked.jsonl", lines=True)
    assert len(table) == 640 and table.score.is_monotonic_decreasing
