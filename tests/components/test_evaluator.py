import dataclasses
import resource

import apache_beam as beam
import factories
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics
from tfx.types import standard_artifacts

from bertline.components import evaluation, evaluator, tfma_counts
from bertline.components.answers import read_answers, slice_columns
from bertline.components.evaluation import Metrics
from bertline.components.options import EvaluateOptions
from bertline.errors import UserError
from bertline.models import features
from bertline.serving import storage

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


def indices(names, classes):
    return [classes.index(name) if name in classes else len(classes) for name in names]


def answered(labels, classes=CLASSES, **changes):
    """Rows of PAIRS that a model with these classes answers so, each with a probability of 0.9."""
    predicted = indices(labels, classes)
    probabilities = np.full((len(labels), len(classes)), 0.1 / (len(classes) - 1), np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.9
    true = indices([true for true, _ in PAIRS], classes)
    return factories.answers(classes, true, predicted, probabilities, columns=COLUMNS, **changes)


COLUMNS = {
    "text": ["x" * (5 if row % 2 else 15) for row in range(len(PAIRS))],
    "shop": ["north" if row < 8 else "south" for row in range(len(PAIRS))],
}
ROWS = answered([predicted for _, predicted in PAIRS])


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    # The last blessed model knows no "silent" and has a label of its own, which must count as wrong.
    previous = answered(["other" if true == "neutral" else "negative" for true, _ in PAIRS], ["other", "negative"])
    folder = str(tmp_path_factory.mktemp("tfma"))
    models = {"candidate": ROWS, "last_blessed": previous}
    return tfma_counts.run_tfma(pipeline(), models, slice_columns(COLUMNS, OPTIONS), folder)


@pytest.fixture(scope="module")
def figures(counts):
    return evaluator.slice_figures(ROWS, counts["candidate"][""])


def test_the_numbers_are_scikit_learns(figures):
    true, predicted = zip(*PAIRS, strict=True)
    assert figures.accuracy == pytest.approx(14 / 20)
    assert figures.rows == 20
    assert figures.macro_f1 == pytest.approx(sklearn_metrics.f1_score(true, predicted, average="macro"))
    assert figures.weighted_f1 == pytest.approx(sklearn_metrics.f1_score(true, predicted, average="weighted"))
    expected = sklearn_metrics.log_loss(ROWS.labels, ROWS.probabilities.astype(float), labels=range(4))
    assert figures.loss == pytest.approx(expected, abs=1e-5)


def test_each_class_has_its_precision_recall_and_f1(figures):
    assert figures.per_class["negative"].precision == pytest.approx(6 / 8)
    assert figures.per_class["negative"].recall == pytest.approx(6 / 8)
    assert figures.per_class["silent"].recall == 0
    assert figures.per_class["silent"].precision is None


def test_only_the_cells_of_the_confusion_matrix_that_have_rows_are_kept(counts):
    assert counts["candidate"][""].confusion == [
        (0, 0, 6), (0, 1, 2), (1, 1, 3), (1, 2, 1), (2, 0, 2), (2, 2, 5), (3, 2, 1),
    ]  # fmt: skip


def test_slices_by_column_and_by_text_length(counts):
    by_slice = counts["candidate"]
    assert set(by_slice) == {"", "shop=north", "shop=south", "text_length=0-9", "text_length=10+"}
    assert by_slice["shop=north"].accuracy == pytest.approx(6 / 8)
    assert by_slice["shop=north"].rows == 8


def test_no_kept_column_can_stand_in_the_place_of_tfmas():
    batch = tfma_counts.record_batch({"candidate": ROWS, "last_blessed": ROWS}, {"shop": COLUMNS["shop"]})
    assert set(batch.schema.names) - {"shop"} <= features.RESERVED


def test_a_last_blessed_model_with_other_labels_is_judged_on_the_same_rows(counts):
    assert counts["last_blessed"][""].accuracy == pytest.approx(8 / 20)


def test_a_thousand_labels_are_counted_without_a_metric_per_class(tmp_path):
    # At 400 labels TFMA's metrics per class took four minutes and 2 GB for 227 rows.
    classes = [f"intent {number}" for number in range(1000)]
    labels = np.arange(200) * 5
    rows = factories.answers(classes, labels, np.where(labels % 2, labels, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = tfma_counts.run_tfma(pipeline(), {"candidate": rows}, {}, str(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB
    assert counts["candidate"][""].accuracy == pytest.approx(101 / 200)
    assert len(counts["candidate"][""].confusion) == 200
    figures = evaluator.slice_figures(rows, counts["candidate"][""])
    expected = sklearn_metrics.f1_score(rows.labels, rows.predicted, average="macro")
    assert figures.macro_f1 == pytest.approx(expected)


def test_metrics_come_back_from_their_file_with_intervals_and_the_commonest_labels_share(counts, tmp_path):
    rows = ROWS.sliced(OPTIONS)
    metrics = Metrics(
        **evaluator.all_rows(rows, counts["candidate"]),
        model_bytes=9,
        inference_seconds=0.5,
        calibration=evaluator.calibrated(rows, 2.0),
        **evaluator.comparisons(rows.beside({"previous": ["negative"] * 20}, "17"), 0.95),
    )
    evaluation.write_metrics(str(tmp_path), metrics)
    read = evaluation.read_metrics(str(tmp_path))
    assert read == metrics
    assert read.majority_share == pytest.approx(8 / 20)
    low, high = read.intervals.accuracy
    assert low < 0.7 < high
    assert evaluator.describe(read).startswith("accuracy 0.700 (0.")
    # Every answer has 0.9: off by 0.9 - 14 / 20.
    assert read.calibration_error == pytest.approx(0.2)
    assert read.last_blessed.comparison.accuracy == pytest.approx(8 / 20)
    assert read.slices["shop=south"].macro_auc is not None


def test_a_figure_that_is_not_a_number_stays_one(tmp_path):
    evaluation.write_metrics(str(tmp_path), factories.metrics(ROWS, loss=float("nan")))
    assert np.isnan(evaluation.read_metrics(str(tmp_path)).loss)


def test_metrics_of_another_bertline_are_said_to_be(tmp_path):
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.7}')
    with pytest.raises(UserError, match=r"metrics\.json is of another version of bertline \(.*required\); run again"):
        evaluation.read_metrics(str(tmp_path))


def test_the_figures_before_the_temperature_follow_from_the_probabilities_and_it():
    calibration = evaluator.calibrated(ROWS, 2.0)
    # Each answer has 0.9 and three labels share 0.1, before: the squares of these, as shares.
    sure = 0.9**2 / (0.9**2 + 3 * (0.1 / 3) ** 2)
    before, after = calibration.before, calibration.after
    assert before.calibration_error == pytest.approx(sure - 14 / 20, abs=1e-6)
    assert before.log_loss == pytest.approx(-(14 * np.log(sure) + 6 * np.log((1 - sure) / 3)) / 20, abs=1e-6)
    assert after.calibration_error == pytest.approx(0.9 - 14 / 20, abs=1e-6)
    assert after.log_loss == pytest.approx(-(14 * np.log(0.9) + 6 * np.log(0.1 / 3)) / 20, abs=1e-6)


def test_what_abstaining_leaves_is_stated():
    abstained = np.array([True] * 8 + [False] * 12)  # the rows of "negative", 6 of 8 right
    left = evaluator.abstention(dataclasses.replace(ROWS, abstained=abstained), 0.6)
    assert (left.threshold, left.rows, left.coverage) == (0.6, 12, 0.6)
    assert left.accuracy == pytest.approx(8 / 12)
    nothing = dataclasses.replace(ROWS, abstained=np.full(20, True))
    assert evaluator.abstention(nothing, 0.99).accuracy is None


def test_the_baselines_answers_are_put_in_the_order_of_the_rows(tmp_path):
    pq.write_table(pa.table({"row_id": ["b", "a"], "predicted": ["good", "bad"]}), tmp_path / "answers.parquet")
    assert evaluator.read_baseline(str(tmp_path / "answers.parquet"), ["a", "b"]) == ["bad", "good"]


def test_a_models_size_is_that_of_all_its_files(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"12345")
    (tmp_path / "variables" / "data").write_bytes(b"123")
    assert storage.size(tmp_path) == 8


def test_test_rows_of_a_label_that_the_model_lacks_are_an_error():
    rows = answered(["negative"] * 20, ["negative", "neutral", "positive"])
    with pytest.raises(UserError, match="not trained on: silent"):
        evaluator.check_labels(rows, [true for true, _ in PAIRS])


def test_the_stage_leaves_figures_answers_and_a_blessing(tmp_path):
    rows = [("a good film", "positive"), ("a dull film", "negative"), ("not good", "negative"), ("bad", "negative")]
    raw, _ = factories.raw_examples(tmp_path, {"train": rows, "test": rows}, ["negative", "positive"])
    made = {}
    for name, kind in (
        ("model", standard_artifacts.Model),
        ("last_blessed", standard_artifacts.Model),
        ("evaluation", standard_artifacts.ModelEvaluation),
        ("blessing", standard_artifacts.ModelBlessing),
    ):
        made[name] = kind()
        made[name].uri = str(tmp_path / name)
        (tmp_path / name).mkdir()
    for name, word in (("model", "good"), ("last_blessed", "a")):
        factories.save_mood_model(tmp_path / name / "Format-Serving", word)
    factories.write_export_record(tmp_path / "model", temperature=1.5)
    made["last_blessed"].set_int_custom_property("present", 1)
    made["last_blessed"].set_string_custom_property("version", "17")
    options = EvaluateOptions(length_buckets=[8], gates={"accuracy": 0.9, "beats_majority": False})
    evaluator.Evaluator.test_call(
        examples=raw, **made, options=options.model_dump_json(), keep="[]", beam_pipeline=pipeline()
    )
    metrics = evaluation.read_metrics(made["evaluation"].uri)
    assert (metrics.rows, metrics.accuracy) == (4, 0.75)
    assert metrics.last_blessed.comparison.accuracy == 0.5  # "a" stands in all but "not good"
    assert metrics.slices["text_length=0-7"].rows == 1
    answers = read_answers(made["evaluation"].uri, metrics.classes)
    assert answers.names(answers.predicted) == ["positive", "negative", "positive", "negative"]
    assert answers.names(answers.previous) == ["positive", "positive", "negative", "positive"]
    assert (tmp_path / "blessing" / "NOT_BLESSED").exists()
    assert "accuracy 0.750 is below" in made["blessing"].get_string_custom_property("verdicts")
    assert not (tmp_path / "evaluation" / tfma_counts.BATCH_FILE).exists()
