import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from bertline.errors import UserError
from bertline.models.dataset import NO_LABEL, Batches, Rows, balanced_weights, padded_length, read_rows


def rows(lengths, segments=False):
    """Rows whose tokens are all their number."""
    ids = tf.ragged.constant([[number] * length for number, length in enumerate(lengths)], dtype=tf.int32)
    return Rows(ids, ids if segments else None, np.arange(len(lengths), dtype=np.int32) % 2)


def first_ids(dataset):
    return [batch["token_ids"].numpy()[:, 0].tolist() for batch in dataset]


def write_examples(path, table):
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for ids, label in table:
            features = {"token_ids": ids, "label_id": [label]}
            ints = {key: tf.train.Feature(int64_list=tf.train.Int64List(value=v)) for key, v in features.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=ints)).SerializeToString())


def test_reads_all_shards(tmp_path):
    write_examples(tmp_path / "a-00000-of-00002.gz", [([2, 7, 3], 1), ([2, 3], 0)])
    write_examples(tmp_path / "a-00001-of-00002.gz", [([2, 8, 9, 3], 2)])
    read = read_rows(tmp_path, pair=False)
    assert read.token_ids.to_list() == [[2, 7, 3], [2, 3], [2, 8, 9, 3]]
    assert read.labels.tolist() == [1, 0, 2]
    assert read.lengths.tolist() == [3, 2, 4]


def test_an_empty_split_is_an_error(tmp_path):
    write_examples(tmp_path / "a-00000-of-00001.gz", [])
    with pytest.raises(UserError, match="the split holds no rows"):
        read_rows(tmp_path, pair=False)


def test_ordered_by_length():
    dataset = Batches(rows([9, 2, 5]), batch_size=2).ordered()
    batches = [{key: value.numpy().tolist() for key, value in batch.items()} for batch in dataset]
    assert batches == [
        {
            "token_ids": [[1, 1, 0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 0, 0, 0]],
            "lengths": [2, 5],
            "labels": [1, 0],
            "rows": [1, 2],
            "weights": [1.0, 1.0],
            "shares": [0.5, 0.5],
        },
        {"token_ids": [[0] * 16], "lengths": [9], "labels": [0], "rows": [0], "weights": [1.0], "shares": [1.0]},
    ]


def test_pairs_have_segments():
    batch = next(iter(Batches(rows([1, 2], segments=True), batch_size=2).ordered()))
    assert batch["segment_ids"].shape == batch["token_ids"].shape == (2, 8)


def test_label_weights_share_a_batch():
    batch = next(iter(Batches(rows([1, 1, 1]), 3, label_weights=np.array([1.0, 2.0])).ordered()))
    assert batch["weights"].numpy().tolist() == [1.0, 2.0, 1.0]
    assert batch["shares"].numpy().tolist() == [0.25, 0.5, 0.25]


def test_an_epoch_has_every_row_once_and_an_order_of_its_own():
    batches = Batches(rows(np.random.default_rng(0).integers(1, 60, 103)), batch_size=10)
    first, again, second = (first_ids(batches.shuffled(5, epoch)) for epoch in (0, 0, 1))
    assert first == again
    assert first != second != first_ids(batches.shuffled(6, 1))
    assert sorted(number for batch in first for number in batch) == list(range(103))
    assert len(first) == batches.steps == 11


def test_skipped_batches_leave_the_rest_as_it_was():
    batches = Batches(rows([3] * 50), batch_size=8)
    assert first_ids(batches.shuffled(5, 2, skip=3)) == first_ids(batches.shuffled(5, 2))[3:]
    assert first_ids(batches.shuffled(5, 2, skip=batches.steps)) == []


def test_rows_of_like_length_share_a_batch():
    lengths = np.random.default_rng(0).integers(3, 64, 1600)
    batches = Batches(rows(lengths), batch_size=32).shuffled(1, 0)
    within = [np.ptp(batch["lengths"].numpy()) for batch in batches]
    assert np.mean(within) < 3  # 60 if they were mixed


def test_padded_lengths():
    assert [padded_length(n) for n in (1, 8, 9, 64, 65, 128, 129, 512)] == [8, 8, 16, 64, 80, 128, 160, 512]
    assert len({padded_length(n) for n in range(1, 513)}) == 20


def test_balanced_weights_make_labels_count_alike():
    labels = np.array([0, 0, 0, 2])
    assert balanced_weights(labels, 3).tolist() == pytest.approx([4 / 9, 0, 4 / 3])
    assert balanced_weights(labels, 3)[labels].sum() == pytest.approx(2 * 4 / 3)


def test_rows_without_labels_count_as_much_as_the_others_on_average():
    some = dataclasses.replace(rows([4, 4, 4]), labels=np.array([1, NO_LABEL, 0]))
    assert Batches(some, 2, np.array([0.5, 1.5])).weights.tolist() == [1.5, 1.0, 0.5]
    assert some.labelled.tolist() == [True, False, True]
    sets = dataclasses.replace(some, labels=np.array([[0, 1], [NO_LABEL, NO_LABEL], [0, 0]]))
    assert sets.labelled.tolist() == [True, False, True]
