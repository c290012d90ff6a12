import dataclasses

import factories
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertline.components import answers
from bertline.components.options import EvaluateOptions
from bertline.models import features

TABLE = {
    "text": ["short", "a longer text", "tiny"],
    "label": ["good", "bad", "good"],
    "predicted": ["good", "good", "bad"],
    "previous": ["fine", "bad", "good"],
    "shop": ["north", "south", "north"],
    "probabilities": [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]],
}
OPTIONS = EvaluateOptions(
    slices=["shop"],
    length_buckets=[10],
    gates={"fairness": {"column": "shop", "label": "good", "demographic_parity": 0.1}},
)


@pytest.fixture
def rows(tmp_path):
    pq.write_table(pa.table(TABLE), tmp_path / answers.PREDICTIONS_FILE)
    return answers.read_answers(str(tmp_path), ["bad", "good"], "17").sliced(OPTIONS)


def test_labels_are_indices_and_slices_are_masks(rows):
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


def test_rows_are_sliced_by_their_label_too(rows):
    sliced = rows.sliced(OPTIONS.model_copy(update={"slices": ["label"], "length_buckets": []}))
    assert {name: inside.tolist() for name, inside in sliced.slices.items()} == {
        "label=bad": [False, True, False],
        "label=good": [True, False, True],
    }


def test_the_confusion_matrix_has_true_labels_in_its_rows(rows):
    assert rows.confusion.tolist() == [[0, 1], [1, 1]]


def test_the_file_has_names_and_gives_the_same_rows_back(tmp_path):
    written = factories.answers(
        ["bad", "good"],
        [1, 0, 1],
        [1, 1, 0],
        np.array([[0.25, 0.75], [0.5, 0.5], [1, 0]], np.float32),
        previous=[2, 0, 1],
        columns={"text": ["a", "b", "c"]},
        abstained=np.array([False, True, False]),
    )
    answers.write_answers(str(tmp_path), written)
    table = pq.read_table(tmp_path / answers.PREDICTIONS_FILE).to_pydict()
    assert table["previous"] == ["another label", "bad", "good"]
    assert table["predicted"] == ["good", "good", "bad"]
    assert table["probability"] == [0.75, 0.5, 1.0]
    assert set(table) <= features.RESERVED  # so no kept column stands in their place
    read = answers.read_answers(str(tmp_path), ["bad", "good"])
    for field in dataclasses.fields(written):
        assert np.array_equal(getattr(read, field.name), getattr(written, field.name)), field.name


@pytest.mark.parametrize(("characters", "bucket"), [(0, "0-9"), (9, "0-9"), (10, "10-49"), (50, "50+")])
def test_length_buckets(characters, bucket):
    assert answers.length_bucket(characters, [50, 10]) == bucket
