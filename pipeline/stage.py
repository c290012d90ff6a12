"""What a container of the compiled pipeline runs: one stage, on files that the cluster's launcher has brought.

    python -m bertline.pipeline.stage --executor_class_path CLASS --json_serialized_invocation_args '{{$}}'
        --json_serialized_inputs_spec_args SPEC

These are the arguments that TFX compiles, except for Beam's, which are a JSON list in the environment. TFX's own entry
point does the work. This module closes four gaps between it and the open source backend:

- The launcher copies an artifact at gs://, s3:// or minio:// to a folder before a stage and back after it, so a stage
  never reads an address. TFX would take the addresses for paths; here they become the folders. Only a stage on Dataflow
  keeps addresses at gs://, since its workers write there. The launcher then finds an empty folder, and accepts that.
- The backend does not say what type an input artifact has. The component's declaration does.
- The launcher makes the folder around an artifact, and TFX expects the artifact's own.
- A stage that fails makes the whole run fail. A stage that only reports on a push that is done (`--reporting`) succeeds
  all the same: its artifacts are empty, and their `summary` and `fault` say why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from bertline.components.errors import in_words
from bertline.components.object_store import ADDRESS
from bertline.errors import UserError
from bertline.pipeline import training_job
from bertline.pipeline.beam_options import DATAFLOW, GCS

# Where the launcher copies artifacts to, as in Kubeflow Pipelines' launcher_v2; Vertex AI mounts /gcs.
FOLDERS = {"gs://": "gcs", "s3://": "s3", "minio://": "minio"}
ROOT_VARIABLE = "BERTLINE_LAUNCHER_ROOT"  # the folder that holds those; the system's root unless it cannot be written
BEAM_VARIABLE = "BERTLINE_BEAM"  # Beam's arguments, a JSON list
OUR_TYPES = "bertline."
FAULT = "fault"  # in the metadata of an artifact that could not be made: the reason
FILE_TYPES = {"tfx.String", "tfx.Integer", "tfx.Float", "tfx.Boolean", "tfx.JsonValue"}  # the artifact is one file


def main() -> None:
    """Runs the stage that the arguments name; exits with 1 where it fails a run, the reason on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True, type=json.loads)
    parser.add_argument("--json_serialized_inputs_spec_args", required=True, type=json.loads)
    parser.add_argument("--reporting", action="store_true", help="a fault is reported, and does not fail the run")
    parser.add_argument(
        "--training_job", type=json.loads, help="a TFJob that does the work; see bertline.pipeline.training_job"
    )
    arguments = parser.parse_args()
    beam = json.loads(os.environ.get(BEAM_VARIABLE, "[]"))
    sys.argv = sys.argv[:1]  # Beam would take the arguments for its own
    logging.basicConfig(level=logging.INFO)
    root = Path(os.environ.get(ROOT_VARIABLE, "/"))
    kept = (GCS,) if DATAFLOW in beam else ()
    inputs_spec = arguments.json_serialized_inputs_spec_args
    execution = localised(arguments.json_serialized_invocation_args, inputs_spec, root, kept)
    try:
        _check_inputs(execution)
        if arguments.training_job and _spread_over_workers(execution):
            _train_elsewhere(arguments, root)
            return
        _execute(arguments.executor_class_path, execution, inputs_spec, beam)
    except Exception as error:
        logging.exception("the stage failed")
        reason = in_words(error)
        if not arguments.reporting:
            sys.exit(f"bertline: {reason}")
        _leave_fault(execution, reason)
        print(f"bertline: {reason} (the run continues: the verdict and the push stand)", file=sys.stderr)
    _report(Path(execution["outputs"]["outputFile"]), arguments.json_serialized_invocation_args)


def _execute(executor: str, execution: dict[str, Any], inputs: dict[str, Any], beam: list[str]) -> None:
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    arguments = argparse.Namespace(
        executor_class_path=executor,
        json_serialized_invocation_args=json.dumps(execution),
        json_serialized_inputs_spec_args=json.dumps(inputs),
    )
    kubeflow_v2_run_executor.main((arguments, beam))


def _check_inputs(execution: dict[str, Any]) -> None:
    for name, artifact in _artifacts(execution, "inputs"):
        if fault := artifact.get("metadata", {}).get(FAULT):
            raise UserError(f"there is no {name}: {fault}")


def _leave_fault(execution: dict[str, Any], reason: str) -> None:
    """Reports the outputs as not made, and removes what was written of them."""
    artifacts = {}
    for name, artifact in _artifacts(execution, "outputs"):
        shutil.rmtree(artifact["uri"])
        metadata = {"summary": f"failed: {reason}", FAULT: reason}
        artifacts[name] = {"artifacts": [{"name": artifact["name"], "uri": artifact["uri"], "metadata": metadata}]}
    file = Path(execution["outputs"]["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": artifacts}), encoding="utf-8")


# === Training on several machines ===


def _spread_over_workers(execution: dict[str, Any]) -> bool:
    """Whether this run's recipe asks for workers; a person may have changed it since the pipeline was compiled."""
    recipe = json.loads(execution["inputs"]["parameterValues"]["train_options"])
    return recipe["distribution"] == "multi_worker"


