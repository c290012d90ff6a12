import json
import os
import re
import signal
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from factories import save_mood_model
from tfx.types import standard_artifacts

from bertline.components import canary
from bertline.components.options import CanaryOptions
from bertline.serving.client import Client, Prediction, ServingError
from bertline.serving.server import Server

# What the model of factories.save_mood_model answers: positive where there is a "good", each with 0.75.
ROWS = [
    ("01", "a good film", "positive"),
    ("02", "a dull film", "negative"),
    ("03", "so good 😀", "positive"),
    ("04", "", "negative"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_mood_model(folder / "Format-Serving")
    return folder


def artifact(kind, folder, **properties):
    made = kind()
    folder.mkdir(parents=True, exist_ok=True)
    made.uri = str(folder)
    for name, value in properties.items():
        made.set_int_custom_property(name, value)
    return made


def examine(tmp_path, model, rows=ROWS, blessed=1, number=200, **limits):
    ids, texts, labels = zip(*rows, strict=True)
    evaluation = artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")
    columns = {"row_id": ids, "text": texts, "text_pair": [""] * len(ids), "label": labels, "predicted": labels}
    table = pa.table({**{name: list(values) for name, values in columns.items()}, "probability": [0.75] * len(ids)})
    pq.write_table(table, tmp_path / "evaluation" / "predictions-test.parquet")
    made = artifact(standard_artifacts.InfraBlessing, tmp_path / "canary")
    canary.Canary.test_call(
        model=artifact(standard_artifacts.Model, model),
        evaluation=evaluation,
        blessing=artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing", blessed=blessed),
        canary=made,
        options=CanaryOptions(rows=number, **limits).model_dump_json(),
    )
    return made.get_int_custom_property("blessed"), made.get_string_custom_property("summary")


def test_equal_answers_bless_the_model(tmp_path, model):
    blessed, summary = examine(tmp_path, model, number=3)
    assert blessed == 1
    assert summary.startswith("3 of 3 answers equal, p50 ")
    assert (tmp_path / "canary" / "INFRA_BLESSED").exists()
    report = json.loads((tmp_path / "canary" / "report.json").read_text())
    assert (report["rows"], report["equal"], report["differing"]) == (3, 3, [])
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert "serving/1" in (tmp_path / "canary" / "server.log").read_text()


def test_a_model_slower_than_the_config_allows_is_blocked(tmp_path, model):
    blessed, summary = examine(tmp_path, model, number=3, max_p50_ms=0.001, max_p99_ms=60_000)
    assert blessed == 0
    assert re.search(r"answers equal, p50 .* ms; p50 \d+ ms is above canary\.max_p50_ms, 0\.001 ms$", summary)


def test_one_other_answer_does_not(tmp_path, model):
    (tmp_path / "1").symlink_to(model / "Format-Serving")
    keys = ("row_id", "text", "predicted")
    rows = [dict(zip(keys, row, strict=True), probability=0.75) for row in [*ROWS[:3], ("04", "", "positive")]]
    with Server.of(tmp_path, canary.MODEL_NAME, port=0) as server:
        comparison = canary.compare(rows, server.address)
    assert not comparison.agrees
    assert comparison.summary() == "3 of 4 answers equal; row 04 was positive 0.7500 and is negative 0.7500"


def test_pairs_are_asked_as_pairs(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "text_pair")])
    def same(text, text_pair):
        yes = tf.cast(text == text_pair, tf.float32)[:, tf.newaxis]
        return {
            "label": tf.where(text == text_pair, "same", "other"),
            "probabilities": tf.concat([yes, 1 - yes], 1),
            "classes": tf.tile([["same", "other"]], [tf.size(text), 1]),
        }

    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"text": same})
    row = {"row_id": "01", "text": "a", "text_pair": "a", "predicted": "same", "probability": 1.0}
    other = {"row_id": "02", "text": "a", "text_pair": "b", "predicted": "other", "probability": 1.0}
    with Server.of(tmp_path, canary.MODEL_NAME, port=0) as server:
        assert canary.compare([row, other], server.address).agrees


