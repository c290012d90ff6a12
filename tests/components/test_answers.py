import pytest

from bertline.components import answers
from bertline.components.options import EvaluateOptions

TABLE = {
    "text": ["short", "a longer text", "tiny"],
    "label": ["good", "bad", "good"],
    "predicted": ["good", "good", "bad"],
    "previous": ["fine", "bad", "good"],
    "shop": ["north", "south", "north"],
}
OPTIONS = EvaluateOptions(
    slices=["shop"],
    length_buckets=[10],
    gates={"fairness": {"column": "shop", "label": "good", "demographic_parity": 0.1}},
)


def test_labels_are_indices_and_slices_are_masks():
    rows = answers.from_table(TABLE, ["bad", "good"], "17", OPTIONS)
    assert rows.labels.tolist() == [1, 0, 1]
    assert rows.right.tolist() == [True, False, False]
    assert rows.previous.tolist() == [2, 0, 1]  # "fine" is none of the candidate's labels
    assert rows.tfidf is None
    assert {name: inside.tolist() for name, inside in rows.slices.items()} == {
        "shop=north": [True, False, True],
        "shop=south": [False, True, False],
        "text_length=0-9": [True, False, True],
        "text_length=10+": [False, True, False],
    }
    assert rows.groups.tolist() == ["north", "south", "north"]


def test_the_confusion_matrix_has_true_labels_in_its_rows():
    assert answers.from_table(TABLE, ["bad", "good"], "17", OPTIONS).confusion.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(("characters", "bucket"), [(0, "0-9"), (9, "0-9"), (10, "10-49"), (50, "50+")])
def test_length_buckets(characters, bucket):
    assert answers.length_bucket(characters, [50, 10]) == bucket
