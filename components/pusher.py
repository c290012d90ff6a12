"""Pusher: puts a model that passed its gates and the canary into the serving folder, whole or not at all."""

import json
import tempfile

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from bertline.components import compression_report, export_record, pretrained, warmup
from bertline.components.answers import PREDICTIONS_FILE
from bertline.components.artifacts import Backbone, CompressionReport, ModelCard, Weights
from bertline.components.evaluation import read_metrics
from bertline.components.object_store import ADDRESS
from bertline.serving import push, releases, storage


@component
def Pusher(
    model: InputArtifact[standard_artifacts.Model],
    weights: InputArtifact[Weights],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    model_card: InputArtifact[ModelCard],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
    serving_folder: Parameter[str],
    release: Parameter[str],
    vanished: Parameter[int],
    withdrawn: Parameter[str],
    keep_versions: Parameter[int],
    warmup_rows: Parameter[int],
    compression: InputArtifact[CompressionReport] = None,
    backbone: InputArtifact[Backbone] = None,
) -> None:
    """Pushes the exported model as a new version, if both blessings are positive.

    Args:
        model: the exported model, and what lies in its folder onnx/.
        weights: the trained weights, of a student its teacher's. Their address goes into release.json, for warm starts.
        model_blessing: the gates' verdict.
        infra_blessing: the canary's verdict.
        evaluation: figures of its metrics.json go into release.json, rows of its predictions become warm-up requests.
        model_card: goes into the version's folder.
        pushed_model: int property `pushed`; string properties `pushed_version` and `pushed_destination`, and a copy of
            release.json in its folder. `refused` says why a blessed model was not pushed.
        serving_folder: local, or remote (gs://).
        release: JSON for release.json: `inputs` (the run's fingerprint), `parent`, hashes, libraries, commit.
        vanished: how many recorded pushes are gone from the folder. Unused here: a new loss changes the cache's key, so
            that the model is pushed again.
        withdrawn: the versions that were rolled back. Unused here: a rollback changes the cache's key, so that a run
            with nothing else changed says what became of its model.
        keep_versions: the newest releases that are kept; older ones are removed. 0 keeps all.
        warmup_rows: rows for the version's warm-up requests; 0 writes none.
        compression: the trade of student and teacher, which release.json tells of; None where nothing was compressed.
        backbone: the Pretrainer's weights, whose figures go into release.json; None where there are none.

    Raises:
        UserError: the folder cannot be written, or another push holds it.
    """
    del vanished, withdrawn
    pushed_model.set_int_custom_property("pushed", 0)
    pushed_model.set_string_custom_property("pushed_version", "")
    if model_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: gates blocked")
        return
    if infra_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: canary failed")
        return
    source = path_utils.serving_model_path(model.uri)
    metrics = read_metrics(evaluation.uri)
    address = weights.get_string_custom_property(ADDRESS) or weights.uri
    record = {**json.loads(release), "metrics": metrics.headline(), "weights": address}
    if compression:
        record["compression"] = compression_report.read(compression.uri).of_release()
    if metrics.multi_label:
        record["thresholds"] = metrics.multi_label.thresholds
    if backbone:
        record["pretraining"] = pretrained.headline(backbone.uri)
    onnx = f"{model.uri}/{export_record.ONNX_FOLDER}"
    beside = {releases.ONNX_FOLDER: onnx} if storage.files(onnx) else {}
    if beside:
        record["onnx"] = {"digest": push.digest_of(onnx), "bytes": storage.size(onnx)}
    try:
        with tempfile.TemporaryDirectory(prefix="bertline-push-") as scratch:
            extra = {releases.CARD_FILE: f"{model_card.uri}/{releases.CARD_FILE}"}
            if warmup_rows:
                extra[releases.WARMUP_FILE] = f"{scratch}/requests"
                warmup.write(f"{scratch}/requests", source, f"{evaluation.uri}/{PREDICTIONS_FILE}", warmup_rows)
            pushed, new = push.publish(
                source, serving_folder, record, extra=extra, beside=beside, keep_versions=keep_versions
            )
    except push.RolledBack as error:
        pushed_model.set_string_custom_property("refused", str(error))
        pushed_model.set_string_custom_property("summary", f"not pushed: {error}")
        return
    with storage.open_file(f"{pushed_model.uri}/{releases.RELEASE_FILE}", "w") as file:
        json.dump(pushed.record, file, indent=2, sort_keys=True)
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(pushed.version))
    pushed_model.set_string_custom_property("pushed_destination", pushed.path)
    pushed_model.set_string_custom_property("summary", pushed.path if new else f"already serving {pushed.version}")