def _train_elsewhere(arguments: argparse.Namespace, root: Path) -> None:
    """Lets a TFJob's pods run this stage on files that they share, and takes back what the first one leaves."""
    execution = arguments.json_serialized_invocation_args
    checkpoints = Path(execution["inputs"]["parameterValues"]["checkpoint_dir"])
    addresses = json.dumps([artifact["uri"] for _, artifact in _artifacts(execution, "outputs")])
    name = f"trainer-{hashlib.sha256(addresses.encode()).hexdigest()[:16]}"
    shared = checkpoints.parent / "training" / name
    if not shared.is_dir():  # where it is there, an earlier try has left it, whole
        fresh = shared.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        _copy_files(execution, "inputs", root, fresh)
        fresh.rename(shared)
    output = shared / "executor_output.json"
    changed = {**execution, "outputs": {**execution["outputs"], "outputFile": str(output)}}
    command = [
        *("python", "-P", "-m", "bertline.pipeline.stage", "--executor_class_path", arguments.executor_class_path),
        *("--json_serialized_invocation_args", json.dumps(changed)),
        *("--json_serialized_inputs_spec_args", json.dumps(arguments.json_serialized_inputs_spec_args)),
    ]
    training_job.run(arguments.training_job, name, command, {ROOT_VARIABLE: str(shared)})
    _copy_files(execution, "outputs", shared, root)
    shutil.copyfile(_of_worker(output, "worker", 0), execution["outputs"]["outputFile"])
    shutil.rmtree(shared)


def _copy_files(execution: dict[str, Any], side: str, source: Path, target: Path) -> None:
    """Copies the artifacts' files from below one root to below another."""
    for _, artifact in _artifacts(execution, side):
        folder, copy = (local_path(artifact["uri"], root) for root in (source, target))
        if Path(folder).exists():  # an artifact can be without files
            shutil.copytree(folder, copy, dirs_exist_ok=True)


def _of_worker(output: Path, kind: str, index: int) -> Path:
    """The output file of one worker: all of them report, and the first one's report counts."""
    return output.with_name(f"{output.name}.{kind}-{index}")


# === What the launcher passes ===


def localised(
    execution: dict[str, Any], declared: dict[str, Any], root: Path, kept: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The executor input with local paths for addresses and with types that TFX finds; makes the outputs' folders.

    An input's address stays in its metadata, since the path is gone with the pod.

    Args:
        execution: ExecutorInput as JSON values.
        declared: the component's ComponentInputsSpec as JSON values.
        root: above the launcher's folders.
        kept: schemes, such as gs://, whose addresses stay as they are.
    """
    changed = json.loads(json.dumps(execution))
    if place := json.loads(os.environ.get("TF_CONFIG", "{}")).get("task"):
        output = Path(changed["outputs"]["outputFile"])
        changed["outputs"]["outputFile"] = str(_of_worker(output, place["type"], place["index"]))
    for name, artifact in _artifacts(changed, "inputs"):
        artifact["type"] = _type(declared["artifacts"][name]["artifactType"])
        artifact.setdefault("metadata", {})[ADDRESS] = artifact["uri"]
        artifact["uri"] = artifact["uri"] if artifact["uri"].startswith(kept) else local_path(artifact["uri"], root)
    for _, artifact in _artifacts(changed, "outputs"):
        title = _title(artifact["type"])
        artifact["type"] = _type(artifact["type"])
        if artifact["uri"].startswith(kept):
            continue
        artifact["uri"] = local_path(artifact["uri"], root)
        folder = Path(artifact["uri"])
        (folder.parent if title in FILE_TYPES else folder).mkdir(parents=True, exist_ok=True)
    return changed


def local_path(uri: str, root: Path) -> str:
    """Where the launcher copies an address to; a path stays as it is."""
    for scheme, folder in FOLDERS.items():
        if uri.startswith(scheme):
            return str(root / folder / uri.removeprefix(scheme))
    return uri


def _artifacts(execution: dict[str, Any], side: str) -> list[tuple[str, dict[str, Any]]]:
    lists = execution.get(side, {}).get("artifacts", {})
    return [(name, artifact) for name, each in lists.items() for artifact in each["artifacts"]]


def _title(kind: dict[str, str]) -> str:
    return kind.get("schemaTitle") or yaml.safe_load(kind["instanceSchema"])["title"]


def _type(kind: dict[str, str]) -> dict[str, str]:
    """The type by the title that TFX finds it by: its own types' names, and the path of the class for ours."""
    title = _title(kind)
    if title.startswith(OUR_TYPES):
        title = f"bertline.components.artifacts.{title.removeprefix(OUR_TYPES)}"
    return {"schemaTitle": title}


def _report(file: Path, execution: dict[str, Any]) -> None:
    """Gives the artifacts in executor_output.json their addresses back, and drops nulls, which the backend refuses."""
    output = json.loads(file.read_text(encoding="utf-8"))
    addresses = {name: artifact["uri"] for name, artifact in _artifacts(execution, "outputs")}
    for name, each in output.get("artifacts", {}).items():
        for artifact in each["artifacts"]:
            artifact["uri"] = addresses[name]
            metadata = artifact.get("metadata", {})
            artifact["metadata"] = {key: value for key, value in metadata.items() if value is not None}
    file.write_text(json.dumps(output), encoding="utf-8")


if __name__ == "__main__":
    main()
