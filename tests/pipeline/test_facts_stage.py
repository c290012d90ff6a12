"""The first stage on a cluster against what a local run finds out: both key their caches by the same."""

import json

import backend
import factories
import pytest

from bertline.components.data import task_files
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import facts, facts_stage, kubeflow


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    path = factories.write_task(folder, factories.reviews(9))
    cluster = f"kubeflow: {{image: 'bertline:1', data_folder: {folder}, root: {folder}/volume}}\n"
    path.write_text(path.read_text(encoding="utf-8") + cluster, encoding="utf-8")
    return configs.load(path)


def test_a_cluster_finds_out_what_a_local_run_does(task, warm, tmp_path):
    spec = kubeflow.compile_line(task, commit="c0ffee").spec
    tasks = spec["root"]["dag"]["tasks"]
    spec["root"]["dag"]["tasks"] = {"Facts": tasks["Facts"]}
    done = backend.Backend(tmp_path, warm).run(json.dumps(spec)).tasks["Facts"]
    assert done.state == "succeeded", done.log
    fingerprint = task_files.fingerprint(task_files.of_task(task.data, task.folder))
    local = facts.look(task.model_dump(mode="json"), fingerprint, task.serving_folder, "c0ffee", {})
    told = done.parameters
    assert (told["fingerprint"], told["last_blessed"]) == (local.fingerprint, "")
    assert json.loads(told["release"]) == json.loads(local.release)
    keys = {name.removeprefix("cache_key_"): key for name, key in told.items() if name.startswith("cache_key_")}
    assert keys == {node: local.cache_keys[node] for node in tasks if node != "Facts"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"epochs": 0}', "the run's parameter train: epochs: Input should be greater than 0"),
        ("{epochs: 3}", "the run's parameter train: Invalid JSON"),
    ],
)
def test_a_parameter_that_is_not_valid_is_named_before_anything_runs(task, text, said):
    config = task.model_dump_json()
    with pytest.raises(UserError, match=said):
        facts_stage.look(config, task.folder, task.serving_folder, "", {**task.runtime_sections(), "train": text})
