"""The compiled pipeline, executed as Kubeflow does it: the same outcome as the local line, the cache, the gates."""

import json
import shutil

import factories
import pytest
import training_operator
from clusters import Cluster

from bertline.pipeline import kubeflow
from bertline.pipeline.stages import Node


@pytest.fixture(scope="module")
def installation(task, warm, tmp_path_factory):
    """A cluster on which the line has been run once. What a test does to its folder is undone by `cluster`."""
    # In a folder of the same name, as the data's fingerprint takes in the folder's: it can be a label.
    folder = tmp_path_factory.mktemp("cluster") / task.folder.name
    made = Cluster(task.first_config, folder, warm)
    made.first_run()
    return made


@pytest.fixture
def cluster(installation):
    """The cluster after its first run, which pushed a version."""
    return installation.after_first_run()


def test_a_run_ends_with_the_release_that_the_local_line_pushes(cluster, line):
    assert cluster.first.states("succeeded") == set(cluster.first.tasks), cluster.first
    (version,) = cluster.versions()
    assert cluster.first.metadata("Pusher", "pushed_model")["pushed_version"] == version
    release = json.loads((cluster.serving / version / "release.json").read_text())
    local = line.first_release
    for name in ("accuracy", "macro_f1", "loss", "calibration_error"):
        assert release["metrics"][name] == pytest.approx(local["metrics"][name], abs=1e-4), name
    same = ("inputs", "config_hash", "data_hash", "code_hash", "libraries", "parent", "name")
    assert {name: release[name] for name in same} == {name: local[name] for name in same}
    assert release["weights"] == cluster.first.tasks["Trainer"].artifacts["weights"]["uri"]  # and no pod's folder
    metrics = cluster.metrics(cluster.first)
    assert metrics["classes"] == line.first_metrics["classes"]
    assert metrics["confusion"] == line.first_metrics["confusion"]
    verdicts = json.loads(cluster.first.metadata("Evaluator", "blessing")["verdicts"])
    assert all(verdict["passed"] for verdict in verdicts)


def test_the_pushed_model_answers(cluster):
    from bertline.serving.client import Client
    from bertline.serving.server import Server

    with Server.of(cluster.serving, "reviews", port=0) as server, Client(server.address, "reviews") as client:
        answers = client.predict(["my item was great and perfect", "broken and late"])
    assert [answer.label for answer in answers] == ["positive", "negative"]


def test_the_review_page_is_an_artifact(cluster):
    uri = cluster.first.tasks["Review"].artifacts["review"]["uri"]
    assert "Macro F1" in (cluster.backend.path(uri) / "review.html").read_text(encoding="utf-8")


def test_the_same_again_is_cached_and_pushes_nothing(cluster):
    before = cluster.versions()
    again = cluster.run()
    assert again.states("cached") == set(again.tasks) - {node for node in Node if node.always_runs}
    assert again.metadata("Pusher", "pushed_model")["summary"] == f"already serving {before[0]}"
    assert cluster.versions() == before


@pytest.mark.shipped  # its parts are tested apart: two workers in tests/models, the job in tests/pipeline
def test_workers_of_a_training_job_train_the_model_that_the_stage_leaves(cluster, line, tmp_path, monkeypatch):
    operator = training_operator.Operator(tmp_path)
    monkeypatch.setenv("KUBECONFIG", operator.kubeconfig())
    config = cluster.config.model_copy(
        update={
            "train": cluster.config.train.model_copy(update={"distribution": "multi_worker", "epochs": 1}),
            "kubeflow": cluster.config.kubeflow.model_copy(update={"workers": 2}),
        }
    )
    cluster.backend.cold.add("Trainer")
    run = cluster.backend.run(up_to("Trainer", kubeflow.compile_line(config).spec))
    cluster.backend.cold.clear()
    operator.shutdown()
    assert run.tasks["Trainer"].state == "succeeded", run.tasks["Trainer"].log + operator.log(operator.created[0], 0)
    assert run.states("succeeded") == {"Facts", "Trainer"}
    assert "best epoch 1 of 1" in run.metadata("Trainer", "weights")["summary"]
    left = cluster.backend.path(run.tasks["Trainer"].artifacts["weights"]["uri"])
    assert (left / "classifier.weights.h5").is_file()
    history = cluster.backend.path(run.tasks["Trainer"].artifacts["model_run"]["uri"]) / "training.json"
    (path,) = line.folder.glob("runs/artifacts/Trainer/model_run/*/training.json")
    local = json.loads(path.read_text())
    # A batch is of both workers together, so an epoch has as many steps as on one device.
    assert json.loads(history.read_text())["step"] == local["step"] / len(local["epochs"])
    assert not list((cluster.folder / "volume/training").iterdir())


