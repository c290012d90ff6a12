"""Rows with any number of labels through the whole line, to a served model that is asked over gRPC and REST."""

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from factories import MOODS, page_tables, write_mixed_task
from lines import Line, first_evaluation
from sklearn import metrics as sklearn_metrics

from bertline.serving.client import Client
from bertline.serving.server import Server

CLASSES = list(MOODS)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, warm):
    line = Line(tmp_path_factory.mktemp("several"), warm)
    write_mixed_task(line.folder)
    ran = line.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return line, ran.stdout, *first_evaluation(line.folder)


@pytest.fixture(scope="module")
def predictions(pushed):
    (file,) = pushed[0].folder.glob("runs/artifacts/Evaluator/evaluation/*/predictions-test.parquet")
    return pq.read_table(file).to_pydict()


def held(labels):
    return np.array([[name in of_row for name in CLASSES] for of_row in labels])


def test_the_figures_are_scikit_learns_of_the_exported_predictions(pushed, predictions):
    _, screen, metrics, release = pushed
    true, answered = held(predictions["label"]), held(predictions["predicted"])
    expected = {
        "micro_f1": sklearn_metrics.f1_score(true, answered, average="micro"),
        "macro_f1": sklearn_metrics.f1_score(true, answered, average="macro"),
        "sample_f1": sklearn_metrics.f1_score(true, answered, average="samples", zero_division=1),
        "accuracy": sklearn_metrics.accuracy_score(true, answered),
        "hamming_loss": sklearn_metrics.hamming_loss(true, answered),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-9)
        assert release["metrics"][name] == metrics[name]
        low, high = metrics["intervals"][name]
        assert low <= value <= high
    thresholds = metrics["multi_label"]["thresholds"]
    assert release["thresholds"] == thresholds
    over = np.array(predictions["probabilities"], np.float32) >= np.float32(list(thresholds.values()))
    np.testing.assert_array_equal(over, answered)
    assert f"micro-F1 {metrics['micro_f1']:.3f}" in screen
    assert "subset_accuracy >= 0.4" in screen


def test_the_pages_tables_hold_the_figures(pushed):
    line, _, metrics, _ = pushed
    (page,) = line.folder.glob("runs/review/*.html")
    tables = page_tables(page.read_text(encoding="utf-8"))
    assert {row[0]: row[1] for row in tables["headline-table"]}["Micro F1"] == pytest.approx(metrics["micro_f1"])
    assert {row[0]: row[1] for row in tables["decision-table"]} == pytest.approx(metrics["multi_label"]["thresholds"])
    assert [row[0] for row in tables["together-matrix"]] == CLASSES
    assert {row[0] for row in tables["class-table"]} == set(CLASSES)
    assert "matrix" not in tables
    (card,) = line.folder.glob("runs/serving/*/MODEL_CARD.md")
    assert "Hamming loss" in card.read_text(encoding="utf-8")


def test_the_served_model_answers_as_it_was_evaluated(pushed, predictions):
    line = pushed[0]
    texts, expected = predictions["text"][:40], predictions["predicted"][:40]
    server = Server.of(line.serving, "reviews", port=0, rest_port=0)
    server.start()
    try:
        with Client(server.address, "reviews") as client:
            answers = client.predict(texts)
        body = {"signature_name": "text", "instances": texts}
        rest = httpx.post(f"{server.rest_address}/v1/models/reviews:predict", json=body, trust_env=False, timeout=60)
    finally:
        server.stop()
    assert [sorted(answer.labels) for answer in answers] == [sorted(labels) for labels in expected]
    assert {answer.label for answer in answers} == {None}
    for answer, row in zip(answers, rest.json()["predictions"], strict=True):
        assert set(row) == {"assigned", "classes", "probabilities"}
        assert row["classes"] == CLASSES
        given = [name for name, has in zip(row["classes"], row["assigned"], strict=True) if has]
        assert sorted(answer.labels) == given
        assert list(answer.probabilities.values()) == pytest.approx(row["probabilities"], abs=1e-3)


def test_the_same_file_without_the_key_stops_with_the_line_to_add(pushed):
    line = pushed[0]
    line.edit('  multi_label: {separator: "|", empty: no_label}\n', "  max_quarantined: 0.5\n")
    line.edit("{subset_accuracy: 0.4, micro_f1: 0.7, label_f1: {positive: 0.7}}", "{}")
    ran = line.run()
    assert ran.returncode == 1
    shown = " ".join((ran.stdout + ran.stderr).split())
    assert "looks like several labels per row" in shown
    assert 'multi_label: {separator: "|"}' in shown
