import numpy as np
from factories import MOODS, mixed_reviews

from bertline.components import label_set_issues
from bertline.models import features

CLASSES = list(MOODS)


def meant(rows):
    return [labels.split("|") if labels else [] for _, labels, _ in mixed_reviews(rows)]


def probabilities_of(labels, surety=0.95):
    held = np.array([[name in of_row for name in CLASSES] for of_row in labels])
    return np.where(held, surety, 1 - surety)


def test_a_missing_and_a_wrong_label_are_found_with_what_should_be_there():
    right = meant(120)
    given = [list(labels) for labels in right]
    lacking = next(row for row, labels in enumerate(right) if labels == ["negative", "positive"])
    empty = next(row for row, labels in enumerate(right) if labels == [])
    given[lacking], given[empty] = ["positive"], ["neutral"]
    judged = label_set_issues.judge(given, probabilities_of(right), CLASSES)
    assert (judged.by, judged.rows, judged.note) == ("this model", 120, "")
    assert {(issue.row, issue.label, issue.suggested) for issue in judged.issues} == {
        (lacking, "positive", "negative, positive"),
        (empty, "neutral", "no label"),
    }
    assert label_set_issues.judge(right, probabilities_of(right), CLASSES).issues == []


def test_training_rows_are_judged_by_models_that_did_not_see_them():
    rows = mixed_reviews(300, seed=4)
    labels = [labels.split("|") if labels else [] for _, labels, _ in rows]
    wrong = next(row for row, of_row in enumerate(labels) if of_row == ["positive"])
    labels[wrong] = ["negative", "positive"]
    labels[0] = [*labels[0], "rare"]
    judged = label_set_issues.judge_training(
        {
            features.TEXT: [text for text, _, _ in rows],
            features.TEXT_PAIR: [""] * 300,
            features.LABEL: labels,
            features.ROW_ID: [f"{row:03}" for row in range(300)],
        }
    )
    assert (judged.by, judged.rows) == ("TF-IDF", 300)
    assert judged.note == "labels of fewer than 5 rows, or of nearly all, were left out: 1"
    assert (wrong, "negative, positive", "positive") in [
        (each.row, each.label, each.suggested) for each in judged.issues
    ]
    assert len(judged.issues) < 15
