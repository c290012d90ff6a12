import dataclasses
import re

import factories
import numpy as np
import pytest
import recount
from sklearn import calibration, metrics
from tfx.types import standard_artifacts

from bertline.components import review
from bertline.components.answers import PREDICTIONS_FILE, read_answers, write_answers
from bertline.components.evaluation import Abstention, Comparison, LastBlessed, SliceFigures
from bertline.components.review_page import figures, page

MOODS = ["negative", "neutral", "positive"]
INTENTS = [f"intent {number}" for number in range(77)]
HOSTILE = """<script>document.title = "taken"</script><img src=x onerror="document.title='taken'"> & "quoted\""""


@pytest.fixture(scope="module")
def evidence():
    return factories.review_evidence(MOODS, 300)


@pytest.fixture(scope="module")
def html(evidence):
    return page.render(evidence, "today")


@pytest.fixture(scope="module")
def tables(html):
    return factories.page_tables(html)


def by_name(rows):
    return {row[0]: row[1:] for row in rows}


# === Figures are scikit-learn's, of the same predictions ===


@pytest.mark.parametrize("classes", [["no", "yes"], MOODS, INTENTS], ids=["2", "3", "77"])
def test_every_figure_is_scikit_learns_of_the_exported_predictions(classes, tmp_path):
    evidence = factories.review_evidence(classes, 20 * len(classes))
    write_answers(str(tmp_path), evidence.answers)
    read = read_answers(str(tmp_path), classes)
    html = page.render(dataclasses.replace(evidence, answers=read), "today")
    recount.check(html, tmp_path / PREDICTIONS_FILE, classes)


def test_every_figure_where_a_class_has_no_test_rows(tmp_path):
    evidence = factories.review_evidence([*MOODS, "silent"], 200, absent=1)
    write_answers(str(tmp_path), evidence.answers)
    html = page.render(evidence, "today")
    recount.check(html, tmp_path / PREDICTIONS_FILE, evidence.answers.classes)
    assert "No test row has the label “\u2068silent\u2069”" in html
    assert "<title>ROC curve of silent</title>" not in html


def test_the_classes_with_the_lowest_f1_come_first(tables):
    assert [row[7] for row in tables["class-table"]] == sorted(row[7] for row in tables["class-table"])


def test_the_areas_under_the_drawn_curves_are_those_of_the_table(evidence):
    rows = evidence.answers
    for each in figures.per_class(rows, evidence.metrics):
        points = figures.roc(rows, each.name)
        area = metrics.auc([p["false_positive_rate"] for p in points], [p["true_positive_rate"] for p in points])
        assert area == pytest.approx(each.auc, abs=1e-6)
        points = figures.precision_recall(rows, each.name)
        steps = -np.diff([p["recall"] for p in points]) * [p["precision"] for p in points[:-1]]
        # Points on a level of recall are left out of the drawing: as wide as a step is high, so the area may differ.
        assert steps.sum() == pytest.approx(each.average_precision, abs=0.01)


def test_calibration_before_and_after_the_temperature(evidence, tables):
    rows = evidence.answers
    validation, test = tables["temperature-table"]
    assert validation[1:] == [500, *test[2:]]
    before = rows.probabilities.astype(float) ** 2
    before /= before.sum(-1, keepdims=True)
    for column, probabilities in ((2, before), (3, rows.probabilities.astype(float))):
        right, mean = calibration.calibration_curve(rows.right, probabilities.max(-1), n_bins=15)
        counts = np.histogram(probabilities.max(-1), bins=15, range=(0, 1))[0]
        error = (counts[counts > 0] * np.abs(right - mean)).sum() / 300
        assert test[column] == pytest.approx(error, abs=1e-6)
        probabilities /= probabilities.sum(-1, keepdims=True)
        assert test[column + 2] == pytest.approx(metrics.log_loss(rows.labels, probabilities), abs=1e-6)


def test_a_temperature_of_one_says_why():
    evidence = factories.review_evidence(MOODS, 60)
    calibration = evidence.metrics.calibration.model_copy(update={"temperature": 1.0})
    metrics = evidence.metrics.model_copy(update={"calibration": calibration})
    note = {"temperature": 1.0, "note": "60 validation rows are too few"}
    fitted = evidence.export.calibration.model_copy(update=note)
    export = evidence.export.model_copy(update={"calibration": fitted})
    evidence = dataclasses.replace(evidence, metrics=metrics, export=export)
    html = page.render(evidence, "today")
    assert "as training made them (temperature 1): 60 validation rows are too few." in html
    assert "Reliability before and after" not in html


