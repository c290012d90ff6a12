import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from benchmarks import finished, quality
from bertline.errors import UserError


def write_examples(folder, rows):
    (folder / "Split-test").mkdir(parents=True)
    (folder / "labels.txt").write_text('"bad"\n"good"\n')
    for split in ("train", "validation", "test"):
        (folder / f"Split-{split}").mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(folder / f"Split-{split}" / "data_tfrecord-00000.gz"), "GZIP") as writer:
            for row in rows:
                feature = {
                    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
                    for name, value in row.items()
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def write_evaluation(folder, answers):
    folder.mkdir(parents=True)
    columns = {"row_id": list(answers), "predicted": list(answers.values())}
    pq.write_table(pa.table(columns), folder / "predictions-test.parquet")


ROW = {"row_id": "a1", "text": "one\u2028line, \N{GRINNING FACE} \x85", "label": "good", "source": "f.csv:1"}


def test_scores_are_those_of_the_confusion_matrix():
    # labels 0, 1, 2: one of two right, both right, none answered or expected
    expected, answered = np.array([0, 0, 1, 1]), np.array([[0, 1, 1, 1]])
    # F1 of 0: 2 * 1 / (2 + 1); of 1: 2 * 2 / (2 + 3)
    assert quality.scores(expected, answered) == pytest.approx({"accuracy": 0.75, "macro_f1": (2 / 3 + 4 / 5) / 2})


def test_scores_are_the_mean_over_the_seeds():
    expected, answered = np.array([0, 1]), np.array([[0, 1], [1, 0]])
    assert quality.scores(expected, answered) == {"accuracy": 0.5, "macro_f1": 0.5}


def test_standard_error_of_paired_answers():
    expected = np.zeros(400, int)
    ours, peer = np.zeros((1, 400), int), np.zeros((1, 400), int)
    assert quality.compare(expected, ours, peer)["accuracy"] == {"difference": 0.0, "standard_error": 0.0}
    peer[0, :100] = 1  # a quarter wrong: sqrt(0.25 * 0.75 / 400) = 0.0217
    compared = quality.compare(expected, ours, peer)["accuracy"]
    assert compared["difference"] == 0.25
    assert compared["standard_error"] == pytest.approx(0.0217, rel=0.15)


def test_bars_below_transformers_and_above_tfidf():
    figures = {metric: {"difference": 0.0, "standard_error": 0.01} for metric in quality.METRICS}
    bars = quality.judge({"huggingface": figures, "tfidf": figures})
    assert [(bar["peer"], bar["metric"], bar["bound"], bar["holds"]) for bar in bars] == [
        ("huggingface", "accuracy", -0.01, True),
        ("huggingface", "macro_f1", -0.01, True),
        ("tfidf", "accuracy", 0.02, False),
        ("tfidf", "macro_f1", 0.02, False),
    ]


def test_exactly_a_point_below_transformers_holds():
    figures = {metric: {"difference": 0.64 - 0.65, "standard_error": 0.01} for metric in quality.METRICS}
    bars = quality.judge({"huggingface": figures, "tfidf": figures})
    assert [bar["holds"] for bar in bars if bar["peer"] == "huggingface"] == [True, True]


def test_export_keeps_every_row_on_a_line_of_its_own(tmp_path):
    write_examples(tmp_path / "examples", [ROW, {**ROW, "row_id": "b2"}])
    finished.export(tmp_path / "examples", tmp_path / "rows")
    with (tmp_path / "rows" / "test.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert [row["row_id"] for row in rows] == ["a1", "b2"]
    assert rows[0]["text"] == ROW["text"]
    assert set(rows[0]) == {"row_id", "text", "label"}


def test_examples_are_those_that_the_evaluation_answered(tmp_path):
    write_examples(tmp_path / "ExampleGen" / "1", [ROW])
    write_examples(tmp_path / "ExampleGen" / "2", [{**ROW, "row_id": "other"}])
    write_evaluation(tmp_path / "Evaluator" / "3", {"a1": "bad"})
    answers = finished.read_answers(finished.newest_evaluation(tmp_path))
    assert answers == {"a1": "bad"}
    assert finished.examples_of(tmp_path, answers) == tmp_path / "ExampleGen" / "1"


def test_no_finished_run_names_the_way_out(tmp_path):
    with pytest.raises(UserError, match="bertline run"):
        finished.newest_evaluation(tmp_path)
    with pytest.raises(UserError, match="run the config again"):
        finished.examples_of(tmp_path, {"a1": "bad"})


def test_accuracy_of_other_predictions_is_refused():
    quality.check_accuracy(0.77, 0.77)
    with pytest.raises(UserError, match=r"0\.7500.*0\.7700"):
        quality.check_accuracy(0.77, 0.75)
