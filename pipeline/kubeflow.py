"""Compiles the line for Kubeflow Pipelines 2: pipeline spec 2.1, and the Kubernetes platform spec beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from bertline.components.data import sql
from bertline.components.options import Query
from bertline.errors import UserError
from bertline.models.packages import SCHEME
from bertline.pipeline import beam_options, training_job
from bertline.pipeline.config import AROUND_THE_MODEL, RUNTIME_SECTIONS, Config
from bertline.pipeline.kubeflow_options import KubeflowOptions, StageOptions
from bertline.pipeline.stage import BEAM_VARIABLE, FOLDERS
from bertline.pipeline.stages import Beam, Node

COMMAND = ["python", "-P", "-m", "bertline.pipeline.stage"]
POD_FOLDER = "/tmp/bertline"  # lost with the pod
PARAMETERS = RUNTIME_SECTIONS | {
    "data_folder": "Where relative data sources start.",
    "serving_folder": "Where models are pushed, and where the model in service is found.",
}


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        spec: PipelineSpec as JSON values.
        platform: PlatformSpec as JSON values, {} where no stage needs one.
    """

    spec: dict[str, Any]
    platform: dict[str, Any]

    @property
    def stages(self) -> dict[str, Any]:
        """The tasks by name."""
        return self.spec["root"]["dag"]["tasks"]

    def dump(self) -> str:
        """The YAML that Kubeflow reads: one document, or two where there is a platform spec."""
        documents = [self.spec, *([self.platform] if self.platform else [])]
        return yaml.safe_dump_all(documents, sort_keys=True, width=120, allow_unicode=True)


def require_kfp() -> None:
    """Raises UserError where the extra `kubeflow` is not installed."""
    if find_spec("kfp") is None:
        raise UserError(
            "Kubeflow's packages are not installed: `pip install 'bertline[kubeflow]'` brings them. "
            "(`make setup` installs them with the rest.)"
        )


def compile_line(config: Config, image: str | None = None, commit: str | None = None) -> Compiled:
    """Compiles the task's line.

    Args:
        config: the task; its `kubeflow` section describes the cluster.
        image: the container image; None takes the config's.
        commit: the code's commit in git, for release.json.

    Raises:
        UserError: no image is named, a cluster cannot see a folder, a stage has no such name, or kfp is not installed.
    """
    require_kfp()
    image = image or config.kubeflow.image
    if not image:
        raise UserError("kubeflow.image: name the container image in the config, or with --image.")
    if config.train.distribution == "multi_worker" and not config.kubeflow.workers:
        raise UserError("kubeflow.workers: train.distribution is multi_worker; say on how many pods, 2 or more.")
    settings = parameter_values(config)
    _check_workers_see_the_artifacts(config)
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as tfx_runner  # takes ten seconds

    runner = tfx_runner.KubeflowV2DagRunner(
        tfx_runner.KubeflowV2DagRunnerConfig(
            default_image=image, default_commands=list(COMMAND), use_pipeline_spec_2_1=True
        )
    )
    line = _pipeline(config, settings, commit)
    spec = runner.run(line, write_out=False)["pipelineSpec"]
    stages = spec["root"]["dag"]["tasks"]
    _check_stages(config.kubeflow, sorted(stages))
    for name, value in settings.items():
        parameter = spec["root"]["inputDefinitions"]["parameters"][name]
        parameter.update(defaultValue=value, description=PARAMETERS[name])
    for node in map(Node, stages):
        container = spec["deploymentSpec"]["executors"][spec["components"][node]["executorLabel"]]["container"]
        _set_up(node, stages[node], container, _pod(config.kubeflow, node))
        if node is Node.TRAINER and config.kubeflow.workers:
            container["args"] += ["--training_job", json.dumps(training_job.manifest(config.kubeflow, image))]
        if node.beam is not Beam.NONE:
            arguments = beam_options.arguments(beam_options.of_stage(config.beam, node))
            # Not among the command's arguments, which key Kubeflow's cache: every engine produces the same rows.
            container["env"] = [{"name": BEAM_VARIABLE, "value": json.dumps(arguments)}]
    if config.kubeflow.pipeline_root:
        spec["defaultPipelineRoot"] = config.kubeflow.pipeline_root
    return Compiled(spec, _platform(spec, config.kubeflow))