def test_what_abstaining_costs_and_gains(evidence, tables):
    answers = evidence.answers
    thresholds = [row[0] for row in tables["abstain-table"]]
    assert thresholds == ["0.5", "0.6", "0.7", "0.8", "0.9", "0.95", "0.99"]
    for threshold, rows, coverage, accuracy, errors in tables["abstain-table"][:4]:
        kept = answers.confidence >= float(threshold)
        assert (rows, coverage) == (kept.sum(), pytest.approx(kept.mean(), abs=1e-6))
        assert accuracy == pytest.approx(
            metrics.accuracy_score(answers.labels[kept], answers.predicted[kept]), abs=1e-6
        )
        assert errors == (kept & ~answers.right).sum()


def test_the_models_own_threshold_is_marked_with_the_evaluators_figures(evidence):
    kept = evidence.answers.confidence >= 0.65
    accuracy = evidence.answers.right[kept].mean()
    own = Abstention(threshold=0.65, rows=kept.sum(), coverage=kept.mean(), accuracy=accuracy)
    figures = evidence.metrics.model_copy(update={"abstain": own})
    html = page.render(factories.review_evidence(MOODS, 300, metrics=figures), "today")
    row = by_name(factories.page_tables(html)["abstain-table"])["0.65, the model's"]
    errors = (kept & ~evidence.answers.right).sum()
    assert row == [kept.sum(), pytest.approx(kept.mean()), pytest.approx(accuracy), errors]
    assert "The model abstains below 0.65" in html
    assert "the model&#39;s threshold, 0.65" in html


def test_probable_label_errors_and_near_duplicates(tables, html):
    assert [row[3:5] for row in tables["issue-table"]] == [[0.01, "train"], [0.02, "test"], [0.03, "validation"]]
    assert [row[:4] for row in tables["issue-counts"]] == [
        ["test", 300, 1, "this model"], ["validation", 300, 1, "this model"], ["train", 300, 1, "TF-IDF"],
    ]  # fmt: skip
    # A leak comes before what is more alike.
    assert [row[:2] for row in tables["near-duplicate-table"]] == [[0.9, "train"], [1.0, "validation"]]
    assert "1 of 300 test rows are near-duplicates of training rows" in html
    assert "<strong>0.750</strong> (0.700 to 0.800) on 299 rows" in html


def test_a_slice_whose_interval_lies_below_the_whole_is_worse():
    metrics = factories.review_evidence(MOODS, 100).metrics
    accuracies = {"a": 0.79, "b": 0.6}
    slices = {name: SliceFigures(**{**dict(metrics), "accuracy": accuracy}) for name, accuracy in accuracies.items()}
    found = figures.slices(metrics.model_copy(update={"accuracy": 0.8, "slices": slices}))
    assert [(each.name, each.verdict) for each in found] == [("b", "worse"), ("a", "")]
    low, high = found[0].interval
    # Wilson's interval of 60 in 100, as published tables have it
    assert (low, high) == (pytest.approx(0.502, abs=1e-3), pytest.approx(0.691, abs=1e-3))


def test_the_surest_errors_come_first(evidence, tables):
    confidences = [row[3] for row in tables["wrong-table"]]
    wrong = evidence.answers.confidence[~evidence.answers.right]
    np.testing.assert_allclose(confidences, np.sort(wrong)[::-1][:25])


def test_the_drawn_losses_are_the_trainings_and_one_that_diverged_is_said_to_have():
    epochs = [
        {"epoch": 1, "train_loss": 0.8, "validation_loss": 0.6, "validation_accuracy": 0.7},
        {"epoch": 2, "train_loss": float("nan"), "validation_loss": float("nan"), "validation_accuracy": 0.3},
    ]
    training = {**factories.review_evidence(MOODS, 60).training, "epochs": epochs}
    html = page.render(factories.review_evidence(MOODS, 60, training=training), "today")
    assert recount.points(html, "losses") == [[[1, 0.8, 0.6], [2, None, None]]]
    assert "NaN" not in html


def test_a_long_text_is_cut_and_says_so():
    html = page.render(factories.review_evidence(MOODS, 60, texts=["word " * 20_000] * 60), "today")
    assert "… (95,000 more characters)" in html
    assert len(html) < 600_000


