"""Past runs in a real metadata store, as TFX leaves them."""

import json
from pathlib import Path

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

KINDS = {str: "string_value", int: "int_value"}


class PastRuns:
    """The store below a task's root, to add runs to."""

    def __init__(self, root: Path):
        root.mkdir(parents=True, exist_ok=True)
        connection = mlmd.ConnectionConfig()
        connection.sqlite.filename_uri = str(root / "metadata.sqlite")
        connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self.store = metadata_store.MetadataStore(connection)
        self._artifact_ids = {}
        self._run_type = self.store.put_context_type(mlmd.ContextType(name="pipeline_run"))

    def add(self, run_id: str, stages: list[tuple[str, str, dict]], parameters: dict | None = None) -> None:
        """Records a run.

        Args:
            run_id: its name.
            stages: of each its node, its state ("COMPLETE", "CACHED", "FAILED", "RUNNING"), and its outputs: key ->
                (type, address, properties).
            parameters: node -> what its executor was called with.
        """
        run = mlmd.Context(type_id=self._run_type, name=run_id)
        (run.id,) = self.store.put_contexts([run])
        for node, state, outputs in stages:
            kind = self.store.put_execution_type(mlmd.ExecutionType(name=f"bertline.components.{node}"))
            execution = mlmd.Execution(type_id=kind, last_known_state=mlmd.Execution.State.Value(state))
            for name, value in (parameters or {}).get(node, {}).items():
                setattr(execution.custom_properties[name], KINDS[type(value)], value)
            pairs = [self._output(key, *output) for key, output in outputs.items()]
            _, artifact_ids, _ = self.store.put_execution(execution, pairs, [run])
            self._artifact_ids |= {artifact.uri: id for (artifact, _), id in zip(pairs, artifact_ids, strict=True)}

    def add_pushed(
        self, run_id: str, version: str, reason: str = "", inputs: str = "", folder: Path = Path("/evaluation")
    ) -> None:
        """Records a run of these inputs that came to its push: of `version`, or blocked for a `reason`.

        Runs with the same evaluation `folder` found that in the cache.
        """
        verdicts = json.dumps([{"kind": "accuracy", "passed": not reason, "reason": reason}])
        blessing = ("ModelBlessing", f"/blessing/{run_id}", {"verdicts": verdicts})
        evaluation = ("ModelEvaluation", str(folder), {"summary": "accuracy 0.900"})
        push = (
            "PushedModel",
            f"/push/{run_id}",
            {"pushed_version": version, "summary": version or "not pushed: gates blocked"},
        )
        self.add(
            run_id,
            [
                ("Evaluator", "COMPLETE", {"evaluation": evaluation, "blessing": blessing}),
                ("Pusher", "COMPLETE", {"pushed_model": push}),
            ],
            {"Pusher": {"release": json.dumps({"inputs": inputs})}},
        )

    def _output(self, key, kind, address, properties):
        artifact = mlmd.Artifact(type_id=self.store.put_artifact_type(mlmd.ArtifactType(name=kind)), uri=address)
        if address in self._artifact_ids:
            artifact.id = self._artifact_ids[address]
        for name, value in properties.items():
            setattr(artifact.custom_properties[name], KINDS[type(value)], value)
        event = mlmd.Event(type=mlmd.Event.OUTPUT)
        event.path.steps.add().key = key
        return artifact, event
