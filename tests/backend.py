"""A small Kubeflow Pipelines 2: runs a compiled pipeline on this machine, each stage's command in a process of its own.

It follows what the open source backend does with the YAML: its driver (inputs, addresses of outputs, the cache's key),
its launcher (what is copied where, what stands for {{$}}, what is read back) and Argo (order, retries). The object
store is a folder; each pod sees only what the launcher has copied to it.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"  # the installation's own, if a run names none
SCHEMES = {"gs://": "gcs", "s3://": "s3", "minio://": "minio"}


@dataclass
class Task:
    """What became of a task: "succeeded", "cached", "failed", or "not run" since another had failed."""

    state: str
    artifacts: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    log: str = ""
    attempts: int = 0


@dataclass
class Run:
    """A run's tasks by name, in the order in which they ran."""

    tasks: dict[str, Task]

    def states(self, state):
        return {name for name, task in self.tasks.items() if task.state == state}

    def metadata(self, task, output):
        return self.tasks[task].artifacts[output]["metadata"]


class Backend:
    """An installation: its object store, its metadata and its cache outlive the runs.

    Args:
        folder: holds the object store and the pods' files.
        warm: a warm.Warm that runs the commands; None starts each as it is.
        cold: the tasks whose command is started as it is all the same.
        seconds: how long a command that is started as it is may take.
    """

    def __init__(self, folder, warm=None, cold=(), seconds=600):
        self.folder, self.warm, self.cold, self.seconds = folder, warm, set(cold), seconds
        self.cache = {}
        self.ids = itertools.count(1)

    def run(self, text, parameters=None):
        """Runs a compiled pipeline with these parameters in place of its defaults."""
        spec, *_platform = yaml.safe_load_all(text)
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # refuses what the spec does not know
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        values = {name: entry["defaultValue"] for name, entry in declared.items() if "defaultValue" in entry}
        assert not set(parameters or {}) - set(declared), "a run may set only what the pipeline declares"
        values |= parameters or {}
        tasks = spec["root"]["dag"]["tasks"]
        done: dict[str, Task] = {}
        run = len(list(self.folder.glob("run-*"))) + 1
        for name in _in_order(tasks):
            if any(before.state == "failed" for before in done.values()):  # Argo starts nothing more then
                done[name] = Task("not run")
            else:
                done[name] = self._task(spec, name, values, done, f"run-{run}")
        return Run(done)

    def path(self, uri):
        """Where the object store keeps what is at an address."""
        return self.folder / "store" / uri.partition("://")[2]

    # === The driver ===

    def _task(self, spec, name, parameters, done, run):
        task, component = spec["root"]["dag"]["tasks"][name], spec["components"][spec_name(spec, name)]
        assert "triggerPolicy" not in task, "conditions are not implemented here: the line has none"
        executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
        assert set(executor) == {"container"}, "the open source backend refuses resolvers"
        container = executor["container"]
        execution = {
            "inputs": _inputs(task, parameters, done),
            "outputs": self._outputs(spec, component, f"{run}/{name}"),
        }
        key = _fingerprint(execution, container)
        if task["cachingOptions"].get("enableCache") and key in self.cache:
            cached = self.cache[key]
            return Task("cached", cached.artifacts, cached.parameters)
        pod = self.folder / run / name
        finished = self._launch(container, execution, task.get("retryPolicy", {}).get("maxRetryCount", 0), pod)
        if finished.state == "succeeded" and task["cachingOptions"].get("enableCache"):
            self.cache[key] = finished
        return finished

    def _outputs(self, spec, component, path):
        outputs = component.get("outputDefinitions", {})
        address = f"{PIPELINE_ROOT}/{spec['pipelineInfo']['name']}/{path}"
        return {
            "artifacts": {
                key: {"artifacts": [{"name": key, "uri": f"{address}/{key}", "type": output["artifactType"]}]}
                for key, output in outputs.get("artifacts", {}).items()
            },
            "parameters": {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", {})},
            "address": address,
        }

    # === The launcher, and Argo's retries ===

    def _launch(self, container, execution, retries, pod):
        address = execution["outputs"].pop("address")
        file = _local(address, pod) / "output_metadata.json"
        execution["outputs"]["outputFile"] = str(file)
        for attempt in range(1, retries + 2):
            shutil.rmtree(pod, ignore_errors=True)
            for artifact in _each(execution["inputs"]):
                if self.path(artifact["uri"]).exists():  # an artifact without files leaves nothing in the store
                    _copy(self.path(artifact["uri"]), _local(artifact["uri"], pod))
            for artifact in _each(execution["outputs"]):
                _local(artifact["uri"], pod).parent.mkdir(parents=True, exist_ok=True)
            json_format.ParseDict(execution, pipeline_spec_pb2.ExecutorInput())
            code = self._command(container, json.dumps(execution), pod)
            log = (pod / "log").read_text(errors="replace")
            if code == 0:
                return self._published(execution, json.loads(file.read_text()), pod, log, attempt)
        return Task("failed", log=log, attempts=attempt)

    def _command(self, container, executor_input, pod):
        """Runs a container's command, with this Python for the image's; returns its exit code."""
        program, *flags, module = container["command"]
        assert (program, flags) == ("python", ["-P", "-m"])
        arguments = [argument.replace("{{$}}", executor_input) for argument in container["args"]]
        work, log = pod / "work", pod / "log"
        work.mkdir(parents=True)
        env = {"BERTLINE_LAUNCHER_ROOT": str(pod)}
        env |= {each["name"]: each["value"] for each in container.get("env", [])}
        if self.warm and pod.name not in self.cold:
            return self.warm.run(module, arguments, cwd=work, env=env, stdout=log, stderr=log)
        with log.open("wb") as written:
            return subprocess.run(
                [sys.executable, *flags, module, *arguments], cwd=work, env={**os.environ, **env},
                stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, timeout=self.seconds, check=False,
            ).returncode  # fmt: skip

    def _published(self, execution, output, pod, log, attempts):
        json_format.ParseDict(output, pipeline_spec_pb2.ExecutorOutput())
        artifacts = {}
        for key, output_artifacts in execution["outputs"]["artifacts"].items():
            (artifact,) = output_artifacts["artifacts"]
            (reported,) = output["artifacts"][key]["artifacts"]
            assert reported["uri"] == artifact["uri"]
            metadata = {name: _recorded(value) for name, value in reported.get("metadata", {}).items()}
            metadata |= {"display_name": key, "store_session_info": "{}"}
            if _local(artifact["uri"], pod).exists():
                _copy(_local(artifact["uri"], pod), self.path(artifact["uri"]))
            # The backend names an artifact by its number, and forgets its type.
            artifacts[key] = {"name": str(next(self.ids)), "uri": artifact["uri"], "metadata": metadata}
        return Task("succeeded", artifacts, output.get("parameterValues", {}), log, attempts)


def spec_name(spec, task):
    return spec["root"]["dag"]["tasks"][task]["componentRef"]["name"]


def _in_order(tasks):
    """The tasks' names, each after those it depends on."""
    ordered = []
    while len(ordered) < len(tasks):
        ready = [
            name
            for name, task in sorted(tasks.items())
            if name not in ordered and set(task.get("dependentTasks", [])) <= set(ordered)
        ]
        assert ready, "the tasks depend on each other in a circle"
        ordered += ready
    return ordered


def _inputs(task, parameters, done):
    inputs = task.get("inputs", {})
    values = {}
    for name, value in inputs.get("parameters", {}).items():
        if "componentInputParameter" in value:
            values[name] = parameters[value["componentInputParameter"]]
        elif "taskOutputParameter" in value:
            source = value["taskOutputParameter"]
            assert source["producerTask"] in task["dependentTasks"]
            values[name] = done[source["producerTask"]].parameters[source["outputParameterKey"]]
        else:
            values[name] = value["runtimeValue"]["constant"]
    artifacts = {}
    for name, value in inputs.get("artifacts", {}).items():
        source = value["taskOutputArtifact"]
        assert source["producerTask"] in task["dependentTasks"]
        made = done[source["producerTask"]].artifacts[source["outputArtifactKey"]]
        artifacts[name] = {"artifacts": [{**made, "type": {"instanceSchema": ""}}]}
    return {"parameterValues": values, "artifacts": artifacts}


def _fingerprint(execution, container):
    """The cache's key, as the driver's GenerateCacheKey: inputs by name, outputs but for their addresses, container."""
    key = {
        "inputArtifactNames": {
            name: [artifact["name"] for artifact in each["artifacts"]]
            for name, each in execution["inputs"]["artifacts"].items()
        },
        "inputParameterValues": execution["inputs"]["parameterValues"],
        "outputArtifactsSpec": {
            name: {"name": artifact["name"], "type": artifact["type"]}
            for name, each in execution["outputs"]["artifacts"].items()
            for artifact in each["artifacts"]
        },
        "outputParameters": sorted(execution["outputs"]["parameters"]),
        "containerSpec": {"image": container["image"], "cmdArgs": [*container["command"], *container["args"]]},
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _recorded(value):
    """What comes back of a value of an artifact's metadata that went to the metadata store."""
    assert value is not None, "the launcher cannot record a null"
    return {"struct": value} if isinstance(value, dict) else {"list": value} if isinstance(value, list) else value


def _each(side):
    return [artifact for each in side["artifacts"].values() for artifact in each["artifacts"]]


def _local(uri, pod):
    scheme, _, path = uri.partition("://")
    return pod / SCHEMES[f"{scheme}://"] / path


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
