import json
from pathlib import Path

import factories
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from factories import save_mood_model
from tfx.types import standard_artifacts

from bertline.components import artifacts, compression_report, last_blessed, pusher, warmup
from bertline.components.evaluation import write_metrics
from bertline.components.options import ServeOptions
from bertline.errors import UserError
from bertline.serving import releases, rollback, storage
from bertline.serving.protos import PredictionLog
from bertline.serving.push import digest_of
from bertline.serving.servable import Servable
from bertline.serving.warmup import warm_up


@pytest.fixture(autouse=True)
def saved_model(tmp_path):
    folder = tmp_path / "model" / "Format-Serving"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")


def artifact(kind, folder, **properties):
    made = kind()
    folder.mkdir(parents=True, exist_ok=True)
    made.uri = str(folder)
    for name, value in properties.items():
        made.set_int_custom_property(name, value)
    return made


def push(tmp_path, model_blessed=1, infra_blessed=1, inputs="a", warmup_rows=0, **more):
    evaluation = artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")
    metrics = factories.metrics(factories.answers(["a", "b"], [0, 1, 0, 1], [0, 1, 1, 1]))
    write_metrics(evaluation.uri, metrics)
    card = artifact(artifacts.ModelCard, tmp_path / "card")
    (tmp_path / "card" / "MODEL_CARD.md").write_text("# The card")
    pushed = artifact(standard_artifacts.PushedModel, tmp_path / "pushed")
    pusher.Pusher.test_call(
        model=artifact(standard_artifacts.Model, tmp_path / "model"),
        weights=artifact(artifacts.Weights, tmp_path / "weights"),
        model_blessing=artifact(standard_artifacts.ModelBlessing, tmp_path / "gates", blessed=model_blessed),
        infra_blessing=artifact(standard_artifacts.InfraBlessing, tmp_path / "canary", blessed=infra_blessed),
        evaluation=evaluation,
        model_card=card,
        pushed_model=pushed,
        serving_folder=str(tmp_path / "serving"),
        release=json.dumps({"inputs": inputs, "parent": 7, "git_commit": "c0ffee"}),
        vanished=0,
        withdrawn="",
        keep_versions=0,
        warmup_rows=warmup_rows,
        **more,
    )
    return pushed


def test_the_release_of_a_student_tells_of_its_teacher(tmp_path):
    report = artifact(artifacts.CompressionReport, tmp_path / "report")
    compression_report.write(report.uri, factories.compression_report())
    pushed = push(tmp_path, compression=report)
    told = json.loads((tmp_path / "pushed" / releases.RELEASE_FILE).read_text())["compression"]
    assert pushed.get_int_custom_property("pushed") == 1
    assert (told["chosen"], told["steps"]) == ("student", {"wordpieces": {"before": 30_522, "after": 7_210}})
    assert (told["teacher"]["accuracy"], told["student"]["accuracy"]) == (0.85, 0.84)
    assert told["teacher"]["bytes"] == 90_000_000


@pytest.mark.parametrize(
    ("model_blessed", "infra_blessed", "summary"),
    [(0, 0, "not pushed: gates blocked"), (1, 0, "not pushed: canary failed")],
)
def test_blocked_model_leaves_the_folder_alone(tmp_path, model_blessed, infra_blessed, summary):
    pushed = push(tmp_path, model_blessed, infra_blessed)
    assert pushed.get_string_custom_property("summary") == summary
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("pushed_version") == ""
    assert not (tmp_path / "serving").exists()


def test_blessed_model_is_pushed_once(tmp_path):
    pushed = push(tmp_path, 1, 1)
    (release,) = releases.read(tmp_path / "serving")
    assert pushed.get_string_custom_property("summary") == release.path
    assert pushed.get_string_custom_property("pushed_version") == str(release.version)
    assert release.parent == 7
    assert (release.metrics["accuracy"], release.metrics["rows"]) == (0.75, 4)
    assert all(isinstance(value, int | float) for value in release.metrics.values())
    record = json.loads((tmp_path / "pushed" / "release.json").read_text())
    assert (record["git_commit"], record["weights"]) == ("c0ffee", str(tmp_path / "weights"))
    again = push(tmp_path, 1, 1)
    assert again.get_string_custom_property("summary") == f"already serving {release.version}"
    assert again.get_string_custom_property("pushed_version") == str(release.version)


def test_folder_that_cannot_be_written_stops_the_line(tmp_path):
    (tmp_path / "serving").write_text("a file")
    with pytest.raises(UserError, match=r"serving: writing failed"):
        push(tmp_path, 1, 1)


def test_model_that_was_rolled_back_is_refused_in_words(tmp_path):
    push(tmp_path)
    (tmp_path / "model" / "Format-Serving" / "saved_model.pb").write_bytes(b"worse graph")
    push(tmp_path, inputs="b")
    good, bad = releases.read(tmp_path / "serving")
    rollback.roll_back(tmp_path / "serving", reason="angry customers")
    pushed = push(tmp_path, inputs="b")
    summary = pushed.get_string_custom_property("summary")
    assert summary.startswith("not pushed: this model was rolled back on ")
    assert f"(angry customers): it is version {bad.version}" in summary
    assert summary.endswith(pushed.get_string_custom_property("refused"))
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("pushed_version") == ""
    assert releases.versions(tmp_path / "serving") == [good.version]


TEXTS = ("good", "a good film", "a dull film that lasts", "so good that I saw it twice 😀", "bad")