def test_blocked_model_is_not_tried(tmp_path, model, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert examine(tmp_path, model, blessed=0) == (0, "skipped: not blessed")


def test_file_that_is_no_saved_model_is_named(tmp_path):
    broken = tmp_path / "model" / "Format-Serving"
    broken.mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"not a model")
    blessed, summary = examine(tmp_path, tmp_path / "model")
    assert blessed == 0
    assert (tmp_path / "canary" / "INFRA_NOT_BLESSED").exists()
    assert summary.startswith("TF Serving cannot run this model: ")
    assert "saved_model.pb: not a SavedModel" in summary


def test_model_with_an_op_that_tf_serving_lacks_is_blocked_by_its_name(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def upper(text):
        return {"label": tf.numpy_function(lambda values: values, [text], tf.string)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "model" / "Format-Serving"), signatures={"text": upper})
    blessed, summary = examine(tmp_path, tmp_path / "model")
    assert blessed == 0
    assert "op PyFunc (node 'PyFunc' in function '__inference_upper_" in summary
    assert "it runs Python, which TF Serving has none of" in summary


def test_server_that_is_killed_while_it_answers_is_told(tmp_path, model, monkeypatch):
    started = []
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *command, **more: started.append(start(*command, **more)) or started[0]
    )
    with pytest.raises(canary.ServerFailed, match="fresh server failed"):  # noqa: SIM117
        with canary.fresh_server(str(model / "Format-Serving"), str(tmp_path)) as address:
            os.kill(started[0].pid, signal.SIGKILL)
            with Client(address, canary.MODEL_NAME) as client:
                client.predict(["a good film"])
    assert started[0].poll() is not None
    assert (tmp_path / "server.log").exists()


def test_server_that_is_not_ready_in_time_is_ended(tmp_path, model, monkeypatch):
    sleeper = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **more: sleeper)
    with (
        pytest.raises(canary.ServerFailed, match=r"not ready after 0\.3 s.*last words: none"),
        canary.fresh_server(str(model / "Format-Serving"), str(tmp_path), ready_seconds=0.3),
    ):
        pass
    assert sleeper.poll() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("answered", "agree"),
    [
        ({"a": 0.60, "b": 0.40}, True),
        ({"a": 0.605, "b": 0.395}, True),
        ({"a": 0.62, "b": 0.38}, False),
        ({"a": 0.40, "b": 0.60}, False),
        ({"c": 1.0}, False),
    ],
)
def test_same_label_within_the_tolerance(answered, agree):
    assert canary.agrees("a", 0.6, prediction(answered)) == agree


@pytest.mark.parametrize(("answered", "agree"), [({"a": 0.498, "b": 0.502}, True), ({"a": 0.493, "b": 0.507}, False)])
def test_two_labels_as_probable_as_each_other_may_change_places(answered, agree):
    assert canary.agrees("a", 0.501, prediction(answered)) == agree


def prediction(probabilities):
    label = max(probabilities, key=probabilities.get)
    return Prediction(label, probabilities[label], probabilities)


def test_serving_errors_outside_the_answers_are_not_swallowed():
    with pytest.raises(ServingError):
        canary.compare([{"row_id": "1", "text": "a", "predicted": "a", "probability": 1.0}], "127.0.0.1:1")


# === Several labels per row ===


def test_labels_may_only_come_or_go_where_their_probability_is_at_the_threshold():
    thresholds, seen = {"a": 0.5, "b": 0.3}, {"a": 0.9, "b": 0.305}

    def agree(labels, **served):
        answer = Prediction(None, None, seen | served, labels=labels)
        return canary.agree_on_labels(["a", "b"], seen, thresholds, answer)

    assert agree(("a", "b"), b=0.304)
    assert agree(("a",), b=0.299)  # b was at its threshold
    assert not agree(("b",))  # a was far from its
    assert not agree(("a", "b"), a=0.8)
    assert not agree(("a", "b"), c=0.1)
