"""Past runs, read from the metadata store: verdicts, and where each model came from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_metadata.proto import metadata_store_pb2 as mlmd

from bertline.errors import UserError
from bertline.pipeline import metadata_store
from bertline.pipeline.stages import Node

if TYPE_CHECKING:
    from bertline.pipeline.config import Config

HISTORY_RUNS = 30  # on the review page: more would not be told apart on a phone
_DONE = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)


@dataclass
class Stage:
    """One execution of a stage in a run.

    Attributes:
      name: the node's id.
      state: "complete", "cached", "failed" or "running".
      outputs: artifacts by output key.
      parameters: execution properties.
    """

    name: str
    state: str
    outputs: dict[str, list[mlmd.Artifact]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The custom property `name` of the first output that has it, "" if none has."""
        for artifacts in self.outputs.values():
            for artifact in artifacts:
                if name in artifact.custom_properties:
                    return artifact.custom_properties[name].string_value
        return ""

    @property
    def summary(self) -> str:
        """The stage's figures for the screen."""
        return self.text("summary")


class Store:
    """The metadata store of one task.

    Args:
      config: the task.

    Raises:
      UserError: its database cannot be used.
    """

    def __init__(self, config: Config):
        self._store = metadata_store.connect(config.metadata_location)

    def run_ids(self) -> list[str]:
        """Ids of all runs, oldest first."""
        if not any(kind.name == "pipeline_run" for kind in self._store.get_context_types()):
            return []
        runs = self._store.get_contexts_by_type("pipeline_run")
        return [run.name for run in sorted(runs, key=lambda run: run.id)]

    def stages(self, run_id: str) -> list[Stage]:
        """The stages of a run, in the order they started."""
        context = self._store.get_context_by_type_and_name("pipeline_run", run_id)
        executions = self._store.get_executions_by_context(context.id) if context else []
        return [self._stage(execution) for execution in sorted(executions, key=lambda execution: execution.id)]

    def stage(self, run_id: str, name: str) -> Stage | None:
        """The latest execution of a stage in a run."""
        found = [stage for stage in self.stages(run_id) if stage.name == name]
        return found[-1] if found else None

    def artifacts(self, type_name: str) -> list[mlmd.Artifact]:
        """All artifacts of a type."""
        if not any(kind.name == type_name for kind in self._store.get_artifact_types()):
            return []
        return self._store.get_artifacts_by_type(type_name)

    def _stage(self, execution: mlmd.Execution) -> Stage:
        kind = self._store.get_execution_types_by_id([execution.type_id])[0]
        states = {mlmd.Execution.COMPLETE: "complete", mlmd.Execution.CACHED: "cached", mlmd.Execution.FAILED: "failed"}
        parameters = {
            name: getattr(value, value.WhichOneof("value"))
            for name, value in execution.custom_properties.items()
            if value.WhichOneof("value")
        }
        return Stage(
            name=kind.name.rsplit(".", 1)[-1],
            state=states.get(execution.last_known_state, "running"),
            outputs=self._outputs(execution.id) if execution.last_known_state in _DONE else {},
            parameters=parameters,
        )

    def _outputs(self, execution_id: int) -> dict[str, list[mlmd.Artifact]]:
        events = [
            event
            for event in self._store.get_events_by_execution_ids([execution_id])
            if event.type in (mlmd.Event.OUTPUT, mlmd.Event.DECLARED_OUTPUT)
        ]
        found = {item.id: item for item in self._store.get_artifacts_by_id([event.artifact_id for event in events])}
        outputs: dict[str, list[mlmd.Artifact]] = {}
        for event in events:
            outputs.setdefault(event.path.steps[0].key, []).append(found[event.artifact_id])
        return outputs


def find(config: Config, run_id: str | None, name: str) -> tuple[Store, str]:
    """The store and the run with this id, by default the newest that completed a stage.

    Args:
      config: the task.
      run_id: None for the newest.
      name: of the stage, which the run must have completed.

    Raises:
      UserError: there is no such run, or it did not come so far.
    """
    if not metadata_store.exists(config.metadata_location):
        raise UserError(f"no runs yet under {config.root_folder}.")
    store = Store(config)
    known = store.run_ids()
    if run_id and run_id not in known:
        raise UserError(f"{run_id} is no run under {config.root_folder}; `bertline runs CONFIG` lists them.")
    for candidate in [run_id] if run_id else reversed(known):
        stage = store.stage(candidate, name)
        if stage and stage.outputs:
            return store, candidate
    raise UserError(f"run {run_id} ended before its {name}." if run_id else f"no run has completed its {name} yet.")


