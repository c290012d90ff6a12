"""What the review page is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bertline.components.answers import Answers
from bertline.components.compression_report import CompressionReport
from bertline.components.evaluation import Metrics
from bertline.components.export_record import ExportRecord


@dataclass(frozen=True)
class Evidence:
    """What the stages of a run left behind for a person to judge its model.

    Attributes:
        metrics: the Evaluator's.
        answers: the test rows with the model's answers.
        verdicts: as gates.Verdict.as_dict gives them.
        training: the Trainer's training.json.
        export: the Exporter's export.json.
        ingest: ExampleGen's ingest.json.
        texts: DataGate's text_statistics.json.
        anomalies: TFDV's, each `split`, `column`, `severity`, `description`.
        attributions: the Explainer's, of the answers that are shown with their words: by row_id.
        canary: its report.json, with `blessed` and `summary`.
        push: `version` ("" if not pushed) and `summary`.
        card: the model card, Markdown.
        release: the run's facts: name, hashes, commit, libraries, parent.
        labels: LabelQuality's label_quality.json, with the rows of its two CSV files in `issue_rows` and `pair_rows`.
        history: earlier runs, the oldest first: `run`, `outcome`, `version`, `rows`, `accuracy`, `macro_f1`,
            `intervals`.
        compression: the trade of student and teacher; None where nothing was compressed.
    """

    metrics: Metrics
    answers: Answers
    verdicts: list[dict[str, Any]]
    training: dict[str, Any]
    export: ExportRecord
    ingest: dict[str, Any]
    texts: dict[str, Any]
    anomalies: list[dict[str, str]]
    attributions: dict[str, dict[str, Any]]
    canary: dict[str, Any]
    push: dict[str, str]
    card: str
    release: dict[str, Any]
    labels: dict[str, Any]
    history: list[dict[str, Any]]
    compression: CompressionReport | None = None
