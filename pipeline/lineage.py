"""Past runs, read from the metadata store: verdicts, and where each model came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ml_metadata.metadata_store.metadata_store import ListOptions, OrderByField
from ml_metadata.proto import metadata_store_pb2 as mlmd

from bertline.components.evaluation import read_metrics
from bertline.errors import UserError
from bertline.pipeline import damage, metadata_store, run_ids
from bertline.pipeline.stages import Node
from bertline.serving.storage import is_remote

if TYPE_CHECKING:
    from bertline.pipeline.config import Config

HISTORY_RUNS = 30  # on the review page: on a phone nobody could tell more of them apart
RUN_TYPE = "pipeline_run"
PORTION = 500  # rows in the first portion; a run makes some thirty artifacts
_TUNING = "tuning"  # a property of such runs
_DONE = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)
_STATES = {mlmd.Execution.COMPLETE: "complete", mlmd.Execution.CACHED: "cached", mlmd.Execution.FAILED: "failed"}
_OUTPUT_EVENTS = (mlmd.Event.OUTPUT, mlmd.Event.DECLARED_OUTPUT)


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
        UserError: its database cannot be used, or knows less than lies below the task's root.
    """

    def __init__(self, config: Config):
        self._store = metadata_store.connect(config.metadata_location)
        if not (config.root and is_remote(config.root)):
            newest = next(_newest_first(self._store.get_executions), None)
            damage.check_knows_results(config.root_folder, config.metadata, newest.id if newest else 0)
        self._names: dict[int, str] = {}  # of execution types, by their ids

    # === Runs ===

    def run_ids(self) -> list[str]:
        """Ids of all runs, oldest first."""
        if self._run_type() is None:
            return []
        runs = self._store.get_contexts_by_type(RUN_TYPE)
        return [run.name for run in sorted(runs, key=lambda run: run.id)]

    def newest_runs(self) -> Iterator[str]:
        """Ids of the runs, newest first; reads no more of them than the caller takes, but for one portion."""
        run_type = self._run_type()
        for context in _newest_first(self._store.get_contexts):
            if context.type_id == run_type:
                yield context.name

    def has_run(self, run_id: str) -> bool:
        """Whether there is a run of this id."""
        return self._run(run_id) is not None

    def run_of(self, execution_id: int) -> str:
        """The id of the run that an execution belongs to."""
        run_type = self._run_type()
        contexts = self._store.get_contexts_by_execution(execution_id)
        return next(context.name for context in contexts if context.type_id == run_type)

    def note_tuning(self, run_id: str) -> None:
        """Notes that a run only prepared the rows for `bertline tune`."""
        run = self._run(run_id)
        run.custom_properties[_TUNING].int_value = 1
        self._store.put_contexts([run])

    def is_tuning(self, run_id: str) -> bool:
        """Whether a run only prepared the rows for `bertline tune`."""
        return _TUNING in self._run(run_id).custom_properties

    def _run_type(self) -> int | None:
        return next((kind.id for kind in self._store.get_context_types() if kind.name == RUN_TYPE), None)

    def _run(self, run_id: str) -> mlmd.Context | None:
        return self._store.get_context_by_type_and_name(RUN_TYPE, run_id)

    # === Stages ===

    def stages(self, run_id: str) -> list[Stage]:
        """The stages of a run, in the order they started."""
        return self._read(self._executions(run_id))

    def stage(self, run_id: str, name: str) -> Stage | None:
        """The latest execution of a stage in a run."""
        executions = [execution for execution in self._executions(run_id) if self._name(execution) == name]
        return self._read(executions[-1:])[0] if executions else None

    def _executions(self, run_id: str) -> list[mlmd.Execution]:
        run = self._run(run_id)
        executions = self._store.get_executions_by_context(run.id) if run else []
        return sorted(executions, key=lambda execution: execution.id)

    def _name(self, execution: mlmd.Execution) -> str:
        if execution.type_id not in self._names:
            kinds = self._store.get_execution_types()
            self._names = {kind.id: kind.name.rsplit(".", 1)[-1] for kind in kinds}
        return self._names[execution.type_id]

    def _read(self, executions: list[mlmd.Execution]) -> list[Stage]:
        outputs = self._outputs([execution.id for execution in executions if execution.last_known_state in _DONE])
        return [
            Stage(
                name=self._name(execution),
                state=_STATES.get(execution.last_known_state, "running"),
                outputs=outputs.get(execution.id, {}),
                parameters={
                    name: getattr(value, value.WhichOneof("value"))
                    for name, value in execution.custom_properties.items()
                    if value.WhichOneof("value")
                },
            )
            for execution in executions
        ]

    def _outputs(self, execution_ids: list[int]) -> dict[int, dict[str, list[mlmd.Artifact]]]:
        """The artifacts of executions: execution id -> output key -> artifacts."""
        if not execution_ids:
            return {}
        events = self._store.get_events_by_execution_ids(execution_ids)
        events = [event for event in events if event.type in _OUTPUT_EVENTS]
        ids = {event.artifact_id for event in events}
        artifacts = {artifact.id: artifact for artifact in self._store.get_artifacts_by_id(ids)}
        outputs: dict[int, dict[str, list[mlmd.Artifact]]] = {}
        for event in events:
            by_key = outputs.setdefault(event.execution_id, {})
            by_key.setdefault(event.path.steps[0].key, []).append(artifacts[event.artifact_id])
        return outputs

    # === Artifacts ===

    def artifacts(self, type_name: str) -> list[mlmd.Artifact]:
        """All artifacts of a type."""
        if self._artifact_type(type_name) is None:
            return []
        return self._store.get_artifacts_by_type(type_name)

    def newest_artifacts(self, type_name: str) -> Iterator[mlmd.Artifact]:
        """The artifacts of a type, newest first; reads no more of them than the caller takes, but for one portion."""
        wanted = self._artifact_type(type_name)
        for artifact in _newest_first(self._store.get_artifacts):
            if artifact.type_id == wanted:
                yield artifact

    def last_artifacts(self, number: int) -> list[mlmd.Artifact]:
        """The artifacts that were made last, newest first."""
        return list(islice(_newest_first(self._store.get_artifacts), number))

    def note_size(self, artifact: mlmd.Artifact, size: int) -> None:
        """Keeps the bytes of an artifact with it, for `damage.check_size`."""
        artifact.custom_properties[damage.SIZE].int_value = size
        self._store.put_artifacts([artifact])

    def executions_with_output(self, artifact: mlmd.Artifact) -> list[int]:
        """Ids of the executions that made an artifact or found it in the cache, oldest first."""
        events = self._store.get_events_by_artifact_ids([artifact.id])
        return sorted({event.execution_id for event in events if event.type in _OUTPUT_EVENTS})

    def _artifact_type(self, name: str) -> int | None:
        return next((kind.id for kind in self._store.get_artifact_types() if kind.name == name), None)


