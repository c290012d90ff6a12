"""Pusher: puts a model that passed its gates and the canary into the serving folder, whole or not at all."""

import json
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifacts import METRICS_FILE
from components.errors import LineError
from serving import push, releases


@component
def Pusher(
    model: InputArtifact[standard_artifacts.Model],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
    serving_folder: Parameter[str],
    release: Parameter[str],
    vanished: Parameter[int],
    keep_versions: Parameter[int],
) -> None:
    """Pushes the exported model as a new version, if both blessings are positive.

    Args:
        model: the exported model.
        model_blessing: the gates' verdict.
        infra_blessing: the canary's verdict.
        evaluation: its metrics.json goes into release.json.
        pushed_model: int property `pushed`; string properties `pushed_version` and `pushed_destination`, and a copy of
            release.json in its folder.
        serving_folder: local, or remote (gs://).
        release: JSON for release.json: `inputs` (the run's fingerprint), `parent`, hashes, libraries, commit.
        vanished: how many recorded pushes are gone from the folder. Unused here: a new loss changes the cache's key, so
            that the model is pushed again.
        keep_versions: older releases beyond so many are removed; 0 keeps all.

    Raises:
        LineError: the folder cannot be written, or another push holds it.
    """
    del vanished
    pushed_model.set_int_custom_property("pushed", 0)
    pushed_model.set_string_custom_property("pushed_version", "")
    if model_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: gates blocked")
        return
    if infra_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: canary failed")
        return
    source = path_utils.serving_model_path(model.uri)
    record = {**json.loads(release), "metrics": _headline(f"{evaluation.uri}/{METRICS_FILE}")}
    try:
        pushed, new = push.publish(source, serving_folder, record, keep_versions=keep_versions)
    except ValueError as error:
        raise LineError(str(error)) from error
    with releases.open_file(f"{pushed_model.uri}/{releases.RELEASE_FILE}", "w") as file:
        json.dump(pushed.record, file, indent=2, sort_keys=True)
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(pushed.version))
    pushed_model.set_string_custom_property("pushed_destination", pushed.path)
    pushed_model.set_string_custom_property("summary", pushed.path if new else f"already serving {pushed.version}")


def _headline(metrics_file: str) -> dict[str, Any]:
    """The overall figures of metrics.json, without tables."""
    with releases.open_file(metrics_file, "r") as file:
        metrics = json.load(file)
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