def pipeline_name(config: Config) -> str:
    """The task's name in the form that Kubeflow accepts: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9-]", "-", config.name.lower())


def parameter_values(config: Config) -> dict[str, str]:
    """The pipeline's parameters by name, with the config's values.

    Raises:
        UserError: the data or the serving folder are on this machine, where a cluster cannot see them.
    """
    return {
        **config.runtime_sections(),
        "data_folder": _data_folder(config),
        "serving_folder": _serving_folder(config),
    }


# === Folders that a cluster sees ===


def _data_folder(config: Config) -> str:
    folder, data, augment = config.kubeflow.data_folder, config.data, config.train.augment
    pretrain = config.pretrain.source if config.pretrain else None
    named = {
        "data.source": data.source,
        "data.validation_source": data.validation_source,
        "data.test_source": data.test_source,
        "data.train_source": data.train_source,
        "pretrain.source": pretrain,
        **{key: [source] for key, source in config.unlabelled.items()},
        "train.augment.synonyms": [augment.synonyms] if augment and augment.synonyms else None,
    }
    for key, sources in named.items():
        for source in sources or []:
            if isinstance(source, Query):
                raise UserError(
                    f"{key}: a cluster asks no database ({source}): each of its stages would see other rows. "
                    f"`bertline run` writes the rows to {config.below_root(sql.FOLDER)}; copy that file to "
                    "kubeflow.data_folder and name it here."
                )
            if source.startswith((SCHEME, "/")):
                continue
            if not folder:
                raise UserError(
                    f"{key}: a cluster does not find {source!r}. Copy it to where pods can read it and name that "
                    "folder in kubeflow.data_folder, such as gs://BUCKET/data; or give an absolute path in a volume."
                )
            if source.startswith("../") and "://" in folder:
                raise UserError(
                    f"{key}: {source!r} lies outside kubeflow.data_folder, {folder}, and a pod gets only files "
                    "from there. Move this config beside its data, so that one relative path holds here and there."
                )
    return folder or "/"


def _serving_folder(config: Config) -> str:
    folder = config.serve.folder
    if folder and ("://" in folder or folder.startswith("/")):
        return folder
    if _root(config):
        return f"{_root(config)}/{folder or 'serving'}"
    raise UserError(
        "kubeflow.root: missing; models must be pushed to a folder that outlives the pods. Name a path in one of "
        "kubeflow.volumes, or gs://."
    )


def _root(config: Config) -> str:
    """The config's root on the cluster; "" if the config names none that a cluster can see."""
    root = config.kubeflow.root or config.root or ""
    return root.rstrip("/") if "://" in root or root.startswith("/") else ""


def _kept(config: Config, name: str) -> str:
    """A folder that outlives a pod where the root is in a volume."""
    root = _root(config)
    return f"{root}/{name}" if root.startswith("/") else f"{POD_FOLDER}/{name}"


# === From the pipeline object to the spec ===


def _pipeline(config: Config, values: dict[str, str], commit: str | None) -> Any:
    from tfx.orchestration.data_types import RuntimeParameter

    from bertline.pipeline.facts import RunFacts
    from bertline.pipeline.facts_stage import FIELDS, KEY_OUTPUTS, Facts
    from bertline.pipeline.parts import Settings
    from bertline.pipeline.pipeline import create_pipeline

    parameters = {name: RuntimeParameter(name, ptype=str, default=value) for name, value in values.items()}
    compiled_in = config.model_dump(mode="json", exclude={*values, *AROUND_THE_MODEL})
    first = Facts(config=json.dumps(compiled_in), commit=commit or "", **parameters)
    facts = {name: channel.future()[0].value for name, channel in first.outputs.items()}
    line = create_pipeline(
        config,
        RunFacts(
            **{name: facts[name] for name in FIELDS},
            cache_keys={node: facts[output] for node, output in KEY_OUTPUTS.items()},
        ),
        Settings(
            sections={name: parameters[name] for name in RUNTIME_SECTIONS},
            data_folder=parameters["data_folder"],
            serving_folder=parameters["serving_folder"],
            quarantine_folder=f"{_root(config)}/quarantine" if _root(config) else "",
            checkpoint_folder=_kept(config, "checkpoints"),
            tuning_folder=_kept(config, "tuning"),
            tracking_folder=_root(config),
        ),
        pipeline_root=config.kubeflow.pipeline_root or "",
        before=[first],
    )
    line.pipeline_info.pipeline_name = pipeline_name(config)
    return line