# === Verdicts ===


def test_a_pushed_and_a_blocked_model_in_words(evidence, html):
    assert "Pushed as version 1795295123" in html
    reason = "accuracy 0.300 is below the config's floor of 0.4"
    verdicts = [factories.verdict("accuracy >= 0.4", "0.300", passed=False, reason=reason)]
    push = {"version": "", "summary": "not pushed: gates blocked"}
    blocked = page.render(factories.review_evidence(MOODS, 60, verdicts=verdicts, push=push), "today")
    assert "Not pushed: 1 of 1 gates blocked it" in blocked
    assert "blocked: accuracy 0.300 is below the config&#39;s floor of 0.4" in blocked


def test_a_canary_that_refused_is_quoted():
    push = {"version": "", "summary": "not pushed: canary failed"}
    canary = {"blessed": 0, "summary": "19 of 20 answers equal"}
    refused = page.render(factories.review_evidence(MOODS, 60, canary=canary, push=push), "today")
    assert "Not pushed: canary failed" in refused
    assert "19 of 20 answers equal" in refused


LEAD = {"value": 0.1, "low": 0.05, "high": 0.15}


def other(accuracy):
    found = {"accuracy": accuracy, "macro_f1": 0.5, "certainty": 0.95}
    differences = {"accuracy": LEAD, "macro_f1": LEAD}
    return Comparison(**found, differences=differences, rows_won=7, rows_lost=3, mcnemar_p=0.34)


def test_other_models_on_the_same_rows_and_past_runs_are_shown(evidence):
    compared = {
        "tfidf": other(0.5),
        "probe": other(0.4),
        "last_blessed": LastBlessed(version="17", comparison=other(0.6)),
    }
    past = {"run": "2026-11-20T10:00:00", "outcome": "blocked", "version": ""}
    past |= evidence.metrics.model_dump(include={"rows", "accuracy", "macro_f1", "intervals"})
    changes = {"metrics": evidence.metrics.model_copy(update=compared), "history": [past]}
    tables = factories.page_tables(page.render(factories.review_evidence(MOODS, 300, **changes), "today"))
    assert tables["comparison-table"] == [
        ["last blessed, version 17", "accuracy", 0.6, 0.1, "+0.050 to +0.150"],
        ["last blessed, version 17", "macro F1", 0.5, 0.1, "+0.050 to +0.150"],
        ["TF-IDF with logistic regression", "accuracy", 0.5, 0.1, "+0.050 to +0.150"],
        ["TF-IDF with logistic regression", "macro F1", 0.5, 0.1, "+0.050 to +0.150"],
        ["frozen encoder with logistic regression", "accuracy", 0.4, 0.1, "+0.050 to +0.150"],
        ["frozen encoder with logistic regression", "macro F1", 0.5, 0.1, "+0.050 to +0.150"],
    ]
    assert [row[1:4] for row in tables["run-table"]] == [
        ["2026-11-20T10:00:00", "blocked", ""],
        ["this run", "pushed", "1795295123"],
    ]


def test_the_trade_of_student_and_teacher_is_shown_beside_tfidf(evidence):
    metrics = evidence.metrics.model_copy(update={"tfidf": other(0.5)})
    changes = {"metrics": metrics, "compression": factories.compression_report()}
    shown = page.render(factories.review_evidence(MOODS, 300, **changes), "today")
    rows = factories.page_tables(shown)["compression-table"]
    assert rows[:2] == [
        ["teacher", 0.85, "0.827 to 0.871", 10.0, 320.0, 90_000_000.0],
        ["student", 0.84, "0.816 to 0.861", 5.0, 640.0, 30_000_000.0],
    ]
    assert rows[2][:2] == ["TF-IDF with logistic regression", 0.5]
    assert "The student stands in for its teacher" in shown
    assert 'href="#compression"' in shown
    kept = {"compression": factories.compression_report(smaller_by=4)}
    shown = page.render(factories.review_evidence(MOODS, 300, **kept), "today")
    assert "The teacher was kept" in shown
    assert "Not passed: the teacher has 3.00 times the bytes of the student; the gate asks for 4." in shown
    assert "#compression" not in page.render(factories.review_evidence(MOODS, 300), "today")


# === The page itself ===


