"""pipeline/deploy/beam and docs/beam.md: valid by Kubernetes' schemas, and of one mind with each other and the lock."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import factories
import kubernetes_validate
import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions

from bertline.pipeline import config as configs
from bertline.pipeline import kubeflow

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "pipeline" / "deploy" / "beam"
PAGE = (TOP / "docs" / "beam.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
(BEAM,) = re.findall(r"^apache-beam==([\d.]+)", (TOP / "requirements.lock").read_text(), re.MULTILINE)
KUBERNETES = "1.34"


def objects(name):
    found = yaml.safe_load_all((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pods(name):
    """Name -> the Pod that a manifest describes."""
    found = {}
    for (kind, title), each in objects(name).items():
        if kind == "Deployment":
            found[title] = each["spec"]["template"]["spec"]
        if kind == "FlinkDeployment":
            found[title] = each["spec"]["taskManager"]["podTemplate"]["spec"]
    return found


def container(pod, name):
    (found,) = [each for each in pod["containers"] if each["name"] == name]
    return found


def task(folder, section):
    path = factories.write_task(folder, factories.reviews(3))
    path.write_text(path.read_text(encoding="utf-8") + section, encoding="utf-8")
    return configs.load(path)


def section_of(runner, host):
    (found,) = [each for each in SECTIONS if f"runner: {runner}" in each and host in each]
    return found


@pytest.mark.parametrize("name", ["flink", "spark"])
def test_every_object_is_valid(name):
    for (kind, _), each in objects(name).items():
        if kind == "FlinkDeployment":  # its schema is in no registry; what is Kubernetes' own in it can be checked
            assert set(each["spec"]) == {
                *("image", "flinkVersion", "serviceAccount", "flinkConfiguration", "jobManager", "taskManager")
            }
            assert all(isinstance(value, str) for value in each["spec"]["flinkConfiguration"].values())
        else:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
    for title, spec in pods(name).items():
        # Flink fills in its own container, whose image is the deployment's.
        whole = [{"image": "flink", **each} if each["name"] == "flink-main-container" else each
                 for each in spec["containers"]]  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": title}, "spec": {**spec, "containers": whole}}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "host"), [("flink", "bertline-flink"), ("spark", "spark-worker")])
def test_workers_are_where_the_config_says(name, host, tmp_path):
    config = task(tmp_path, section_of("portable", "beam-job-server"))
    pod = pods(name)[host]
    workers = container(pod, "beam-workers")
    assert workers["image"] == config.kubeflow.image
    program, flag, module = workers["command"]
    assert (program, flag) == ("python", "-m") and find_spec(module)
    assert config.beam.environment.external == f"localhost:{workers['ports'][0]['containerPort']}"
    assert workers["args"] == [f"--service_port={workers['ports'][0]['containerPort']}"]
    (mount,), (volume,) = workers["volumeMounts"], pod["volumes"]
    assert {mount["mountPath"]: volume["persistentVolumeClaim"]["claimName"]}.items() <= {
        each.path: each.claim for each in config.kubeflow.volumes
    }.items()
    assert f"USER {workers['securityContext']['runAsUser']}:" in (TOP / "Dockerfile").read_text()
    service = objects(name)["Service", "beam-job-server"]
    assert {f"beam-job-server:{port['port']}" for port in service["spec"]["ports"]} == {
        config.beam.job_endpoint,
        config.beam.artifact_endpoint,
    }
    ports = {
        each["name"]: each["containerPort"]
        for each in container(pods(name)["beam-job-server"], "beam-job-server")["ports"]
    }
    assert ports == {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
    kubeflow.compile_line(config)


def test_versions_are_one_throughout():
    flink = objects("flink")["FlinkDeployment", "bertline-flink"]["spec"]
    version = flink["flinkVersion"].removeprefix("v").replace("_", ".")
    assert flink["image"] == f"flink:{version}"
    assert version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    server = container(pods("flink")["beam-job-server"], "beam-job-server")
    assert server["image"] == f"apache/beam_flink{version}_job_server:{BEAM}"
    assert f"--flink-master={'bertline-flink'}-rest:8081" in server["args"]
    assert container(pods("spark")["beam-job-server"], "beam-job-server")["image"] == (
        f"apache/beam_spark3_job_server:{BEAM}"
    )
    images = {container(pods("spark")[name], name)["image"] for name in ("spark-master", "spark-worker")}
    assert images == {"apache/spark:3.5.0"}
    assert f"FROM apache/beam_python3.11_sdk:{BEAM} AS beam" in (DEPLOY / "dataflow.Dockerfile").read_text()


def test_hadolint_finds_nothing_in_the_workers_recipe():
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, DEPLOY / "dataflow.Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.stdout == ""


def test_the_pages_other_sections_are_configs_too(tmp_path):
    assert task(tmp_path, section_of("multi-processing", "")).beam.workers == 4
    assert task(tmp_path, section_of("portable", "127.0.0.1")).beam.environment.external == "127.0.0.1:50000"
    on_dataflow = task(tmp_path, section_of("dataflow", "").replace("PROJECT", "nlp-prod").replace("BUCKET", "bucket"))
    compiled = kubeflow.compile_line(on_dataflow)
    variable = compiled.spec["deploymentSpec"]["executors"]["ExampleGen_executor"]["container"]["env"][0]
    assert "--max_num_workers=20" in json.loads(variable["value"])
    assert len(SECTIONS) == 4
