"""Review: one self-contained HTML page per run, made from the files of the other stages; no model is run."""

import datetime
import json
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import compression_report, export_record, spreadsheet
from bertline.components.answers import read_answers
from bertline.components.artifacts import (
    ATTRIBUTIONS_FILE,
    ISSUES_FILE,
    LABEL_SUMMARY_FILE,
    NEAR_DUPLICATES_FILE,
    REVIEW_FILE,
    Attributions,
    CompressionReport,
    DataReport,
    LabelReport,
    ModelCard,
    Quarantine,
    ReviewPage,
)
from bertline.components.canary import CANARY_FILE
from bertline.components.evaluation import read_metrics
from bertline.components.ingestion import INGEST_FILE
from bertline.components.review_page import page
from bertline.components.review_page.evidence import Evidence
from bertline.components.training_record import read_history
from bertline.components.validation import ANOMALIES_FILE, STATISTICS_FILE
from bertline.serving.releases import CARD_FILE


@component
def Review(
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    canary: InputArtifact[standard_artifacts.InfraBlessing],
    pushed_model: InputArtifact[standard_artifacts.PushedModel],
    model_card: InputArtifact[ModelCard],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    model: InputArtifact[standard_artifacts.Model],
    label_report: InputArtifact[LabelReport],
    quarantine: InputArtifact[Quarantine],
    data_report: InputArtifact[DataReport],
    anomalies: InputArtifact[standard_artifacts.ExampleAnomalies],
    attributions: InputArtifact[Attributions],
    review: OutputArtifact[ReviewPage],
    release: Parameter[str],
    history: Parameter[str],
    compression: InputArtifact[CompressionReport] = None,
) -> None:
    """Writes the review page, whether the model was pushed or blocked.

    Args:
        evaluation: metrics.json and predictions-test.parquet.
        blessing: the gates' verdicts.
        canary: its verdict and figures.
        pushed_model: the pushed version, or why there is none.
        model_card: the card that a pushed version has in its folder.
        model_run: the training's history.
        model: the exported model's export.json.
        label_report: probable label errors and near-duplicates.
        quarantine: ingestion's counts.
        data_report: statistics of the texts.
        anomalies: ExampleValidator's.
        attributions: the Explainer's.
        review: review.html.
        release: JSON of the run's facts, as the Pusher gets them.
        history: earlier runs as a JSON list, the oldest first (see Evidence).
        compression: the trade of student and teacher; None where nothing was compressed.
    """
    metrics = read_metrics(evaluation.uri)
    evidence = Evidence(
        metrics=metrics,
        answers=read_answers(evaluation.uri, metrics.classes),
        verdicts=json.loads(blessing.get_string_custom_property("verdicts")),
        training=read_history(model_run.uri),
        export=export_record.read(model.uri),
        ingest=_read(f"{quarantine.uri}/{INGEST_FILE}"),
        texts=_read(f"{data_report.uri}/{STATISTICS_FILE}"),
        anomalies=read_anomalies(anomalies),
        attributions=_read(f"{attributions.uri}/{ATTRIBUTIONS_FILE}")["rows"],
        canary={
            **(_read(report) if fileio.exists(report := f"{canary.uri}/{CANARY_FILE}") else {}),
            "blessed": canary.get_int_custom_property("blessed"),
            "summary": canary.get_string_custom_property("summary"),
        },
        push={
            "version": pushed_model.get_string_custom_property("pushed_version"),
            "summary": pushed_model.get_string_custom_property("summary"),
        },
        card=_text(f"{model_card.uri}/{CARD_FILE}"),
        release=json.loads(release),
        history=json.loads(history),
        labels={
            **_read(f"{label_report.uri}/{LABEL_SUMMARY_FILE}"),
            "issue_rows": spreadsheet.read(f"{label_report.uri}/{ISSUES_FILE}"),
            "pair_rows": spreadsheet.read(f"{label_report.uri}/{NEAR_DUPLICATES_FILE}"),
        },
        compression=compression_report.read(compression.uri) if compression else None,
    )
    made_at = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="minutes")
    with fileio.open(f"{review.uri}/{REVIEW_FILE}", "w") as file:
        file.write(page.render(evidence, made_at))
    review.set_string_custom_property("summary", f"{len(evidence.verdicts)} verdicts, {metrics.rows:,} test rows")


def read_anomalies(anomalies: standard_artifacts.ExampleAnomalies) -> list[dict[str, str]]:
    """TFDV's anomalies of all splits, each `split`, `column`, `severity` and `description`."""
    shown = []
    for split in artifact_utils.decode_split_names(anomalies.split_names):
        message = anomalies_pb2.Anomalies()
        with fileio.open(f"{anomalies.uri}/Split-{split}/{ANOMALIES_FILE}", "rb") as stream:
            message.ParseFromString(stream.read())
        for name, info in [*sorted(message.anomaly_info.items()), ("the whole split", message.dataset_anomaly_info)]:
            if info.short_description or info.description:
                severity = anomalies_pb2.AnomalyInfo.Severity.Name(info.severity).lower()
                description = f"{info.short_description}: {info.description}"
                shown.append({"split": split, "column": name, "severity": severity, "description": description})
    return shown


def _read(path: str) -> Any:
    return json.loads(_text(path))


def _text(path: str) -> str:
    with fileio.open(path, "r") as file:
        return file.read()