@dataclass(frozen=True)
class RunRecord:
    """A past run in a line: how it ended and where its model came from.

    Attributes:
      run_id: when it started.
      outcome: "pushed", "unchanged", "blocked", "failed" or "interrupted".
      data: fingerprint of the data, shortened.
      metrics: the evaluation's figures, "" if it did not come so far.
      version: the pushed version, "" if none.
      parent: the version it was compared with, "" if none.
      reason: what blocked or failed it.
    """

    run_id: str
    outcome: str
    data: str
    metrics: str
    version: str
    parent: str
    reason: str


def record(store: Store, run_id: str) -> RunRecord:
    """Sums a run up from its executions."""
    stages = {stage.name: stage for stage in store.stages(run_id)}
    facts = {name: stage for name, stage in stages.items() if stage.outputs}
    evaluator, pusher = facts.get(Node.EVALUATOR), facts.get(Node.PUSHER)
    failing = next((stage for stage in stages.values() if stage.state in ("failed", "running")), None)
    verdicts = json.loads(evaluator.text("verdicts") or "[]") if evaluator else []
    blocked = [verdict["reason"] for verdict in verdicts if not verdict["passed"]]
    version = pusher.text("pushed_version") if pusher else ""
    if not pusher:
        outcome = "failed" if failing and failing.state == "failed" else "interrupted"
        reason = f"in {failing.name}" if failing else ""
    elif version:
        # What comes after the push only tells of it.
        outcome = "unchanged" if pusher.state == "cached" else "pushed"
        reason = f"after the push, {failing.name} did not finish" if failing else ""
    else:
        outcome, reason = "blocked", "; ".join(blocked) or pusher.summary
    ingest, last_blessed = stages.get(Node.EXAMPLE_GEN), facts.get(Node.LAST_BLESSED)
    return RunRecord(
        run_id=run_id,
        outcome=outcome,
        data=str(ingest.parameters.get("fingerprint", ""))[:12] if ingest else "",
        metrics=evaluator.summary if evaluator else "",
        version=version,
        parent=last_blessed.text("version") if last_blessed else "",
        reason=reason,
    )


def past_figures(store: Store, inputs: str) -> list[dict[str, Any]]:
    """Figures of the last HISTORY_RUNS evaluations of other inputs than `inputs`, the oldest first.

    Runs of the same inputs are left out as they have the same figures; so a run that is repeated finds the same
    history, and its review in the cache.

    Args:
      store: the task's.
      inputs: hash of this run's config, data and code, as the push stage's `release` has it.

    Returns:
      Each `run`, `outcome`, `version`, `rows`, `accuracy`, `macro_f1` and `intervals`.
    """
    from bertline.components.evaluation import METRICS_FILE, read_metrics  # not needed for a list of runs

    found: dict[str, dict[str, Any]] = {}
    for run_id in store.run_ids():
        stages = {stage.name: stage for stage in store.stages(run_id)}
        evaluator, pusher = stages.get(Node.EVALUATOR), stages.get(Node.PUSHER)
        if not (evaluator and evaluator.outputs and pusher and pusher.outputs):
            continue
        (evaluation,) = evaluator.outputs["evaluation"]
        gone = not (Path(evaluation.uri) / METRICS_FILE).exists()
        if json.loads(pusher.parameters["release"])["inputs"] == inputs or gone:
            continue
        metrics = read_metrics(evaluation.uri)
        version = pusher.text("pushed_version")
        # A repeated run stands where its evaluation first stood, with what became of it last.
        found[evaluation.uri] = {
            "run": found.get(evaluation.uri, {}).get("run", run_id),
            "outcome": "pushed" if version else "blocked",
            "version": version,
            "rows": metrics.rows,
            "accuracy": metrics.accuracy,
            "macro_f1": metrics.macro_f1,
            "intervals": metrics.intervals.model_dump(),
        }
    return list(found.values())[-HISTORY_RUNS:]
