"""Track: tells an experiment tracker about a run, from the files that the other stages left.

It is a stage of its own, the last one, and no call within training. So a cached run is not written down twice, and a
tracker whose server does not answer costs no training.
"""

import hashlib
import json
import logging
import math
import tempfile
from typing import Any

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts

from bertline.components import trackers
from bertline.components.artifacts import REVIEW_FILE, ReviewPage, TrackingRecord
from bertline.components.canary import CANARY_FILE
from bertline.components.evaluation import Metrics, read_metrics
from bertline.components.options import TrackingOptions
from bertline.components.training_record import read_history
from bertline.components.tuning import trials
from bertline.serving.errors import frames

VALUE_CHARACTERS = 500  # of a parameter: MLflow 1 takes no more
FACTS = ("inputs", "config_hash", "data_hash", "code_hash", "git_commit", "parent")
log = logging.getLogger("bertline.tracking")


@component
def Track(
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    canary: InputArtifact[standard_artifacts.InfraBlessing],
    pushed_model: InputArtifact[standard_artifacts.PushedModel],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    review: InputArtifact[ReviewPage],
    record: OutputArtifact[TrackingRecord],
    options: Parameter[str],
    data: Parameter[str],
    model: Parameter[str],
    train: Parameter[str],
    export: Parameter[str],
    evaluate: Parameter[str],
    folder: Parameter[str],
    release: Parameter[str],
    untracked: Parameter[int] = 0,
) -> None:
    """Tells the tracker. If that fails, the run goes on and the next run tries again.

    Args:
        evaluation: metrics.json.
        blessing: the gates' verdicts.
        canary: its latencies.
        pushed_model: the pushed version.
        model_run: the training's history.
        review: the page; it is sent if the options say so.
        record: int property `tracked`, 0 if the tracker could not be told; `summary` says where the run is, or why not.
        options: a TrackingOptions as JSON.
        data: DataOptions as JSON. This and the next four are the parameters that the tracker gets.
        model: ModelOptions as JSON.
        train: TrainOptions as JSON.
        export: ExportOptions as JSON.
        evaluate: EvaluateOptions as JSON.
        folder: the task's root, "" for none.
        release: JSON of the run's facts, as the Pusher gets them.
        untracked: how many earlier attempts failed. Unused here: it changes the cache's key, so that a failed attempt
            is not the last one.
    """
    del untracked
    tracking = TrackingOptions.model_validate_json(options)
    facts, metrics = json.loads(release), read_metrics(evaluation.uri)
    sections = {"data": data, "model": model, "train": train, "export": export, "evaluate": evaluate}
    parameters = {name: json.loads(section) for name, section in sections.items()} | trials.trained_sections(model_run)
    version = pushed_model.get_string_custom_property("pushed_version")
    report = f"{canary.uri}/{CANARY_FILE}"
    with tempfile.TemporaryDirectory(prefix="bertline-track-") as scratch:
        page = f"{scratch}/{REVIEW_FILE}"
        if tracking.review_page:
            fileio.copy(f"{review.uri}/{REVIEW_FILE}", page)
        run = trackers.TrackedRun(
            id=run_id(metrics),
            project=tracking.project or facts["name"],
            parameters=flat(parameters),
            epochs=curves(read_history(model_run.uri)),
            figures=figures(metrics, _read(report) if fileio.exists(report) else {}),
            gates=gates_in_words(json.loads(blessing.get_string_custom_property("verdicts"))),
            facts={
                "outcome": "pushed" if version else "blocked",
                "version": version,
                **{name: str(facts.get(name) or "") for name in FACTS},
            },
            page=page if tracking.review_page else "",
        )
        tracked, summary = _told(run, tracking, folder)
    record.set_int_custom_property("tracked", int(tracked))
    record.set_string_custom_property("summary", summary)


def _told(run: trackers.TrackedRun, options: TrackingOptions, folder: str) -> tuple[bool, str]:
    try:
        trackers.check(options)
        return True, f"{options.tool}: {trackers.write(run, options, folder)}"
    except Exception as error:  # each tracker has its own kinds, and none of them is worth a finished training
        log.warning("tracking failed: %s", trackers.without_secrets(frames(error)))
        lines = trackers.without_secrets(str(error)).strip().splitlines() or [type(error).__name__]
        return False, f"NOT tracked by {options.tool}: {lines[0]}. The same command tries again; the rest is cached."


def run_id(metrics: Metrics) -> str:
    """A name for an evaluation, 12 hex digits of its figures; the seconds that it took tell two of one model apart."""
    return hashlib.sha256(metrics.model_dump_json().encode()).hexdigest()[:12]


def flat(sections: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested values by dotted key. Values that are no scalars become JSON; texts are cut to VALUE_CHARACTERS."""
    values: dict[str, bool | int | float | str] = {}
    for name, value in sections.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            values[f"{prefix}{name}"] = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            values[f"{prefix}{name}"] = text[:VALUE_CHARACTERS]
    return values


def curves(history: dict[str, Any]) -> list[dict[str, float]]:
    """`train_loss`, `validation_loss` and `validation_accuracy` of each epoch in training.json."""
    return [{name: value for name, value in epoch.items() if name != "epoch"} for epoch in history["epochs"]]


def figures(metrics: Metrics, canary: dict[str, Any]) -> dict[str, float]:
    """The final figures: those of all test rows, the ends of their 95% intervals, the canary's latencies."""
    told = metrics.headline()
    for name, (low, high) in metrics.intervals.by_figure().items():
        told |= {f"{name}_low": low, f"{name}_high": high}
    told |= {name: canary[name] for name in ("p50_ms", "p99_ms") if name in canary}
    return {name: float(value) for name, value in told.items() if math.isfinite(value)}


def gates_in_words(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """Gate -> "passed: 0.790", or why it blocked."""
    return {
        verdict["gate"]: f"passed: {verdict['value']}" if verdict["passed"] else f"blocked: {verdict['reason']}"
        for verdict in verdicts
    }


def _read(path: str) -> Any:
    with fileio.open(path, "r") as file:
        return json.loads(file.read())