def up_to(name, spec):
    """The pipeline with this task as the last one."""
    tasks, wanted = spec["root"]["dag"]["tasks"], [name]
    for task in wanted:
        wanted += [before for before in tasks[task].get("dependentTasks", []) if before not in wanted]
    spec["root"]["dag"]["tasks"] = {task: tasks[task] for task in wanted}
    return json.dumps(spec)  # which is YAML


def test_a_lost_version_is_pushed_again_and_a_report_that_fails_is_told_and_made_again(cluster):
    shutil.rmtree(cluster.serving / cluster.versions()[0])
    trained = cluster.backend.path(cluster.first.tasks["Trainer"].artifacts["model_run"]["uri"])
    (trained / "logits-validation.parquet").rename(trained / "lost")
    again = cluster.run()
    (trained / "lost").rename(trained / "logits-validation.parquet")
    assert "Trainer" in again.states("cached")
    assert len(cluster.versions()) == 1
    assert again.states("failed") == set()
    assert again.metadata("LabelQuality", "report")["summary"].startswith("failed: FileNotFoundError: ")
    assert "logits-validation.parquet" in again.tasks["LabelQuality"].log.splitlines()[-1]
    assert again.metadata("Review", "review")["summary"].startswith("failed: there is no label_report: FileNotFound")
    assert not cluster.backend.path(again.tasks["Review"].artifacts["review"]["uri"]).exists()
    mended = cluster.run()
    assert "probable label errors" in mended.metadata("LabelQuality", "report")["summary"]
    assert cluster.backend.path(mended.tasks["Review"].artifacts["review"]["uri"]).exists()


def test_a_gate_raised_for_one_run_blocks_that_run(cluster):
    before = cluster.versions()
    export = {**cluster.config.export.model_dump(mode="json"), "abstain": 0.9}
    run = cluster.run(evaluate=cluster.gated(max_calibration_error=0.0), export=json.dumps(export))
    assert run.metadata("Exporter", "model")["summary"].endswith("abstains below 0.9")
    assert run.states("cached") >= {"ExampleGen", "Transform", "Trainer", "Baseline"}
    assert run.metadata("Pusher", "pushed_model")["summary"] == "not pushed: gates blocked"
    assert run.metadata("Canary", "canary")["blessed"] == 0
    assert cluster.versions() == before


def test_shuffled_labels_run_every_stage_and_are_blocked_by_the_model_in_service(cluster):
    (before,) = cluster.versions()
    factories.write_csv(cluster.folder / "reviews.csv", factories.shuffled(factories.reviews(900)))
    once = {**cluster.config.train.model_dump(mode="json"), "epochs": 1}
    run = cluster.run(evaluate=cluster.gated(), train=json.dumps(once))
    assert run.states("cached") == set()
    assert run.metadata("LastBlessed", "model")["version"] == before
    verdicts = json.loads(run.metadata("Evaluator", "blessing")["verdicts"])
    assert f"not worse than {before}" in [verdict["gate"] for verdict in verdicts if not verdict["passed"]]
    assert cluster.versions() == [before]


def test_data_that_stop_the_line_stop_it_there_too(cluster):
    (cluster.folder / "reviews.csv").write_text("text,lable,shop\ngreat,positive,north\n")
    run = cluster.run()
    assert (run.tasks["ExampleGen"].state, run.tasks["ExampleGen"].attempts) == ("failed", 2)
    assert "'lable'" in run.tasks["ExampleGen"].log.splitlines()[-1]
    never = {"Trainer", "Evaluator", "Pusher", "LabelQuality", "Explainer", "Review"}
    assert run.states("not run") >= never
    assert len(cluster.versions()) == 1
