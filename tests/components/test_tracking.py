import http.server
import json
import logging
import struct
import threading
from pathlib import Path

import factories
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from bertline.components import artifacts, trackers
from bertline.components.options import TrackingOptions
from bertline.components.tracking import Track, curves, flat, run_id
from bertline.errors import UserError

PARAMETERS = {
    "train": {"learning_rate": 1e-4, "epochs": 2, "tensorboard": True},
    "model": {"backbone": "package://tiny", "sha256": {}},
    "data": {"labels": ["bad", "good"], "validation_source": None},
    "export": {"dtype": "float32"},
    "evaluate": {"batch_size": 64},
}
KEY = "k" * 40


@pytest.fixture
def evidence():
    return factories.review_evidence(["bad", "good"], 100)


@pytest.fixture
def calls_out(monkeypatch):
    """The paths that anything here, or a process of it, asks for beyond this machine: all goes to this proxy."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            self.send_error(502)

        do_GET = do_POST = do_CONNECT = answer

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()


def artifact(kind, folder, files=(), **properties):
    made = kind()
    made.uri = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in dict(files).items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    for name, value in properties.items():
        set_property = made.set_int_custom_property if isinstance(value, int) else made.set_string_custom_property
        set_property(name, value)
    return made


def track(folder, evidence, options, parameters=PARAMETERS, root=None):
    """The stage on what a run left; returns its record."""
    record = artifact(artifacts.TrackingRecord, folder / "record")
    Track.test_call(
        evaluation=artifact(
            standard_artifacts.ModelEvaluation, folder / "e", {"metrics.json": evidence.metrics.model_dump_json()}
        ),
        blessing=artifact(standard_artifacts.ModelBlessing, folder / "b", verdicts=json.dumps(evidence.verdicts)),
        canary=artifact(standard_artifacts.InfraBlessing, folder / "c", {"report.json": {"p50_ms": 11.5, "rows": 20}}),
        pushed_model=artifact(standard_artifacts.PushedModel, folder / "p", pushed_version=evidence.push["version"]),
        model_run=artifact(standard_artifacts.ModelRun, folder / "m", {"training.json": evidence.training}),
        review=artifact(artifacts.ReviewPage, folder / "r", {"review.html": "<p>the page</p>"}),
        record=record,
        options=options.model_dump_json(),
        **{name: json.dumps(section) for name, section in parameters.items()},
        folder=str(folder / "task") if root is None else root,
        release=json.dumps({**evidence.release, "parent": 1795295000}),
    )
    return record


def worse(evidence):
    """Another run: one more epoch, other figures, blocked."""
    epochs = [*evidence.training["epochs"], {**evidence.training["epochs"][0], "epoch": 3}]
    verdict = factories.verdict("accuracy >= 0.4", "0.300", passed=False, reason="0.300 is below 0.4")
    return factories.review_evidence(
        ["bad", "good"], 100, seed=1, training={**evidence.training, "epochs": epochs}, verdicts=[verdict],
        push={"version": "", "summary": "not pushed: gates blocked"},
    )  # fmt: skip


# === TensorBoard ===


def test_tensorboard_compares_runs_by_parameters_and_final_figures(tmp_path, evidence):
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    options, other = TrackingOptions(tool="tensorboard"), worse(evidence)
    for _ in range(2):  # a run that is tracked again stays one
        record = track(tmp_path, evidence, options)
    more = {**PARAMETERS, "train": {**PARAMETERS["train"], "epochs": 3}}
    track(tmp_path, other, options, more)
    assert record.get_int_custom_property("tracked") == 1
    logs = f"{tmp_path}/task/tensorboard"
    assert record.get_string_custom_property("summary") == f"tensorboard: {logs}/{run_id(evidence.metrics)}"

    events = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(logs).Reload()
    provider = data_provider.MultiplexerDataProvider(events, logs)
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    experiment = context.experiment_from_metadata(
        RequestContext(), "", True, context.hparams_metadata(RequestContext(), ""), []
    )
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        col_params=[{"metric": metric.name} for metric in experiment.metric_infos],
    )
    found = list_session_groups.Handler(RequestContext(), context, "", request).run()
    groups = {group.name: group for group in found.session_groups}
    assert set(groups) == {run_id(evidence.metrics), run_id(other.metrics)}
    shown = groups[run_id(evidence.metrics)]
    assert shown.hparams["train.learning_rate"].number_value == 1e-4
    assert shown.hparams["version"].string_value == "1795295123"
    assert groups[run_id(other.metrics)].hparams["train.epochs"].number_value == 3
    figures = {value.name.tag: value.value for value in shown.metric_values}
    assert figures["accuracy"] == pytest.approx(evidence.metrics.accuracy)
    low, high = evidence.metrics.intervals.accuracy
    assert [figures["accuracy_low"], figures["accuracy_high"]] == pytest.approx([low, high])
    assert figures["p50_ms"] == 11.5
    curve = events.Tensors(run_id(other.metrics), "train_loss")
    assert [(point.step, float(tf.make_ndarray(point.tensor_proto))) for point in curve] == [
        (1, pytest.approx(0.8)), (2, pytest.approx(0.8)), (3, pytest.approx(0.8)),
    ]  # fmt: skip
    (gates,) = events.Tensors(run_id(other.metrics), "gates")
    assert rb"| accuracy \>= 0.4 | blocked: 0.300 is below 0.4 |" in tf.make_ndarray(gates.tensor_proto).item()


def test_files_without_a_folder_for_them(tmp_path, evidence):
    record = track(tmp_path, evidence, TrackingOptions(tool="tensorboard"), root="")
    summary = record.get_string_custom_property("summary")
    assert summary.startswith("NOT tracked by tensorboard: tensorboard keeps files, and there is no folder for them")


# === MLflow ===


def test_mlflow_holds_the_run_once(tmp_path, evidence, calls_out):
    from mlflow import MlflowClient

    options = TrackingOptions(tool="mlflow", address=str(tmp_path / "store"), project="tweets", review_page=True)
    for _ in range(2):
        record = track(tmp_path, evidence, options)
    track(tmp_path, worse(evidence), options)
    assert record.get_int_custom_property("tracked") == 1, record
    client = MlflowClient(tracking_uri=str(tmp_path / "store"))
    experiment = client.get_experiment_by_name("tweets")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 2
    run = runs[run_id(evidence.metrics)]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == "0.0001"
    assert run.data.params["data.labels"] == '["bad", "good"]'
    assert run.data.metrics["macro_f1"] == pytest.approx(evidence.metrics.macro_f1)
    assert run.data.metrics["macro_f1_low"] == pytest.approx(evidence.metrics.intervals.macro_f1[0])
    curve = client.get_metric_history(run.info.run_id, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.6), (2, 0.6)]
    tags = run.data.tags
    assert (tags["outcome"], tags["version"], tags["parent"]) == ("pushed", "1795295123", "1795295000")
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((folder / "gates.json").read_text()) == {
        "accuracy >= 0.4": f"passed: {evidence.metrics.accuracy:.3f}"
    }
    assert (folder / "review.html").read_text() == "<p>the page</p>"
    assert calls_out == []


def test_a_server_that_is_away_does_not_fail_the_run(tmp_path, evidence, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", KEY)
    with caplog.at_level(logging.DEBUG):
        record = track(tmp_path, evidence, TrackingOptions(tool="mlflow", address="http://127.0.0.1:9"))
    assert record.get_int_custom_property("tracked") == 0
    summary = record.get_string_custom_property("summary")
    assert summary.startswith("NOT tracked by mlflow: ")
    assert summary.endswith("The same command tries again; the rest is cached.")
    assert "127.0.0.1" in summary
    assert KEY not in summary + caplog.text


# === Weights & Biases ===


def test_wandb_offline_writes_its_folder_and_calls_nobody(tmp_path, evidence, monkeypatch, calls_out):
    monkeypatch.setenv("WANDB_MODE", "offline")
    record = track(tmp_path, evidence, TrackingOptions(tool="wandb", review_page=True))
    assert record.get_int_custom_property("tracked") == 1, record.get_string_custom_property("summary")
    (folder,) = (tmp_path / "task/wandb").glob("offline-run-*")
    assert record.get_string_custom_property("summary") == f"wandb: {folder}"
    told = read_wandb(folder / f"run-{run_id(evidence.metrics)}.wandb")
    assert told["project"] == "reviews"
    assert told["config"]["train.learning_rate"] == 1e-4
    assert [row["train_loss"] for row in told["history"]] == [0.8, 0.8]
    assert told["summary"]["accuracy"] == pytest.approx(evidence.metrics.accuracy)
    assert told["summary"]["outcome"] == "pushed"
    assert told["summary"]["gates"] == {"accuracy >= 0.4": f"passed: {evidence.metrics.accuracy:.3f}"}
    assert told["artifacts"] == [f"review-{run_id(evidence.metrics)}"]
    assert calls_out == []


def read_wandb(file):
    """What a .wandb file says."""
    from wandb.proto import wandb_internal_pb2

    def values(items):
        return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}

    told = {"config": {}, "history": [], "summary": {}, "artifacts": []}
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told["project"] = record.run.project
            told["config"] |= values(record.run.config.update)
        elif kind == "history":
            told["history"].append(values(record.history.item))
        elif kind == "summary":
            told["summary"] |= values(record.summary.update)
        elif kind == "artifact":
            told["artifacts"].append(record.artifact.name)
    return told


def wandb_records(content):
    """The records of a LevelDB log, in blocks of 32 KiB, behind W&B's header of 7 bytes."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        size, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_works_on_local_files_where_the_root_is_remote(tmp_path, evidence, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    record = track(tmp_path, evidence, TrackingOptions(tool="wandb"), root="gs://bucket/runs")
    assert record.get_int_custom_property("tracked") == 1, record.get_string_custom_property("summary")
    assert len(list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


# === Before a run ===


def test_what_keeps_a_run_from_being_tracked_is_said_before_it(monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="WANDB_API_KEY; WANDB_MODE=offline writes files only"):
        trackers.check(TrackingOptions(tool="wandb"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI holds a password") as caught:
        trackers.check(TrackingOptions(tool="mlflow"))
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mlflow is not installed here\. `pip install mlflow-skinny`"):
        trackers.check(TrackingOptions(tool="mlflow"))
    trackers.check(TrackingOptions())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool": "mlflow", "address": "https://me:secret@host"}, "take the password out"),
        ({"tool": "tensorboard", "address": "http://host"}, "only mlflow and wandb have one"),
        ({"address": "http://host"}, "only mlflow and wandb have one"),
        ({"tool": "neptune"}, "Input should be 'tensorboard', 'mlflow' or 'wandb'"),
    ],
)
def test_options_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        TrackingOptions(**fields)


def test_parameters_are_flat_and_short():
    assert flat({"train": {"rate": 0.5, "on": True}, "model": {"sha256": {}, "size": None, "names": ["é"]}}) == {
        "train.rate": 0.5, "train.on": True, "model.sha256": "{}", "model.size": "null", "model.names": '["é"]',
    }  # fmt: skip
    assert flat({"text": "x" * 501}) == {"text": "x" * 500}


def test_curves_of_no_epoch():
    assert curves({"epochs": []}) == []
