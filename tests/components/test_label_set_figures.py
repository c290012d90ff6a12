import json

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from factories import MOODS, mixed_reviews
from sklearn import metrics as sklearn_metrics

from bertline.components import evaluator, gates, label_set_figures
from bertline.components.answers import LabelSetAnswers, multi_hot, read_answers, slice_columns, write_answers
from bertline.components.evaluation import Calibration, Metrics, figure_name
from bertline.components.export_record import Threshold
from bertline.components.options import EvaluateOptions, GateOptions
from bertline.components.tfma_counts import run_tfma
from bertline.errors import UserError
from bertline.models.features import CANDIDATE

CLASSES = list(MOODS)
THRESHOLDS = {name: Threshold(value=0.5, note="") for name in CLASSES}
OPTIONS = EvaluateOptions(slices=["shop"], length_buckets=[])


@pytest.fixture(scope="module")
def rows():
    """Answers to 240 reviews, of which one decision in ten is wrong; TF-IDF and the last model are wrong more often."""
    chance = np.random.default_rng(0)
    table = mixed_reviews(240)
    labels = multi_hot([labels.split("|") for _, labels, _ in table], CLASSES)
    ours, last, tfidf = (np.where(chance.random(labels.shape) < wrong, ~labels, labels) for wrong in (0.1, 0.11, 0.25))
    probabilities = (np.where(ours, 0.8, 0.2) + chance.uniform(-0.1, 0.1, labels.shape)).astype(np.float32)
    columns = {
        "text": [text for text, _, _ in table], "text_pair": [""] * 240, "row_id": [str(row) for row in range(240)],
        "shop": [shop for _, _, shop in table],
    }  # fmt: skip
    made = LabelSetAnswers(CLASSES, labels, ours, probabilities, columns)
    return made.beside({"previous": made.names(last), "tfidf": made.names(tfidf)}, "17").sliced(OPTIONS)


@pytest.fixture(scope="module")
def figures(rows):
    temperature = Calibration(
        temperature=[1.0] * 3,
        before={"calibration_error": 0, "log_loss": 0},
        after={"calibration_error": 0, "log_loss": 0},
    )
    return Metrics(
        **label_set_figures.all_rows(rows, THRESHOLDS),
        model_bytes=1,
        inference_seconds=1,
        calibration=temperature,
        **evaluator.comparisons(rows, 0.95),
    )


def test_the_answers_are_read_back_as_they_were_written(rows, tmp_path):
    write_answers(str(tmp_path), rows)
    read = read_answers(str(tmp_path), CLASSES, "17")
    for name in ("labels", "predicted", "probabilities", "previous", "tfidf"):
        np.testing.assert_array_equal(getattr(read, name), getattr(rows, name))
    assert read.multi_label
    assert read.columns["text"] == rows.columns["text"]


def test_tfma_counts_what_we_count_on_all_rows_and_in_slices(rows, figures, tmp_path):
    pipeline = beam.Pipeline(argv=["--direct_running_mode=in_memory"])
    counts = run_tfma(pipeline, {CANDIDATE: rows}, slice_columns(rows.table, OPTIONS), str(tmp_path))
    assert counts == {CANDIDATE: {}}
    seen = set()
    for key, outputs in tfma.load_eval_result(str(tmp_path)).slicing_metrics:
        name = ", ".join(f"{column}={value}" for column, value in key)
        ours = figures.slices[name] if name else figures
        assert outputs["probabilities"][""]["example_count"]["doubleValue"] == ours.rows
        for number, label in enumerate(CLASSES):
            theirs = outputs["decision"][f"classId:{number}"]
            for metric in ("precision", "recall"):
                assert theirs[metric]["doubleValue"] == pytest.approx(getattr(ours.per_class[label], metric))
            assert theirs["f1_score"]["doubleValue"] == pytest.approx(ours.per_class[label].f1)
        seen.add(name)
    assert seen == {"", "shop=north", "shop=south"}


def test_labels_that_stand_together_are_counted(rows, figures):
    found = {(each.first, each.second): (each.rows, each.answered) for each in figures.multi_label.together}
    for (first, second), (true, answered) in found.items():
        assert true == (rows.labels[:, first] & rows.labels[:, second]).sum()
        assert answered == (rows.predicted[:, first] & rows.predicted[:, second]).sum()
    assert len(found) == 6
    assert figures.multi_label.unlabelled == (~rows.labels.any(-1)).sum()


