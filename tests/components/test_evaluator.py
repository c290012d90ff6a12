import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from bertline.components import evaluator
from bertline.components.options import EvaluateOptions
from bertline.errors import UserError

CLASSES = ["negative", "neutral", "positive", "silent"]
# True and predicted label; "silent" is never predicted, and stands in one row.
PAIRS = [
    *[("negative", "negative")] * 6,
    *[("negative", "neutral")] * 2,
    *[("neutral", "neutral")] * 3,
    *[("neutral", "positive")] * 1,
    *[("positive", "positive")] * 5,
    *[("positive", "negative")] * 2,
    ("silent", "positive"),
]
OPTIONS = EvaluateOptions(slices=["shop"], length_buckets=[10])


def pipeline():
    return beam.Pipeline(argv=["--direct_running_mode=in_memory"])


def answered(labels, classes=CLASSES):
    probabilities = np.full((len(labels), len(classes)), 0.1 / (len(classes) - 1), np.float32)
    probabilities[np.arange(len(labels)), [classes.index(label) for label in labels]] = 0.9
    return evaluator.Predictions(classes, list(labels), probabilities)


TABLE = {
    "text": ["x" * (5 if row % 2 else 15) for row in range(len(PAIRS))],
    "label": [true for true, _ in PAIRS],
    "shop": ["north" if row < 8 else "south" for row in range(len(PAIRS))],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    candidate = answered([predicted for _, predicted in PAIRS])
    # The last blessed model knows no "silent" and has a label of its own, which must count as wrong.
    last_blessed = answered(["other" if true == "neutral" else "negative" for true, _ in PAIRS], ["other", "negative"])
    return evaluator.run_tfma(pipeline(), TABLE, candidate, last_blessed, OPTIONS, str(tmp_path_factory.mktemp("tfma")))


def test_tfmas_numbers_are_scikit_learns(results):
    true, predicted = zip(*PAIRS, strict=True)
    overall = results["candidate"]["overall"]
    assert overall["accuracy"] == pytest.approx(14 / 20)
    assert overall["rows"] == 20
    assert overall["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(true, predicted, average="macro"))
    assert overall["weighted_f1"] == pytest.approx(sklearn_metrics.f1_score(true, predicted, average="weighted"))
    one_hot = np.eye(4)[[CLASSES.index(label) for label in predicted]] * (0.9 - 0.1 / 3) + 0.1 / 3
    expected = sklearn_metrics.log_loss([CLASSES.index(label) for label in true], one_hot, labels=range(4))
    assert overall["loss"] == pytest.approx(expected, abs=1e-5)


def test_each_class_has_its_precision_recall_and_f1(results):
    negative = results["candidate"]["per_class"]["negative"]
    assert negative["precision"] == pytest.approx(6 / 8)
    assert negative["recall"] == pytest.approx(6 / 8)
    assert results["candidate"]["per_class"]["silent"]["recall"] == 0


def test_the_confusion_matrix_has_true_labels_in_its_rows(results):
    assert results["candidate"]["confusion"].tolist() == [[6, 2, 0, 0], [0, 3, 1, 0], [2, 0, 5, 0], [0, 0, 1, 0]]


def test_slices_by_column_and_by_text_length(results):
    slices = results["candidate"]["slices"]
    assert set(slices) == {"shop=north", "shop=south", "text_length=0-9", "text_length=10+"}
    assert slices["shop=north"]["accuracy"] == pytest.approx(6 / 8)
    assert slices["shop=north"]["rows"] == 8


def test_a_last_blessed_model_with_other_labels_is_judged_on_the_same_rows(results):
    assert results["last_blessed"]["overall"]["accuracy"] == pytest.approx(8 / 20)


def test_the_summary_is_json_with_intervals_and_the_commonest_labels_share(results):
    summary = evaluator.summarise(TABLE, answered([predicted for _, predicted in PAIRS]), results["candidate"])
    assert json.loads(json.dumps(summary))["majority_share"] == pytest.approx(8 / 20)
    low, high = summary["intervals"]["accuracy"]
    assert low < 0.7 < high
    assert evaluator.describe(summary).startswith("accuracy 0.700 (0.")
    # Every answer has 0.9: off by 0.9 - 14 / 20.
    assert summary["calibration_error"] == pytest.approx(0.2)


def test_the_figures_before_the_temperature_follow_from_the_probabilities_and_it():
    after = answered([predicted for _, predicted in PAIRS])
    found = evaluator.calibrated(TABLE, after, 2.0)
    # Each answer has 0.9 and three labels share 0.1, before: the squares of these, as shares.
    sure = 0.9**2 / (0.9**2 + 3 * (0.1 / 3) ** 2)
    assert found["before"]["calibration_error"] == pytest.approx(sure - 14 / 20, abs=1e-6)
    assert found["before"]["log_loss"] == pytest.approx(
        -(14 * np.log(sure) + 6 * np.log((1 - sure) / 3)) / 20, abs=1e-6
    )
    assert found["after"]["calibration_error"] == pytest.approx(0.9 - 14 / 20, abs=1e-6)
    assert found["after"]["log_loss"] == pytest.approx(-(14 * np.log(0.9) + 6 * np.log(0.1 / 3)) / 20, abs=1e-6)


def test_what_abstaining_leaves_is_stated():
    predictions = answered([predicted for _, predicted in PAIRS])
    predictions.abstained = np.array([True] * 8 + [False] * 12)  # the rows of "negative", 6 of 8 right
    found = evaluator.abstention(TABLE, predictions, 0.6)
    assert found == {"threshold": 0.6, "rows": 12, "coverage": 0.6, "accuracy": pytest.approx(8 / 12)}
    assert evaluator.answer_columns(predictions, None)["abstained"].sum() == 8
    predictions.abstained[:] = True
    assert evaluator.abstention(TABLE, predictions, 0.99)["accuracy"] is None


def test_the_baselines_answers_are_put_in_the_order_of_the_rows(tmp_path):
    pq.write_table(pa.table({"row_id": ["b", "a"], "predicted": ["good", "bad"]}), tmp_path / "answers.parquet")
    assert evaluator.read_baseline(str(tmp_path / "answers.parquet"), {"row_id": ["a", "b"]}) == ["bad", "good"]


def test_a_models_size_is_that_of_all_its_files(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"12345")
    (tmp_path / "variables" / "data").write_bytes(b"123")
    assert evaluator.folder_bytes(str(tmp_path)) == 8


def test_test_rows_of_a_label_that_the_model_lacks_are_an_error(tmp_path):
    with pytest.raises(UserError, match="not trained on: silent"):
        evaluator.run_tfma(
            pipeline(), TABLE, answered(["negative"] * 20, ["negative", "neutral", "positive"]), None, OPTIONS, ""
        )
