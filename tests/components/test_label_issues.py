import numpy as np
import pytest
from factories import MOODS, reviews

from bertline.components import label_issues

CLASSES = list(MOODS)


def scored(given, meant, surety=0.9):
    """Probabilities of a model that knows what the rows mean, whatever their labels say."""
    probabilities = np.full((len(given), len(CLASSES)), (1 - surety) / 2)
    probabilities[np.arange(len(given)), [CLASSES.index(label) for label in meant]] = surety
    return probabilities.astype(np.float32)


def test_wrong_labels_are_found_with_the_right_one_and_right_labels_are_not():
    meant = [label for _, label, _ in reviews(90)]
    given = list(meant)
    given[3], given[40] = "positive", "negative"  # negative and neutral they are
    found = label_issues.judge(given, scored(given, meant), CLASSES)
    assert (found.by, found.rows, found.note) == ("this model", 90, "")
    assert [(issue.row, issue.label, issue.suggested) for issue in found.issues] == [
        (3, "positive", "negative"),
        (40, "negative", "neutral"),
    ]
    assert [issue.score for issue in found.issues] == pytest.approx([0.05, 0.05])
    assert label_issues.judge(meant, scored(meant, meant), CLASSES).issues == []


def test_the_surest_comes_first():
    meant = [label for _, label, _ in reviews(90)]
    given = list(meant)
    given[3] = given[40] = "positive"
    probabilities = scored(given, meant)
    probabilities[40] = (0.01, 0.98, 0.01)
    assert [issue.row for issue in label_issues.find(given, probabilities, CLASSES)] == [40, 3]


def test_a_model_that_is_unsure_everywhere_accuses_nobody():
    given = [label for _, label, _ in reviews(90)]
    assert label_issues.find(given, np.full((90, 3), 1 / 3, np.float32), CLASSES) == []


@pytest.mark.parametrize("classes", [["no", "yes"], [f"intent {number}" for number in range(77)]], ids=["2", "77"])
def test_two_and_seventy_seven_labels_some_of_a_row_and_some_of_none(classes):
    given = [classes[0]] * 40 + [classes[1]] * 40 + classes[2:40]
    probabilities = np.full((len(given), len(classes)), 0.1 / (len(classes) - 1))
    probabilities[np.arange(len(given)), [classes.index(label) for label in given]] = 0.9
    probabilities[7] = np.roll(probabilities[7], 1)
    found = label_issues.judge(given, probabilities, classes)
    assert [(issue.row, issue.suggested) for issue in found.issues] == [(7, classes[1])]


def test_one_label_alone_is_said_in_words():
    found = label_issues.judge(["positive"] * 9, scored(["positive"] * 9, ["positive"] * 9), CLASSES)
    assert (found.rows, found.issues) == (0, [])
    assert "only one label" in found.note


# === Training rows, by TF-IDF across folds ===


def table(rows):
    columns = dict(zip(("text", "label"), map(list, zip(*rows, strict=True)), strict=True))
    return {**columns, "text_pair": [""] * len(rows), "row_id": [f"{number:032x}" for number in range(len(rows))]}


def test_wrong_labels_among_the_training_rows_are_found():
    rows = [(text, label) for text, label, _ in reviews(240)]
    clean = label_issues.judge_training(table(rows))
    assert (clean.by, clean.rows, clean.issues, clean.note) == ("TF-IDF", 240, [], "")
    wrong = {row: rows[row][1] for row in range(0, 240, 20)}
    for row, label in wrong.items():
        rows[row] = (rows[row][0], CLASSES[CLASSES.index(label) - 1])
    found = label_issues.judge_training(table(rows))
    assert len(found.issues) >= 9  # of the twelve
    assert {issue.row: issue.suggested for issue in found.issues}.items() <= wrong.items()


def test_labels_of_few_rows_are_left_out_and_the_rows_keep_their_places():
    rows = [("once only", "rare")] + [(text, label) for text, label, _ in reviews(240)]
    wrong = {row: rows[row][1] for row in range(10, 240, 20)}
    for row, label in wrong.items():
        rows[row] = (rows[row][0], CLASSES[CLASSES.index(label) - 1])
    found = label_issues.judge_training(table(rows))
    assert found.note == "labels of fewer than 5 rows were left out: 1"
    assert len(found.issues) >= 9  # of the twelve
    assert {issue.row: issue.suggested for issue in found.issues}.items() <= wrong.items()


def test_of_too_many_rows_a_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr(label_issues, "TRAIN_ROWS", 120)
    rows = [(text, label) for text, label, _ in reviews(240)]
    wrong = {row: rows[row][1] for row in range(0, 240, 10)}
    for row, label in wrong.items():
        rows[row] = (rows[row][0], CLASSES[CLASSES.index(label) - 1])
    found = label_issues.judge_training(table(rows))
    assert (found.rows, found.note) == (120, "120 of 240 rows were judged")
    assert {issue.row for issue in found.issues} <= wrong.keys() & set(range(120))  # the lowest hashes
    assert found.issues


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("good", "yes")] * 9 + [("bad", "no")], "fewer than two labels have 5 rows"),
        ([(f"word{number}", ("no", "yes")[number % 2]) for number in range(20)], "none was judged: "),
    ],
    ids=["one label has enough", "no word twice"],
)
def test_rows_that_teach_nothing_are_said_in_words(rows, words):
    found = label_issues.judge_training(table(rows))
    assert (found.rows, found.issues) == (0, [])
    assert words in found.note