@pytest.mark.parametrize("classes", [["no", "yes"], INTENTS], ids=["2", "77"])
def test_two_and_seventy_seven_classes(classes):
    html = page.render(factories.review_evidence(classes, 20 * len(classes)), "today")
    tables = factories.page_tables(html)
    assert len(tables["class-table"]) == len(classes)
    assert ('class="matrix"' in html) == (len(classes) == 2)
    assert html.count("<title>ROC curve of ") == min(len(classes), page.CURVE_CLASSES)
    worst = tables["class-table"][0][0]
    assert f"<title>ROC curve of {worst}</title>" in html


def test_a_thousand_classes_make_no_page_of_ten_megabytes():
    classes = [f"intent {number}" for number in range(1000)]
    html = page.render(factories.review_evidence(classes, 400, absent=800), "today")
    tables = factories.page_tables(html)
    assert len(tables["class-table"]) == 1000
    assert "The 100 classes of shop=north with the lowest F1; metrics.json has all" in html
    assert "The 100 labels with the most wrong answers." in html
    assert html.count("whether to call it: ") == 100
    assert len(html) < 2_000_000


def test_hostile_texts_and_labels_stay_texts():
    texts = [HOSTILE] * 60
    labels = ["<b>bold</b>", "</script><script>alert(1)", HOSTILE]
    html = page.render(factories.review_evidence(labels, 60, texts=texts), "today")
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "<b>" not in html
    assert factories.page_tables(html)["wrong-table"][0][0] == HOSTILE


def test_hostile_slices_reasons_and_names_stay_texts():
    verdict = factories.verdict(f"shop={HOSTILE}", "0.1", passed=False, reason=HOSTILE)
    evidence = factories.review_evidence(MOODS, 60, verdicts=[{**verdict, "note": HOSTILE}])
    figures = evidence.metrics.model_copy(update={"slices": {f"shop={HOSTILE}": evidence.metrics.slices["shop=north"]}})
    past = {"run": HOSTILE, "outcome": HOSTILE, "version": HOSTILE}
    past |= figures.model_dump(include={"rows", "accuracy", "macro_f1", "intervals"})
    hostile = {
        "metrics": figures,
        "history": [past],
        "ingest": {**evidence.ingest, "quarantined": {HOSTILE: 3}},
        "anomalies": [dict.fromkeys(("split", "column", "severity", "description"), HOSTILE)],
        "canary": {"blessed": 0, "summary": HOSTILE},
        "push": {"version": "", "summary": HOSTILE},
        "release": {**evidence.release, "name": HOSTILE, "libraries": {HOSTILE: HOSTILE}},
        "card": HOSTILE,
    }
    html = page.render(dataclasses.replace(evidence, **hostile), "today")
    assert html.count("<script") == 1
    assert "<img" not in html
    assert factories.page_tables(html)["slice-table"][0][0] == f"shop={HOSTILE}"


def test_nothing_is_fetched(html):
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", html)
    assert not re.findall(r"<(link|img|iframe|object|embed|base|form)\b", html)
    assert not re.findall(r"<script [^>]*src|[\s]on[a-z]+=|[\s]style=", html)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "unsafe" not in policy


def test_every_header_has_a_scope_and_every_table_a_caption(html):
    assert html.count("<table") == html.count("<caption>")
    assert not re.findall(r"<th(?![^>]*scope=)[ >]", html)
    assert html.count("<svg") == html.count('role="img"') == html.count("<desc>")
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|aria-labelledby="|for=")([^"]+)"', html)) <= set(ids)


def test_anomalies_are_read_split_by_split(tmp_path):
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    artifact = standard_artifacts.ExampleAnomalies()
    artifact.uri, artifact.split_names = str(tmp_path), '["train", "test"]'
    for split in ("train", "test"):
        message = anomalies_pb2.Anomalies()
        if split == "test":
            message.anomaly_info["label"].severity = anomalies_pb2.AnomalyInfo.ERROR
            message.anomaly_info["label"].short_description = "Unexpected string values"
            message.anomaly_info["label"].description = "maybe (0.5%)"
        (tmp_path / f"Split-{split}").mkdir()
        (tmp_path / f"Split-{split}" / "SchemaDiff.pb").write_bytes(message.SerializeToString())
    assert review.read_anomalies(artifact) == [
        {
            "split": "test",
            "column": "label",
            "severity": "error",
            "description": "Unexpected string values: maybe (0.5%)",
        }
    ]