Row = TypeVar("Row")


def _newest_first(read: Callable[[ListOptions], list[Row]]) -> Iterator[Row]:
    """The rows of a table from the newest on, in portions; ML Metadata's client has no offset, so portions grow."""
    taken, limit = 0, PORTION
    while True:
        rows = read(ListOptions(limit=limit, order_by=OrderByField.ID, is_asc=False))
        yield from rows[taken:]
        if len(rows) < limit:
            return
        taken, limit = limit, 2 * limit


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
    if run_id is None:
        candidates = store.newest_runs()
    else:
        run_id = run_ids.of_spelling(run_id)
        candidates = iter([run_id])
        if not store.has_run(run_id):
            raise UserError(f"{run_id} is no run under {config.root_folder}; `bertline runs CONFIG` lists them.")
    for candidate in candidates:
        stage = store.stage(candidate, name)
        if stage and stage.outputs:
            return store, candidate
    raise UserError(f"run {run_id} ended before its {name}." if run_id else f"no run has completed its {name} yet.")


@dataclass(frozen=True)
class RunRecord:
    """A past run in one line: how it ended and where its model came from.

    Attributes:
        run_id: its id, the time when it started.
        outcome: "pushed", "unchanged", "blocked", "failed", "interrupted", or "tuned" where it was `bertline tune`'s.
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
    if store.is_tuning(run_id):
        outcome, reason = "tuned", ""
    elif not pusher:
        outcome = "failed" if failing and failing.state == "failed" else "interrupted"
        reason = f"in {failing.name}" if failing else ""
    elif version:
        # What comes after the push only reports on it.
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

    Runs of the same inputs have the same figures and are left out. So a repeated run finds the same history, and
    its review in the cache. How much is read does not grow with the number of runs.

    Args:
        store: the task's.
        inputs: hash of this run's config, data and code, as the push stage's `release` has it.

    Returns:
        Each `run`, `outcome`, `version`, `rows`, `accuracy`, `macro_f1` and `intervals`.
    """
    evaluations = store.newest_artifacts("ModelEvaluation")
    figures = (shown for evaluation in evaluations if (shown := _figures(store, evaluation, inputs)))
    return list(islice(figures, HISTORY_RUNS))[::-1]


def _figures(store: Store, evaluation: mlmd.Artifact, inputs: str) -> dict[str, Any] | None:
    """An evaluation's figures, with the run that made it and what last became of it.

    Returns:
        None if it is of the same inputs, is gone, or was written by another version of bertline, whose figures may mean
        something else.
    """
    try:
        metrics = read_metrics(evaluation.uri)
    except (FileNotFoundError, UserError):
        return None
    executions = store.executions_with_output(evaluation)
    first = _first_push(store, executions)
    if first is None or first.inputs == inputs:
        return None
    last = _first_push(store, executions[::-1], but=inputs)
    return {
        "run": first.run_id,
        "outcome": "pushed" if last.version else "blocked",
        "version": last.version,
        **metrics.model_dump(include={"rows", "accuracy", "macro_f1"}),
        "intervals": metrics.intervals.by_figure(),
    }


class _Push(NamedTuple):
    """What a run's push stage came to: `version` is "" where nothing was pushed."""

    run_id: str
    inputs: str
    version: str


def _first_push(store: Store, executions: list[int], but: str | None = None) -> _Push | None:
    """The push of the first of these executions' runs that came to it and had other inputs than `but`."""
    for execution in executions:
        run_id = store.run_of(execution)
        stage = store.stage(run_id, Node.PUSHER)
        if stage and stage.outputs:
            push = _Push(run_id, json.loads(stage.parameters["release"])["inputs"], stage.text("pushed_version"))
            if push.inputs != but:
                return push
    return None