def _check_workers_see_the_artifacts(config: Config) -> None:
    """Raises UserError where Beam's workers are in other pods, and no volume shares a stage's artifacts with them."""
    root = config.kubeflow.pipeline_root or "minio://"
    scheme = next(scheme for scheme in FOLDERS if root.startswith(scheme))
    folder = f"/{FOLDERS[scheme]}"
    if config.beam.runner == "portable" and folder not in [volume.path for volume in config.kubeflow.volumes]:
        raise UserError(
            f"kubeflow.volumes: with beam.runner: portable a volume must be mounted at {folder}, here and in the "
            f"engine's worker pods: a stage's pod keeps artifacts of {scheme} there, and Beam's workers write them. "
            f"Add {{claim: NAME, path: {folder}}}, with a claim that many nodes can mount."
        )


def _check_stages(options: KubeflowOptions, wired: list[str]) -> None:
    for name in options.stages:
        if name not in wired:
            raise UserError(f"kubeflow.stages.{name}: no such stage. This line has {', '.join(wired)}.")


def _pod(options: KubeflowOptions, node: Node) -> StageOptions:
    """What a stage's pod gets. Where other pods train, the Trainer's own gets the default, and as much time as they."""
    stage = options.of_stage(node)
    if node is Node.TRAINER and options.workers:
        return options.default.model_copy(update={"timeout_seconds": stage.timeout_seconds})
    return stage


def _set_up(node: Node, task: dict[str, Any], container: dict[str, Any], options: StageOptions) -> None:
    """Adds to a task what TFX leaves out: caching, faults, retries, resources, and the right names of its producers."""
    for parameter in task.get("inputs", {}).get("parameters", {}).values():
        if "taskOutputParameter" in parameter:  # TFX adds "_task" to the producer's name here, and nowhere else
            source = parameter["taskOutputParameter"]
            source["producerTask"] = source["producerTask"].removesuffix("_task")
    task["cachingOptions"] = {} if node.always_runs else {"enableCache": True}
    if node.reports:
        container["args"].append("--reporting")
    if options.retries:
        wait = f"{options.retry_wait_seconds}s"
        task["retryPolicy"] = {"maxRetryCount": options.retries, "backoffDuration": wait, "backoffFactor": 2.0}
    resources: dict[str, Any] = {}
    if options.cpu:
        resources |= {"resourceCpuLimit": options.cpu, "resourceCpuRequest": options.cpu}
    if options.memory:
        resources |= {"resourceMemoryLimit": options.memory, "resourceMemoryRequest": options.memory}
    if options.accelerator:
        resources["accelerator"] = {
            "resourceType": options.accelerator,
            "resourceCount": str(options.accelerators),
        }
    if resources:
        container["resources"] = resources


def _platform(spec: dict[str, Any], options: KubeflowOptions) -> dict[str, Any]:
    """What the pipeline spec cannot say, in Kubernetes' terms: one KubernetesExecutorConfig per stage."""
    executors = {
        spec["components"][node]["executorLabel"]: config
        for node in map(Node, spec["root"]["dag"]["tasks"])
        if (config := _executor_config(options, _pod(options, node)))
    }
    if not executors:
        return {}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def _executor_config(options: KubeflowOptions, stage: StageOptions) -> dict[str, Any]:
    node_labels = stage.node_labels()
    config = {
        "secretAsEnv": [
            {
                "secretName": secret.name,
                "keyToEnv": [{"secretKey": key, "envVar": variable} for variable, key in sorted(secret.env.items())],
            }
            for secret in options.secrets
        ],
        "podMetadata": {"labels": options.labels} if options.labels else {},
        "pvcMount": [{"constant": volume.claim, "mountPath": volume.path} for volume in options.volumes],
        "nodeSelector": {"labels": node_labels} if node_labels else {},
        "tolerations": [toleration.manifest() for toleration in stage.tolerations],
        "activeDeadlineSeconds": str(stage.timeout_seconds) if stage.timeout_seconds else "",
    }  # fmt: skip
    return {name: value for name, value in config.items() if value}


def write(compiled: Compiled, path: Path) -> None:
    """Writes the YAML, once kfp's own loader has read it.

    Raises:
        UserError: the file cannot be written.
    """
    from kfp import components

    text = compiled.dump()
    components.load_component_from_text(text)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
