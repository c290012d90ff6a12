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


# === Training rows, by their vectors ===


def vectors(labels):
    """Vectors that tell what the rows mean: a direction for each label, and noise."""
    noise = np.random.default_rng(3).normal(0, 0.3, (len(labels), 8))
    noise[np.arange(len(labels)), [CLASSES.index(label) for label in labels]] += 2
    return noise.astype(np.float32)


def test_vectors_judge_the_training_rows_that_have_them():
    meant = [CLASSES[number % 3] for number in range(240)]
    rows = [(f"word{number}", label) for number, label in enumerate(meant)]  # texts teach nothing
    wrong = range(0, 240, 20)
    for row in wrong:
        rows[row] = (rows[row][0], CLASSES[CLASSES.index(meant[row]) - 1])
    rows.append(("another", "a label of one row"))
    places = np.arange(40, 241)
    embedded = label_issues.Embedded(vectors([*meant, CLASSES[0]])[places], places, strength=0.03)
    found = label_issues.judge_training(table(rows), embedded)
    assert {issue.row: issue.suggested for issue in found.issues} == {row: meant[row] for row in wrong if row >= 40}
    assert (found.by, found.rows) == ("the probe", 200)
    assert found.note == "201 of 241 rows have vectors; labels of fewer than 5 rows were left out: 1"


def test_of_two_labels_too(monkeypatch):
    monkeypatch.setattr(label_issues, "TRAIN_ROWS", 100)
    meant = [CLASSES[number % 2] for number in range(120)]
    rows = [(f"word{number}", label) for number, label in enumerate(meant)]
    wrong = range(7, 120, 20)
    for row in wrong:
        rows[row] = (rows[row][0], CLASSES[0])
    found = label_issues.judge_training(table(rows), label_issues.Embedded(vectors(meant), np.arange(120), 0.03))
    accused = {issue.row: issue.suggested for issue in found.issues}
    assert len(accused) >= 3
    assert accused.items() <= dict.fromkeys(wrong[:5], CLASSES[1]).items()
    assert found.note == "100 of 120 rows were judged"
