"""The TFJob of a Trainer on several machines: its manifest by the schemas, and how the stage's pod sees it through."""

import json
from pathlib import Path

import factories
import kubernetes_validate
import pytest
import training_operator
import yaml

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import kubeflow, training_job
from bertline.pipeline.kubeflow_options import KubeflowOptions

TOP = Path(__file__).parents[2]
CLUSTER = """\
kubeflow:
  image: registry.example.com/bertline:1
  data_folder: /volume/data
  root: /volume/reviews
  workers: 4
  labels: {team: nlp}
  secrets: [{name: object-store, env: {AWS_ACCESS_KEY_ID: id}}]
  volumes: [{claim: reviews, path: /volume}]
  default: {cpu: 1}
  stages:
    Trainer:
      memory: 16Gi
      accelerator: nvidia.com/gpu
      node_selector: {pool: gpu}
      tolerations: [{key: nvidia.com/gpu, effect: NoSchedule}]
      retries: 2
      timeout_seconds: 7200
"""


def compile_task(folder):
    path = factories.write_task(folder, factories.reviews(3), distribution="multi_worker")
    path.write_text(path.read_text(encoding="utf-8") + CLUSTER, encoding="utf-8")
    return kubeflow.compile_line(configs.load(path))


def test_the_trainers_own_pod_only_waits_and_gets_the_default(tmp_path):
    compiled = compile_task(tmp_path)
    container = compiled.spec["deploymentSpec"]["executors"]["Trainer_executor"]["container"]
    assert container["resources"] == {"resourceCpuLimit": "1", "resourceCpuRequest": "1"}
    platform = compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["Trainer_executor"]
    assert not {"nodeSelector", "tolerations"} & set(platform)
    assert platform["activeDeadlineSeconds"] == "7200"


def test_the_compiled_job_is_one_that_the_operator_and_kubernetes_take(tmp_path):
    arguments = compile_task(tmp_path).spec["deploymentSpec"]["executors"]["Trainer_executor"]["container"]["args"]
    job = json.loads(arguments[arguments.index("--training_job") + 1])
    training_operator.check(job)
    assert job["spec"]["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "backoffLimit": 8,  # each of two losses makes four workers start again
        "ttlSecondsAfterFinished": 86400,
        "activeDeadlineSeconds": 7200,
    }
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (4, "OnFailure")
    pod = worker["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["volumes"] == [{"name": "volume-0", "persistentVolumeClaim": {"claimName": "reviews"}}]
    asked = {"cpu": "1", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert pod["containers"] == [
        {
            "name": "tensorflow",
            "image": "registry.example.com/bertline:1",
            "env": [
                {
                    "name": "AWS_ACCESS_KEY_ID",
                    "valueFrom": {"secretKeyRef": {"name": "object-store", "key": "id"}},
                }
            ],
            "resources": {"requests": asked, "limits": asked},
            "volumeMounts": [{"name": "volume-0", "mountPath": "/volume"}],
        }
    ]


def test_the_role_is_what_the_stage_asks_of_the_api():
    role, binding = yaml.safe_load_all((TOP / training_job.ROLE).read_text(encoding="utf-8"))
    for each in (role, binding):
        kubernetes_validate.validate(each, "1.34", strict=True)
    (rule,) = role["rules"]
    assert rule == {"apiGroups": ["kubeflow.org"], "resources": ["tfjobs"], "verbs": ["create", "get", "delete"]}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("kubeflow: {workers: 2, root: /models}", "workers: root must be a path in one of volumes"),
        ("kubeflow: {workers: 2, root: /models2, volumes: [{claim: m, path: /models}]}", "path in one of volumes"),
        ("kubeflow: {workers: 1}", "greater than or equal to 2"),
        (
            "kubeflow: {workers: 2, root: /m, volumes: [{claim: m, path: /m}]}",
            "set train.distribution to multi_worker",
        ),
    ],
)
def test_workers_that_cannot_work_together_are_refused(tmp_path, section, message):
    path = factories.write_task(tmp_path, factories.reviews(3))
    path.write_text(f"{path.read_text(encoding='utf-8')}{section}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        configs.load(path)


def test_spread_training_needs_to_be_told_over_how_many(tmp_path):
    path = factories.write_task(tmp_path, factories.reviews(3), distribution="multi_worker")
    with pytest.raises(UserError, match=r"kubeflow.workers: .* say on how many pods"):
        kubeflow.compile_line(configs.load(path), image="bertline:1")


# === Against the operator's API ===


@pytest.fixture
def operator(tmp_path, monkeypatch):
    served = training_operator.Operator(tmp_path)
    monkeypatch.setenv("KUBECONFIG", served.kubeconfig())
    monkeypatch.setattr(training_job, "POLL_SECONDS", 0.1)
    yield served
    served.shutdown()
    served.server_close()


def run(script, retries=0):
    volumes = [{"claim": "m", "path": "/m"}]
    options = KubeflowOptions(workers=2, root="/m", volumes=volumes, stages={"Trainer": {"retries": retries}})
    job = training_job.manifest(options, "bertline:1")
    training_job.run(job, "trainer-1", ["python", "-c", script], {"PLACE": "/m"})


def test_each_worker_runs_the_command_and_knows_the_others(operator):
    run("import os; print(os.environ['PLACE'], os.environ['TF_CONFIG'])")
    first, second = (operator.log("trainer-1", index).split(" ", 1) for index in (0, 1))
    assert (first[0], second[0]) == ("/m", "/m")
    one, two = json.loads(first[1]), json.loads(second[1])
    assert (one["task"], two["task"]) == ({"type": "worker", "index": 0}, {"type": "worker", "index": 1})
    assert one["cluster"] == two["cluster"]
    assert len(set(one["cluster"]["worker"])) == 2


def test_a_job_that_fails_says_where_its_log_is_and_is_run_anew_by_the_next_try(operator, tmp_path):
    script = f"import pathlib, sys; sys.exit(not pathlib.Path({str(tmp_path / 'mended')!r}).exists())"
    with pytest.raises(UserError, match=r"team/trainer-1 failed: it has reached .* logs trainer-1-worker-0"):
        run(script)
    (tmp_path / "mended").touch()
    run(script)
    assert operator.created == ["trainer-1", "trainer-1"]


def test_a_lost_worker_is_started_again(operator, tmp_path):
    script = (
        f"import os, pathlib; seen = pathlib.Path({str(tmp_path)!r}, 'seen'); there = seen.exists(); seen.touch(); "
        "there or os.kill(os.getpid(), 9)"
    )
    run(script, retries=1)
    assert operator.created == ["trainer-1"]


def test_a_job_that_an_earlier_try_left_running_is_taken_up(operator):
    job = training_job.manifest(KubeflowOptions(workers=2, root="/m", volumes=[{"claim": "m", "path": "/m"}]), "b:1")
    operator.create(training_job.filled(job, "trainer-1", ["python", "-c", "pass"], {}))
    run("raise SystemExit(1)")
    assert operator.created == ["trainer-1"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "apply -f pipeline/deploy/training-job-role.yaml"),
        (404, "install Kubeflow's training operator"),
        (422, "answered 422 "),
    ],
)
def test_a_cluster_that_takes_no_job_is_told_in_words(operator, status, message):
    operator.refusal = status
    with pytest.raises(UserError, match=message):
        run("pass")