def test_other_models_are_compared_by_subset_accuracy_micro_and_macro_f1(rows, figures):
    theirs = figures.tfidf
    assert theirs.micro_f1 == pytest.approx(sklearn_metrics.f1_score(rows.labels, rows.tfidf, average="micro"))
    assert theirs.accuracy == pytest.approx(sklearn_metrics.accuracy_score(rows.labels, rows.tfidf))
    assert [name for name, _ in theirs.differences.named()] == ["accuracy", "macro_f1", "micro_f1"]
    lead = theirs.differences.micro_f1
    assert lead.value == pytest.approx(figures.micro_f1 - theirs.micro_f1)
    assert 0 < lead.low < lead.value < lead.high
    assert figures.last_blessed.version == "17"


def test_each_gate_passes_and_blocks(rows, figures):
    def kinds(**options):
        switched_off = {"not_worse_by": None, "slices": {"not_worse_by": None}}
        verdicts = gates.judge(figures, rows, GateOptions.model_validate({**switched_off, **options}))
        return {(each.kind, each.metric): each.passed for each in verdicts}

    floors = kinds(subset_accuracy=figures.accuracy, micro_f1=1.0, macro_f1=0.5, label_f1={"positive": 0.99})
    assert floors == {
        ("subset_accuracy", "subset_accuracy"): True,
        ("micro_f1", "micro_f1"): False,
        ("macro_f1", "macro_f1"): True,
        ("label_f1", "F1 of positive"): False,
        ("beats_majority", "micro_f1"): True,
    }
    compared = kinds(not_worse_by=0.05, beats_baseline_by=0.0, beats_majority=False)
    assert {kind: passed for (kind, _), passed in compared.items()} == {
        "beats_baseline_by": True,
        "not_worse_by": True,
    }
    assert not any(kinds(beats_baseline_by=0.5, beats_majority=False).values())
    with pytest.raises(UserError, match="has no label 'angry'; its labels are negative, neutral, positive"):
        kinds(label_f1={"angry": 0.5})


def test_slices_and_groups_of_people_are_judged(rows, figures):
    options = {"minimum_rows": 10, "accuracy": 0.99, "not_worse_by": None}
    verdicts = gates.judge_answers(rows, GateOptions(slices=options, not_worse_by=None))
    assert {each.slice for each in verdicts if not each.passed} == {"shop=north", "shop=south"}
    evaluate = EvaluateOptions.model_validate(
        {
            "length_buckets": [],
            "gates": {
                "slices": {"minimum_rows": 10},
                "fairness": {"column": "shop", "label": "positive", "equal_opportunity": 0.9},
            },
        }
    )
    (fair,) = [
        each for each in gates.judge_answers(rows.sliced(evaluate), evaluate.gates) if each.kind.startswith("fairness")
    ]
    recall = [
        sklearn_metrics.recall_score(rows.labels[inside, 2], rows.predicted[inside, 2])
        for inside in (np.array(rows.columns["shop"]) == shop for shop in ("north", "south"))
    ]
    assert float(fair.value) == pytest.approx(abs(recall[0] - recall[1]), abs=5e-4)


def test_a_constant_answer_does_not_beat_the_commonest_labels(rows, figures):
    constant = LabelSetAnswers(CLASSES, rows.labels, np.ones_like(rows.labels), rows.probabilities, rows.columns)
    worst = figures.model_copy(update=dict(label_set_figures.all_rows(constant, THRESHOLDS)))
    (verdict,) = gates.judge(worst, constant, GateOptions(not_worse_by=None, slices={"not_worse_by": None}))
    assert (verdict.kind, verdict.passed) == ("beats_majority", False)


def test_the_screens_line_names_the_figures(figures):
    line = evaluator.describe(figures)
    assert line.startswith(f"micro-F1 {figures.micro_f1:.3f} (")
    assert f"subset accuracy {figures.accuracy:.3f} (" in line
    assert line.endswith(f"{figures.tfidf.differences.micro_f1.value:+.3f} over TF-IDF")
    assert figure_name("accuracy", multi_label=False) == "accuracy"
    assert json.loads(figures.model_dump_json())["multi_label"]["thresholds"] == dict.fromkeys(CLASSES, 0.5)
