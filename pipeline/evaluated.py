"""What the evaluation of a past run left: its figures, its verdicts, and the answers row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertline.components.answers import Answers, read_answers
from bertline.components.evaluation import Metrics, read_metrics
from bertline.components.options import EvaluateOptions
from bertline.errors import UserError
from bertline.pipeline import lineage
from bertline.pipeline.config import Config
from bertline.pipeline.stages import Node


@dataclass(frozen=True)
class Run:
    """What a run's gates saw and said.

    Attributes:
        run_id: when it started.
        verdicts: as bertline.components.gates.Verdict.as_dict gives them.
        canary: what the canary said, "" where it passed or was not asked.
        metrics: the Evaluator's.
        answers: the test rows and what was answered to them, with the slices of `options`.
        options: the run's own, whatever the config says now.
        folder: of the evaluation, with TFMA's results.
    """

    run_id: str
    verdicts: list[dict[str, Any]]
    canary: str
    metrics: Metrics
    answers: Answers
    options: EvaluateOptions
    folder: Path


def read(task: Config, run_id: str | None) -> Run:
    """The run with this id, the newest evaluated one by default.

    Raises:
        UserError: there is none, it did not come so far, or its files are gone.
    """
    store, found = lineage.find(task, run_id, Node.EVALUATOR)
    return _run(found, store.stage(found, Node.EVALUATOR), store.stage(found, Node.CANARY))


def folders(task: Config, run_id: str) -> dict[str, Path]:
    """Evaluations up to a run's own, by the run that made each, the oldest first; those still there."""
    store, found = lineage.Store(task), {}
    known = store.run_ids()
    for each in known[: known.index(run_id) + 1]:
        evaluator = store.stage(each, Node.EVALUATOR)
        if evaluator and evaluator.outputs:
            (evaluation,) = evaluator.outputs["evaluation"]
            found.setdefault(Path(evaluation.uri), each)
    return {each: folder for folder, each in found.items() if folder.exists()}


def _run(run_id: str, evaluator: lineage.Stage, canary: lineage.Stage | None) -> Run:
    (evaluation,) = evaluator.outputs["evaluation"]
    options = EvaluateOptions.model_validate_json(evaluator.parameters["options"])
    try:
        metrics = read_metrics(evaluation.uri)
        version = metrics.last_blessed.version if metrics.last_blessed else ""
        answers = read_answers(evaluation.uri, metrics.classes, version).sliced(options)
    except FileNotFoundError as error:
        raise UserError(f"run {run_id}: {error.filename} is gone; run again.") from error
    verdicts = json.loads(evaluator.text("verdicts"))
    if any("kind" not in verdict for verdict in verdicts):
        raise UserError(f"run {run_id} is of an older bertline, whose gates left no figures to explain; run again.")
    return Run(
        run_id=run_id,
        verdicts=verdicts,
        canary=_refusal(canary) if all(verdict["passed"] for verdict in verdicts) else "",
        metrics=metrics,
        answers=answers,
        options=options,
        folder=Path(evaluation.uri),
    )


def _refusal(canary: lineage.Stage | None) -> str:
    """What the canary said where it was asked and did not bless the model."""
    artifacts = canary.outputs.get("canary", []) if canary else []
    return canary.summary if any(not each.custom_properties["blessed"].int_value for each in artifacts) else ""