def write_predictions(tmp_path, texts=TEXTS):
    (tmp_path / "evaluation").mkdir()
    table = pa.table({"text": list(texts), "text_pair": [""] * len(texts), "row_id": list(map(str, range(len(texts))))})
    pq.write_table(table, tmp_path / "evaluation" / "predictions-test.parquet")


def warmup_requests(release):
    file = f"{release.path}/assets.extra/tf_serving_warmup_requests"
    records = [PredictionLog.FromString(record) for record in tf.data.TFRecordDataset(file).as_numpy_iterator()]
    return [record.predict_log.request for record in records]


def test_warmup_requests_span_lengths_and_batch_sizes(tmp_path):
    save_mood_model(tmp_path / "model" / "Format-Serving")
    write_predictions(tmp_path)
    push(tmp_path, warmup_rows=5)
    (release,) = releases.read(tmp_path / "serving")
    requests = warmup_requests(release)
    asked = [list(request.inputs["text"].string_val) for request in requests if "text" in request.inputs]
    ordered = [text.encode() for text in sorted(TEXTS, key=len)]
    assert asked == [[ordered[2]], *([text] for text in ordered), ordered[:4], ordered[4:], ordered]
    assert {request.model_spec.signature_name for request in requests} == {"text", "serving_default"}
    example = tf.train.Example.FromString(requests[-1].inputs["examples"].string_val[0])
    assert example.features.feature["text"].bytes_list.value == [b"bad"]
    assert {request.model_spec.name for request in requests} == {""}


def test_server_can_replay_what_was_written(tmp_path):
    save_mood_model(tmp_path / "model" / "Format-Serving")
    write_predictions(tmp_path)
    push(tmp_path, warmup_rows=5)
    (release,) = releases.read(tmp_path / "serving")
    warm_up(Servable(tmp_path / "serving" / str(release.version), "mood", release.version))


def test_text_pairs_are_warmed_up_as_pairs(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "text_pair")])
    def both(text, text_pair):
        return {"label": text + text_pair}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def examples(examples):
        return {"label": examples}

    signatures = {"text": both, "serving_default": examples}
    tf.saved_model.save(tf.Module(), str(tmp_path / "model" / "Format-Serving"), signatures=signatures)
    (tmp_path / "evaluation").mkdir()
    table = pa.table({"text": ["a", "b"], "text_pair": ["long", "c"]})
    pq.write_table(table, tmp_path / "evaluation" / "predictions-test.parquet")
    push(tmp_path, warmup_rows=2)
    middle, first, second, *_ = warmup_requests(*releases.read(tmp_path / "serving"))
    assert middle.inputs["text_pair"].string_val == [b"long"]  # the first of all decides how weights are laid out
    assert first.inputs["text_pair"].string_val == [b"c"]
    assert second.inputs["text_pair"].string_val == [b"long"]


def test_no_row_stands_in_the_folder_where_warm_up_is_off_nor_ever_in_the_model(tmp_path):
    model = save_mood_model(tmp_path / "model" / "Format-Serving")
    write_predictions(tmp_path)
    push(tmp_path, inputs="off", warmup_rows=0)
    push(tmp_path, inputs="on", warmup_rows=5)
    off, on = releases.read(tmp_path / "serving")
    assert "assets.extra/tf_serving_warmup_requests" not in storage.files(off.path)
    assert "assets.extra/tf_serving_warmup_requests" in storage.files(on.path)
    assert not (model / "assets.extra").exists()
    assert off.digest == on.digest


@pytest.mark.parametrize(("rows", "taken"), [(1, [0]), (2, [0, 99]), (5, [0, 24, 49, 74, 99]), (256, [*range(100)])])
def test_rows_are_taken_in_even_steps_of_length(tmp_path, rows, taken):
    write_predictions(tmp_path, ["x" * length for length in range(100)])
    chosen = warmup.choose(str(tmp_path / "evaluation" / "predictions-test.parquet"), rows)
    assert [len(row["text"]) for row in chosen] == taken


def test_most_rows_allowed_stay_below_tf_servings_limit(tmp_path):
    most = next(limit.le for limit in ServeOptions.model_fields["warmup_rows"].metadata if hasattr(limit, "le"))
    save_mood_model(tmp_path / "model")
    write_predictions(tmp_path, ["x" * length for length in range(most)])
    predictions = str(tmp_path / "evaluation" / "predictions-test.parquet")
    warmup.write(str(tmp_path / "requests"), str(tmp_path / "model"), predictions, most)
    assert most < sum(1 for _ in tf.data.TFRecordDataset(str(tmp_path / "requests"))) <= 1000


def test_onnx_goes_with_its_version(tmp_path):
    (tmp_path / "model/onnx").mkdir()
    (tmp_path / "model/onnx/model.onnx").write_bytes(b"onnx")
    push(tmp_path, 1, 1)
    (release,) = releases.read(tmp_path / "serving")
    assert (Path(release.path) / "onnx/model.onnx").read_bytes() == b"onnx"
    assert release.record["onnx"] == {"bytes": 4, "digest": digest_of(tmp_path / "model/onnx")}
    assert release.digest == digest_of(tmp_path / "model/Format-Serving")
    last_blessed.copy_saved_model(release.path, str(tmp_path / "copy"))
    assert storage.files(tmp_path / "copy") == ["saved_model.pb"]
    (tmp_path / "model/onnx/link").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="onnx/link: a link"):
        push(tmp_path, 1, 1, inputs="b")
    assert len(releases.read(tmp_path / "serving")) == 1
